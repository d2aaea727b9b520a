"""Many scenes: each good one predicted once, each bad one named, and a rerun does what is missing.

The results say themselves what they were made from, so there is no state that could be lost or
disagree with them. The scenes are predicted one after another, or by the workers of a
dask.distributed cluster, of large scenes each worker some tiles. Of each only plain data travels:
names and options there, a record back.
"""

import csv
import hashlib
import json
import os
import shutil
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import rasterio
from filelock import FileLock, Timeout
from pydantic import BaseModel
from rasterio.errors import RasterioError
from tqdm import tqdm

from clouddl.errors import InputError, WriteError
from clouddl.model import load_model, shipped_models
from clouddl.predict import predict_file, predict_share, results_folder, results_of, shares
from clouddl.products.stac import date_of, is_address, is_item, item_of, write_item
from clouddl.scale.cluster import Died, Lost, open_cluster
from clouddl.sensors import get_sensor, sensors

LOCK, REPORT, PARTS = ".clouddl.lock", "report.csv", ".clouddl-*"


class Outcome(BaseModel):
    """What became of a scene; `left`: its results were there, of this image and these options."""

    scene: str
    status: Literal["done", "left", "failed", "not run"] = "not run"
    seconds: float = 0.0
    error: str = ""
    warned: list[str] = []
    stops: bool = False  # the run: the next scene would fail alike


class _Job(BaseModel):
    """A scene to predict, as any process that has the package and sees the files can do it."""

    scene: str
    path: str
    sensor: str | None
    out: str
    model: str | None
    stac: bool  # an item beside the mask
    key: str  # hash of what the results are made from
    progress: bool
    options: dict[str, Any]
    share: tuple[int, int] | None = None  # of its tiles, (i, n); None for all, or all that is left
    parts: str | None = None  # where shares leave what they found


def predict_batch(
    scenes: Sequence[Path | str], sensor: str | None, out: Path | str, *,
    model: str | None = None, scheduler: str | None = None, workers: int | None = None,
    stac: bool = False, **options: Any,
) -> list[Outcome]:  # fmt: skip
    """`predict_file` for each scene, as far as its results are not there; what became of each.

    `sensor` and `model`: names or paths. `scheduler`: "local" for `workers` processes (default: one
    per core) of this machine, or the address of a Dask scheduler whose workers see the same paths;
    None for this process. `stac` writes an item beside each mask, as is always done for an item.
    `options` are those of `predict_file`. A scene that fails is an Outcome and does not stop the
    others. With several scenes, `report.csv` in `out` says what became of each, also when the run
    is interrupted. InputError: a sensor, model or scheduler that does not serve, results that would
    fall on another or on an input, a folder another run writes to, a disk that is full, a cluster
    that is lost; after the last two the same call goes on.
    """
    if workers is not None and scheduler != "local":
        raise InputError("--workers goes with --scheduler local; a cluster has its own number")
    card = get_sensor(sensor) if sensor else None
    cards = [load_model(model).card] if model else shipped_models()
    made_by = [version("clouddl"), repr(card), options]
    settings = json.dumps([*made_by, *(c.model_dump_json() for c in cards)], sort_keys=True)
    taken = {os.path.abspath(str(scene).partition("#")[0]) for scene in scenes}
    for scene in scenes:
        for result in map(os.path.abspath, [*results_of(scene, out), item_of(scene, out)]):
            if result in taken:
                told = "is an input, or the result of another input of the same name"
                raise InputError(f"{scene}: {result} {told}; rename one, or give another folder")
            taken.add(result)
    jobs = []
    for scene in map(str, scenes):
        path = scene if is_address(scene) else os.path.abspath(scene)
        job = _Job(
            scene=scene, path=path, sensor=_place(sensor), out=os.path.abspath(out),
            model=_place(model), stac=stac or is_item(scene), key=_key(path, settings),
            progress=len(scenes) == 1 and scheduler is None, options=options,
        )  # fmt: skip
        jobs.append(job)
    found = {job.scene: _standing(job) for job in jobs}
    todo = [job for job in jobs if found[job.scene].status != "left"]
    if not todo:
        return list(found.values())
    with _writing(Path(out)), ExitStack() as at_end:
        if len(jobs) > 1:
            at_end.callback(_report, Path(out, REPORT), found)
        runs = _spread(todo, scheduler, workers) if scheduler else map(_predict_one, todo)
        bar = tqdm(runs, "scenes", len(todo), unit="scene", disable=todo[0].progress)
        for outcome in bar:
            if outcome.stops:
                left = sum(each.status in ("done", "left") for each in found.values())
                told = f"{left} of {len(jobs)} scenes are done; the same command does the others"
                raise InputError(f"{outcome.error}; {told}")
            found[outcome.scene] = outcome
            for said in outcome.warned:
                warnings.warn(said, stacklevel=2)
    return list(found.values())


def _place(name: str | None) -> str | None:
    """A path that holds in another process's folder too; the name of what ships stays a name."""
    known = {*sensors(), *(card.name for card in shipped_models())}
    return name if name is None or name in known else os.path.abspath(name)


def _key(path: str, settings: str) -> str:
    """Hash of what the results of a scene are made from; its files count by size and time."""
    file = Path(path.partition("#")[0])
    files = [] if is_address(path) else sorted(file.rglob("*")) if file.is_dir() else [file]
    with suppress(OSError):  # one that is not there has no results to be left
        states = [(str(each), (s := each.stat()).st_size, s.st_mtime_ns) for each in files]
        return hashlib.sha256(json.dumps([path, states, settings]).encode()).hexdigest()
    return ""


