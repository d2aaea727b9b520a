"""Running the network: the fastest way this machine has, plain PyTorch float32 everywhere else.

Three backends give the same mask, or so nearly that tests/test_backends.py bounds the difference:

- `float32`: PyTorch as it is, the reference.
- `mixed`: batch normalisation folded into the convolutions, half precision by autocast: float16 on
  a graphics card, bfloat16 on a processor that computes with it.
- `openvino`: the same network compiled by OpenVINO (the extra `fast`), in this process, in bfloat16
  where the processor computes with it. What was made of some weights is kept in the user's cache.

`auto` takes the fastest of these: on a processor `openvino` if it is installed, else `mixed` where
the device computes in half precision, else `float32`. The argument `backend` of `load_model`, or
the environment variable CLOUDDL_BACKEND, asks for one by name.
"""

import copy
import hashlib
import importlib.util
import math
import os
import sys
import threading
import warnings
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.fusion import fuse_conv_bn_eval

from clouddl.errors import InputError, warn
from clouddl.files import cache_folder, replacing
from clouddl.network import DARK, ELEVATION, ModelCard, Statistics, UNet, normalise

BACKENDS = ("auto", "float32", "mixed", "openvino")

SHAPES = 3  # shapes of image that are kept ready, a sample's too: each needs memory of its own

KEPT = ("network.xml", "network.bin", "sha256")  # files of a converted network in the cache

BLOCK = 1 << 16  # pixels of one band that are processed at once: they stay in the cache

# Half precision moves most probabilities by less than NEAR. Where more than CHANGED of an image is
# as near as that to the threshold, a square of SAMPLE pixels is computed in both precisions. If by
# that the mask would change on more than CHANGED, the image is computed again in float32.
NEAR, CHANGED, SAMPLE = 0.005, 0.001, 256


def choose(backend: str | None, device: torch.device) -> str:
    """Choose how to run networks.

    Args:
        backend: One of BACKENDS; None for that of CLOUDDL_BACKEND, or "auto" without one.
        device: Where the network is.

    Returns:
        The backend: "float32", "mixed" or "openvino".

    Raises:
        InputError: There is no such backend, or it is not installed.
    """
    backend = backend or os.environ.get("CLOUDDL_BACKEND") or "auto"
    if backend not in BACKENDS:
        raise InputError(f"backend {backend}: there is none; choose one of {', '.join(BACKENDS)}")
    has_openvino = importlib.util.find_spec("openvino") is not None
    if backend == "openvino" and not has_openvino:
        raise InputError("backend openvino: is not installed; pip install 'clouddl[fast]'")
    if backend != "auto":
        return backend
    if has_openvino and device.type == "cpu":
        return "openvino"
    return "mixed" if has_half(device) else "float32"


def has_half(device: torch.device) -> bool:
    """Whether a device itself computes in half precision; others imitate it, slowly.

    Args:
        device: A processor or a graphics card.

    Returns:
        True for CUDA, and for processors with AVX-512 BF16 or AMX.
    """
    if device.type == "cuda":
        return True
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


Engine = Callable[[np.ndarray, Statistics], np.ndarray]  # reflectance to probability, as Backend


