"""Files of a product, in a folder, a zip or a tar, and the metadata among them.

Archives are read in place: nothing is unpacked, so nothing can be written outside a folder. What
they hold is still judged before it is opened: names, sizes, entities, kinds of image.
"""

import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Literal
from xml.etree import ElementTree
from xml.parsers import expat

from clouddl.errors import InputError

MAX_FILES = 100_000


MAX_BYTES = 1 << 36  # of an archive, unpacked: 64 GiB


MAX_RATIO = 100  # unpacked to packed; images pack to a half, deflate can reach a thousandth


MAX_TEXT = 1 << 26  # bytes of a file of metadata


# TIFF, BigTIFF, JPEG 2000 and Erdas: what products hold. A VRT would have GDAL open other files.
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xffO\xffQ", b"EHFA_HEADER")


@dataclass(frozen=True)
class Files:
    """The files of a folder or an archive, by their path inside it ("a/b.tif")."""

    name: str
    paths: dict[str, str]  # what GDAL opens
    load: Callable[[str, int], bytes]  # the first bytes of a file

    def find(self, pattern: str) -> list[str]:
        """The files whose path matches, whatever the case, in order."""
        return sorted(name for name in self.paths if re.search(pattern, name, re.IGNORECASE))

    def only(self, pattern: str) -> str | None:
        """The file that matches, None if there is none. InputError if there are several."""
        found = self.find(pattern)
        if len(found) > 1:
            told = ", ".join(found[:3])
            raise InputError(f"{self.name}: holds {len(found)} of what is one ({told}); give one")
        return found[0] if found else None

    def beside(self, member: str, name: str) -> str | None:
        """The file `name` in the folder of `member`."""
        return self.only(f"^{re.escape(str(PurePosixPath(member).parent / name))}$")

    def image(self, member: str) -> str:
        """What GDAL opens, once the file is known to be an image."""
        if not self.load(member, 12).startswith(MAGIC):
            told = "is neither TIFF nor JPEG 2000; the product is damaged: download it again"
            raise InputError(f"{self.name}: {member} {told}")
        return self.paths[member]

    def text(self, member: str) -> bytes:
        """A whole file of metadata."""
        return self.load(member, MAX_TEXT)

    def xml(self, member: str) -> "Fields":
        """Parse a file of metadata. A document type, which entities need, is refused."""
        name, data = f"{self.name}: {member}", self.text(member)

        def refuse(*_: object) -> None:
            raise InputError(f"{name} declares a document type, which no product does; not read")

        guard = expat.ParserCreate()
        guard.StartDoctypeDeclHandler = refuse
        try:
            guard.Parse(data, True)
            root = ElementTree.fromstring(data)
        except (expat.ExpatError, ElementTree.ParseError, LookupError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"{name} is not XML ({error}); copy it again") from error
        for node in root.iter():
            node.tag = node.tag.rpartition("}")[2]  # without its namespace
        return Fields(root, name)


@dataclass(frozen=True)
class Fields:
    """Metadata, and the file to name where a field is missing or wrong."""

    root: ElementTree.Element
    name: str

    def text(self, path: str, default: str | None = None) -> str:
        found = self.root.findtext(f".//{path}")
        if found is None and default is None:
            raise InputError(f"{self.name} has no {path}; the metadata are incomplete")
        return str(default if found is None else found).strip()

    def number(self, path: str, default: float | None = None) -> float:
        return self.parse(self.text(path, None if default is None else str(default)), path)

    def parse(self, text: str | None, path: str) -> float:
        try:
            return float(str(text))
        except ValueError:
            raise InputError(f"{self.name}: {path} is {text!r}, not a number") from None

    def each(self, path: str) -> "list[Fields]":
        return [Fields(node, self.name) for node in self.root.iterfind(f".//{path}")]


def list_files(path: Path) -> Files:
    """List a folder or an archive; a file of any other kind stands for the folder it is in.

    InputError for a path that does not exist, a damaged archive, and one that is not safe: names
    that lead out of it, too many files, too much to unpack.
    """
    if not path.exists():
        raise InputError(f"{path}: does not exist")
    if path.is_file():
        try:
            if zipfile.is_zipfile(path):
                return _zip(path)
            if tarfile.is_tarfile(path):
                return _tar(path)
        except (OSError, EOFError, zipfile.BadZipFile, tarfile.TarError) as error:
            raise InputError(f"{path}: cannot be unpacked ({error}); copy it again") from error
        if path.suffix.lower() in (".zip", ".tar", ".tgz", ".gz"):
            raise InputError(f"{path}: is a damaged archive; copy it again")
    folder = path if path.is_dir() else path.parent

    def load(member: str, size: int) -> bytes:
        with open(folder / member, "rb") as file:
            return file.read(size)

    listed = list(islice((p for p in folder.rglob("*") if p.is_file()), MAX_FILES + 1))
    if len(listed) > MAX_FILES:
        raise InputError(f"{folder}: holds more than {MAX_FILES} files; give the product's folder")
    names = {p.relative_to(folder).as_posix(): str(p) for p in listed}
    return Files(str(path), names, load)


class _Guard:
    """Counts what an archive would unpack to, and refuses names that lead out of it."""

    def __init__(self, path: Path) -> None:
        self.path, self.packed = path, path.stat().st_size
        self.count = self.total = 0

    def let(self, member: str, size: int) -> None:
        if re.search(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)", member):
            raise InputError(f"{self.path}: holds {member!r}, which leads out of it; not opened")
        self.count, self.total = self.count + 1, self.total + size
        if self.count > MAX_FILES or self.total > min(MAX_BYTES, MAX_RATIO * self.packed):
            raise InputError(
                f"{self.path}: {self.packed} bytes would unpack to {self.total} or more; above "
                f"{MAX_RATIO} times, {MAX_BYTES >> 30} GiB or {MAX_FILES} files it is not opened. "
                "If you trust it, unpack it and give the folder"
            )


def _zip(path: Path) -> Files:
    guard, names = _Guard(path), {}
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            guard.let(info.filename, info.file_size)
            if not info.is_dir():
                names[info.filename] = f"/vsizip/{{{path.resolve()}}}/{info.filename}"

    def load(member: str, size: int) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive, archive.open(member) as file:
                return file.read(size)
        except (OSError, EOFError, RuntimeError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: {member} cannot be unpacked ({error})") from error

    return Files(str(path), names, load)


def _tar(path: Path) -> Files:
    guard, names, places = _Guard(path), {}, {}
    with open(path, "rb") as start:
        packed = start.read(2) == b"\x1f\x8b"
    if packed:  # else GDAL leaves a file beside the archive
        os.environ["CPL_VSIL_GZIP_WRITE_PROPERTIES"] = "NO"
    # By place rather than by name: GDAL's own reading of tar lacks long and accented names.
    inside = f"{'/vsigzip/' if packed else ''}{path.resolve()}"
    mode: Literal["r:gz", "r:"] = "r:gz" if packed else "r:"  # GDAL reads no other compression
    with tarfile.open(path, mode) as archive:
        for info in archive:  # one by one: a bomb is noticed before it is read through
            guard.let(info.name, info.size)
            if info.isreg():
                name = str(PurePosixPath(info.name))  # without a leading "./"
                places[name] = info
                names[name] = f"/vsisubfile/{info.offset_data}_{info.size},{inside}"

    def load(member: str, size: int) -> bytes:
        with tarfile.open(path, mode) as archive:
            file = archive.extractfile(places[member])
            return file.read(size) if file else b""

    return Files(str(path), names, load)
