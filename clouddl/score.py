"""Scores: F2 and other measures from pooled counts of pixels, with bootstrap intervals."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.special import logit

from clouddl.errors import InputError
from clouddl.labels import CLOUD, NODATA

Pixels = tuple[np.ndarray, np.ndarray]  # probability and truth of labelled pixels, flat

MEASURES = ("f2", "f1", "balanced_accuracy", "mcc", "precision", "recall", "iou", "accuracy")
COUNTS = ["tp", "fp", "fn", "tn"]
THRESHOLDS = np.arange(1, 100) / 100  # 0.01 … 0.99, at which scores are computed
PLATEAU = 0.01  # of an F-score: smaller differences a dozen validation scenes cannot show


def counts(mask: np.ndarray, reference: np.ndarray) -> dict[str, int]:
    """Count the pixels of one scene where both masks say something.

    Args:
        mask: (y, x): 0 clear, 1 cloud, 255 nodata.
        reference: The same.

    Returns:
        tp, fp, fn, tn.

    Raises:
        InputError: The masks differ in size.
    """
    if mask.shape != reference.shape:
        raise InputError(
            f"the mask is {mask.shape} and the reference {reference.shape} pixels: bring them to "
            "one grid first"
        )
    valid = (mask != NODATA) & (reference != NODATA)
    cloud, truth = mask[valid] == CLOUD, reference[valid] == CLOUD
    tn, fn, fp, tp = np.bincount(2 * cloud + truth, minlength=4).tolist()
    return {"tp": tp, "fp": fp, "fn": fn, "tn": tn}


def _fraction(part: np.ndarray, total: np.ndarray) -> np.ndarray:
    """part / total, NaN where there is nothing to divide: undefined is not zero."""
    undefined = np.full(np.shape(part), np.nan)
    return np.divide(part, total, out=undefined, where=np.asarray(total) > 0)


def f_beta(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, beta: float) -> np.ndarray:
    """Compute F-beta, (1 + b²) tp / ((1 + b²) tp + b² fn + fp).

    With b = 2 recall weighs more than precision (Baetens, Desjardins and Hagolle 2019).

    Args:
        tp: True positives, of any shape.
        fp: False positives.
        fn: False negatives.
        beta: b.

    Returns:
        F-beta of the same shape, NaN where it is undefined.
    """
    b2 = beta * beta
    return _fraction((1 + b2) * tp, (1 + b2) * tp + b2 * fn + fp)


def matthews(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, tn: np.ndarray) -> np.ndarray:
    """Compute the correlation of mask and reference (Matthews 1975).

    (tp tn - fp fn) / √((tp + fp) (tp + fn) (tn + fp) (tn + fn)). It is 1 for a perfect mask, 0 for
    one that tells nothing of the reference, and undefined where either is all cloud or all clear.

    Args:
        tp: True positives, of any shape.
        fp: False positives.
        fn: False negatives.
        tn: True negatives.

    Returns:
        The correlation of the same shape, NaN where it is undefined.
    """
    margins = np.sqrt((tp + fp) * (tn + fn)) * np.sqrt((tp + fn) * (tn + fp))
    return _fraction(tp * tn - fp * fn, margins)


def measures(table: np.ndarray) -> dict[str, np.ndarray]:
    """Compute all measures from counts.

    Balanced accuracy is the mean of the fractions of cloud and of clear ground that are right: half
    for a mask of one class alone, however much of the reference is of that class.

    Args:
        table: (..., 4) in the order of COUNTS.

    Returns:
        Arrays (...) by name.
    """
    tp, fp, fn, tn = np.moveaxis(np.asarray(table, float), -1, 0)
    recall, specificity = _fraction(tp, tp + fn), _fraction(tn, tn + fp)
    return {
        "f2": f_beta(tp, fp, fn, 2),
        "f1": f_beta(tp, fp, fn, 1),
        "balanced_accuracy": (recall + specificity) / 2,
        "mcc": matthews(tp, fp, fn, tn),
        "precision": _fraction(tp, tp + fp),
        "recall": recall,
        "iou": _fraction(tp, tp + fp + fn),
        "accuracy": _fraction(tp + tn, tp + fp + fn + tn),
    }


def _interval(resampled: np.ndarray, units: int) -> tuple[float, float]:
    """The 2.5th and 97.5th percentile of a bootstrap, NaN left out; NaN of fewer than two units."""
    if units < 2 or not np.isfinite(resampled).any():
        return np.nan, np.nan
    low, high = np.nanpercentile(resampled, [2.5, 97.5]).tolist()
    return low, high


def _resample(units: int, draws: int, seed: int) -> np.ndarray:
    """Indices (draws, units) of units drawn with replacement."""
    return np.random.default_rng(seed).integers(0, units, (draws, units))


def pooled(
    table: pd.DataFrame,
    by: Sequence[str] = (),
    unit: str = "group",
    draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Compute measures of pooled counts with 95 % bootstrap intervals.

    Args:
        table: One row per scene with COUNTS, `unit` and the columns of `by`.
        by: Columns to group by; none: one row for all.
        unit: What is resampled: patches of one place are not independent.
        draws: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        A row for each group: scenes, units, cloud (fraction), MEASURES and, for each, its interval
        `<measure>_low` and `<measure>_high`, NaN where there are fewer than two units.
    """
    rows = []
    groups = table.groupby(list(by), sort=False) if by else [((), table)]
    for key, part in groups:
        units = part.groupby(unit)[COUNTS].sum().to_numpy()
        total = units.sum(0)
        row = dict(zip(by, key, strict=True)) | {"scenes": len(part), "units": len(units)}
        row |= {name: float(value) for name, value in measures(total).items()}
        resampled = measures(units[_resample(len(units), draws, seed)].sum(1))
        for name in MEASURES:
            row[f"{name}_low"], row[f"{name}_high"] = _interval(resampled[name], len(units))
        row["cloud"] = float(_fraction(total[[0, 2]].sum(), total.sum()))
        rows.append(row)
    return pd.DataFrame(rows)


