"""Experiments of single pages: fits side by side, what parameters and labelling are worth."""

import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import xarray as xr

from clouddl.augment import Augmentation
from clouddl.labels import CLEAR, CLOUD, NODATA
from clouddl.mission.labelling import choose_places, fill
from clouddl.model import CloudModel, load_model, save_model
from clouddl.network import ModelCard
from clouddl.score import COUNTS, counts, measures
from clouddl.search import CHOICES, SPACE
from clouddl.train import Schedule, fit_to_end
from clouddl.transfer import Scenes

#: What a model learns from: the name of the control with SPOT's bands, and words for it.
CONTROLS = {"all": "spot-both", "real": "spot-real", "simulated": "spot-simulated"}
LEARNT_FROM = {
    "all": "real and simulated scenes",
    "real": "real scenes alone",
    "simulated": "simulated scenes alone",
}
SECONDS_PER_POINT = 20  # that an answer takes a person: an assumption, not a measurement


@dataclass(frozen=True)
class Fit:
    """A fit of `fit_all`: the card says with which bands and labels.

    `of` says on which chips: "all", "real" or "simulated".
    """

    card: ModelCard
    of: str = "all"
    augmentation: Augmentation | None = None  # default: all effects


def fit_all(
    fits: Sequence[Fit], chips: Path, work: Path, schedule: Schedule, at_once: int = 1
) -> dict[str, CloudModel]:
    """Fit models to the end, calibrate them on validation, and save them.

    All take as many steps, however many chips they see.

    Args:
        fits: What to fit; a fit that was killed goes on where it was.
        chips: A Zarr of `chips.make_chips`.
        work: Gets the folders `runs` and `models`.
        schedule: Its epochs are passes over all training chips.
        at_once: Fits at the same time, each in a process with one thread.

    Returns:
        The models as saved, by the names of their cards.
    """
    one = partial(_fit, chips=chips, work=work, schedule=schedule)
    if at_once < 2:
        saved = [one(fit) for fit in fits]
    else:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(at_once, spawn, torch.set_num_threads, (1,)) as pool:
            saved = list(pool.map(one, fits))
    return {path.stem: load_model(path) for path in saved}


def _fit(what: Fit, chips: Path, work: Path, schedule: Schedule) -> Path:
    """One fit of `fit_all`; the path of its card."""
    model = fit_to_end(
        what.card,
        chips,
        work / "runs" / what.card.name,
        schedule,
        of=what.of,
        augmentation=what.augmentation,
        progress=False,
    )
    return save_model(model, work / "models" / what.card.name)


def models_by_training(headline: str) -> dict[str, str]:
    """Tell which models with SPOT's bands learn from what.

    Args:
        headline: A key of `LEARNT_FROM`: what the model `spot` learns from.

    Returns:
        Names of models by the words of `LEARNT_FROM`, the headline model first.
    """
    names = {headline: "spot"}
    names |= {of: name for of, name in CONTROLS.items() if of != headline}
    return {LEARNT_FROM[of]: name for of, name in names.items()}


def worth(table: pd.DataFrame) -> pd.DataFrame:
    """Tell how much each parameter matters.

    Numbers are split at their median; each choice is a setting. With a few dozen trials this is an
    indication, not a test.

    Args:
        table: Of `search.search`.

    Returns:
        For each parameter its best and worst setting, their mean F2, and the share of the variance
        of F2 between the settings; the largest share first.
    """
    rows = []
    mean = table.val_f2.mean()
    for name in SPACE:
        settings = table[name].astype(str)
        if name not in CHOICES:
            median = table[name].median()
            settings = np.where(table[name] <= median, f"≤ {median:.2g}", f"> {median:.2g}")
        groups = table.groupby(settings).val_f2.agg(["mean", "size"])
        rows.append(
            {
                "parameter": name,
                "best": groups["mean"].idxmax(),
                "F2 of best": groups["mean"].max(),
                "worst": groups["mean"].idxmin(),
                "F2 of worst": groups["mean"].min(),
                "share of variance": (groups["size"] * (groups["mean"] - mean) ** 2).sum(),
            }
        )
    result = pd.DataFrame(rows)
    result["share of variance"] /= ((table.val_f2 - mean) ** 2).sum()
    return result.sort_values("share of variance", ascending=False, ignore_index=True)


def teaching_order(scenes: Scenes) -> list[str]:
    """Order the scenes a team would label first: one of each biome.

    Of each biome the first by name that has both cloud and clear ground (2 % of either), else the
    first. Biomes with both come first.

    Args:
        scenes: With `mask`.
    """

    def rank(name: str) -> tuple[bool, str, str]:
        cloudy = float((scenes[name].mask == CLOUD).mean())
        uniform = not 0.02 < cloudy < 0.98
        return uniform, scenes[name].attrs["biome"], name

    order = pd.Series({name: scenes[name].attrs["biome"] for name in sorted(scenes, key=rank)})
    return order.drop_duplicates().index.tolist()


def simulated_person(
    scene: xr.Dataset,
    truth: np.ndarray,
    rounds: int,
    per_round: int,
    seed: int = 0,
    error_rate: float = 0.0,
) -> pd.DataFrame:
    """Simulate a person who answers from the truth: what each round of labels brings.

    The person says nothing where the truth is 255, and adds a place of a class that was not among
    those proposed.

    Args:
        scene: The scene.
        truth: Its mask (y, x): 0, 1, 255.
        rounds: How many rounds of labelling.
        per_round: Places proposed in each.
        seed: Seed of answers and forests.
        error_rate: Fraction of the answers that are wrong.

    Returns:
        A row a round: round, points, minutes, f2 and accuracy over all pixels.
    """
    rng = np.random.default_rng(seed)
    labels = np.full(truth.shape, NODATA, np.uint8)
    asked = np.zeros(truth.shape, bool)
    places = choose_places(None, per_round, scene, seed)
    rows = []
    for number in range(1, rounds + 1):
        wrong = (rng.random(len(places[0])) < error_rate) & (truth[places] != NODATA)
        labels[places] = np.where(wrong, 1 - truth[places], truth[places])
        asked[places] = True
        for value in (CLEAR, CLOUD):
            if not (labels == value).any() and (truth == value).any():
                extra = rng.choice(np.flatnonzero(truth == value))
                labels.flat[extra], asked.flat[extra] = value, True
        mask, confidence = fill(scene, labels, seed)
        score = counts(mask, truth)
        scores = measures(np.array([score[name] for name in COUNTS]))
        points = int(asked.sum())
        rows.append(
            {
                "round": number,
                "points": points,
                "minutes": points * SECONDS_PER_POINT / 60,
                "f2": float(scores["f2"]),
                "accuracy": float(scores["accuracy"]),
            }
        )
        places = choose_places(np.where(asked, np.nan, confidence), per_round, scene)
    return pd.DataFrame(rows)
