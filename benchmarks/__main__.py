"""Run the benchmarks and write the tables and the plot of book/speed.md.

python -m benchmarks            everything but the study, on a quiet machine
python -m benchmarks --quick    small and few: to see that it works
python -m benchmarks --only prediction --only limit
python -m benchmarks --only study    the quick study, timed by its stages
python -m benchmarks --only waits --only patches    what a user waits for, and memory
"""

import argparse
import csv
import datetime
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import rasterio
import torch
from rasterio.transform import from_origin

from benchmarks import contenders as c
from benchmarks import peer
from benchmarks.measure import best, race, watched
from benchmarks.plot import bars, curves, f2_by_speed
from clouddl.figures import save, style
from clouddl.model import load_model
from clouddl.scale.backends import has_half
from clouddl_study.tables import title_of

OUT = Path(__file__).parents[1] / "book" / "speed"
RESULTS = OUT.parent / "results"
SCRATCH = Path(__file__).parents[1] / "build" / "benchmarks"
CARD = torch.cuda.is_available()  # the graphics card computes, where there is one


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    quick: bool
    size: int  # pixels a side of the scene in the races
    sizes: tuple[int, ...]
    waits: tuple[int, ...]  # pixels a side of the files of whole commands
    rounds: int


FULL = Plan(False, 1830, (512, 1024, 1830, 3660, 5490, 10980), (512, 1830, 5490, 10980), 7)
QUICK = Plan(True, 512, (512, 1024), (512,), 3)
PATIENCE = 120  # seconds that a command may take at the next size


def write(name: str, rows: Sequence[dict[str, Any]]) -> None:
    """A table of the page, written whole or not at all; columns are the heads that are shown."""
    OUT.mkdir(parents=True, exist_ok=True)
    path = OUT / f"{name}.csv"
    temporary = path.with_suffix(".part")
    with temporary.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
    print(pd.DataFrame(rows).to_string(index=False), flush=True)


def speeds(found: dict[str, float], pixels: float) -> dict[str, str]:
    """Median and spread of a race in Mpixel/s, and the peak of memory."""
    fast, slow = (pixels / found[key] / 1e6 for key in ("fastest", "slowest"))
    return {
        "Mpixel/s": f"{pixels / found['seconds'] / 1e6:.3g}",
        "slowest–fastest": f"{slow:.3g}–{fast:.3g}",
        "peak MiB": f"{found['peak_mib']:.0f}",
    }


def absent(left_out: dict[str, str], like: dict[str, Any]) -> list[dict[str, Any]]:
    """Rows of the contenders that were left out, by name and with the reason."""
    first, second = list(like)[:2]
    return [
        {**dict.fromkeys(like, "–"), first: name, second: reason}
        for name, reason in left_out.items()
    ]


def machine(plan: Plan, name: str = "machine") -> None:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    about = dict(line.split("\t: ", 1) for line in text.split("\n\n")[0].replace("\t\t", "\t")
                 .splitlines() if "\t: " in line)  # fmt: skip
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")
    has = [flag for flag in wanted if flag in about.get("flags", "").split()]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    rows: dict[str, Any] = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": commit.stdout.strip() or "unknown",
        "run": "quick" if plan.quick else "full",
        "processor": about.get("model name", platform.processor() or platform.machine()),
        "cores": os.cpu_count(),
        "instructions": ", ".join(has) or "unknown",
        "graphics card": gpu,
        "memory": f"{memory:.1f} GiB",
        "load when it began": f"{os.getloadavg()[0]:.2f}",
        "system": f"{platform.system()}, Python {platform.python_version()}",
    }
    for package in ("torch", "openvino", "onnxruntime", "s2cloudless", "ukis-csmask", "rasterio"):
        try:
            rows[package] = version(package)
        except PackageNotFoundError:
            rows[package] = "not installed"
    write(name, [{"What": key, "Which": value} for key, value in rows.items()])


