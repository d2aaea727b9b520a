"""Experiments of single pages: what search parameters are worth, what labelling would bring."""

import numpy as np
import pandas as pd
import xarray as xr

from clouddl.labels import CLEAR, CLOUD, NODATA
from clouddl.mission.labelling import choose_places, fill
from clouddl.score import COUNTS, counts, measures
from clouddl.search import CHOICES, SPACE


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


def simulated_person(
    scene: xr.Dataset,
    truth: np.ndarray,
    rounds: int,
    per_round: int,
    seed: int = 0,
    error_rate: float = 0.0,
    seconds_per_point: float = 20.0,
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
        seconds_per_point: How long an answer takes: an assumption, not a measurement.

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
                "minutes": points * seconds_per_point / 60,
                "f2": float(scores["f2"]),
                "accuracy": float(scores["accuracy"]),
            }
        )
        places = choose_places(np.where(asked, np.nan, confidence), per_round, scene)
    return pd.DataFrame(rows)
