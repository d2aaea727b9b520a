"""Degradations: known harm done to an image, to see how much of it a model bears.

Each takes a scene (`scene.open_scene`), a level and a random generator, and returns a new scene.
Unless it says otherwise, a level of 0 changes nothing, and only `reflectance` changes.
"""

import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd
import xarray as xr
from scipy import ndimage

from clouddl.errors import InputError
from clouddl.labels import NODATA, to_mask
from clouddl.model import CloudModel
from clouddl.predict import predict_array
from clouddl.scenes import resample
from clouddl.score import pooled
from clouddl.sensors import get_sensor, middle
from clouddl.transfer import probability, score_masks

ANGSTROM = 1.3  # exponent of continental aerosol: haze weakens with wavelength (Ångström 1929)


HAZE_UM = 0.49  # wavelength at which a level of haze is stated


Degradation = Callable[[xr.Dataset, float, np.random.Generator], xr.Dataset]


def gain(scene: xr.Dataset, level: float, _: np.random.Generator) -> xr.Dataset:
    """Calibration off by a share `level` (0.05: five per cent too bright; negative: too dark)."""
    return scene.assign(reflectance=scene.reflectance * np.float32(1 + level))


def offset(scene: xr.Dataset, level: float, _: np.random.Generator) -> xr.Dataset:
    """A reflectance `level` added, of either sign: dark signal, stray light."""
    return scene.assign(reflectance=scene.reflectance + np.float32(level))


def noise(scene: xr.Dataset, level: float, rng: np.random.Generator) -> xr.Dataset:
    """White noise of deviation `level` (reflectance) in every pixel."""
    grain = rng.standard_normal(scene.reflectance.shape, np.float32)
    return scene.assign(reflectance=scene.reflectance + np.float32(level) * grain)


def striping(scene: xr.Dataset, level: float, rng: np.random.Generator) -> xr.Dataset:
    """Gains of the detectors of a push-broom, one to a column, off by a deviation `level`."""
    off = rng.standard_normal((scene.sizes["band"], 1, scene.sizes["x"]), np.float32)
    return scene.assign(reflectance=scene.reflectance * (1 + np.float32(level) * off))


def saturation(scene: xr.Dataset, level: float, _: np.random.Generator) -> xr.Dataset:
    """A detector that is full at a reflectance `level`: the lower, the worse."""
    return scene.assign(reflectance=scene.reflectance.clip(max=np.float32(level)))


def haze(scene: xr.Dataset, level: float, _: np.random.Generator) -> xr.Dataset:
    """A bright veil that adds `level` (0 to 1) to black ground at 0.49 µm, less at longer waves."""
    sensor = get_sensor(scene.attrs["sensor"])
    waves = np.array([middle(sensor.band(band).centre_um) for band in scene.band.values.tolist()])
    path = (level * (waves / HAZE_UM) ** -ANGSTROM).clip(0, 1).astype(np.float32)[:, None, None]
    return scene.assign(reflectance=scene.reflectance * (1 - path) + path)


def blur(scene: xr.Dataset, level: float, _: np.random.Generator) -> xr.Dataset:
    """A Gaussian point spread of deviation `level` in pixels, which leaves nodata out."""
    image = scene.reflectance.values
    hole, sigma = np.isnan(image), (0, level, level)
    share = ndimage.gaussian_filter(1 - hole.astype(np.float32), sigma, mode="nearest")
    total = ndimage.gaussian_filter(np.nan_to_num(image), sigma, mode="nearest")
    soft = np.divide(total, share, out=np.full_like(image, np.nan), where=~hole & (share > 0))
    return scene.assign(reflectance=scene.reflectance.copy(data=soft))


def resolution(scene: xr.Dataset, level: float, _: np.random.Generator) -> xr.Dataset:
    """Pixels of `level` metres: area means, and the mask by majority. Not finer than the scene."""
    if level < scene.attrs["resolution"]:
        told = f"{level:g} m is finer than the scene's {scene.attrs['resolution']:g} m"
        raise InputError(f"degradation resolution: {told}; give coarser levels")
    return resample(scene, level) if level > scene.attrs["resolution"] else scene


