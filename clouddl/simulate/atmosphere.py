"""The air: scattering by molecules and aerosol, absorption by vapour, ozone and mixed gases."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from clouddl.sensors import Sensor
from clouddl.simulate.spectra import GRID, air, band_average
from clouddl.simulate.sunlight import Sun, add_layer

#: Exponents by which aerosol weakens with wavelength: dust does not, smoke does (Che 2013).
ANGSTROM = (0.0, 1.8)

#: Optical depth of aerosol at 0.55 µm: its median, the standard deviation of its logarithm, and
#: what it never exceeds.
AEROSOL_DEPTH = (0.12, 1.0, 1.2)

VAPOUR_SCALE_M, AEROSOL_SCALE_M, AIR_SCALE_M = 2000.0, 1500.0, 8000.0  # heights of fall by e


@dataclass(frozen=True)
class Atmosphere:
    """Optical depths (band) of the air above the ground.

    `rayleigh` and `aerosol` are vertical; `vapour` and `dry` (ozone and mixed gases) are those of
    the path from the sun to the ground and up to the sensor.
    """

    sun: Sun
    rayleigh: np.ndarray
    aerosol: np.ndarray
    vapour: np.ndarray
    dry: np.ndarray

    def direct(self) -> np.ndarray:
        """Fraction (band) of the light on the ground that comes straight from the sun."""
        backwards = 0.5 * self.rayleigh + 0.12 * self.aerosol
        return np.exp((backwards - self.rayleigh - self.aerosol) / self.sun.mu)

    def reflectance_above(self, below: np.ndarray, bottom: float, top: float) -> np.ndarray:
        """Reflectance above a layer of air.

        Args:
            below: Reflectance (band, y, x) of what lies below the layer.
            bottom: Height of the layer's bottom in metres.
            top: Height of its top in metres.

        Returns:
            Reflectance (band, y, x).
        """

        def fraction(scale: float) -> float:
            return float(np.exp(-bottom / scale) - np.exp(-top / scale))

        mu = self.sun.mu
        rayleigh = self.rayleigh * fraction(AIR_SCALE_M)
        aerosol = self.aerosol * fraction(AEROSOL_SCALE_M)
        gas = self.vapour * fraction(VAPOUR_SCALE_M) + self.dry * fraction(AIR_SCALE_M)
        phase = 0.75 * (1 + mu**2)  # Rayleigh's phase function, seen from above
        path = (phase * rayleigh + 0.25 * aerosol) / (4 * mu)
        backwards = 0.5 * rayleigh + 0.12 * aerosol  # half of Rayleigh's scattering goes back
        layer = (
            path * np.exp(-gas / 2),
            np.exp(-backwards * (1 / mu + 1) - gas),
            backwards / (1 + backwards),
        )
        return add_layer(below, *np.stack(layer)[..., None, None])


def simulate_atmosphere(rng: Generator, sensor: Sensor, sun: Sun, ground: float) -> Atmosphere:
    """Simulate the air of one day.

    Args:
        rng: Source of randomness.
        sensor: The sensor, for its bands.
        sun: Position of the sun.
        ground: Elevation of the ground in metres.

    Returns:
        The air above the ground.
    """
    table = air()
    rayleigh = 0.008569 * GRID**-4 * (1 + 0.0113 * GRID**-2)  # Hansen and Travis (1974)
    median, spread, most = AEROSOL_DEPTH
    depth = min(median * np.exp(rng.normal(0, spread)), most)
    aerosol = depth * (GRID / 0.55) ** -rng.uniform(*ANGSTROM)
    # Absorption as in SPCTRL2 (Bird and Riordan 1986), down to the ground and back up.
    mass = 1 / sun.mu + 1
    damp = table.vapour * np.exp(rng.normal(np.log(1.5), 0.6)) * mass
    vapour = 0.2385 * damp / (1 + 20.07 * damp) ** 0.45
    mixed = 1.41 * table.mixed * mass / (1 + 118.3 * table.mixed * mass) ** 0.45
    dry = table.ozone * 0.3 * mass + mixed
    scattering = band_average(sensor, np.stack([rayleigh, aerosol]))
    # Absorption varies within a band: what is averaged is light, not depth.
    light = band_average(sensor, np.exp(-np.stack([vapour, dry])))
    absorption = -np.log(light.clip(1e-6))
    return Atmosphere(
        sun=sun,
        rayleigh=scattering[0] * np.exp(-ground / AIR_SCALE_M),
        aerosol=scattering[1],
        vapour=absorption[0] * np.exp(-ground / VAPOUR_SCALE_M),
        dry=absorption[1],
    )
