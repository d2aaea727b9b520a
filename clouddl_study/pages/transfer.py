"""Tables and figures of page 5: a model on sensors that it was not trained on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import wrap
from typing import TypeVar

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clouddl.labels import CLOUD, NODATA
from clouddl.model import CloudModel
from clouddl.score import COUNTS, block_counts, f_beta, measures, paired, pooled
from clouddl.sensors import BAND_SETS, Sensor, shared_bands
from clouddl.transfer import Evaluation, Method, Scenes, evaluate, model_method
from clouddl_study import tables
from clouddl_study.experiments import models_by_training
from clouddl_study.pages import panels
from clouddl_study.pages.curves import precision_recall_curves
from clouddl_study.tables import (
    ALL_CLOUD,
    FEWEST_UNITS,
    NOISE,
    enough_units,
    percent,
    points,
    title_of,
)
from clouddl_study.workspace import read_choices, results_folder, trained_model, work_folder

PEER = "ukis-csmask: blue, green, red, nir"
#: Beside ours in the headline; what learns from real scenes alone does so as in 2020.
RIVALS = f"{ALL_CLOUD}|CloudDL, real scenes alone: |spectral tests: |ukis-csmask: "
SCORES = ["scenes", *tables.SCORE_COLUMNS]
MINUS = "CloudDL minus"
WITHIN = ["within from", "within to"]  # interval over the blocks of one patch
Fraction = TypeVar("Fraction", float, pd.Series)


def bands_shared(reference: Sensor, others: Sequence[Sensor]) -> pd.DataFrame:
    """List which bands of other sensors the training sensor has too.

    Args:
        reference: Card of the training sensor.
        others: Cards of the others.

    Returns:
        A row for each other sensor: its title, and the common names of the bands.
    """
    rows = {sensor.title: ", ".join(shared_bands(reference, sensor)) for sensor in others}
    return pd.DataFrame(rows.items(), columns=["sensor", f"bands shared with {reference.title}"])


def by_sensor(scenes: Scenes, bands: Sequence[str] = ()) -> dict[str, Scenes]:
    """Sort the scenes that have some bands into a set for each sensor.

    Args:
        scenes: Scenes by id.
        bands: Common names that a scene must have.

    Returns:
        Scenes by id for each sensor, in the order in which sensors first appear.
    """
    sets: dict[str, dict] = {}
    for name, scene in scenes.items():
        if set(bands) <= set(scene.band.values.tolist()):
            sets.setdefault(scene.attrs["sensor"], {})[name] = scene
    return dict(sets)


def transfer_methods(models: Mapping[str, CloudModel]) -> dict[str, Method]:
    """Make methods of the models, for each set of bands: the model of those bands, and "any".

    Args:
        models: A model for each name of `BAND_SETS`, and "any".

    Returns:
        Methods by the name that tables show, "method: bands".
    """
    methods = {}
    for name, use in BAND_SETS.items():
        bands = ", ".join(use)
        methods[f"CloudDL: {bands}"] = model_method(models[name], use)
        methods[f"CloudDL, one model for any bands: {bands}"] = model_method(models["any"], use)
    return methods


def ablation_methods(work: Path | str, names: Mapping[str, str]) -> dict[str, Method]:
    """Make methods of the models with SPOT's bands that were trained on less.

    Args:
        work: The work folder; a model that it lacks is left out.
        names: Name of the model by what it was trained on.

    Returns:
        Methods by the name that tables show.
    """
    methods = {}
    spot = BAND_SETS["spot"]
    for trained_on, name in names.items():
        if has_model(work, name):
            run = f"CloudDL, {trained_on}: {', '.join(spot)}"
            methods[run] = model_method(trained_model(work, name), spot)
    return methods


def other_trainings(work: Path | str) -> dict[str, str]:
    """Name the models with SPOT's bands that learnt from other scenes than the headline model.

    Args:
        work: The work folder, with the choices of page 2.

    Returns:
        Names of models by what they learnt from.
    """
    learnt_from = models_by_training(read_choices(work)["scenes"])
    return {words: name for words, name in learnt_from.items() if name != "spot"}


def has_model(work: Path | str, name: str) -> bool:
    """Whether the work folder has a model of that name."""
    return (work_folder(work) / "models" / f"{name}.json").exists()


def seed_models(work: Path | str) -> list[str]:
    """Names of the fits with SPOT's bands that differ in their seed alone.

    Args:
        work: The work folder.
    """
    fits = (work_folder(work) / "models").glob("spot-seed-*.json")
    return sorted(path.stem for path in fits)


def score_fits(work: Path | str, fits: Mapping[str, str], scenes: Scenes) -> pd.DataFrame:
    """Score several trained models on the same scenes.

    Args:
        work: The work folder.
        fits: Name of the model by the name to show; there may be none.
        scenes: With `mask`.

    Returns:
        A row for each sensor and model (`run`): F2, F1, precision and recall.
    """
    columns = ["sensor", "run", "f2", "f1", "precision", "recall"]
    if not fits:
        return pd.DataFrame(columns=columns)
    methods = {run: model_method(trained_model(work, name)) for run, name in fits.items()}
    counts = evaluate(methods, scenes).counts
    return pooled(counts, by=["sensor", "run"], draws=1)[columns].round(3)


def differences(
    evaluations: Mapping[str, Evaluation],
    sets: Mapping[str, Scenes],
    run: str,
    rivals: Sequence[str],
    draws: int,
    seed: int,
) -> pd.DataFrame:
    """Compare F2 of a method with that of others on the same scenes.

    The interval is over places, where there are at least `FEWEST_UNITS`. For a set of one patch
    there is another one, of a bootstrap of its blocks: within this patch.

    Args:
        evaluations: Of `transfer.evaluate`, by set of images.
        sets: Scenes of each set.
        run: The method.
        rivals: Those it is compared with.
        draws: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        A row for each set (`images`) and rival that runs on the same scenes, with the columns of
        `score.paired`, and `within from` and `within to`.
    """
    columns = ["images", MINUS, "difference", "low", "high", "units", *WITHIN]
    rows = []
    for images, evaluation in evaluations.items():
        counts = dict(list(evaluation.counts.groupby("run")))
        for rival in rivals:
            if {run, rival} <= set(counts) and _same_scenes(counts[run], counts[rival]):
                row = paired(counts[run], counts[rival], draws, seed)
                within = _within_patch(evaluation, sets[images], (run, rival), draws, seed)
                row |= dict(zip(WITHIN, within, strict=True))
                rows.append({"images": images, MINUS: rival, **row})
    return enough_units(pd.DataFrame(rows, columns=columns))


def _same_scenes(one: pd.DataFrame, other: pd.DataFrame) -> bool:
    """Whether two methods could run on the same scenes of a set."""
    return set(one.scene) == set(other.scene)


def _within_patch(
    evaluation: Evaluation, scenes: Scenes, runs: Sequence[str], draws: int, seed: int
) -> tuple[float, float]:
    """Interval of the difference of two runs over the blocks of the one patch of a set.

    NaN where there are several patches, or fewer blocks than `FEWEST_UNITS`.
    """
    if len(scenes) > 1:
        return np.nan, np.nan
    ((name, scene),) = scenes.items()
    blocks = [block_counts(evaluation.masks[run][name], scene.mask.values) for run in runs]
    if len(blocks[0]) < FEWEST_UNITS:
        return np.nan, np.nan
    one, other = blocks
    difference = paired(one, other, draws, seed)
    return difference["low"], difference["high"]


def seed_spread(seeds: pd.DataFrame) -> pd.DataFrame:
    """Summarise F2 over fits that differ in their seed alone.

    Args:
        seeds: Columns sensor and f2, a row for each fit.

    Returns:
        A row for each sensor: number of fits, mean F2 in per cent, its standard deviation and
        `NOISE` times that, in points.
    """
    spread = seeds.groupby("sensor", sort=False).f2.agg(["count", "mean", "std"]).reset_index()
    spread["noise"] = NOISE * spread["std"]
    for name in ("mean", "std", "noise"):
        spread[name] = spread[name].map(lambda f2: f"{100 * f2:.1f}").replace("nan", "–")
    heads = {"count": "fits", "mean": "mean F2, %", "std": "standard deviation, points"}
    return spread.rename(columns={**heads, "noise": "noise of a difference, points"})


def cloud_fraction(scenes: Scenes) -> float:
    """Compute the fraction of cloud in the references of some scenes.

    Args:
        scenes: With `mask`.

    Returns:
        Cloud pixels by labelled pixels of all scenes.
    """
    cloud = sum(int((scene.mask == CLOUD).sum()) for scene in scenes.values())
    labelled = sum(int((scene.mask != NODATA).sum()) for scene in scenes.values())
    return cloud / labelled


def all_cloud_f2(cloud: Fraction) -> Fraction:
    """Compute F2 of a mask that calls everything cloud, 5 p / (4 p + 1).

    Args:
        cloud: Fraction p of cloud in the reference, or a column of them.

    Returns:
        F2, which a method must exceed to be of use.
    """
    return 5 * cloud / (4 * cloud + 1)


def forest_plot(scores: pd.DataFrame, headline: str) -> Figure:
    """Plot F2 of each method on each sensor, with its 95 % interval.

    An interval over fewer than `FEWEST_UNITS` places is left out.

    Args:
        scores: As `score.pooled` by sensor and run.
        headline: The method to stand out.

    Returns:
        The figure; a panel for each sensor, methods in the order of the table.
    """
    runs = scores.run.drop_duplicates().tolist()
    sensors = scores.sensor.drop_duplicates().tolist()
    size = (5 * len(sensors), 0.52 * len(runs) + 1)
    figure, axes = plt.subplots(1, len(sensors), squeeze=False, sharex=True, figsize=size)
    for axis, sensor in zip(axes.flat, sensors, strict=True):
        rows = scores[scores.sensor == sensor].set_index("run").reindex(runs)
        _forest(axis, enough_units(rows), headline)
        places = int(rows.units.max())
        axis.set(title=f"{title_of(sensor)} (places: {places})", xlabel="F2, %")
        axis.set_yticks(range(len(runs)), _method_labels(runs), fontsize=9)
        axis.invert_yaxis()
    plt.close(figure)
    return figure


def _forest(axis: Axes, rows: pd.DataFrame, headline: str) -> None:
    """One panel of `forest_plot`: rows by method."""
    for y, (run, row) in enumerate(rows.iterrows()):
        colour = "C1" if run == headline else "C0"
        axis.plot([100 * row.f2_low, 100 * row.f2_high], [y, y], color=colour, lw=3, alpha=0.4)
        axis.plot(100 * row.f2, y, "o", color=colour)
    if ALL_CLOUD in rows.index:
        axis.axvline(100 * rows.f2[ALL_CLOUD], color="grey", lw=1, ls="--")


def _method_labels(runs: Sequence[str]) -> list[str]:
    """Method and bands of each run, the bands on a line of their own."""
    names = tables.readable(pd.DataFrame({"run": list(runs)}))
    pairs = zip(names["Method"], names["Bands"], strict=True)
    return ["\n".join([*wrap(method, 24), bands]).strip() for method, bands in pairs]


def threshold_curves(
    curves: Mapping[str, pd.DataFrame], threshold: float, cloud: Mapping[str, float]
) -> Figure:
    """Plot F2 against the threshold for several sets of scenes.

    Args:
        curves: Tables of `score.precision_recall` by the name of the set.
        threshold: The one in use, which is marked.
        cloud: Fraction of cloud in the reference of each set, for the floor "all cloud".

    Returns:
        The figure.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.8))
    for number, (name, table) in enumerate(curves.items()):
        colour = f"C{number}"
        axis.plot(table.threshold, 100 * table.f2, color=colour, label=name)
        floor = 100 * all_cloud_f2(cloud[name])
        axis.axhline(floor, color=colour, ls=":", label=f"{name}, {ALL_CLOUD}")
    axis.axvline(threshold, color="grey", ls="--", label="chosen on validation")
    axis.set(xlabel="threshold of probability", ylabel="F2, %", xlim=(0, 1))
    panels.legend_below(axis, 2)
    plt.close(figure)
    return figure


