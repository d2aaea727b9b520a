"""Running the network: the fastest way this machine has, plain PyTorch float32 everywhere else.

Three backends give the same mask, or so nearly that tests/test_fast.py bounds the difference:

- `float32`: PyTorch as it is; the yardstick.
- `mixed`: batch normalisation folded into the convolutions, half precision by autocast: float16 on
  a graphics card, bfloat16 on a processor that computes with it.
- `openvino`: the same network compiled by OpenVINO (the extra `fast`), in this process and from the
  weights in memory; in bfloat16 where the processor computes with it.

`auto` takes the last of these that the machine gains by. CLOUDDL_BACKEND, or the argument `backend`
of `load_model`, asks for one by name.
"""

import copy
import importlib.util
import os
import sys
import threading
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clouddl.errors import InputError

if TYPE_CHECKING:
    from clouddl.model import ModelCard, UNet

BACKENDS = ("auto", "float32", "mixed", "openvino")
STREAMS = 4  # tiles at once at the most: each needs memory of its own
SHAPES = 2  # compiled shapes that are kept, for the same reason
# Half precision moves a probability by up to 0.005. Where more than a hundredth of an image is as
# near as that to the threshold, the mask would differ visibly: such an image is computed again in
# float32. Of the 25 real references one is such.
NEAR, NEAR_SHARE = 0.005, 0.01

Run = Callable[..., np.ndarray]  # (x, *statistics) to probability


def choose(backend: str | None, device: torch.device) -> str:
    """The backend asked for by argument or by CLOUDDL_BACKEND, else the fastest there is.

    InputError: no such backend, or one that is not installed.
    """
    backend = backend or os.environ.get("CLOUDDL_BACKEND") or "auto"
    if backend not in BACKENDS:
        raise InputError(f"backend {backend}: there is none; choose one of {', '.join(BACKENDS)}")
    found = importlib.util.find_spec("openvino") is not None
    if backend == "openvino" and not found:
        raise InputError("backend openvino: is not installed; pip install 'clouddl[fast]'")
    if backend != "auto":
        return backend
    if found and device.type == "cpu":
        return "openvino"
    return "mixed" if has_half(device) else "float32"


def has_half(device: torch.device) -> bool:
    """Whether the device itself computes in half precision; others imitate it, slowly."""
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return device.type == "cuda" or native


class Network:
    """A network as this machine runs it; call it with reflectance to get probability.

    `workers`: how many threads gain by calling it at once. What is prepared for a backend is
    prepared anew when the weights have changed.
    """

    def __init__(
        self, net: "UNet", card: "ModelCard", device: torch.device, backend: str | None
    ) -> None:
        self.net, self.card, self.device = net, card, device
        self.backend = choose(backend, device)
        self.half = self.backend != "float32" and has_half(device)
        self.workers = min(torch.get_num_threads(), STREAMS) if self.backend == "openvino" else 1
        self._lock = threading.Lock()
        self._ready: dict[bool, tuple[list[int], Run]] = {}

    def __call__(self, x: Tensor, *statistics: Tensor) -> np.ndarray:
        """Probability (y, x) float32 of reflectance x (1, bands, y, x), NaN where it is nodata.

        y and x are multiples of `net.multiple`; `statistics` as `normalise` takes them.
        """
        found = self._runner(self.half)(x, *statistics)
        near = np.abs(found - np.float32(self.card.threshold)) < NEAR if self.half else None
        if near is not None and np.count_nonzero(near) > NEAR_SHARE * near.size:
            found = self._runner(False)(x, *statistics)
        return found

    def _runner(self, half: bool) -> Run:
        weights = [value._version for value in self.net.state_dict().values()]
        with self._lock:
            if half not in self._ready or self._ready[half][0] != weights:
                self._ready[half] = weights, self._prepare(half)
            return self._ready[half][1]

    def _prepare(self, half: bool) -> Run:
        if self.backend == "openvino":
            try:
                # What is rare goes one by one, for the sake of memory.
                workers = self.workers if half == self.half else 1
                return _OpenVino(self.net, self.card, half, workers)
            except Exception as error:  # its own classes; a layer that it does not know, as a rule
                warnings.warn(f"OpenVINO: {error}; PyTorch is used instead", stacklevel=2)
        return _Torch(self.net, self.card, self.device, half)


