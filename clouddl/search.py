"""HyperOpt search (Bergstra 2013) over what Kettig (2020) searched: dropout and filter size.

The table of trials, a CSV, is all the state there is: each trial is proposed from the rows of the
rounds before it and a seed of its own, so a search that was killed ends as if it had not been.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hyperopt import STATUS_OK, Trials, hp, space_eval, tpe
from hyperopt.base import Domain
from hyperopt.fmin import generate_trials_to_calculate
from tqdm.auto import tqdm

from clouddl.errors import InputError, readable
from clouddl.files import write_whole
from clouddl.scale.cluster import Cluster, Died, Lost, open_cluster

# "Filter size" can be read as the number of filters or as the size of their kernel: both are here.
CHOICES: dict[str, list[int]] = {"base_filters": [8, 12], "kernel_size": [3, 5]}

SPACE: dict[str, Any] = {
    # At least 0.1: short trials favour none, and long fits then over-fit.
    "dropout": hp.uniform("dropout", 0.1, 0.4),
    "base_filters": hp.choice("base_filters", CHOICES["base_filters"]),
    "kernel_size": hp.choice("kernel_size", CHOICES["kernel_size"]),
    "learning_rate": hp.loguniform("learning_rate", np.log(2e-3), np.log(8e-3)),
}

COLUMNS = ["trial", *SPACE, "val_f2", "seconds"]

Point = dict[str, Any]  # a value for each name of SPACE
Objective = Callable[[Point], float]


def search(
    objective: Objective,
    path: Path | str,
    *,
    trials: int = 20,
    minutes: float = float("inf"),
    seed: int = 0,
    at_once: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Search until a table holds so many trials, or so many minutes of fitting were spent.

    Trials are proposed in rounds of `at_once`, each from the rounds before and a seed of its own:
    what is proposed depends on `seed`, `trials` and `at_once` (and on the scores), never on which
    trial ends first.

    Args:
        objective: Takes dropout, base_filters, kernel_size and learning_rate, and returns the
            validation F2. For a cluster: a function of a module, or a partial of one with plain
            data, such as `train.fit_trial`.
        path: The table (CSV), written after each trial; an earlier search goes on from it.
        trials: How many rows the table is to have.
        minutes: No new round begins after so many minutes of fitting.
        seed: Of the search.
        at_once: Trials in a round.
        scheduler: Fits the trials of a round at the same time: "local" in `at_once` processes of
            this machine, or the address of a Dask scheduler. None: one after the other.
        progress: Whether to show a progress bar.

    Returns:
        The table, with COLUMNS.

    Raises:
        InputError: A broken table, a score that is no number, or a lost cluster; rows are kept.
    """
    path = Path(path)
    if at_once < 1:
        raise InputError(f"{path}: {at_once} trials at once; give at least one")
    table = read_trials(path)
    if len(table) >= trials:
        return table
    with (
        open_cluster(scheduler, at_once) if scheduler else nullcontext() as cluster,
        tqdm(total=trials, initial=len(table), desc="trials", disable=not progress) as bar,
    ):
        while len(table) < trials:
            start = len(table) - len(table) % at_once  # a round that was killed is finished first
            if table.seconds[:start].sum() >= 60 * minutes:
                break
            numbers = range(len(table), min(start + at_once, trials))
            tasks = [{"trial": n, **_propose(table[:start], n, seed, trials)} for n in numbers]
            for row in _rows(objective, tasks, cluster, path):
                table = pd.DataFrame([*table.to_dict("records"), row], columns=COLUMNS)
                write_whole(path, table.to_csv(index=False).encode())
                bar.update()
                bar.set_postfix(best=f"{table.val_f2.max():.3f}")
    return table


def read_trials(path: Path | str) -> pd.DataFrame:
    """Read the table of a search.

    Args:
        path: The table (CSV).

    Returns:
        The trials so far, with COLUMNS; empty without a file.

    Raises:
        InputError: The file is not a table of this space, or incomplete.
    """
    if not Path(path).exists():
        return pd.DataFrame(columns=COLUMNS)
    with readable(path, "table of trials", "delete it to search anew"):
        table = pd.read_csv(path, float_precision="round_trip")
        if not _is_search(table):
            raise ValueError(f"not all of {', '.join(COLUMNS)}, or not of this space")
    whole_numbers = dict.fromkeys(("trial", *CHOICES), int)
    return table.astype(dict.fromkeys(COLUMNS, float) | whole_numbers)


