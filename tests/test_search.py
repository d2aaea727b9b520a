"""The search: its table is all its state, so one that was killed ends as if it had not been."""

import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import distributed  # noqa: F401 (brings the settings that are changed here)
import pandas as pd
import pytest
import torch

import clouddl.search
from clouddl.errors import InputError
from clouddl.scale.cluster import Cluster, Lost
from clouddl.search import CHOICES, COLUMNS, SPACE, best_trial, read_trials, search
from clouddl_study.experiments import worth


def f2(point: dict[str, Any]) -> float:
    """A validation F2 that is highest at dropout 0.2, 12 filters and a kernel of 5."""
    wrong = (point["base_filters"] != 12) + (point["kernel_size"] != 5)
    return 0.9 - (point["dropout"] - 0.2) ** 2 - 0.05 * wrong - point["learning_rate"]


def go(path: Path, objective: Any = f2, **options: Any) -> pd.DataFrame:
    return search(objective, path, **{"trials": 9, "progress": False} | options)


def test_a_killed_search_ends_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole = go(tmp_path / "whole.csv")
    asked = []

    def killed(point: dict[str, Any]) -> float:
        asked.append(point)
        if len(asked) == 6:
            raise ConnectionAbortedError("killed")
        return f2(point)

    path = tmp_path / "killed.csv"
    with pytest.raises(ConnectionAbortedError):
        go(path, killed)
    assert len(read_trials(path)) == 5
    resumed = go(path, killed)
    assert len(asked) == 10  # only the trial that was killed is done again
    assert asked[5] == asked[6]
    for table in (resumed, read_trials(path)):
        pd.testing.assert_frame_equal(table[COLUMNS[:-1]], whole[COLUMNS[:-1]], check_exact=True)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["killed.csv", "whole.csv"]


def test_one_at_once_proposes_what_it_always_did(tmp_path: Path) -> None:
    known = [0.1571, 0.3379, 0.2516, 0.2341, 0.1102, 0.3953, 0.2191, 0.3179, 0.1014]
    table = go(tmp_path / "trials.csv")
    assert table.dropout.tolist() == pytest.approx(known, abs=1e-4)


def test_a_round_that_was_broken_off_is_finished_first(tmp_path: Path) -> None:
    whole = go(tmp_path / "whole.csv", trials=8, at_once=3)
    assert not whole.equals(go(tmp_path / "one.csv", trials=8))
    asked = 0

    def killed(point: dict[str, Any]) -> float:
        nonlocal asked
        asked += 1
        if asked == 5:  # the second of its round
            raise ConnectionAbortedError("killed")
        return f2(point)

    path = tmp_path / "killed.csv"
    with pytest.raises(ConnectionAbortedError):
        go(path, killed, trials=8, at_once=3)
    assert len(read_trials(path)) == 4
    resumed = go(path, trials=8, at_once=3)
    pd.testing.assert_frame_equal(resumed[COLUMNS[:-1]], whole[COLUMNS[:-1]], check_exact=True)
    with pytest.raises(InputError, match="0 trials at once; give at least one"):
        go(path, at_once=0)


def deadly(point: dict[str, Any], marks: str) -> float:
    """Kills its worker the first time that a kernel of 5 is tried; small kernels end last."""
    mark = Path(marks, "tried")
    if point["kernel_size"] == 5 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    assert torch.get_num_threads() == 1
    time.sleep(0.2 if point["kernel_size"] == 3 else 0)
    return f2(point)


def test_a_cluster_gives_the_same_table_whatever_dies(tmp_path: Path) -> None:
    whole = go(tmp_path / "here.csv", trials=8, at_once=3)
    objective = partial(deadly, marks=str(tmp_path))
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        table = go(tmp_path / "a.csv", objective, trials=8, at_once=3, scheduler="local")
    assert (tmp_path / "tried").exists()
    pd.testing.assert_frame_equal(table[COLUMNS[:-1]], whole[COLUMNS[:-1]], check_exact=True)


def poison(point: dict[str, Any]) -> float:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0.0


def bad(point: dict[str, Any]) -> float:
    raise InputError("chips: are gone")


def test_what_a_cluster_cannot_do_is_one_error(tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    go(path, trials=2)
    with pytest.raises(InputError, match="chips: are gone"):
        go(path, bad, at_once=2, scheduler="local")
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        pytest.raises(InputError, match=r"trials\.csv: trial 2: every worker that took it died"),
    ):
        go(path, poison, scheduler="local")
    assert len(read_trials(path)) == 2


def test_a_scheduler_that_is_lost_leaves_the_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    genuine = Cluster.spread

    def lost(self: Cluster, *arguments: Any) -> Iterator[Any]:
        yield next(genuine(self, *arguments))
        raise Lost("the scheduler was lost; start it again")

    path = tmp_path / "trials.csv"
    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "spread", lost)
        with pytest.raises(InputError, match=r"trials\.csv: the scheduler was lost.*are kept"):
            go(path, scheduler="local")
    assert len(read_trials(path)) == 1
    pd.testing.assert_frame_equal(
        go(path, trials=3)[COLUMNS[:-1]], go(tmp_path / "b.csv", trials=3)[COLUMNS[:-1]]
    )


