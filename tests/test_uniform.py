"""Uniform scenes: overcast, which has no ground to stand out from, and clear ground.

Simulated, at places that no training or validation set holds. Clear snow, ice, bright soil and sun
glint are called cloud in part by the shipped models (page "Limits"), so no test promises them.
"""

import numpy as np
import pytest

from clouddl.model import load_model
from clouddl.simulate import simulate_scene

MOST_WRONG = 0.05  # of the pixels of all scenes of a kind
SEEDS = range(610_000, 610_004)


def fraction_called_cloud(name: str, surface: str, **weather: object) -> float:
    model = load_model(name)
    called = []
    for seed in SEEDS:
        scene = simulate_scene("landsat-8", seed=seed, size=128, surface=surface, **weather)  # type: ignore[arg-type]
        probability = model.probability(scene.reflectance.sel(band=model.card.bands).values)
        wanted = 1 if weather["cloud_fraction"] else 0
        called.append(probability[scene.mask.values == wanted] >= model.card.threshold)
    return float(np.concatenate(called).mean())


@pytest.mark.parametrize("name", ["spot", "five"])
@pytest.mark.parametrize("surface", ["forest", "crops", "mixed", "water"])
def test_common_ground_is_clear(name: str, surface: str) -> None:
    assert fraction_called_cloud(name, surface, cloud_fraction=0) < MOST_WRONG


@pytest.mark.parametrize("name", ["spot", "five"])
@pytest.mark.parametrize("clouds", ["stratus", "deep"])
@pytest.mark.parametrize("surface", ["forest", "urban", "ocean", "glacier"])
def test_overcast_is_found(name: str, clouds: str, surface: str) -> None:
    found = fraction_called_cloud(name, surface, clouds=clouds, cloud_fraction=1)
    assert found > 1 - MOST_WRONG
