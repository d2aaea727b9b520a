"""Data files in (mirror, cache, download, checksums) and results out (complete or not at all)."""

import csv
import io
import os
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from errno import EDQUOT, EFBIG, EIO, ENOSPC
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pooch
import requests
from rasterio._err import CPLE_BaseError  # some GDAL writers raise it unconverted
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.io import DatasetReader
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm
from urllib3.util import Retry

from clouddl.errors import InputError, WriteError, did_you_mean, readable, warn

BUSY = (429, 500, 502, 503, 504)  # answers after which a server may be asked again
NO_NETWORK = (
    "no network: name a folder that holds the files with --mirror or CLOUDDL_MIRROR, "
    "or use `--corpus simulated`"
)
WORK, IN_USE = ".clouddl-", "in_use"  # of temporary folders: how names begin, and the lock inside

Row = dict[str, str]  # of a registry: path, bytes, sha256, url


def cache_folder() -> Path:
    """Name the folder for what can be made or fetched again: CLOUDDL_CACHE, else the user's."""
    return Path(os.environ.get("CLOUDDL_CACHE") or pooch.os_cache("clouddl"))


@contextmanager
def replacing(target: Path, work: Path | None = None) -> Iterator[Path]:
    """Write a file or a folder completely, or leave it as it was.

    Args:
        target: The file or folder; one thread of a process at a time.
        work: Folder for the temporary one, in the same file system; default that of the target.

    Yields:
        A temporary name to write to, moved to `target` at the end. A folder is moved once the old
        one is removed.
    """
    temporary = (work or target.parent) / f".{target.name}.{os.getpid()}"
    try:
        yield temporary
        if temporary.is_dir():
            shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


@contextmanager
def working_folder(out: Path) -> Iterator[Path]:
    """Make a temporary folder, which `clear_work` leaves alone while it is in use.

    Args:
        out: The folder to make it in.

    Yields:
        The folder, removed at the end.
    """
    from filelock import FileLock  # late: it takes asyncio along

    with TemporaryDirectory(prefix=WORK, dir=out) as folder, FileLock(Path(folder, IN_USE)):
        yield Path(folder)


def clear_work(out: Path) -> None:
    """Remove the temporary folders that a killed process left.

    Args:
        out: The folder they are in.
    """
    from filelock import FileLock, Timeout

    for folder in out.glob(f"{WORK}*"):
        with suppress(Timeout, OSError), FileLock(folder / IN_USE, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)


