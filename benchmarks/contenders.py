"""What is raced: CloudDL by each backend, and what others use. Each builder returns a run."""

import importlib
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from clouddl.labels import S2CLOUDLESS_BANDS, s2cloudless, spectral_tests, to_mask, ukis_csmask
from clouddl.model import CloudModel, load_model
from clouddl.network import ModelCard, build
from clouddl.predict import predict_array, predict_file
from clouddl.products.reading import Reading
from clouddl.sensors import STUDY_BANDS, get_sensor
from clouddl.simulate import simulate_scene

Run = Callable[[], Any]
RESOLUTION = 30.0  # metres: that of the shipped models
BANDS = list(dict.fromkeys([*STUDY_BANDS, *S2CLOUDLESS_BANDS]))


@cache
def scene(size: int, bands: tuple[str, ...]) -> np.ndarray:
    """Reflectance (band, y, x) of a simulated scene of 512 pixels, repeated to `size` by mirroring.

    Land and cloud as they are met: some of the work depends on what is seen.
    """
    sensor = get_sensor("sentinel-2")
    wanted = tuple(band for band in sensor.bands if band.common in bands)
    simulated = simulate_scene(
        sensor.model_copy(update={"bands": wanted}), seed=1, size=512, resolution=RESOLUTION,
        surface="mixed", cloud_fraction=0.35,
    )  # fmt: skip
    values = simulated.reflectance.sel(band=list(bands)).values
    margin = [(0, 0), *[(0, max(0, size - 512))] * 2]
    return np.ascontiguousarray(np.pad(values, margin, mode="symmetric")[:, :size, :size])


def clouddl_array(size: int, backend: str | None = None, device: str | None = None) -> Run:
    """An array to its mask, by a shipped model; by default on a graphics card if there is one."""
    ours = load_model("any", device, backend)
    values = scene(size, tuple(ours.card.bands))

    def run() -> np.ndarray:
        found = predict_array(ours, values, ours.card.bands, RESOLUTION)
        return to_mask(found, ours.card.threshold)

    return run


def clouddl_file(
    size: int, path: str, backend: str | None = None, device: str | None = None
) -> Run:
    """A GeoTIFF of 16-bit numbers to the two cloud-optimised GeoTIFFs."""
    ours = load_model("any", device, backend)
    sensor = get_sensor("sentinel-2")
    reading = Reading(bands=tuple(ours.card.bands), scale=1e-4)

    def run() -> None:
        with tempfile.TemporaryDirectory(dir=Path(path).parent) as out:
            predict_file(path, sensor, out, model=ours, reading=reading, progress=False)

    return run


def clouddl_shape(size: int, backend: str | None = None, **shape: Any) -> Run:
    """A network of another shape, with fresh weights: cost alone, no mask worth having."""
    bands = BANDS[: shape.pop("bands", 5)]
    # Its threshold is far from what fresh weights give, or all would be computed again in float32.
    card = ModelCard(name="shape", bands=bands, mean=[0.2] * len(bands), std=[0.1] * len(bands),
                     resolution=RESOLUTION, threshold=1, **shape)  # fmt: skip
    ours = CloudModel(card, build(card), backend=backend)
    values = scene(size, tuple(bands))
    return lambda: predict_array(ours, values, bands, RESOLUTION)


def s2cloudless_array(size: int) -> Run:
    values = scene(size, tuple(BANDS))
    return lambda: s2cloudless(values, BANDS, RESOLUTION)


def ukis_array(size: int) -> Run:
    values = scene(size, tuple(BANDS))
    return lambda: ukis_csmask(values, BANDS)


class _Session:
    """ONNX Runtime's session as ukis-csmask uses it, with OpenVINO behind it; compiled once."""

    kept: Any = None

    def __init__(self, path: str, *_: Any, **__: Any) -> None:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
        import openvino

        if _Session.kept is None:
            _Session.kept = openvino.Core().compile_model(path, "CPU")  # bfloat16 where it pays
        self.network = _Session.kept

    def get_inputs(self) -> Any:
        class Named:
            name = "input"

        return [Named()]

    def run(self, _: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        return [self.network([next(iter(feed.values()))])[0]]


def ukis_openvino_array(size: int) -> Run:
    import ukis_csmask.mask

    ukis_csmask.mask.onnxruntime.InferenceSession = _Session
    return ukis_array(size)


def spectral_array(size: int) -> Run:
    values = scene(size, tuple(STUDY_BANDS))
    reflectance = xr.DataArray(values, dims=("band", "y", "x"), coords={"band": list(STUDY_BANDS)})
    return lambda: spectral_tests(reflectance)


def omnicloudmask_array(size: int) -> Run:
    omnicloudmask = importlib.import_module("omnicloudmask")
    values = scene(size, ("red", "green", "nir"))
    return lambda: omnicloudmask.predict_from_array(values)


class PlainUNet(nn.Module):
    """The yardstick: a U-Net as people write it, which does not change when ours does."""

    def __init__(self, bands: int = 5, filters: int = 16, depth: int = 4) -> None:
        super().__init__()

        def block(inputs: int, outputs: int) -> nn.Sequential:
            layers: list[nn.Module] = []
            for channels in (inputs, outputs):
                layers += [nn.Conv2d(channels, outputs, 3, padding=1), nn.BatchNorm2d(outputs),
                           nn.ReLU(inplace=True)]  # fmt: skip
            return nn.Sequential(*layers)

        widths = [filters * 2**level for level in range(depth + 1)]
        self.first = block(bands, filters)
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList(block(a, b) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.join = nn.ModuleList(block(2 * a, a) for a, _ in pairs)
        self.last = nn.Conv2d(filters, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(nn.functional.max_pool2d(x, 2))
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            x = join(torch.cat([skips.pop(), up(x)], dim=1))
        return self.last(x)


def plain_array(size: int, device: str = "cpu") -> Run:
    """The yardstick over the whole array at once, in float32, with no care taken."""
    net = PlainUNet().eval().to(device)
    values = scene(size, tuple(STUDY_BANDS))

    @torch.inference_mode()
    def run() -> np.ndarray:
        x = (torch.from_numpy(values).to(device)[None] - 0.2) / 0.1
        height, width = x.shape[-2:]
        x = nn.functional.pad(x, (0, -width % 16, 0, -height % 16), mode="replicate")
        return net(x)[0, 0, :height, :width].sigmoid().cpu().numpy() > 0.5

    return run


ARRAYS: dict[str, Callable[..., Run]] = {
    "CloudDL": clouddl_array,
    "spectral tests": spectral_array,
    "s2cloudless": s2cloudless_array,
    "ukis-csmask, ONNX Runtime": ukis_array,
    "ukis-csmask, OpenVINO": ukis_openvino_array,
    "OmniCloudMask": omnicloudmask_array,
    "plain U-Net, float32 eager": plain_array,
}
