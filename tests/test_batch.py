"""Many scenes: what is done, left, named and resumed, whatever dies in between."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pandas as pd
import pytest
import rasterio
import torch
from distributed import LocalCluster
from filelock import FileLock
from rasterio.transform import from_origin

from clouddl import model, predict
from clouddl.errors import InputError
from clouddl.files import working_folder
from clouddl.model import CloudModel, load_model, save_model
from clouddl.network import ModelCard, build
from clouddl.predict import Options
from clouddl.scale import batch, cluster
from clouddl.scale.batch import LOCK, REPORT, predict_batch
from clouddl.scale.cluster import THIS_PROCESS, Processes
from clouddl.sensors import get_sensor

STATUS = ["done", "done", "failed", "done"]
genuine = batch._predict


def write(path: Path, seed: int = 0, size: int = 40) -> Path:
    values = np.random.default_rng(seed).uniform(0.01, 0.6, (4, size, size)).astype(np.float32)
    profile = {"count": 4, "height": size, "width": size, "dtype": "float32", "crs": "EPSG:32631"}
    place = from_origin(500_000, 4_600_000, 30, 30)
    with rasterio.open(path, "w", driver="GTiff", transform=place, **profile) as file:
        file.write(values)
    return path


@pytest.fixture
def place(tmp_path: Path, tiny: Callable[..., ModelCard], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a model and four scenes: one is cut short, one has an accent."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    card = tiny()
    save_model(CloudModel(card, build(card), "cpu"), tmp_path / "tiny")
    for seed, name in enumerate(SCENES):
        write(tmp_path / name, seed)
    data = (tmp_path / "c.tif").read_bytes()
    (tmp_path / "c.tif").write_bytes(data[: len(data) // 2])
    return tmp_path


SCENES = ["a.tif", "b é.tif", "c.tif", "d.tif"]


def run(
    scenes: list[str] = SCENES, out: str = "out", processes: Processes = THIS_PROCESS, **given: Any
) -> list[str]:
    options = Options(**given)
    outcomes = predict_batch(
        scenes, "spot-5", out, model="tiny.json", options=options, processes=processes
    )
    return [outcome.status for outcome in outcomes]


def whole(out: Path, names: list[str]) -> bool:
    """Every result of these scenes is there, can be read to its end, and nothing else is there."""
    expected = {f"{Path(n).stem}_{kind}.tif" for n in names for kind in ("cloud", "probability")}
    for name in expected:
        with rasterio.open(out / name) as file:
            file.read()
    return {path.name for path in out.iterdir()} - {REPORT} == expected


def test_each_good_scene_once_and_each_bad_one_named(place: Path) -> None:
    assert run() == STATUS
    assert whole(place / "out", ["a.tif", "b é.tif", "d.tif"])
    report = pd.read_csv(place / "out" / REPORT, keep_default_na=False)
    assert list(report) == ["scene", "status", "seconds", "error"]
    assert (report.scene.tolist(), report.status.tolist()) == (SCENES, STATUS)
    assert report.error[2].startswith("c.tif: ") and set(report.error.drop(2)) == {""}


def test_several_scenes_share_one_network(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[ModelCard] = []
    monkeypatch.setattr(model, "build", lambda card: built.append(card) or build(card))
    assert run() == STATUS
    assert len(built) == 1
    assert run(threshold=0.3) == STATUS  # one card stands for one network, also in the next run
    assert len(built) == 1


def test_a_card_that_has_changed_is_read_anew(place: Path) -> None:
    run()
    card = model.read_card("tiny.json").model_copy(update={"threshold": 0.9})
    (place / "tiny.json").write_text(card.model_dump_json())
    run()
    with rasterio.open(place / "out" / "a_cloud.tif") as file:
        assert file.tags()["threshold"] == "0.9"


def test_names_stay_names_whatever_lies_around(place: Path) -> None:
    (place / "spot-5").mkdir()
    (place / "spot").mkdir()
    (found,) = predict_batch(["a.tif"], "spot-5", "out", model="spot")
    assert (found.status, found.error) == ("done", "")


def test_a_sensor_may_be_a_card_without_a_file(place: Path) -> None:
    card = get_sensor("spot-5").model_copy(update={"id": "mine"})
    outcomes = predict_batch(
        ["a.tif", "d.tif"], card, "out", model="tiny.json", processes=Processes("local", 1)
    )
    assert [outcome.status for outcome in outcomes] == ["done", "done"]


def test_a_rerun_does_what_is_missing_or_has_changed(place: Path) -> None:
    run()
    before = (place / "out" / "a_cloud.tif").stat().st_mtime_ns
    assert run() == ["left", "left", "failed", "left"]
    assert (place / "out" / "a_cloud.tif").stat().st_mtime_ns == before
    (place / "out" / "a_probability.tif").unlink()
    write(place / "b é.tif", 7)
    write(place / "c.tif", 2)
    assert run() == ["done", "done", "done", "left"]
    assert run(threshold=0.3) == ["done"] * 4
    assert run(threshold=0.3) == ["left"] * 4
    card = place / "tiny.json"
    card.write_text(card.read_text().replace('"version": "', '"version": "other '))
    assert run(threshold=0.3) == ["done"] * 4  # another model


def test_a_result_never_falls_on_another_or_on_an_input(place: Path) -> None:
    (place / "b").mkdir()
    write(place / "b" / "a.tif")
    with pytest.raises(InputError, match=r"b/a\.tif: .*a_cloud\.tif is an input, or the result"):
        run(["d.tif", "a.tif", "b/a.tif"])
    write(place / "a_cloud.tif")
    with pytest.raises(InputError, match="another folder"):
        run(["a.tif", "a_cloud.tif"], out=".")
    assert not (place / "out").exists()


def test_two_runs_do_not_write_into_one_folder(place: Path) -> None:
    (place / "out").mkdir()
    with (
        FileLock(place / "out" / LOCK),
        pytest.raises(InputError, match="out: another run writes here; wait for it"),
    ):
        run()
    assert run() == STATUS


def test_an_interrupted_run_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(path: str, *arguments: Any) -> predict.Plan:
        if path.endswith("d.tif"):
            raise KeyboardInterrupt
        return predict.make_plan(path, *arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(batch, "make_plan", stop)
        run()
    report = pd.read_csv(place / "out" / REPORT)
    assert report.status.tolist() == ["done", "done", "failed", "not run"]
    left_behind = place / "out" / ".clouddl-killed"  # what SIGKILL leaves
    left_behind.mkdir()
    with working_folder(place / "out") as at_work:  # of a `predict_file` beside this run
        assert run() == ["left", "left", "failed", "done"]
        assert at_work.is_dir() and not left_behind.exists()
    assert whole(place / "out", ["a.tif", "b é.tif", "d.tif"])


def test_a_full_disk_stops_the_run_before_it_fills(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room = iter([1 << 30, 1 << 30, 1 << 30, 100, 100])
    monkeypatch.setattr(predict.shutil, "disk_usage", lambda _: type("", (), {"free": next(room)}))
    with pytest.raises(InputError, match=r"out: the disk is full.*; 2 of 4 scenes are done; the"):
        run()
    assert whole(place / "out", ["a.tif", "b é.tif"])
    monkeypatch.undo()
    os.chdir(place)
    assert run() == ["left", "left", "failed", "done"]


def test_a_disk_that_fills_while_it_is_written_to(place: Path) -> None:
    """A limit on the size of files, which GDAL meets as it would meet a quota."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))

    write(place / "large.tif", size=200)
    line = "predict a.tif large.tif --sensor spot-5 --model tiny.json --out out"
    found = subprocess.run(
        [sys.executable, "-m", "clouddl.cli", *line.split()], capture_output=True, text=True,
        check=False, preexec_fn=limit,
    )  # fmt: skip
    told = [text for text in found.stderr.splitlines() if text.startswith("clouddl: ")]
    assert found.returncode == 2 and len(told) == 1 and "Traceback" not in found.stderr
    assert "a result could not be written" in told[0] and "0 of 2 scenes are done" in told[0]
    assert not (place / "out").exists()


