"""Pictures of scenes and of their masks, as several pages show them."""

import base64
import math
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import xarray as xr
from IPython.display import HTML
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import ListedColormap, to_hex
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.patches import Patch

from clouddl import figures
from clouddl.files import write_whole
from clouddl.labels import CLOUD, NODATA

ERRORS = {  # colours of the classes of `errors`, in the order of their codes
    "clear": "#5F6B6B",
    "cloud": "#F2F2F2",
    "missed": "#E69F00",
    "false alarm": "#0072B2",
    "nodata": "#000000",
}
WIDTH = 2.3  # inches of one picture in a row
DPI = 160  # of a picture on a page


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


def far_from_half(mask: np.ndarray) -> float:
    """Tell how far a mask is from half cloud, half clear: the nearest shows a method best.

    Args:
        mask: (y, x), 0 clear, 1 cloud, 255 nodata.

    Returns:
        From 0 to a half; infinite where nothing is labelled.
    """
    labelled = mask[mask != NODATA]
    if not labelled.size:
        return np.inf
    return abs(float((labelled == CLOUD).mean()) - 0.5)


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
    plt.close(figure)
    return figure


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
    plt.close(figure)
    return figure


def grid(figure: Figure) -> HTML:
    """Show the pictures of a figure as a grid for a page; a phone has them two by two.

    Args:
        figure: Its axes with an image become pictures, their titles text above these; a legend of
            patches becomes a line of text. All else is left out.

    Returns:
        The grid, in the classes that book/_static/custom.css styles.
    """
    axes = [axis for axis in figure.axes if axis.images]
    columns = axes[0].get_gridspec().ncols
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    drawing = np.asarray(canvas.buffer_rgba())[..., :3]
    pictures = [_picture(axis, drawing) for axis in axes]
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    lines = [f'<div class="abreast">{"".join(row)}</div>' for row in rows]
    lines += [_key(legend) for legend in figure.legends]
    style = f"--columns:{columns}"
    return HTML(f'<div class="pictures" style="{style}">\n' + "\n".join(lines) + "\n</div>")


def plots(figure: Figure, on_phone: int = 1) -> HTML:
    """Show the panels of a figure as a grid for a page; a phone has them one below another.

    All are cut out with margins of one size, so that their letters have one size too; each panel
    should have its own labels.

    Args:
        figure: Its panels are of one size. An axis that is switched off counts if it has a legend.
        on_phone: Panels abreast on a phone, 2 for small ones.

    Returns:
        The grid, in the classes that book/_static/custom.css styles.
    """
    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    axes = [axis for axis in figure.axes if axis.axison or axis.get_legend() is not None]
    columns = axes[0].get_gridspec().ncols
    margins = np.max([_margins(axis, canvas) for axis in axes], axis=0)
    figure.set_layout_engine("none")  # so that each stays where it is, drawn alone
    cells = [_panel(axis, axes, canvas, margins) for axis in axes]
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    lines = [f'<div class="abreast">{"".join(row)}</div>' for row in rows]
    style = f"--columns:{columns};--on-phone:{on_phone}"
    return HTML(f'<div class="pictures plots" style="{style}">\n' + "\n".join(lines) + "\n</div>")


def legend_below(axis: Axes, columns: int) -> None:
    """Put the legend of the one axis of a figure below it, where it takes nothing of its width.

    Args:
        axis: The axis.
        columns: Of the legend.
    """
    entries = axis.get_legend_handles_labels()
    axis.figure.legend(*entries, loc="outside lower center", ncols=columns, fontsize=10)


def save(figure: Figure, path: Path) -> HTML:
    """Write a figure for the book, and beside it the grid that a page shows in its place.

    Args:
        figure: As for `grid`.
        path: A .png; the grid has the same name with .html.

    Returns:
        The grid.
    """
    figures.save(figure, path)
    shown = grid(figure)
    write_whole(path.with_suffix(".html"), shown.data.encode())
    return shown


def address(rgb: np.ndarray, form: str, **options: Any) -> str:
    """Write a picture into the address of an image, so that a page needs no file for it.

    Args:
        rgb: The picture (y, x, 3).
        form: "png" or "jpeg".
        **options: As of `matplotlib.image.imsave`.
    """
    file = BytesIO()
    matplotlib.image.imsave(file, rgb, format=form, **options)
    return f"data:image/{form};base64,{base64.b64encode(file.getvalue()).decode()}"


def _picture(axis: Axes, drawing: np.ndarray) -> str:
    """The picture of an axis, cut out of the drawing (y, x, 3) of its figure, and its title."""
    left, bottom, right, top = axis.get_window_extent().extents.round().astype(int)
    height = len(drawing)  # y counts from below
    cut = drawing[height - top : height - bottom, left:right]
    title = escape(axis.get_title())
    image = f'<img alt="{title}" src="{address(cut.copy(), "png")}">'
    return f"<div><span>{title.replace(chr(10), '<br>')}</span>{image}</div>"


def _margins(axis: Axes, canvas: FigureCanvasAgg) -> np.ndarray:
    """Pixels that labels and titles of an axis take at its left, bottom, right and top."""
    inner, outer = axis.get_window_extent(), axis.get_tightbbox(canvas.get_renderer())
    low, high = inner.min - outer.min, outer.max - inner.max
    return np.ceil([*low, *high]).astype(int).clip(0) + 2


def _panel(axis: Axes, axes: Sequence[Axes], canvas: FigureCanvasAgg, margins: np.ndarray) -> str:
    """A panel and its margins, cut out of a drawing of its figure without the other panels."""
    for other in axes:
        other.set_visible(other is axis)
    canvas.draw()
    for other in axes:
        other.set_visible(True)
    drawing = np.asarray(canvas.buffer_rgba())[..., :3]
    x0, y0, x1, y1 = axis.get_window_extent().extents.round().astype(int)
    left, bottom, right, top = margins.tolist()
    height = len(drawing)  # y counts from below
    # Margins of a panel at the edge may reach beyond the drawing.
    white = np.pad(drawing, ((top, bottom), (left, right), (0, 0)), constant_values=255)
    cut = white[height - y1 : height - y0 + top + bottom, x0 : x1 + left + right]
    image = f'<img alt="{escape(axis.get_title())}" src="{address(cut.copy(), "png")}">'
    return f"<div>{image}</div>"


def _key(legend: Legend) -> str:
    """A legend of patches as text."""
    parts = []
    for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True):
        colour = to_hex(handle.get_facecolor())
        parts.append(f'<span><i style="background:{colour}"></i> {escape(text.get_text())}</span>')
    return f'<p class="key">{" ".join(parts)}</p>'
