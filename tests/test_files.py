"""Files: mirror, cache and download with their checks, and results complete or not at all."""

import csv
import hashlib
import os
import zipfile
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from rasterio._err import CPLE_BaseError

from clouddl.errors import InputError, WriteError, did_you_mean, readable
from clouddl.files import Store, replacing, write_whole, writing
from clouddl.scenes import DATA, Catalogue, store_of
from clouddl_study.corpora import choose_corpus

CONTENT = bytes(range(256)) * 1000
COLUMNS = ["path", "bytes", "sha256", "repository", "commit", "source_path", "url", "licence"]


class Server(BaseHTTPRequestHandler):
    """Serves CONTENT; `log` keeps the Range headers, `limit` breaks the first answers off."""

    def __init__(self, settings, *args):
        self.settings = settings
        super().__init__(*args)

    def do_GET(self):
        asked = self.headers.get("Range")
        self.settings["log"].append(asked)
        body, status = self.settings["content"], 200
        if "missing" in self.path:
            return self.send_error(404)
        if asked and self.settings["ranges"]:
            body, status = body[int(asked[6:].split("-")[0]) :], 206
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body[: self.settings["limit"].pop() if self.settings["limit"] else None])

    def do_HEAD(self):
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("CLOUDDL_MIRROR", raising=False)
    monkeypatch.setattr(Store, "retries", 0)
    settings = {"log": [], "limit": [], "ranges": True, "content": CONTENT}
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Server, settings))
    Thread(target=http.serve_forever, daemon=True).start()
    settings["url"] = f"http://127.0.0.1:{http.server_port}"
    yield settings
    http.shutdown()
    http.server_close()


def registry(folder, host, **changes):
    row = {
        "path": "a/x.bin",
        "bytes": len(CONTENT),
        "url": f"{host}/x.bin",
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
        **changes,
    }
    path = folder / "registry.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        writer.writerow(row)
    return path


def store(folder, host, mirror=None, **changes):
    return Store(registry(folder, host, **changes), folder / "cache", mirror)


def test_download_is_verified_and_kept(tmp_path, server):
    shelf = store(tmp_path, server["url"])
    assert choose_corpus("auto", shelf) == "real"
    path = shelf.fetch("a/x.bin")
    assert path == tmp_path / "cache/a/x.bin" and path.read_bytes() == CONTENT
    assert shelf.fetch_all(["a/x.bin", "a/x.bin"]) == [path, path]
    assert server["log"] == [None]
    assert [p.name for p in path.parent.iterdir()] == ["x.bin"]


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on_from_where_it_stopped(tmp_path, server, ranges):
    server.update(limit=[70_000], ranges=ranges)
    shelf = store(tmp_path, server["url"])
    with pytest.raises(InputError, match="truncated: 70000 of 256000 bytes"):
        shelf.fetch("a/x.bin")
    assert not (tmp_path / "cache/a/x.bin").exists()
    assert shelf.fetch("a/x.bin").read_bytes() == CONTENT
    assert server["log"] == [None, "bytes=70000-"]


def test_a_broken_download_is_tried_again(tmp_path, server, monkeypatch):
    monkeypatch.setattr(Store, "retries", 1)
    server["limit"] = [10]
    assert store(tmp_path, server["url"]).fetch("a/x.bin").read_bytes() == CONTENT


def test_wrong_content_never_reaches_the_cache(tmp_path, server):
    server["content"] = CONTENT[::-1]
    with pytest.raises(InputError, match=r"a/x\.bin.*sent another file"):
        store(tmp_path, server["url"]).fetch("a/x.bin")
    assert not list((tmp_path / "cache/a").iterdir())


