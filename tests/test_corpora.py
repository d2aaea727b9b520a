"""What the study leaves out of the warnings of its images, and what it does not."""

import warnings

import numpy as np

from clouddl.products.reading import check_reflectance
from clouddl_study.corpora import open_corpus


def test_only_images_that_the_catalogue_calls_surface_may_be_dark_unsaid() -> None:
    dark = np.random.default_rng(0).uniform(0.01, 0.3, (1, 64, 64))
    filled = dark.copy()
    filled[:, :32] = 0
    surface = "oncloudn/chip_id_1/B02.tif"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        open_corpus("real")
        check_reflectance(dark, ["blue"], surface)
        check_reflectance(filled, ["blue"], surface)
        check_reflectance(dark, ["blue"], "mine.tif")
    fill, air = [str(warning.message) for warning in caught]
    assert fill.startswith(f"{surface}: 0 fills")
    assert air.startswith("mine.tif: blue is below")