def folded(net: "UNet") -> "UNet":
    """A copy of the network with batch normalisation folded in and dropout left out."""
    net = copy.deepcopy(net).eval()
    for block in [module for module in net.modules() if isinstance(module, nn.Sequential)]:
        layers: list[nn.Module] = []
        for layer in block:
            if isinstance(layer, nn.BatchNorm2d):
                layers[-1] = fuse_conv_bn_eval(layers[-1], layer)  # type: ignore[type-var]
            elif not isinstance(layer, nn.Dropout2d):
                layers.append(layer)
        del block[:]
        block.extend(layers)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class _Input(nn.Module):
    """Reflectance (n, bands, y, x) to what the network takes, and where every band is nodata."""

    def __init__(self, card: "ModelCard") -> None:
        super().__init__()
        self.card = card

    def forward(self, x: Tensor, *statistics: Tensor) -> tuple[Tensor, Tensor]:
        from clouddl.model import normalise

        return normalise(x, self.card, *statistics), x.isnan().all(1)


class _Output(nn.Module):
    """A normalised image to probability (n, y, x)."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).float().sigmoid()


class _Torch:
    """The network under PyTorch, on a processor or a graphics card."""

    def __init__(self, net: "UNet", card: "ModelCard", device: torch.device, half: bool) -> None:
        self.input, self.output = _Input(card), _Output(folded(net) if half else net)
        self.device, self.half = device, half
        self.dtype = torch.float16 if device.type == "cuda" else torch.bfloat16

    @torch.inference_mode()
    def __call__(self, x: Tensor, *statistics: Tensor) -> np.ndarray:
        if self.device.type == "cuda":
            x = x.pin_memory()  # copied straight from there, without the processor
        x = x.to(self.device, non_blocking=True)
        normal, hole = self.input(x, *(values.to(self.device) for values in statistics))
        with torch.autocast(self.device.type, self.dtype, enabled=self.half):
            found = self.output(normal.contiguous(memory_format=torch.channels_last))
        return found.masked_fill(hole, torch.nan)[0].cpu().numpy()


class _OpenVino:
    """The network under OpenVINO, compiled for each shape of image when that is first seen.

    The input is a model of its own, in float32: logarithms in bfloat16 would treble the error.
    """

    def __init__(self, net: "UNet", card: "ModelCard", half: bool, workers: int) -> None:
        # Nothing is sent home: with this package, every import of openvino reports itself.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        self.core, self.workers, self.precision = (
            openvino.Core(),
            workers,
            "bf16" if half else "f32",
        )
        self.lock = threading.Lock()
        self.shapes: dict[torch.Size, tuple[Any, Any]] = {}
        self.input = _Input(card)
        sample = torch.rand(1, len(card.bands), *[4 * net.multiple] * 2) - 0.01
        sample[0, 0, :2], sample[0, :, :, :2] = torch.nan, torch.nan
        with torch.inference_mode():
            expected = self.input(sample)

            def convert(module: nn.Module, example: Tensor) -> Any:
                with warnings.catch_warnings():  # the card's numbers are constants, and shall be
                    warnings.simplefilter("ignore", torch.jit.TracerWarning)
                    traced = torch.jit.trace(module, example, check_trace=False)
                return openvino.convert_model(traced, example_input=example)

            self.channels = expected[0].shape[1]
            self.network = convert(_Output(folded(net)).eval(), expected[0])
            self.normaliser: Any = None  # left to PyTorch where the input needs more than the image
            if card.normalisation != "chip":
                self.normaliser = convert(self.input, sample)
                found = self._compile(self.normaliser, sample.shape, "f32")([sample.numpy()])
                if not all(
                    np.allclose(found[index], values.numpy(), atol=1e-4)
                    for index, values in enumerate(expected)
                ):  # it may take NaN otherwise than PyTorch does
                    self.normaliser = None

    def _compile(self, model: Any, shape: torch.Size, precision: str) -> Any:
        model.reshape(list(shape))
        settings = {"INFERENCE_PRECISION_HINT": precision, "NUM_STREAMS": self.workers,
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                    "ENABLE_CPU_PINNING": False}  # fmt: skip
        return self.core.compile_model(model, "CPU", settings)

    def _compiled(self, shape: torch.Size) -> tuple[Any, Any]:
        """Normaliser and network for images (1, bands, y, x) of this shape."""
        with self.lock:
            if shape not in self.shapes:
                if len(self.shapes) == SHAPES:
                    del self.shapes[next(iter(self.shapes))]
                first = self.normaliser and self._compile(self.normaliser, shape, "f32")
                normal = torch.Size((1, self.channels, *shape[-2:]))
                self.shapes[shape] = first, self._compile(self.network, normal, self.precision)
            return self.shapes[shape]

    @torch.inference_mode()
    def __call__(self, x: Tensor, *statistics: Tensor) -> np.ndarray:
        first, second = self._compiled(x.shape)
        if first and not statistics:
            parts = first.create_infer_request().infer([x.numpy()], share_inputs=True)
            normal, hole = parts[0], parts[1]
        else:
            normal, hole = (values.numpy() for values in self.input(x, *statistics))
        found = second.create_infer_request().infer([normal], share_inputs=True)[0][0]
        found[hole[0]] = np.nan
        return found
