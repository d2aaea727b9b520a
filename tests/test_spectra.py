"""Spectral band adjustment: what moves one sensor's reflectances to another's bands."""

from itertools import product

import numpy as np
import pytest

from clouddl.errors import InputError
from clouddl.sensors import BAND_SETS, get_sensor
from clouddl.simulate.spectra import GRID, adjustment, band_average, surfaces

FIVE, SPOT = BAND_SETS["five"], BAND_SETS["spot"]


def test_a_sensor_is_left_as_it_is() -> None:
    matrix, offset, error = adjustment(get_sensor("spot-5"), get_sensor("spot-5"), SPOT)
    np.testing.assert_allclose(matrix, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(offset, 0, atol=1e-9)
    np.testing.assert_allclose(error, 0, atol=1e-9)


@pytest.mark.parametrize("name", ["landsat-5", "landsat-8"])
def test_bands_come_nearer_on_every_kind_of_surface_taken_alike(name: str) -> None:
    source, target = get_sensor(name), get_sensor("sentinel-2")
    matrix, offset, error = adjustment(source, target, FIVE)
    before, after = [], []
    for spectra in surfaces().values():
        inputs, outputs = band_average(source, spectra, FIVE), band_average(target, spectra, FIVE)
        before.append(((inputs - outputs) ** 2).mean(0))
        after.append(((inputs @ matrix.T + offset - outputs) ** 2).mean(0))
    np.testing.assert_allclose(np.sqrt(np.mean(after, 0)), error)
    assert (error < np.sqrt(np.mean(before, 0))).all()


@pytest.mark.parametrize(
    ("pair", "level"), product([("landsat-8", "sentinel-2"), ("spot-4", "spot-5")], [0.0, 0.8])
)
def test_black_and_white_stay_so(pair: tuple[str, str], level: float) -> None:
    # Clouds are not among the spectra: what is alike at all wavelengths must not drift far.
    source, target = map(get_sensor, pair)
    matrix, offset, _ = adjustment(source, target, SPOT)
    inputs = band_average(source, np.full(len(GRID), level), SPOT)
    np.testing.assert_allclose(matrix @ inputs + offset, level, atol=0.03)


def test_a_band_that_a_sensor_lacks_is_named() -> None:
    with pytest.raises(InputError, match="sensor spot-4 has no band 'blue'"):
        adjustment(get_sensor("sentinel-2"), get_sensor("spot-4"), FIVE)