def precision_recall_figure(
    curves: Mapping[str, pd.DataFrame], scores: pd.DataFrame, threshold: float
) -> Figure:
    """Plot precision against recall for several sets, with the mask in use as a point.

    Args:
        curves: Tables of `score.precision_recall` by the name of the set.
        scores: Columns sensor, recall and precision at the threshold, a row for each set in the
            order of the curves.
        threshold: The one in use.

    Returns:
        The figure.
    """
    points = {
        f"{title_of(row.sensor)} at threshold {threshold:.2f}": (row.recall, row.precision)
        for row in scores.itertuples()
    }
    return precision_recall_curves(curves, points)


def surface_plot(counts: pd.DataFrame, surfaces: pd.DataFrame) -> Figure:
    """Plot F2 of each surface and of each of its patches, and the floor of the surface.

    A surface without any cloud has no F2 and stays empty.

    Args:
        counts: A row for each patch of one method: biome, tp, fp, fn, tn.
        surfaces: `score.pooled` of the same by biome.

    Returns:
        The figure.
    """
    figure, axis = plt.subplots(figsize=(6.5, 4.2))
    patches = patches_worst_first(counts)
    for y, row in enumerate(surfaces.itertuples()):
        single = patches[patches.biome == row.biome].f2
        axis.plot(100 * single, np.full(len(single), y), "|", ms=12, mew=2, color="C1")
        if np.isfinite(row.recall):
            axis.plot(100 * row.f2, y, "o", color="C0")
            axis.plot(100 * all_cloud_f2(row.cloud), y, "x", color="grey")
    axis.plot([], [], "o", color="C0", label="all its pixels")
    axis.plot([], [], "|", ms=12, mew=2, color="C1", label="a patch")
    axis.plot([], [], "x", color="grey", label=ALL_CLOUD)
    names = tables.readable(surfaces[["biome", "scenes"]])
    labels = [f"{name} ({number})" for name, number in names.itertuples(index=False)]
    axis.set_yticks(range(len(labels)), labels)
    axis.invert_yaxis()
    axis.set_xlabel("F2, %")
    panels.legend_below(axis, 3)
    plt.close(figure)
    return figure


