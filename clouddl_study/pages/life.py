"""Steps, tables and figures of the page on the life of a new sensor."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clouddl.chips import Chips, cut_chips
from clouddl.mission.degrade import degrade
from clouddl.mission.gate import Verdict
from clouddl.model import CloudModel
from clouddl.score import best_threshold
from clouddl.train import Schedule, fit
from clouddl.transfer import Scenes, pixels, predictions
from clouddl_study.experiments import simulated_person
from clouddl_study.pages import panels
from clouddl_study.pages.transfer import all_cloud_f2
from clouddl_study.tables import ALL_CLOUD, enough_units, percent, title_of

MIXED = (0.05, 0.7)  # fraction of cloud of the scenes that are worth labelling
LABELLED = 5  # scenes that the simulated annotator labels
AGAIN = 8  # labelled scenes with which an aged sensor's model is trained again


def label_first_scenes(scenes: Scenes, *, rounds: int, per_round: int, seed: int) -> pd.DataFrame:
    """Let a simulated annotator label the first scenes that hold both cloud and clear ground.

    Args:
        scenes: Scenes by id, with `mask`.
        rounds: Rounds of labelling.
        per_round: Points labelled in each.
        seed: Seed of the answers.

    Returns:
        A row a round: round, points, minutes, f2 and accuracy, means over the scenes.
    """
    least, most = MIXED
    rows: list[pd.DataFrame] = []
    for name, scene in scenes.items():
        cloudy = float((scene.mask == 1).mean())
        if least < cloudy < most and len(rows) < LABELLED:
            labelled = simulated_person(
                scene, scene.mask.values, rounds=rounds, per_round=per_round, seed=seed
            )
            rows.append(labelled.assign(scene=name))
    columns = ["points", "minutes", "f2", "accuracy"]
    means = pd.concat(rows).groupby("round")[columns].mean().reset_index()
    return means.round({"minutes": 1, "f2": 3, "accuracy": 3})


def first_of(scenes: Scenes, count: int) -> dict[str, xr.Dataset]:
    """Select the first scenes.

    Args:
        scenes: Scenes by id, in the order in which they are labelled.
        count: How many.

    Returns:
        The first `count` of them by id.
    """
    names = list(scenes)[:count]
    return {name: scenes[name] for name in names}


def train_anew(model: CloudModel, scenes: Scenes, folder: Path, *, epochs: int) -> CloudModel:
    """Train a new model of the same shape with a few labelled scenes alone.

    Args:
        model: Whose card gives the shape and the bands.
        scenes: Labelled scenes by id; there is no validation set, so the threshold is 0.5.
        folder: Of the training run; its name becomes that of the model.
        epochs: Passes over the scenes.

    Returns:
        The new model.
    """
    size = max(next(iter(scenes.values())).sizes["y"], 64)
    cut = cut_chips(scenes.values(), bands=model.card.bands, sources=["truth"], size=size)
    blank = model.card.model_copy(
        update={"name": folder.name, "trained_on": {}, "mean": [], "std": []}
    )
    anew = fit(blank, Chips(cut.isel(source=0)), None, folder, Schedule(epochs, batch_size=4))
    anew.card.threshold = 0.5
    return anew


def new_threshold(model: CloudModel, scenes: Scenes) -> CloudModel:
    """Choose a threshold for a model on a few labelled scenes, and leave its weights as they are.

    Args:
        model: The model.
        scenes: Labelled scenes by id.

    Returns:
        The same network, its threshold that of the highest F2 on the scenes.
    """
    threshold, _ = best_threshold(*pixels(predictions(model, scenes), scenes))
    card = model.card.model_copy(update={"threshold": threshold})
    return CloudModel(card, model.net)


def aged(
    scenes: Scenes, year: int, *, gain_loss: float, noise_rise: float, seed: int
) -> dict[str, xr.Dataset]:
    """Degrade scenes as a sensor that loses signal and gains noise with every year would see them.

    Args:
        scenes: Scenes by id.
        year: Years since acceptance.
        gain_loss: Fraction of the signal that is lost in a year.
        noise_rise: Standard deviation of the noise that a year adds, reflectance.
        seed: Seed of the noise.

    Returns:
        The degraded scenes by id.
    """
    seen = {}
    for name, scene in scenes.items():
        darker = degrade(scene, "gain", -gain_loss * year, seed)
        seen[name] = degrade(darker, "noise", noise_rise * year, seed)
    return seen


def gate_table(log: Sequence[tuple[int, Verdict, Verdict | None]], f2_min: float) -> pd.DataFrame:
    """Tabulate the verdicts of all years.

    Args:
        log: For each year the verdict, and that after training again (None: not needed).
        f2_min: F2 that is demanded.

    Returns:
        A row a year: year, F2, demanded, gate, not met, F2 after training again.
    """
    rows = []
    for year, verdict, after in log:
        failed = verdict.rows.criterion[~verdict.rows.passed]
        again = "–"
        if after is not None:
            outcome = "passed" if after.passed else "failed"
            again = f"{percent(_f2(after))}, {outcome}"
        rows.append(
            {
                "year": year,
                "F2": round(_f2(verdict), 3),
                "demanded": f2_min,
                "gate": "passed" if verdict.passed else "FAILED",
                "not met": ", ".join(failed).replace("f2", "F2") or "–",
                "F2 after training again": again,
            }
        )
    return pd.DataFrame(rows)


def plot_refinement(table: pd.DataFrame, simulated: Sequence[str]) -> Figure:
    """Plot F2 against the number of labelled scenes, one newcomer a panel.

    Args:
        table: Scores by of, way and labelled scenes, as `score.pooled` returns them; the way
            `ALL_CLOUD` becomes a dashed line.
        simulated: Newcomers whose scenes are simulated.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True)
    for axis, (name, part) in zip(axes, table.groupby("of", sort=False), strict=True):
        for number, (way, line) in enumerate(part.groupby("way", sort=False)):
            if way == ALL_CLOUD:
                axis.axhline(line.f2.iloc[0], color="grey", ls="--", lw=1, label=way)
            else:
                # A little beside each other, so that intervals do not hide one another.
                _line_with_intervals(axis, line["labelled scenes"] + 0.06 * number, line, way)
        axis.set_xticks(part["labelled scenes"].unique())
        origin = "simulated" if name in simulated else "real"
        axis.set(title=f"{title_of(name)} ({origin})", xlabel="labelled scenes")
        axis.set_ylabel("F2 (95 % interval)")
        axis.tick_params(labelleft=True)
        axis.legend(fontsize=9, loc="lower left", ncols=2)
    plt.close(figure)
    return figure


