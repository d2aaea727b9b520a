"""Many scenes: each good one predicted once, each bad one named; a rerun does what is missing.

The results say themselves what they were made from, so there is no state that could be lost or
disagree with them. Scenes are predicted one after another, or by the workers of a dask.distributed
cluster, where a large scene may be cut into parts of its tiles.
"""

import hashlib
import os
import time
import warnings
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from rasterio.errors import RasterioError
from rasterio.windows import Window
from tqdm import tqdm

from clouddl.errors import InputError, WriteError, warn
from clouddl.files import WORK, clear_work, is_local, split_member, write_rows
from clouddl.model import shared_model, shipped_models
from clouddl.predict import (
    DEFAULT,
    Options,
    check_results,
    make_plan,
    make_results_folder,
    part_count,
    predict_part,
    predict_plan,
    results_of,
)
from clouddl.products.raster import files_of, open_raster
from clouddl.products.reading import AS_STORED, Reading
from clouddl.products.stac import date_of, is_item, write_item
from clouddl.scale.cluster import THIS_PROCESS, Died, Lost, Processes, open_cluster
from clouddl.sensors import Sensor, get_sensor

LOCK, REPORT = ".clouddl.lock", "report.csv"
METADATA = (".xml", ".txt", ".json", ".geojson")  # of products, which name files of bands


@dataclass
class Outcome:
    """What happened to a scene.

    Attributes:
        scene: As the caller named it.
        status: "left" if its results were there, made from this image with these options.
        seconds: Time of all processes that worked on it.
        error: Why it failed.
        messages: Warnings.
        fatal: Whether the next scene would fail for the same reason.
    """

    scene: str
    status: Literal["done", "left", "failed", "not run"] = "not run"
    seconds: float = 0.0
    error: str = ""
    messages: list[str] = field(default_factory=list)
    fatal: bool = False


@dataclass(frozen=True)
class _Job:
    """A scene to predict, for any process that has the package and sees the files."""

    scene: str
    path: str
    sensor: Sensor | None
    out: str
    model: str | None
    reading: Reading
    options: Options
    stac: bool  # write an item beside the mask
    made_from: str  # hash of what the results depend on
    progress: bool
    parts: str | None = None  # folder for the parts of a scene that is cut
    part: tuple[int, int] | None = None  # (i, n) for part i of n; None to join them


def predict_batch(
    scenes: Sequence[Path | str],
    sensor: Sensor | str | None,
    out: Path | str,
    *,
    model: str | None = None,
    reading: Reading = AS_STORED,
    options: Options = DEFAULT,
    processes: Processes = THIS_PROCESS,
    stac: bool = False,
) -> list[Outcome]:
    """Predict each scene whose results are not there yet, as `predict_file` does.

    A scene that fails does not stop the others. With several scenes, `report.csv` in `out` says
    what happened to each, also when the run is interrupted.

    Args:
        scenes: Paths or addresses of images.
        sensor: Name of a sensor or path of a card; None for products and STAC items.
        out: Folder of the results.
        model: Name or path of a model card; default the shipped model that fits the bands.
        reading: How the numbers of the images are read.
        options: How to predict.
        processes: Where to predict.
        stac: Write a STAC item beside each mask; always done if the image is an item.

    Returns:
        The outcome of each scene.

    Raises:
        InputError: The sensor or the model is unknown, a result would overwrite another or an
            input, another run writes to the folder; or the disk is full or the cluster lost: then
            the same call continues.
    """
    scenes = [scenes] if isinstance(scenes, Path | str) else list(scenes)
    if not all(isinstance(scene, Path | str) and str(scene).strip() for scene in scenes):
        raise InputError(
            "scenes: one has no name, or is none; give paths or addresses (an array goes to "
            "predict_array or predict_file; of a command check its variables)"
        )
    names = list(dict.fromkeys(str(scene) for scene in scenes))
    if not isinstance(sensor, Sensor | None):
        sensor = get_sensor(sensor)
    if not isinstance(model, str | Path | None):
        raise InputError(
            f"model: {type(model).__name__} cannot be sent to other processes; save it "
            "(save_model) and give the path of its card"
        )
    cards = shipped_models()
    if model:
        if str(model) not in [card.name for card in cards]:
            model = os.path.abspath(model)
        cards = [shared_model(model).card]
    settings = repr((version("clouddl"), sensor, cards, reading, options))
    _check_names(names, out)
    jobs = []
    for name in names:
        path = os.path.abspath(name) if is_local(name) else name
        job = _Job(
            scene=name,
            path=path,
            sensor=sensor,
            out=os.path.abspath(out),
            model=model,
            reading=reading,
            options=options,
            stac=stac or is_item(name),
            made_from=_made_from(path, settings),
            progress=len(names) == 1 and not processes.scheduler,
        )
        jobs.append(job)
    todo = [job for job in jobs if not _is_done(job)]
    outcomes = {name: Outcome(scene=name, status="left") for name in names}
    outcomes |= {job.scene: Outcome(scene=job.scene) for job in todo}
    if todo:
        with _folder_for_one_run(Path(out)):
            try:
                _predict_all(todo, outcomes, processes)
            finally:
                if len(jobs) > 1:
                    _write_report(Path(out, REPORT), list(outcomes.values()))
    return list(outcomes.values())


