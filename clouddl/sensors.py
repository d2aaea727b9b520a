"""Sensor cards: which bands a satellite's camera has, under the names all sensors share.

Cards are the YAML files of `clouddl/cards`. Bands carry STAC common names (blue, green, red, nir,
swir16, ...), so that two sensors can be compared and a model knows what it is given. A user's own
sensor needs no code: a card is a path ending in .yaml. Where a specification is still open, the
card gives a figure as a range, [low, high]; `Sensor.sample` and `Sensor.middle` close it.
"""

from collections.abc import Callable
from functools import cache
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, model_validator

from clouddl.errors import InputError, read_yaml, validated

CARDS = Path(__file__).parent / "cards"


# The bands of the study of 2020: what a card must own up to lacking.
STUDY_BANDS = ("blue", "green", "red", "nir", "swir16")


# The sets of bands a model is made for: all five, SPOT's (no blue), Pléiades' (no SWIR).
BAND_SETS: dict[str, list[str]] = {
    "five": list(STUDY_BANDS),
    "spot": ["green", "red", "nir", "swir16"],
    "pleiades": ["blue", "green", "red", "nir"],
}


#: A figure of a card: a number, or (low, high) where the specification is still open.
Range = float | tuple[float, float]


def middle(figure: Range) -> float:
    """The number itself, or the middle of a range."""
    return sum(figure) / 2 if isinstance(figure, tuple) else figure


def _between(low: float, high: float) -> PlainValidator:
    """Reads a Range whose ends lie between `low` and `high`, both excluded.

    One validator rather than a union of types: a wrong figure is then told once, by its field.
    """

    def read(value: Any) -> Range:
        ends = value if isinstance(value, list | tuple) else [value]
        try:
            numbers = [float(end) for end in ends]
        except (TypeError, ValueError):
            numbers = []
        if len(numbers) != (2 if ends is value else 1):
            raise ValueError(f"{value!r} is not a number or a range [low, high]")
        if not all(low < number < high for number in numbers):
            limits = f"above {low:g}" + (f" and below {high:g}" if high < inf else "")
            raise ValueError(f"{value} should be {limits}")
        if len(numbers) == 1:
            return numbers[0]
        if not numbers[0] < numbers[1]:
            raise ValueError(f"{value} should be [low, high], low below high")
        return numbers[0], numbers[1]

    return PlainValidator(read)


class Band(BaseModel):
    """One band: STAC `common` name, `native` name, centre and width in µm, ground sampling in m.

    `response` says where the spectral response comes from: a published curve, or a Gaussian or a
    box of that centre and width (at half the peak). `snr` is the signal-to-noise ratio at the
    reference the card's note names, `mtf` the modulation transfer at the Nyquist frequency; None
    where none is published.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    common: str
    native: str
    centre_um: Annotated[Range, _between(0.3, 15)]
    width_um: Annotated[Range, _between(0, 3)]
    gsd_m: Annotated[Range, _between(0, inf)]
    response: Literal["published", "gaussian", "box"] = "gaussian"
    snr: Annotated[Range, _between(0, inf)] | None = None
    mtf: Annotated[Range, _between(0, 1)] | None = None

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The figures still open, by field, in the order of the fields."""
        return {name: value for name, value in self if isinstance(value, tuple)}


class Sensor(BaseModel):
    """A camera: its bands by wavelength (a file may order them otherwise), and the sources.

    `local_time` is the mean local solar time of the node passed in daylight ("10:30"); `products`
    are the names its images are delivered under.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: str
    operator: str
    launched: str
    local_time: str = ""
    products: tuple[str, ...] = ()
    bands: tuple[Band, ...] = Field(min_length=1)
    missing: tuple[str, ...] = ()
    note: str = ""
    sources: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _consistent(self) -> "Sensor":
        names = [band.common for band in self.bands]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"band {', '.join(twice)} is listed twice")
        lacking = {name for name in STUDY_BANDS if name not in names}
        if lacking != set(self.missing):
            raise ValueError(f"missing should be {sorted(lacking)}, the card says {self.missing}")
        return self

    def band(self, common: str) -> Band:
        """The band of that common name; InputError when the sensor lacks it."""
        for band in self.bands:
            if band.common == common:
                return band
        have = ", ".join(band.common for band in self.bands)
        raise InputError(f"sensor {self.id} has no band {common!r}; it has {have}")

    @property
    def open(self) -> bool:
        """Whether any figure is a range."""
        return any(band.ranges for band in self.bands)

    def sample(self, seed: int) -> "Sensor":
        """This card with each range replaced by a number drawn uniformly from it.

        The same card where nothing is open.
        """
        import numpy as np  # late: to list sensors nothing is drawn

        rng = np.random.default_rng(seed)
        return self._closed(lambda ends: float(rng.uniform(*ends)))

    def middle(self) -> "Sensor":
        """This card with each range replaced by its middle; the same card where nothing is open."""
        return self._closed(middle)

    def _closed(self, pick: Callable[[tuple[float, float]], float]) -> "Sensor":
        if not self.open:
            return self
        bands = tuple(
            band.model_copy(update={name: pick(ends) for name, ends in band.ranges.items()})
            for band in self.bands
        )
        return self.model_copy(update={"bands": bands})


def _read(path: Path) -> Sensor:
    return validated(Sensor, read_yaml(path, "sensor card"), path)


@cache
def sensors() -> dict[str, Sensor]:
    """The cards that come with CloudDL, by id."""
    cards = [_read(path) for path in sorted(CARDS.glob("*.yaml"))]
    return {card.id: card for card in cards}


def get_sensor(id_or_path: str | Path) -> Sensor:
    """A sensor by its id, or from a user's own card (a path ending in .yaml)."""
    if str(id_or_path).endswith((".yaml", ".yml")):
        return _read(Path(id_or_path))
    if (card := sensors().get(str(id_or_path))) is None:
        told = f"choose {', '.join(sensors())}, or give a card as a .yaml file"
        raise InputError(f"sensor {str(id_or_path)!r} is unknown; {told}")
    return card


def shared_bands(*cards: Sensor) -> list[str]:
    """Common names of the reflective bands every sensor has, in order of wavelength.

    Thermal bands are left out: they hold no reflectance.
    """
    if not cards:
        return []
    common = set.intersection(*({band.common for band in card.bands} for card in cards))
    ordered = sorted(cards[0].bands, key=lambda band: middle(band.centre_um))
    return [b.common for b in ordered if b.common in common and not b.common.startswith("lwir")]