def patches_worst_first(counts: pd.DataFrame) -> pd.DataFrame:
    """Order patches by how wrong their mask is.

    A patch with cloud is ranked by its F2, one without any by its accuracy, which is lowest where
    there are most false alarms.

    Args:
        counts: A row for each patch of one method: tp, fp, fn, tn.

    Returns:
        The same rows, worst first, with f2 (NaN without cloud) and accuracy.
    """
    table = counts.reset_index(drop=True)
    scores = measures(table[COUNTS].to_numpy())
    has_cloud = table.tp + table.fn > 0
    table["accuracy"] = scores["accuracy"]
    table["f2"] = np.where(has_cloud, scores["f2"], np.nan)
    merit = table.f2.fillna(table.accuracy)
    return table.loc[merit.sort_values(kind="stable").index]


def error_panel(
    evaluation: Evaluation, scenes: Scenes, run: str, bands: Sequence[str], patches: int
) -> Figure:
    """Show patches from the lowest F2 to the highest, with the mask of ukis-csmask beside.

    Only patches with both cloud and clear ground are taken, at equal steps of rank.

    Args:
        evaluation: Of methods on scenes of one sensor.
        scenes: These, by id.
        run: The method.
        bands: Common names of the bands of the picture.
        patches: How many; one alone is of middling F2.

    Returns:
        The figure.
    """
    table = evaluation.counts[evaluation.counts.run == run]
    table = table.assign(f2=f_beta(table.tp, table.fp, table.fn, 2))
    mixed = table[(table.tp + table.fn > 0) & (table.tn + table.fp > 0)].sort_values("f2")
    places = [0.5]
    if patches > 1:
        places = np.linspace(0, 1, patches).tolist()
    chosen = mixed.scene.iloc[[round(place * (len(mixed) - 1)) for place in places]]
    rows = []
    for name in dict.fromkeys(chosen):
        columns = {"CloudDL": evaluation.masks[run][name]}
        if PEER in evaluation.masks:
            columns["ukis-csmask"] = evaluation.masks[PEER][name]
        rows.append((title_of(name), scenes[name].sel(band=list(bands)), columns))
    return panels.panel(rows)


