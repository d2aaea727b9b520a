"""Sensor cards: which bands the camera of a satellite has, under names that all sensors share.

Cards are the YAML files of `clouddl/cards`. Bands carry STAC common names (blue, green, red, nir,
swir16, ...), so that sensors can be compared and a model knows its input. A user's sensor needs no
code: its card is a path ending in .yaml. Where a specification is still open, the card gives a
figure as a range, [low, high]; `Sensor.sample` and `Sensor.middle` choose a number from it.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from math import inf
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from clouddl.errors import InputError, did_you_mean, read_yaml, validated

CARDS = Path(__file__).parent / "cards"
SPELLINGS = Path(__file__).parent / "spellings.yaml"

# The bands of the study of 2020: a card lists which of them its sensor lacks.
STUDY_BANDS = ("blue", "green", "red", "nir", "swir16")

# The sets of bands that models are made for: all five, SPOT's (no blue), Pléiades' (no SWIR).
BAND_SETS: dict[str, list[str]] = {
    "five": list(STUDY_BANDS),
    "spot": ["green", "red", "nir", "swir16"],
    "pleiades": ["blue", "green", "red", "nir"],
}


#: A figure of a card: a number, or (low, high) where the specification is still open.
Range = float | tuple[float, float]


def middle(figure: Range) -> float:
    """Take the middle of a figure.

    Args:
        figure: A number or a range.

    Returns:
        The number, or the mean of the two ends.
    """
    return sum(figure) / 2 if isinstance(figure, tuple) else figure


def _between(low: float, high: float) -> PlainValidator:
    """Read a figure between two others; a union of types would report a wrong one twice."""

    def read(value: Any) -> Range:
        is_range = isinstance(value, list | tuple)
        try:
            first, last = map(float, value if is_range else (value, value))
        except (TypeError, ValueError):
            raise ValueError(f"{value!r} is not a number or a range [low, high]") from None
        if is_range and first >= last:
            raise ValueError(f"{value} should be [low, high], low below high")
        if not low < first <= last < high:
            raise ValueError(f"{value} should be above {low:g} and below {high:g}")
        return (first, last) if is_range else first

    return PlainValidator(read)


class Record(BaseModel):
    """What a user writes in a YAML file; a field that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Band(Record):
    """One band of a camera.

    Attributes:
        common: STAC common name.
        native: Name the operator gives it.
        centre_um: Central wavelength, µm.
        width_um: Width at half the peak, µm.
        gsd_m: Ground sampling distance, m.
        response: Where the spectral response comes from: a published curve, or a Gaussian or a box
            of that centre and width.
        snr: Signal-to-noise ratio at the reference that the card's note names, None if unknown.
        mtf: Modulation transfer at the Nyquist frequency, None if unknown.
    """

    common: Annotated[str, AfterValidator(lambda name: band_name(name) or name)]
    native: str
    centre_um: Annotated[Range, _between(0.3, 15)]
    width_um: Annotated[Range, _between(0, 3)]
    gsd_m: Annotated[Range, _between(0.05, inf)]
    response: Literal["published", "gaussian", "box"] = "gaussian"
    snr: Annotated[Range, _between(0, inf)] | None = None
    mtf: Annotated[Range, _between(0, 1)] | None = None

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """The figures that are still open, by field, in the order of the fields."""
        return {name: value for name, value in self if isinstance(value, tuple)}