def deadly(job: Any) -> batch.Outcome:
    """Kills the worker: once with d.tif, and each time with poison.tif."""
    mark = Path(job.path).with_suffix(".tried")
    if "poison" in job.scene or ("d.tif" in job.scene and not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return genuine(job)


def test_workers_may_die(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place / "poison.tif")
    monkeypatch.setattr(batch, "_predict", deadly)
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        found = run([*SCENES, "poison.tif"], processes=Processes("local", 2))
    assert found == [*STATUS, "failed"]
    assert (place / "d.tried").exists()
    assert whole(place / "out", ["a.tif", "b é.tif", "d.tif"])
    report = pd.read_csv(place / "out" / REPORT)
    assert report.error[4].startswith("poison.tif: every worker that took it died")
    here = place / "here"
    assert run(out="here") == STATUS
    for name in ("a_cloud.tif", "b é_cloud.tif"):
        with rasterio.open(here / name) as one, rasterio.open(place / "out" / name) as other:
            np.testing.assert_array_equal(one.read(), other.read())


@pytest.fixture
def started(place: Path) -> Iterator[tuple[str, subprocess.Popen, subprocess.Popen]]:
    """A scheduler and a worker as an operator starts them, to be killed."""
    file, base = place / "scheduler.json", [sys.executable, "-m", "dask"]
    where = ["--scheduler-file", str(file), "--no-dashboard"]
    found = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL,
                             "env": {**os.environ, "PYTHONPATH": found}}  # fmt: skip
    scheduler = subprocess.Popen([*base, "scheduler", "--port", "0", *where], **quiet)
    while not file.exists():
        time.sleep(0.1)
    worker = subprocess.Popen([*base, "worker", "--nthreads", "1", "--no-nanny", *where], **quiet)
    yield pd.read_json(file, typ="series").address, scheduler, worker
    for process in (worker, scheduler):
        process.terminate()
        process.wait()


