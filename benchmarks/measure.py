"""Fair timing: each contender in a process of its own, all of them in turn, medians of several."""

import multiprocessing
import resource
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

Build = Callable[..., Callable[[], Any]]  # prepares, and returns what is timed
SLOW, FEW = 5.0, 3  # who takes more seconds than this a turn gets no more turns than these


def peak_mib(process: int | str = "self") -> float:
    """Most memory a process ever held, in MiB; 0 of one that has ended.

    Linux gives a child the peak of its parent in `getrusage`; /proc has its own.
    """
    status = Path(f"/proc/{process}/status")
    if status.exists():
        lines = [one for one in status.read_text().splitlines() if one.startswith("VmHWM")]
        return int(lines[0].split()[1]) / 1024 if lines else 0.0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _serve(pipe: Any, build: Build, arguments: dict[str, Any]) -> None:
    """A contender's process: prepares once, then runs at each request and says how long it took."""
    try:
        run = build(**arguments)
        run()  # the first run compiles, loads and fills caches
        pipe.send(None)
        while pipe.recv():
            start = time.perf_counter()
            run()
            pipe.send((time.perf_counter() - start, peak_mib()))
    except ImportError as error:
        pipe.send(f"not installed ({error.name})")
    except Exception as error:  # one that fails must not end the others' race
        pipe.send(f"{type(error).__name__}: {error}")


def race(
    contenders: Mapping[str, tuple[Build, dict[str, Any]]], rounds: int
) -> tuple[dict[str, dict[str, float]], dict[str, str]]:
    """Time each contender once a round, one after the other, so that all meet the same machine.

    Those that are SLOW are left out after a FEW rounds: their median is known by then.
    Returns for each `seconds` (median), `fastest`, `slowest` and `peak_mib` (of its process, with
    Python and all libraries), and for those left out the reason.
    """
    context = multiprocessing.get_context("spawn")
    running, left_out = {}, {}
    for name, (build, arguments) in contenders.items():
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, build, arguments), daemon=True)
        process.start()
        theirs.close()
        try:
            reason = ours.recv()
        except EOFError:
            reason = f"its process ended ({process.exitcode})"
        if reason:
            left_out[name] = reason
            process.join()
        else:
            running[name] = (process, ours)
        print(f"  {name}: {reason or 'ready'}", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in running}
    peaks: dict[str, float] = {}
    for turn in range(rounds):
        for name, (_, pipe) in running.items():
            if len(seconds[name]) >= FEW and statistics.median(seconds[name]) > SLOW:
                continue
            pipe.send(True)
            took, peaks[name] = pipe.recv()
            seconds[name].append(took)
            print(f"  {turn + 1}/{rounds} {name}: {took:.2f} s", flush=True)
    for process, pipe in running.values():
        pipe.send(False)
        process.join()
    return {
        name: {"seconds": statistics.median(each), "fastest": min(each), "slowest": max(each),
               "peak_mib": peaks[name]}
        for name, each in seconds.items()
    }, left_out  # fmt: skip


def watched(command: Sequence[str]) -> tuple[float, float]:
    """Seconds of a command from its start to its end, and the peak of its memory in MiB."""
    peak = 0.0
    start = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, peak_mib(process.pid))
            time.sleep(0.01)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - start, peak


def best(run: Callable[[], Any], rounds: int) -> float:
    """Seconds of the fastest of some runs, after one that is not counted: for limits."""
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return min(times[1:])