def plot_gate(log: Sequence[tuple[int, Verdict, Verdict | None]], f2_min: float) -> Figure:
    """Plot the F2 that the gate sees in each year, and that after training again.

    Args:
        log: As for `gate_table`.
        f2_min: F2 that is demanded, a dashed line.

    Returns:
        The figure.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4))
    before = pd.DataFrame([verdict.scores.iloc[0] for _, verdict, _ in log])
    _line_with_intervals(axis, [year for year, _, _ in log], before, "model in service")
    again = [(year, _f2(after)) for year, _, after in log if after is not None]
    if again:
        axis.plot(*zip(*again, strict=True), "s", color="C1", label="trained again", zorder=3)
    axis.axhline(f2_min, color="black", ls="--", lw=1, label="demanded")
    floor = all_cloud_f2(before.cloud.iloc[0])
    axis.axhline(floor, color="grey", ls=":", lw=1, label=ALL_CLOUD)
    axis.set_xticks([year for year, _, _ in log])
    axis.set(xlabel="year of service", ylabel="F2 (95 % interval)")
    panels.legend_below(axis, 2)
    plt.close(figure)
    return figure


def refinement_finding(table: pd.DataFrame, newcomer: str) -> str:
    """Tell in a sentence what a few labels did to a newcomer's F2.

    Args:
        table: As for `plot_refinement`.
        newcomer: A value of its column `of`.

    Returns:
        A line of Markdown.
    """
    part = table[table.of == newcomer]
    refined = part[part.way == "refined"].set_index("labelled scenes").f2
    worst, most = refined.idxmin(), refined.index.max()
    text = (
        f"**{title_of(newcomer)}**: F2 is {100 * refined.iloc[0]:.1f} % before any label and "
        f"{100 * refined[most]:.1f} % after refinement with {most} scenes"
    )
    if worst > 0:
        text += f"; the lowest value on the way is {100 * refined[worst]:.1f} %, with {worst}"
    moved = part[(part.way == "new threshold alone") & (part["labelled scenes"] == most)]
    if len(moved):
        text += f". A new threshold alone, from the same {most} scenes, gives "
        text += f"{100 * moved.f2.iloc[0]:.1f} %"
    return text + "."


def gate_finding(log: Sequence[tuple[int, Verdict, Verdict | None]], f2_min: float) -> str:
    """Tell in two sentences when the gate failed, and how wide the interval of its F2 is.

    Args:
        log: As for `gate_table`.
        f2_min: F2 that is demanded.

    Returns:
        A line of Markdown.
    """
    first = enough_units(log[0][1].scores).iloc[0]
    failures = [str(year) for year, verdict, _ in log if not verdict.passed]
    when = "in no year"
    if failures:
        when = f"in {'years' if len(failures) > 1 else 'year'} {', '.join(failures)}"
    interval = "There are too few places for an interval."
    if not np.isnan(first.f2_low):
        ends = f"{100 * first.f2_low:.1f} to {100 * first.f2_high:.1f} %"
        interval = f"The interval of F2 in year {log[0][0]} goes from {ends}."
    return f"**Gate**: it demands an F2 of {100 * f2_min:.1f} %, and fails {when}. {interval}"


def all_cloud_scores(counts: pd.DataFrame) -> pd.DataFrame:
    """Count the pixels of the mask that calls everything cloud, from those of any other mask.

    Args:
        counts: Rows of `transfer.score_masks`, one a scene.

    Returns:
        The same rows with the counts of that mask; the way is `ALL_CLOUD`.
    """
    cloud, clear = counts.tp + counts.fn, counts.fp + counts.tn
    return counts.assign(way=ALL_CLOUD, tp=cloud, fp=clear, fn=0, tn=0)


def _f2(verdict: Verdict) -> float:
    """F2 of all scenes of a verdict."""
    return float(verdict.scores.f2.iloc[0])


def _line_with_intervals(
    axis: Axes, x: Sequence[int] | pd.Series, table: pd.DataFrame, label: str
) -> None:
    """Plot F2 of the rows of a table against x, with intervals where places are enough."""
    table = enough_units(table)
    ends = np.abs([table.f2 - table.f2_low, table.f2_high - table.f2])
    axis.errorbar(x, table.f2, yerr=ends, fmt="o-", capsize=3, label=label)
