"""The network: a U-Net, what goes into it, its loss, and the card that says what it was made of."""

import importlib.metadata
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn

ELEVATION = "elevation"  # the DEM enters the network as one more band, in metres


DARK = 0.05  # reflectance added before the logarithm: keeps the noise of dark water small


class ModelCard(BaseModel):
    """Everything needed to use a model and to know where it comes from."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")

    name: str
    bands: list[str]  # common names, in the order of the network's input channels
    band_sets: list[list[str]] = []  # sets the network was trained to work from; [] = `bands` only
    normalisation: Literal["fixed", "chip", "log"] = "fixed"
    mean: list[float] = []  # of the input before normalisation, over the training chips
    std: list[float] = []  # both empty before training
    resolution: float = Field(gt=0)  # metres; images are brought to it before prediction
    base_filters: int = Field(16, ge=1)
    depth: int = Field(3, ge=1)
    stem: int = Field(2, ge=1)  # pixels a side that are folded into one before the U-Net
    kernel_size: int = Field(3, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    threshold: float = Field(0.5, ge=0, le=1)
    labels: str = ""  # source of the training masks
    trained_on: dict[str, str] = {}  # scene id: SHA-256 of its image
    scores: dict[str, float] = {}  # on validation scenes
    seed: int = 0
    version: str = importlib.metadata.version("clouddl")
    weights_sha256: str = ""

    @model_validator(mode="after")
    def _whole(self) -> "ModelCard":
        if {len(self.mean), len(self.std)} not in ({0}, {len(self.bands)}):
            raise ValueError("bands, mean and std must be of one length")
        if self.kernel_size % 2 == 0:
            raise ValueError("kernel_size must be odd")
        if not self.band_sets:
            self.band_sets = [list(self.bands)]
        return self

    def best_set(self, available: Sequence[str]) -> list[str] | None:
        """The largest of the model's band sets that `available` bands can fill, or None."""
        fitting = [bands for bands in self.band_sets if set(bands) <= set(available)]
        return max(fitting, key=len, default=None)


def _block(inputs: int, outputs: int, kernel: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Dropout2d(dropout))


class UNet(nn.Module):
    """U-Net (Ronneberger 2015) with batch normalisation and dropout, as in Kettig (2020).

    Input (n, bands, y, x), normalised; output (n, y, x) logits of cloud. `base_filters` and
    `kernel_size` are the two readings of the "filter size" that the study of 2020 searched over.
    Squares of `stem` pixels enter as channels of one and leave as pixels again (sub-pixel
    convolution, Shi 2016): with 2, a quarter of the work, and twice as far a view.
    Height and width must be multiples of `stem * 2**depth`.
    """

    def __init__(
        self, bands: int, base_filters: int = 16, depth: int = 3, kernel_size: int = 3,
        dropout: float = 0.2, stem: int = 2,
    ) -> None:  # fmt: skip
        super().__init__()
        widths = [base_filters * 2**level for level in range(depth + 1)]
        pairs = list(pairwise(widths))
        self.stem, self.multiple = stem, stem * 2**depth
        self.first = _block(bands * stem**2, widths[0], kernel_size, dropout)
        self.down = nn.ModuleList(_block(a, b, kernel_size, dropout) for a, b in pairs)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in pairs)
        self.join = nn.ModuleList(_block(2 * a, a, kernel_size, dropout) for a, _ in pairs)
        self.last = nn.Conv2d(widths[0], stem**2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.squares(nn.functional.pixel_unshuffle(x, self.stem))
        return nn.functional.pixel_shuffle(x, self.stem)[:, 0]

    def squares(self, x: Tensor) -> Tensor:
        """Squares of pixels (n, bands * stem**2, y, x) to squares of logits (n, stem**2, y, x)."""
        x = self.first(x)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(nn.functional.max_pool2d(x, 2))
        for up, join in zip(reversed(self.up), reversed(self.join), strict=True):
            x = join(torch.cat([skips.pop(), up(x)], dim=1))
        return self.last(x)


def build(card: ModelCard) -> UNet:
    """A network of the card's shape, with fresh weights."""
    size = card.base_filters, card.depth, card.kernel_size
    net = UNet(len(card.bands), *size, card.dropout, card.stem)
    return net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def normalise(
    x: Tensor, card: ModelCard, mean: Tensor | None = None, std: Tensor | None = None
) -> Tensor:
    """Reflectance (n, bands, y, x) with NaN for nodata, as the network wants it.

    "fixed" uses the card's statistics; "chip" each image's own, or those given in `mean` and
    `std` (n, bands, 1, 1), so that all tiles of one scene are treated alike. Nodata, and bands
    that the sensor lacks, become 0: the mean.
    """
    if card.normalisation == "log":
        x = logarithm(x, card.bands)
    if mean is None or std is None:
        if card.normalisation == "chip":
            mean, std = chip_statistics(x)
        else:
            mean, std = (
                torch.tensor(v, dtype=x.dtype, device=x.device)[:, None, None]
                for v in (card.mean, card.std)
            )
    x = (x - mean) / std
    return x.masked_fill(x.isnan(), 0)


def logarithm(x: Tensor, bands: Sequence[str]) -> Tensor:
    """ln(reflectance + DARK) of (n, bands, y, x); elevation stays in metres.

    Band ratios, which tell snow, soil and cloud apart under any light, become differences that the
    first convolution can form.
    """
    height = torch.tensor([band == ELEVATION for band in bands], device=x.device)[:, None, None]
    return torch.where(height, x, torch.log(torch.where(x < 0, 0, x) + DARK))


def chip_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (n, bands, 1, 1) of each image, nodata left out.

    The deviation is kept above 0.02 (reflectance), or a uniform sea would be stretched to noise.
    """
    mean = x.nanmean((-2, -1), keepdim=True)
    std = ((x - mean) ** 2).nanmean((-2, -1), keepdim=True).sqrt()
    return torch.nan_to_num(mean), torch.nan_to_num(std).clamp_min(0.02)


def cloud_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Binary cross-entropy plus soft Dice loss, unlabelled pixels (NaN) left out.

    `logits` and `target` (n, y, x); targets are fractions of cloud. The Dice term (Milletari
    2016) is pooled over the batch, so that a chip without cloud does not swing it; it is what
    keeps the 20 % of cloudy pixels from being outvoted (Kettig 2020).
    """
    valid = torch.isfinite(target)
    if not valid.any():
        return logits.sum() * 0
    logits, target = logits[valid].float(), target[valid].float()
    cross_entropy = nn.functional.binary_cross_entropy_with_logits(logits, target)
    probability = logits.sigmoid()
    overlap = 2 * (probability * target).sum() + 1
    return cross_entropy + 1 - overlap / (probability.sum() + target.sum() + 1)
