"""Training effects: how a batch is changed each time it is shown, to stand for other sensors.

An effect is a function `(x, y, rng) -> (x, y)`: images x (n, bands, y, x) in reflectance, NaN for
nodata; labels y (n, y, x), the fraction of cloud in 0..1, NaN where unlabelled; and the random
generator; each has settings too. To add one, write it and enter it in `Augmentation.effects`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from clouddl.network import TRAINED, is_elevation
from clouddl.sensors import get_sensor, middle

HAZE_UM = 0.49  # wavelength (µm) at which the strength of haze is stated

# Wavelength (µm) by common name; other sensors' bands of that name are near enough for haze.
WAVES = {band.common: middle(band.centre_um) for band in get_sensor("sentinel-2").bands}

CROP = 96  # pixels: the largest side of a training sample

Batch = tuple[Tensor, Tensor]
Effect = Callable[[Tensor, Tensor, Generator], Batch]


@dataclass(frozen=True)
class Augmentation:
    """All training effects, with their strengths; a strength of 0 switches an effect off.

    Strengths are those of sensors: calibrations differ by some per cent, response curves change the
    colour of the ground by as much. Stronger ones would blur the differences between bands that
    tell snow, water and soil from cloud.
    """

    resolution: tuple[float, float] = TRAINED  # metres, finest and coarsest (log-uniform)
    gain: float = 0.03  # standard deviations of these three: `change_light`
    offset: float = 0.003
    brightness: float = 0.05
    ground: float = 0.05  # standard deviation: `change_ground`
    paste: float = 0.5  # fraction of images: `paste_clouds`
    haze: float = 0.01  # standard deviation: `add_haze`
    gaps: float = 0.3  # fraction of images: `cut_gaps`
    turns: bool = True  # whether to turn and mirror
    crop: int = CROP  # pixels, the largest side of the result

    def effects(self, bands: Sequence[str]) -> dict[str, Effect]:
        """The effects on reflectance by name, in the order in which they are applied.

        Args:
            bands: Common names of the bands of the batch.
        """
        return {
            "ground": partial(change_ground, strength=self.ground),
            "paste": partial(paste_clouds, fraction=self.paste),
            "haze": partial(add_haze, strength=self.haze, bands=bands),
            "light": partial(
                change_light, gain=self.gain, brightness=self.brightness, offset=self.offset
            ),
            "gaps": partial(cut_gaps, fraction=self.gaps),  # filled by `train.filled` afterwards
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
        """Show a random window of a batch at a random resolution, turned, with all effects.

        The resolution is never finer than that of the batch. Effects leave elevation alone.

        Args:
            x: Reflectance (n, bands, y, x), NaN for nodata.
            y: Fraction of cloud (n, y, x) in 0..1, NaN where unlabelled.
            resolution: Of the batch, in metres.
            rng: Source of all random numbers.
            bands: Common names of the bands.
            multiple: The sides of the result are multiples of this (`UNet.multiple`).
        """
        low, high = (np.log(max(metres, resolution)) for metres in self.resolution)
        metres = float(np.exp(low + (high - low) * torch.rand(1, generator=rng).item()))
        x, y = random_window(x, y, rng, metres / resolution, self.crop, multiple)
        if self.turns:
            x, y = turn(x, y, rng)
        heights = x
        for effect in self.effects(bands).values():
            x, y = effect(x, y, rng)
        return torch.where(is_elevation(bands, x), heights, x), y


def random_window(
    x: Tensor, y: Tensor, rng: Generator, factor: float, crop: int = CROP, multiple: int = 16
) -> Batch:
    """Cut a random window and average it to pixels `factor` times as large.

    Args:
        factor: Side of a pixel of the result, in pixels of x.
        crop: Largest side of the result in pixels.
        multiple: The sides of the result are multiples of this.
    """
    side = x.shape[-1]
    size = max(multiple, min(crop, int(side / factor + 1e-6)) // multiple * multiple)
    window = min(side, round(size * factor))
    top, left = (
        int(torch.randint(extent - window + 1, (1,), generator=rng)) for extent in x.shape[-2:]
    )
    part = np.s_[..., top : top + window, left : left + window]
    return average(x[part], y[part], size)


def average(x: Tensor, y: Tensor, size: int) -> Batch:
    """Average images and labels over the same areas: a mask becomes the fraction of cloud.

    Args:
        x: Reflectance (n, bands, y, x).
        y: Fraction of cloud (n, y, x).
        size: Side of the result in pixels.
    """
    if x.shape[-2:] == (size, size):
        return x, y
    x = F.interpolate(x, (size, size), mode="area")
    return x, F.interpolate(y[:, None], (size, size), mode="area")[:, 0]


def turn(x: Tensor, y: Tensor, rng: Generator) -> Batch:
    """Turn the batch by a multiple of 90°, and mirror it half of the time.

    Args:
        x, y, rng: As for every effect.
    """
    quarters, mirror = torch.randint(0, 4, (2,), generator=rng).tolist()
    x, y = torch.rot90(x, quarters, (-2, -1)), torch.rot90(y, quarters, (-2, -1))
    if mirror % 2:
        return x.flip(-1), y.flip(-1)
    return x, y


def change_ground(x: Tensor, y: Tensor, rng: Generator, strength: float) -> Batch:
    """Give images without cloud other colours, for soils, sand or snow that the archive lacks.

    Args:
        strength: Standard deviation of the logarithm of the factor of a band.
    """
    clear = (torch.nan_to_num(y).mean((-2, -1)) < 0.01)[:, None, None, None]
    factor = torch.exp(strength * (_normal(x, rng) + _normal(x, rng, bands=1)))
    return torch.where(clear, x * factor, x), y


def paste_clouds(x: Tensor, y: Tensor, rng: Generator, fraction: float) -> Batch:
    """Paste the clouds of other images of the batch (copy-paste, Ghiasi 2021).

    Few places times few clouds become many pairs.

    Args:
        fraction: Of the images that get clouds.
    """
    n = len(x)
    chosen = (torch.rand(n, generator=rng) < fraction).nonzero()[:, 0].to(x.device)
    donor = torch.randperm(n, generator=rng).to(x.device)[chosen]
    pasted_x, pasted_y = paste(x[chosen], y[chosen], x[donor], y[donor])
    return x.index_copy(0, chosen, pasted_x), y.index_copy(0, chosen, pasted_y)


def paste(x: Tensor, y: Tensor, donor_x: Tensor, donor_y: Tensor) -> Batch:
    """Lay the clouds of donors over other images, with a soft rim wide enough for thin edges.

    Args:
        x: Reflectance (n, bands, y, x).
        y: Fraction of cloud (n, y, x); the donor's is taken where it weighs at least one half.
        donor_x: Reflectance of the donors, of the shape of x.
        donor_y: Fraction of cloud of the donors, of the shape of y.
    """
    cloud = (torch.nan_to_num(donor_y) >= 0.5).float()[:, None]
    wide = F.max_pool2d(cloud, 9, 1, 4)
    weight = F.avg_pool2d(wide, 9, 1, 4, count_include_pad=False)
    y = torch.where(weight[:, 0] >= 0.5, donor_y, y)
    x = torch.where(weight > 0, donor_x * weight + x * (1 - weight), x)
    return x, torch.where(x.isnan().all(1), torch.nan, y)


def add_haze(x: Tensor, y: Tensor, rng: Generator, strength: float, bands: Sequence[str]) -> Batch:
    """Add haze, anything from dust (power 0) to smoke (2.5). Haze is no cloud.

    Args:
        strength: Standard deviation of the reflectance of haze at 0.49 µm.
        bands: Common names of the bands.
    """
    power = 2.5 * torch.rand(len(x), 1, 1, 1, generator=rng)
    reflectance = (strength * _normal(x, rng, bands=1).abs().cpu()).clamp_max(0.5)
    waves = [WAVES.get(band, HAZE_UM) for band in bands] or [HAZE_UM]
    return haze(x, reflectance, torch.tensor(waves), power), y


def haze(
    reflectance: Tensor, strength: float | Tensor, waves: Tensor, power: float | Tensor
) -> Tensor:
    """Reflectance under a bright haze that weakens with wavelength (Ångström 1929).

    Args:
        reflectance: (…, bands, y, x).
        strength: Reflectance of haze over black ground at 0.49 µm: a number or (n, 1, 1, 1).
        waves: Wavelength of each band in µm (bands,).
        power: 0 for dust, 1.3 for continental aerosol, 2.5 for smoke: a number or (n, 1, 1, 1).

    Returns:
        Reflectance of the shape and type of `reflectance`.
    """
    path = strength * (waves[:, None, None] / HAZE_UM) ** -power
    path = path.clip(0, 1).to(reflectance)
    return reflectance * (1 - path) + path


def change_light(
    x: Tensor, y: Tensor, rng: Generator, gain: float, brightness: float, offset: float
) -> Batch:
    """Change calibration, the height of the sun, and path reflectance.

    Args:
        gain: Standard deviation of a factor for each band of each image.
        brightness: Standard deviation of a factor common to all bands of an image.
        offset: Standard deviation of a reflectance added to each band of each image.
    """
    x = x * (1 + gain * _normal(x, rng)) * (1 + brightness * _normal(x, rng, bands=1))
    return x + offset * _normal(x, rng), y


def cut_gaps(x: Tensor, y: Tensor, rng: Generator, fraction: float) -> Batch:
    """Cut gaps: beyond the edge of a swath, or the stripes that Landsat 7 leaves since 2003.

    Prediction fills gaps from the nearest valid pixels (`network.fill_gaps`); a network that never
    met such ground may find clouds along every edge.

    Args:
        fraction: Of the images that get gaps, half of them an edge and half of them stripes.
    """
    n, (height, width) = len(x), x.shape[-2:]
    chance, turn, shift, period, gap = torch.rand(5, n, 1, 1, generator=rng)
    row, column = torch.arange(height)[:, None], torch.arange(width)
    angle = 2 * np.pi * turn
    across = torch.cos(angle) * (row - height / 2) + torch.sin(angle) * (column - width / 2)
    edge = across > shift * width / 2
    period = 16 + 32 * period  # pixels; those of Landsat 7 are 33, and up to 14 of them are lost
    stripes = (across + shift * period) % period < period * gap / 2
    lost = torch.where(chance < fraction / 2, edge, stripes & (chance < fraction)).to(x.device)
    return x.masked_fill(lost[:, None], torch.nan), y.masked_fill(lost, torch.nan)


def _normal(x: Tensor, rng: Generator, bands: int | None = None) -> Tensor:
    """Normal random numbers (n, bands, 1, 1) for a batch x; default all its bands."""
    return torch.randn(len(x), bands or x.shape[1], 1, 1, generator=rng).to(x)
