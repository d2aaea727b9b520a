"""Running the network: the fastest way this machine has, plain PyTorch float32 everywhere else.

Three backends give the same mask, or so nearly that tests/test_backends.py bounds the difference:

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
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clouddl.errors import InputError
from clouddl.network import DARK, ELEVATION, ModelCard, UNet, normalise

BACKENDS = ("auto", "float32", "mixed", "openvino")


SHAPES = 2  # shapes of image that are kept ready: each needs memory of its own


BLOCK = 1 << 16  # pixels of one band that are worked on at once: they stay in the cache


# Half precision moves a probability by up to 0.005. Where more than a hundredth of an image is as
# near as that to the threshold, the mask would differ visibly: such an image is computed again in
# float32. Of the 25 real references one is such.
NEAR, NEAR_SHARE = 0.005, 0.01


Run = Callable[..., np.ndarray]  # (x, *statistics) to probability


Seat = tuple[np.ndarray, Callable[[], np.ndarray]]  # squares to write to, and what turns them


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
        self, net: UNet, card: ModelCard, device: torch.device, backend: str | None
    ) -> None:
        self.net, self.card, self.device = net, card, device
        self.backend = choose(backend, device)
        self.half = self.backend != "float32" and has_half(device)
        # While OpenVINO computes one image, numpy prepares another. PyTorch's threads would clash.
        self.workers = 2 if self.backend == "openvino" else 1
        self._lock = threading.Lock()
        self._ready: dict[bool, tuple[list[int], Run]] = {}

    def __call__(self, x: np.ndarray, *statistics: Tensor) -> np.ndarray:
        """Probability (y, x) float32 of reflectance x (bands, y, x), NaN where it is nodata.

        `statistics` as `normalise` takes them.
        """
        found = self._runner(self.half)(x, *statistics)
        if self.half and self._near(found) > NEAR_SHARE * found.size:
            found = self._runner(False)(x, *statistics)
        return found

    def _near(self, found: np.ndarray) -> int:
        """How many pixels are as near to the threshold as half precision may be wrong."""
        threshold = np.float32(self.card.threshold)

        def count(rows: slice) -> int:
            return int(np.count_nonzero(np.abs(found[rows] - threshold) < NEAR))

        return sum(_spread(count, len(found), max(1, BLOCK // found.shape[1])))

    def _runner(self, half: bool) -> Run:
        weights = [value._version for value in self.net.state_dict().values()]
        with self._lock:
            if half not in self._ready or self._ready[half][0] != weights:
                self._ready[half] = weights, self._prepare(half)
            return self._ready[half][1]

    def _prepare(self, half: bool) -> Run:
        if self.backend == "openvino":
            try:
                return _Processor(self.card, self.net, _OpenVino(self.net, self.card, half))
            except Exception as error:  # its own classes; a layer that it does not know, as a rule
                warnings.warn(f"OpenVINO: {error}; PyTorch is used instead", stacklevel=2)
        if self.device.type == "cpu":
            return _Processor(self.card, self.net, _Torch(self.net, half))
        return _Graphics(self.net, self.card, self.device, half)


def folded(net: UNet) -> UNet:
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


def _spread(work: Callable[[slice], Any], rows: int, step: int) -> list[Any]:
    """What `work` gives for each slice of `step` rows, by as many threads as PyTorch has."""
    parts = [slice(top, min(top + step, rows)) for top in range(0, rows, step)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # numpy lets go of the interpreter
        return list(pool.map(work, parts))


def fill(
    squares: np.ndarray, x: np.ndarray, card: ModelCard, mean: np.ndarray, std: np.ndarray
) -> np.ndarray:
    """Write reflectance x (bands, y, x), as `normalise` would have it, into `squares`.

    `squares` (h, w, bands * stem**2) is what `UNet.squares` takes, channels last. Where it is
    larger than the image, the last row and the last column go on. Returns where every band is
    nodata (y, x). In blocks that fit the cache: one pass over memory, where the same in PyTorch
    takes seven.
    """
    (bands, height, width), stem = x.shape, card.stem
    piece = np.dtype((np.void, 4 * stem))  # the pixels of a square that lie side by side
    target = squares.view(piece).reshape(*squares.shape[:2], bands, stem)
    scale = (1 / std).astype(np.float32)
    hole = np.empty((height, width), bool)

    def block(rows: slice) -> None:
        values = np.empty(((rows.stop - rows.start) * stem, squares.shape[1] * stem), np.float32)
        pieces = values.view(piece).reshape(-1, stem, squares.shape[1]).transpose(0, 2, 1)
        top, bottom = min(rows.start * stem, height - 1), min(rows.stop * stem, height)
        count, empty = bottom - top, hole[top:bottom]
        empty[:] = True
        for band in range(bands):
            values[:count, :width] = x[band, top:bottom]
            values[:count, width:] = x[band, top:bottom, -1:]
            values[count:] = values[count - 1]
            if card.normalisation == "log" and card.bands[band] != ELEVATION:
                np.clip(values, 0, np.inf, out=values)
                np.add(values, DARK, out=values)
                np.log(values, out=values)
            np.subtract(values, mean[band], out=values)
            np.multiply(values, scale[band], out=values)
            lost = np.isnan(values)
            if lost.any():
                np.copyto(values, 0, where=lost)
                empty &= lost[:count, :width]
            else:
                empty[:] = False
            target[rows, :, band] = pieces

    _spread(block, len(squares), max(1, BLOCK // (squares.shape[1] * stem**2)))
    return hole


class _Squares(nn.Module):
    """Normalised squares (n, y, x, bands * stem**2) to probability (n, y, x, stem**2)."""

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        found = self.net.squares(x.permute(0, 3, 1, 2)).float().sigmoid()
        return found.permute(0, 2, 3, 1).contiguous()


class _Processor:
    """The network on a processor. Around it stand numpy and threads, whatever runs it.

    `make(shape)` makes seats: squares (1, h, w, channels) to write to, each with what makes
    probability (1, h, w, stem**2) of them. A seat is used again, by one thread at a time: fresh
    memory costs as much as the logarithms.
    """

    def __init__(
        self, card: ModelCard, net: UNet, make: Callable[[tuple[int, ...]], Callable[[], Seat]]
    ) -> None:
        self.card, self.multiple, self.make = card, net.multiple, make
        self.lock = threading.Lock()
        self.shapes: dict[tuple[int, ...], tuple[Callable[[], Seat], list[Seat]]] = {}

    def _seats(self, shape: tuple[int, ...]) -> tuple[Callable[[], Seat], list[Seat]]:
        """What makes seats of this shape, and those that are free."""
        with self.lock:
            if shape not in self.shapes:
                if len(self.shapes) == SHAPES:
                    del self.shapes[next(iter(self.shapes))]
                self.shapes[shape] = self.make(shape), []
            return self.shapes[shape]

    def __call__(self, x: np.ndarray, *statistics: Tensor) -> np.ndarray:
        (bands, height, width), stem = x.shape, self.card.stem
        mean, std = (
            np.asarray(one, np.float32).reshape(-1)
            for one in statistics or (self.card.mean, self.card.std)
        )
        h, w = (-(-size // self.multiple) * self.multiple // stem for size in (height, width))
        more, free = self._seats((1, h, w, bands * stem**2))
        try:
            seat = free.pop()
        except IndexError:  # all are in use
            seat = more()
        squares, run = seat
        hole = fill(squares[0], x, self.card, mean, std)
        piece = np.dtype((np.void, 4 * stem))
        pieces = run().view(piece).reshape(h, w, stem)
        found = np.empty((h * stem, w * stem), np.float32)
        target = found.view(piece).reshape(h, stem, w)

        def block(rows: slice) -> None:
            target[rows] = pieces[rows].transpose(0, 2, 1)
            part = slice(rows.start * stem, rows.stop * stem)
            np.copyto(found[part][: len(hole[part]), :width], np.nan, where=hole[part])

        _spread(block, h, max(1, BLOCK // (w * stem**2)))
        free.append(seat)
        return found[:height, :width]


class _Torch:
    """Seats for PyTorch."""

    def __init__(self, net: UNet, half: bool) -> None:
        self.net, self.half = _Squares(folded(net) if half else net), half

    def __call__(self, shape: tuple[int, ...]) -> Callable[[], Seat]:
        def seat() -> Seat:
            squares = torch.empty(shape)

            @torch.inference_mode()
            def run() -> np.ndarray:
                with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                    return self.net(squares).numpy()

            return squares.numpy(), run

        return seat


class _OpenVino:
    """Seats for OpenVINO, compiled for each shape of image when that is first seen."""

    def __init__(self, net: UNet, card: ModelCard, half: bool) -> None:
        # Nothing is sent home: with this package, every import of openvino reports itself.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        self.core, self.precision = openvino.Core(), "bf16" if half else "f32"
        sample = torch.rand(1, *[4 * 2**card.depth] * 2, len(card.bands) * card.stem**2)
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", torch.jit.TracerWarning)
            traced = torch.jit.trace(_Squares(folded(net)).eval(), sample, check_trace=False)
            self.network = openvino.convert_model(traced, example_input=sample)

    def __call__(self, shape: tuple[int, ...]) -> Callable[[], Seat]:
        self.network.reshape(list(shape))
        settings = {"INFERENCE_PRECISION_HINT": self.precision, "NUM_STREAMS": 1,
                    "INFERENCE_NUM_THREADS": torch.get_num_threads(),
                    "ENABLE_CPU_PINNING": False}  # fmt: skip
        compiled = self.core.compile_model(self.network, "CPU", settings)

        def seat() -> Seat:
            request = compiled.create_infer_request()

            def run() -> np.ndarray:
                request.infer()
                return request.get_output_tensor().data

            return request.get_input_tensor().data, run

        return seat


class _Graphics:
    """The network on a graphics card, normalisation and all."""

    def __init__(self, net: UNet, card: ModelCard, device: torch.device, half: bool) -> None:
        self.net, self.card = folded(net) if half else net, card
        self.device, self.half = device, half

    @torch.inference_mode()
    def __call__(self, image: np.ndarray, *statistics: Tensor) -> np.ndarray:
        height, width = image.shape[1:]
        spare = [-size % self.net.multiple for size in (height, width)]
        x = torch.from_numpy(np.ascontiguousarray(image))[None]
        if self.device.type == "cuda":
            x = x.pin_memory()  # copied straight from there, without the processor
        x = x.to(self.device, non_blocking=True)
        x = nn.functional.pad(x, (0, spare[1], 0, spare[0]), mode="replicate")
        normal = normalise(x, self.card, *(values.to(self.device) for values in statistics))
        with torch.autocast(self.device.type, torch.float16, enabled=self.half):
            found = self.net(normal.contiguous(memory_format=torch.channels_last))
        found = found.float().sigmoid().masked_fill(x.isnan().all(1), torch.nan)
        return found[0, :height, :width].cpu().numpy()
