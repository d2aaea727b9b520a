"""Training effects: how a batch is changed each time it is shown, to stand for other sensors.

An effect is a function `(x, y, rng) -> (x, y)` of a batch of images x (n, bands, y, x) in reflectance,
NaN for nodata, their labels y (n, y, x) in 0..1 (fraction of cloud, NaN where unlabelled), and the
random generator. To add one, write the function and enter it in `Augmentation.effects`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Generator, Tensor, nn

from clouddl.network import ELEVATION
from clouddl.sensors import get_sensor, middle

HAZE_UM = 0.49  # wavelength (µm) at which the strength of haze is stated

# Wavelength (µm) by common name; other sensors' bands of that name are near enough for haze.
WAVES = {b.common: middle(b.centre_um) for b in get_sensor("sentinel-2").bands}

CROP = 96  # pixels: the largest side of a training sample

Batch = tuple[Tensor, Tensor]
Effect = Callable[[Tensor, Tensor, Generator], Batch]


@dataclass(frozen=True)
class Augmentation:
    """All training effects, with their strengths; a strength of 0 switches an effect off.

    Attributes:
        resolution: Finest and coarsest resolution in metres; one value a batch, log-uniform.
        gain: Standard deviation of a factor for each band of each image.
        offset: Standard deviation of a shift in reflectance, for each band of each image.
        brightness: Standard deviation of a factor common to all bands of an image.
        ground: Standard deviation of the logarithm of a factor for images without cloud.
        paste: Fraction of images onto which the clouds of another are pasted.
        ice: Fraction of images whose clouds are darkened in the short-wave infrared.
        haze: Standard deviation of the reflectance of haze at 0.49 µm.
        turns: Whether to turn and mirror.
        crop: Largest side of the result in pixels.
    """

    resolution: tuple[float, float] = (10.0, 60.0)
    gain: float = 0.08
    offset: float = 0.015
    brightness: float = 0.15
    ground: float = 0.3
    paste: float = 0.5
    ice: float = 0.3
    haze: float = 0.03
    turns: bool = True
    crop: int = CROP

    def effects(self, bands: Sequence[str]) -> dict[str, Effect]:
        """The effects on light, in the order in which they are applied.

        Args:
            bands: Common names of the bands of the batch.

        Returns:
            Functions `(x, y, rng) -> (x, y)` by name.
        """
        return {
            "ground": partial(change_ground, strength=self.ground),
            "paste": partial(paste_clouds, fraction=self.paste),
            "ice": partial(darken_ice, fraction=self.ice, bands=bands),
            "haze": partial(add_haze, strength=self.haze, bands=bands),
            "gain": partial(change_gain, strength=self.gain),
            "brightness": partial(change_brightness, strength=self.brightness),
            "offset": partial(add_offset, strength=self.offset),
        }

    def __call__(
        self,
        x: Tensor,
        y: Tensor,
        resolution: float,
        rng: Generator,
        bands: Sequence[str] = (),
        multiple: int = 16,
    ) -> Batch:
        """Apply all effects to a batch.

        Args:
            x: Reflectance (n, bands, y, x), NaN for nodata.
            y: Fraction of cloud (n, y, x) in 0..1, NaN where unlabelled.
            resolution: Of the batch, in metres.
            rng: Source of all random numbers.
            bands: Common names of the bands. Elevation is turned and cropped, but its values stay.
            multiple: The sides of the result are multiples of this (`UNet.multiple`).

        Returns:
            The changed x and y.
        """
        x, y = coarsen(x, y, rng, resolution, self.resolution, self.crop, multiple)
        if self.turns:
            x, y = turn(x, y, rng)
        heights = x
        for effect in self.effects(bands).values():
            x, y = effect(x, y, rng)
        is_height = [band == ELEVATION for band in bands] or [False]
        return torch.where(_per_band(is_height, x), heights, x), y


def coarsen(
    x: Tensor,
    y: Tensor,
    rng: Generator,
    resolution: float,
    target: tuple[float, float],
    crop: int = CROP,
    multiple: int = 16,
) -> Batch:
    """Show a random window of the batch at a random resolution, never finer than its own.

    Args:
        x: Reflectance (n, bands, y, x).
        y: Fraction of cloud (n, y, x).
        rng: Source of random numbers.
        resolution: Of the batch, in metres.
        target: Finest and coarsest resolution of the result in metres.
        crop: Largest side of the result in pixels.
        multiple: The sides of the result are multiples of this.

    Returns:
        The window of x and y.
    """
    low, high = (np.log(max(metres, resolution)) for metres in target)
    metres = float(np.exp(low + (high - low) * torch.rand(1, generator=rng).item()))
    return random_window(x, y, rng, metres / resolution, crop, multiple)


def random_window(
    x: Tensor, y: Tensor, rng: Generator, factor: float, crop: int = CROP, multiple: int = 16
) -> Batch:
    """Cut a random window and average it to pixels `factor` times as large.

    Images and masks are averaged over the same areas: a mask becomes the fraction of cloud.

    Args:
        x: Reflectance (n, bands, y, x).
        y: Fraction of cloud (n, y, x).
        rng: Source of random numbers.
        factor: Side of a pixel of the result, in pixels of x.
        crop: Largest side of the result in pixels.
        multiple: The sides of the result are multiples of this.

    Returns:
        The window of x and y.
    """
    height = x.shape[-1]
    size = max(multiple, min(crop, int(height / factor + 1e-6)) // multiple * multiple)
    window = min(height, round(size * factor))
    top, left = (
        int(torch.randint(0, extent - window + 1, (1,), generator=rng)) for extent in x.shape[-2:]
    )
    x = x[..., top : top + window, left : left + window]
    y = y[..., top : top + window, left : left + window]
    if window != size:
        x = nn.functional.interpolate(x, (size, size), mode="area")
        y = nn.functional.interpolate(y[:, None], (size, size), mode="area")[:, 0]
    return x, y


def turn(x: Tensor, y: Tensor, rng: Generator) -> Batch:
    """Turn the batch by a multiple of 90°, and mirror every second one."""
    quarters, mirror = torch.randint(0, 4, (2,), generator=rng).tolist()
    x, y = (torch.rot90(values, quarters, (-2, -1)) for values in (x, y))
    return (x.flip(-1), y.flip(-1)) if mirror % 2 else (x, y)


def change_ground(x: Tensor, y: Tensor, rng: Generator, strength: float) -> Batch:
    """Multiply images without cloud by a log-normal factor for each band.

    They then stand for soils, sand or snow that the archive lacks.
    """
    n, bands = x.shape[:2]
    clear = (torch.nan_to_num(y).mean((-2, -1)) < 0.01)[:, None, None, None]
    factor = torch.exp(strength * (_normal(x, bands, rng) + _normal(x, 1, rng)))
    return torch.where(clear, x * factor, x), y


def paste_clouds(x: Tensor, y: Tensor, rng: Generator, fraction: float) -> Batch:
    """Paste the clouds of other images of the batch onto a `fraction` of its images.

    Few places times few clouds become many pairs (copy-paste, Ghiasi 2021).
    """
    n = len(x)
    chosen = (torch.rand(n, generator=rng) < fraction).nonzero()[:, 0].to(x.device)
    donor = torch.randperm(n, generator=rng).to(x.device)[chosen]
    pasted_x, pasted_y = paste(x[chosen], y[chosen], x[donor], y[donor])
    return x.index_copy(0, chosen, pasted_x), y.index_copy(0, chosen, pasted_y)


def paste(x: Tensor, y: Tensor, donor_x: Tensor, donor_y: Tensor) -> Batch:
    """Lay the clouds of a donor, with a soft rim of its ground, over other images.

    The rim is wide enough for thin edges to come along. Labels are the donor's where its weight is
    at least one half.

    Args:
        x: Reflectance (n, bands, y, x).
        y: Fraction of cloud (n, y, x).
        donor_x: Reflectance of the donors, of the shape of x.
        donor_y: Fraction of cloud of the donors, of the shape of y.

    Returns:
        The changed x and y.
    """
    cloud = (torch.nan_to_num(donor_y) >= 0.5).float()[:, None]
    wide = nn.functional.max_pool2d(cloud, 9, 1, 4)
    weight = nn.functional.avg_pool2d(wide, 9, 1, 4, count_include_pad=False)
    y = torch.where(weight[:, 0] >= 0.5, donor_y, y)
    x = torch.where(weight > 0, donor_x * weight + x * (1 - weight), x)
    return x, torch.where(x.isnan().all(1), torch.nan, y)


def darken_ice(
    x: Tensor, y: Tensor, rng: Generator, fraction: float, bands: Sequence[str]
) -> Batch:
    """Darken the clouds of a `fraction` of images in the short-wave infrared, by up to 80 %.

    Water ice absorbs there, and droplets hardly do (Pilewskie and Twomey 1987).
    """
    n = len(x)
    absorbed = 0.8 * torch.rand(n, 1, 1, generator=rng)
    absorbed = absorbed * (torch.rand(n, 1, 1, generator=rng) < fraction)
    factor = 1 - absorbed.to(x) * torch.nan_to_num(y)
    is_swir = [band.startswith("swir") for band in bands] or [False]
    return torch.where(_per_band(is_swir, x), x * factor[:, None], x), y


def add_haze(x: Tensor, y: Tensor, rng: Generator, strength: float, bands: Sequence[str]) -> Batch:
    """Add haze of half-normal strength, from dust (power 0) to smoke (2.5). Haze is no cloud."""
    power = 2.5 * torch.rand(len(x), 1, 1, 1, generator=rng)
    reflectance = (strength * _normal(x, 1, rng).abs().cpu()).clamp_max(0.5)
    waves = [WAVES.get(band, HAZE_UM) for band in bands] or [HAZE_UM] * x.shape[1]
    return haze(x, reflectance, torch.tensor(waves), power), y


def haze(
    reflectance: Tensor, strength: float | Tensor, waves: Tensor, power: float | Tensor
) -> Tensor:
    """Reflectance under a bright haze that weakens with wavelength (Ångström 1929).

    Args:
        reflectance: (…, bands, y, x).
        strength: Reflectance of the haze over black ground at 0.49 µm, 0..1; a number or (n, 1, 1, 1).
        waves: Wavelength of each band in µm (bands,).
        power: Exponent: 0 for dust, 1.3 for continental aerosol, 2.5 for smoke; as `strength`.

    Returns:
        Reflectance of the shape and type of `reflectance`.
    """
    path = strength * (waves[:, None, None] / HAZE_UM) ** -power
    path = path.clip(0, 1).to(reflectance)
    return reflectance * (1 - path) + path


def change_gain(x: Tensor, y: Tensor, rng: Generator, strength: float) -> Batch:
    """Multiply each band of each image by a factor near 1: an error of calibration."""
    return x * (1 + strength * _normal(x, x.shape[1], rng)), y


def change_brightness(x: Tensor, y: Tensor, rng: Generator, strength: float) -> Batch:
    """Multiply each image by a factor near 1: another height of the sun."""
    return x * (1 + strength * _normal(x, 1, rng)), y


def add_offset(x: Tensor, y: Tensor, rng: Generator, strength: float) -> Batch:
    """Add a small reflectance to each band of each image: dark signal, or path reflectance."""
    return x + strength * _normal(x, x.shape[1], rng), y


def _normal(x: Tensor, bands: int, rng: Generator) -> Tensor:
    """Normal random numbers (n, bands, 1, 1) for a batch x."""
    return torch.randn(len(x), bands, 1, 1, generator=rng).to(x)


def _per_band(flags: Sequence[bool], x: Tensor) -> Tensor:
    """One flag for each band, to be broadcast over a batch x."""
    return torch.tensor(flags, device=x.device)[:, None, None]
