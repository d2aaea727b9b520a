"""Sensor cards: which bands a satellite's camera has, under the names all sensors share.

Cards are the YAML files of `clouddl/cards`. Bands carry STAC common names (blue, green, red, nir,
swir16, ...), so that two sensors can be compared and a model knows what it is given. A user's own
sensor needs no code: a card is a path ending in .yaml.
"""

from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from clouddl.errors import InputError, invalid

CARDS = Path(__file__).parent / "cards"
# The bands of the study of 2020: what a card must own up to lacking.
STUDY_BANDS = ("blue", "green", "red", "nir", "swir16")
# The sets of bands a model is made for: all five, SPOT's (no blue), Pléiades' (no SWIR).
BAND_SETS: dict[str, list[str]] = {
    "five": list(STUDY_BANDS),
    "spot": ["green", "red", "nir", "swir16"],
    "pleiades": ["blue", "green", "red", "nir"],
}


class Band(BaseModel):
    """One band: STAC `common` name, `native` name, centre and width in µm, ground sampling in m."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    common: str
    native: str
    centre_um: float = Field(gt=0.3, lt=15)
    width_um: float = Field(gt=0, lt=3)
    gsd_m: float = Field(gt=0)


class Sensor(BaseModel):
    """A camera: its bands by wavelength (a file may order them otherwise), and the sources."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    title: str
    operator: str
    launched: str
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


def _read(path: Path) -> Sensor:
    try:
        fields = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: the sensor card cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: the sensor card is not YAML: {error}") from error
    try:
        return Sensor.model_validate(fields)
    except ValidationError as error:
        raise invalid(path, error) from error


@cache
def sensors() -> dict[str, Sensor]:
    """The cards that come with CloudDL, by id."""
    cards = [_read(path) for path in sorted(CARDS.glob("*.yaml"))]
    return {card.id: card for card in cards}


def get_sensor(id_or_path: str | Path) -> Sensor:
    """A sensor by its id, or from a user's own card (a path ending in .yaml)."""
    if str(id_or_path).endswith((".yaml", ".yml")):
        return _read(Path(id_or_path))
    try:
        return sensors()[str(id_or_path)]
    except KeyError:
        known = ", ".join(sensors())
        raise InputError(
            f"sensor {str(id_or_path)!r} is unknown; choose {known}, or give a card as a .yaml file"
        ) from None


def shared_bands(*cards: Sensor) -> list[str]:
    """Common names of the reflective bands every sensor has, in order of wavelength.

    Thermal bands are left out: they hold no reflectance.
    """
    if not cards:
        return []
    common = set.intersection(*({band.common for band in card.bands} for card in cards))
    ordered = sorted(cards[0].bands, key=lambda band: band.centre_um)
    return [b.common for b in ordered if b.common in common and not b.common.startswith("lwir")]
