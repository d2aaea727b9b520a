"""Tables of the pages that are made from the catalogue."""

from clouddl.scenes import Catalogue
from clouddl_study.pages.data import places_table

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
