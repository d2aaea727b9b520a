"""Figures of the book: colours safe for the colour-blind (Okabe and Ito), readable on a phone."""

import math
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from clouddl.errors import read_yaml
from clouddl.files import write_whole
from clouddl.labels import CLOUD, NODATA
from clouddl.sensors import Band, Sensor, middle
from clouddl.simulate.spectra import GRID, response

LOOK = read_yaml(Path(__file__).with_suffix(".yaml"), "look of the figures")
ERRORS, BANDS, RESPONSES = LOOK["errors"], LOOK["bands"], LOOK["responses"]  # colours and lines

WIDTH = 2.3  # inches of one picture in a row


def style() -> None:
    """Set the book's style; each notebook calls it once."""
    plt.rcParams.update(LOOK["style"])


def save(figure: Figure, path: Path | str) -> None:
    """Write a figure for the book, whole or not at all.

    Args:
        figure: What to write.
        path: The target; its suffix is the format (.png, .svg, .pdf).
    """
    path = Path(path)
    data = BytesIO()
    figure.savefig(data, format=path.suffix[1:], facecolor="white", bbox_inches="tight")
    write_whole(path, data.getvalue())


def picture(scene: xr.Dataset) -> tuple[np.ndarray, str]:
    """Make an RGB picture of a scene.

    True colour where the scene has blue; else near infrared, red and green, as SPOT images are
    printed (vegetation is red). All bands share one stretch, up to reflectance 1 over cloud.

    Args:
        scene: Has `reflectance` with the dimensions band, y and x.

    Returns:
        The picture (y, x, 3) in 0..1, and the name of what it shows.
    """
    bands, title = ["nir", "red", "green"], "NIR, red, green"
    if {"red", "green", "blue"} <= set(scene.band.values.tolist()):
        bands, title = ["red", "green", "blue"], "true colour"
    rgb = scene.reflectance.sel(band=bands).transpose("y", "x", "band").values
    brightest = np.clip(float(np.nanpercentile(rgb, 99)), 0.25, 1)
    return stretched(rgb, brightest), title


def stretched(rgb: np.ndarray, brightest: float) -> np.ndarray:
    """Stretch reflectances for a picture.

    Args:
        rgb: (y, x, 3), NaN for nodata.
        brightest: The reflectance that is white.

    Returns:
        The picture (y, x, 3) in 0..1.
    """
    return np.nan_to_num(np.clip(rgb / brightest, 0, 1)) ** 0.6


def frame(axis: Axes, **line: Any) -> None:
    """Leave of an axis only a frame around its picture, so that white ones do not vanish.

    Args:
        axis: The axis.
        **line: Colour and width of the frame, as Matplotlib names them.
    """
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    for spine in axis.spines.values():
        spine.set(visible=True, **line)


