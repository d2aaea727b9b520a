"""Page 3: the space of the search, its trials and their noise, and the rule of the threshold."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from hyperopt.pyll import dfs
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from clouddl import figures
from clouddl.chips import Chips
from clouddl.errors import InputError
from clouddl.model import CloudModel, load_model, save_model
from clouddl.network import ModelCard, build
from clouddl.score import THRESHOLDS, counts, f_beta, plateau
from clouddl.search import CHOICES, SPACE, random_trials
from clouddl.train import on_validation
from clouddl_study.corpora import by_origin
from clouddl_study.experiments import worth
from clouddl_study.extremes import extreme_errors
from clouddl_study.pages import panels
from clouddl_study.pages.training import parameters
from clouddl_study.tables import NOISE

# How a distribution of HyperOpt is called on the page.
LAWS = {"uniform": "uniform", "loguniform": "uniform in the logarithm"}

MEANINGS = {
    "dropout": "fraction of feature maps left out while training",
    "base_filters": "filters of the first level; each level below has twice as many",
    "kernel_size": "pixels a side of each convolution",
    "learning_rate": "highest rate of the one-cycle schedule",
}

LARGEST = 0.35  # million parameters that a model may have, to stay small and fast

RATES = (0.0005, 0.001, 0.002, 0.004, 0.008)  # ticks of the axis of learning rates


def space() -> pd.DataFrame:
    """Tabulate the space of the search, read from `clouddl.search.SPACE` itself.

    Returns:
        A row for each parameter: parameter, meaning, distribution, values.
    """
    rows = []
    for name, expression in SPACE.items():
        if name in CHOICES:
            law = "one of"
            values = ", ".join(str(value) for value in CHOICES[name])
        else:
            law, low, high = _range(expression)
            values = f"{low:g} to {high:g}"
        row = {"parameter": name, "meaning": MEANINGS.get(name, "")}
        rows.append({**row, "distribution": law, "values": values})
    return pd.DataFrame(rows)


def search_in_words(
    table: pd.DataFrame, trials: int, minutes: float, at_once: int, beforehand: Sequence[float]
) -> Markdown:
    """Say how long a search was, how many of its trials are random, and what rests on it.

    Args:
        table: The trials, as `search.search` returns them.
        trials: How many there were to be.
        minutes: Of fitting, after which none begins.
        at_once: Trials proposed together.
        beforehand: Settings of the final models, fixed before the search; none: the winner's.

    Returns:
        Three sentences.
    """
    count = len(table)
    first = random_trials(trials)
    random = min(count, first + -first % at_once)  # all of a round that begins among them
    said = (
        f"**{count} of {trials} trials**, {table.seconds.sum() / 60:.1f} minutes of fitting; "
        f"no trial begins after {minutes:g} minutes. "
    )
    if random < count:
        said += (
            f"The first {random} were sampled at random, TPE proposed the other {count - random}. "
        )
    else:
        said += "All of them were sampled at random, so this search is no test of TPE. "
    if beforehand:
        said += "Nothing rests on it: the settings of the final models were fixed beforehand."
    else:
        said += "The final models have the settings of its winner."
    return Markdown(said)


def trial_losses(table: pd.DataFrame) -> Figure:
    """Plot validation F2 of each trial of a search in order, and the best so far.

    Args:
        table: The trials, as `search.search` returns them.

    Returns:
        The figure.
    """
    figure, axis = plt.subplots(figsize=(6.5, 3.2))
    axis.plot(table.trial, table.val_f2, "o", label="trial")
    axis.step(table.trial, table.val_f2.cummax(), where="post", label="best so far")
    axis.set(xlabel="trial", ylabel="validation F2")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.legend()
    plt.close(figure)
    return figure


def parameter_slices(table: pd.DataFrame) -> Figure:
    """Plot validation F2 against each parameter of a search.

    Args:
        table: The trials, as `search.search` returns them.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 6), sharey=True)
    for axis, name in zip(axes.flat, SPACE, strict=True):
        axis.scatter(table[name], table.val_f2, c=table.trial, cmap="viridis")
        axis.set(xlabel=name.replace("_", " "), ylabel="validation F2")
        axis.tick_params(labelleft=True)
        axis.margins(x=0.08)
        if name == "learning_rate":
            figures.log_scale(axis, RATES)
        elif name in CHOICES:
            axis.set_xticks(CHOICES[name])
    plt.close(figure)
    return figure


def _range(expression: Any) -> tuple[str, float, float]:
    """Law and ends of a continuous parameter, from the nodes of HyperOpt's expression."""
    nodes = dfs(expression)
    (law,) = (node.name for node in nodes if node.name in LAWS)
    numbers = [node.obj for node in nodes if node.name == "literal" and node.obj not in SPACE]
    low, high = (float(number) for number in numbers)
    if law == "loguniform":
        low, high = float(np.exp(low)), float(np.exp(high))
    return LAWS[law], low, high