def _is_search(table: pd.DataFrame) -> bool:
    """Whether a table is of this space, with all of its trials up to the last one."""
    if list(table.columns) != COLUMNS or not np.isfinite(table.astype(float)).all(None):
        return False
    numbered = table.trial.tolist() == list(range(len(table)))
    return numbered and all(table[name].isin(CHOICES[name]).all() for name in CHOICES)


def best_trial(table: pd.DataFrame) -> Point:
    """Find the point with the highest validation F2.

    Args:
        table: Of `search`.

    Returns:
        A value for each name of SPACE.

    Raises:
        InputError: The table is empty.
    """
    if table.empty:
        raise InputError("the search has no trials yet: give it a budget of at least one")
    return _plain(table.loc[table.val_f2.idxmax()])


def random_trials(trials: int) -> int:
    """Count the first trials, which are random: a third of the budget, as so few allow.

    Args:
        trials: Of the whole search.

    Returns:
        How many TPE has no say in, three at least.
    """
    return max(3, trials // 3)


def _propose(table: pd.DataFrame, trial: int, seed: int, trials: int) -> Point:
    """The point that trial number `trial` of `trials` tries, after a table of earlier ones."""
    rng = np.random.default_rng([seed, trial])
    (proposed,) = tpe.suggest(
        [len(table)],
        Domain(None, SPACE),
        _as_hyperopt(table),
        int(rng.integers(2**31 - 1)),
        n_startup_jobs=random_trials(trials),
        verbose=False,
    )
    values = {name: value for name, (value,) in proposed["misc"]["vals"].items()}
    return _plain(space_eval(SPACE, values))


def _plain(values: Any) -> Point:
    """Numbers of numpy or pandas as Python's own, so that any process can read them."""
    return {name: int(values[name]) if name in CHOICES else float(values[name]) for name in SPACE}


def _as_hyperopt(table: pd.DataFrame) -> Trials:
    """The rows as HyperOpt keeps them, choices as indices."""
    indices = {name: table[name].map(choices.index) for name, choices in CHOICES.items()}
    points = table[list(SPACE)].assign(**indices)
    trials = generate_trials_to_calculate(points.to_dict("records"))
    trials.refresh()
    for trial, f2 in zip(trials.trials, table.val_f2, strict=True):
        trial["result"] = {"loss": -f2, "status": STATUS_OK}
    return trials


def _rows(
    objective: Objective, tasks: list[dict[str, Any]], cluster: Cluster | None, path: Path
) -> Iterator[dict[str, Any]]:
    """The trials of a round as rows of the table, in order, each as soon as it is known."""
    work = partial(_try, objective)
    answers = cluster.spread(work, deque(tasks)) if cluster else ((t, work(t)) for t in tasks)
    rows: dict[int, dict[str, Any]] = {}
    following = tasks[0]["trial"]
    try:
        for task, answer in answers:
            trial = f"{path}: trial {task['trial']}"
            if isinstance(answer, Died):
                raise InputError(f"{trial}: {answer}: lower at_once or the batch")
            if isinstance(answer, Exception):
                raise answer
            score = answer["val_f2"]
            if not np.isfinite(score):
                raise InputError(f"{trial} scored {score}; is there cloud in the validation chips?")
            rows[task["trial"]] = task | answer
            while following in rows:
                yield rows.pop(following)
                following += 1
    except Lost as error:
        message = "the trials in its table are kept; the same call does the others"
        raise InputError(f"{path}: {error}; {message}") from error


def _try(objective: Objective, task: dict[str, Any]) -> dict[str, float]:
    """Score a trial, here or in a worker."""
    start = time.monotonic()
    score = float(objective({name: task[name] for name in SPACE}))
    return {"val_f2": score, "seconds": round(time.monotonic() - start, 2)}