def test_a_refusal_and_no_network_are_told_apart(tmp_path, server):
    with pytest.raises(InputError, match="404"):
        store(tmp_path, server["url"], url=f"{server['url']}/missing").fetch("a/x.bin")
    shelf = store(tmp_path, "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"--mirror or CLOUDDL_MIRROR.*--corpus simulated"):
        shelf.fetch("a/x.bin")
    assert choose_corpus("auto", shelf) == "simulated"


def mirror(folder, content):
    (folder / "mirror/a").mkdir(parents=True)
    (folder / "mirror/a/x.bin").write_bytes(content)
    return folder / "mirror"


def test_a_mirror_is_used_in_place_and_checked_while_it_changes(tmp_path, monkeypatch):
    place = mirror(tmp_path, CONTENT)
    monkeypatch.setenv("CLOUDDL_MIRROR", str(place))
    shelf = store(tmp_path, "http://127.0.0.1:9")
    assert shelf.fetch("a/x.bin") == place / "a/x.bin"
    with monkeypatch.context() as patch:  # as it was: not read again
        patch.setattr("hashlib.file_digest", None)
        assert shelf.fetch("a/x.bin") == place / "a/x.bin"
    (place / "a/x.bin").write_bytes(CONTENT[::-1])
    with pytest.raises(InputError, match=r"x\.bin: sha256 \w+ expected"):
        shelf.fetch("a/x.bin")
    assert not (tmp_path / "cache").exists()


def test_a_wrong_mirror_is_named(tmp_path):
    place = mirror(tmp_path, CONTENT[::-1])
    with pytest.raises(InputError, match=r"x\.bin: sha256 \w+ expected, \w+ found; copy it again"):
        store(tmp_path, "http://h", place).fetch("a/x.bin")
    (place / "a/x.bin").write_bytes(CONTENT[:100])
    with pytest.raises(InputError, match="256000 bytes expected, 100 found"):
        store(tmp_path, "http://h", place).fetch("a/x.bin")
    with pytest.raises(InputError, match="no such folder"):
        store(tmp_path, "http://h", tmp_path / "nowhere")


def test_files_and_corpora_that_do_not_exist(tmp_path):
    shelf = store(tmp_path, "http://h")
    with pytest.raises(InputError, match=r"did you mean 'a/x\.bin'"):
        shelf.fetch("a/y.bin")
    with pytest.raises(InputError, match="auto, real or simulated"):
        choose_corpus("reel", shelf)
    assert choose_corpus("auto", Store(None, tmp_path)) == "simulated"


def test_a_registry_without_paths_names_its_columns(tmp_path):
    (tmp_path / "registry.csv").write_text("name,bytes\na,1\n")
    with pytest.raises(InputError, match=r"registry\.csv: .*columns path, bytes, sha256, url"):
        Store(tmp_path / "registry.csv", tmp_path)


def test_a_folder_is_replaced_complete_or_stays(tmp_path):
    target = tmp_path / "chips.zarr"
    for content in ("old", "new"):
        with replacing(target) as temporary:
            temporary.mkdir()
            (temporary / content).write_text(content)
        assert [path.name for path in target.iterdir()] == [content]
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.mkdir()
        (temporary / "half").write_text("half")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["new"]
    with pytest.raises(OSError), replacing(target) as temporary:  # a file never replaces a folder
        temporary.write_text("a file")
    assert (target / "new").exists() and list(tmp_path.iterdir()) == [target]


def test_a_file_is_replaced_completely_or_not_at_all(tmp_path):
    target = tmp_path / "new" / "a.txt"
    write_whole(target, b"first")
    with pytest.raises(RuntimeError), replacing(target) as temporary:
        temporary.write_bytes(b"half")
        raise RuntimeError
    assert target.read_bytes() == b"first" and list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(2, "No such file"), "a.tif: the mask cannot be read (No such file); go"),
        (EOFError(), "a.tif: the mask cannot be read (EOFError); go"),
        (zipfile.BadZipFile("torn"), "a.tif: the mask cannot be read (torn); go"),
        (InputError("code 7 is unknown"), "a.tif: code 7 is unknown"),
        (InputError("a.tif: is radar"), "a.tif: is radar"),
    ],
)
def test_whatever_goes_wrong_in_reading_names_file_fault_and_advice(error, message):
    with pytest.raises(InputError) as raised, readable("a.tif", "mask", "go"):
        raise error
    assert str(raised.value) == message


def test_a_similar_name_is_suggested():
    assert did_you_mean("spot-6", ["spot-5", "venus"]) == "; did you mean 'spot-5'?"
    assert did_you_mean("landsat", ["spot-5"]) == ""


@pytest.mark.parametrize("error", [OSError(28, "No space left"), CPLE_BaseError(1, 1, "disk")])
def test_a_full_disk_is_a_write_error(error):
    with pytest.raises(WriteError, match=r"out: a result could not be written"), writing("out"):
        raise error


@pytest.mark.skipif(
    "CLOUDDL_MIRROR" not in os.environ, reason="needs the real files: set CLOUDDL_MIRROR"
)
def test_the_mirror_holds_every_file_of_the_registry():
    shelf = Store(DATA / "registry/real.csv")
    assert len(shelf.fetch_all(shelf.rows)) == len(shelf.rows)


def test_a_path_that_is_taken_is_not_called_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"could not be written .*give another path"), writing("a"):
        (tmp_path / "a").touch()
        (tmp_path / "a").mkdir()


def test_a_catalogue_that_is_not_registered_says_how(tmp_path: Path) -> None:
    mine = Catalogue(name="mine", title="", registry=tmp_path / "files.csv", scenes=[])
    with pytest.raises(InputError, match=r"files\.csv is not there; write it: clouddl register"):
        store_of(mine)
