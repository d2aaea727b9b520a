"""Work given to the processes of a dask.distributed cluster, and what happens when some die.

Dask's processes send each other pickles: a task there, an answer back. Nothing here reads one from
a file, but whoever can reach a scheduler can run code on its workers: keep it inside a network you
trust, or use Dask's TLS.
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

ANSWER_TIME, JOIN_TIME = 10, 60  # seconds to wait for a scheduler, and for its first worker


class Lost(InputError):
    """The cluster is gone; its answers until then are valid."""


class Died(Exception):
    """Every worker that took a task died."""


@dataclass(frozen=True)
class Processes:
    """Where scenes are predicted.

    Attributes:
        scheduler: "local" for processes of this machine, or the address of a Dask scheduler whose
            workers see the same paths; None for this process alone.
        workers: How many local processes; default one per core.
    """

    scheduler: str | None = None
    workers: int | None = None

    def __post_init__(self) -> None:
        if self.workers is not None and self.scheduler != "local":
            raise InputError("--workers goes with --scheduler local; a cluster has its own number")


THIS_PROCESS = Processes()


@contextmanager
def open_cluster(scheduler: str, workers: int | None = None) -> Iterator["Cluster"]:
    """Open a cluster, and close it at the end.

    Args:
        scheduler: "local" for processes of this machine, or the address of a Dask scheduler.
        workers: How many local processes; default one per core.

    Yields:
        The cluster, which has at least one worker.

    Raises:
        InputError: Dask is not installed, or no scheduler answers at the address.
    """
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise InputError("Dask is not installed: pip install 'clouddl[cluster]'") from error
    for name in ("distributed", "tornado", "asyncio"):  # our own message says it in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        try:
            address = scheduler
            if scheduler == "local":
                local = LocalCluster(
                    n_workers=workers or os.cpu_count(),
                    threads_per_worker=1,
                    dashboard_address="127.0.0.1:0",
                    silence_logs=logging.CRITICAL,
                )
                address = stack.enter_context(local).scheduler_address
            client = Client(address, timeout=ANSWER_TIME, set_as_default=False)
            stack.callback(client.close, timeout=ANSWER_TIME)
            stack.enter_context(client.as_current())
            client.wait_for_workers(1, timeout=JOIN_TIME)
        except (OSError, ValueError, TimeoutError) as error:
            raise InputError(
                f"scheduler {scheduler}: no scheduler with workers answers; start them "
                "(dask scheduler, dask worker) or correct the address"
            ) from error
        yield Cluster(client, address)


@dataclass(frozen=True)
class Cluster:
    """An open cluster; see `open_cluster`."""

    client: Any
    address: str

    def threads(self) -> int:
        """Count the tasks that can run at the same time."""
        return sum(self.client.nthreads().values())

    def spread(self, work: Callable[[Any], Any], waiting: deque[Any]) -> Iterator[tuple[Any, Any]]:
        """Run `work` on each task, in any order.

        No more tasks are handed out than there are threads. Dask gives a task that was lost with
        its worker to another worker, but after some deaths it suspects the task, and whatever else
        waited at the same workers. Suspects are tried once more at the end, alone: if the worker
        dies again, the task was the cause, and its answer is `Died`.

        Args:
            work: A function of a module, which the workers can import.
            waiting: The tasks; some may be added or removed while others run.

        Yields:
            A task and its answer, or the exception it raised.

        Raises:
            Lost: The scheduler does not answer any more, or all its workers are gone.
        """
        from distributed import CancelledError, KilledWorker, wait

        suspects: list[Any] = []
        running: dict[Any, Any] = {}  # by future
        while waiting or running:
            fate = "was lost; start it again"
            try:
                threads = self.threads()
                if not threads:
                    fate = "has no workers any more; start some"
                    self.client.wait_for_workers(1, timeout=JOIN_TIME)
                    continue
                while waiting and len(running) < (1 if waiting[0] in suspects else threads):
                    task = waiting.popleft()
                    running[self.client.submit(_run_alone, work, task, pure=False)] = task
                with suppress(TimeoutError):  # see whether the workers are still there
                    wait(list(running), timeout=JOIN_TIME, return_when="FIRST_COMPLETED")
                answers = {f: f.exception() or f.result() for f in running if f.done()}
            except (OSError, RuntimeError, CancelledError) as error:
                raise Lost(f"the scheduler {self.address} {fate}") from error
            for future, answer in answers.items():
                task = running.pop(future)
                if not isinstance(answer, KilledWorker):
                    yield task, answer
                elif task in suspects:
                    yield task, Died("every worker that took it died, for want of memory perhaps")
                else:
                    suspects.append(task)
                    waiting.append(task)


def _run_alone(work: Callable[[Any], Any], task: Any) -> Any:
    """Run a task in a worker with one thread of PyTorch, as there is a worker for each core."""
    torch.set_num_threads(1)
    return work(task)
