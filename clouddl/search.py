"""HyperOpt search (Bergstra 2013) over what Kettig (2020) searched: dropout and filter size.

The table of trials, a CSV, is all the state there is: each trial is drawn from the rows of the
rounds before it and a seed of its own, so a search that was killed ends as if it had not been.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from hyperopt import JOB_STATE_DONE, STATUS_OK, Trials, fmin, hp, tpe
from tqdm.auto import tqdm

from clouddl.errors import InputError
from clouddl.scale.cluster import Cluster, Died, Lost, open_cluster

# "Filter size" can be read as the number of filters or as the size of their kernel: both are here.
CHOICES: dict[str, list[int]] = {"base_filters": [8, 12, 16], "kernel_size": [3, 5]}


SPACE: dict[str, Any] = {
    # From 0.1 on: without dropout short fits, as trials are, score best, and long ones over-fit.
    "dropout": hp.uniform("dropout", 0.1, 0.5),
    "base_filters": hp.choice("base_filters", CHOICES["base_filters"]),
    "kernel_size": hp.choice("kernel_size", CHOICES["kernel_size"]),
    "learning_rate": hp.loguniform("learning_rate", np.log(5e-4), np.log(8e-3)),
}


COLUMNS = ["trial", *SPACE, "val_f2", "seconds"]


def read_trials(path: Path | str) -> pd.DataFrame:
    """The table of trials so far (empty without a file). Raises InputError if it is broken."""
    path = Path(path)
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    try:
        table = pd.read_csv(path, float_precision="round_trip")
        table = table.astype({name: float for name in COLUMNS if name in table})
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path}: not a table of trials ({error}); delete it to search anew"
        ) from error
    whole = list(table.columns) == COLUMNS and table.trial.tolist() == list(range(len(table)))
    known = whole and all(table[name].isin(values).all() for name, values in CHOICES.items())
    if not known or not np.isfinite(table.to_numpy(float)).all():
        raise InputError(
            f"{path}: not a whole table of trials of this space; delete it to search anew"
        )
    return table.astype(dict.fromkeys(("trial", *CHOICES), int))


def _as_trials(table: pd.DataFrame) -> Trials:
    """The rows as HyperOpt keeps them, choices as indices."""
    trials, documents = Trials(), []
    for row in table.to_dict("records"):
        tid = int(row["trial"])
        values = {k: CHOICES[k].index(int(row[k])) if k in CHOICES else row[k] for k in SPACE}
        documents.append(
            {
                "tid": tid,
                "spec": None,
                "state": JOB_STATE_DONE,
                "owner": None,
                "version": 0,
                "book_time": None,
                "refresh_time": None,
                "exp_key": None,
                "result": {"loss": -row["val_f2"], "status": STATUS_OK},
                "misc": {
                    "tid": tid,
                    "cmd": ("domain_attachment", "FMinIter_Domain"),
                    "workdir": None,
                    "idxs": {k: [tid] for k in SPACE},
                    "vals": {k: [v] for k, v in values.items()},
                },
            }
        )
    trials.insert_trial_docs(documents)
    trials.refresh()
    return trials


def search(
    objective: Callable[[dict[str, Any]], float],
    path: Path | str,
    *,
    trials: int = 20,
    minutes: float = float("inf"),
    seed: int = 0,
    at_once: int = 1,
    scheduler: str | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Search until the table at `path` holds `trials` rows or `minutes` of fitting were spent.

    `objective` takes {dropout, base_filters, kernel_size, learning_rate} and returns the validation
    F2. The table is rewritten after each trial and gone on from when the search is called again.

    Trials are proposed in rounds of `at_once`, each from the rounds before and a seed of its own:
    what is proposed depends on `seed`, `trials` and `at_once` (and on the scores), never on which
    trial ends first. `scheduler` fits those of a round at the same time: "local" in `at_once`
    processes of this machine, or the address of a Dask scheduler. Its workers run `objective`: a
    function of a module, or a partial of one with plain data, such as `train.fit_trial`.
    InputError: a broken table, a score that is no number, a cluster that is lost; rows are kept.
    """
    path = Path(path)
    if at_once < 1:
        raise InputError(f"{path}: {at_once} trials at once; give at least one")
    table = read_trials(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        open_cluster(scheduler, at_once)
        if scheduler and len(table) < trials
        else nullcontext() as cluster,
        tqdm(total=trials, initial=len(table), desc="trials", disable=not progress) as bar,
    ):
        while (first := len(table)) < trials:
            whole = first - first % at_once  # a round that was broken off is finished first
            if table.seconds[:whole].sum() >= 60 * minutes:
                break
            before = table[:whole]
            todo = range(first, min(whole + at_once, trials))
            tasks = [{"trial": n, **_propose(before, n, seed, trials)} for n in todo]
            for row in _rows(objective, tasks, cluster, path):
                table = pd.DataFrame([*table.to_dict("records"), row], columns=COLUMNS)
                temporary = path.with_name(f".{path.name}.{os.getpid()}")
                table.to_csv(temporary, index=False)
                temporary.replace(path)
                bar.update()
                bar.set_postfix(best=f"{table.val_f2.max():.3f}")
    return table