def _standing(job: _Job) -> Outcome:
    """What was found of a scene before the run: its results, or nothing yet."""
    if job.stac and not item_of(job.path, job.out).exists():
        return Outcome(scene=job.scene)
    try:
        for result in results_of(job.path, job.out):
            with rasterio.open(result) as file:
                if not job.key or file.tags().get("made_from") != job.key:
                    return Outcome(scene=job.scene)
    except RasterioError:
        return Outcome(scene=job.scene)
    return Outcome(scene=job.scene, status="left")


def _predict_one(job: _Job) -> Outcome:
    """Predict a scene, here or in a worker; whatever goes wrong with it is in the outcome."""
    start, stops, error = time.monotonic(), False, ""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            if job.stac and not is_item(job.path):
                date_of(job.path)  # before hours of work
            sensor = get_sensor(job.sensor) if job.sensor else None
            how = {"model": load_model(job.model) if job.model else None, **job.options}
            if job.share and job.parts:
                predict_share(job.path, sensor, job.parts, job.share, **how)
            else:
                tags = {"made_from": job.key}
                written = predict_file(job.path, sensor, job.out, progress=job.progress, tags=tags,
                                       parts=job.parts, **how)  # fmt: skip
                if job.stac:
                    write_item(job.path, *written)
        except InputError as told:
            error, stops = str(told).replace(job.path, job.scene), isinstance(told, WriteError)
        except Exception as bug:  # one scene must not end the run for the others
            error = f"{job.scene}: {type(bug).__name__}: {bug}; this should not be: report it"
    said = [str(w.message).replace(job.path, job.scene) for w in caught]
    return Outcome(
        scene=job.scene, status="failed" if error else "done", error=" ".join(error.split()),
        seconds=round(time.monotonic() - start, 2), warned=said, stops=stops,
    )  # fmt: skip


def _remote(fields: dict[str, Any]) -> dict[str, Any]:
    """`_predict_one` in a worker: plain data in, plain data out."""
    return _predict_one(_Job.model_validate(fields)).model_dump()


def _spread(jobs: Sequence[_Job], scheduler: str, workers: int | None) -> Iterator[Outcome]:
    """Predict the scenes on a cluster; yields outcomes as they come.

    Fewer large scenes than threads are cut into shares of their tiles; who takes the last step
    puts them together. What becomes of the first share that fails becomes of the scene.
    """
    with open_cluster(scheduler, workers) as cluster:
        cut = {job.scene: _shares(job, cluster.threads() // len(jobs)) for job in jobs}
        waiting = deque(each.model_dump() for job in jobs for each in cut[job.scene] or [job])
        left = {scene: len(shares) for scene, shares in cut.items()}
        seconds, over = dict.fromkeys(cut, 0.0), set[str]()
        try:
            for fields, answer in cluster.spread(_remote, waiting):
                job, scene = _Job.model_validate(fields), fields["scene"]
                if scene in over:
                    continue
                outcome = _told(scene, answer)
                seconds[scene] += outcome.seconds
                if job.share and outcome.status == "done":
                    left[scene] -= 1
                    if not left[scene]:
                        waiting.append(job.model_copy(update={"share": None}).model_dump())
                    continue
                over.add(scene)
                for other in [each for each in waiting if each["scene"] == scene]:
                    waiting.remove(other)
                yield outcome.model_copy(update={"seconds": round(seconds[scene], 2)})
        except Lost as error:
            yield Outcome(scene="", error=str(error), stops=True)


def _shares(job: _Job, most: int) -> list[_Job]:
    """The job cut into shares of its scene's tiles; none if it is better left whole."""
    count = shares(job.path, most) if job.sensor and most > 1 else 1
    parts = Path(job.out, f".clouddl-{results_of(job.path, job.out)[0].stem}")  # see PARTS
    cut = [{"share": (number, count), "parts": str(parts)} for number in range(count)]
    return [job.model_copy(update=each) for each in cut] if count > 1 else []


def _told(scene: str, answer: Any) -> Outcome:
    """What a worker says of a scene, or what is to be said of a worker that says nothing."""
    if not isinstance(answer, Exception):
        return Outcome.model_validate(answer)
    told = f"cannot be done by a worker ({answer}); has it this version of clouddl?"
    if isinstance(answer, Died):
        told = f"{answer}: lower --tile"
    return Outcome(scene=scene, status="failed", error=f"{scene}: {told}")


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Hold the folder of results for this run alone, and clear what a killed one left behind."""
    new = not out.exists()
    results_folder(out)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        told = "another run writes here; wait for it, or give another --out"
        raise InputError(f"{out}: {told} (it holds {out / LOCK})") from error
    except OSError as error:
        raise InputError(f"{out}: cannot be written to ({error.strerror})") from error
    try:
        _sweep(out)
        yield
    finally:
        _sweep(out)
        (out / LOCK).unlink(missing_ok=True)  # while it is held: the next run makes its own
        lock.release()
        if new:
            with suppress(OSError):  # not empty: there are results
                out.rmdir()


def _sweep(out: Path) -> None:
    for part in out.glob(PARTS):
        shutil.rmtree(part, ignore_errors=True)


def _report(path: Path, found: dict[str, Outcome]) -> None:
    """Write what became of each scene, whole or not at all; nothing before a scene was tried."""
    if not any(each.status in ("done", "failed") for each in found.values()):
        return
    part = path.with_name(f".{path.name}.{os.getpid()}")
    columns = ["scene", "status", "seconds", "error"]
    try:
        with part.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(each.model_dump(include=set(columns)) for each in found.values())
        part.replace(path)
    except OSError as error:  # the run has a worse error to tell, or the masks are there
        warnings.warn(f"{path}: not written ({error.strerror})", stacklevel=2)
        part.unlink(missing_ok=True)