class Backend:
    """A network as this machine runs it.

    Args:
        net: The network; its weights may change later.
        card: The card of its model.
        device: Where the network is.
        name: One of BACKENDS, or None; see `choose`.

    Attributes:
        name: The backend that was chosen.
        workers: How many threads gain by calling it at once.
    """

    def __init__(
        self, net: UNet, card: ModelCard, device: torch.device, name: str | None = None
    ) -> None:
        self.net = net
        self.card = card
        self.device = device
        self.name = choose(name, device)
        self.half = self.name != "float32" and has_half(device)
        # While OpenVINO computes one image, numpy prepares another. PyTorch's threads would clash.
        self.workers = 2 if self.name == "openvino" else 1
        self._lock = threading.Lock()
        self._exact = threading.Lock()  # one image at a time: each needs as much memory again
        self._engines: dict[bool, tuple[list[int], Engine]] = {}

    def __call__(self, x: np.ndarray, statistics: Statistics) -> np.ndarray:
        """Compute the probability of cloud.

        Args:
            x: Reflectance (bands, y, x) float32, NaN for nodata.
            statistics: Mean and standard deviation, as `normalise` takes them.

        Returns:
            Probability (y, x) float32, NaN where all bands are nodata.
        """
        probability = self._engine(self.half)(x, statistics)
        if self.half and self._would_change(x, statistics, probability):
            with self._exact:
                probability = self._engine(False)(x, statistics)
        return probability

    def _would_change(self, x: np.ndarray, statistics: Statistics, probability: np.ndarray) -> bool:
        """Whether float32 would change more than CHANGED of the mask, judged by a sample of it."""
        threshold = np.float32(self.card.threshold)
        near = np.abs(probability - threshold) < NEAR
        counted = int(np.count_nonzero(near))
        if counted <= CHANGED * near.size:
            return False
        sample = x[:, *_fullest_square(near)]
        with self._exact:
            half, exact = (self._engine(way)(sample, statistics) for way in (True, False))
        changed = int(np.count_nonzero((half >= threshold) != (exact >= threshold)))
        near_there = max(1, int(np.count_nonzero(np.abs(half - threshold) < NEAR)))
        return changed / near_there * counted > CHANGED * near.size

    def _engine(self, half: bool) -> Engine:
        """The engine of a precision, prepared anew when the weights have changed."""
        weights = [value._version for value in self.net.state_dict().values()]
        with self._lock:
            if half not in self._engines or self._engines[half][0] != weights:
                self._engines[half] = weights, self._prepare(half)
            return self._engines[half][1]

    def _prepare(self, half: bool) -> Engine:
        if self.name == "openvino":
            try:
                make = openvino_buffers(self.net, self.card, half)
                return CPUEngine(self.net.multiple, self.card, make, self.workers)
            except Exception as error:  # classes of its own; as a rule a layer it does not know
                warn(f"OpenVINO: {error}; PyTorch is used instead")
        net = folded(self.net) if half else self.net
        if self.device.type == "cpu":
            return CPUEngine(net.multiple, self.card, _torch_buffers(net, half), self.workers)
        return GPUEngine(net, self.card, self.device, half)


@dataclass(frozen=True)
class GPUEngine:
    """The network on a graphics card, normalisation and all."""

    net: UNet
    card: ModelCard
    device: torch.device
    half: bool

    @torch.inference_mode()
    def __call__(self, x: np.ndarray, statistics: Statistics) -> np.ndarray:
        """Reflectance (bands, y, x) to probability (y, x), as `Backend.__call__`."""
        height, width = x.shape[1:]
        image = torch.from_numpy(np.ascontiguousarray(x))[None]
        if self.device.type == "cuda":
            image = image.pin_memory()  # copied from there without the processor
        image = image.to(self.device, non_blocking=True)
        below, right = (-size % self.net.multiple for size in (height, width))
        image = F.pad(image, (0, right, 0, below), mode="replicate")
        mean, std = (values.to(self.device) for values in statistics)
        normal = normalise(image, self.card, (mean, std))
        with torch.autocast(self.device.type, torch.float16, enabled=self.half):
            logits = self.net(normal.contiguous(memory_format=torch.channels_last))
        probability = logits.float().sigmoid().masked_fill(image.isnan().all(1), torch.nan)
        return probability[0, :height, :width].cpu().numpy()


@dataclass(eq=False)
class Buffer:
    """Memory for one image, used again and again: fresh memory costs as much as the logarithms."""

    squares: np.ndarray  # the input (1, h, w, bands * stem**2), to be filled
    run: Callable[[], np.ndarray]  # computes the probability (1, h, w, stem**2) of it


MakeBuffer = Callable[[tuple[int, ...]], Buffer]  # for a shape of the input