def model_card(name: str, band_sets: Sequence[Sequence[str]], **fields: Any) -> ModelCard:
    """Make the card of a model to train.

    Args:
        name: Of the model and of its run.
        band_sets: Common names; each training image is shown with one of these sets.
        **fields: Other fields of the card.

    Returns:
        The card; its bands are those of all sets, each once.
    """
    bands = list(dict.fromkeys(band for bands in band_sets for band in bands))
    return ModelCard(name=name, bands=bands, band_sets=[list(s) for s in band_sets], **fields)


def millions(table: pd.DataFrame, card: ModelCard) -> pd.Series:
    """Count the parameters of the network of each trial.

    Args:
        table: The trials, as `clouddl.search.search` returns them.
        card: Its bands and depth are those of the trials.

    Returns:
        Millions of parameters, in the order of the trials.
    """
    sizes = []
    for trial in table.to_dict("records"):
        shape = {name: trial[name] for name in CHOICES}
        sizes.append(parameters(build(card.model_copy(update=shape))) / 1e6)
    return pd.Series(sizes, dtype=float)


def ranked(table: pd.DataFrame, sizes: pd.Series) -> pd.DataFrame:
    """Order trials by their score.

    Args:
        table: The trials.
        sizes: Millions of parameters of each.

    Returns:
        The trials with the column `millions`, best first, rounded.
    """
    return table.assign(millions=sizes).sort_values("val_f2", ascending=False).round(4)


def parameter_worth(table: pd.DataFrame) -> pd.DataFrame:
    """Tabulate what each parameter explains, beside what it would explain by chance.

    A parameter without any effect that splits n trials into g groups explains (g - 1) / (n - 1) of
    the variance on average.

    Args:
        table: The trials.

    Returns:
        As `experiments.worth`, with "variance explained alone" and "expected by chance".
    """
    result = worth(table).rename(columns={"share of variance": "variance explained alone"})
    groups = [table[name].nunique() if name in CHOICES else 2 for name in result.parameter]
    chance = (np.array(groups) - 1) / max(1, len(table) - 1)
    return result.assign(**{"expected by chance": chance})


def compare_seeds(fits: Mapping[str, CloudModel], chips: Path, each: int) -> pd.DataFrame:
    """Score fits that differ in their seed alone, each at its own threshold.

    Args:
        fits: By name.
        chips: The Zarr store with the validation chips.
        each: As for `extremes.extreme_errors`.

    Returns:
        A row for each: `model`, `score of choice`, the mean of F2 on each part of validation and of
        one minus the mean error on extremes; then these, and the errors by kind.
    """
    errors = extreme_errors(fits, each)
    parts = {}
    for name, model in fits.items():
        parts[name] = {
            f"F2, {part}": _f2(model, chosen)
            for part, chosen in validation_parts(chips, model.card).items()
        }
    table = pd.DataFrame.from_dict(parts, orient="index")
    table["1 - mean error on extremes"] = 1 - errors.mean(axis=1)
    table.insert(0, "score of choice", table.mean(axis=1))
    return table.join(errors.add_prefix("error, ")).rename_axis("model").reset_index()


def _f2(model: CloudModel, chips: Chips) -> float:
    """F2 at the threshold of the model."""
    probability, truth = on_validation(model, chips)
    cloud = probability >= model.card.threshold
    counted = counts(cloud.astype(np.uint8), truth.astype(np.uint8))
    return float(f_beta(counted["tp"], counted["fp"], counted["fn"], 2))


def best_of(
    fits: Mapping[str, CloudModel], compared: pd.DataFrame, name: str, folder: Path
) -> CloudModel:
    """Choose the fit with the highest score of choice, and save it under a name of its own.

    Args:
        fits: Models that differ in their seed alone.
        compared: Of `compare_seeds`.
        name: Of the chosen one.
        folder: Gets its card and weights.

    Returns:
        The chosen model; its card has the new name.
    """
    best = fits[compared.set_index("model")["score of choice"].idxmax()]
    card = best.card.model_copy(update={"name": name})
    return load_model(save_model(CloudModel(card, best.net), folder / name))


def final_models(models: Mapping[str, CloudModel], folder: Path) -> pd.DataFrame:
    """Tabulate trained models.

    Args:
        models: By name.
        folder: Has the weights, `<name>.safetensors`.

    Returns:
        A row for each: model, bands, threshold, validation F2 (a fraction), MB.
    """
    rows = []
    for name, model in models.items():
        row = {
            "model": name,
            "bands": ", ".join(model.card.bands),
            "threshold": model.card.threshold,
            "validation F2": round(model.card.scores["validation_f2"], 4),
            "MB": round((folder / f"{name}.safetensors").stat().st_size / 1e6, 2),
        }
        rows.append(row)
    return pd.DataFrame(rows)


