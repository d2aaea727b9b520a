"""Transfer to another sensor, and the work folder that notebooks share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.labels import to_mask
from clouddl.model import CloudModel, save_model
from clouddl.network import ModelCard, build
from clouddl.predict import predict_array
from clouddl.scenes import Catalogue, Scene, load_catalogue
from clouddl.score import COUNTS
from clouddl.transfer import (
    Method,
    adapt,
    evaluate,
    model_method,
    open_scenes,
    pixels,
    predictions,
    probability,
    score_masks,
)
from clouddl_study import workspace

MakeCard = Callable[..., ModelCard]
MakeScene = Callable[..., Scene]


def model_of(card: ModelCard) -> CloudModel:
    torch.manual_seed(0)
    return CloudModel(card, build(card), "cpu")


@pytest.fixture(scope="module")
def scenes(simulated: MakeScene) -> dict[str, xr.Dataset]:
    """Two simulated scenes as SPOT-5 would see them, 64 × 64 pixels of 30 m."""
    records = [simulated(seed, "reference", sensor="spot-5") for seed in (1, 2)]
    return open_scenes(records, Store(None), 30)


def test_scenes_come_at_the_working_resolution(simulated: MakeScene) -> None:
    records = [
        simulated(0, biome="Barren"),
        simulated(1, resolution=60.0),
        simulated(2, resolution=90.0),
    ]
    found = open_scenes(records, Store(None), 60)
    assert list(found) == ["simulated-0", "simulated-1", "simulated-2"]
    assert [scene.sizes["y"] for scene in found.values()] == [32, 64, 96]
    assert [scene.attrs["biome"] for scene in found.values()] == ["Barren", "", ""]
    for record, scene in zip(records, found.values(), strict=True):
        assert scene.attrs["resolution"] == 60
        assert (scene.attrs["group"], scene.attrs["collection"]) == (record.group, "simulated")
        assert scene.mask.shape == scene.reflectance.shape[1:]
        assert set(np.unique(scene.mask)) == {0, 1, 255}  # thin cloud is unlabelled


def test_coarse_scenes_are_scored_and_learnt_from_as_they_are_predicted(
    simulated: MakeScene, tiny: MakeCard, tmp_path: Path
) -> None:
    records = [simulated(int(metres), resolution=metres) for metres in (45.0, 60.0, 75.0)]
    found = open_scenes(records, Store(None), 30)
    assert [scene.attrs["resolution"] for scene in found.values()] == [45, 60, 30]
    model = model_of(tiny())
    scene = found["simulated-60"]
    bands = scene.reflectance.sel(band=model.card.bands)
    expected = predict_array(model, bands, resolution=60)
    np.testing.assert_allclose(probability(model, scene), expected, atol=1e-6)
    grown = model_method(model, dilation_m=60).mask(scene)
    np.testing.assert_array_equal(grown, to_mask(expected, model.card.threshold, 60, 60))
    adapt(model, found, tmp_path, epochs=1, size=64)  # which brings them to one resolution


def test_bands_out_of_the_set_stay_empty(
    tiny: MakeCard, scenes: dict[str, xr.Dataset], monkeypatch: pytest.MonkeyPatch
) -> None:
    sets = [["green", "red", "nir"], ["green", "red", "nir", "swir16"]]
    model = model_of(tiny(bands=["blue", "nir", "red", "green", "swir16"], band_sets=sets))
    shown: list[np.ndarray] = []
    genuine = model.probability

    def spy(reflectance: np.ndarray) -> np.ndarray:
        shown.append(reflectance)
        return genuine(reflectance)

    monkeypatch.setattr(model, "probability", spy)
    scene = scenes["simulated-1"]
    found = probability(model, scene, ["green", "red", "nir"])
    assert found.shape == (64, 64)
    assert ((found > 0) & (found < 1)).all()
    probability(model, scene)  # the best set the scene fills: SPOT has no blue
    filled = [np.isfinite(planes).all((1, 2)).tolist() for planes in shown]
    assert filled == [[False, True, True, True, False], [False, True, True, True, True]]
    assert np.isnan(shown[0][[0, 4]]).all()
    # in the model's order, whatever the scene's
    np.testing.assert_array_equal(shown[0][1], scene.reflectance.sel(band="nir"))


def test_predictions_of_each_scene(tiny: MakeCard, scenes: dict[str, xr.Dataset]) -> None:
    model = model_of(tiny(band_sets=[["green", "red", "nir"]]))
    found = predictions(model, scenes, ["green", "red"])
    assert list(found) == list(scenes)
    for name, values in found.items():
        np.testing.assert_array_equal(values, probability(model, scenes[name], ["green", "red"]))
        assert not np.array_equal(values, probability(model, scenes[name]))


def test_nodata_of_a_scene_is_nodata_of_its_mask(
    tiny: MakeCard, scenes: dict[str, xr.Dataset]
) -> None:
    scene = scenes["simulated-1"].copy(deep=True)
    scene.reflectance.values[:, :5, :7] = np.nan
    found = probability(model_of(tiny()), scene)
    assert np.isnan(found[:5, :7]).all()
    assert np.isnan(found).sum() == 35
    assert (to_mask(found, 0.5) == 255).sum() == 35


def test_to_mask() -> None:
    values = np.array([[np.nan, 0.2, 0.5, 0.9]], np.float32)
    mask = to_mask(values, 0.5)
    assert mask.dtype == np.uint8
    assert mask.tolist() == [[255, 0, 1, 1]]
    assert to_mask(values, 0.95).tolist() == [[255, 0, 0, 0]]


def test_to_mask_grows_cloud_in_metres_but_not_into_nodata() -> None:
    values = np.array([[0.1, 0.1, 0.1, 0.9, np.nan]])
    assert to_mask(values, 0.5, 30, 30).tolist() == [[0, 0, 1, 1, 255]]
    assert to_mask(values, 0.5, 30, 10).tolist() == [[1, 1, 1, 1, 255]]


def test_scores_of_masks_by_hand(scenes: dict[str, xr.Dataset]) -> None:
    scene = scenes["simulated-1"].isel(y=slice(2), x=slice(3)).copy(deep=True)
    scene["mask"] = ("y", "x"), np.array([[0, 1, 1], [0, 255, 1]], np.uint8)
    mask = np.array([[1, 1, 0], [255, 1, 1]], np.uint8)
    table = score_masks({"one": mask, "two": scene.mask.values}, {"one": scene, "two": scene})
    assert table[COUNTS].to_numpy().tolist() == [[2, 1, 1, 0], [3, 0, 0, 2]]
    about = table[["scene", "group", "biome", "collection", "sensor"]]
    assert about.to_numpy().tolist() == [
        [name, "group-1", "", "simulated", "spot-5"] for name in ("one", "two")
    ]


def test_pixels_that_are_labelled_and_seen(scenes: dict[str, xr.Dataset]) -> None:
    scene = scenes["simulated-1"].isel(y=slice(1), x=slice(4)).copy(deep=True)
    scene["mask"] = ("y", "x"), np.array([[0, 1, 255, 1]], np.uint8)
    values = np.array([[0.1, 0.7, 0.9, np.nan]])
    found, truth = pixels({"a": values, "b": values}, {"a": scene, "b": scene})
    assert found.tolist() == [0.1, 0.7] * 2
    assert truth.tolist() == [False, True] * 2


def test_adaptation_moves_weights_and_keeps_the_threshold(
    tiny: MakeCard, scenes: dict[str, xr.Dataset], tmp_path: Path
) -> None:
    model = model_of(tiny(threshold=0.37, trained_on={"old": "abc"}, labels="ukis-csmask"))
    card = model.card.model_copy(deep=True)
    before = {name: value.clone() for name, value in model.net.state_dict().items()}
    found = adapt(model, scenes, tmp_path, epochs=1, learning_rate=1e-2, size=64)
    after = found.net.state_dict()
    moved = [name for name, value in before.items() if not torch.equal(after[name], value)]
    assert {"first.0.weight", "last.weight"} <= set(moved)
    assert found.card.threshold == 0.37
    assert (found.card.mean, found.card.std) == (card.mean, card.std)
    assert found.card.name == "tiny-adapted"
    assert found.card.labels == "people"
    assert list(found.card.trained_on) == ["old", "simulated-1", "simulated-2"]
    assert found.card.trained_on["old"] == "abc"
    # the model one started from is left alone
    assert model.card == card
    assert all(torch.equal(model.net.state_dict()[name], value) for name, value in before.items())
    assert not np.array_equal(
        probability(found, scenes["simulated-1"]), probability(model, scenes["simulated-1"])
    )


# The work folder.


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(workspace, "ROOT", tmp_path / "project")
    return tmp_path / "project"


def test_a_relative_work_folder_lies_under_the_project(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # wherever the notebook runs
    assert workspace.work_folder("build/work") == root / "build" / "work"
    assert workspace.results_folder("build/work") == root / "build" / "work" / "results"
    assert workspace.work_folder(tmp_path / "elsewhere") == tmp_path / "elsewhere"
    assert (root / "build" / "work" / "results").is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"project", "elsewhere"}


def test_the_project_is_where_the_package_lies() -> None:
    assert (workspace.ROOT / "clouddl_study" / "workspace.py").is_file()
    assert workspace.work_folder(workspace.ROOT) == workspace.ROOT


def test_choices(root: Path) -> None:
    found = workspace.read_choices("work")
    assert found == workspace.DEFAULT_CHOICES
    found["resolution"] = 1  # a caller's change must not become the default
    assert workspace.read_choices("work") == workspace.DEFAULT_CHOICES
    workspace.write_choices("work", normalisation="chip", resolution=20.0)
    assert workspace.read_choices("work") == {"normalisation": "chip", "resolution": 20.0}


def test_tables_for_the_book(root: Path) -> None:
    table = pd.DataFrame({"sensor": ["spot-5"], "F2": [0.9]})
    assert workspace.write_table("work", "headline", table) is table
    written = (root / "work" / "results" / "headline.csv").read_text()
    assert written == "sensor,F2\nspot-5,0.9\n"


def test_a_model_of_the_work_folder_goes_before_the_shipped_one(
    root: Path, tiny: MakeCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workspace, "WEIGHTS", root / "weights")
    save_model(model_of(tiny(name="shipped")), root / "weights" / "spot")
    assert workspace.trained_model("work", "spot").card.name == "shipped"
    save_model(model_of(tiny(name="own")), root / "work" / "models" / "spot")
    assert workspace.trained_model("work", "spot").card.name == "own"


@pytest.mark.parametrize(
    ("name", "said", "unsaid"),
    [
        (
            "simulated",
            ["simulated by the package", "none is real", "say nothing about clouds"],
            "SPOT",
        ),
        ("real", ["shows real images", "hand-labelled", "816 simulated"], "none is real"),
    ],
)
def test_the_note_says_which_images_a_build_shows(
    tmp_path: Path, name: str, said: list[str], unsaid: str
) -> None:
    catalogue: Catalogue = load_catalogue(name)
    path = tmp_path / "corpus_note.md"
    text = workspace.write_corpus_note(catalogue, path)
    assert path.read_text(encoding="utf-8") == text + "\n"
    assert all(words in text for words in said)
    assert unsaid not in text
    simulated = sum(scene.simulated is not None for scene in catalogue.select("train"))
    assert f"{simulated} simulated, validation" in text
    assert f"test {len(catalogue.select('reference'))} " in text


def test_methods_are_scored_where_a_scene_has_their_bands(scenes: dict[str, xr.Dataset]) -> None:
    methods = {
        "perfect": Method((), lambda scene: scene.mask.values),
        "blind": Method(("no such band",), lambda scene: scene.mask.values),
    }
    result = evaluate(methods, scenes)
    assert list(result.masks["perfect"]) == list(scenes) and result.masks["blind"] == {}
    assert list(result.counts.run) == ["perfect"] * len(scenes)
    assert (result.counts.fp == 0).all() and (result.counts.fn == 0).all()


def test_scenes_whose_mask_is_nodata_teach_nothing(
    tiny: MakeCard, scenes: dict[str, xr.Dataset], tmp_path: Path
) -> None:
    name = next(iter(scenes))
    scenes = {name: scenes[name].assign(mask=scenes[name].mask * 0 + 255)}
    with pytest.raises(InputError, match=f"{name}: the reference mask is nodata alone"):
        adapt(model_of(tiny()), scenes, tmp_path)
