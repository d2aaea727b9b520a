"""Extremes: every kind is there, and errors are what they are called."""

import numpy as np
import pytest
import xarray as xr

from clouddl.model import CloudModel
from clouddl.network import ModelCard
from clouddl_study import extremes


class Always:
    """A model that gives every pixel one probability."""

    def __init__(self, probability: float) -> None:
        self.card = ModelCard(name="always", bands=["red", "swir16"], resolution=30, threshold=0.5)
        self.value = probability

    def probability(self, image: np.ndarray) -> np.ndarray:
        """Probability (y, x) of an image (bands, y, x)."""
        return np.full(image.shape[1:], self.value)


def test_everything_cloud_misses_nothing_and_is_wrong_on_all_clear_ground(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(extremes, "SIZE", 16)
    models: dict[str, CloudModel] = {"all": Always(1.0), "none": Always(0.0)}  # type: ignore[dict-item]
    errors = extremes.extreme_errors(models, 2)
    assert list(errors.columns) == list(extremes.KINDS)
    clear = ["clear snow", "other clear ground"]
    overcast = ["other overcast"]  # so few scenes hold no dark one
    assert (errors.loc["all", clear] == 1).all() and (errors.loc["all", overcast] == 0).all()
    assert (errors.loc["none", clear] == 0).all() and (errors.loc["none", overcast] == 1).all()


def test_overcast_is_dark_where_its_infrared_is_far_below_red() -> None:
    for infrared, kind in ((0.14, "dark overcast"), (0.4, "other overcast")):
        layers = np.stack([np.full((4, 4), 0.9), np.full((4, 4), infrared)])
        scene = xr.Dataset(
            {
                "reflectance": (("band", "y", "x"), layers),
                "mask": (("y", "x"), np.ones((4, 4), np.uint8)),
            },
            {"band": ["red", "swir16"]},
        )
        assert extremes._kind(scene) == kind
