"""Which images of the study are warned of as dark, and how many of its scenes are cut to chips."""

import os
import warnings
from pathlib import Path

import pytest
from conftest import Run

from clouddl.errors import InputError
from clouddl.scenes import Scene, load_catalogue, open_scene, store_of
from clouddl_study import corpora
from clouddl_study.corpora import open_corpus


@pytest.mark.skipif("CLOUDDL_MIRROR" not in os.environ, reason="needs CLOUDDL_MIRROR")
def test_only_images_that_the_catalogue_calls_surface_may_be_dark_unsaid() -> None:
    catalogue, store = open_corpus("real")
    scene = next(s for s in catalogue.scenes if s.collection == "oncloudn")
    assert scene.level == "surface"
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        open_scene(scene, store)
    with pytest.warns(UserWarning, match="darker than the air"):
        open_scene(scene.model_copy(update={"level": "toa"}), store)


@pytest.mark.parametrize(("fraction", "step"), [(1.0, 1), (0.125, 8), (0.3, 3)])
def test_a_quick_look_takes_every_so_many_scenes_of_each_kind(
    fraction: float, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Scene] = []
    monkeypatch.setattr(corpora, "make_chips", lambda scenes, *_, **__: taken.extend(scenes))
    catalogue = load_catalogue("real")
    corpora.study_chips(catalogue, store_of(catalogue), tmp_path, fraction)
    for role in ("train", "validation"):
        for simulated in (True, False):
            of_kind = [s for s in catalogue.select(role) if bool(s.simulated) == simulated]
            chosen = [s for s in taken if (s.role, bool(s.simulated)) == (role, simulated)]
            assert chosen == of_kind[::step] and chosen


@pytest.mark.parametrize(("simulated", "validation"), [(272, 45), (5, 0), (0, 0)])
def test_preflight_takes_so_many_simulated_scenes_beside_all_real_ones(
    simulated: int, validation: int, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Scene] = []

    def make(scenes: list[Scene], *_: object, **__: object) -> None:
        taken.extend(scenes)
        raise InputError("that is all")

    monkeypatch.setattr(corpora, "make_chips", make)
    options = f"--out {tmp_path} --corpus real --simulated {simulated}"
    assert "that is all" in run(f"preflight co3d {options}")[2]
    catalogue = load_catalogue("real")
    for role, most in (("train", simulated), ("validation", validation)):
        real = [scene for scene in catalogue.select(role) if not scene.simulated]
        drawn = [scene for scene in catalogue.select(role) if scene.simulated]
        assert [scene for scene in taken if scene.role == role] == real + drawn[:most]


@pytest.mark.parametrize("fraction", [0, -0.5, 2, float("nan")])
def test_no_other_fraction_is_taken(fraction: float, tmp_path: Path) -> None:
    catalogue = load_catalogue("real")
    with pytest.raises(InputError, match=r"fraction .*: give a part of the scenes, above 0 to 1"):
        corpora.study_chips(catalogue, store_of(catalogue), tmp_path, fraction)