def write_whole(target: Path, data: bytes) -> None:
    """Write bytes to a file, completely or not at all; its folder is made.

    Args:
        target: The file.
        data: Its content.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with replacing(target) as temporary:
        temporary.write_bytes(data)


@contextmanager
def writing(folder: Path | str) -> Iterator[None]:
    """Raise what GDAL or the system report while results are written as WriteError.

    Args:
        folder: Where the results go.

    Raises:
        WriteError: A result cannot be written.
    """
    try:
        yield
    except InputError:
        raise
    except (OSError, RasterioError, CPLE_BaseError) as error:
        advice = "give another path, or change its permissions"
        if getattr(error, "errno", None) in (None, ENOSPC, EDQUOT, EFBIG, EIO):
            advice = "the disk or the quota may be full: make room"
        message = f"{folder}: a result could not be written ({error}); {advice}"
        raise WriteError(message) from error


def split_member(path: Path | str) -> tuple[str, str]:
    """Split "file.npz#member", the name of an array in a file.

    Args:
        path: Such a name, or any path: a # in the name of a file or a folder belongs to it.

    Returns:
        The path of the file, and the member: "" where none is named.
    """
    name = str(path)
    match = re.fullmatch(r"(.+\.np[yz])#(.*)", name)
    if match is None or os.path.exists(name):
        return name, ""
    return match[1], match[2]


def load_array(path: str, count: int) -> np.ndarray:
    """Load an array of a .npy file or of a member of a .npz, as (band, y, x).

    Args:
        path: The file, or "file.npz#member".
        count: Bands of the image, first or last.

    Raises:
        InputError: No such member, several that it could be, or no image.
    """
    name, member = split_member(path)
    array = np.load(name, allow_pickle=False)  # a pickle could run code
    if isinstance(array, np.lib.npyio.NpzFile):
        if member and member not in array.files:
            choice = ", ".join(f"{name}#{key}" for key in array.files)
            raise InputError(f"{path}: no such array; choose {choice}")
        array = array[member or _find_member(name, array, count)]
    if array.ndim == 2:
        array = array[np.newaxis]
    if array.ndim != 3 or not array.size:
        raise InputError(f"{path}: an image has 2 or 3 dimensions and pixels, not {array.shape}")
    bands_last = array.shape[0] != count and array.shape[-1] == count
    if array.shape[0] == array.shape[-1] == count > 1:
        warn(
            f"{path}: its shape {array.shape} does not say whether bands are first or last; they "
            "are read as first"
        )
    return np.moveaxis(array, -1, 0) if bands_last else array


def _find_member(name: str, arrays: np.lib.npyio.NpzFile, count: int) -> str:
    """The only array of `count` bands, first or last, in a .npz; of one band also 2-D."""
    shapes = {key: arrays[key].shape for key in arrays.files}
    images = [key for key, shape in shapes.items() if _has_bands(shape, count)]
    if len(images) != 1:
        choice = ", ".join(f"{name}#{key} {shape}" for key, shape in shapes.items())
        raise InputError(f"{name}: which array is the image of {count} bands? Name one of {choice}")
    return images[0]


def _has_bands(shape: tuple[int, ...], count: int) -> bool:
    if len(shape) == 2:
        return count == 1
    return len(shape) == 3 and count in (shape[0], shape[2])


def masks_of(file: DatasetReader) -> tuple[bool, bool]:
    """Whether a file has a shared mask or such of layers; those of a nodata number do not count.

    Args:
        file: The open file.

    Returns:
        Whether one mask holds for all layers, and whether layers have masks of their own.
    """
    flags = [set(flag) for flag in file.mask_flag_enums]
    shared = any(MaskFlags.per_dataset in flag and MaskFlags.alpha not in flag for flag in flags)
    return shared, any(not flag for flag in flags)


def is_local(path: Path | str) -> bool:
    """Whether it is an ordinary path, not an address or a name of GDAL's own.

    Args:
        path: "a/b.tif"; not "https://host/b.tif", "s3://bucket/b.tif", "zip://a.zip!b.tif",
            "/vsizip/a.zip/b.tif" or 'NETCDF:"a.nc":b'.
    """
    name = str(path)
    foreign = name.startswith("/vsi") or re.match(r"[A-Za-z][\w+.-]+:", name)
    return not foreign or os.path.exists(name)


def row_of(name: str, file: Path) -> Row:
    """Describe a local file for a registry.

    Args:
        name: Its path in the registry.
        file: Where it is.

    Returns:
        The row: path, size in bytes, SHA-256, and no address.
    """
    size = str(file.stat().st_size)
    return {"path": name, "bytes": size, "sha256": pooch.file_hash(file), "url": ""}


def write_rows(target: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a table as CSV, completely or not at all; bytes that are not UTF-8 as escapes.

    Args:
        target: The file.
        columns: Its columns, in order.
        rows: Values by column; other fields are left out.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(target, text.getvalue().encode(errors="backslashreplace"))


def write_registry(target: Path, rows: Iterable[Row]) -> None:
    """Write a registry as CSV.

    Args:
        target: The file.
        rows: Path, bytes, sha256 and url of every data file; other fields are left out.
    """
    write_rows(target, ["path", "bytes", "sha256", "url"], rows)


def ask(url: str, method: str = "GET", **options: Any) -> requests.Response:
    """Send a request, repeated with growing pauses while the server is busy or silent.

    Args:
        url: The address.
        method: HTTP method.
        **options: As for `requests.request`.

    Returns:
        The response; its status may be 404.

    Raises:
        InputError: Any other refusal, or no response.
    """
    retry = Retry(Store.retries, backoff_factor=1, status_forcelist=BUSY, allowed_methods=None)
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=retry))
            response = session.request(method, url, timeout=30, **options)
            if response.status_code != 404:
                response.raise_for_status()
            return response
    except requests.RequestException as error:
        raise InputError(f"{url}: does not answer ({error}); try again later") from error


class Store:
    """The data files of one registry, taken from a mirror, a cache, or the network."""

    retries = 2  # further attempts after a download that broke off or came out wrong

    def __init__(
        self,
        registry_csv: Path | str | None,
        cache: Path | str | None = None,
        mirror: Path | str | None = None,
    ) -> None:
        """Read the registry.

        Args:
            registry_csv: CSV file with path, bytes, sha256 and url of every data file.
            cache: Folder for downloads; default CLOUDDL_CACHE, else the user's cache folder.
            mirror: Folder with the registry's layout, whose files are used in place; default
                CLOUDDL_MIRROR.

        Raises:
            InputError: No such mirror, or an unreadable registry.
        """
        self.cache = Path(cache or cache_folder())
        folder = mirror or os.environ.get("CLOUDDL_MIRROR")
        self.mirror = Path(folder) if folder else None
        if self.mirror and not self.mirror.is_dir():
            raise InputError(f"mirror {folder}: no such folder; correct --mirror or CLOUDDL_MIRROR")
        self.rows: dict[str, Row] = {}
        if registry_csv is not None:
            with (
                readable(registry_csv, "registry", "it needs the columns path, bytes, sha256, url"),
                open(registry_csv, newline="", encoding="utf-8") as stream,
            ):
                self.rows = {row["path"]: row for row in csv.DictReader(stream)}

    def sha256(self, path: str) -> str:
        """The checksum of a path in the registry; InputError where it is not there."""
        if path not in self.rows:
            raise InputError(f"{path}: not in the registry{did_you_mean(path, self.rows)}")
        return self.rows[path]["sha256"]

    def fetch(self, path: str) -> Path:
        """Find or download one file, as `fetch_all` does."""
        return self.fetch_all([path])[0]

    def fetch_all(self, paths: Iterable[str]) -> list[Path]:
        """Find or download files, and verify every one, under one progress bar in bytes.

        Args:
            paths: Paths in the registry.

        Returns:
            Where they are on this machine, in the order given.

        Raises:
            InputError: An unknown path, a failed download, or a file that differs from its row.
        """
        paths = list(paths)
        absent = [path for path in dict.fromkeys(paths) if self.local(path) is None]
        total = sum(int(self.rows[path]["bytes"]) for path in absent)
        title = Path(absent[0]).name if len(absent) == 1 else f"{len(absent)} files"
        with tqdm(total=total, desc=title, unit="B", unit_scale=True, disable=not absent) as bar:
            return [self._fetch(path, bar) for path in paths]

    def learn(self, path: str, url: str) -> bool:
        """Add a row for a file from what its server reports.

        The checksum is the ETag where that is an MD5; otherwise only the size is checked. For a
        file in the cache the server is not asked again.

        Args:
            path: Path to give it in the registry.
            url: Its address.

        Returns:
            False if the server does not have it.

        Raises:
            InputError: The server does not answer, or reports no size.
        """
        local = self.cache / path
        if local.is_file():
            self.rows[path] = row_of(path, local)
            return True
        response = ask(url, "HEAD")
        if response.status_code == 404:
            return False
        size = response.headers.get("Content-Length", "")
        if not size.isdigit():
            raise InputError(f"{url}: the server reports no size, so it cannot be checked")
        etag = response.headers.get("ETag", "").strip('"').lower()
        checksum = f"md5:{etag}" if re.fullmatch("[0-9a-f]{32}", etag) else ""
        self.rows[path] = {"path": path, "bytes": size, "sha256": checksum, "url": url}
        return True

    def local(self, path: str) -> Path | None:
        """Where a file of the registry is on this machine, unverified; None if it is not."""
        self.sha256(path)  # an unknown path must not reach the file system
        for folder in (self.mirror, self.cache):
            if folder and (folder / path).is_file():
                return folder / path
        return None

    def _fetch(self, path: str, bar: tqdm) -> Path:
        row, local = self.rows[path], self.local(path)
        if local and local != self.cache / path:
            return _check(local, row)
        url = row["url"]
        if not (url or local):
            raise InputError(
                f"{path}: is gone, and has no address; put it back, or make it anew (clouddl "
                "fetch alcd)"
            )
        incomplete = self.cache / f"{path}.part"
        download = partial(_download, incomplete=incomplete, size=int(row["bytes"]), bar=bar)
        downloads = pooch.create(
            self.cache,
            base_url="",
            registry={path: row["sha256"] or None},  # "md5:..." names another algorithm
            urls={path: url},
            retry_if_failed=self.retries,
        )
        try:
            return Path(downloads.fetch(path, downloader=download))
        except (requests.HTTPError, _Truncated) as error:
            raise InputError(f"{path}: {error}; run again to continue") from error
        except requests.RequestException as error:
            raise InputError(f"{path}: {NO_NETWORK} ({type(error).__name__})") from error
        except ValueError as error:  # a checksum that differs
            raise InputError(f"{path}: {url} sent another file; use a mirror ({error})") from error
        except OSError as error:
            raise InputError(f"{error}; set CLOUDDL_CACHE to a folder with room") from error


class _Truncated(requests.ConnectionError):
    """The stream ended early; the `.part` file keeps what arrived."""


def _download(url: str, output: str, _: object, *, incomplete: Path, size: int, bar: tqdm) -> None:
    """Download to `output` as pooch asks, continuing from `incomplete` after an earlier attempt."""
    incomplete.parent.mkdir(parents=True, exist_ok=True)
    arrived = incomplete.stat().st_size if incomplete.exists() else 0
    if arrived < size:
        arrived = _append(url, incomplete, arrived, bar)
    if arrived < size:
        bar.update(-arrived)  # the next attempt counts them again
        raise _Truncated(f"truncated: {arrived} of {size} bytes arrived")
    incomplete.replace(output)  # pooch verifies it there, and only then moves it into place


def _append(url: str, incomplete: Path, start: int, bar: tqdm) -> int:
    """Download what a file lacks, or all where the server ignores the range; return its size."""
    headers = {"Range": f"bytes={start}-"} if start else {}
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        response.raise_for_status()
        with incomplete.open("ab" if response.status_code == 206 else "wb") as stream:
            bar.update(stream.tell())
            for chunk in response.iter_content(1 << 16):
                bar.update(stream.write(chunk))
            return stream.tell()


def _check(path: Path, row: Row) -> Path:
    """Verify a mirror's file against its row."""
    state = path.stat()
    advice = "put it back, or register it again"
    if row["url"]:
        advice = f"copy it again from {row['url']}"
    if state.st_size != int(row["bytes"]):
        fault = f"{row['bytes']} bytes expected, {state.st_size} found"
        raise InputError(f"{path}: truncated or changed: {fault}; {advice}")
    algorithm, _, expected = row["sha256"].rpartition(":")  # "md5:..." names another
    if not expected:  # the server told its size only
        return path
    algorithm = algorithm or "sha256"
    digest = _digest(path.resolve(), algorithm, state.st_size, state.st_mtime_ns)
    if digest != expected:
        raise InputError(f"{path}: {algorithm} {expected} expected, {digest} found; {advice}")
    return path


@cache
def _digest(path: Path, algorithm: str, size: int, changed: int) -> str:
    """Checksum of a file, computed once in a process while its size and time stay the same."""
    return pooch.file_hash(path, algorithm)
