"""Catalogues: what is promised of the scenes, and what is reported when a record is wrong."""

from collections import Counter
from pathlib import Path

import pytest

from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.labels import CODES
from clouddl.scenes import load_catalogue
from clouddl.sensors import get_sensor
from clouddl.simulate import CLOUD_FRACTIONS, LANDSCAPES
from clouddl_study.corpora import choose_corpus


def test_the_real_catalogue_keeps_its_promises():
    catalogue = load_catalogue("real")
    rows = Store(catalogue.registry).rows
    assert {path for scene in catalogue.scenes for path in scene.files()} <= set(rows)
    for scene in catalogue.scenes:
        names = {band.common for band in get_sensor(scene.sensor).bands}
        assert {band for band in scene.bands if band} <= names
        assert scene.label is None or scene.label_codes in CODES
        assert scene.licence and scene.note
        assert scene.simulated is None or scene.role in ("train", "validation")  # never scored on
    count = Counter(scene.role for scene in catalogue.scenes if not scene.simulated)
    assert count == {"train": 134, "validation": 42, "reference": 25, "extra": 21}
    people = {scene.role for scene in catalogue.scenes if scene.label_kind == "people"}
    assert people == {"reference"}
    landsat = {scene.biome for scene in catalogue.scenes if scene.collection == "l8biome"}
    assert landsat >= {"SnowIce"}
    assert catalogue.scene("ukis_landsat5").sensor == "landsat-5"


def test_both_dates_of_a_real_ground_are_in_one_group() -> None:
    group = {scene.id: scene.group for scene in load_catalogue("real").scenes}
    cloudy = [name for name in group if name.startswith("cloudy_")]
    regions = {name.split("_", 1)[1].rpartition("_")[0] for name in cloudy}
    assert {group[name] for name in cloudy} == regions
    masked = [name for name in group if name.startswith("masked_")]
    assert len(masked) == 20
    for name in masked:
        assert group[name.replace("masked", "target")] == group[name]
    assert group["masked_4294"] == group["masked_4433"]  # their ground overlaps


CATALOGUE = """
name: mine
title: Mine
collections:
  one:
    sensor: sentinel-2
    bands: [red]
    resolution: 10
    scenes:
      - {id: a, image: [a.tif], role: train, group: g}
      - {id: b, image: [b.tif], role: train, group: h}
"""


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("role: train, group: h", "role: tests, group: h", "scenes.1.role"),
        ("group: h", "group: g, colour: red", "scenes.1.colour"),
        ("id: b", "id: a", "used twice"),
        ("role: train, group: h", "role: validation, group: g", "both in train and in validation"),
        ("image: [b.tif]", "image: []", "either `image`"),
        ("resolution: 10", "resolution: 0", "resolution"),
        ("scenes:", "seens:", "collections"),
        ("group: h", "group: h, label: b.npy", "label_codes"),
    ],
)
def test_a_wrong_catalogue_is_named_with_its_field(tmp_path, before, after, message):
    path = tmp_path / "mine.yaml"
    path.write_text(CATALOGUE)
    assert [scene.id for scene in load_catalogue(path).select("train")] == ["a", "b"]
    path.write_text(CATALOGUE.replace(before, after))
    with pytest.raises(InputError) as raised:
        load_catalogue(path)
    assert "mine.yaml" in str(raised.value) and message in str(raised.value)


def test_unknown_catalogue_and_scene():
    with pytest.raises(InputError, match=r"there is: .*real"):
        load_catalogue("reel")
    with pytest.raises(InputError, match="did you mean 'ukis_landsat5'"):
        load_catalogue("real").scene("ukis_landsat6")


def test_the_old_word_for_simulated_is_still_read(tmp_path: Path) -> None:
    with pytest.warns(FutureWarning, match="is now called simulated"):
        assert load_catalogue("drawn").name == "simulated"
    with pytest.warns(FutureWarning, match="is now called simulated"):
        assert choose_corpus("drawn", Store(None)) == "simulated"
    old = """name: old
title: of an earlier version
collections:
  some:
    sensor: sentinel-2
    resolution: 30
    scenes:
      - {id: one, role: train, group: one, drawn: {seed: 1}}
"""
    path = tmp_path / "old.yaml"
    path.write_text(old)
    with pytest.warns(FutureWarning, match="key `drawn` of a scene is now called `simulated`"):
        assert load_catalogue(path).scenes[0].simulated == {"seed": 1}


def test_places_are_simulated_by_a_rule_and_shared_by_no_two_roles() -> None:
    everything = load_catalogue("real").scenes
    scenes = [scene for scene in everything if scene.collection == "simulated_grounds"]
    roles = Counter(scene.role for scene in scenes)
    assert roles == {"train": 816, "validation": 136}
    places = [scene.simulated for scene in scenes if scene.simulated]
    assert len({place["seed"] for place in places}) == len(scenes)
    for surface in LANDSCAPES:
        fractions = {p["cloud_fraction"] for p in places if p["surface"] == surface}
        assert fractions == set(CLOUD_FRACTIONS)  # wholly clear and wholly cloudy among them
    groups = {(scene.group, scene.role) for scene in scenes}
    assert len({group for group, _ in groups}) == len(groups) == 2 * len(LANDSCAPES)