def _check_names(scenes: Sequence[str], out: Path | str) -> None:
    """Raise InputError if a result would overwrite another one or an input."""
    taken = {os.path.abspath(split_member(scene)[0]) for scene in scenes}
    for scene in scenes:
        mask, probability = results_of(scene, out)
        for path in map(os.path.abspath, (mask, probability, mask.with_suffix(".json"))):
            if path in taken:
                raise InputError(
                    f"{scene}: {path} is an input, or the result of another input of the same "
                    "name; rename one, or give another folder"
                )
            taken.add(path)


def _made_from(path: str, settings: str) -> str:
    """Hash of what the results of a scene depend on; its files count by size and time.

    Empty if a file is missing: then there are no results to be left as they are.
    """
    try:
        files = _files_of(path) if is_local(path) else []
        states = [(str(item), item.stat().st_size, item.stat().st_mtime_ns) for item in files]
    except OSError:
        return ""
    return hashlib.sha256(repr((path, states, settings)).encode()).hexdigest()


def _files_of(path: str) -> list[Path]:
    """The files that a scene is read from: also a card, a mask, or what a VRT or metadata name."""
    file = Path(split_member(path)[0])
    if file.is_dir():
        return sorted(file.rglob("*"))
    if not file.is_file():  # a pipe would never end
        return [file]
    others = [str(file.with_suffix(".yaml"))]
    with warnings.catch_warnings(), suppress(InputError, RasterioError, UnicodeEncodeError):
        warnings.simplefilter("ignore")
        if file.suffix.lower() in METADATA:
            from clouddl.products.readers import find_product  # late: it brings all readers

            for layer in find_product(file).layers.values():
                others += [tile for row in layer.tiles for tile in row]
        else:
            with open_raster(file) as opened:
                others += files_of(opened)
    return [file, *sorted({Path(other) for other in others if os.path.isfile(other)} - {file})]


def _is_done(job: _Job) -> bool:
    """Whether the results of a scene are there, and made from what the job says."""
    mask, probability = results_of(job.path, job.out)
    if job.stac and not mask.with_suffix(".json").exists():
        return False
    for result in (mask, probability):
        try:
            with open_raster(result) as file:
                made_from = file.tags().get("made_from")
                file.read(1, window=Window(file.width - 1, file.height - 1, 1, 1))  # not cut short
        except (RasterioError, UnicodeEncodeError):  # of a name that is not UTF-8
            return False
        if not job.made_from or made_from != job.made_from:
            return False
    return True


def _predict_all(jobs: Sequence[_Job], outcomes: dict[str, Outcome], processes: Processes) -> None:
    """Predict the scenes and note their outcomes as they come."""
    results: Iterable[Outcome] = map(_predict, jobs)
    if processes.scheduler:
        results = _predict_on_cluster(jobs, processes)
    for outcome in tqdm(results, "scenes", len(jobs), unit="scene", disable=jobs[0].progress):
        if outcome.fatal:
            done = sum(other.status in ("done", "left") for other in outcomes.values())
            raise InputError(
                f"{outcome.error}; {done} of {len(outcomes)} scenes are done; the same command "
                "does the others"
            )
        outcomes[outcome.scene] = outcome
        for message in outcome.messages:
            warn(message)


