"""The cost on paper is what its assumptions and the measurement say."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "scale.py"


def test_cost_by_hand() -> None:
    spec = importlib.util.spec_from_file_location("scale", SCRIPT)
    assert spec and spec.loader
    scale = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scale)
    measured = pd.DataFrame({"pixels a side": [512, 5490], "seconds": [9.0, 30.0]})
    france = scale.cost(measured).iloc[0]
    # 551 500 km² in tiles of 100 × 100 km; 73 passes a year, 1.4 times for overlapping orbits.
    assert france.tiles == 55
    assert france.images == round(55.15 * 73 * 1.4) == 5636
    # A tile has four times the pixels of 5490 × 5490: 120 seconds.
    assert france["core-hours"] == pytest.approx(5636 * 120 / 3600, abs=1)
    # Four bands of two bytes: 964 million bytes an image.
    assert france["TB read"] == pytest.approx(5636 * 964.5e6 / 1e12, abs=0.1)
