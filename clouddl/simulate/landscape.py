"""The ground: terrain, water, land cover and snow, each with a spectrum."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.random import Generator
from pydantic import BaseModel, ConfigDict

from clouddl.errors import read_yaml, validated
from clouddl.sensors import Sensor
from clouddl.simulate.noise import noise
from clouddl.simulate.spectra import GRID, band_average, surfaces

Parcels = tuple[np.ndarray, np.ndarray]  # lane and plot (y, x), each 0 to 63

FILE = Path(__file__).with_name("landscapes.yaml")
TILT = np.interp(GRID, [0.4, 2.45], [-1, 1])  # added to a spectrum, it makes it redder


class Landscape(BaseModel):
    """What a landscape is made of; landscapes.yaml explains the fields."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    relief_m: float
    base_m: float
    water: float = 0.0
    snow: float = 0.0
    covers: dict[str, float]
    snow_under_plants: float = 0.0
    brightness: tuple[float, float] = (0.55, 1.2)
    glint: float = 0.05
    parcels: bool = False


LANDSCAPES: dict[str, Landscape] = {
    name: validated(Landscape, fields, f"{FILE}: {name}")
    for name, fields in read_yaml(FILE, "table of landscapes").items()
}


@dataclass(frozen=True)
class Ground:
    """A simulated piece of land, without sun or sensor.

    `elevation` (y, x) in metres; `abundance` (cover, y, x), the weight of each spectrum in a pixel;
    `spectra` (cover, GRID), reflectances.
    """

    elevation: np.ndarray
    abundance: np.ndarray
    spectra: np.ndarray

    def reflectance(self, sensor: Sensor) -> np.ndarray:
        """Reflectance (band, y, x) of level ground in the sensor's bands."""
        return np.tensordot(band_average(sensor, self.spectra).T, self.abundance, 1)


def simulate_ground(rng: Generator, landscape: Landscape, size: int, resolution: float) -> Ground:
    """Simulate a square of a landscape.

    Args:
        rng: Source of randomness.
        landscape: What it is made of.
        size: Pixels along each side.
        resolution: Metres per pixel.

    Returns:
        The ground, `size` x `size` pixels.
    """
    extent = (size * resolution / 7680) ** 0.8  # relief is that of 256 pixels of 30 m
    rough = landscape.relief_m * extent * noise(rng, 2 * size, 3.9)[:size, :size]
    elevation = np.maximum(landscape.base_m + rough, 0)
    level = np.quantile(elevation, landscape.water)
    lake = (elevation <= level) * float(landscape.water > 0)
    elevation = np.maximum(elevation, level)

    parcels = _parcels(rng, size, resolution)
    library = surfaces()
    white = rng.choice(library["snow"])
    covers, land = _covers(rng, landscape, parcels, white)

    line = np.quantile(elevation, 1 - landscape.snow)
    ragged = elevation - line + 0.15 * landscape.relief_m * extent * noise(rng, size, 1.6)
    snow = 1 / (1 + np.exp(-ragged / (0.06 * landscape.relief_m * extent)))
    snow = snow * float(landscape.snow > 0) * (1 - lake)
    covers = np.concatenate([covers * (1 - lake) * (1 - snow), [lake, snow]])
    # Sunlight mirrored by waves, alike in every band.
    glint = max(0, rng.normal(0, landscape.glint))
    odds = np.exp(-np.arange(len(library["water"])) / (len(library["water"]) / 3))
    water = rng.choice(len(odds), p=odds / odds.sum())  # the first are clear, few are muddy
    spectra = np.stack([*land, library["water"][water] + glint, white])

    # Brightness and colour vary within one cover too; snow is smooth.
    texture, tint = noise(rng, size, 1.2), noise(rng, size, 2.2)
    strength = 0.13 * (1 - 0.75 * snow)
    abundance = np.concatenate([covers * (1 + strength * texture), covers * strength * tint])
    return Ground(elevation, abundance, np.concatenate([spectra, spectra * TILT]))


def _parcels(rng: Generator, size: int, resolution: float) -> Parcels:
    """Fields and streets: the lane and the plot (y, x) of each pixel on a turned grid."""
    turn = rng.uniform(0, np.pi / 2)
    width = rng.uniform(80, 450) / resolution
    row, column = np.mgrid[:size, :size]
    along = np.cos(turn) * column + np.sin(turn) * row
    across = np.cos(turn) * row + np.sin(turn) * -column
    lane = np.floor(across / width).astype(int) % 64
    plot = np.floor((along / width + 37 * np.sin(lane)) / 1.7).astype(int) % 64
    return lane, plot


def _covers(
    rng: Generator, landscape: Landscape, parcels: Parcels, white: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fraction (cover, y, x) and spectrum (cover, GRID): three spectra of every kind of cover."""
    size = len(parcels[0])
    weights, spectra = [], []
    for name, weight in landscape.covers.items():
        built = name in ("road", "roof") and "canopy" in landscape.covers  # else it is bare rock
        patchiness = 0.0
        if built:
            patchiness = 1.2
        elif landscape.parcels:
            patchiness = rng.choice([0.0, 1.0])
        for spectrum in rng.choice(surfaces()[name], 3):
            blend = noise(rng, size, 1.6 if built else 2.7)
            blend = blend + patchiness * rng.standard_normal((64, 64))[parcels]
            blend = blend / np.hypot(1, patchiness) + 0.6 * np.log(weight / 3)
            weights.append(np.exp(3 * blend))
            # The library is poor in pale, grey ground (chalk, gypsum, salt): samples are tilted.
            if name in ("soil", "sand"):
                spectrum = spectrum * np.exp(rng.normal(0, 0.25) * TILT)
            # Samples in a laboratory are dry and unshaded: ground outside is darker.
            ground = np.minimum(spectrum * rng.uniform(*landscape.brightness), 0.9)
            snow = landscape.snow_under_plants * rng.uniform()
            spectra.append((1 - snow) * ground + snow * white)
    return np.stack(weights) / np.sum(weights, axis=0), np.stack(spectra)
