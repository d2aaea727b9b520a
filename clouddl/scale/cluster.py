"""Work given to the processes of a dask.distributed cluster, and what comes of it when some die.

Only plain data travels: a task there, an answer back. (Dask's processes send each other pickles.
Nothing here reads one from a file, but whoever can reach a scheduler can run code on its workers:
keep it inside a network you trust, or use Dask's TLS.)
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch

from clouddl.errors import InputError

ANSWER, JOIN = 10, 60  # seconds to wait for a scheduler, and for its first worker


class Lost(InputError):
    """The cluster is gone; what it answered until then holds."""


class Died(Exception):
    """Every worker that took a task died."""


@contextmanager
def open_cluster(scheduler: str, workers: int | None = None) -> Iterator["Cluster"]:
    """A cluster to spread work over, closed at the end.

    `scheduler`: "local" for `workers` processes (default: one per core) of this machine, or the
    address of a Dask scheduler. InputError: no Dask, or nobody who answers there.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError("Dask is not installed: pip install 'clouddl[cluster]'") from error
    for name in ("distributed", "tornado", "asyncio"):  # what is wrong is told in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as at_end:
        try:
            if scheduler == "local":
                local = LocalCluster(
                    n_workers=workers or os.cpu_count(), threads_per_worker=1,
                    dashboard_address="127.0.0.1:0", silence_logs=logging.CRITICAL,
                )  # fmt: skip
                scheduler = at_end.enter_context(local).scheduler_address
            client = Client(scheduler, timeout=ANSWER, set_as_default=False)
            at_end.callback(client.close, timeout=ANSWER)
            at_end.enter_context(client.as_current())
            client.wait_for_workers(1, timeout=JOIN)
        except (OSError, ValueError, TimeoutError) as error:
            told = "no scheduler with workers answers; start them (dask scheduler, dask worker)"
            raise InputError(f"scheduler {scheduler}: {told} or mend the address") from error
        yield Cluster(client, scheduler)


@dataclass(frozen=True)
class Cluster:
    """An open cluster; see `open_cluster`."""

    client: Any
    scheduler: str

    def threads(self) -> int:
        """How many tasks are worked on at once."""
        return sum(self.client.nthreads().values())

    def spread(
        self, work: Callable[[dict[str, Any]], Any], waiting: deque[dict[str, Any]]
    ) -> Iterator[tuple[dict[str, Any], Any]]:
        """`work` done to each task, in any order: (task, answer), or (task, exception).

        Tasks may join those `waiting`, or leave them, meanwhile. No more are handed out than there
        are threads to work on them. Dask gives a task that was lost with its worker to another, but
        after some deaths suspects it, and whatever else waited at the same workers. So those are
        tried once more, at the end, each alone: if its worker dies again, it is the task, and its
        answer is Died. Raises Lost.
        """
        from distributed import CancelledError, KilledWorker, wait

        suspects: set[int] = set()
        owner: dict[Any, dict[str, Any]] = {}  # the tasks in work, by their futures
        while waiting or owner:
            lost = f"the scheduler {self.scheduler} was lost; start it again"
            try:
                threads = self.threads()
                while waiting and len(owner) < (1 if id(waiting[0]) in suspects else threads):
                    task = waiting.popleft()
                    owner[self.client.submit(_alone, work, task, pure=False)] = task
                if not threads:  # others may come
                    lost = f"the scheduler {self.scheduler} has no workers any more; start some"
                    self.client.wait_for_workers(1, timeout=JOIN)
                    continue
                with suppress(TimeoutError):  # it takes its time: see if workers are there
                    wait([*owner], timeout=JOIN, return_when="FIRST_COMPLETED")
                ended = [future for future in owner if future.done()]
                answers = [future.exception() or future.result() for future in ended]
            except (OSError, RuntimeError, CancelledError) as error:
                raise Lost(lost) from error
            for future, answer in zip(ended, answers, strict=True):
                task = owner.pop(future)
                if isinstance(answer, KilledWorker) and id(task) not in suspects:
                    suspects.add(id(task))
                    waiting.append(task)
                    continue
                if isinstance(answer, KilledWorker):
                    answer = Died("every worker that took it died, for want of memory perhaps")
                suspects.discard(id(task))
                yield task, answer


def _alone(work: Callable[[dict[str, Any]], Any], task: dict[str, Any]) -> Any:
    """In a worker: one thread of PyTorch each, as there is a worker for each core."""
    torch.set_num_threads(1)
    return work(task)