def misregistration(scene: xr.Dataset, level: float, rng: np.random.Generator) -> xr.Dataset:
    """Bands apart by `level` pixels from the first, each in a direction of its own (spline)."""
    moved = scene.reflectance.values.copy()
    for index, angle in enumerate(rng.uniform(0, 2 * np.pi, len(moved) - 1), start=1):
        way = level * np.sin(angle), level * np.cos(angle)
        hole = np.isnan(moved[index])  # a spline would spread one NaN over the whole band
        hidden = ndimage.shift(hole.astype(np.float32), way, order=1, mode="nearest") > 1e-3
        full = np.where(hole, 0 if hole.all() else np.nanmean(moved[index]), moved[index])
        shifted = ndimage.shift(full, way, order=3, mode="nearest") if level else full
        moved[index] = np.where(hidden, np.nan, shifted)
    return scene.assign(reflectance=scene.reflectance.copy(data=moved))


def rotation(scene: xr.Dataset, level: float, _: np.random.Generator) -> xr.Dataset:
    """The scene turned by `level` degrees, mask and elevation too, without coordinates.

    Other than by steps of 90°, corners are cut off, and what comes in is nodata.
    """
    turns, rest = divmod(level, 90)
    out = xr.Dataset({"band": scene.band.values}, attrs=scene.attrs)
    for name, order in (("reflectance", 1), ("mask", 0), ("elevation", 1)):
        fill = NODATA if name == "mask" else np.nan
        if name in scene:
            values = np.rot90(scene[name].values, int(turns), (-2, -1))
            if rest:
                values = ndimage.rotate(values, rest, (-1, -2), False, order=order, cval=fill)
            out[name] = scene[name].dims, values.copy()
    return out


DEGRADATIONS: dict[str, Degradation] = {
    "gain": gain, "offset": offset, "noise": noise, "striping": striping,
    "saturation": saturation, "haze": haze, "blur": blur, "resolution": resolution,
    "misregistration": misregistration, "rotation": rotation,
}  # fmt: skip


def degrade(scene: xr.Dataset, name: str, level: float, seed: int = 0) -> xr.Dataset:
    """One of `DEGRADATIONS` at a level; the same seed and scene id give the same pattern."""
    if name not in DEGRADATIONS:
        raise InputError(f"degradation {name!r} is unknown; choose {', '.join(DEGRADATIONS)}")
    if not np.isfinite(level) or (level < 0 and name not in ("gain", "offset", "rotation")):
        raise InputError(f"degradation {name}: level {level} is out of range; give one from 0 up")
    rng = np.random.default_rng([seed, zlib.crc32(str(scene.attrs["scene"]).encode())])
    return DEGRADATIONS[name](scene, level, rng)


def robustness(
    model: CloudModel, scenes: Mapping[str, xr.Dataset], use: Sequence[str], degradation: str,
    levels: Sequence[float], *, threshold: float | None = None, seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Scores with intervals (`score.pooled`) of degraded `scenes` from bands `use`, a row a level.

    `scenes` (`transfer.open_at`) at the model's resolution. A scene made coarser is brought back
    to it for the network, and its mask back to the coarser grid, as `clouddl predict` would.
    """
    threshold = model.card.threshold if threshold is None else threshold
    tables = []
    for level in levels:
        changed = {name: degrade(scene, degradation, level, seed) for name, scene in scenes.items()}
        masks = {n: to_mask(_seen(model, scene, use), threshold) for n, scene in changed.items()}
        tables.append(score_masks(masks, changed).assign(degradation=degradation, level=level))
    return pooled(pd.concat(tables), by=["degradation", "level"])


def _seen(model: CloudModel, scene: xr.Dataset, use: Sequence[str]) -> np.ndarray:
    if (metres := scene.attrs["resolution"]) == model.card.resolution:
        return probability(model, scene, use)
    return predict_array(model, scene.reflectance.sel(band=list(use)), resolution=metres)
