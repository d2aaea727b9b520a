"""The drawn scenes: form, truth, and the same numbers on every machine."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import xarray as xr
import yaml

from clouddl.drawn import COMMON, LANDSCAPES, draw_scene
from clouddl.errors import InputError
from clouddl.sensors import get_sensor

CATALOGUE = Path(__file__).parents[1] / "data" / "catalogue" / "drawn.yaml"


def toy(identifier: str = "toy", names: tuple[str, ...] = tuple(COMMON[:13])) -> SimpleNamespace:
    """A sensor as far as drawing needs one, so that no card can change the numbers below."""
    bands = [SimpleNamespace(common=name) for name in names]
    return SimpleNamespace(id=identifier, bands=bands)


@pytest.mark.parametrize("surface", LANDSCAPES)
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.6, 1.0])
def test_form_and_share_of_cloud(surface: str, fraction: float) -> None:
    scene = draw_scene(toy(), seed=3, size=96, surface=surface, cloud_fraction=fraction)
    assert dict(scene.sizes) == {"band": 13, "y": 96, "x": 96}
    assert list(scene.band.values) == COMMON[:13]
    assert scene.reflectance.dims == ("band", "y", "x")
    assert (scene.reflectance.dtype, scene.mask.dtype) == ("float32", "uint8")
    assert scene.elevation.dtype == "float32"
    assert not scene.reflectance.isnull().any() and not scene.elevation.isnull().any()
    assert float(scene.reflectance.min()) >= 0 and float(scene.reflectance.max()) <= 1.6
    assert set(np.unique(scene.mask)) <= {0, 1}
    assert abs(float(scene.mask.mean()) - fraction) < 0.05


def test_attributes_and_place() -> None:
    scene = draw_scene(toy(), seed=3, size=32, resolution=20, role="reference", group="north")
    assert scene.attrs["level"] == "toa" and scene.attrs["sensor"] == "toy"
    assert scene.attrs["role"] == "reference" and scene.attrs["group"] == "north"
    assert scene.attrs["resolution"] == 20.0 and scene.attrs["scene"] == "drawn-toy-mixed-3"
    assert scene.rio.crs.to_epsg() == 32631
    assert scene.rio.resolution() == (20.0, -20.0)


def test_same_seed_same_scene() -> None:
    first, second = (draw_scene(toy(), seed=11, size=64) for _ in range(2))
    xr.testing.assert_identical(first, second)
    assert not first.equals(draw_scene(toy(), seed=12, size=64))


def test_same_numbers_on_every_machine() -> None:
    scene = draw_scene(toy(), seed=11, size=64, surface="mixed")
    drawn = scene.reflectance.values[[0, 3, 7, 10, 12], [5, 20, 33, 47, 60], [8, 50, 31, 2, 44]]
    np.testing.assert_allclose(
        drawn, [0.1561430, 0.0625470, 0.2590728, 0.0280052, 0.0991130], rtol=0, atol=1e-6
    )
    assert int(scene.mask.sum()) == 853


def test_sensors_share_the_place_but_not_the_radiometry() -> None:
    one, other = (draw_scene(toy(name), seed=5, size=64) for name in ("one", "other"))
    xr.testing.assert_equal(one.mask, other.mask)
    xr.testing.assert_equal(one.elevation, other.elevation)
    difference = float(abs(one.reflectance - other.reflectance).mean())
    assert 0.0005 < difference < 0.05


def test_brightness_alone_does_not_give_the_mask() -> None:
    """Over snow and sand no threshold on red finds the clouds."""
    for surface in ("snow", "sand"):
        scene = draw_scene(toy(), seed=105, surface=surface, cloud_fraction=0.3)
        red, cloud = scene.reflectance.sel(band="red").values, scene.mask.values == 1
        best = max(((red > level) == cloud).mean() for level in np.linspace(0, 1.2, 60))
        assert best < 0.95


def test_thermal_bands_are_left_out() -> None:
    scene = draw_scene(toy(names=("blue", "lwir11", "swir16")), seed=1, size=32)
    assert list(scene.band.values) == ["blue", "swir16"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"surface": "moon"}, "moon.*mixed, forest, crops, barren, sand, urban, water, snow"),
        ({"cloud_fraction": 1.5}, "cloud_fraction is 1.5"),
        ({"seed": -1}, "seed=-1"),
        ({"size": 8}, "size=8"),
        ({"resolution": 0.0}, "resolution=0.0"),
        ({"sensor": toy(names=("blue", "ultraviolet"))}, "toy.*ultraviolet"),
    ],
)
def test_bad_arguments(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        draw_scene(**({"sensor": toy(), "seed": 1, "size": 32} | wrong))


def test_catalogue_can_be_drawn() -> None:
    collections = yaml.safe_load(CATALOGUE.read_text())["collections"]
    groups: dict[str, str] = {}
    for collection in collections.values():
        sensor = get_sensor(collection["sensor"])
        for record in collection["scenes"]:
            assert groups.setdefault(record["group"], record["role"]) == record["role"]
        draw_scene(sensor, **(record["drawn"] | {"size": 32}))
    seeds = [r["drawn"]["seed"] for c in collections.values() for r in c["scenes"]]
    assert len(seeds) == len(set(seeds)) == 60
