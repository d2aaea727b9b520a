"""What pages make of the catalogue and of trained models."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr

from clouddl.model import CloudModel, load_model
from clouddl.network import ModelCard, build
from clouddl.scenes import Catalogue
from clouddl.score import pooled
from clouddl.transfer import Evaluation, left_out, score_masks
from clouddl_study.experiments import teaching_order
from clouddl_study.pages import bands, life, pairs, transfer
from clouddl_study.pages.data import places_table
from clouddl_study.pages.search import best_of, search_in_words

SCENE = {"collection": "a", "sensor": "sentinel-2", "resolution": 10, "role": "train"}


def test_a_place_counts_once_and_a_simulated_scene_is_a_place() -> None:
    real = {**SCENE, "group": "r", "biome": "GrassCrops", "image": ["a.tif"]}
    simulated = {**SCENE, "group": "s", "biome": "sea_ice", "simulated": {"seed": 1}}
    scenes = [
        {**real, "id": "1"},
        {**real, "id": "2"},
        {**real, "id": "3", "group": "q"},
        {**real, "id": "4", "group": "p", "role": "reference", "biome": None},
        {**simulated, "id": "5"},
        {**simulated, "id": "6"},
    ]
    table = places_table(Catalogue(name="c", title="C", scenes=scenes))
    assert table.values.tolist() == [
        ["train", "sentinel-2", "real", 2, "grass and crops 2"],
        ["train", "sentinel-2", "simulated", 2, "sea ice 2"],
        ["reference", "sentinel-2", "real", 1, "not recorded 1"],
    ]


def test_the_best_seed_on_validation_gets_the_name(
    tiny: Callable[..., ModelCard], tmp_path: Path
) -> None:
    fits = {}
    for seed, f2 in enumerate((0.7, 0.8, 0.9)):
        torch.manual_seed(seed)
        card = tiny(
            name=f"seed-{seed}", scores={"validation_f2": f2}, mean=[0.0] * 4, std=[1.0] * 4
        )
        fits[card.name] = CloudModel(card, build(card), "cpu")
    compared = pd.DataFrame({"model": list(fits), "score of choice": [0.5, 0.9, 0.7]})
    best_of(fits, compared, "spot", tmp_path)
    shipped = load_model(tmp_path / "spot", "cpu")
    assert (shipped.card.name, shipped.card.scores) == ("spot", {"validation_f2": 0.8})
    assert fits["seed-1"].card.name == "seed-1"
    same = fits["seed-1"].net.last.weight.half().float()
    assert torch.equal(shipped.net.last.weight, same)


def labelled(biome: str, cloud: float, group: str) -> xr.Dataset:
    """A scene of which only its mask matters, a share `cloud` of it cloudy."""
    mask = (np.arange(100) < 100 * cloud).astype(np.uint8).reshape(10, 10)
    return xr.Dataset({"mask": (("y", "x"), mask)}, attrs={"biome": biome, "group": group})


@pytest.mark.parametrize(
    ("trials", "at_once", "beforehand", "words"),
    [
        (4, 2, [0.1], ("All of them were sampled at random", "fixed beforehand")),
        (4, 1, [], ("The first 3 were sampled at random, TPE proposed the other 1", "its winner")),
        (30, 4, [], ("The first 12 were", "TPE proposed the other 18")),
    ],
)
def test_the_search_says_how_much_of_it_is_random(
    trials: int, at_once: int, beforehand: list[float], words: tuple[str, ...]
) -> None:
    table = pd.DataFrame({"seconds": [60.0] * trials})
    said = search_in_words(table, trials, 30, at_once, beforehand).data
    assert all(part in said for part in words)


def test_one_scene_of_each_biome_is_labelled_first() -> None:
    shelf = {
        "a": labelled("Forest", 0.0, "north"),
        "b": labelled("Forest", 0.4, "north"),
        "c": labelled("Forest", 0.5, "south"),
        "d": labelled("Barren", 1.0, "east"),
        "e": labelled("Water", 0.3, "west"),
    }
    order = teaching_order(dict(reversed(shelf.items())))
    assert order == ["b", "e", "d"]  # those with cloud and clear ground, then the one without
    # What shares a group with them would tell the model the answer.
    assert list(left_out(shelf, order)) == ["c"]


def evaluated(patches: int, size: int = 256) -> tuple[Evaluation, dict[str, xr.Dataset]]:
    """Two methods on patches of half cloud: one misses a tenth of it, the other a third."""
    rng = np.random.default_rng(0)
    scenes = {}
    masks: dict[str, dict[str, np.ndarray]] = {"CloudDL: red": {}, "everything else: red": {}}
    for number in range(patches):
        truth = np.tile(np.array([0, 1], np.uint8), (size, size // 2))
        about = {"group": f"g{number}", "biome": "", "collection": "c", "sensor": "landsat-8"}
        scenes[f"s{number}"] = xr.Dataset({"mask": (("y", "x"), truth)}, attrs=about)
        for run, missed in zip(masks, (0.1, 0.3), strict=True):
            masks[run][f"s{number}"] = truth * (rng.random(truth.shape) > missed)
    counts = [score_masks(found, scenes).assign(run=run) for run, found in masks.items()]
    return Evaluation(masks, pd.concat(counts)), scenes


@pytest.mark.parametrize(
    ("patches", "size", "over_places", "within"),
    [(1, 256, False, True), (1, 64, False, False), (4, 64, False, False), (5, 64, True, False)],
)
def test_a_difference_has_an_interval_over_places_or_within_its_one_patch(
    patches: int, size: int, over_places: bool, within: bool
) -> None:
    evaluation, scenes = evaluated(patches, size)
    runs = list(evaluation.masks)
    table = transfer.differences({"c": evaluation}, {"c": scenes}, runs[0], runs[1:], 50, 0)
    (row,) = table.to_dict("records")
    assert row["difference"] > 0.1 and row["units"] == patches
    assert (np.isfinite(row["low"]), np.isfinite(row["within from"])) == (over_places, within)
    assert not within or row["within from"] < row["difference"] < row["within to"]


@pytest.mark.parametrize(("patches", "over_places"), [(4, False), (5, True)])
def test_other_pages_keep_the_rule_for_intervals(patches: int, over_places: bool) -> None:
    evaluation, _ = evaluated(patches, 64)
    names = dict(zip(evaluation.masks, ("sentinel-2", "landsat-8"), strict=True))
    ways = dict(zip(evaluation.masks, ("as it is", "moved"), strict=True))
    runs = evaluation.counts.run
    counts = evaluation.counts.assign(train=runs.map(names), way=runs.map(ways), test="sentinel-2")
    own = pairs.differences_to_own(counts, list(names.values()), 50, 0)
    third = counts[counts.way == "moved"].assign(way="any")
    three = pd.concat([counts, third]).assign(bands="red")
    moved = bands.differences_to_plain(three, {"moved": "moved", "any": "any"}, 50, 0)
    for table in (own, moved):
        assert np.isfinite(table.low).all() == np.isfinite(table.high).all() == over_places
    words = bands.differences_in_words(moved).data
    assert ("too few places" in words) != over_places


@pytest.mark.parametrize("patches", [4, 5])
def test_the_gate_tells_an_interval_where_places_are_enough(patches: int) -> None:
    scores = pooled(evaluated(patches, 64)[0].counts, draws=50)
    verdict = SimpleNamespace(scores=scores, passed=True)
    assert ("too few places" in life.gate_finding([(0, verdict, None)], 0.5)) == (patches < 5)


def test_the_front_page_says_what_is_decided() -> None:
    columns = ["images", "CloudDL minus", "difference", "low", "high", "units"]
    rows = [
        ["landsat-5", "ukis-csmask: red", -0.05, np.nan, np.nan, 1, -0.06, -0.04],
        ["landsat-8", "ukis-csmask: red", -0.12, -0.3, -0.01, 20, np.nan, np.nan],
        ["landsat-8", "CloudDL, real scenes alone: red", 0.0, -0.1, 0.1, 20, np.nan, np.nan],
    ]
    more = [["landsat-5", f"{name}: red", 0.1, *[np.nan] * 2, 1, 0.0, 0.1] for name in "abc"]
    table = pd.DataFrame(rows, columns=[*columns, *transfer.WITHIN])
    assert transfer.rivals_by_images(table).to_dict("list") == {
        "network minus": ["ukis-csmask", "real scenes alone"],
        "Landsat 5 (1 patch)": ["−5.0 (within the patch −6.0 to −4.0)", "–"],
        "Landsat 8 (20 places)": ["−12.0 [−30.0 to −1.0]", "+0.0 [−10.0 to +10.0]"],
    }
    assert transfer.standing(table).splitlines() == [
        "- On Landsat 5 (1 patch: too few to decide) its score is below that of ukis-csmask.",
        "- On Landsat 8, over 20 places, the network is behind ukis-csmask; "
        "not shown to differ from real scenes alone.",
    ]
    table = pd.DataFrame(more, columns=[*columns, *transfer.WITHIN])
    assert transfer.standing(table).endswith("its score is above that of a, b and c.")