def headline_table(
    work: Path | str, scores: pd.DataFrame, adaptation: pd.DataFrame, run: str, sensor: str
) -> pd.DataFrame:
    """Gather the scores that the README and the front page show, with those of other methods.

    Args:
        work: The work folder; those of Sentinel-2 are there once page 4 has run.
        scores: Of this page, by sensor and run.
        adaptation: Scores before and after adaptation.
        run: The method of the headline.
        sensor: The sensor adapted to.

    Returns:
        A row for each set of images and method.
    """
    parts = []
    path = results_folder(work) / "scores_sentinel2.csv"
    if path.exists():
        sentinel = pd.read_csv(path)
        sentinel = sentinel[sentinel.run.str.match(f"CloudDL: |{RIVALS}")]
        parts.append(sentinel.assign(images=sentinel["set"]))
    transfer = scores[(scores.run == run) | scores.run.str.match(RIVALS)]
    parts.append(transfer.assign(images=transfer.sensor))
    parts.append(adaptation.assign(images=f"{sensor}, not seen in adapting"))
    columns = ["images", "run", "scenes", "f2", "f2_low", "f2_high", "f1", "precision", "recall"]
    return pd.concat(parts, ignore_index=True)[columns].round(3)


def headline_differences(work: Path | str, transfer: pd.DataFrame, run: str) -> pd.DataFrame:
    """Gather the differences that the front page shows: the headline network minus its rivals.

    Args:
        work: The work folder; those of Sentinel-2 are there once page 4 has run.
        transfer: As `differences`, of this page.
        run: The method of the headline.

    Returns:
        Rows of `differences` for all sets that the headline network runs on.
    """
    path = results_folder(work) / "differences_sentinel2.csv"
    parts = [transfer]
    if path.exists():
        sentinel = pd.read_csv(path)
        parts.insert(0, sentinel[sentinel["CloudDL with"] == run.partition(": ")[2]])
    table = pd.concat(parts, ignore_index=True)[transfer.columns]
    return table[table[MINUS].str.match(RIVALS)]


