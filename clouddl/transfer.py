"""Transfer: a model on scenes of a sensor it never saw, and its adaptation with a few of them."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from clouddl.augment import Augmentation
from clouddl.chips import Chips, cut_chips
from clouddl.files import Store
from clouddl.labels import NODATA, ukis_csmask
from clouddl.model import CloudModel
from clouddl.network import ELEVATION
from clouddl.scenes import Scene, open_scene, resample
from clouddl.score import counts
from clouddl.train import Schedule, fit


def open_at(scenes: Iterable[Scene], store: Store, resolution: float) -> dict[str, xr.Dataset]:
    """Scenes by id, opened and brought to a working resolution (metres)."""
    opened = {}
    for scene in scenes:
        dataset = open_scene(scene, store)
        if dataset.attrs["resolution"] != resolution:
            dataset = resample(dataset, resolution)
        sha = store.sha256(scene.image[0].partition("#")[0]) if scene.image else "simulated"
        about = {"biome": scene.biome or "", "collection": scene.collection, "sha256": sha}
        opened[scene.id] = dataset.assign_attrs(about)
    return opened


def probability(
    model: CloudModel, scene: xr.Dataset, use: Sequence[str] | None = None
) -> np.ndarray:
    """Probability of cloud (y, x), from the bands `use` (default: the model's best set).

    The scene is at the model's resolution; bands the model knows and does not get are NaN.
    """
    use = use or model.card.best_set(scene.band.values.tolist()) or model.card.bands
    known = scene.reflectance.reindex(band=model.card.bands)
    if ELEVATION in model.card.bands and "elevation" in scene:
        known.loc[{"band": ELEVATION}] = scene.elevation
    return model.probability(known.where(known.band.isin(list(use))).values)


def predictions(
    model: CloudModel, scenes: Mapping[str, xr.Dataset], use: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Probability of cloud of each scene."""
    return {name: probability(model, scene, use) for name, scene in scenes.items()}


def processor_masks(scenes: Mapping[str, xr.Dataset], n_bands: int = 4) -> dict[str, np.ndarray]:
    """Masks of ukis-csmask, the peer that can run on every sensor here."""
    return {
        name: ukis_csmask(s.reflectance.values, s.band.values.tolist(), s.attrs["level"], n_bands)
        for name, s in scenes.items()
    }


def score_masks(masks: Mapping[str, np.ndarray], scenes: Mapping[str, xr.Dataset]) -> pd.DataFrame:
    """Counts of each mask against its scene's reference, with what scores are grouped by."""
    rows = []
    for name, mask in masks.items():
        scene = scenes[name]
        about = {key: scene.attrs[key] for key in ("group", "biome", "collection", "sensor")}
        rows.append({"scene": name, **about, **counts(mask, scene.mask.values)})
    return pd.DataFrame(rows)


def pixels(
    probabilities: Mapping[str, np.ndarray], scenes: Mapping[str, xr.Dataset]
) -> tuple[np.ndarray, np.ndarray]:
    """All labelled pixels of some scenes as (probability, truth), flat."""
    found, truth = [], []
    for name, values in probabilities.items():
        reference = scenes[name].mask.values
        valid = (reference != NODATA) & np.isfinite(values)
        found.append(values[valid])
        truth.append(reference[valid] == 1)
    return np.concatenate(found), np.concatenate(truth)


def teaching_order(scenes: Mapping[str, xr.Dataset]) -> list[str]:
    """Ids of the scenes a team would label first: one of each biome, most telling first.

    Of each biome the first by name that holds both cloud and clear ground (2 % of either), else
    the first. Biomes with both come first.
    """
    plain = {n: not 0.02 < float((s.mask == 1).mean()) < 0.98 for n, s in scenes.items()}
    ordered = sorted(scenes, key=lambda n: (plain[n], scenes[n].attrs["biome"], n))
    firsts = {scenes[n].attrs["biome"]: n for n in reversed(ordered)}  # the first stays
    return [n for n in ordered if n in firsts.values()]


def left_out(scenes: Mapping[str, xr.Dataset], taken: Iterable[str]) -> dict[str, xr.Dataset]:
    """The scenes that share no group with those `taken`: what may still be scored."""
    groups = {scenes[name].attrs["group"] for name in taken}
    return {n: s for n, s in scenes.items() if s.attrs["group"] not in groups}


def adapt(
    model: CloudModel, scenes: Mapping[str, xr.Dataset], folder: Path | str, *, epochs: int = 30,
    learning_rate: float = 5e-4, size: int = 256,
) -> CloudModel:  # fmt: skip
    """Go on training with a handful of labelled scenes of the new sensor; the threshold stays.

    The scenes given here must not be scored afterwards. Bands outside the model's are ignored.
    """
    cut = cut_chips(scenes.values(), bands=model.card.bands, sources=["truth"], size=size)
    chips = Chips(cut.isel(source=0))
    card = model.card.model_copy(update={"name": f"{model.card.name}-adapted", "labels": "people"})
    card.trained_on = {**card.trained_on, **chips.sources}
    gentle = Augmentation(resolution=(chips.resolution, 2 * chips.resolution))
    return fit(
        card, chips, None, folder, Schedule(epochs, 4, learning_rate), augmentation=gentle, start=model,
    )  # fmt: skip
