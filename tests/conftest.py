"""Chips of drawn scenes, cards of tiny networks and a server of files, shared by the tests."""

import hashlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import torch

from clouddl.catalogue import Scene, Store
from clouddl.chips import Chips, make_chips
from clouddl.model import ModelCard

torch.set_num_threads(1)  # networks this small only wait for threads
BANDS = ["green", "red", "nir", "swir16"]


@pytest.fixture(scope="session")
def drawn() -> Callable[..., Scene]:
    """Makes the record of a drawn scene of 64 × 64 pixels of 30 m."""

    def make(seed: int, role: str = "train", size: int = 64, **fields: Any) -> Scene:
        surface = ("mixed", "crops", "barren")[seed % 3]
        record = {
            "id": f"drawn-{seed}", "collection": "drawn", "sensor": "sentinel-2", "role": role,
            "resolution": 30.0, "group": f"group-{seed}",
            "drawn": {"seed": seed, "size": size, "surface": surface, "cloud_fraction": 0.35},
        }  # fmt: skip
        return Scene.model_validate(record | fields)

    return make


@pytest.fixture(scope="session")
def zarr(tmp_path_factory: pytest.TempPathFactory, drawn: Callable[..., Scene]) -> Path:
    """Six training chips and two of validation, 64 × 64 pixels, labelled with the truth."""
    path = tmp_path_factory.mktemp("chips") / "drawn.zarr"
    scenes = [drawn(seed) for seed in range(6)] + [drawn(seed, "validation") for seed in (6, 7)]
    make_chips(scenes, Store(None), path, bands=BANDS, sources=["truth"], size=64, progress=False)
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
