"""Tables and figures of page 10: a model on images that are degraded by known amounts."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from clouddl.labels import to_mask
from clouddl.mission.degrade import degrade
from clouddl.model import CloudModel
from clouddl.network import as_it_is
from clouddl.predict import predict_array
from clouddl.score import pooled
from clouddl.transfer import Method, Scenes, evaluate, probability
from clouddl_study.pages.transfer import all_cloud_f2, by_sensor, cloud_fraction
from clouddl_study.tables import ALL_CLOUD, enough_units, title_of

Levels = Mapping[str, tuple[str, float, list[float]]]  # unit, harmless level, all levels
TWO_SIDED = ("gain", "offset", "resolution")  # levels on both sides of the harmless one
MARKS = "osD^v"


def reference_sets(
    scenes: Scenes, bands: Sequence[str], corpus: str, most: int
) -> dict[str, Scenes]:
    """Sort references that have some bands into a set for each sensor.

    Args:
        scenes: References by id.
        bands: Common names of the bands that are needed.
        corpus: Name of the catalogue, for the names of the sets.
        most: Scenes of one set, at the most; they are taken at equal steps, over all surfaces.

    Returns:
        Scenes by id for each set, named "sensor, corpus".
    """
    sets: dict[str, Scenes] = {}
    for sensor, part in by_sensor(scenes, bands).items():
        step = -(-len(part) // most)  # rounded up
        sets[f"{title_of(sensor)}, {corpus}"] = {name: part[name] for name in list(part)[::step]}
    return sets


def describe_sets(sets: Mapping[str, Scenes]) -> pd.DataFrame:
    """Tabulate the sets of images.

    Args:
        sets: Scenes with `mask`, by name of the set.

    Returns:
        A row for each set: images, scenes, and the fraction of cloud in the reference.
    """
    rows = []
    for images, part in sets.items():
        rows.append({"images": images, "scenes": len(part), "cloud": cloud_fraction(part)})
    return pd.DataFrame(rows)


def with_floor(about: pd.DataFrame) -> pd.DataFrame:
    """Add F2 of a mask that calls everything cloud, where there is cloud.

    Args:
        about: Has the column cloud, a fraction.

    Returns:
        The same rows.
    """
    return about.assign(floor=all_cloud_f2(about.cloud).where(about.cloud > 0))


def robustness(
    model: CloudModel,
    scenes: Scenes,
    use: Sequence[str],
    degradation: str,
    levels: Sequence[float],
    seed: int = 0,
) -> pd.DataFrame:
    """Score a model on degraded scenes.

    A scene made coarser is predicted as `clouddl predict` would: up to 60 m as it is, beyond that
    brought back to the model's resolution for the network, and its mask to the coarser grid.

    Args:
        model: The model.
        scenes: Scenes by id, as `transfer.open_scenes` gives them.
        use: Bands to predict from.
        degradation: One of `DEGRADATIONS`.
        levels: Levels of the degradation.
        seed: Seed of random patterns.

    Returns:
        A row a level: scores with their intervals (`score.pooled`).
    """

    def mask(scene: xr.Dataset) -> np.ndarray:
        metres = scene.attrs["resolution"]
        if as_it_is(metres, model.card.resolution):
            values = probability(model, scene, use)
        else:
            image = scene.reflectance.sel(band=list(use))
            values = predict_array(model, image, resolution=metres)
        return to_mask(values, model.card.threshold)

    methods = {degradation: Method((), mask)}
    tables = []
    for level in levels:
        harmed = {name: degrade(scene, degradation, level, seed) for name, scene in scenes.items()}
        tables.append(evaluate(methods, harmed).counts.assign(degradation=degradation, level=level))
    return pooled(pd.concat(tables), by=["degradation", "level"])


def every_nth(levels: Sequence[float], harmless: float, every: int) -> list[float]:
    """Choose levels: the worst, and each n-th from it; the harmless one always.

    Args:
        levels: All levels, the worst last.
        harmless: The level that changes nothing.
        every: n.

    Returns:
        The levels, ascending.
    """
    from_worst = list(reversed(levels))
    return sorted({harmless, *from_worst[::every]})


def not_finer(levels: Sequence[float], scenes: Scenes) -> list[float]:
    """Choose the resolutions that scenes can be brought to.

    Args:
        levels: Metres.
        scenes: Scenes by id, of one resolution.

    Returns:
        The levels that are not finer than the scenes.
    """
    metres = next(iter(scenes.values())).attrs["resolution"]
    return [level for level in levels if level >= metres]


def robustness_curves(curves: pd.DataFrame, levels: Levels) -> Figure:
    """Plot F2 against the level of each degradation, with the floor "everything is cloud".

    Args:
        curves: `robustness` of all sets, with a column images.
        levels: Unit, harmless level and levels of each degradation.

    Returns:
        The figure: a panel for each degradation, a line for each set.
    """
    figure, axes = plt.subplots(4, 3, figsize=(10.5, 12), sharey=True)
    lowest = enough_units(curves)[["f2", "f2_low"]].min().min()
    for axis in axes.flat[len(levels) :]:
        axis.axis("off")
    for axis, (degradation, (unit, harmless, _)) in zip(axes.flat, levels.items(), strict=False):
        _curves(axis, curves[curves.degradation == degradation])
        axis.axvline(harmless, color="grey", lw=1, ls="--")
        axis.set(title=degradation, xlabel=unit, ylabel="F2", ylim=(lowest - 0.02, 1.02))
        axis.tick_params(labelleft=True)
        _scale(axis, degradation)
    axes.flat[len(levels)].legend(
        *axes.flat[0].get_legend_handles_labels(),
        loc="upper left",
        fontsize=10,
        title=f"dashed: undegraded\ndotted: {ALL_CLOUD}",
    )
    plt.close(figure)
    return figure


def _curves(axis: Axes, table: pd.DataFrame) -> None:
    """F2 of each set in one panel, its intervals, and its floor.

    Sets stand some points beside each other: where bars of two sets met, no one could tell them.
    """
    for number, (images, rows) in enumerate(table.groupby("images", sort=False)):
        colour = f"C{number}"
        shown = enough_units(rows)
        aside = offset_copy(axis.transData, axis.figure, x=2 * number - 3, units="points")
        axis.plot(
            rows.level,
            rows.f2,
            f"{MARKS[number]}-",
            ms=4,
            color=colour,
            label=images,
            transform=aside,
        )
        bars = (rows.level, shown.f2_low, shown.f2_high)
        axis.vlines(*bars, color=colour, alpha=0.6, lw=1.2, transform=aside)
        axis.plot(rows.level, all_cloud_f2(rows.cloud), ":", lw=1, color=colour)


def _scale(axis: Axes, degradation: str) -> None:
    """Logarithmic levels, where they are spread so."""
    if degradation == "saturation":  # the lower, the worse; no scene here holds more than 2
        axis.set_xscale("log")
        axis.set_xticks([0.2, 0.4, 0.8, 2.0], ["0.2", "0.4", "0.8", "none"])
        axis.minorticks_off()
        axis.invert_xaxis()
    if degradation == "resolution":
        axis.set_xscale("log")
        axis.set_xticks([5, 10, 30, 60, 120], ["5", "10", "30", "60", "120"])
        axis.minorticks_off()


def break_table(curves: pd.DataFrame, levels: Levels, drop: float) -> pd.DataFrame:
    """Find the level of each degradation at which F2 has dropped, going away from harmless.

    Args:
        curves: `robustness` of all sets, with a column images.
        levels: Unit, harmless level and levels of each degradation.
        drop: Loss of F2 from which on the model counts as broken.

    Returns:
        A row for each degradation and direction, a column for each set; "not by" names the
        farthest level, where F2 has not dropped.
    """
    rows: dict[str, dict[str, str]] = {}
    for (degradation, images), table in curves.groupby(["degradation", "images"], sort=False):
        unit, harmless, _ = levels[degradation]
        before = table[table.level == harmless].f2.iloc[0]
        if degradation != "resolution":  # that one has other images
            rows.setdefault("F2 undegraded, %", {})[images] = f"{100 * before:.1f}"
        sides = {
            "higher": table[table.level > harmless],
            "lower": table[table.level < harmless][::-1],
        }
        for word, side in sides.items():
            if len(side):
                name = f"{degradation} ({unit})"
                if degradation in TWO_SIDED:
                    name = f"{degradation}, {word} ({unit})"
                rows.setdefault(name, {})[images] = _breaks_at(side, before - drop)
    broken = pd.DataFrame(rows).T.fillna("–")
    return broken.rename_axis("degradation").reset_index()


def _breaks_at(side: pd.DataFrame, least: float) -> str:
    """The first level of lower F2 than `least`; rows go away from harmless."""
    lost = side[side.f2 < least]
    if len(lost):
        return f"{lost.level.iloc[0]:g}"
    return f"not by {side.level.iloc[-1]:g}"


def at_floor(curves: pd.DataFrame, drop: float) -> dict[str, list[str]]:
    """Find the degradations under which a model does no better than "everything is cloud".

    Args:
        curves: `robustness` of all sets, with a column images.
        drop: F2 by which a model must be above the floor to count as better.

    Returns:
        For each set the degradations of which some level brings F2 down to the floor.
    """
    useless = curves[curves.f2 < all_cloud_f2(curves.cloud) + drop]
    lists = {}
    for images in curves.images.drop_duplicates():
        names = useless[useless.images == images].degradation.drop_duplicates()
        lists[images] = names.tolist()
    return lists


def findings(curves: pd.DataFrame, broken: pd.DataFrame, drop: float) -> str:
    """Say in a line for each set what the run showed.

    Args:
        curves: `robustness` of all sets, with a column images.
        broken: Table of `break_table`.
        drop: As for `at_floor`.

    Returns:
        Markdown, a list.
    """
    lines = []
    levels = broken.set_index("degradation")
    for images, names in at_floor(curves, drop).items():
        undegraded = levels.loc["F2 undegraded, %", images]
        noise = levels.filter(like="noise", axis=0)[images].iloc[0]
        floor = ", ".join(names) or "none"
        lines.append(
            f"- **{images}**: F2 {undegraded} % undegraded; broken by noise (reflectance): "
            f"{noise}; no better than calling everything cloud under: {floor}."
        )
    return "\n".join(lines)