def spread(seeds: Sequence[float]) -> float:
    """Compute how far the seed alone moves a score.

    Args:
        seeds: Scores of fits that differ only in their seed.

    Returns:
        Their standard deviation; NaN for a single one.
    """
    if len(seeds) < 2:
        return float("nan")
    return float(np.std(seeds, ddof=1))


def trials_with_noise(table: pd.DataFrame, seeds: Sequence[float]) -> Figure:
    """Plot trials in the order of their score, and how far seeds alone move a score.

    Args:
        table: The trials.
        seeds: Validation F2 of fits that differ only in their seed.

    Returns:
        The figure.
    """
    noise = spread(seeds)
    scores = table.val_f2.sort_values(ascending=False).to_numpy()
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(6.5, 3.8), sharey=True, width_ratios=[max(3, len(scores)), 3]
    )
    order = np.arange(1, len(scores) + 1)
    left.plot(order, scores, "o", color="C0")
    if np.isfinite(noise):
        label = f"within {NOISE:.1f} standard deviations of the seeds of the best"
        low = scores[0] - NOISE * noise
        left.axhspan(low, scores[0], color="C4", alpha=0.25, lw=0, label=label)
        panels.legend_below(left, 1)
    left.xaxis.get_major_locator().set_params(integer=True)
    left.set(xlabel="trial, best first", ylabel="validation F2", title="short fits")
    right.plot(np.zeros(len(seeds)), seeds, "s", color="C1", alpha=0.7)
    right.set(xticks=[0], xlim=(-1, 1), title="long fits")
    right.set_xticklabels(["one setting,\nfour seeds"], fontsize=10)
    plt.close(figure)
    return figure


def validation_parts(chips: Path, card: ModelCard) -> dict[str, Chips]:
    """Open the validation chips of a model, the real and the simulated ones apart.

    Args:
        chips: The Zarr store.
        card: Its bands and labels are used.

    Returns:
        As `corpora.by_origin`.
    """
    return by_origin(Chips.open(chips, card.bands, card.labels, "validation"))


def mean_curve(curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Average F2 over sets, at each threshold.

    Args:
        curves: Tables of `score.precision_recall`; those of a set without cloud are left out.

    Returns:
        threshold and f2.

    Raises:
        InputError: No set has any cloud.
    """
    scored = [curve.f2 for curve in curves.values() if curve.recall.notna().any()]
    if not scored:
        raise InputError("validation: no scene has any cloud; choose a corpus with some")
    return pd.DataFrame({"threshold": THRESHOLDS, "f2": np.mean(scored, axis=0)})


def plot_f2(axis: Axes, curve: pd.DataFrame, chosen: float, label: str, colour: str) -> None:
    """Plot F2 against the threshold, with a dot at the one in use.

    Args:
        axis: Where to plot.
        curve: Has threshold and f2.
        chosen: The threshold in use.
        label: Of the curve.
        colour: Of the curve.
    """
    axis.plot(curve.threshold, curve.f2, color=colour, label=label)
    f2 = float(np.interp(chosen, curve.threshold, curve.f2))
    axis.plot(chosen, f2, "o", color=colour, mec="black", ms=7, zorder=3)


def threshold_rule(curves: Mapping[str, pd.DataFrame], chosen: float) -> Figure:
    """Plot how a threshold is chosen: F2 of each set, their mean, the plateau and its middle.

    Args:
        curves: Tables of `score.precision_recall` of the validation sets.
        chosen: The threshold in the card of the model.

    Returns:
        The figure.
    """
    mean = mean_curve(curves)
    low, _, high = plateau(mean.f2.to_numpy())
    figure, axis = plt.subplots(figsize=(6.5, 4.6))
    label = f"plateau, {low:.2f} to {high:.2f}"
    axis.axvspan(low, high, color="C4", alpha=0.25, lw=0, label=label)
    for number, (name, curve) in enumerate(curves.items()):
        axis.plot(curve.threshold, curve.f2, color=f"C{number}", label=f"{name} validation")
    plot_f2(axis, mean, chosen, "mean", "black")
    axis.axvline(chosen, color="black", lw=1, ls=":", label=f"chosen, {chosen:.2f}")
    axis.set(xlabel="threshold of the probability", ylabel="F2", xlim=(0, 1))
    panels.legend_below(axis, 2)
    plt.close(figure)
    return figure
