"""The benchmarks' own arithmetic; what they measure is for a quiet machine."""

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import rasterio
from rasterio.transform import from_origin

from clouddl.labels import s2cloudless


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1])


def sleeper(seconds: float) -> Callable[[], None]:
    return lambda: time.sleep(seconds)


def broken() -> Callable[[], None]:
    raise ImportError("no such thing", name="thing")


def test_stages_add_up_to_the_whole() -> None:
    from benchmarks.study import stages

    found = stages([("01_data", 30.0), ("02_training", 50.0)], run=90.0, book=10.0)
    assert [(row["Stage"], row["Seconds"], row["Share %"]) for row in found] == [
        ("set-up", "10.0", "10"), ("01_data", "30.0", "30"), ("02_training", "50.0", "50"),
        ("the book", "10.0", "10"), ("together", "100.0", "100"),
    ]  # fmt: skip


def test_manifests_of_a_run_become_stages(tmp_path, monkeypatch) -> None:
    from benchmarks import study

    made = study.Manifest(
        parameters={}, seed=0, versions={}, data={}, code="", commit=None, after="", seconds=2.5,
        peak_mib=None, hardware={}, finished="",
    )  # fmt: skip

    folder = tmp_path / "build" / "quick"

    def run(profile, build):
        assert (profile, build) == ("quick", False)
        (folder / "work" / "manifests").mkdir(parents=True)
        (folder / "work" / "manifests" / "01_data.json").write_text(made.model_dump_json())
        return folder / "book"

    monkeypatch.setattr(study, "ROOT", tmp_path)
    monkeypatch.setattr(study, "run_study", run)
    monkeypatch.setattr(study, "build_book", lambda book: book)
    found = study.rows()
    assert [row["Stage"] for row in found] == ["set-up", "01_data", "the book", "together"]
    assert found[1]["Seconds"] == "2.5"


def test_the_slow_get_fewer_turns(monkeypatch, capsys) -> None:
    from benchmarks import measure

    monkeypatch.setattr(measure, "SLOW", 0.05)
    some = {"quick": (sleeper, {"seconds": 0.0}), "slow": (sleeper, {"seconds": 0.1}),
            "absent": (broken, {})}  # fmt: skip
    found, left_out = measure.race(some, 5)
    assert left_out == {"absent": "not installed (thing)"}
    assert found["slow"]["seconds"] > 0.1 > found["quick"]["seconds"]
    turns = capsys.readouterr().out
    assert (turns.count("quick: 0"), turns.count("slow: 0")) == (5, measure.FEW)


def test_a_command_is_watched_to_its_end() -> None:
    from benchmarks.measure import watched

    hold = "import time; held = bytes(range(256)) * 200_000; time.sleep(0.2)"  # 51 MB
    seconds, peak = watched([sys.executable, "-c", hold])
    assert seconds > 0.2
    assert 50 < peak < 200
    with pytest.raises(subprocess.CalledProcessError):
        watched([sys.executable, "-c", "raise SystemExit(3)"])


def test_a_peer_goes_from_file_to_file(tmp_path: Path) -> None:
    from benchmarks import peer

    names = list(peer.BANDS["s2cloudless"])
    bands = len(names)
    numbers = np.random.default_rng(0).integers(1, 5000, (bands, 32, 32), np.uint16)
    expected = s2cloudless(numbers * np.float32(1e-4), names, 30)
    grid = from_origin(0, 0, 30, 30)
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", count=bands, height=32, width=32, dtype="uint16",
        crs="EPSG:32631", transform=grid,
    ) as file:  # fmt: skip
        file.write(numbers)
    peer.main("s2cloudless", str(tmp_path / "a.tif"), str(tmp_path / "mask.tif"))
    with rasterio.open(tmp_path / "mask.tif") as file:
        assert (file.shape, file.transform, file.dtypes) == ((32, 32), grid, ("uint8",))
        np.testing.assert_array_equal(file.read(1), expected)


def test_f2_by_speed_leaves_out_who_was_not_measured() -> None:
    from benchmarks.plot import SCORED, f2_by_speed

    speeds = pd.DataFrame({"System": list(SCORED), "Mpixel/s": ["10", "not installed", "2.5"]})
    scores = [{"set": name, "run": run, "f2": 0.8} for name in "ab" for run in SCORED.values()]
    panels = f2_by_speed(speeds, pd.DataFrame(scores)).axes
    assert [panel.get_title() for panel in panels] == ["a", "b"]
    found = [(line.get_label(), *line.get_xydata()[0].tolist()) for line in panels[0].lines]
    assert found == [("CloudDL", 10.0, 80.0), ("spectral tests", 2.5, 80.0)]