def deadly_part(job: Any) -> batch.Outcome:
    """Kills the worker of the second part: once, and each time with poison.tif."""
    mark = Path(job.path).with_suffix(".tried")
    second = job.part and job.part[0] == 1
    if second and ("poison" in job.scene or not mark.exists()):
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return genuine(job)


def test_tiles_of_a_large_scene_are_spread(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(place / "large.tif", size=300)
    options = {"tile": 64, "dilation_m": 60.0}
    assert run(["large.tif"], **options) == ["done"]
    monkeypatch.setattr(predict, "PART_PIXELS", 20_000)
    monkeypatch.setattr(batch, "_predict", deadly_part)
    spread = {"processes": Processes("local", 3), **options}
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        assert run(["large.tif"], out="there", **spread) == ["done"]
    assert (place / "large.tried").exists()
    assert whole(place / "there", ["large.tif"])
    for name in ("large_cloud.tif", "large_probability.tif"):
        with rasterio.open(place / "out" / name) as one, rasterio.open(place / "there" / name) as b:
            np.testing.assert_array_equal(one.read(), b.read())
            assert one.tags() == b.tags()
    assert run(["large.tif"], out="there", **spread) == ["left"]


def test_a_part_that_fails_fails_its_scene(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("poison.tif", "cut.tif"):
        write(place / name, size=200)
    data = (place / "cut.tif").read_bytes()
    (place / "cut.tif").write_bytes(data[: len(data) // 2])
    monkeypatch.setattr(predict, "PART_PIXELS", 10_000)
    monkeypatch.setattr(batch, "_predict", deadly_part)
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}):
        found = predict_batch(
            ["poison.tif", "cut.tif"],
            "spot-5",
            "out",
            model="tiny.json",
            processes=Processes("local", 4),
        )
    assert [each.status for each in found] == ["failed", "failed"]
    assert found[0].error == (
        "poison.tif: every worker that took it died, for want of memory perhaps: lower --tile"
    )
    assert found[1].error.startswith("cut.tif")
    assert whole(place / "out", [])


def test_parts_that_were_lost_are_reported(place: Path) -> None:
    spot, model = get_sensor("spot-5"), load_model("tiny.json")
    plan = predict.make_plan("a.tif", spot, model, options=predict.Options(tile=16))
    predict.predict_part(plan, "parts", (0, 2))
    with pytest.raises(InputError, match=r"parts: lacks \d+ pixels .*must see the same folders"):
        predict.predict_plan(plan, "out", parts="parts")


def slow(job: Any) -> batch.Outcome:
    if "d.tif" in job.scene:
        time.sleep(600)
    return genuine(job)


@pytest.mark.parametrize(
    ("victim", "told"), [(1, "tcp.* was lost; start it"), (2, "tcp.* has no workers any more")]
)
def test_the_cluster_may_be_lost(
    victim: int, told: str, place: Path, started: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = batch._predict_on_cluster

    def watched(*arguments: Any) -> Iterator[batch.Outcome]:
        for count, outcome in enumerate(outcomes(*arguments), 1):
            yield outcome
            if count == 3:  # the last one is in work
                monkeypatch.setattr(cluster, "JOIN_TIME", 1)
                started[victim].kill()

    with (
        monkeypatch.context() as patch,
        pytest.raises(InputError, match=rf"scheduler {told}.*; 2 of 4 scenes are done"),
    ):
        patch.setattr(batch, "_predict", slow)
        patch.setattr(batch, "_predict_on_cluster", watched)
        run(processes=Processes(started[0]))
    assert run() == ["left", "left", "failed", "done"]


def test_a_scheduler_that_is_not_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "ANSWER_TIME", 1)
    for address in ("tcp://127.0.0.1:9", "nowhere", "udp://x"):
        with pytest.raises(InputError, match=f"scheduler {address}: no scheduler with workers"):
            run(processes=Processes(address))
    monkeypatch.setattr(cluster, "JOIN_TIME", 1)
    with (
        LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0") as empty,
        pytest.raises(InputError, match="no scheduler with workers answers"),
    ):
        run(processes=Processes(empty.scheduler_address))
    with pytest.raises(InputError, match="--workers goes with --scheduler local"):
        run(processes=Processes(workers=2))
    assert not (place / "out").exists()
