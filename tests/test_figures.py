"""Figures lose nothing at their edges."""

from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
import xarray as xr

from clouddl import figures
from clouddl_study.pages import panels


@pytest.mark.parametrize("rows", [1, 2])
def test_the_edges_of_a_panel_are_white(tmp_path: Path, rows: int) -> None:
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
    figures.save(panels.panel([("A scene", scene, {"CloudDL": mask})] * rows), tmp_path / "p.png")
    simulated = matplotlib.image.imread(tmp_path / "p.png")[..., :3]
    for edge in (simulated[0], simulated[-1], simulated[:, 0], simulated[:, -1]):
        assert (edge == 1).all()
