"""Figures and tables of the book: colour-blind-safe (Okabe and Ito), readable on a phone."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from clouddl.labels import CLOUD, NODATA
from clouddl.search import CHOICES, SPACE
from clouddl.sensors import Sensor
from clouddl.simulate.spectra import GRID, response

MISSED, FALSE, FOUND, GROUND, EMPTY = "#E69F00", "#0072B2", "#F2F2F2", "#5F6B6B", "#000000"


COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"]


# Of bands by common name: as the eye sees them, then from deep red to brown.
BAND_COLOURS = {
    "coastal": "#5E3C99", "blue": "#0072B2", "green": "#009E73", "red": "#D55E00",
    "rededge071": "#B2182B", "rededge075": "#8E0152", "rededge078": "#C51B7D", "nir": "#7F3B08",
    "nir08": "#B35806", "nir09": "#E08214", "cirrus": "#999999", "swir16": "#CC79A7",
    "swir22": "#56B4E9", "pan": "#5F6B6B",
}  # fmt: skip


_LINES = {"published": "-", "gaussian": "--", "box": ":"}


WIDTH = 2.3  # inches of a picture in a row of them


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
    figure.savefig(temporary, format=path.suffix[1:], facecolor="white", bbox_inches="tight")
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


def panel(rows: Sequence[tuple[str, xr.Dataset, Mapping[str, np.ndarray]]]) -> Figure:
    """One row a scene: image, reference, then each mask with its errors in two colours.

    `rows`: (title, scene with `mask`, {name: mask (y, x)}); all rows name the same masks.
    """
    names = list(rows[0][2])
    figure, axes = plt.subplots(
        len(rows), 2 + len(names), squeeze=False, layout="compressed",
        figsize=(WIDTH * (2 + len(names)), (WIDTH + 0.5) * len(rows) + 0.5),
    )  # fmt: skip
    for row, (title, scene, masks) in zip(axes, rows, strict=True):
        rgb, shown = picture(scene)
        reference = scene.mask.values
        row[0].imshow(rgb)
        row[0].set_title(f"{title}\n{shown}", fontsize=11)
        row[1].imshow(errors(reference, reference), cmap=_MASK, vmin=0, vmax=4)
        row[1].set_title("reference", fontsize=11)
        for axis, name in zip(row[2:], names, strict=True):
            axis.imshow(errors(masks[name], reference), cmap=_MASK, vmin=0, vmax=4)
            axis.set_title(name, fontsize=11)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
        axis.grid(False)
    key = {"cloud": FOUND, "clear": GROUND, "missed": MISSED, "false alarm": FALSE}
    handles = [Patch(facecolor=c, edgecolor="grey", label=name) for name, c in key.items()]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return _once(figure)


def gallery(scenes: Sequence[tuple[str, xr.Dataset]]) -> Figure:
    """Pictures of scenes, four in a row, with the outline of their mask where they have one."""
    rows = -(-len(scenes) // 4)
    size = (WIDTH * 4, (WIDTH + 0.3) * rows)
    figure, axes = plt.subplots(rows, 4, squeeze=False, figsize=size)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, scene) in zip(axes.flat, scenes, strict=False):
        axis.imshow(picture(scene)[0])
        axis.set_title(title, fontsize=11)
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
            ticks = [0.0005, 0.001, 0.002, 0.004, 0.008]  # those of the scale run into each other
            axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            axis.minorticks_off()
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


def intervals(axis: Axes, table: pd.DataFrame, labels: Sequence[str]) -> None:
    """F2 and its 95 % interval for each row of a table of `score.pooled`.

    A row without any cloud to find (recall undefined) stays empty.
    """
    table = table.where(table.recall.notna())
    y = np.arange(len(table))[::-1]
    axis.hlines(y, table.f2_low, table.f2_high, color=COLOURS[0], lw=3, alpha=0.4)
    axis.plot(table.f2, y, "o", color=COLOURS[0])
    axis.set_yticks(y, labels)
    axis.set_xlabel("F2 (95 % interval)")


def sensor_responses(sensors: Sequence[Sensor]) -> Figure:
    """Spectral responses, a row a sensor, each band with its peak at 1, over wavelength.

    The line says where a response comes from. Of an open card the middle is drawn, and a bar above
    it spans what the centre may be. Bands beyond `GRID` (thermal) are left out.
    """
    figure, axes = plt.subplots(
        len(sensors), sharex=True, squeeze=False, figsize=(9, 1.25 * len(sensors) + 0.9)
    )
    drawn = set()
    for axis, sensor in zip(axes[:, 0], sensors, strict=True):
        for band, middle in zip(sensor.bands, sensor.middle().bands, strict=True):
            if not GRID[0] <= middle.centre_um <= GRID[-1]:
                continue
            curve = response(middle, sensor.id)
            curve = curve / curve.max()
            colour = BAND_COLOURS.get(band.common, GROUND)
            axis.plot(GRID, curve, _LINES[band.response], color=colour, lw=1.3)
            axis.fill_between(GRID, curve, color=colour, alpha=0.25, lw=0)
            drawn.add(band.response)
            if isinstance(band.centre_um, tuple):
                axis.plot(band.centre_um, (1.1, 1.1), color=colour, lw=3, solid_capstyle="butt")
        state = ", specification open" if sensor.open else ""
        axis.set_title(f"{sensor.title}{state}", loc="left", pad=2)
        axis.set(ylim=(0, 1.2), yticks=[0, 1])
        axis.grid(False, axis="y")
    axis = axes[-1, 0]
    ticks = [0.4, 0.5, 0.6, 0.7, 0.8, 1.0, 1.2, 1.4, 1.6, 1.8, 2.0, 2.2, 2.4]
    axis.set(xscale="log", xlim=(GRID[0], GRID[-1]), xlabel="wavelength (µm)")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    figure.supylabel("response, peak at 1", fontsize=11)
    names = {band.common for sensor in sensors for band in sensor.bands}
    common = [name for name in BAND_COLOURS if name in names]
    bands = [Patch(color=BAND_COLOURS[name], alpha=0.6, label=name) for name in common]
    kinds = [Line2D([], [], color=GROUND, ls=_LINES[k], label=k) for k in _LINES if k in drawn]
    figure.legend(handles=[*bands, *kinds], loc="outside lower center", ncols=6, fontsize=9)
    return _once(figure)
