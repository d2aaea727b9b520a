"""Scores: F2 and its companions from pooled pixel counts, with bootstrap intervals over scenes."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from clouddl.errors import InputError
from clouddl.labels import CLOUD, NODATA

MEASURES = ("f2", "f1", "precision", "recall", "iou", "accuracy")


COUNTS = ["tp", "fp", "fn", "tn"]


PLATEAU = 0.01  # of an F-score: what a dozen validation scenes cannot tell apart


def counts(mask: np.ndarray, reference: np.ndarray) -> dict[str, int]:
    """Pixels of one scene: tp, fp, fn, tn, where both masks (0, 1, 255 = nodata) say something."""
    if mask.shape != reference.shape:
        told = f"the mask is {mask.shape} and the reference {reference.shape} pixels"
        raise InputError(f"{told}: bring them to one grid first")
    valid = (mask != NODATA) & (reference != NODATA)
    found, truth = mask[valid] == CLOUD, reference[valid] == CLOUD
    tp, fp, fn = (found & truth).sum(), (found & ~truth).sum(), (~found & truth).sum()
    return {"tp": int(tp), "fp": int(fp), "fn": int(fn), "tn": int(valid.sum() - tp - fp - fn)}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where there is nothing to divide: undefined is not zero."""
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=np.asarray(whole) > 0)


def f_beta(tp: np.ndarray, fp: np.ndarray, fn: np.ndarray, beta: float) -> np.ndarray:
    """(1 + b²) tp / ((1 + b²) tp + b² fn + fp); b = 2 holds omissions worse (Baetens 2019)."""
    b2 = beta * beta
    return _share((1 + b2) * tp, (1 + b2) * tp + b2 * fn + fp)


def measures(table: np.ndarray) -> dict[str, np.ndarray]:
    """All measures from counts (..., 4) in the order of COUNTS."""
    tp, fp, fn, tn = np.moveaxis(np.asarray(table, float), -1, 0)
    return {
        "f2": f_beta(tp, fp, fn, 2),
        "f1": f_beta(tp, fp, fn, 1),
        "precision": _share(tp, tp + fp),
        "recall": _share(tp, tp + fn),
        "iou": _share(tp, tp + fp + fn),
        "accuracy": _share(tp + tn, tp + fp + fn + tn),
    }


def _interval(spread: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of what a bootstrap gave, NaN left out."""
    low, high = np.nanpercentile(spread, [2.5, 97.5]) if np.isfinite(spread).any() else [np.nan] * 2
    return float(low), float(high)


def pooled(
    table: pd.DataFrame, by: Sequence[str] = (), unit: str = "group", draws: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:  # fmt: skip
    """Measures of pooled counts, one row per `by`, with 95 % bootstrap intervals.

    `table`: one row per scene with COUNTS, `unit` (what is drawn with replacement: patches of one
    place stand or fall together) and the columns of `by`. Columns `<measure>_low` and `_high` are
    the 2.5th and 97.5th percentile; NaN where fewer than two units leave nothing to draw from.
    """
    rows = []
    groups = table.groupby(list(by), sort=False) if by else [((), table)]
    for key, part in groups:
        units = part.groupby(unit)[COUNTS].sum().to_numpy()
        row = dict(zip(by, key if isinstance(key, tuple) else (key,), strict=True))
        row |= {"scenes": len(part), "units": len(units)}
        row |= {name: float(value) for name, value in measures(units.sum(0)).items()}
        drawn = np.random.default_rng(seed).integers(0, len(units), (draws, len(units)))
        spread = measures(units[drawn].sum(1))
        for name in MEASURES:
            ends = _interval(spread[name]) if len(units) > 1 else (np.nan, np.nan)
            row[f"{name}_low"], row[f"{name}_high"] = ends
        row["cloud"] = float(_share(units.sum(0)[[0, 2]].sum(), units.sum()))
        rows.append(row)
    return pd.DataFrame(rows)


def paired(
    one: pd.DataFrame, other: pd.DataFrame, draws: int = 2000, seed: int = 0
) -> dict[str, float]:
    """F2 of `one` minus that of `other` on the same scenes, with its 95 % interval.

    Both tables (rows as in `pooled`) are drawn from alike: what is hard for both cancels.
    """
    a, b = (table.groupby("group")[COUNTS].sum() for table in (one, other))
    if not a.index.equals(b.index):
        raise InputError("paired: the two tables hold other scenes; score the same ones with both")
    units = np.stack([a.to_numpy(), b.to_numpy()])
    drawn = np.random.default_rng(seed).integers(0, len(a), (draws, len(a)))
    spread = np.subtract(*measures(units[:, drawn].sum(2))["f2"])
    low, high = _interval(spread)
    found = float(np.subtract(*measures(units.sum(1))["f2"]))
    return {"difference": found, "low": low, "high": high, "units": len(a)}


def _sweep(
    probability: np.ndarray, truth: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Thresholds 0.01 … 0.99 and the tp, fp, fn at each."""
    thresholds = np.arange(1, 100) / 100
    edges = np.concatenate([[-np.inf], thresholds - 1e-9, [np.inf]])
    cloud = np.histogram(probability[truth], edges)[0][::-1].cumsum()[::-1][1:]
    clear = np.histogram(probability[~truth], edges)[0][::-1].cumsum()[::-1][1:]
    return thresholds, cloud, clear, truth.sum() - cloud


def best_threshold(
    probability: np.ndarray, truth: np.ndarray, beta: float = 2
) -> tuple[float, float]:
    """The threshold of highest pooled F-beta, and that highest score; (0.5, nan) without any cloud.

    Scores within `PLATEAU` of the highest are taken for equal, and the middle of their thresholds
    is returned: a few validation scenes cannot tell them apart, and an edge would be a chance.
    """
    thresholds, tp, fp, fn = _sweep(probability, truth.astype(bool))
    score = f_beta(tp, fp, fn, beta)
    if not truth.any():
        return 0.5, float("nan")
    top = np.flatnonzero(score >= np.nanmax(score) - PLATEAU)
    best = (top[0] + top[-1]) // 2
    return float(thresholds[best]), float(np.nanmax(score))


def precision_recall(probability: np.ndarray, truth: np.ndarray) -> pd.DataFrame:
    """Precision, recall and F2 at thresholds 0.01 … 0.99."""
    thresholds, tp, fp, fn = _sweep(probability, truth.astype(bool))
    return pd.DataFrame(
        {
            "threshold": thresholds,
            "precision": _share(tp, tp + fp),
            "recall": _share(tp, tp + fn),
            "f2": f_beta(tp, fp, fn, 2),
        }
    )


def reliability(probability: np.ndarray, truth: np.ndarray, bins: int = 10) -> pd.DataFrame:
    """Reliability diagram: mean probability, observed cloud and pixels of each probability bin."""
    index = np.clip((probability * bins).astype(int), 0, bins - 1)
    pixels = np.bincount(index, minlength=bins)
    return pd.DataFrame(
        {
            "predicted": _share(np.bincount(index, probability, bins), pixels),
            "observed": _share(np.bincount(index, truth.astype(float), bins), pixels),
            "pixels": pixels,
        }
    )