def rivals_by_images(table: pd.DataFrame) -> pd.DataFrame:
    """Write differences in a small table, a row for each rival and a column for each set.

    Args:
        table: As `headline_differences`.

    Returns:
        Text: the difference in points, its interval over places in square brackets, or else the
        one within the patch.
    """
    rows: dict[str, dict[str, str]] = {}
    for row in table.to_dict("records"):
        text = points(row["difference"])
        if np.isfinite(row["low"]):
            text += f" [{points(row['low'])} to {points(row['high'])}]"
        elif np.isfinite(row[WITHIN[0]]):
            within = " to ".join(points(row[end]) for end in WITHIN)
            text += f" (within the patch {within})"
        images = f"{title_of(row['images'])} ({_places(row['units'])})"
        rows.setdefault(_short(row[MINUS]), {})[images] = text
    shown = pd.DataFrame.from_dict(rows, orient="index").fillna("–")
    return shown.rename_axis("network minus").reset_index()


def standing(table: pd.DataFrame) -> str:
    """Say of which rivals the network is ahead, by intervals where there are any.

    Args:
        table: As `headline_differences`.

    Returns:
        A sentence for each set: of intervals over places, or of the scores on too few patches,
        which decide nothing.
    """
    sentences = []
    for images, part in table.groupby("images", sort=False):
        places = part.units.iloc[0]
        where = f"On {title_of(images)}, over {places} places, the network is"
        sides = {
            "ahead of": part.low > 0,
            "behind": part.high < 0,
            "not shown to differ from": (part.low <= 0) & (part.high >= 0),
        }
        if part.low.isna().all():
            where = f"On {title_of(images)} ({_places(places)}: too few to decide) its score is"
            sides = {"above that of": part.difference > 0, "below that of": part.difference < 0}
        names = part[MINUS].map(_short)
        said = [f"{side} {_listed(names[on])}" for side, on in sides.items() if on.any()]
        sentences.append(f"- {where} {'; '.join(said) or 'that of all rivals'}.")
    return "\n".join(sentences)


def _short(run: str) -> str:
    """The name of a rival without its bands."""
    return run.partition(": ")[0].removeprefix("CloudDL, ")


def _places(units: int) -> str:
    return "1 patch" if units == 1 else f"{units} places"


def _listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: "a, b and c"."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def front_page_numbers(scores: pd.DataFrame, adaptation: pd.DataFrame, run: str) -> dict[str, str]:
    """Format the numbers that the front page quotes.

    Args:
        scores: Of this page, by sensor and run.
        adaptation: Scores before and after adaptation.
        run: The method of the headline.

    Returns:
        Text by the key that the front page names.
    """
    ours = scores[scores.run == run].set_index("sensor")
    before, after = adaptation.iloc[0], adaptation.iloc[-1]
    numbers = {}
    for key, sensor in (("l8", "landsat-8"), ("l5", "landsat-5")):
        numbers[f"{key}_f2"] = percent(ours.f2[sensor])
        numbers[f"{key}_f1"] = percent(ours.f1[sensor])
    numbers["l8_scenes"] = f"{ours.scenes['landsat-8']}"
    numbers["adapted_f2"] = percent(after.f2)
    numbers["adapted_before"] = percent(before.f2)
    numbers["adapted_scenes"] = f"{after.scenes}"
    return numbers


def change_text(change: Mapping[str, float]) -> str:
    """Say in words how F2 changed, and whether chance alone may explain it.

    Args:
        change: Of `score.paired`, after minus before.
    """
    text = f"{points(change['difference'])} points of F2"
    if change["units"] < FEWEST_UNITS:
        return f"{text} (too few places for an interval)"
    low, high = change["low"], change["high"]
    verdict = "the interval excludes zero"
    if low <= 0 <= high:
        verdict = "the interval includes zero, so chance alone may explain it"
    return f"{text}, 95 % interval {points(low)} to {points(high)}: {verdict}"
