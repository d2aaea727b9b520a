"""Which images of the study are warned of as darker than the air, and which are not."""

import os
import warnings

import pytest

from clouddl.scenes import open_scene
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
