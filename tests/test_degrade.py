"""Degradations: each does its harm and no other, and robustness scores it."""

import os
from collections.abc import Callable

import numpy as np
import pytest
import torch
import xarray as xr

from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.labels import to_mask
from clouddl.mission.degrade import DEGRADATIONS, degrade
from clouddl.model import CloudModel, load_model
from clouddl.network import ModelCard, build
from clouddl.scenes import Scene
from clouddl.score import pooled
from clouddl.transfer import open_scenes, predictions, score_masks
from clouddl_study.corpora import open_corpus
from clouddl_study.pages.robustness import robustness

BANDS = ["green", "red", "nir", "swir16"]
HARMLESS = {"saturation": 9.0, "resolution": 30.0}  # of all others, 0
HARMFUL = {"resolution": 60.0, "rotation": 90.0, "saturation": 0.1}  # of all others, 0.5


@pytest.fixture
def scene(simulated: Callable[..., Scene]) -> xr.Dataset:
    """One simulated SPOT-5 scene of 48 × 64 pixels of 30 m with nodata in it."""
    opened = open_scenes([simulated(1, sensor="spot-5")], Store(None), 30)["simulated-1"]
    cut = opened.isel(y=slice(48)).copy(deep=True)
    cut.reflectance.values[:, 3:7, 10:20] = np.nan
    return cut


def values(scene: xr.Dataset, band: str = "red") -> np.ndarray:
    return scene.reflectance.sel(band=band).values


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_no_harm_changes_nothing(scene: xr.Dataset, name: str) -> None:
    same = degrade(scene, name, HARMLESS.get(name, 0.0))
    np.testing.assert_allclose(same.reflectance, scene.reflectance, atol=1e-6)
    np.testing.assert_array_equal(same.mask, scene.mask)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_harm_is_done_again_alike_and_not_to_the_scene_itself(scene: xr.Dataset, name: str) -> None:
    before, level = scene.copy(deep=True), HARMFUL.get(name, 0.5)
    changed, again = degrade(scene, name, level, seed=1), degrade(scene, name, level, seed=1)
    xr.testing.assert_identical(changed, again)
    xr.testing.assert_identical(scene, before)
    assert changed.reflectance.dtype == np.float32
    assert changed.mask.dtype == np.uint8
    assert changed.mask.shape == changed.reflectance.shape[1:]
    shared = ("scene", "sensor", "group", "biome", "collection")
    assert {key: changed.attrs[key] for key in shared} == {key: scene.attrs[key] for key in shared}
    if changed.reflectance.shape == scene.reflectance.shape:
        assert not np.allclose(changed.reflectance, scene.reflectance, equal_nan=True)
        assert np.isnan(changed.reflectance.values[:, 4:6, 12:18]).all()
        np.testing.assert_array_equal(changed.mask, scene.mask)


def test_gain_and_offset(scene: xr.Dataset) -> None:
    np.testing.assert_allclose(values(degrade(scene, "gain", 0.1)), 1.1 * values(scene), rtol=1e-5)
    np.testing.assert_allclose(
        values(degrade(scene, "offset", -0.02)), values(scene) - 0.02, atol=1e-6
    )


def test_noise_has_the_deviation_asked_for_and_depends_on_seed_and_scene(scene: xr.Dataset) -> None:
    grain = values(degrade(scene, "noise", 0.03)) - values(scene)
    assert np.nanstd(grain) == pytest.approx(0.03, rel=0.1)
    more = values(degrade(scene, "noise", 0.06)) - values(scene)  # the same pattern, stronger
    np.testing.assert_allclose(more, 2 * grain, atol=1e-5)
    other = scene.assign_attrs(scene="other")
    for changed in (degrade(scene, "noise", 0.03, seed=1), degrade(other, "noise", 0.03)):
        assert not np.allclose(values(changed), values(scene) + grain, equal_nan=True)


def test_stripes_run_along_the_track(scene: xr.Dataset) -> None:
    ratio = values(degrade(scene, "striping", 0.1)) / values(scene)
    np.testing.assert_allclose(ratio[0], ratio[-1], rtol=1e-4)
    assert np.std(ratio[0]) == pytest.approx(0.1, rel=0.3)


def test_saturation(scene: xr.Dataset) -> None:
    assert np.nanmax(values(degrade(scene, "saturation", 0.2))) == pytest.approx(0.2)


def test_haze_is_strongest_in_the_shortest_wave_and_spares_the_bright(scene: xr.Dataset) -> None:
    dark, bright = (scene.assign(reflectance=scene.reflectance * 0 + v) for v in (0.0, 1.0))
    added = [float(np.nanmean(values(degrade(dark, "haze", 0.1), band))) for band in BANDS]
    assert 0.1 > added[0] > added[1] > added[2] > added[3] > 0
    assert added[0] == pytest.approx(0.1 * (0.545 / 0.49) ** -1.3, abs=0.002)
    np.testing.assert_allclose(degrade(bright, "haze", 0.1).reflectance, bright.reflectance)


def test_blur_keeps_the_mean_and_leaves_nodata_out(scene: xr.Dataset) -> None:
    soft = degrade(scene, "blur", 2)
    assert np.nanmean(values(soft)) == pytest.approx(np.nanmean(values(scene)), rel=0.02)
    assert np.nanstd(values(soft)) < np.nanstd(values(scene))
    flat = scene.assign(reflectance=scene.reflectance * 0 + 0.3)  # nodata does not darken its rim
    assert np.nanmin(values(degrade(flat, "blur", 2))) == pytest.approx(0.3)


