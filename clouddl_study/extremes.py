"""Errors on what is rare: snow without cloud, and overcast as dark as snow in the infrared.

Validation holds little of either, so its F2 does not tell the seeds of a model apart by them. These
scenes are simulated as Landsat 8 sees them, in places of neither training nor validation. Half of
the overcast is given large ice crystals: of clouds as they are measured hardly one is dark.
"""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
import xarray as xr
from tqdm.auto import tqdm

from clouddl.labels import CLEAR, CLOUD
from clouddl.model import CloudModel
from clouddl.simulate import LANDSCAPES, simulate_scene

SENSOR = "landsat-8"
SEED = 800_000  # of the first place
SIZE = 128  # pixels a side
OVERCAST = ("deep", "cirrus")  # clouds of ice, in turn

SNOWY = ("snow", "mountain", "taiga", "tundra", "glacier", "sea_ice")
DARK = 0.18  # median ratio of short-wave infrared to red below which an overcast is dark

KINDS = ("clear snow", "other clear ground", "dark overcast", "other overcast")


def extreme_errors(models: Mapping[str, CloudModel], each: int = 20) -> pd.DataFrame:
    """Count errors on extremes, each model at its own threshold.

    Args:
        models: By name.
        each: Scenes without cloud in each landscape, and as many overcast ones.

    Returns:
        By model (index) and kind of `KINDS` (column) the fraction of the pixels in error: clear
        ones called cloud, and cloud missed. NaN for a kind without a scene.
    """
    wrong = pd.DataFrame(0.0, list(models), list(KINDS))
    pixels = pd.Series(0.0, list(KINDS))
    total = 2 * each * len(LANDSCAPES)
    for scene in tqdm(_scenes(each), "extremes", total, unit="scene"):
        kind = _kind(scene)
        truth = CLOUD if kind.endswith("overcast") else CLEAR
        labelled = scene.mask.values == truth
        pixels[kind] += labelled.sum()
        for name, model in models.items():
            image = scene.reflectance.sel(band=model.card.bands).values
            cloud = model.probability(image) >= model.card.threshold
            wrong.loc[name, kind] += (labelled & (cloud != (truth == CLOUD))).sum()
    return wrong / pixels.replace(0, np.nan)


def _scenes(each: int) -> Iterator[xr.Dataset]:
    """Scenes without cloud and overcast ones of every landscape, in turn."""
    seed = SEED
    for surface in LANDSCAPES:
        for number in range(each):
            scene = partial(simulate_scene, SENSOR, size=SIZE, surface=surface)
            clouds, large = OVERCAST[number % 2], float(number // 2 % 2)
            yield scene(seed=seed, cloud_fraction=0.0)
            yield scene(seed=seed + 1, cloud_fraction=1.0, clouds=clouds, large_crystals=large)
            seed += 2


def _kind(scene: xr.Dataset) -> str:
    """One of `KINDS`."""
    if not (scene.mask == CLOUD).any():
        return "clear snow" if scene.attrs["surface"] in SNOWY else "other clear ground"
    red, infrared = (scene.reflectance.sel(band=band) for band in ("red", "swir16"))
    return "dark overcast" if float((infrared / red).median()) < DARK else "other overcast"