def paired(
    one: pd.DataFrame, other: pd.DataFrame, draws: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Compute the difference in F2 of two methods on the same scenes, with its 95 % interval.

    Both tables are resampled alike: what is hard for both cancels.

    Args:
        one: Rows as for `pooled`.
        other: Rows of the same scenes.
        draws: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        difference (`one` minus `other`), low, high (NaN for a single unit) and the number of units.

    Raises:
        InputError: The tables are of different scenes.
    """
    a, b = (table.groupby("group")[COUNTS].sum() for table in (one, other))
    if not a.index.equals(b.index):
        raise InputError("paired: the two tables hold other scenes; score the same ones with both")
    units = np.stack([a.to_numpy(), b.to_numpy()])
    resampled = units[:, _resample(len(a), draws, seed)].sum(2)
    low, high = _interval(np.subtract(*measures(resampled)["f2"]), len(a))
    difference = float(np.subtract(*measures(units.sum(1))["f2"]))
    return {"difference": difference, "low": low, "high": high, "units": len(a)}


def block_counts(mask: np.ndarray, reference: np.ndarray, size: int = 64) -> pd.DataFrame:
    """Count the pixels of one scene in square blocks, for a bootstrap within the scene.

    Where there is a single scene, `pooled` and `paired` of these rows draw its blocks. Such an
    interval tells how evenly a method works over this scene, and nothing of other scenes.

    Args:
        mask: (y, x): 0 clear, 1 cloud, 255 nodata.
        reference: The same.
        size: Pixels along a block; those at the right and lower edge may be smaller. Errors of
            neighbouring pixels go together, so blocks should be larger than clouds are.

    Returns:
        A row for each block that has labelled pixels: its number (`group`) and COUNTS.
    """
    height, width = mask.shape
    corners = [(y, x) for y in range(0, height, size) for x in range(0, width, size)]
    rows = []
    for group, (y, x) in enumerate(corners):
        block = slice(y, y + size), slice(x, x + size)
        rows.append({"group": group, **counts(mask[block], reference[block])})
    table = pd.DataFrame(rows)
    return table[table[COUNTS].sum(axis=1) > 0].reset_index(drop=True)


def _by_threshold(probability: np.ndarray, truth: np.ndarray) -> dict[str, np.ndarray]:
    """The measures of the pixels at each of `THRESHOLDS`."""
    edges = np.concatenate([[-np.inf], THRESHOLDS - 1e-9, [np.inf]])
    truth = truth.astype(bool)
    cloud, clear = (
        np.histogram(probability[chosen], edges)[0][::-1].cumsum()[::-1]
        for chosen in (truth, ~truth)
    )
    tp, fp = cloud[1:], clear[1:]
    return measures(np.stack([tp, fp, cloud[0] - tp, clear[0] - fp], -1))


def best_threshold(probability: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Choose the threshold of highest pooled F2.

    It is the middle of the `plateau`.

    Args:
        probability: Of labelled pixels, flat.
        truth: True for cloud, flat.

    Returns:
        The threshold and the highest score; (0.5, nan) without any cloud.
    """
    return common_threshold([(probability, truth)])


def common_threshold(sets: Sequence[Pixels]) -> tuple[float, float]:
    """Choose one threshold for several sets of pixels: as `best_threshold`, on their mean F2.

    However many pixels a set has, it counts like the others.

    Args:
        sets: Probability and truth of each, as for `best_threshold`.

    Returns:
        The threshold and the highest mean; (0.5, nan) without any cloud.
    """
    scores = [_by_threshold(*pixels)["f2"] for pixels in sets if pixels[1].any()]
    if not scores:
        return 0.5, float("nan")
    mean = np.mean(scores, axis=0)
    _, middle, _ = plateau(mean)
    return middle, float(mean.max())


def plateau(score: np.ndarray) -> tuple[float, float, float]:
    """Find the thresholds whose scores are within `PLATEAU` of the highest.

    Few validation scenes cannot tell them apart, and an edge would be chance.

    Args:
        score: At each of `THRESHOLDS`.

    Returns:
        The lowest of these thresholds, the middle one, and the highest.
    """
    top = np.flatnonzero(score >= score.max() - PLATEAU)
    middle_of_top = (top[0] + top[-1]) // 2
    low, middle, high = THRESHOLDS[[top[0], middle_of_top, top[-1]]].tolist()
    return low, middle, high


def precision_recall(probability: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    """Tabulate precision, recall and F2 against the threshold.

    Args:
        probability: Of labelled pixels, flat.
        truth: True for cloud, flat.

    Returns:
        Rows for the thresholds 0.01 … 0.99.
    """
    table = pd.DataFrame({"threshold": THRESHOLDS, **_by_threshold(probability, truth)})
    return table[["threshold", "precision", "recall", "f2"]]


def reliability(probability: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    """Tabulate a reliability diagram.

    Args:
        probability: Of labelled pixels, flat.
        truth: True for cloud, flat.

    Returns:
        For each tenth of probability its mean (`predicted`), the fraction of cloud (`observed`)
        and the number of pixels.
    """
    index = np.clip((probability * 10).astype(int), 0, 9)
    pixels = np.bincount(index, minlength=10)
    return pd.DataFrame(
        {
            "predicted": _fraction(np.bincount(index, probability, 10), pixels),
            "observed": _fraction(np.bincount(index, truth, 10), pixels),
            "pixels": pixels,
        }
    )


def logits(probability: np.ndarray) -> np.ndarray:
    """Compute ln(p / (1 - p)), with p kept within 1e-6 of 0 and 1.

    Args:
        probability: Of any shape.
    """
    return logit(np.clip(probability.astype(np.float64), 1e-6, 1 - 1e-6))


def calibration(sets: Sequence[Pixels]) -> tuple[float, float]:
    """Fit the scale and shift of logits with which probabilities are frequencies (Platt 1999).

    Args:
        sets: Probability and truth (pixel,) of sets that count alike, however many pixels they
            have.

    Returns:
        Scale and shift; 1 and 0 where all is cloud or all is clear.
    """
    z = np.concatenate([logits(probability) for probability, _ in sets])
    cloud = np.concatenate([truth for _, truth in sets]).astype(float)
    weight = np.concatenate([np.full(len(truth), 1 / len(truth)) for _, truth in sets])
    if len(np.unique(cloud)) < 2:
        return 1.0, 0.0
    from sklearn.linear_model import LogisticRegression  # late: only training needs it

    fitted = LogisticRegression(C=np.inf).fit(z[:, np.newaxis], cloud, weight / weight.mean())
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])
