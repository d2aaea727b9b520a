"""Training effects: how a chip is changed each time it is shown, to stand for other sensors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from clouddl.network import ELEVATION
from clouddl.sensors import get_sensor, middle

HAZE_UM = 0.49  # where the strength of haze is stated


# Wavelength (µm) by common name; other sensors' bands of that name are near enough for haze.
WAVES = {b.common: middle(b.centre_um) for b in get_sensor("sentinel-2").bands}


CROP = 96  # pixels: what one training sample shows at the most


@dataclass(frozen=True)
class Augmentation:
    """How a chip is changed each time it is shown, to stand for other sensors and other days.

    `resolution`: metres, finest and coarsest; one value is drawn for each batch, log-uniform.
    `gain`, `offset`: standard deviation of a factor and of a shift in reflectance, per band;
    `brightness`: of a factor common to all bands. `ground`: standard deviation of the logarithm of
    a factor per band for chips without cloud, which then stand for soils, sand or snow that the
    archive lacks. `paste`: share of chips onto which the clouds of another are laid. `ice`: share
    of chips whose clouds are darkened in the short-wave infrared, by up to four fifths, as ice
    clouds are: water ice absorbs there and droplets hardly do (Pilewskie and Twomey 1987). `haze`:
    standard deviation of a veil's reflectance at 0.49 µm, weaker at longer waves by a power drawn
    from 0 (dust) to 2.5 (smoke), which is no cloud. All zero and one resolution: none. Light
    changes no heights: `elevation` is left as it is.
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

    def __call__(
        self, x: Tensor, y: Tensor, own: float, dice: torch.Generator, names: Sequence[str] = (),
        multiple: int = 16,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Change a batch x (n, bands, y, x) of reflectance and y (n, y, x) of labels in 0..1.

        `own` is its resolution in metres; `names` the common names of its bands; the sides of what
        comes back are multiples of `multiple`, for the network's sake.
        """
        n, bands = x.shape[:2]
        low, high = (np.log(max(r, own)) for r in self.resolution)
        factor = float(np.exp(low + (high - low) * torch.rand(1, generator=dice).item())) / own
        x, y = crop(x, y, factor, dice, multiple)
        if self.turns:
            turn, flip = (int(v) for v in torch.randint(0, 4, (2,), generator=dice))
            x, y = torch.rot90(x, turn, (-2, -1)), torch.rot90(y, turn, (-2, -1))
            if flip % 2:
                x, y = x.flip(-1), y.flip(-1)

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, 1, 1, generator=dice).to(x)

        before = x
        clear = (torch.nan_to_num(y).mean((-2, -1)) < 0.01)[:, None, None, None]
        other = torch.exp(self.ground * (normal(n, bands) + normal(n, 1)))
        x = torch.where(clear, x * other, x)
        chosen = (torch.rand(n, generator=dice) < self.paste).nonzero()[:, 0].to(x.device)
        donor = torch.randperm(n, generator=dice).to(x.device)[chosen]
        pasted = paste(x[chosen], y[chosen], x[donor], y[donor])
        x, y = (old.index_copy(0, chosen, new) for old, new in zip((x, y), pasted, strict=True))
        absorbed = (
            0.8
            * torch.rand(n, 1, 1, generator=dice)
            * (torch.rand(n, 1, 1, generator=dice) < self.ice)
        )
        for band in (index for index, name in enumerate(names) if name.startswith("swir")):
            x[:, band] = x[:, band] * (1 - absorbed.to(x) * torch.nan_to_num(y))
        power = 2.5 * torch.rand(n, 1, 1, 1, generator=dice)
        waves = torch.tensor([WAVES.get(name, HAZE_UM) for name in names] or [HAZE_UM] * bands)
        veil = (self.haze * normal(n, 1).abs().cpu()).clamp_max(0.5)
        path = (veil * (waves[:, None, None] / HAZE_UM) ** -power).to(x)
        x = x * (1 - path) + path
        x = x * (1 + self.gain * normal(n, bands)) * (1 + self.brightness * normal(n, 1))
        x = x + self.offset * normal(n, bands)
        if ELEVATION in names:
            heights = list(names).index(ELEVATION)
            x[:, heights] = before[:, heights]
        return x, y


def paste(x: Tensor, y: Tensor, donor_x: Tensor, donor_y: Tensor) -> tuple[Tensor, Tensor]:
    """Lay the clouds of a donor, with a soft rim of its ground, over other chips (n, …, y, x).

    Few places times few clouds become many pairs (copy-paste, Ghiasi 2021). The rim is wide
    enough for thin edges to come along; labels are the donor's where it weighs more.
    """
    cloud = (torch.nan_to_num(donor_y) >= 0.5).float()[:, None]
    wide = nn.functional.max_pool2d(cloud, 9, 1, 4)
    weight = nn.functional.avg_pool2d(wide, 9, 1, 4, count_include_pad=False)
    y = torch.where(weight[:, 0] >= 0.5, donor_y, y)
    x = torch.where(weight > 0, donor_x * weight + x * (1 - weight), x)
    return x, torch.where(x.isnan().all(1), torch.nan, y)


def crop(
    x: Tensor, y: Tensor, factor: float, dice: torch.Generator, multiple: int = 16
) -> tuple[Tensor, Tensor]:
    """A random window of the batch, averaged to pixels `factor` times as large, at most CROP wide.

    Area averaging for images and masks alike: a mask becomes the fraction of cloud. Sizes are
    multiples of `multiple`.
    """
    height = x.shape[-1]
    size = max(multiple, min(CROP, int(height / factor + 1e-6)) // multiple * multiple)
    window = min(height, round(size * factor))
    top, left = (
        int(torch.randint(0, extent - window + 1, (1,), generator=dice)) for extent in x.shape[-2:]
    )
    x = x[..., top : top + window, left : left + window]
    y = y[..., top : top + window, left : left + window]
    if window != size:
        x = nn.functional.interpolate(x, (size, size), mode="area")
        y = nn.functional.interpolate(y[:, None], (size, size), mode="area")[:, 0]
    return x, y
