"""Measure what `clouddl predict` takes at scale, for the page "At scale" of the book.

    python benchmarks/scale.py            # minutes: small scenes
    python benchmarks/scale.py --full     # hours: up to a whole Sentinel-2 tile, 10980 × 10980

Writes book/scale: memory.csv (a scene from file to COG, one process, one thread), workers.csv (many
scenes over local workers), cost.csv (on paper, from the two), scale.png and machine.md. Rows that
are there are not measured again, so a run that was stopped goes on; --again measures anew. Scenes
are noise of the right range: no content makes the network faster or slower.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

os.environ.setdefault("OMP_NUM_THREADS", "1")  # per process, before torch is there

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import rasterio
from distributed import Client, LocalCluster
from rasterio.transform import from_origin
from rasterio.windows import Window

BOOK = Path(__file__).resolve().parents[1] / "book" / "scale"
BLOCK, TILE = 512, 10980  # pixels; a Sentinel-2 tile at 10 m
SENSOR = "sentinel-2"
BANDS = ("green", "red", "nir", "swir16")
SCALE = 1e-4
# On paper. A Sentinel-2 tile adds 100 × 100 km to its neighbours; two satellites pass every five
# days; neighbouring orbits overlap, the more the further from the equator: assumed, not measured.
PLACES = {
    "France, one year": {"area_km2": 551_500, "years": 1.0, "overlap": 1.4},
    "all land but Antarctica, 2017 to 2026": {"area_km2": 135e6, "years": 9.0, "overlap": 1.3},
}
TILE_KM2, REVISIT_DAYS = 10_000, 5


def scene(path: Path, size: int) -> Path:
    """A GeoTIFF of `size` × `size` pixels of 10 m, four bands of uint16 reflectance × 10000."""
    rng = np.random.default_rng(size)
    block = rng.integers(200, 6000, (len(BANDS), BLOCK, BLOCK)).astype(np.uint16)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(BANDS), height=size, width=size, dtype="uint16",
        nodata=0, crs="EPSG:32631", transform=from_origin(600_000, 4_900_000, 10, 10), tiled=True,
    ) as file:  # fmt: skip
        for y in range(0, size, BLOCK):
            for x in range(0, size, BLOCK):
                height, width = min(BLOCK, size - y), min(BLOCK, size - x)
                file.write(block[:, :height, :width], window=Window(x, y, width, height))
    return path


def one(path: str, out: str) -> None:
    """Predict one scene in this process, and print the seconds it took."""
    from clouddl.predict import predict_file
    from clouddl.products.reading import Reading
    from clouddl.sensors import get_sensor

    start = time.monotonic()
    if path:
        predict_file(path, get_sensor(SENSOR), out, reading=Reading(BANDS, SCALE), progress=False)
    print(json.dumps(time.monotonic() - start))


def memory(size: int) -> dict[str, float]:
    """Seconds and peak memory (MiB) of one scene, and what the program takes before any."""
    with TemporaryDirectory(prefix="clouddl-") as folder:
        path = scene(Path(folder, "scene.tif"), size)
        found = {}
        for name, given in (("idle", ""), ("peak", str(path))):
            line = [sys.executable, __file__, "--one", given, folder]
            with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as process:
                assert process.stdout
                seconds = json.loads(process.stdout.read())
                _, status, usage = os.wait4(process.pid, 0)
                process.returncode = os.waitstatus_to_exitcode(status)
            if process.returncode:
                raise SystemExit(f"a scene of {size} pixels: exit code {process.returncode}")
            found[name] = usage.ru_maxrss / 1024
        return {"pixels a side": size, "seconds": round(seconds, 1),
                "peak memory, MiB": round(found["peak"]),
                "of which before the scene, MiB": round(found["idle"]),
                "image, MiB": round(path.stat().st_size / 2**20, 1)}  # fmt: skip


def workers(count: int, scenes: int, size: int) -> dict[str, float]:
    """Scenes per hour over `count` workers of this machine, their start apart; 0 is no cluster."""
    from clouddl.products.reading import Reading
    from clouddl.scale.batch import predict_batch
    from clouddl.scale.cluster import Processes

    with TemporaryDirectory(prefix="clouddl-") as folder, ExitStack() as at_end:
        paths = [scene(Path(folder, f"{n}.tif"), size) for n in range(scenes)]
        begun, address = time.monotonic(), None
        if count:
            cluster = LocalCluster(n_workers=count, threads_per_worker=1,
                                   dashboard_address="127.0.0.1:0")  # fmt: skip
            address = at_end.enter_context(cluster).scheduler_address
            with Client(address, set_as_default=False) as client:
                client.wait_for_workers(count)
                client.run(ready)
        start = time.monotonic()
        out, reading = Path(folder, "out"), Reading(BANDS, SCALE)
        found = predict_batch(paths, SENSOR, out, reading=reading, processes=Processes(address))
        seconds = time.monotonic() - start
        if any(each.status != "done" for each in found):
            raise SystemExit("\n".join(each.error for each in found))
    return {"workers": count, "scenes": scenes, "pixels a side": size,
            "seconds to start": round(start - begun, 1), "seconds": round(seconds, 1),
            "scenes per hour": round(3600 * scenes / seconds)}  # fmt: skip


def ready() -> None:
    """Load in a worker what a first scene would have to wait for."""
    import clouddl.scale.batch  # noqa: F401


def cost(measured: pd.DataFrame) -> pd.DataFrame:
    """Core-hours and bytes of whole regions, from the largest scene measured, by its pixels."""
    largest = measured.sort_values("pixels a side").iloc[-1]
    share = (TILE / largest["pixels a side"]) ** 2
    rows = []
    for place, told in PLACES.items():
        tiles = told["area_km2"] / TILE_KM2
        images = tiles * told["years"] * 365 / REVISIT_DAYS * told["overlap"]
        rows.append({
            "what": place, "tiles": round(tiles), "images": round(images),
            "core-hours": round(images * largest["seconds"] * share / 3600),
            "TB read": round(images * TILE**2 * len(BANDS) * 2 / 1e12, 1),
            "TB written at most": round(images * TILE**2 * 5 / 1e12, 1),
            "from a scene of, pixels a side": int(largest["pixels a side"]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def kept(name: str, row: dict[str, float]) -> None:
    """Add a row to a table, whole or not at all."""
    target = BOOK / f"{name}.csv"
    table = pd.concat([table_of(name), pd.DataFrame([row])], ignore_index=True)
    part = target.with_suffix(".part")
    table.to_csv(part, index=False)
    part.replace(target)


def table_of(name: str) -> pd.DataFrame:
    path = BOOK / f"{name}.csv"
    return pd.read_csv(path) if path.exists() else pd.DataFrame()


def draw(spread: pd.DataFrame, held: pd.DataFrame) -> None:
    from clouddl import figures

    figures.style()
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2))
    for size, part in spread[spread.workers > 0].groupby("pixels a side"):
        left.plot(part.workers, part["scenes per hour"], "o-", label=f"{size} × {size} pixels")
    left.set(xlabel="workers", ylabel="scenes per hour", ylim=(0, 1.1 * left.dataLim.ymax))
    left.set_xticks(sorted({*spread.workers} - {0}))
    left.legend()
    held = held.sort_values("pixels a side")
    right.plot(held["pixels a side"], held["peak memory, MiB"], "o-", label="peak")
    right.plot(held["pixels a side"], held["image, MiB"], "s--", label="the image itself")
    right.set(xlabel="pixels a side", ylabel="MiB", ylim=(0, 1.1 * right.dataLim.ymax))
    right.legend()
    figures.save(figure, BOOK / "scale.png")


def main() -> None:
    formatter = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=formatter)
    parser.add_argument("--full", action="store_true", help="up to a whole Sentinel-2 tile")
    parser.add_argument("--again", action="store_true", help="measure what is there anew")
    parser.add_argument("--one", nargs=2, metavar=("SCENE", "OUT"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        return one(*given.one)
    BOOK.mkdir(exist_ok=True)
    if given.again:
        for name in ("memory", "workers"):
            (BOOK / f"{name}.csv").unlink(missing_ok=True)
    sizes = [512, 1024, 2048] + ([4096, 5490, TILE] if given.full else [])
    scenes, size = (24, 2048) if given.full else (6, 1024)
    for each in sizes:
        done = table_of("memory")
        if done.empty or each not in done["pixels a side"].tolist():
            kept("memory", memory(each))
    for count in (0, 1, 2):
        done = table_of("workers")
        if done.empty or not ((done.workers == count) & (done["pixels a side"] == size)).any():
            kept("workers", workers(count, scenes, size))
    cost(table_of("memory")).to_csv(BOOK / "cost.csv", index=False)
    draw(table_of("workers"), table_of("memory"))
    (BOOK / "machine.md").write_text(
        f"Measured on a machine of {os.cpu_count()} cores ({platform.machine()}, Python "
        f"{platform.python_version()}), one thread a process, on {time.strftime('%Y-%m-%d')}. The "
        f"mean load of the machine at the end was {os.getloadavg()[2]:.1f}; above its number of "
        "cores, other work has slowed what was measured.\n"
    )


if __name__ == "__main__":
    main()
