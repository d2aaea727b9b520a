"""Figures of the book, in one style: colour-blind-safe (Okabe and Ito), readable on a phone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from clouddl.labels import CLOUD, NODATA
from clouddl.search import CHOICES, SPACE

MISSED, FALSE, FOUND, GROUND, EMPTY = "#E69F00", "#0072B2", "#F2F2F2", "#5F6B6B", "#000000"
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]
_MASK = ListedColormap([GROUND, FOUND, MISSED, FALSE, EMPTY])


def style() -> None:
    """Set the book's style; each notebook calls it once."""
    plt.rcParams.update({
        "figure.dpi": 110, "savefig.dpi": 110, "figure.constrained_layout.use": True,
        "font.size": 11, "axes.titlesize": 11, "axes.spines.top": False, "axes.spines.right": False,
        "axes.grid": True, "grid.alpha": 0.25, "axes.axisbelow": True, "legend.frameon": False,
        "axes.prop_cycle": plt.cycler(color=COLOURS), "image.interpolation": "nearest",
    })  # fmt: skip


def _once(figure: Figure) -> Figure:
    """Close a figure: a notebook then shows it where it is returned, and only there."""
    plt.close(figure)
    return figure


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure for the book, to a temporary name first."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}")
    figure.savefig(temporary, format=path.suffix[1:], facecolor="white")
    temporary.replace(path)


def picture(scene: xr.Dataset) -> tuple[np.ndarray, str]:
    """A scene as an RGB picture (y, x, 3) in 0..1, and what it shows.

    True colour where there is blue; else near infrared, red, green (vegetation is red), as SPOT
    images are printed. All bands share one stretch, up to reflectance 1 over cloud.
    """
    true = {"red", "green", "blue"} <= set(scene.band.values.tolist())
    names = ["red", "green", "blue"] if true else ["nir", "red", "green"]
    rgb = scene.reflectance.sel(band=names).transpose("y", "x", "band").values
    high = min(1.0, max(0.25, float(np.nanpercentile(rgb, 99))))
    rgb = np.nan_to_num(np.clip(rgb / high, 0, 1)) ** 0.6
    return rgb, "true colour" if true else "NIR, red, green"


