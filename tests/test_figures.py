"""Figures lose nothing at their edges, and those of many pictures become a grid on a page."""

import base64
import re
from io import BytesIO
from pathlib import Path

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr
from matplotlib.figure import Figure

from clouddl import figures
from clouddl_study.pages import panels


def panel_of(rows: int) -> Figure:
    """A panel of black scenes whose mask is a diagonal, found as a whole."""
    figures.style()
    mask = np.eye(8, dtype=np.uint8)
    bands = {"band": ["green", "red", "nir"]}
    scene = xr.Dataset(
        {
            "reflectance": (("band", "y", "x"), np.zeros((3, 8, 8), np.float32)),
            "mask": (("y", "x"), mask),
        },
        bands,
    )
    return panels.panel([("A <scene>", scene, {"CloudDL": mask})] * rows)


@pytest.mark.parametrize("rows", [1, 2])
def test_the_edges_of_a_panel_are_white(tmp_path: Path, rows: int) -> None:
    figures.save(panel_of(rows), tmp_path / "p.png")
    simulated = matplotlib.image.imread(tmp_path / "p.png")[..., :3]
    for edge in (simulated[0], simulated[-1], simulated[:, 0], simulated[:, -1]):
        assert (edge == 1).all()


def test_a_grid_has_the_rows_of_its_figure_with_titles_and_legend_as_text() -> None:
    shown = panels.grid(panel_of(2)).data
    assert "--columns:3" in shown
    assert shown.count('class="abreast"') == 2
    alts = re.findall(r'alt="([^"]*)"', shown)
    assert alts == ["A &lt;scene&gt;\nNIR, red, green", "reference", "CloudDL"] * 2
    assert shown.count("<span>A &lt;scene&gt;<br>NIR, red, green</span>") == 2
    names = re.findall(r"</i> ([^<]*)<", shown)
    assert names == ["cloud", "clear", "missed", "false alarm"]


def test_a_picture_of_a_grid_is_cut_at_its_edges() -> None:
    shown = panels.grid(panel_of(2)).data
    for code in re.findall(r"base64,([^\"]*)", shown)[::3]:
        picture = matplotlib.image.imread(BytesIO(base64.b64decode(code)), format="png")
        assert (picture[..., :3].max(-1) < 0.5).mean() > 0.98  # black, but for the edge


def test_the_grid_lies_beside_the_file(tmp_path: Path) -> None:
    shown = panels.save(panel_of(1), tmp_path / "p.png")
    assert (tmp_path / "p.png").exists()
    assert (tmp_path / "p.html").read_text("utf-8") == shown.data


def test_plots_are_cut_alike_and_show_nothing_of_each_other() -> None:
    figures.style()
    figure, axes = plt.subplots(1, 3)
    for axis, colour in zip(axes, ("#FF0000", "#0000FF", "#00FF00"), strict=True):
        axis.plot([0, 1], color=colour)
        axis.set(title=colour, ylabel="a label of some length")
    axes[2].axis("off")
    plt.close(figure)
    shown = panels.plots(figure, on_phone=2).data
    assert re.findall(r'alt="([^"]*)"', shown) == ["#FF0000", "#0000FF"]
    assert "--columns:3;--on-phone:2" in shown
    codes = re.findall(r"base64,([^\"]*)", shown)
    red, blue = (matplotlib.image.imread(BytesIO(base64.b64decode(c)), format="png") for c in codes)
    assert np.abs(np.subtract(red.shape, blue.shape)).max() <= 1  # a pixel, by rounding
    for picture, there, absent in ((red, 0, 2), (blue, 2, 0)):
        colours = picture[..., :3].reshape(-1, 3)
        pure = np.eye(3)
        assert (colours == pure[there]).all(1).any() and not (colours == pure[absent]).all(1).any()
