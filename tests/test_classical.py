"""The comparators: their equations pixel by pixel, other sensors' bands, a series, real images."""

import os
from collections.abc import Callable
from datetime import date

import numpy as np
import pytest
import xarray as xr

from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.labels import available_tests, spectral_tests
from clouddl.mission.classical import multi_temporal_test
from clouddl.scenes import Scene
from clouddl.score import counts, pooled
from clouddl.transfer import open_scenes, score_masks
from clouddl_study.corpora import open_corpus

SIX = ["blue", "green", "red", "nir", "swir16", "swir22"]
SPOT = ["green", "red", "nir", "swir16"]
PLEIADES = ["blue", "green", "red", "nir"]
CLOUD = [0.40, 0.40, 0.40, 0.45, 0.35, 0.25]
LAWN = [0.09, 0.10, 0.07, 0.40, 0.20, 0.10]


def image(*pixels: list[float], bands: list[str] = SIX) -> xr.DataArray:
    """Pixels of six bands, side by side, cut to `bands`."""
    six = xr.DataArray(
        np.array(pixels, np.float32).T[:, None], {"band": SIX}, ("band", "y", "x"),
        attrs={"resolution": 30.0},
    )  # fmt: skip
    return six.sel(band=bands)


@pytest.mark.parametrize(
    ("test", "pixel"),
    [
        ("snow index", [0.60, 0.60, 0.60, 0.60, 0.05, 0.04]),
        ("vegetation index", [0.25, 0.15, 0.05, 0.60, 0.35, 0.25]),
        ("dark in swir22", [0.40, 0.40, 0.40, 0.45, 0.35, 0.02]),
        ("whiteness", [0.80, 0.40, 0.20, 0.45, 0.35, 0.25]),
        ("haze", [0.15, 0.15, 0.15, 0.20, 0.20, 0.20]),
        ("rock", [0.40, 0.40, 0.40, 0.35, 0.50, 0.25]),
    ],
)
def test_each_test_alone_can_clear_a_pixel(test: str, pixel: list[float]) -> None:
    assert spectral_tests(image(CLOUD, pixel, LAWN)).tolist() == [[1, 0, 0]]
    needed = available_tests(SIX)[test]
    rest = [band for band in SIX if band not in needed or band in ("blue", "green", "red", "nir")]
    if test in ("snow index", "rock", "dark in swir22"):
        assert spectral_tests(image(CLOUD, pixel, bands=rest)).tolist() == [[1, 1]]


def test_the_edges_of_the_thresholds_are_the_published_ones() -> None:
    haze = [[0.5 * 0.2 + 0.08 + step, 0.2, 0.2, 0.2, 0.2, 0.2] for step in (-0.001, 0.001)]
    assert spectral_tests(image(*haze)).tolist() == [[0, 1]]
    rock = [[0.4, 0.4, 0.4, 0.3 * ratio, 0.3, 0.3] for ratio in (0.749, 0.751)]
    assert spectral_tests(image(*rock)).tolist() == [[0, 1]]


def test_the_tests_that_are_left_are_named() -> None:
    everything = {"snow index", "vegetation index", "dark in swir22", "whiteness", "haze", "rock"}
    assert set(available_tests(SIX)) == everything
    spot, pleiades = available_tests(SPOT), available_tests(PLEIADES)
    assert set(spot) == everything - {"dark in swir22"}
    assert spot["haze"] == ["green", "red"]  # no blue
    assert spot["whiteness"] == ["green", "red"]
    assert pleiades["haze"] == ["blue", "red"]
    assert set(pleiades) == {"vegetation index", "whiteness", "haze"}


@pytest.mark.parametrize("bands", [SPOT, PLEIADES, SPOT[::-1]])
def test_other_sensors_and_orders_of_bands(bands: list[str]) -> None:
    mask = spectral_tests(image(CLOUD, LAWN, bands=bands))
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[1, 0]]


def test_nodata_and_black_pixels() -> None:
    nodata = [*CLOUD[:3], float("nan"), *CLOUD[4:]]
    assert spectral_tests(image(CLOUD, nodata, [0.0] * 6)).tolist() == [[1, 255, 0]]


def test_clouds_are_not_grown() -> None:
    pixels = image(LAWN, LAWN, CLOUD, LAWN)
    assert spectral_tests(pixels).tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize("bands", [["nir", "swir16"], ["red", "nir"], ["blue", "green"]])
def test_without_a_test_of_brightness_nothing_is_said(bands: list[str]) -> None:
    with pytest.raises(InputError, match="need red and blue or green, this image has"):
        spectral_tests(image(CLOUD, bands=bands))


# The series.


def shade(blue: float, red: float) -> list[float]:
    return [blue, 0.10, red, 0.40, 0.20, 0.10]


def test_a_rise_is_a_cloud_and_less_so_after_more_days() -> None:
    first, later = image(shade(0.10, 0.07)), image(shade(0.145, 0.10))
    _, soon = multi_temporal_test([first, later], ["2018-01-01", "2018-01-02"])
    _, late = multi_temporal_test([first, later], ["2018-01-01", "2018-02-20"])  # 0.03 (1 + 50/30)
    assert (soon.values.tolist(), late.values.tolist()) == ([[1]], [[0]])
    assert soon.dtype == np.uint8
    assert soon.test == "multi-temporal test"
    assert soon.date == "2018-01-02"


