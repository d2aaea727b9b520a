"""Figures: colours safe for the colour-blind (Okabe and Ito), readable on a phone."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from clouddl.errors import read_yaml
from clouddl.files import write_whole
from clouddl.sensors import Band, Sensor, middle
from clouddl.simulate.spectra import GRID, response

LOOK = read_yaml(Path(__file__).with_suffix(".yaml"), "look of the figures")
BANDS, RESPONSES = LOOK["bands"], LOOK["responses"]  # colours and lines


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
    plt.close(figure)  # a notebook shows it once: where it is returned
    return figure


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
