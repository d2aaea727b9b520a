"""The network: the card of a model, the U-Net, its input, and the loss it is trained with."""

import importlib.metadata
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.nn import functional as F

ELEVATION = "elevation"  # the DEM enters the network as one more band, in metres

SIMILAR = 0.15  # a resolution this near the network's is left alone: resampling would only blur
TRAINED = (20.0, 60.0)  # metres; training samples resolutions of this range
DARK = 0.05  # reflectance added before the logarithm: keeps the noise of dark water small

Statistics = tuple[Tensor, Tensor]  # mean and standard deviation, broadcast over (n, bands, y, x)


class ModelCard(BaseModel):
    """Everything needed to use a model and to know where it comes from."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    name: str
    bands: list[str]  # common names, in the order of the network's input channels
    band_sets: list[list[str]] = []  # sets the network was trained to work from; [] = `bands` only
    normalisation: Literal["fixed", "chip", "log"] = "fixed"
    mean: list[float] = []  # of the input before normalisation, over the training chips
    std: list[float] = []  # both empty before training
    resolution: float = Field(gt=0)  # metres; finer images are averaged to it, see `as_it_is`
    base_filters: int = Field(16, ge=1)
    depth: int = Field(3, ge=1)
    stem: int = Field(2, ge=1)  # pixels a side that are folded into one before the U-Net
    kernel_size: int = Field(3, ge=1)
    smooth: bool = True  # logits are averaged with their neighbours, see `Smoothing`
    dropout: float = Field(0.2, ge=0, lt=1)
    threshold: float = Field(0.5, ge=0, le=1)
    labels: str = ""  # source of the training masks
    trained_on: dict[str, str] = {}  # scene id: SHA-256 of its image
    scores: dict[str, float] = {}  # on validation scenes
    seed: int = 0
    version: str = importlib.metadata.version("clouddl")
    weights_sha256: str = ""

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, fields: Any) -> Any:
        """Cards of trained models that do not say whether they are smooth are of before."""
        older = isinstance(fields, dict) and fields.get("weights_sha256")
        return {"smooth": False, **fields} if older else fields

    @model_validator(mode="after")
    def _check(self) -> "ModelCard":
        if {len(self.mean), len(self.std)} not in ({0}, {len(self.bands)}):
            raise ValueError("bands, mean and std must be of one length")
        if self.kernel_size % 2 == 0:
            raise ValueError("kernel_size must be odd")
        if not self.band_sets:
            self.band_sets = [list(self.bands)]
        return self

    def best_set(self, available: Sequence[str]) -> list[str] | None:
        """Choose the largest band set for which all bands are there.

        Args:
            available: Common names of the bands of an image.

        Returns:
            One of `band_sets`, or None if no set fits.
        """
        fitting = [bands for bands in self.band_sets if set(bands) <= set(available)]
        return max(fitting, key=len, default=None)


class UNet(nn.Module):
    """U-Net (Ronneberger 2015) with batch normalisation and dropout, as in Kettig (2020).

    Squares of `stem` × `stem` pixels enter as the channels of one pixel and leave as pixels again
    (sub-pixel convolution, Shi 2016): with a stem of 2, a quarter of the work, and twice the view.

    Args:
        card: Its bands, base_filters, depth, kernel_size, dropout, stem and smooth are used.

    Attributes:
        multiple: Height and width of the input must be multiples of this, `stem * 2**depth`.
    """

    def __init__(self, card: ModelCard) -> None:
        super().__init__()
        self.stem = card.stem
        self.multiple = card.stem * 2**card.depth
        widths = [card.base_filters * 2**level for level in range(card.depth + 1)]
        levels = list(pairwise(widths))  # of a level and the one below, half as fine

        def block(inputs: int, outputs: int) -> nn.Sequential:
            return _block(inputs, outputs, card.kernel_size, card.dropout)

        self.first = block(len(card.bands) * card.stem**2, card.base_filters)
        self.down = nn.ModuleList(block(a, b) for a, b in levels)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in levels)
        self.join = nn.ModuleList(block(2 * a, a) for a, _ in levels)
        self.last = nn.Conv2d(card.base_filters, card.stem**2, 1)
        self.smooth = Smoothing(card.stem) if card.smooth else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Normalised image (n, bands, y, x) to logits of cloud (n, y, x)."""
        x = self.squares(F.pixel_unshuffle(x, self.stem))
        return F.pixel_shuffle(x, self.stem)[:, 0]

    def squares(self, x: Tensor) -> Tensor:
        """Squares of pixels (n, bands * stem**2, y, x) to squares of logits (n, stem**2, y, x)."""
        x = self.first(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(F.max_pool2d(x, 2))
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            x = join(torch.cat([skips.pop(), up(x)], dim=1))
        return self.smooth(self.last(x))


class Smoothing(nn.Module):
    """Weighted mean of each logit and its eight neighbours: 1/4, 1/8 beside and 1/16 at corners.

    The pixels of a square are made by different filters. In thin cloud, near the threshold, one of
    them may be cloud in every square and its neighbours not: a grid of dots in the mask. The mean
    leaves no such grid (Sugawara 2019).

    Args:
        stem: Pixels a side of the squares.
    """

    weights: Tensor  # (stem**2, stem**2, 3, 3): they follow from the stem, so no file holds them

    def __init__(self, stem: int) -> None:
        super().__init__()
        line = torch.zeros(stem, stem, 3)  # pixel of the result, pixel, square before / same / next
        for pixel in range(stem):
            for step, weight in ((-1, 1 / 4), (0, 1 / 2), (1, 1 / 4)):
                square, inside = divmod(pixel + step, stem)
                line[pixel, inside, square + 1] += weight
        weights = torch.einsum("aiy,bjx->abijyx", line, line).reshape(stem**2, stem**2, 3, 3)
        self.register_buffer("weights", weights, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Squares of logits (n, stem**2, y, x) to squares of smoothed logits of the same shape."""
        return F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), self.weights)


def _block(inputs: int, outputs: int, kernel: int, dropout: float) -> nn.Sequential:
    """Two convolutions, each with batch normalisation and ReLU, then dropout of feature maps."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Dropout2d(dropout))


def build(card: ModelCard) -> UNet:
    """Build a network with fresh weights, channels last, which processors prefer.

    Args:
        card: See `UNet`.
    """
    return UNet(card).to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def as_it_is(metres: float, resolution: float) -> bool:
    """Whether a network works on pixels of this size without resampling.

    Finer pixels are averaged to its resolution. Coarser ones are enlarged only beyond what it was
    trained at: up to there, enlarging made masks no better on validation (book/own_data.md).

    Args:
        metres: Size of the pixels.
        resolution: Of the network, in metres.

    Returns:
        True if the network takes such an image as it is.
    """
    finest = resolution * (1 - SIMILAR)
    coarsest = max(TRAINED[1], resolution * (1 + SIMILAR))
    return finest <= metres <= coarsest


def normalise(x: Tensor, card: ModelCard, statistics: Statistics | None = None) -> Tensor:
    """Bring reflectance to mean 0 and standard deviation 1; what is NaN becomes 0, the mean.

    Args:
        x: Reflectance (n, bands, y, x); NaN for bands that the sensor lacks; gaps are filled before
            (`fill_gaps`).
        card: How to normalise.
        statistics: Mean and standard deviation, for the tiles of a scene; default `statistics_for`.

    Returns:
        The input of the network (n, bands, y, x), without NaN.
    """
    mean, std = statistics or statistics_for(x, card)
    if card.normalisation == "log":
        x = logarithm(x, card.bands)
    x = (x - mean) / std
    return x.masked_fill(x.isnan(), 0)


def fill_gaps(image: np.ndarray) -> np.ndarray:
    """Fill nodata from the nearest valid pixel of the same band.

    A constant there would be an edge as bright as that of a cloud, and the network would find one.

    Args:
        image: Reflectance (bands, y, x), NaN for nodata.

    Returns:
        A filled copy; a band without any value stays NaN. The image itself where it has no gap.
    """
    filled = image
    known: np.ndarray | None = None  # gaps of the band before: bands mostly share them
    for index, band in enumerate(image):
        if not np.isnan(band.min()):  # a NaN spreads to the minimum
            continue
        gaps = np.isnan(band)
        if gaps.all():
            continue
        if known is None or not np.array_equal(gaps, known):
            nearest, known = _nearest(gaps), gaps
        if filled is image:
            filled = image.copy()
        # No number is out of range; the default mode would check them in a copy.
        np.take(band, nearest, out=filled[index], mode="clip")
    return filled


def _nearest(gaps: np.ndarray) -> np.ndarray:
    """Number (y, x) of the valid pixel nearest to each pixel, counted row by row."""
    from scipy.ndimage import distance_transform_edt  # late: few images have gaps

    # A metric along rows and columns takes half the time, and leaves more false cloud.
    rows, columns = distance_transform_edt(gaps, return_distances=False, return_indices=True)
    return rows * np.int64(gaps.shape[1]) + columns


def statistics_for(x: Tensor, card: ModelCard) -> Statistics:
    """Mean and standard deviation to normalise with: each image's own for "chip", else the card's.

    Args:
        x: Reflectance (n, bands, y, x), NaN for nodata.
        card: Its normalisation, mean and std are used.

    Returns:
        Mean and standard deviation, (n, bands, 1, 1) or (bands, 1, 1).
    """
    if card.normalisation == "chip":
        return chip_statistics(x)
    mean, std = torch.tensor([card.mean, card.std], dtype=x.dtype, device=x.device)
    return mean[:, None, None], std[:, None, None]


def chip_statistics(x: Tensor) -> Statistics:
    """Mean and standard deviation of each image, without nodata.

    The deviation is kept above 0.02 (reflectance), or a uniform sea would be stretched to noise.

    Args:
        x: Reflectance (n, bands, y, x), NaN for nodata.

    Returns:
        Mean and standard deviation (n, bands, 1, 1).
    """
    mean = x.nanmean((-2, -1), keepdim=True)
    std = ((x - mean) ** 2).nanmean((-2, -1), keepdim=True).sqrt()
    return torch.nan_to_num(mean), torch.nan_to_num(std).clamp_min(0.02)


def logarithm(x: Tensor, bands: Sequence[str]) -> Tensor:
    """Compute ln(reflectance + DARK); elevation stays in metres.

    Ratios of bands, which separate snow, soil and cloud under any light, become differences, which
    the first convolution can form.

    Args:
        x: Reflectance (n, bands, y, x).
        bands: Common names of the bands.

    Returns:
        The logarithm (n, bands, y, x).
    """
    logarithms = torch.log(torch.where(x < 0, 0, x) + DARK)
    return torch.where(is_elevation(bands, x), x, logarithms)


def is_elevation(bands: Sequence[str], x: Tensor) -> Tensor:
    """Tell which bands are elevation.

    Args:
        bands: Common names of the bands of x; none: no band is.
        x: Images (n, bands, y, x).

    Returns:
        Flags (bands, 1, 1) bool, to be broadcast over x.
    """
    flags = [band == ELEVATION for band in bands] or [False]
    return torch.tensor(flags, device=x.device)[:, None, None]


def cloud_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice loss over the labelled pixels.

    The Dice term (Milletari 2016) is pooled over the batch, so that a chip without cloud does not
    swing it; it keeps the 20 % of cloudy pixels from being outvoted (Kettig 2020).

    Args:
        logits: Of cloud (n, y, x).
        target: Fraction of cloud (n, y, x) in 0..1, NaN where unlabelled.

    Returns:
        The loss, a scalar; 0 if nothing is labelled.
    """
    valid = torch.isfinite(target)
    if not valid.any():
        return logits.sum() * 0
    logits, target = logits[valid].float(), target[valid].float()
    cross_entropy = F.binary_cross_entropy_with_logits(logits, target)
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum() + 1
    return cross_entropy + 1 - overlap / (probability.sum() + target.sum() + 1)