class Sensor(Record):
    """A camera on a satellite.

    Attributes:
        local_time: Mean local solar time of the node passed in daylight ("10:30").
        products: Names of the products its images are delivered as.
        aliases: Other names that people give it; see `get_sensor`.
        bands: Its bands by wavelength; a file may have them in another order.
        missing: The bands of `STUDY_BANDS` that it lacks.
        sources: Where the figures are published.
    """

    id: str = Field(pattern=r"^[^/\\]+$")
    title: str
    operator: str
    launched: str
    local_time: str = ""
    products: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    bands: tuple[Band, ...] = Field(min_length=1)
    missing: tuple[str, ...] = ()
    note: str = ""
    sources: tuple[str, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_bands(self) -> "Sensor":
        repeated = sorted({name for name in self.commons if self.commons.count(name) > 1})
        if repeated:
            raise ValueError(f"band {', '.join(repeated)} is listed twice")
        for band in self.bands:
            low, high = _spelling_file()["wavelengths"].get(band.common, (0, inf))
            centre, width = middle(band.centre_um), middle(band.width_um)
            if not low <= centre <= high or width > centre:
                raise ValueError(
                    f"band {band.common} at {centre:g} µm, {width:g} µm wide, cannot be: it lies "
                    f"between {low:g} and {high:g} µm, and is less wide than that"
                )
        missing = set(STUDY_BANDS) - set(self.commons)
        if missing != set(self.missing):
            raise ValueError(f"missing should be {sorted(missing)}, the card says {self.missing}")
        return self

    @property
    def commons(self) -> tuple[str, ...]:
        """Common names of its bands, in the order of the card."""
        return tuple(band.common for band in self.bands)

    def band(self, common: str) -> Band:
        """The band of a STAC common name; InputError where the sensor lacks it."""
        for band in self.bands:
            if band.common == common:
                return band
        raise InputError(
            f"sensor {self.id} has no band {common!r}; it has {', '.join(self.commons)}"
        )

    @property
    def has_open_figures(self) -> bool:
        """Whether any figure is a range."""
        return any(band.ranges for band in self.bands)

    def sample(self, seed: int) -> "Sensor":
        """Replace every range by a number from it, uniformly at random from a seed."""
        import numpy as np  # late: listing sensors does not need it

        rng = np.random.default_rng(seed)
        return self._settled(lambda ends: float(rng.uniform(*ends)))

    def middle(self) -> "Sensor":
        """Replace every range by its middle; this very card if it has none."""
        return self._settled(middle)

    def _settled(self, choose: Callable[[tuple[float, float]], float]) -> "Sensor":
        if not self.has_open_figures:
            return self
        bands = tuple(
            band.model_copy(update={name: choose(ends) for name, ends in band.ranges.items()})
            for band in self.bands
        )
        return self.model_copy(update={"bands": bands})


@cache
def sensors() -> dict[str, Sensor]:
    """Read the cards that come with CloudDL, by id."""
    cards = [get_sensor(path) for path in sorted(CARDS.glob("*.yaml"))]
    return {card.id: card for card in cards}


def get_sensor(id_or_path: str | Path) -> Sensor:
    """Find a sensor.

    Args:
        id_or_path: Its id or another name of it, in any case and with or without hyphens
            ("sentinel-2", "Sentinel2", "S2A"), or the path of a card, ending in .yaml.

    Returns:
        Its card.

    Raises:
        InputError: No such sensor, or a wrong card.
    """
    name = str(id_or_path)
    if name.lower().endswith((".yaml", ".yml")):
        return validated(Sensor, read_yaml(name, "sensor card"), name)
    if is_sensor_name(name):
        return _sensors_by_name()[_letters(name)]
    hint = did_you_mean(name.lower(), sensors())
    raise InputError(
        f"sensor {name!r} is unknown; choose {', '.join(sensors())}, or give a card as a "
        f".yaml file{hint}"
    )


def is_sensor_name(name: str) -> bool:
    """Say whether `get_sensor` knows a name of a card that comes with CloudDL.

    Args:
        name: As people write it.

    Returns:
        False for a path of a card.
    """
    return _letters(name) in _sensors_by_name()


@cache
def _sensors_by_name() -> dict[str, Sensor]:
    """The cards by every name of theirs, as `_letters` spells it."""
    return {
        _letters(name): card
        for card in sensors().values()
        for name in (card.id, card.title, *card.aliases, *card.products)
    }


def band_name(spelling: str, sensor: Sensor | None = None) -> str | None:
    """Find the band that a name means, in any usual spelling.

    Args:
        spelling: "B02", "B2", "Blue", "nir08", "XS3", "SWIR", "B4, central wavelength 665 nm".
        sensor: Its card, which knows its operator's names.

    Returns:
        The STAC common name; None where it is not clear, or the sensor lacks the band.
    """
    spellings, native = _band_spellings(), {}
    if sensor:
        same = _spelling_file()["same"].items()
        bands = {wanted: instead for wanted, instead in same if instead in sensor.commons}
        bands |= {common: common for common in sensor.commons}
        native = {_letters(band.native): band.common for band in sensor.bands}
        spellings = {key: bands[name] for key, name in spellings.items() if name in bands} | native
        spellings |= {_letters(common): common for common in sensor.commons}
    filler = _spelling_file()["filler"]
    words = re.findall(r"\w+", spelling.replace("_", " ").lower())
    words = [word for word in words if word not in filler and not word.isdigit()]
    for name in (spelling, "".join(words)):
        if _letters(name) in spellings:
            return spellings[_letters(name)]
    # "T31TCJ_B11", "B11_median": the one name of the operator's with a number among other words.
    numbered = filter(re.compile(r"\d").search, map(_letters, words))
    named = {native[word] for word in numbered if word in native}
    return named.pop() if len(named) == 1 else None


def band_names(spellings: Sequence[Any], sensor: Sensor | None = None) -> tuple[Any, ...]:
    """Bring names of bands to their common names; what is not known stays as it is.

    Args:
        spellings: Names in any usual spelling, or one text of them with commas; None stays None.
        sensor: As for `band_name`.

    Returns:
        As many names.

    Raises:
        InputError: One is neither a text nor None.
    """
    if isinstance(spellings, str):
        spellings = re.split(r"\s*[,;]\s*", spellings.strip())
    names: list[str | None] = []
    for name in spellings if isinstance(spellings, Iterable) else [spellings]:
        if not isinstance(name, str | None):
            raise InputError(
                f"bands: {name!r} is no name of a band; name the layers in the order of the file, "
                "such as green,red,nir,swir16 (None skips one)"
            )
        names.append(name and (band_name(name, sensor) or name))
    return tuple(names)


@cache
def _spelling_file() -> dict[str, Any]:
    return read_yaml(SPELLINGS, "list of names of bands")


@cache
def _band_spellings() -> dict[str, str]:
    """Common names and their usual spellings, as `_letters` gives them, to common names."""
    bands = _spelling_file()["bands"].items()
    return {_letters(name): common for common, others in bands for name in (common, *others)}


def _letters(name: str) -> str:
    """A name in lower case without accents, signs and leading zeros: "B02" and "b2" are one."""
    plain = unicodedata.normalize("NFKD", name.lower().replace("+", "plus"))
    plain = re.sub(r"[^a-z0-9\u03bc]", "", plain)
    return re.sub(r"(?<=[a-z])0+(?=\d)", "", plain)


def shared_bands(*cards: Sensor) -> list[str]:
    """List the reflective bands that several sensors have in common; thermal ones are left out.

    Args:
        *cards: The sensors.

    Returns:
        Common names in order of wavelength.
    """
    shared = set.intersection(*(set(card.commons) for card in cards))
    ordered = sorted(cards[0].bands, key=lambda band: middle(band.centre_um))
    names = [band.common for band in ordered if band.common in shared]
    return [name for name in names if not name.startswith("lwir")]
