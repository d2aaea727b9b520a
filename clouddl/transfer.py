"""Transfer: a model on scenes of a sensor it never saw, and its adaptation with a few of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import xarray as xr

from clouddl.augment import Augmentation
from clouddl.chips import Chips, cut_chips
from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.labels import CLOUD, NODATA, to_mask
from clouddl.model import CloudModel
from clouddl.network import ELEVATION, as_it_is
from clouddl.scenes import Scene, open_scene, resample, source_sha256
from clouddl.score import Pixels, counts
from clouddl.train import Schedule, fit

Scenes = Mapping[str, xr.Dataset]  # by id, each at a resolution that the model works at


@dataclass(frozen=True)
class Method:
    """A way to find clouds: the bands it needs, and a function of a scene to its mask (y, x)."""

    bands: tuple[str, ...]
    mask: Callable[[xr.Dataset], np.ndarray]


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` gives.

    Attributes:
        masks: Masks (y, x) uint8 by method and scene id.
        counts: A row for each method (`run`) and scene, as `score_masks` makes them.
    """

    masks: dict[str, dict[str, np.ndarray]]
    counts: pd.DataFrame


def open_scenes(scenes: Iterable[Scene], store: Store, resolution: float) -> dict[str, xr.Dataset]:
    """Open scenes and bring them to a resolution that a model works at.

    Args:
        scenes: Records of a catalogue.
        store: Where their files are.
        resolution: Metres per pixel, that of a model.

    Returns:
        Scenes by id, at that resolution or their own (`network.as_it_is`), with the attributes
        biome, collection and sha256.
    """
    opened = {}
    for scene in scenes:
        dataset = open_scene(scene, store)
        if not as_it_is(dataset.attrs["resolution"], resolution):
            dataset = resample(dataset, resolution)
        opened[scene.id] = dataset.assign_attrs(
            biome=scene.biome or "",
            collection=scene.collection,
            sha256=source_sha256(scene, store),
        )
    return opened


def probability(
    model: CloudModel, scene: xr.Dataset, use: Sequence[str] | None = None
) -> np.ndarray:
    """Compute the probability of cloud of a scene.

    Args:
        model: The model.
        scene: As `open_scenes` gives it.
        use: Common names of the bands to use; default the best set of the model.

    Returns:
        Probability (y, x) float32, NaN for nodata.
    """
    bands = model.card.bands
    use = use or model.card.best_set(scene.band.values.tolist()) or bands
    reflectance = scene.reflectance.reindex(band=bands)
    if ELEVATION in bands and "elevation" in scene:
        reflectance.loc[{"band": ELEVATION}] = scene.elevation
    return model.probability(reflectance.where(reflectance.band.isin(list(use))).values)


def predictions(
    model: CloudModel, scenes: Scenes, use: Sequence[str] | None = None
) -> dict[str, np.ndarray]:
    """Compute the probability of cloud of several scenes.

    Args:
        model: The model.
        scenes: As `open_scenes` gives them.
        use: As for `probability`.

    Returns:
        Probability (y, x) by scene id.
    """
    return {name: probability(model, scene, use) for name, scene in scenes.items()}


def model_method(
    model: CloudModel, use: Sequence[str] | None = None, dilation_m: float = 0.0
) -> Method:
    """Make a method of a model, at its threshold.

    Args:
        model: The model.
        use: As for `probability`.
        dilation_m: Metres to grow clouds by.
    """

    def mask(scene: xr.Dataset) -> np.ndarray:
        values = probability(model, scene, use)
        return to_mask(values, model.card.threshold, dilation_m, scene.attrs["resolution"])

    return Method(tuple(use or ()), mask)


def evaluate(methods: Mapping[str, Method], scenes: Scenes) -> Evaluation:
    """Score methods on scenes with a reference.

    Scenes that lack `bands` of a method are left out for it; a model without `use` runs on all.

    Args:
        methods: By name, which becomes `run`.
        scenes: With `mask`.

    Returns:
        Masks and counts of pixels.
    """
    masks: dict[str, dict[str, np.ndarray]] = {}
    tables = []
    for run, method in methods.items():
        masks[run] = {
            name: method.mask(scene)
            for name, scene in scenes.items()
            if set(method.bands) <= set(scene.band.values.tolist())
        }
        tables.append(score_masks(masks[run], scenes).assign(run=run))
    return Evaluation(masks, pd.concat(tables, ignore_index=True))


def score_masks(masks: Mapping[str, np.ndarray], scenes: Scenes) -> pd.DataFrame:
    """Count the pixels of masks against the references of their scenes.

    Args:
        masks: Masks (y, x) by scene id.
        scenes: With `mask`.

    Returns:
        A row for each mask: scene, group, biome, collection, sensor, tp, fp, fn, tn.
    """
    rows = []
    for name, mask in masks.items():
        scene = scenes[name]
        about = {key: scene.attrs[key] for key in ("group", "biome", "collection", "sensor")}
        rows.append({"scene": name, **about, **counts(mask, scene.mask.values)})
    return pd.DataFrame(rows)


def pixels(probabilities: Mapping[str, np.ndarray], scenes: Scenes) -> Pixels:
    """Collect all labelled pixels of some scenes.

    Args:
        probabilities: Probability (y, x) by scene id.
        scenes: With `mask`.

    Returns:
        Probability and truth (True for cloud), both flat.
    """
    values = np.concatenate([image.ravel() for image in probabilities.values()])
    reference = np.concatenate([scenes[name].mask.values.ravel() for name in probabilities])
    valid = (reference != NODATA) & np.isfinite(values)
    return values[valid], reference[valid] == CLOUD


def left_out(scenes: Scenes, taken: Iterable[str]) -> dict[str, xr.Dataset]:
    """Select the scenes that share no group with some others: what may still be scored.

    Args:
        scenes: All scenes.
        taken: Ids of those that were learnt from.

    Returns:
        The other scenes by id.
    """
    groups = {scenes[name].attrs["group"] for name in taken}
    return {name: scene for name, scene in scenes.items() if scene.attrs["group"] not in groups}


def adapt(
    model: CloudModel,
    scenes: Scenes,
    folder: Path | str,
    *,
    epochs: int = 30,
    learning_rate: float = 5e-4,
    size: int = 256,
) -> CloudModel:
    """Go on training with a few labelled scenes of the new sensor; the threshold stays.

    Args:
        model: What to start from.
        scenes: With `mask`; they must not be scored afterwards. Bands the model does not know are
            ignored.
        folder: For checkpoints and curves.
        epochs: Passes over the scenes.
        learning_rate: Of Adam, at its highest.
        size: Pixels a side of the chips.
    """
    bare = [
        name for name, scene in scenes.items() if "mask" in scene and (scene.mask == NODATA).all()
    ]
    if bare:
        raise InputError(
            f"{', '.join(bare)}: the reference mask is nodata alone, which teaches nothing; check "
            "its file and label_codes, or leave the scene out"
        )
    finest = min(scene.attrs["resolution"] for scene in scenes.values())
    alike = [resample(scene, finest) for scene in scenes.values()]
    cut = cut_chips(alike, bands=model.card.bands, sources=["truth"], size=size)
    chips = Chips(cut.isel(source=0))
    card = model.card.model_copy(update={"name": f"{model.card.name}-adapted", "labels": "people"})
    card.trained_on = {**card.trained_on, **chips.sources}
    mild = Augmentation(resolution=(chips.resolution, 2 * card.resolution))
    schedule = Schedule(epochs, batch_size=4, learning_rate=learning_rate)
    return fit(card, chips, None, folder, schedule, augmentation=mild, start=model)
