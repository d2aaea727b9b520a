"""Files in and out: fetched once against their SHA-256, and written whole or not at all."""

import csv
import difflib
import io
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import pooch
import requests
from rasterio._err import CPLE_BaseError  # which some writers raise as it is
from rasterio.errors import RasterioError
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm
from urllib3.util import Retry

from clouddl.errors import InputError, WriteError

NO_NETWORK = (
    "no network: name a folder that holds the files with --mirror or CLOUDDL_MIRROR, "
    "or use `--corpus simulated`"
)


def row_of(name: str, file: Path) -> dict[str, str]:
    """The row of a registry for a file that is here: its bytes and SHA-256, and no address."""
    size = str(file.stat().st_size)
    return {"path": name, "bytes": size, "sha256": pooch.file_hash(file), "url": ""}


def write_registry(target: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write a registry: path, bytes, sha256 and address of each file."""
    text = io.StringIO()
    columns = ["path", "bytes", "sha256", "url"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(target, text.getvalue().encode())


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Write a file so that it is there whole, or as it was before.

    Args:
        target: The file.

    Yields:
        A temporary name in the same folder to write to, moved to `target` at the end.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(target: Path, data: bytes) -> None:
    """Write a file so that it is there whole, or as it was before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def ask(url: str, method: str = "GET", **options: Any) -> requests.Response:
    """What a server answers, tried again, later each time, while it is busy or does not answer.

    404 is an answer; InputError for any other refusal, and for no answer.
    """
    busy = Retry(Store.retries, backoff_factor=1, status_forcelist=[429, 500, 502, 503, 504],
                 allowed_methods=None)  # fmt: skip
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=busy))
            answer = session.request(method, url, timeout=30, allow_redirects=True, **options)
            if answer.status_code != 404:
                answer.raise_for_status()
            return answer
    except requests.RequestException as error:
        raise InputError(f"{url}: does not answer ({error}); try again later") from error


class Store:
    """The data files of one registry, from a mirror, a cache, or the network.

    `mirror`: a folder of the registry's layout (or CLOUDDL_MIRROR); its files are used in place.
    `cache`: where downloads go (or CLOUDDL_CACHE; default: the user's cache folder).
    """

    retries = 2  # further attempts after a download that broke off or came out wrong

    def __init__(
        self, registry_csv: Path | str | None, cache: Path | str | None = None,
        mirror: Path | str | None = None, progress: bool = True,
    ) -> None:  # fmt: skip
        self.progress = progress
        self.cache = Path(cache or os.environ.get("CLOUDDL_CACHE") or pooch.os_cache("clouddl"))
        mirror = mirror or os.environ.get("CLOUDDL_MIRROR")
        self.mirror = Path(mirror) if mirror else None
        if self.mirror and not self.mirror.is_dir():
            raise InputError(f"mirror {mirror}: no such folder; mend --mirror or CLOUDDL_MIRROR")
        self.rows: dict[str, dict[str, str]] = {}
        if registry_csv is not None:
            try:
                with open(registry_csv, newline="", encoding="utf-8") as stream:
                    self.rows = {row["path"]: row for row in csv.DictReader(stream)}
            except (OSError, KeyError) as error:
                raise InputError(f"{registry_csv}: not a readable registry: {error}") from error

    def sha256(self, path: str) -> str:
        """The SHA-256 the registry gives for a file."""
        if path not in self.rows:
            raise InputError(f"{path}: not in the registry" + _closest(path, self.rows))
        return self.rows[path]["sha256"]

    def fetch(self, path: str) -> Path:
        """Where a registry's file lies on this machine: downloaded if need be, verified always."""
        return self.fetch_all([path])[0]

    def fetch_all(self, paths: Iterable[str]) -> list[Path]:
        """Fetch many files under one progress bar (bytes); in the order given."""
        wanted = list(paths)
        absent = [path for path in dict.fromkeys(wanted) if self._local(path) is None]
        total = sum(int(self.rows[path]["bytes"]) for path in absent)
        name = Path(absent[0]).name if len(absent) == 1 else f"{len(absent)} files"
        hide = not (absent and self.progress)
        with tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=hide) as bar:
            return [self._fetch(path, bar) for path in wanted]

    def learn(self, path: str, url: str) -> bool:
        """Make a row for a file by what its server tells; False if the server has none.

        MD5 where the server's ETag is one, else the size alone. A file that is there is not asked
        for again: it was checked when it came.
        """
        if (local := self.cache / path).is_file():
            self.rows[path] = row_of(path, local)
            return True
        answer = ask(url, "HEAD")
        if answer.status_code == 404:
            return False
        told = answer.headers.get("ETag", "").strip('"').lower()
        md5 = f"md5:{told}" if re.fullmatch("[0-9a-f]{32}", told) else ""
        size = answer.headers.get("Content-Length", "")
        if not size.isdigit():
            raise InputError(f"{url}: its server tells no size; it cannot be checked")
        self.rows[path] = {"path": path, "bytes": size, "sha256": md5, "url": url}
        return True

    def available(self) -> bool:
        """Whether the first file is at hand, or its server answers within 3 seconds."""
        first = next(iter(self.rows), None)
        if first is None or self._local(first):
            return first is not None
        try:
            return requests.head(self.rows[first]["url"], timeout=3, allow_redirects=True).ok
        except requests.RequestException:
            return False

    def _local(self, path: str) -> Path | None:
        self.sha256(path)  # an unknown path must not reach the file system
        folders = (self.mirror, self.cache) if self.mirror else (self.cache,)
        return next((folder / path for folder in folders if (folder / path).is_file()), None)

    def _fetch(self, path: str, bar: tqdm) -> Path:
        local, row = self._local(path), self.rows[path]
        if local and self.mirror and local == self.mirror / path:
            return _check(local, row)
        url, size, part = row["url"], int(row["bytes"]), self.cache / f"{path}.part"
        if not url and not local:
            told = "was made here and is gone; make it again: clouddl fetch alcd"
            raise InputError(f"{path}: {told}")
        # The column may name another algorithm; a file whose server tells none has only its size.
        known = row["sha256"] if ":" in row["sha256"] else f"sha256:{row['sha256']}"
        shelf = pooch.create(self.cache, "", registry={path: known if row["sha256"] else None},
                             urls={path: url}, retry_if_failed=self.retries)  # fmt: skip
        try:
            get = partial(_resume, part=part, size=size, bar=bar)
            return Path(shelf.fetch(path, downloader=get))
        except requests.RequestException as error:
            answered = isinstance(error, requests.HTTPError | _Truncated)
            reason = error if answered else f"{NO_NETWORK} ({type(error).__name__})"
            raise InputError(f"{path}: {reason}") from error
        except ValueError as error:  # pooch's word for a SHA-256 that differs
            raise InputError(f"{path}: {url} sent another file; use a mirror ({error})") from error
        except OSError as error:
            raise InputError(f"{error}; set CLOUDDL_CACHE to a folder with room") from error


