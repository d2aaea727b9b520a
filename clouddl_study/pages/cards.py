"""The page of model cards: what each shipped model is, and which one serves which sensor."""

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from clouddl.model import read_card
from clouddl.scenes import SIMULATED
from clouddl.sensors import BAND_SETS, sensors

SHIPPED = (*BAND_SETS, "any")
SCORES = ("scores_sentinel2.csv", "scores_transfer.csv")


def fitting_sets(available: Iterable[str]) -> dict[str, list[str]]:
    """Select the sets of `BAND_SETS` that some bands fill.

    Args:
        available: Common names of the bands there are.

    Returns:
        Common names by the name of the set, the largest set first.
    """
    names = set(available)
    return {name: bands for name, bands in BAND_SETS.items() if names.issuperset(bands)}


def model_table(models: Path) -> pd.DataFrame:
    """Tabulate the cards of the shipped models.

    Args:
        models: Folder of the cards.

    Returns:
        A row for each model there: what it works from, how it was made, its threshold and its F2
        on validation.
    """
    rows = []
    for name in SHIPPED:
        if (models / f"{name}.json").exists():
            card = read_card(models / name)
            simulated = sum(sha256 == SIMULATED for sha256 in card.trained_on.values())
            rows.append(
                {
                    "model": name,
                    "works from": "; or ".join(", ".join(bands) for bands in card.band_sets),
                    "metres": card.resolution,
                    "labels": card.labels,
                    "real scenes": len(card.trained_on) - simulated,
                    "simulated scenes": simulated,
                    "filters": card.base_filters,
                    "threshold": card.threshold,
                    "validation F2": card.scores.get("validation_f2"),
                    "weights, sha256": card.weights_sha256[:12],
                }
            )
    return pd.DataFrame(rows)


def sensor_table(models: Path, results: Path) -> pd.DataFrame:
    """Tabulate which model serves a sensor, and what F2 was measured on real images of it.

    Args:
        models: Folder of the cards of models.
        results: Folder of the tables of scores.

    Returns:
        A row for each sensor card whose bands some model works from.
    """
    tables = [pd.read_csv(results / name) for name in SCORES if (results / name).exists()]
    scores = pd.concat(tables) if tables else pd.DataFrame(columns=["sensor", "run", "f2"])
    if "set" in scores:
        scores["sensor"] = scores.sensor.fillna("sentinel-2")
    rows = []
    for sensor in sensors().values():
        fitting = fitting_sets(band.common for band in sensor.bands)
        name = next(iter(fitting), "none")
        if (models / f"{name}.json").exists():
            run = f"CloudDL: {', '.join(fitting[name])}"
            measured = scores[(scores.sensor == sensor.id) & (scores.run == run)]
            f2 = ", ".join(f"{100 * value:.1f}" for value in measured.f2)
            rows.append(
                {
                    "sensor": sensor.title,
                    "model": name,
                    "threshold": read_card(models / name).threshold,
                    "F2 %, real images": f2 or "not measured",
                    "lacks": ", ".join(sensor.missing) or "nothing",
                }
            )
    return pd.DataFrame(rows)