def _predict(job: _Job) -> Outcome:
    """Predict a scene or a part of it, here or in a worker; no exception leaves this function."""
    start = time.monotonic()
    outcome = Outcome(scene=job.scene, status="done")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        try:
            _write_results(job)
        except InputError as error:
            outcome.error = " ".join(str(error).replace(job.path, job.scene).split())
            outcome.fatal = isinstance(error, WriteError)
        except Exception as bug:  # one scene must not end the run for the others
            outcome.error = f"{job.scene}: {type(bug).__name__}: {bug}; this is a bug: report it"
    if outcome.error:
        outcome.status = "failed"
    outcome.messages = [str(one.message).replace(job.path, job.scene) for one in caught]
    outcome.seconds = round(time.monotonic() - start, 2)
    return outcome


def _write_results(job: _Job) -> None:
    """Do the work of a job."""
    check_results(results_of(job.path, job.out), job.path)  # before hours of work
    if job.stac and not is_item(job.path):
        date_of(job.path)  # an item needs a date: fail before hours of work
    plan = make_plan(job.path, job.sensor, job.model, job.reading, job.options)
    if job.parts and job.part:
        predict_part(plan, job.parts, job.part)
        return
    written = predict_plan(plan, job.out, job.progress, {"made_from": job.made_from}, job.parts)
    if job.stac:
        write_item(job.path, *written)


def _predict_on_cluster(jobs: Sequence[_Job], processes: Processes) -> Iterator[Outcome]:
    """Predict scenes on a cluster, and yield their outcomes as they come.

    If there are fewer scenes than threads, large ones are cut into parts; the worker that ends the
    last part is followed by one that joins them. The first part that fails fails its scene.
    """
    with open_cluster(str(processes.scheduler), processes.workers) as cluster:
        parts = {job.scene: _cut(job, cluster.threads() // len(jobs)) for job in jobs}
        waiting = deque(part for cut in parts.values() for part in cut)
        parts_left = {scene: len(cut) for scene, cut in parts.items()}
        seconds = dict.fromkeys(parts, 0.0)
        try:
            for job, answer in cluster.spread(_predict, waiting):
                scene = job.scene
                if scene not in parts_left:  # another part of it has failed
                    continue
                outcome = _outcome_of(scene, answer)
                seconds[scene] += outcome.seconds
                outcome.seconds = round(seconds[scene], 2)
                parts_left[scene] -= 1
                if job.part and outcome.status == "done":
                    if not parts_left[scene]:
                        waiting.append(replace(job, part=None))
                    continue
                del parts_left[scene]
                for other in [other for other in waiting if other.scene == scene]:
                    waiting.remove(other)
                yield outcome
        except Lost as error:
            yield Outcome(scene="", error=str(error), fatal=True)


def _cut(job: _Job, most: int) -> list[_Job]:
    """Cut the job into at most so many parts of its scene; one part is the job itself."""
    count = part_count(job.path, most) if job.sensor and most > 1 else 1
    if count == 1:
        return [job]
    mask, _ = results_of(job.path, job.out)
    folder = str(Path(job.out, f"{WORK}{mask.stem}"))
    return [replace(job, parts=folder, part=(number, count)) for number in range(count)]


def _outcome_of(scene: str, answer: Outcome | Exception) -> Outcome:
    """The outcome in the answer of a worker, or the failure of a worker that gave none."""
    if isinstance(answer, Died):
        error = f"{scene}: {answer}: lower --tile"
    elif isinstance(answer, Exception):
        error = f"{scene}: no worker can do it ({answer}); have they this version of clouddl?"
    else:
        return answer
    return Outcome(scene=scene, status="failed", error=error)


@contextmanager
def _folder_for_one_run(out: Path) -> Iterator[None]:
    """Keep other runs out of the folder of results, and clear what a killed run left in it."""
    new = not out.exists()
    make_results_folder(out)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(
            f"{out}: another run writes here; wait for it, or give another --out (it holds "
            f"{out / LOCK})"
        ) from error
    except OSError as error:
        raise InputError(f"{out}: cannot be written to ({error.strerror})") from error
    try:
        clear_work(out)
        yield
    finally:
        clear_work(out)
        (out / LOCK).unlink(missing_ok=True)  # while it is held: the next run makes its own
        lock.release()
        if new:
            with suppress(OSError):  # not empty: there are results
                out.rmdir()


def _write_report(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write the outcome of each scene, if any was tried."""
    if not any(outcome.status in ("done", "failed") for outcome in outcomes):
        return
    columns = ["scene", "status", "seconds", "error"]
    try:
        write_rows(path, columns, map(vars, outcomes))
    except OSError as error:  # the masks are there, or the run has a worse error to report
        warn(f"{path}: not written ({error.strerror})")
