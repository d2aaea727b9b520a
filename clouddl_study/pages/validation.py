"""Page 4: masks, patches and thresholds against hand-labelled Sentinel-2 references."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.figure import Figure

from clouddl.model import CloudModel
from clouddl.score import COUNTS, measures
from clouddl.sensors import BAND_SETS
from clouddl.transfer import Evaluation, Scenes
from clouddl_study.pages import panels, transfer
from clouddl_study.pages.cards import fitting_sets
from clouddl_study.pages.search import plot_f2
from clouddl_study.pages.transfer import all_cloud_f2, cloud_fraction
from clouddl_study.tables import ALL_CLOUD, SCORE_COLUMNS, title_of

# Columns of the table of scores.
SCORES = ("set", "run", "scenes", *SCORE_COLUMNS)

Curves = Mapping[str, Mapping[str, pd.DataFrame]]  # by set of images and model


def by_collection(scenes: Scenes) -> dict[str, dict[str, xr.Dataset]]:
    """Divide scenes into the sets they were published as.

    Args:
        scenes: By id, as `transfer.open_scenes` gives them.

    Returns:
        Scenes by id, by collection, in the order of the scenes.
    """
    sets: dict[str, dict[str, xr.Dataset]] = {}
    for name, scene in scenes.items():
        sets.setdefault(scene.attrs["collection"], {})[name] = scene
    return sets


def scene_table(scenes: Scenes) -> pd.DataFrame:
    """Tabulate scenes.

    Args:
        scenes: With `mask`.

    Returns:
        A row for each: scene, set, pixels, cloud (fraction), bands.
    """
    rows = []
    for name, scene in scenes.items():
        row = {"scene": name, "set": scene.attrs["collection"], "pixels": scene.mask.size}
        row["cloud"] = float((scene.mask == 1).mean())
        row["bands"] = ", ".join(scene.band.values.tolist())
        rows.append(row)
    return pd.DataFrame(rows)


def usable(scenes: Scenes) -> dict[str, list[str]]:
    """Select the band sets that all of some scenes have.

    Args:
        scenes: At least one.

    Returns:
        Common names by the name of the set, of `BAND_SETS`.
    """
    common = set.intersection(*(set(scene.band.values.tolist()) for scene in scenes.values()))
    return fitting_sets(common)


def pick(candidates: Sequence[str], masks: Mapping[str, Mapping[str, np.ndarray]]) -> str:
    """Pick the first run that has masks.

    Args:
        candidates: Names of runs, the preferred one first.
        masks: Masks by run and scene id.

    Returns:
        The run.

    Raises:
        ValueError: None has masks.
    """
    for run in candidates:
        if masks.get(run):
            return run
    raise ValueError(f"none of the runs has a mask: {', '.join(candidates)}")


def panel_rows(
    sets: Mapping[str, Scenes],
    evaluations: Mapping[str, Evaluation],
    ours: Sequence[str],
    peer: tuple[str, str],
) -> list[tuple[str, xr.Dataset, dict[str, np.ndarray]]]:
    """Collect three rows of a panel: the first two scenes of each set, with two masks.

    Args:
        sets: Scenes by set.
        evaluations: Their masks, by set.
        ours: Runs of CloudDL, the preferred one first: a set may lack its bands.
        peer: Title of the last column, and the run it shows.

    Returns:
        Rows of `panels.panel`; the title of a row says which of `ours` it shows.
    """
    rows = []
    title, other = peer
    for collection, part in sets.items():
        masks = evaluations[collection].masks
        run = pick(ours, masks)
        bands = title_of(run.partition(": ")[2])
        for name in list(part)[:2]:
            columns = {"CloudDL": masks[run][name], title: masks[other][name]}
            rows.append((f"{title_of(name)}\n{bands}", part[name], columns))
    return rows[:3]


def differences(
    evaluations: Mapping[str, Evaluation],
    sets: Mapping[str, Scenes],
    ours: Sequence[str],
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Tabulate how far models are ahead of other methods, on the same pixels.

    Args:
        evaluations: Of `transfer.evaluate`, by set of images.
        sets: Scenes of each set.
        ours: Runs of CloudDL, each compared with those of like bands and with those of others.
        draws: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        Rows as of `transfer.differences`, with the bands of the model (`CloudDL with`).
    """
    runs = dict.fromkeys(run for e in evaluations.values() for run in e.masks)
    parts = []
    for one in ours:
        bands = one.partition(": ")[2]
        rivals = [
            run
            for run in runs
            if run not in ours
            and (run.endswith(f": {bands}") or not run.startswith(("CloudDL", "spectral tests")))
        ]
        table = transfer.differences(evaluations, sets, one, rivals, draws, seed)
        table.insert(1, "CloudDL with", bands)
        parts.append(table)
    return pd.concat([part for part in parts if len(part)], ignore_index=True)