class CPUEngine:
    """The network on a processor: PyTorch or OpenVINO, with numpy and threads around it.

    Args:
        multiple: That of the network.
        card: The card of its model.
        make: Makes a buffer.
        workers: How many threads call it at once.
    """

    def __init__(self, multiple: int, card: ModelCard, make: MakeBuffer, workers: int) -> None:
        self.multiple = multiple
        self.card = card
        self._make = make
        self._free: deque[Buffer] = deque(maxlen=SHAPES * workers)
        self._lock = threading.Lock()

    def __call__(self, x: np.ndarray, statistics: Statistics) -> np.ndarray:
        """Reflectance (bands, y, x) to probability (y, x), as `Backend.__call__`."""
        bands, height, width = x.shape
        stem = self.card.stem
        h, w = (math.ceil(n / self.multiple) * self.multiple // stem for n in (height, width))
        buffer = self._take((1, h, w, bands * stem**2))
        invalid = fill_squares(buffer.squares[0], x, self.card, statistics)
        squares = _runs(buffer.run(), stem).reshape(h, w, stem).transpose(0, 2, 1)
        probability = squares.copy().view(np.float32).reshape(invalid.shape)
        np.copyto(probability, np.nan, where=invalid)
        with self._lock:
            self._free.append(buffer)
        return probability[:height, :width]

    def _take(self, shape: tuple[int, ...]) -> Buffer:
        """A buffer of that shape which no other thread uses."""
        with self._lock:
            fitting = [buffer for buffer in self._free if buffer.squares.shape == shape]
            if not fitting:
                return self._make(shape)
            self._free.remove(fitting[0])
            return fitting[0]


def fill_squares(
    squares: np.ndarray, x: np.ndarray, card: ModelCard, statistics: Statistics
) -> np.ndarray:
    """Normalise an image as `normalise` does, and write it as the input of `UNet.squares`.

    In blocks that fit the cache: one pass over memory, where the same in PyTorch takes seven.

    Args:
        squares: Written to: (h, w, bands * stem**2) float32, channels last. Where it is larger than
            the image, the last row and the last column are repeated.
        x: Reflectance (bands, y, x) float32, NaN for nodata.
        card: Its bands, normalisation and stem are used.
        statistics: Mean and standard deviation, as `normalise` takes them.

    Returns:
        Where all bands are nodata (h * stem, w * stem) bool.
    """
    stem = card.stem
    h, w = squares.shape[:2]
    width = x.shape[2]
    channels = _runs(squares, stem).reshape(h, w, len(x), stem)
    mean, std = (np.asarray(values, np.float32).ravel() for values in statistics)
    scale = 1 / std
    invalid = np.ones((h * stem, w * stem), bool)

    def block(rows: slice) -> None:
        lines = range(rows.start * stem, rows.stop * stem)
        values = np.empty((len(lines), w * stem), np.float32)
        for band, name in enumerate(card.bands):
            np.take(x[band], lines, 0, out=values[:, :width], mode="clip")
            values[:, width:] = values[:, width - 1 : width]
            if card.normalisation == "log" and name != ELEVATION:
                np.maximum(values, 0, out=values)
                values += DARK
                np.log(values, out=values)
            values -= mean[band]
            values *= scale[band]
            nodata = np.isnan(values)
            np.copyto(values, 0, where=nodata)
            invalid[lines.start : lines.stop] &= nodata
            channels[rows, :, band] = _runs(values, stem).reshape(-1, stem, w).transpose(0, 2, 1)

    step = max(1, BLOCK // (w * stem**2))
    blocks = [slice(top, min(top + step, h)) for top in range(0, h, step)]
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # numpy releases the interpreter
        list(pool.map(block, blocks))
    return invalid


def _fullest_square(flags: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of the square of SAMPLE pixels, or less, where most flags are set."""
    side = min(SAMPLE, *flags.shape)
    rows, columns = (size // side for size in flags.shape)
    squares = flags[: rows * side, : columns * side].reshape(rows, side, columns, side)
    row, column = divmod(int(squares.sum((1, 3)).argmax()), columns)
    return slice(row * side, (row + 1) * side), slice(column * side, (column + 1) * side)


def _runs(array: np.ndarray, stem: int) -> np.ndarray:
    """View `stem` neighbours of the last axis as one item, which numpy copies faster."""
    return array.view(np.dtype((np.void, 4 * stem)))


def _torch_buffers(net: UNet, half: bool) -> MakeBuffer:
    """Prepare PyTorch, for half precision with a network that is `folded`."""
    network = _Squares(net)

    def make(shape: tuple[int, ...]) -> Buffer:
        squares = torch.empty(shape)

        @torch.inference_mode()
        def run() -> np.ndarray:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                return network(squares).numpy()

        return Buffer(squares.numpy(), run)

    return make


def openvino_buffers(net: UNet, card: ModelCard, half: bool) -> MakeBuffer:
    """Prepare OpenVINO, which compiles the network for each shape of the input.

    Args:
        net: The network.
        card: The card of its model.
        half: Whether to use bfloat16.
    """
    # No telemetry: with this package, every import of openvino sends a report.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    core = openvino.Core()
    cache = cache_folder() / "openvino"
    with suppress(OSError):  # a cache that cannot be written to is done without
        (cache / "compiled").mkdir(parents=True, exist_ok=True)
        if os.access(cache / "compiled", os.W_OK):
            core.set_property({"CACHE_DIR": str(cache / "compiled")})
    network = _openvino_network(core, net, card, cache)
    settings = {
        "INFERENCE_PRECISION_HINT": "bf16" if half else "f32",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "ENABLE_CPU_PINNING": False,
    }

    @lru_cache(SHAPES)
    def compiled(shape: tuple[int, ...]) -> Any:
        network.reshape(list(shape))
        return core.compile_model(network, "CPU", settings)

    def make(shape: tuple[int, ...]) -> Buffer:
        request = compiled(shape).create_infer_request()

        def run() -> np.ndarray:
            request.infer()
            return request.get_output_tensor().data

        return Buffer(request.get_input_tensor().data, run)

    return make


def _openvino_network(core: Any, net: UNet, card: ModelCard, cache: Path) -> Any:
    """The network as OpenVINO's, or what was made of the same weights before, from the cache.

    Without a cache that can be written to, it is made each time.
    """
    import openvino

    digest = hashlib.sha256(f"{openvino.__version__} {card.stem} {net}".encode())
    for value in net.state_dict().values():
        digest.update(value.cpu().numpy().tobytes())
    kept = cache / digest.hexdigest()
    with suppress(OSError):
        xml, weights, sha256 = ((kept / name).read_bytes() for name in KEPT)
        if hashlib.sha256(xml + weights).hexdigest().encode() == sha256:
            return core.read_model(xml, weights)
    side = 4 * 2**card.depth
    sample = torch.rand(1, side, side, len(card.bands) * card.stem**2)
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        traced = torch.jit.trace(_Squares(folded(net)).eval(), sample, check_trace=False)
        network = openvino.convert_model(traced, example_input=sample)
    with suppress(OSError, RuntimeError), replacing(kept) as folder:
        folder.mkdir()
        openvino.save_model(network, folder / KEPT[0], compress_to_fp16=False)
        content = b"".join((folder / name).read_bytes() for name in KEPT[:2])
        (folder / KEPT[2]).write_text(hashlib.sha256(content).hexdigest())
    return network


class _Squares(nn.Module):
    """Normalised squares (n, y, x, bands * stem**2) to probability (n, y, x, stem**2)."""

    def __init__(self, net: UNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        probability = self.net.squares(x.permute(0, 3, 1, 2)).float().sigmoid()
        return probability.permute(0, 2, 3, 1).contiguous()


def folded(net: UNet) -> UNet:
    """Fold batch normalisation into the convolutions of each block, and leave dropout out.

    Args:
        net: A trained network; it is left as it is.

    Returns:
        A copy with fewer layers and the same output.
    """
    net = copy.deepcopy(net).eval()
    for block in (net.first, *net.down, *net.join):
        for conv, norm in ((0, 1), (3, 4)):
            block[conv] = fuse_conv_bn_eval(block[conv], block[norm])
            block[norm] = nn.Identity()
        block[6] = nn.Identity()  # dropout
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
