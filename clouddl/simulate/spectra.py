"""Spectra: what surfaces, air and cloud drops do to light, and how a sensor's bands see it.

The tables in `clouddl/simulate/tables` come from published packages (`data/spectra/make_spectra.py` says
which). Everything is on `GRID`, and is brought to bands by the sensor's response under sunlight.
"""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from clouddl.errors import InputError

if TYPE_CHECKING:
    from clouddl.sensors import Band, Sensor


TABLES = Path(__file__).parent / "tables"


GRID = np.round(np.arange(0.40, 2.4501, 0.005), 3)  # µm


@cache
def air() -> pd.DataFrame:
    """On GRID: sunlight (W/m²/nm) and absorption of vapour, ozone, mixed gases, water and ice."""
    return pd.read_csv(TABLES / "air.csv")


@cache
def surfaces() -> dict[str, np.ndarray]:
    """Kind of surface → reflectances (spectrum, GRID)."""
    table = pd.read_csv(TABLES / "surfaces.csv")
    waves = table.columns[2:].astype(float)
    return {
        kind: np.stack([np.interp(GRID, waves, row) for row in rows.iloc[:, 2:].to_numpy()])
        for kind, rows in table.groupby("kind")
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


def response(band: "Band", sensor_id: str) -> np.ndarray:
    """Weights (GRID), adding up to 1, with which a band averages a spectrum.

    The published curve, or a box or Gaussian of the card's centre and width (at half height).
    Raises InputError where the card promises a curve that is not there, and outside GRID.
    """
    kind = getattr(band, "response", "gaussian")
    if kind == "published":
        table = _published(sensor_id)
        rows = table[table.native == band.native]
        curve = np.zeros(len(GRID))
        curve[np.searchsorted(GRID, rows.wavelength_um.to_numpy() - 1e-6)] = rows.response
    else:
        away = np.abs(GRID - band.centre_um) / band.width_um
        box = (away <= 0.5) | (away == away.min())  # a line between two samples takes the nearest
        curve = box.astype(float) if kind == "box" else np.exp(-4 * np.log(2) * away**2)
        if not GRID[0] <= band.centre_um <= GRID[-1]:
            curve = np.zeros(len(GRID))
    if not curve.any():
        raise InputError(
            f"sensor {sensor_id}: band {band.native} ({band.common}) has no response between "
            f"{GRID[0]} and {GRID[-1]} µm; name it otherwise or leave it out"
        )
    return curve / curve.sum()


def through(sensor: "Sensor", names: list[str], spectra: np.ndarray) -> np.ndarray:
    """Spectra (…, GRID) as the bands `names` of a sensor see them under sunlight (…, band)."""
    weights = np.stack([response(sensor.band(name), sensor.id) for name in names])
    weights = weights * air().sunlight.to_numpy()
    return spectra @ (weights / weights.sum(1, keepdims=True)).T


def adjustment(
    source: "Sensor", target: "Sensor", bands: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What moves reflectances of one sensor to the bands of another: `matrix @ source + offset`.

    Matrix (target band, source band) and offset (band) by least squares over the spectra of
    `surfaces`, every kind counting alike, and the root mean square (band) of what is left there.
    Ground alone is fitted, without air and clouds. Raises InputError where a sensor lacks a band.
    """
    kinds = list(surfaces().values())
    spectra = np.concatenate(kinds)
    weight = np.concatenate([np.full(len(kind), 1 / len(kind)) for kind in kinds])
    seen, wanted = (through(sensor.middle(), bands, spectra) for sensor in (source, target))
    inputs, root = np.column_stack([seen, np.ones(len(seen))]), np.sqrt(weight)[:, None]
    solved = np.linalg.lstsq(inputs * root, wanted * root, rcond=None)[0]
    left = np.average((wanted - inputs @ solved) ** 2, axis=0, weights=weight)
    return solved[:-1].T, solved[-1], np.sqrt(left)
