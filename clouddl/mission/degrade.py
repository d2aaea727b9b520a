"""Degradations: known harm done to an image, to see how much of it a model bears.

A degradation is a function (scene, level, rng) -> scene. To add one, write it and enter it in
`DEGRADATIONS`. Unless it says otherwise, a level of 0 changes nothing, and only `reflectance`
(band, y, x) changes, nodata staying NaN.
"""

import zlib
from collections.abc import Callable

import numpy as np
import torch
import xarray as xr
from numpy.random import Generator
from scipy import ndimage

from clouddl import augment
from clouddl.errors import InputError
from clouddl.labels import NODATA
from clouddl.scenes import resample
from clouddl.sensors import get_sensor, middle

ANGSTROM = 1.3  # exponent of continental aerosol: haze weakens with wavelength (Ångström 1929)

Degradation = Callable[[xr.Dataset, float, Generator], xr.Dataset]


def gain(scene: xr.Dataset, level: float, _: Generator) -> xr.Dataset:
    """Error of calibration: a fraction `level` too bright, or too dark where it is negative."""
    return scene.assign(reflectance=scene.reflectance * np.float32(1 + level))


def offset(scene: xr.Dataset, level: float, _: Generator) -> xr.Dataset:
    """Dark signal or stray light: a reflectance `level` added, of either sign."""
    return scene.assign(reflectance=scene.reflectance + np.float32(level))


def noise(scene: xr.Dataset, level: float, rng: Generator) -> xr.Dataset:
    """White noise of standard deviation `level` (reflectance) in every pixel."""
    grain = rng.standard_normal(scene.reflectance.shape, np.float32)
    return scene.assign(reflectance=scene.reflectance + np.float32(level) * grain)


def striping(scene: xr.Dataset, level: float, rng: Generator) -> xr.Dataset:
    """Push-broom detectors, one to a column, whose gains have a standard deviation `level`."""
    error = rng.standard_normal((scene.sizes["band"], 1, scene.sizes["x"]), np.float32)
    return scene.assign(reflectance=scene.reflectance * (1 + np.float32(level) * error))


def saturation(scene: xr.Dataset, level: float, _: Generator) -> xr.Dataset:
    """A detector that is full at a reflectance `level`: the lower, the worse."""
    return scene.assign(reflectance=scene.reflectance.clip(max=np.float32(level)))


def haze(scene: xr.Dataset, level: float, _: Generator) -> xr.Dataset:
    """Haze that adds `level` (0 to 1) to black ground at 0.49 µm, less at longer waves."""
    sensor = get_sensor(scene.attrs["sensor"])
    waves = [middle(sensor.band(band).centre_um) for band in scene.band.values.tolist()]
    hazy = augment.haze(
        torch.from_numpy(scene.reflectance.values),
        level,
        torch.tensor(waves, dtype=torch.float64),
        ANGSTROM,
    )
    return scene.assign(reflectance=scene.reflectance.copy(data=hazy.numpy()))


def blur(scene: xr.Dataset, level: float, _: Generator) -> xr.Dataset:
    """A Gaussian point spread of standard deviation `level` in pixels, nodata left out."""
    image = scene.reflectance.values
    valid = ~np.isnan(image)
    sigma = (0, level, level)
    weight = ndimage.gaussian_filter(valid.astype(np.float32), sigma, mode="nearest")
    total = ndimage.gaussian_filter(np.nan_to_num(image), sigma, mode="nearest")
    where = valid & (weight > 0)
    soft = np.divide(total, weight, out=np.full_like(image, np.nan), where=where)
    return scene.assign(reflectance=scene.reflectance.copy(data=soft))


def resolution(scene: xr.Dataset, level: float, _: Generator) -> xr.Dataset:
    """Pixels of `level` metres: area means, and the mask by majority. Not finer than the scene."""
    metres = scene.attrs["resolution"]
    if level < metres:
        raise InputError(
            f"degradation resolution: {level:g} m is finer than the scene's {metres:g} m; "
            "give coarser levels"
        )
    return resample(scene, level) if level > metres else scene


def misregistration(scene: xr.Dataset, level: float, rng: Generator) -> xr.Dataset:
    """Bands shifted by `level` pixels from the first, each in another direction (spline)."""
    bands = scene.reflectance.values.copy()
    for index, angle in enumerate(rng.uniform(0, 2 * np.pi, len(bands) - 1), start=1):
        shift = level * np.sin(angle), level * np.cos(angle)
        band, nodata = bands[index], np.isnan(bands[index])
        lost = ndimage.shift(nodata.astype(np.float32), shift, order=1, mode="nearest") > 1e-3
        if level and not nodata.all():
            # A spline would spread one NaN over the whole band.
            filled = np.where(nodata, np.nanmean(band), band)
            band = ndimage.shift(filled, shift, order=3, mode="nearest")
        bands[index] = np.where(lost, np.nan, band)
    return scene.assign(reflectance=scene.reflectance.copy(data=bands))


def rotation(scene: xr.Dataset, level: float, _: Generator) -> xr.Dataset:
    """The scene turned by `level` degrees, mask and elevation too, without coordinates.

    Other than by steps of 90°, corners are cut off, and what comes in is nodata.
    """
    quarters, rest = divmod(level, 90)
    turned = xr.Dataset({"band": scene.band.values}, attrs=scene.attrs)
    for name in sorted({"reflectance", "mask", "elevation"} & scene.keys()):
        values = np.rot90(scene[name].values, int(quarters), (-2, -1))
        if rest:
            order, fill = (0, NODATA) if name == "mask" else (1, np.nan)
            values = ndimage.rotate(values, rest, (-1, -2), False, order=order, cval=fill)
        turned[name] = scene[name].dims, values.copy()
    return turned


DEGRADATIONS: dict[str, Degradation] = {
    function.__name__: function
    for function in (
        gain,
        offset,
        noise,
        striping,
        saturation,
        haze,
        blur,
        resolution,
        misregistration,
        rotation,
    )
}
SIGNED = ("gain", "offset", "rotation")  # the levels that may be negative


def degrade(scene: xr.Dataset, name: str, level: float, seed: int = 0) -> xr.Dataset:
    """Degrade a scene; the same seed and scene id give the same pattern.

    Args:
        scene: A scene (`scenes.open_scene`).
        name: One of `DEGRADATIONS`.
        level: How strong; the unit is that of the degradation.
        seed: Seed of random patterns.

    Returns:
        A new scene.

    Raises:
        InputError: No such degradation, or a level out of range.
    """
    if name not in DEGRADATIONS:
        raise InputError(f"degradation {name!r} is unknown; choose {', '.join(DEGRADATIONS)}")
    if not np.isfinite(level) or (level < 0 and name not in SIGNED):
        raise InputError(f"degradation {name}: level {level} is out of range; give one from 0 up")
    rng = np.random.default_rng([seed, zlib.crc32(str(scene.attrs["scene"]).encode())])
    return DEGRADATIONS[name](scene, level, rng)