def test_trials_stay_in_the_space(tmp_path: Path) -> None:
    table = go(tmp_path / "new" / "trials.csv", trials=12)
    assert list(table.columns) == COLUMNS
    assert table.trial.tolist() == list(range(12))
    for name, choices in CHOICES.items():
        assert set(table[name]) <= set(choices)
    assert table.dropout.between(0.1, 0.5).all()
    assert table.learning_rate.between(5e-4, 8e-3).all()
    assert table.dropout.nunique() == 12
    assert table.val_f2.tolist() == [f2(row) for row in table.to_dict("records")]


def test_objective_gets_plain_numbers(tmp_path: Path) -> None:
    types = {"dropout": float, "base_filters": int, "kernel_size": int, "learning_rate": float}

    def check(point: dict[str, Any]) -> float:
        assert {name: type(value) for name, value in point.items()} == types
        return f2(point)

    go(tmp_path / "trials.csv", check, trials=2)


def test_seed_decides(tmp_path: Path) -> None:
    one, other = (go(tmp_path / f"{seed}.csv", trials=3, seed=seed) for seed in (0, 1))
    assert not set(one.dropout) & set(other.dropout)


def test_budget_in_trials(tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    assert len(go(path, trials=3)) == 3
    asked: list[Any] = []
    assert len(go(path, lambda point: asked.append(point) or 0.5, trials=3)) == 3
    assert asked == []
    assert len(go(path, trials=5)) == 5  # a larger budget goes on from there


def test_budget_in_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 10_000, 25))  # looked at twice a trial: each trial takes 25 s
    monkeypatch.setattr(clouddl.search, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    path = tmp_path / "trials.csv"
    table = go(path, minutes=1)
    assert table.seconds.tolist() == [25, 25, 25]
    assert len(go(path, minutes=1)) == 3  # minutes that were spent before a kill count
    assert len(go(path, minutes=2)) == 5
    assert len(go(tmp_path / "none.csv", minutes=0)) == 0


def test_a_score_that_is_no_number_does_not_spoil_the_table(tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    go(path, trials=2)
    with pytest.raises(InputError, match="nan"):
        go(path, lambda point: float("nan"))
    assert len(go(path, trials=4)) == 4


GOOD = "0,0.1,12,5,0.001,0.8,3.0"
HEAD = ",".join(COLUMNS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,b\n1,2\n",
        f"{HEAD}\n{GOOD}\n1,0.1,12,5,0.0",
        f"{HEAD}\n{GOOD}\n{GOOD}\n",
        f"{HEAD}\n{GOOD.replace('12', '7')}\n",
        f"{HEAD}\n{GOOD.replace('0.8', 'nan')}\n",
        f"{HEAD}\n{GOOD},1,2\n{GOOD}\n",
        "\x00\x80\ufffd",
        f"{HEAD}\n{GOOD.replace('0.8', 'oops')}\n",
    ],
    ids=["empty", "foreign", "cut", "repeated", "space", "nan", "columns", "binary", "words"],
)
def test_a_broken_table_is_named_and_kept(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trials.csv"
    path.write_text(text)
    fault = r"trials\.csv: the table of trials cannot be read .*delete it to search anew"
    with pytest.raises(InputError, match=fault):
        go(path, trials=1)
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_that_is_whole_is_read(tmp_path: Path) -> None:
    path = tmp_path / "trials.csv"
    assert read_trials(path).empty
    path.write_text(f"{HEAD}\n{GOOD}\n")
    assert read_trials(path).iloc[0].tolist() == [0, 0.1, 12, 5, 0.001, 0.8, 3]


@pytest.fixture
def table() -> pd.DataFrame:
    """Four trials whose F2 follows the kernel alone, but for one that is a little better."""
    rows = [
        (0, 0.1, 8, 3, 1e-3, 0.70, 1.0),
        (1, 0.2, 12, 3, 2e-3, 0.70, 1.0),
        (2, 0.1, 8, 5, 2e-3, 0.80, 1.0),
        (3, 0.2, 12, 5, 1e-3, 0.82, 1.0),
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_best_trial(table: pd.DataFrame) -> None:
    result = best_trial(table)
    assert result == {
        "dropout": 0.2, "base_filters": 12, "kernel_size": 5, "learning_rate": 1e-3,
    }  # fmt: skip
    assert type(result["kernel_size"]) is int
    with pytest.raises(InputError, match="no trials yet"):
        best_trial(table[:0])


def test_worth(table: pd.DataFrame) -> None:
    result = worth(table)
    assert set(result.parameter) == set(SPACE)
    assert result["share of variance"].between(0, 1).all()
    assert result["share of variance"].is_monotonic_decreasing
    first = result.iloc[0]
    assert (first.parameter, first.best, first.worst) == ("kernel_size", "5", "3")
    assert first["F2 of best"] == pytest.approx(0.81)
    assert first["F2 of worst"] == pytest.approx(0.70)
    # Mean 0.755: 4 × 0.055² between the kernels, of 2 × 0.055² + 0.045² + 0.065² in all.
    assert first["share of variance"] == pytest.approx(0.0121 / 0.0123)
    assert result.set_index("parameter").best["dropout"] == "> 0.15"


def test_worth_of_a_search(tmp_path: Path) -> None:
    result = worth(go(tmp_path / "trials.csv"))
    assert result["share of variance"].between(0, 1).all()
    assert (result["F2 of best"] >= result["F2 of worst"]).all()


def test_worth_where_nothing_varies(table: pd.DataFrame) -> None:
    assert worth(table.assign(val_f2=0.5))["share of variance"].isna().all()
