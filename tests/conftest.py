"""What tests share: simulated chips, tiny networks, a server of files, and the command line."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import click
import numpy as np
import pytest
import rasterio
import torch
import xarray as xr
from rasterio.transform import from_origin
from rasterio.windows import Window

from clouddl.chips import Chips, make_chips
from clouddl.cli import main
from clouddl.files import Store
from clouddl.model import CloudModel, save_model
from clouddl.network import ModelCard, build
from clouddl.products.image import open_file
from clouddl.products.reading import AS_STORED, Reading
from clouddl.scenes import Scene

# Tests compare to the last digit; what other backends may differ by, test_backends.py says.
os.environ["CLOUDDL_BACKEND"] = "float32"
torch.set_num_threads(1)  # networks this small only wait for threads
Run = Callable[..., tuple[int, str, str]]
BANDS = ["green", "red", "nir", "swir16"]


@pytest.fixture(scope="session")
def simulated() -> Callable[..., Scene]:
    """Makes the record of a simulated scene of 64 × 64 pixels of 30 m."""

    def make(seed: int, role: str = "train", size: int = 64, **fields: Any) -> Scene:
        surface = ("mixed", "crops", "barren")[seed % 3]
        record = {
            "id": f"simulated-{seed}", "collection": "simulated", "sensor": "sentinel-2",
            "role": role, "resolution": 30.0, "group": f"group-{seed}",
            "simulated": {"seed": seed, "size": size, "surface": surface, "cloud_fraction": 0.35},
        }  # fmt: skip
        return Scene.model_validate(record | fields)

    return make


@pytest.fixture(scope="session")
def zarr(tmp_path_factory: pytest.TempPathFactory, simulated: Callable[..., Scene]) -> Path:
    """Six training chips and two of validation, 64 × 64 pixels, labelled with the truth."""
    path = tmp_path_factory.mktemp("chips") / "simulated.zarr"
    scenes = [simulated(seed) for seed in range(6)] + [
        simulated(seed, "validation") for seed in (6, 7)
    ]
    make_chips(scenes, Store(None), path, bands=BANDS, sources=["truth"], size=64)
    return path


@pytest.fixture(scope="session")
def train_chips(zarr: Path) -> Chips:
    return Chips.open(zarr, BANDS, "truth", "train")


@pytest.fixture(scope="session")
def validation_chips(zarr: Path) -> Chips:
    return Chips.open(zarr, BANDS, "truth", "validation")


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ModelCard]:
    """Makes the card of a tiny network."""

    def make(**fields: Any) -> ModelCard:
        bands = fields.setdefault("bands", list(BANDS))
        shape = {"name": "tiny", "resolution": 30.0, "base_filters": 4, "depth": 2}
        numbers = {"mean": [0.2] * len(bands), "std": [0.1] * len(bands)}
        return ModelCard.model_validate(shape | numbers | fields)

    return make


class Web:
    """A server of the files of a folder: what was asked of it, and how its answers fail."""

    def __init__(self, folder: Path, address: str) -> None:
        self.folder, self.address = folder, address
        self.asked: list[tuple[str, str | None]] = []  # path, Range
        self.cut: list[int] = []  # the next answers break off after so many bytes
        self.refuse: list[int] = []  # the next answers are these status codes
        self.etag: str | None = None  # what is told instead of the MD5


class _Answer(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.0"

    def __init__(self, web: list[Web], *arguments: Any) -> None:
        self.web = web[0]
        super().__init__(*arguments)

    def do_GET(self) -> None:
        path, wanted = unquote(urlsplit(self.path).path).lstrip("/"), self.headers.get("Range")
        self.web.asked.append((path, wanted))
        if self.web.refuse:
            return self.send_error(self.web.refuse.pop(0))
        file = self.web.folder / path
        if not file.is_file():
            return self.send_error(404)
        body, status = file.read_bytes(), 200
        size, first = len(body), 0
        if wanted:
            start, _, end = wanted.removeprefix("bytes=").partition("-")
            first, status = int(start), 206
            if first >= size:
                return self.send_error(416)
            body = body[first : int(end) + 1 if end else None]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        told = self.web.etag or hashlib.md5(file.read_bytes()).hexdigest()
        self.send_header("ETag", f'"{told}"')
        if wanted:
            self.send_header("Content-Range", f"bytes {first}-{first + len(body) - 1}/{size}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[: self.web.cut.pop(0)] if self.web.cut else body)

    do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Web]:
    """A server on this machine; its folder is `web` among the files of the test."""
    http, served = _serve(tmp_path / "web")
    Thread(target=http.serve_forever, daemon=True).start()
    yield served
    http.shutdown()
    http.server_close()


@pytest.fixture
def web_apart(tmp_path: Path) -> Iterator[Web]:
    """The same in a process of its own: GDAL, while it opens a file, lets no other thread run."""
    code = "import conftest, pathlib, sys; conftest.run_server(pathlib.Path(sys.argv[1]))"
    line = [sys.executable, "-c", code, str(tmp_path / "web")]
    here = str(Path(__file__).parent)
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True, cwd=here) as process:
        assert process.stdout
        yield Web(tmp_path / "web", process.stdout.readline().strip())
        process.terminate()


def _serve(folder: Path) -> tuple[ThreadingHTTPServer, Web]:
    shared: list[Web] = []
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Answer, shared))
    shared.append(Web(folder, f"http://127.0.0.1:{http.server_port}"))
    folder.mkdir()
    return http, shared[0]


def run_server(folder: Path) -> None:
    """Serve a folder until the process is ended; prints the address."""
    http, served = _serve(folder)
    print(served.address, flush=True)
    http.serve_forever()


# Against one another: 3 found, 1 missed, 2 false alarms, 1 clear in both, 1 without a reference.
MASK = np.array([[[1, 1, 1, 0], [1, 1, 0, 1]]], np.uint8)
TRUTH = np.array([[[1, 1, 1, 1], [0, 0, 0, 255]]], np.uint8)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command line in this process: exit code, standard output, standard error."""
    for name in ("CLOUDDL_MIRROR", "FORCE_COLOR", "GITHUB_ACTIONS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COLUMNS", "200")

    def go(line: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clouddl", *line.split()])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        code = ended.value.code
        return int(code or 0), click.unstyle(said.out), click.unstyle(said.err)

    return go


def write_tiff(path: Path, values: np.ndarray, left: float = 500_000, **fields: Any) -> None:
    """A GeoTIFF (band, y, x) of 30 m pixels whose left edge is at `left` metres."""
    profile = {"count": len(values), "height": values.shape[1], "width": values.shape[2],
               "dtype": values.dtype, "crs": "EPSG:32631",
               "transform": from_origin(left, 4_600_000, 30, 30)}  # fmt: skip
    with rasterio.open(path, "w", driver="GTiff", **profile | fields) as file:
        file.write(values)


def read_image(
    path: Path | str,
    bands: Sequence[str | None],
    reading: Reading = AS_STORED,
    window: Window | None = None,
) -> xr.DataArray:
    """Reflectance of one file, its layers named."""
    return open_file(path, replace(reading, bands=tuple(bands))).array(window)


@pytest.fixture
def place(tmp_path: Path, tiny: Callable[..., ModelCard], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with images, masks and models, good and bad."""
    monkeypatch.chdir(tmp_path)
    image = np.random.default_rng(1).uniform(0.03, 0.6, (4, 40, 48)).astype(np.float32)
    image[:, :5, :6] = np.nan
    write_tiff(tmp_path / "good.tif", image)
    write_tiff(
        tmp_path / "numbers.tif", (np.nan_to_num(image) * 10_000).astype(np.uint16), nodata=0
    )
    write_tiff(tmp_path / "empty.tif", np.full((4, 40, 48), 7, np.uint16), nodata=7)
    whole = (tmp_path / "good.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    np.savez(tmp_path / "array.npz", img=np.moveaxis(image, 0, -1))
    write_tiff(tmp_path / "mask.tif", MASK)
    write_tiff(tmp_path / "truth.tif", TRUTH)
    write_tiff(tmp_path / "moved.tif", TRUTH, left=500_300)
    (tmp_path / "text.yaml").write_text("id: spot-9\n")
    (tmp_path / "noyaml.yaml").write_text("id: [1,\ntitle: }")
    torch.manual_seed(0)
    for name, bands in (("tiny", None), ("broken", None), ("blue", ["blue", "nir"])):
        card = tiny(name=name, **{"bands": bands} if bands else {})
        save_model(CloudModel(card, build(card), "cpu"), tmp_path / name)
    weights = tmp_path / "broken.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    return tmp_path