class _Truncated(requests.ConnectionError):
    """The stream ended early; what came is kept in the .part file."""


def _resume(url: str, output: str, _: object, *, part: Path, size: int, bar: tqdm) -> None:
    """Download `url` to `output`, going on from `part` if an earlier attempt left one."""
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    if have < size:
        rest = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=rest, stream=True, timeout=30) as answer:
            answer.raise_for_status()
            # Without a 206 the server sends the whole file, whatever was asked.
            with part.open("ab" if answer.status_code == 206 else "wb") as stream:
                bar.update(stream.tell())
                for chunk in answer.iter_content(1 << 16):
                    bar.update(stream.write(chunk))
        have = part.stat().st_size
    if have < size:
        bar.update(-have)  # the next attempt counts them again
        raise _Truncated(f"truncated: {have} of {size} bytes arrived; run again to go on")
    part.replace(output)  # pooch verifies it there, and only then moves it into place


def _check(path: Path, row: dict[str, str]) -> Path:
    """A mirror's file, if it is as its row in the registry says."""
    state = path.stat()
    mend = f"copy it again from {row['url']}" if row["url"] else "put it back, or register it anew"
    if state.st_size != int(row["bytes"]):
        told = f"{row['bytes']} bytes expected, {state.st_size} found"
        raise InputError(f"{path}: truncated or changed: {told}; {mend}")
    if (found := _sha256(path.resolve(), state.st_size, state.st_mtime_ns)) != row["sha256"]:
        raise InputError(f"{path}: sha256 {row['sha256']} expected, {found} found; {mend}")
    return path


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file, computed once in a process while the file's size and time stay."""
    return pooch.file_hash(path)


def _closest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


@contextmanager
def writing(out: Path | str) -> Iterator[None]:
    """What GDAL or the system say when images cannot be written to a folder, as WriteError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, RasterioError, CPLE_BaseError) as error:
        told = f"a result could not be written ({error}); the disk or the quota is full, it seems"
        raise WriteError(f"{out}: {told}: make room") from error
