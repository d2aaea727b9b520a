"""The benchmarks' own arithmetic; what they measure is for a quiet machine."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest


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