def test_ploughed_soil_is_no_cloud() -> None:
    first, ploughed = image(shade(0.10, 0.07)), image(shade(0.14, 0.14))
    assert multi_temporal_test([first, ploughed], ["2018-01-01", "2018-01-02"])[1] == 0
    spot = [part.sel(band=SPOT) for part in (first, ploughed)]  # red is all that SPOT has to watch
    assert multi_temporal_test(spot, ["2018-01-01", "2018-01-02"])[1] == 1


def test_the_first_date_and_pixels_never_clear_are_left_to_the_spectral_tests() -> None:
    series = [image(CLOUD, LAWN), image(CLOUD, CLOUD), image(LAWN, LAWN), image(CLOUD, LAWN)]
    dates = [date(2018, month, 1) for month in (1, 2, 3, 4)]
    masks = multi_temporal_test(series, dates)
    assert [mask.values.tolist() for mask in masks] == [[[1, 0]], [[1, 1]], [[0, 0]], [[1, 0]]]
    assert [mask.without_predecessor for mask in masks] == [1, 0.5, 0.5, 0]
    some = "multi-temporal test, spectral tests where no predecessor is clear"
    assert [mask.test for mask in masks] == ["spectral tests", some, some, "multi-temporal test"]


def test_the_order_of_the_series_does_not_matter() -> None:
    series, dates = (
        [image(LAWN), image(CLOUD), image(LAWN)],
        ["2018-01-01", "2018-02-01", "2018-03-01"],
    )
    forth = multi_temporal_test(series, dates)
    back = multi_temporal_test(series[::-1], dates[::-1])[::-1]
    assert [mask.identical(other) for mask, other in zip(forth, back, strict=True)] == [True] * 3


def test_nodata_is_no_predecessor() -> None:
    nodata = image([float("nan")] * 6, LAWN)
    first, second, third = multi_temporal_test(
        [nodata, image(CLOUD, CLOUD), nodata], ["2018-01-01", "2018-02-01", "2018-03-01"]
    )
    assert [mask.values.tolist() for mask in (first, second, third)] == [
        [[255, 0]],
        [[1, 1]],
        [[255, 0]],
    ]
    assert second.without_predecessor == 0.5


@pytest.mark.parametrize(
    ("bands", "dates", "message"),
    [
        ([SIX, SPOT], ["2018-01-01", "2018-02-01"], "2 different grids"),
        ([SIX, SIX], ["2018-01-01"], "2 images, 1 different grids, 1 dates"),
        ([SIX, SIX], ["2018-01-01", "2018-01-01"], "each with another date"),
        ([SIX, SIX], ["2018-01-01", "last week"], "last week"),
        ([], [], "got 0 images"),
    ],
)
def test_a_series_that_is_none(bands: list[list[str]], dates: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        multi_temporal_test([image(CLOUD, bands=names) for names in bands], dates)


# Whole images.


@pytest.mark.parametrize("sensor", ["sentinel-2", "spot-5", "pleiades"])
def test_simulated_clouds_are_found(simulated: Callable[..., Scene], sensor: str) -> None:
    scenes = open_scenes([simulated(seed, sensor=sensor) for seed in range(3)], Store(None), 30)
    masks = {name: spectral_tests(scene.reflectance) for name, scene in scenes.items()}
    scores = pooled(score_masks(masks, scenes))
    assert scores.f2[0] > 0.5, scores


def test_a_cloud_that_comes_and_goes_over_simulated_ground(simulated: Callable[..., Scene]) -> None:
    fields = {"seed": 1, "size": 64, "surface": "crops"}
    fractions = {0: 0.0, 1: 0.4}
    records = [
        simulated(n, simulated=fields | {"cloud_fraction": value}) for n, value in fractions.items()
    ]
    clear, cloudy = open_scenes(records, Store(None), 30).values()
    masks = multi_temporal_test(
        [clear.reflectance, cloudy.reflectance], ["2020-01-01", "2020-01-11"]
    )
    pixels = counts(masks[1].values, cloudy.mask.values)
    assert masks[1].without_predecessor < 0.2
    assert pixels["tp"] > 0.5 * (pixels["tp"] + pixels["fn"])  # simulated clouds have thin rims
    assert pixels["tp"] > 0.8 * (pixels["tp"] + pixels["fp"])


real = pytest.mark.skipif("CLOUDDL_MIRROR" not in os.environ, reason="needs CLOUDDL_MIRROR")


@real
@pytest.mark.parametrize(("bands", "least"), [(SIX, 0.88), (SPOT, 0.90), (PLEIADES, 0.84)])
def test_real_landsat_8(bands: list[str], least: float) -> None:
    catalogue, store = open_corpus("real")
    records = [s for s in catalogue.select("reference") if s.collection == "l8biome"]
    scenes = open_scenes(records, store, 30)
    masks = {n: spectral_tests(scene.reflectance.sel(band=bands)) for n, scene in scenes.items()}
    assert pooled(score_masks(masks, scenes)).f2[0] > least


@real
def test_real_series() -> None:
    catalogue, store = open_corpus("real")
    records = [s for s in catalogue.select("train") if s.collection == "sen12mscrts_italy"]
    scenes = open_scenes(records, store, 30)
    dates = [name.split("_")[1] for name in scenes]
    masks = multi_temporal_test([scene.reflectance for scene in scenes.values()], dates)
    cloudy = {mask.date: float((mask == 1).mean()) for mask in masks}
    assert cloudy["2018-09-03"] < 0.01  # a clear day
    assert min(cloudy["2018-01-06"], cloudy["2018-11-02"]) > 0.99  # overcast
    assert masks[0].test == "spectral tests"
    assert masks[-1].without_predecessor < 0.01