def scene_points(counted: pd.DataFrame, runs: Sequence[str]) -> Figure:
    """Plot F2 of each scene, one row a method: what an interval over few scenes would hide.

    Args:
        counted: Counts of `transfer.evaluate`, with the column `set`.
        runs: What to plot.

    Returns:
        The figure; a bar is the F2 of the pooled pixels of a set.
    """
    runs = [run for run in runs if (counted.run == run).any()]
    figure, axis = plt.subplots(figsize=(6.5, 0.56 * len(runs) + 1.5))
    for number, name in enumerate(counted.set.unique()):
        for row, run in enumerate(runs):
            part = counted[(counted.set == name) & (counted.run == run)]
            if part.empty:
                continue
            scenes = measures(part[COUNTS].to_numpy())["f2"]
            pooled = measures(part[COUNTS].sum().to_numpy())["f2"]
            y = len(runs) - 1 - row + 0.12 - 0.24 * number
            axis.plot(scenes, np.full(len(scenes), y), "o", color=f"C{number}", alpha=0.7, ms=5)
            axis.plot(pooled, y, "|", color=f"C{number}", ms=13, mew=2)
        axis.plot([], [], "o", color=f"C{number}", label=title_of(name))
    labels = [title_of(run).replace(": ", ":\n") for run in runs]
    axis.set_yticks(np.arange(len(runs))[::-1], labels, fontsize=9)
    axis.set_xlabel("F2")
    panels.legend_below(axis, 2)
    plt.close(figure)
    return figure


def threshold_curves(
    curves: Curves, models: Mapping[str, CloudModel], sets: Mapping[str, Scenes]
) -> Figure:
    """Plot F2 against the threshold on each set, with the threshold of each model marked.

    Args:
        curves: Tables of `score.precision_recall`.
        models: By the names in `curves`.
        sets: Scenes by set, for the F2 of `ALL_CLOUD`.

    Returns:
        The figure.
    """
    size = (4.2 * len(curves), 3.8)
    figure, axes = plt.subplots(1, len(curves), figsize=size, squeeze=False, sharey=True)
    for axis, (collection, tables) in zip(axes.flat, curves.items(), strict=True):
        for name, table in tables.items():
            colour = f"C{list(BAND_SETS).index(name)}"
            plot_f2(axis, table, models[name].card.threshold, f"model {name}", colour)
        floor = all_cloud_f2(cloud_fraction(sets[collection]))
        axis.axhline(floor, color="grey", lw=1, ls="--", label=ALL_CLOUD)
        axis.set(xlabel="threshold of the probability", ylabel="F2", xlim=(0, 1), ylim=(0, 1.01))
        axis.tick_params(labelleft=True)
        axis.set_title(title_of(collection))
        axis.legend(fontsize=9, loc="lower left")
    plt.close(figure)
    return figure


def cost_of_threshold(curves: Curves, models: Mapping[str, CloudModel]) -> pd.DataFrame:
    """Tabulate what the threshold of validation costs on references: an unattainable best minus it.

    Args:
        curves: Tables of `score.precision_recall`.
        models: By the names in `curves`.

    Returns:
        A row for each set and model: set, model, threshold, F2 there, the best threshold in
        hindsight, its F2, and the difference in points.
    """
    rows = []
    for collection, tables in curves.items():
        for name, table in tables.items():
            chosen = at_threshold(table, models[name].card.threshold)
            best = chosen
            if table.f2.notna().any():
                best = table.loc[table.f2.idxmax()]
            row = {"set": collection, "model": name}
            row |= {"threshold": chosen.threshold, "F2 % there": round(100 * chosen.f2, 1)}
            row |= {"best in hindsight": best.threshold, "its F2 %": round(100 * best.f2, 1)}
            rows.append({**row, "cost (points)": round(100 * (best.f2 - chosen.f2), 1)})
    return pd.DataFrame(rows)


def at_threshold(curve: pd.DataFrame, threshold: float) -> pd.Series:
    """Find the row of a curve at a threshold.

    Args:
        curve: A table of `score.precision_recall`.
        threshold: Of a model.

    Returns:
        The row of the nearest threshold.
    """
    return curve.iloc[(curve.threshold - threshold).abs().argmin()]


def operating_points(
    tables: Mapping[str, pd.DataFrame], models: Mapping[str, CloudModel]
) -> dict[str, tuple[float, float]]:
    """Find where the threshold of each model lies on its curve.

    Args:
        tables: Tables of `score.precision_recall`, by model.
        models: By the same names.

    Returns:
        Recall and precision, by a label that tells the threshold.
    """
    points = {}
    for name, table in tables.items():
        at = at_threshold(table, models[name].card.threshold)
        points[f"{name}, threshold {at.threshold:.2f}"] = (at.recall, at.precision)
    return points
