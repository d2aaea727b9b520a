"""Spectra: what surfaces, air and cloud drops do to light, and how a sensor's bands see it.

The tables in `tables` come from published packages; data/spectra/make_spectra.py names them.
Everything is on `GRID`, and is brought to bands by the sensor's response under sunlight.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from clouddl.errors import InputError
from clouddl.sensors import Band, Sensor, middle

TABLES = Path(__file__).parent / "tables"

#: Wavelengths in µm, from 0.40 to 2.45.
GRID = np.round(np.arange(0.40, 2.4501, 0.005), 3)


@cache
def air() -> pd.DataFrame:
    """Sunlight (W/m²/nm) and absorption of vapour, ozone, mixed gases, water and ice on GRID."""
    return pd.read_csv(TABLES / "air.csv")


@cache
def surfaces() -> dict[str, np.ndarray]:
    """Reflectances (spectrum, GRID) of every kind of surface, by name."""
    table = pd.read_csv(TABLES / "surfaces.csv")
    wavelengths = table.columns[2:].astype(float)
    return {
        name: np.stack([np.interp(GRID, wavelengths, row) for row in rows.iloc[:, 2:].to_numpy()])
        for name, rows in table.groupby("kind")
    }


@cache
def _published(sensor: str) -> pd.DataFrame:
    path = TABLES / "responses" / f"{sensor}.csv"
    if not path.exists():
        raise InputError(
            f"sensor {sensor}: no published response curve comes with CloudDL; write `gaussian` "
            "or `box` for `response` in its card"
        )
    return pd.read_csv(path)


def response(band: Band, sensor_id: str) -> np.ndarray:
    """Weights with which a band averages a spectrum.

    Args:
        band: The band; its card says whether its response is the published curve, or a box or a
            Gaussian of its centre and width (at half height).
        sensor_id: The sensor whose published curve is read.

    Returns:
        Weights (GRID), adding up to 1.

    Raises:
        InputError: No curve is published, or the band lies outside GRID.
    """
    if band.response == "published":
        table = _published(sensor_id)
        rows = table[table.native == band.native]
        curve = np.zeros(len(GRID))
        curve[np.searchsorted(GRID, rows.wavelength_um.to_numpy() - 1e-6)] = rows.response
    else:
        centre = middle(band.centre_um)
        distance = np.abs(GRID - centre) / middle(band.width_um)
        if band.response == "box":  # a line between two samples takes the nearest
            curve = ((distance <= 0.5) | (distance == distance.min())).astype(float)
        else:
            curve = np.exp(-4 * np.log(2) * distance**2)
        curve = curve * (GRID[0] <= centre <= GRID[-1])
    if not curve.any():
        raise InputError(
            f"sensor {sensor_id}: band {band.native} ({band.common}) has no response between "
            f"{GRID[0]} and {GRID[-1]} µm; name it otherwise or leave it out"
        )
    return curve / curve.sum()


def band_average(
    sensor: Sensor, spectra: np.ndarray, bands: Sequence[str] | None = None
) -> np.ndarray:
    """Spectra as the bands of a sensor see them under sunlight.

    Args:
        sensor: The sensor.
        spectra: Spectra (…, GRID).
        bands: Common names of the bands; None: all of the sensor.

    Returns:
        Values (…, band).
    """
    chosen = sensor.bands if bands is None else [sensor.band(name) for name in bands]
    weights = np.stack([response(band, sensor.id) for band in chosen])
    weights = weights * air().sunlight.to_numpy()
    return spectra @ (weights / weights.sum(1, keepdims=True)).T


def adjustment(
    source: Sensor, target: Sensor, bands: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What moves reflectances of one sensor to the bands of another: `matrix @ source + offset`.

    Fitted by least squares over the spectra of `surfaces`, every kind counting alike. Ground alone
    is fitted, without air and clouds.

    Args:
        source: The sensor to move from.
        target: The sensor to move to.
        bands: Common names of bands that both have.

    Returns:
        Matrix (target band, source band), offset (band), and the root mean square error (band) that
        remains over the spectra.

    Raises:
        InputError: A sensor lacks a band.
    """
    groups = list(surfaces().values())
    spectra = np.concatenate(groups)
    weight = np.concatenate([np.full(len(group), 1 / len(group)) for group in groups])
    inputs = band_average(source.middle(), spectra, bands)
    outputs = band_average(target.middle(), spectra, bands)
    design = np.column_stack([inputs, np.ones(len(inputs))])
    root = np.sqrt(weight)[:, None]
    solution = np.linalg.lstsq(design * root, outputs * root, rcond=None)[0]
    error = np.average((outputs - design @ solution) ** 2, axis=0, weights=weight)
    return solution[:-1].T, solution[-1], np.sqrt(error)
