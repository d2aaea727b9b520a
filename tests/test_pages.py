"""What pages make of the catalogue and of trained models."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from clouddl.model import CloudModel, load_model
from clouddl.network import ModelCard, build
from clouddl.scenes import Catalogue
from clouddl.transfer import left_out
from clouddl_study.experiments import teaching_order
from clouddl_study.pages.data import places_table
from clouddl_study.pages.search import best_of

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
    for seed, f2 in enumerate((0.5, 0.9, 0.7)):
        torch.manual_seed(seed)
        card = tiny(
            name=f"seed-{seed}", scores={"validation_f2": f2}, mean=[0.0] * 4, std=[1.0] * 4
        )
        fits[card.name] = CloudModel(card, build(card), "cpu")
    best_of(fits, "spot", tmp_path)
    shipped = load_model(tmp_path / "spot", "cpu")
    assert (shipped.card.name, shipped.card.scores) == ("spot", {"validation_f2": 0.9})
    assert fits["seed-1"].card.name == "seed-1"
    same = fits["seed-1"].net.last.weight.half().float()
    assert torch.equal(shipped.net.last.weight, same)


def labelled(biome: str, cloud: float, group: str) -> xr.Dataset:
    """A scene of which only its mask matters, a share `cloud` of it cloudy."""
    mask = (np.arange(100) < 100 * cloud).astype(np.uint8).reshape(10, 10)
    return xr.Dataset({"mask": (("y", "x"), mask)}, attrs={"biome": biome, "group": group})


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