def errors(mask: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Compare a mask with its reference, pixel by pixel.

    Args:
        mask: (y, x), 0 clear, 1 cloud, 255 nodata.
        reference: The same for what is true.

    Returns:
        (y, x), 0 clear, 1 cloud, 2 cloud missed, 3 false alarm, 4 nodata.
    """
    detected, cloud = mask == CLOUD, reference == CLOUD
    nodata = (mask == NODATA) | (reference == NODATA)
    return np.select([nodata, detected & cloud, cloud, detected], [4, 1, 2, 3], 0)


def panel(rows: Sequence[tuple[str, xr.Dataset, Mapping[str, np.ndarray]]]) -> Figure:
    """Show scenes and their masks, one scene a row: image, reference, each mask with its errors.

    Args:
        rows: Title, scene with `mask`, and masks (y, x) by name; the same names in all rows.

    Returns:
        The figure.
    """
    columns = 2 + len(rows[0][2])
    figure, axes = plt.subplots(
        len(rows),
        columns,
        squeeze=False,
        layout="compressed",
        figsize=(WIDTH * columns, (WIDTH + 0.5) * len(rows) + 0.5),
    )
    colours = ListedColormap(list(ERRORS.values()))
    for row, (title, scene, masks) in zip(axes, rows, strict=True):
        rgb, content = picture(scene)
        row[0].imshow(rgb)
        row[0].set_title(f"{title}\n{content}")
        shown = {"reference": scene.mask.values, **masks}
        for axis, (name, mask) in zip(row[1:], shown.items(), strict=True):
            axis.imshow(errors(mask, scene.mask.values), colours, vmin=0, vmax=4)
            axis.set_title(name)
    for axis in axes.flat:
        axis.axis("off")
    names = ("cloud", "clear", "missed", "false alarm")
    handles = [Patch(facecolor=ERRORS[name], edgecolor="grey", label=name) for name in names]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    return _close(figure)


def gallery(scenes: Sequence[tuple[str, xr.Dataset]]) -> Figure:
    """Show pictures of scenes, four in a row, with the outline of their mask where they have one.

    Args:
        scenes: Title and scene.

    Returns:
        The figure.
    """
    rows = math.ceil(len(scenes) / 4)
    size = (WIDTH * 4, (WIDTH + 0.3) * rows)
    figure, axes = plt.subplots(rows, 4, squeeze=False, figsize=size)
    for axis in axes.flat:
        axis.axis("off")
    for axis, (title, scene) in zip(axes.flat, scenes, strict=False):
        axis.imshow(picture(scene)[0])
        axis.set_title(title)
        if "mask" in scene and 0 < (scene.mask == CLOUD).mean() < 1:
            axis.contour(scene.mask == CLOUD, [0.5], colors=ERRORS["missed"], linewidths=0.8)
    return _close(figure)


def sensor_responses(sensors: Sequence[Sensor]) -> Figure:
    """Plot spectral responses against wavelength, one sensor a row, each band with its peak at 1.

    The line style says where a response comes from. Of an open specification the middle is shown,
    and a bar above it spans the possible centres. Bands beyond `spectra.GRID` (thermal) are left
    out.

    Args:
        sensors: Their cards.

    Returns:
        The figure.
    """
    size = (9, 1.25 * len(sensors) + 0.9)
    figure, axes = plt.subplots(len(sensors), sharex=True, squeeze=False, figsize=size)
    for axis, sensor in zip(axes.flat, sensors, strict=True):
        _plot_responses(axis, sensor)
    log_scale(axes[-1, 0], LOOK["ticks"])
    axes[-1, 0].set(xlim=(GRID[0], GRID[-1]), xlabel="wavelength (µm)")
    figure.supylabel("response, peak at 1", fontsize=11)
    bands = [band for sensor in sensors for band in sensor.bands if _in_range(band)]
    names = {name for band in bands for name in (band.common, band.response)}
    colours = [Patch(color=BANDS[name], alpha=0.6, label=name) for name in BANDS if name in names]
    lines = [
        Line2D([], [], color=BANDS["pan"], ls=RESPONSES[name], label=name)
        for name in RESPONSES
        if name in names
    ]
    figure.legend(handles=colours + lines, loc="outside lower center", ncols=6, fontsize=9)
    return _close(figure)


def _in_range(band: Band) -> bool:
    """Whether the grid of wavelengths reaches a band: it ends before thermal infrared."""
    return bool(GRID[0] <= middle(band.centre_um) <= GRID[-1])


def _plot_responses(axis: Axes, sensor: Sensor) -> None:
    """Plot the bands of one sensor."""
    for band, settled in zip(sensor.bands, sensor.middle().bands, strict=True):
        if not _in_range(band):
            continue
        curve = response(settled, sensor.id)
        curve = curve / curve.max()
        colour = BANDS.get(band.common, BANDS["pan"])
        axis.plot(GRID, curve, RESPONSES[band.response], color=colour, lw=1.3)
        axis.fill_between(GRID, curve, color=colour, alpha=0.25, lw=0)
        if isinstance(band.centre_um, tuple):
            axis.plot(band.centre_um, (1.1, 1.1), color=colour, lw=3, solid_capstyle="butt")
    state = ", specification open" if sensor.has_open_figures else ""
    axis.set_title(f"{sensor.title}{state}", loc="left", pad=2)
    axis.set(ylim=(0, 1.2), yticks=[0, 1])
    axis.grid(False, axis="y")


def log_scale(axis: Axes, ticks: Sequence[float]) -> None:
    """Scale x by its logarithm, with ticks of our own: the default ones run into each other.

    Args:
        axis: The axis.
        ticks: Where they stand.
    """
    axis.set_xscale("log")
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()


def _close(figure: Figure) -> Figure:
    """Close a figure, so that a notebook shows it once: where it is returned."""
    plt.close(figure)
    return figure