def work_per_pixel(net: torch.nn.Module, bands: int, size: int = 64) -> float:
    """FLOP per pixel of the convolutions of a network: two for each product that is added."""
    total = 0.0

    def count(module: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        side = inputs[0] if isinstance(module, torch.nn.ConvTranspose2d) else output
        total += 2 * module.weight.numel() * side.shape[-1] * side.shape[-2]

    kinds = torch.nn.Conv2d | torch.nn.ConvTranspose2d
    hooks = [m.register_forward_hook(count) for m in net.modules() if isinstance(m, kinds)]
    with torch.inference_mode():
        net(torch.zeros(1, bands, size, size))
    for hook in hooks:
        hook.remove()
    return total / size**2


def limit(plan: Plan) -> None:
    """The most this machine computes, and how much of it prediction uses."""
    rows: list[dict[str, Any]] = []
    most: dict[str, float] = {}
    model = load_model("any")
    half = torch.float16 if CARD else torch.bfloat16
    for dtype in (torch.float32, half):
        name = str(dtype).removeprefix("torch.")
        n = 1024 if plan.quick else 4096
        a = torch.randn(n, n).to(model.device, dtype)
        found = {"matrix product": 2 * n**3 / best(partial(torch.matmul, a, a), plan.rounds) / 1e9}
        for channels, side in ((16, 512), (32, 512), (64, 256), (128, 128), (256, 64)):
            layer = torch.nn.Conv2d(channels, channels, 3, padding=1).to(model.device, dtype)
            x = torch.randn(4, channels, side, side).to(model.device, dtype)
            x = x.contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                took = best(partial(layer, x), plan.rounds)
            flop = 2 * 9 * channels**2 * side**2 * 4
            found[f"convolution {channels} to {channels}, {side} × {side}"] = flop / took / 1e9
        most[name] = max(found.values())
        rows += [{"Operation": key, "Type": name, "GFLOP/s": f"{value:.0f}"}
                 for key, value in found.items()]  # fmt: skip
    write("limit", rows)
    kind = str(half if has_half(model.device) else torch.float32).removeprefix("torch.")
    work = work_per_pixel(load_model("any", "cpu").net, len(model.card.bands))
    raced, _ = race({"ours": (c.clouddl_array, {"size": plan.size})}, plan.rounds)
    speed = plan.size**2 / raced["ours"]["seconds"]
    ceiling = most[kind] * 1e9 / work
    write("share", [
        {"What": "work of the network", "Value": f"{work / 1e3:.1f} kFLOP per pixel"},
        {"What": f"limit of the machine, {kind}", "Value": f"{most[kind]:.0f} GFLOP/s"},
        {"What": "limit of the network", "Value": f"{ceiling / 1e6:.1f} Mpixel/s"},
        {"What": f"array to mask, {plan.size} pixels a side",
         "Value": f"{speed / 1e6:.1f} Mpixel/s"},
        {"What": "share of the limit", "Value": f"{100 * speed / ceiling:.0f} %"},
    ])  # fmt: skip


def prediction(plan: Plan) -> None:
    """Array to mask, ours by each backend and the others', in turn."""
    run: dict[str, Any] = {name: (make, {"size": plan.size}) for name, make in c.ARRAYS.items()}
    for backend in ("openvino", "mixed", "float32"):
        arguments = {"size": plan.size, "backend": backend, "device": "cpu"}
        run[f"CloudDL, {backend}"] = (c.clouddl_array, arguments)
    if CARD:
        plain = {"size": plan.size, "device": "cuda"}
        run["plain U-Net, float32 eager, graphics card"] = (c.plain_array, plain)
    found, left_out = race(run, plan.rounds)
    ours = found["CloudDL"]["seconds"]
    rows = [
        {"System": name, **speeds(one, plan.size**2), "CloudDL is × faster":
         f"{one['seconds'] / ours:.1f}"} for name, one in sorted(
             found.items(), key=lambda item: item[1]["seconds"])
    ]  # fmt: skip
    write("prediction", rows + absent(left_out, rows[0]))
    style()
    save(bars(found, plan.size**2), OUT / "prediction.png")


def accuracy(plan: Plan) -> None:
    """Speed against F2: of the committed tables, whatever was measured last."""
    scores = pd.read_csv(RESULTS / "scores_transfer.csv").rename(columns={"sensor": "set"})
    sentinel = pd.read_csv(RESULTS / "scores_sentinel2.csv")
    sentinel = sentinel[sentinel.set == "ukis_sentinel2"]
    scores = pd.concat([sentinel, scores])
    scores["set"] = scores.set.map(title_of)
    style()
    save(f2_by_speed(pd.read_csv(OUT / "prediction.csv"), scores), OUT / "accuracy.png")


def stack(size: int, bands: Sequence[str] = (), metres: float = c.RESOLUTION) -> str:
    """A GeoTIFF as a user has it: 16-bit numbers, tiled and compressed; by default of our bands."""
    bands = bands or load_model("any").card.bands
    path = SCRATCH / f"scene-{size}-{len(bands)}-{metres:g}.tif"
    if not path.exists():
        SCRATCH.mkdir(parents=True, exist_ok=True)
        values = c.scene(512, tuple(bands))
        digital = (np.nan_to_num(values).clip(0, 6) * 1e4 + 1).astype(np.uint16)
        with rasterio.open(
            path, "w", driver="GTiff", count=len(bands), height=size, width=size, dtype="uint16",
            crs="EPSG:32631", transform=from_origin(5e5, 4.6e6, metres, metres),
            nodata=0, tiled=True, compress="deflate", num_threads="ALL_CPUS",
        ) as file:  # fmt: skip
            both = np.concatenate([digital, digital[:, ::-1]], 1)
            for top in range(0, size, 512):
                flip = both[:, 512:] if top // 512 % 2 else both[:, :512]
                wide = np.concatenate([flip, flip[:, :, ::-1]], 2)
                wide = np.tile(wide, (1, 1, -(-size // 1024)))[:, : size - top, :size]
                window = rasterio.windows.Window(0, top, size, wide.shape[1])
                file.write(wide, window=window)
    return str(path)


def files(plan: Plan) -> None:
    """File to COG by each backend, and then the best one from small scenes to whole tiles."""
    arguments = {"size": plan.size, "path": stack(plan.size)}
    run: dict[str, Any] = {"CloudDL": (c.clouddl_file, arguments)}
    for backend in ("openvino", "mixed", "float32"):
        one = {**arguments, "backend": backend, "device": "cpu"}
        run[f"CloudDL, {backend}"] = (c.clouddl_file, one)
    found, left_out = race(run, plan.rounds)
    rows = [{"System": name, **speeds(one, plan.size**2)} for name, one in found.items()]
    write("files", rows + absent(left_out, rows[0]))


def sizes(plan: Plan) -> None:
    """Each size in a process of its own; what a pixel costs against the size of the other races."""
    found = {}
    for size in plan.sizes:
        run = {str(size): (c.clouddl_file, {"size": size, "path": stack(size)})}
        found[size] = race(run, plan.rounds)[0][str(size)]
    cost = {size: one["seconds"] / size**2 * 1e6 for size, one in found.items()}
    write("sizes", [
        {"Pixels a side": size, "Seconds": f"{one['seconds']:.2f}", **speeds(one, size**2),
         "µs per pixel": f"{cost[size]:.3f}",
         f"times that at {plan.size}": f"{cost[size] / cost[plan.size]:.2f}"}
        for size, one in found.items()
    ])  # fmt: skip


def shapes(plan: Plan) -> None:
    """Cost against bands, filters, depth and stem, with fresh weights."""
    run: dict[str, Any] = {}
    for bands in (3, 4, 5, 8, 10):
        run[f"{bands} bands"] = (c.clouddl_shape, {"size": plan.size, "bands": bands})
    for filters in (8, 12, 16, 24, 32):
        run[f"{filters} filters"] = (c.clouddl_shape, {"size": plan.size, "base_filters": filters})
    for depth in (2, 3, 4):
        run[f"depth {depth}"] = (c.clouddl_shape, {"size": plan.size, "depth": depth})
    for stem in (1, 2, 4):
        run[f"stem {stem}"] = (c.clouddl_shape, {"size": plan.size, "stem": stem})
    rows = []
    for group in ("bands", "filters", "depth", "stem"):
        some = {name: one for name, one in run.items() if group in name}
        found, _ = race(some, plan.rounds)
        rows += [{"Network": name, **speeds(one, plan.size**2)} for name, one in found.items()]
    write("shapes", rows)


def training(plan: Plan) -> None:
    from benchmarks.training import rows

    write("training", rows(plan.quick))


def preparation(plan: Plan) -> None:
    from benchmarks.training import preparation_rows

    write("preparation", preparation_rows(plan.quick))


def study(plan: Plan) -> None:
    """The study with the profile `quick`, from nothing to its book; plan or no plan, it is one."""
    from benchmarks.study import rows

    write("quick", rows())


def startup(plan: Plan) -> None:
    """Seconds from pressing return to the last line, in a process of its own each time."""
    lines = ("--help", "sensors", "predict --help", "sensors spot-5")
    times: dict[str, list[float]] = {line: [] for line in lines}
    for _ in range(plan.rounds):
        for line in lines:
            start = time.perf_counter()
            command = [sys.executable, "-m", "clouddl.cli", *line.split()]
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            times[line].append(time.perf_counter() - start)
    write("startup", [
        {"Command": f"clouddl {line}", "Seconds": f"{np.median(each):.2f}",
         "fastest–slowest": f"{min(each):.2f}–{max(each):.2f}"} for line, each in times.items()
    ])  # fmt: skip


def commands(size: int, out: str) -> dict[tuple[str, float], list[str]]:
    """Whole commands from a file to results in `out`, by system and metres."""
    predict = ["clouddl.cli", "predict", "--sensor", "sentinel-2", "--scale", "0.0001"]
    predict += ["--bands", ",".join(load_model("any").card.bands), "--out", out]
    lines = {("CloudDL", metres): [*predict, stack(size, metres=metres)] for metres in (10, 30, 60)}
    for name, bands in peer.BANDS.items():
        source = stack(size, bands)
        lines[name, c.RESOLUTION] = ["benchmarks.peer", name, source, str(Path(out, "mask.tif"))]
    return {key: [sys.executable, "-m", *line] for key, line in lines.items()}


def waits(plan: Plan) -> None:
    """Seconds and memory of whole commands, from file to file, ours and peers', in turn.

    Who would need more than `PATIENCE` seconds for the next size is left out from there on.
    """
    machine(plan, "waits_machine")
    rows: list[dict[str, Any]] = []
    patient = dict.fromkeys(commands(plan.waits[0], ""), True)
    for size, larger in zip(plan.waits, [*plan.waits[1:], plan.waits[-1]], strict=True):
        found: dict[Any, list[tuple[float, float]]] = {}
        for _ in range(3):
            for key in (key for key, going in patient.items() if going):
                with tempfile.TemporaryDirectory(dir=SCRATCH) as out:
                    found.setdefault(key, []).append(watched(commands(size, out)[key]))
        for (name, metres), runs in found.items():
            seconds = sorted(took for took, _ in runs)
            patient[name, metres] = seconds[1] * (larger / size) ** 2 <= PATIENCE
            rows.append(
                {
                    "System": name,
                    "Pixels (m)": f"{metres:g}",
                    "Pixels a side": size,
                    "Seconds": f"{seconds[1]:.2f}",
                    "fastest–slowest": f"{seconds[0]:.2f}–{seconds[2]:.2f}",
                    "Mpixel/s": f"{size**2 / seconds[1] / 1e6:.3g}",
                    "peak MiB": f"{max(peak for _, peak in runs):.0f}",
                }
            )
            print(rows[-1], flush=True)
        write("waits", rows)
    style()
    save(curves(pd.read_csv(OUT / "waits.csv")), OUT / "waits.png")


def patches(plan: Plan) -> None:
    """Seconds of one command on one small file and on many, against the imports alone."""
    many = 10 if plan.quick else 100
    with tempfile.TemporaryDirectory() as folder:
        names = [shutil.copy(stack(256), Path(folder, f"{number}.tif")) for number in range(many)]
        bands = ",".join(load_model("any").card.bands)
        predict = ["-m", "clouddl.cli", "predict", "--sensor", "sentinel-2", "--scale", "0.0001"]
        predict += ["--bands", bands]
        lines = {0: ["-c", "import torch, rasterio"], 1: [*predict, names[0]],
                 many: [*predict, *names]}  # fmt: skip
        times: dict[int, list[float]] = {count: [] for count in lines}
        for _ in range(plan.rounds):
            for count, line in lines.items():
                with tempfile.TemporaryDirectory(dir=folder) as out:
                    start = time.perf_counter()
                    subprocess.run([sys.executable, *line, "--out", out], check=True,
                                   capture_output=True)  # fmt: skip
                    times[count].append(time.perf_counter() - start)
    seconds = {count: float(np.median(each)) for count, each in times.items()}
    write("patches", [
        {"Files of 256 × 256 pixels": count or "none: imports torch and rasterio",
         "Seconds": f"{took:.2f}", "times the imports": f"{took / seconds[0]:.2f}",
         "files a second": f"{count / took:.2f}"} for count, took in seconds.items()
    ])  # fmt: skip


def overhead(plan: Plan) -> None:
    """What the search costs beside the training: trials whose objective takes no time."""
    from clouddl.search import search

    trials = 10 if plan.quick else 40
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        search(lambda point: point["dropout"], Path(folder, "trials.csv"), trials=trials,
               progress=False)  # fmt: skip
        took = (time.perf_counter() - start) / trials
    write("overhead", [{"Trials": trials, "Seconds per trial": f"{took:.3f}"}])


SECTIONS: dict[str, Callable[[Plan], None]] = {
    one.__name__: one
    for one in (machine, limit, prediction, accuracy, files, sizes, shapes, training, preparation,
                overhead, startup, waits, patches, study)
}  # fmt: skip


def main() -> None:
    verbatim = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks", None, __doc__, formatter_class=verbatim
    )
    parser.add_argument("--quick", action="store_true", help="small and few")
    parser.add_argument("--only", action="append", choices=SECTIONS, help="a section; repeat it")
    asked = parser.parse_args()
    for name in asked.only or [name for name in SECTIONS if name != "study"]:
        print(f"== {name}", flush=True)
        SECTIONS[name](QUICK if asked.quick else FULL)


if __name__ == "__main__":
    main()