def _propose(table: pd.DataFrame, trial: int, seed: int, trials: int) -> dict[str, Any]:
    """The point of the space that trial number `trial` of `trials` tries, after a table of them."""
    drawn: dict[str, Any] = {}

    def note(point: dict[str, Any]) -> dict[str, Any]:
        drawn.update(point)
        return {"loss": 0.0, "status": STATUS_OK}

    fmin(
        note,
        SPACE,
        # TPE's first draws are random; a third of the budget, as so few trials allow.
        partial(tpe.suggest, n_startup_jobs=max(3, trials // 3)),
        max_evals=len(table) + 1,
        trials=_as_trials(table),
        rstate=np.random.default_rng([seed, trial]),
        show_progressbar=False,
        verbose=False,
    )
    return {k: int(v) if k in CHOICES else float(v) for k, v in drawn.items()}


def _rows(
    objective: Callable[[dict[str, Any]], float], tasks: list[dict[str, Any]],
    cluster: Cluster | None, path: Path,
) -> Iterator[dict[str, Any]]:  # fmt: skip
    """The trials of a round as rows of the table, in order, as soon as they can be told."""
    work = partial(_try, objective)
    answers = cluster.spread(work, deque(tasks)) if cluster else ((t, work(t)) for t in tasks)
    found: dict[int, dict[str, Any]] = {}
    waited_for = tasks[0]["trial"]
    try:
        for task, answer in answers:
            trial = f"{path}: trial {task['trial']}"
            if isinstance(answer, Died):
                raise InputError(f"{trial}: {answer}: lower at_once or the batch")
            if isinstance(answer, Exception):
                raise answer
            if not np.isfinite(answer["val_f2"]):
                told = f"{trial} scored {answer['val_f2']}"
                raise InputError(f"{told}; is there cloud in the validation chips?")
            found[task["trial"]] = task | answer
            while waited_for in found:
                yield found.pop(waited_for)
                waited_for += 1
    except Lost as error:
        told = "the trials in its table are kept; the same call does the others"
        raise InputError(f"{path}: {error}; {told}") from error


def _try(objective: Callable[[dict[str, Any]], float], task: dict[str, Any]) -> dict[str, float]:
    """Score a trial, here or in a worker."""
    start = time.monotonic()
    score = float(objective({k: v for k, v in task.items() if k != "trial"}))
    return {"val_f2": score, "seconds": round(time.monotonic() - start, 2)}


def best_trial(table: pd.DataFrame) -> dict[str, Any]:
    """The parameters of the trial with the highest validation F2."""
    if table.empty:
        raise InputError("the search has no trials yet: give it a budget of at least one")
    row = table.loc[table.val_f2.idxmax()]
    return {k: int(row[k]) if k in CHOICES else float(row[k]) for k in SPACE}


def worth(table: pd.DataFrame) -> pd.DataFrame:
    """What each parameter was worth: F2 of its best and worst setting, and its share of variance.

    Numbers are cut at their median, choices stand for themselves. With a few dozen trials this is
    an indication, not a test.
    """
    rows = []
    for name in SPACE:
        median = table[name].median()
        setting = (
            table[name].astype(int).astype(str)
            if name in CHOICES
            else (np.where(table[name] <= median, f"≤ {median:.2g}", f"> {median:.2g}"))
        )
        parts = table.groupby(setting).val_f2
        means, sizes = parts.mean(), parts.size()
        between = float((sizes * (means - table.val_f2.mean()) ** 2).sum())
        total = float(((table.val_f2 - table.val_f2.mean()) ** 2).sum())
        rows.append(
            {
                "parameter": name,
                "best": means.idxmax(),
                "F2 of best": means.max(),
                "worst": means.idxmin(),
                "F2 of worst": means.min(),
                "share of variance": between / total if total else float("nan"),
            }
        )
    return pd.DataFrame(rows).sort_values("share of variance", ascending=False, ignore_index=True)