def errors(mask: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """0 clear, 1 cloud found, 2 cloud missed, 3 false alarm, 4 nodata; (y, x)."""
    found, truth = mask == CLOUD, reference == CLOUD
    told = np.select([found & truth, ~found & truth, found & ~truth], [1, 2, 3], 0)
    return np.where((mask == NODATA) | (reference == NODATA), 4, told)


def panel(
    rows: Sequence[tuple[str, xr.Dataset, Mapping[str, np.ndarray]]], width: float = 2.6
) -> Figure:
    """One row a scene: image, reference, then each mask with its errors in two colours.

    `rows`: (title, scene with `mask`, {name: mask (y, x)}); all rows name the same masks.
    """
    names = list(rows[0][2])
    figure, axes = plt.subplots(
        len(rows), 2 + len(names), squeeze=False,
        figsize=(width * (2 + len(names)), (width + 0.25) * len(rows) + 0.5),
    )  # fmt: skip
    for row, (title, scene, masks) in zip(axes, rows, strict=True):
        rgb, shown = picture(scene)
        reference = scene.mask.values
        row[0].imshow(rgb)
        row[0].set_title(f"{title}\n{shown}", fontsize=9)
        row[1].imshow(errors(reference, reference), cmap=_MASK, vmin=0, vmax=4)
        row[1].set_title("reference", fontsize=9)
        for axis, name in zip(row[2:], names, strict=True):
            axis.imshow(errors(masks[name], reference), cmap=_MASK, vmin=0, vmax=4)
            axis.set_title(name, fontsize=9)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(False)
    key = {"cloud": FOUND, "clear": GROUND, "missed": MISSED, "false alarm": FALSE}
    handles = [Patch(facecolor=c, edgecolor="grey", label=name) for name, c in key.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return _once(figure)


def gallery(
    scenes: Sequence[tuple[str, xr.Dataset]], columns: int = 4, width: float = 2.4
) -> Figure:
    """Pictures of scenes, with the outline of their mask where they have one."""
    rows = -(-len(scenes) // columns)
    size = (width * columns, (width + 0.3) * rows)
    figure, axes = plt.subplots(rows, columns, squeeze=False, figsize=size)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, scene) in zip(axes.flat, scenes, strict=False):
        axis.imshow(picture(scene)[0])
        axis.set_title(title, fontsize=9)
        if "mask" in scene and 0 < (scene.mask.values == CLOUD).mean() < 1:
            axis.contour(scene.mask.values == CLOUD, [0.5], colors=MISSED, linewidths=0.8)
    return _once(figure)


def learning_curves(curves: Mapping[str, pd.DataFrame]) -> Figure:
    """Training loss and validation F2 against epoch, for each of some runs (metrics.csv)."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4))
    for name, table in curves.items():
        per_epoch = table.groupby("epoch").mean()
        left.plot(per_epoch.index, per_epoch["loss"], label=name)
        right.plot(per_epoch.index, per_epoch["val_f2"], label=name)
    left.set(xlabel="epoch", ylabel="training loss (BCE + Dice)")
    right.set(xlabel="epoch", ylabel="validation F2", ylim=(max(0, right.get_ylim()[0]), 1))
    right.legend(fontsize=9)
    return _once(figure)


def trial_losses(table: pd.DataFrame) -> Figure:
    """Validation F2 of each trial in order, and the best so far."""
    figure, axis = plt.subplots(figsize=(6.5, 3.2))
    axis.plot(table.trial, table.val_f2, "o", label="trial")
    axis.step(table.trial, table.val_f2.cummax(), where="post", label="best so far")
    axis.set(xlabel="trial", ylabel="validation F2")
    axis.legend()
    return _once(figure)


def parameter_slices(table: pd.DataFrame) -> Figure:
    """Validation F2 against each parameter of the search."""
    figure, axes = plt.subplots(2, 2, figsize=(8, 5.4), sharey=True)
    for axis, name in zip(axes.flat, SPACE, strict=True):
        axis.scatter(table[name], table.val_f2, c=table.trial, cmap="viridis")
        axis.set_xlabel(name.replace("_", " "))
        if name == "learning_rate":
            axis.set_xscale("log")
        elif name in CHOICES:
            axis.set_xticks(CHOICES[name])
    for axis in axes[:, 0]:
        axis.set_ylabel("validation F2")
    return _once(figure)


def precision_recall_curves(
    curves: Mapping[str, pd.DataFrame], points: Mapping[str, tuple[float, float]]
) -> Figure:
    """Curves of score.precision_recall; `points` marks (recall, precision) of masks in use."""
    figure, axis = plt.subplots(figsize=(5.2, 4.6))
    for name, table in curves.items():
        axis.plot(table.recall, table.precision, label=name)
    for (name, (recall, precision)), marker in zip(points.items(), "oDs^vPX*" * 3, strict=False):
        axis.plot(recall, precision, marker, ms=8, mec="black", label=name)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0.5, 1.005), ylim=(0.5, 1.005))
    axis.legend(fontsize=8)
    return _once(figure)


def reliability_diagram(tables: Mapping[str, pd.DataFrame]) -> Figure:
    """Observed cloud against predicted probability; the diagonal is perfect calibration."""
    figure, axis = plt.subplots(figsize=(4.8, 4.4))
    axis.plot([0, 1], [0, 1], color="grey", lw=1, ls="--")
    for name, table in tables.items():
        axis.plot(table.predicted, table.observed, "o-", label=name)
    axis.set(xlabel="predicted probability of cloud", ylabel="observed fraction of cloud",
             xlim=(0, 1), ylim=(0, 1))  # fmt: skip
    axis.legend(fontsize=8)
    return _once(figure)


def intervals(axis: Axes, table: pd.DataFrame, labels: Sequence[str], measure: str = "f2") -> None:
    """A point and its 95 % interval for each row of a table of `score.pooled`."""
    y = np.arange(len(table))[::-1]
    low, high = table[f"{measure}_low"].to_numpy(), table[f"{measure}_high"].to_numpy()
    axis.hlines(y, low, high, color=COLOURS[0], lw=3, alpha=0.4)
    axis.plot(table[measure], y, "o", color=COLOURS[0])
    axis.set_yticks(y, labels)
    axis.set_xlabel(f"{measure.upper()} (95 % interval)")