def test_resolution_averages_and_takes_the_majority(scene: xr.Dataset) -> None:
    coarse = degrade(scene, "resolution", 60)
    assert coarse.attrs["resolution"] == 60
    assert coarse.mask.shape == (24, 32)
    assert values(coarse)[20, 20] == pytest.approx(values(scene)[40:42, 40:42].mean(), rel=1e-5)
    blocks = (scene.mask.values.reshape(24, 2, 32, 2) == 1).mean((1, 3)) >= 0.5
    np.testing.assert_array_equal(coarse.mask.values[4:] == 1, blocks[4:])
    with pytest.raises(InputError, match="20 m is finer than the scene's 30 m"):
        degrade(scene, "resolution", 20)


def test_misregistration_moves_every_band_but_the_first(scene: xr.Dataset) -> None:
    ramp = scene.copy(deep=True)
    ramp.reflectance.values[:] = 0.01 * np.arange(64)
    moved = degrade(ramp, "misregistration", 0.5).reflectance.values - ramp.reflectance.values
    assert np.abs(moved[0]).max() == 0
    inner = moved[1:, 10:-10, 10:-10]
    assert (np.abs(inner) <= 0.005 + 1e-5).all()
    assert len({round(float(band.mean()), 5) for band in inner}) == 3


def test_a_quarter_turn_is_exact(scene: xr.Dataset) -> None:
    turned = degrade(scene, "rotation", 90)
    np.testing.assert_array_equal(values(turned), np.rot90(values(scene)))
    np.testing.assert_array_equal(turned.mask, np.rot90(scene.mask))
    np.testing.assert_array_equal(turned.elevation, np.rot90(scene.elevation))
    back = degrade(turned, "rotation", -90)
    np.testing.assert_array_equal(back.reflectance, scene.reflectance)


def test_any_other_turn_has_corners_without_data(scene: xr.Dataset) -> None:
    turned = degrade(scene, "rotation", 30)
    assert turned.mask.shape == scene.mask.shape
    assert set(np.unique(turned.mask)) <= {0, 1, 255}
    for y, x in ((0, 0), (0, -1), (-1, 0), (-1, -1)):
        assert turned.mask.values[y, x] == 255
        assert np.isnan(turned.reflectance.values[:, y, x]).all()
    assert np.isfinite(turned.reflectance.values[:, 24, 32]).all()
    # the same way round as the quarter turn, and image and mask alike
    near = degrade(scene, "rotation", 89.999)
    inner = (slice(16, 32), slice(24, 40))
    middle = np.rot90(scene.mask.values[:, 8:56])[inner[0], :][:, 16:32]
    assert (near.mask.values[inner] == middle).mean() > 0.95


@pytest.mark.parametrize(
    ("name", "level", "message"),
    [
        ("fog", 1.0, "degradation 'fog' is unknown; choose gain, offset, noise"),
        ("noise", -0.1, "degradation noise: level -0.1 is out of range"),
        ("blur", float("nan"), "degradation blur: level nan is out of range"),
        ("gain", float("inf"), "degradation gain: level inf is out of range"),
    ],
)
def test_levels_and_names_that_cannot_be(
    scene: xr.Dataset, name: str, level: float, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        degrade(scene, name, level)


@pytest.fixture
def model(tiny: Callable[..., ModelCard]) -> CloudModel:
    torch.manual_seed(0)
    return CloudModel(tiny(), build(tiny()), "cpu")


def test_robustness_without_harm_is_the_plain_score(
    model: CloudModel, simulated: Callable[..., Scene]
) -> None:
    scenes = open_scenes([simulated(seed, sensor="spot-5") for seed in range(3)], Store(None), 30)
    probabilities = predictions(model, scenes, BANDS)
    threshold = float(np.median(np.stack(list(probabilities.values()))))
    model.card.threshold = threshold
    scores = robustness(model, scenes, BANDS, "noise", [0, 0.5])
    assert scores[["degradation", "level"]].to_numpy().tolist() == [["noise", 0], ["noise", 0.5]]
    masks = {name: to_mask(values, threshold) for name, values in probabilities.items()}
    plain = pooled(score_masks(masks, scenes))
    for column in ("f2", "f2_low", "f2_high", "f1", "cloud", "scenes"):
        assert scores[column][0] == plain[column][0]
    assert scores.f2[1] != plain.f2[0]
    model.card.threshold = 0.0
    everything = robustness(model, scenes, BANDS, "noise", [0])
    assert everything.recall[0] == 1


@pytest.mark.parametrize(
    ("name", "level"), [("resolution", 60.0), ("resolution", 75.0), ("rotation", 30.0)]
)
def test_robustness_where_the_grid_changes(
    model: CloudModel, simulated: Callable[..., Scene], name: str, level: float
) -> None:
    scenes = open_scenes([simulated(seed, sensor="spot-5") for seed in range(2)], Store(None), 30)
    scores = robustness(model, scenes, BANDS, name, [level])
    assert 0 <= scores.f2_low[0] <= scores.f2[0] <= scores.f2_high[0] <= 1


@pytest.mark.skipif("CLOUDDL_MIRROR" not in os.environ, reason="needs CLOUDDL_MIRROR")
def test_real_haze_costs_a_shipped_model() -> None:
    catalogue, store = open_corpus("real")
    records = [s for s in catalogue.select("reference") if s.collection == "ukis_landsat5"]
    scenes = open_scenes(records, store, 30)
    scores = robustness(load_model("spot"), scenes, BANDS, "haze", [0, 0.15])
    assert scores.f2[0] > 0.8
    assert scores.precision[1] < scores.precision[0]
