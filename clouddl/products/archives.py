"""Files of a product, in a folder, a zip or a tar, and the metadata among them.

Archives are read in place: nothing is unpacked, so nothing can be written outside a folder. What
they contain is checked before it is opened: names, sizes, document types, image formats.
"""

import math
import os
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from xml.etree import ElementTree

from defusedxml import DTDForbidden
from defusedxml.ElementTree import fromstring

from clouddl.errors import InputError, readable

MAX_FILES = 100_000


MAX_BYTES = 1 << 36  # of an archive, unpacked: 64 GiB


MAX_RATIO = 100  # unpacked to packed; images pack to a half, deflate can reach a thousandth


READ_IN_PLACE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
UNPACK = "unpack it and give the folder"


MAX_TEXT = 1 << 26  # bytes of a file of metadata


# TIFF, BigTIFF, JPEG 2000 and Erdas: what products hold. A VRT would have GDAL open other files.
MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"\0\0\0\x0cjP  ", b"\xffO\xffQ", b"EHFA_HEADER")


@dataclass(frozen=True)
class Fields:
    """Metadata as XML, and the file to name where a field is missing or wrong."""

    root: ElementTree.Element
    name: str

    def text(self, path: str = "", default: str | None = None) -> str:
        """Text of the first element at `path` below this one, by default of this one.

        Args:
            path: Element path, such as "FILES/GEOTIFF", at any depth.
            default: Returned where there is no such element.

        Raises:
            InputError: There is no such element and no default.
        """
        text = self.root.findtext(f".//{path}", default) if path else self.root.text
        if text is None:
            raise InputError(f"{self.name} has no {path}; the metadata are incomplete")
        return text.strip()

    def number(self, path: str = "", default: float | None = None) -> float:
        """As `text`, but a number. InputError if it is not one."""
        text = self.text(path, None if default is None else str(default))
        try:
            number = float(text)
            if not math.isfinite(number):
                raise ValueError
            return number
        except ValueError:
            field = path or self.root.tag
            raise InputError(f"{self.name}: {field} is {text!r}, not a number") from None

    def all(self, path: str) -> "list[Fields]":
        """All elements at `path`, at any depth, in the order of the file."""
        return [Fields(node, self.name) for node in self.root.iterfind(f".//{path}")]


@dataclass(frozen=True)
class Files:
    """The files of a folder or an archive, by their path inside it ("a/b.tif")."""

    name: str
    paths: dict[str, str]  # what GDAL opens
    load: Callable[[str, int], bytes]  # the first bytes of a file

    def find(self, pattern: str) -> list[str]:
        """The files whose path matches, in any case, sorted."""
        return sorted(name for name in self.paths if re.search(pattern, name, re.IGNORECASE))

    def only(self, pattern: str) -> str | None:
        """The file whose path matches, None if there is none. InputError if there are several."""
        matches = self.find(pattern)
        if len(matches) > 1:
            listed = ", ".join(matches[:3])
            raise InputError(
                f"{self.name}: {listed}: {len(matches)} files in place of one; keep one of them"
            )
        return next(iter(matches), None)

    def sibling(self, member: str, name: str) -> str | None:
        """The file `name` in the folder of `member`, None if there is none."""
        return self.only(f"^{re.escape(str(PurePosixPath(member).parent / name))}$")

    def image(self, member: str) -> str:
        """What GDAL opens. InputError unless the file is an image of a format products have."""
        if not self.load(member, 12).startswith(MAGIC):
            raise InputError(
                f"{self.name}: {member} is neither TIFF nor JPEG 2000; the product is damaged: "
                "download it again"
            )
        return self.paths[member]

    def text(self, member: str) -> bytes:
        """A file of metadata, up to `MAX_TEXT` bytes."""
        return self.load(member, MAX_TEXT)

    def xml(self, member: str) -> Fields:
        """Parse a file of metadata. InputError if it is not XML, or declares a document type.

        No product has one, and entities, which can fill the memory, need one.
        """
        name = f"{self.name}: {member}"
        try:
            root = fromstring(self.text(member), forbid_dtd=True)
        except DTDForbidden as error:
            raise InputError(
                f"{name} declares a document type, which no product does; it is not read"
            ) from error
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            raise InputError(f"{name} is not XML ({error}); copy it again") from error
        for node in root.iter():
            node.tag = node.tag.rpartition("}")[2]  # without its namespace
        return Fields(root, name)


def list_files(path: Path) -> Files:
    """List a folder or an archive; any other file stands for the folder it is in.

    Args:
        path: A folder, a zip, a tar (plain or gzip), or a file.

    Returns:
        Its files, by their path inside it.

    Raises:
        InputError: The path does not exist, or the archive is damaged or not safe: names that
            lead out of it, too many files, too much to unpack.
    """
    if not path.exists():
        raise InputError(f"{path}: does not exist")
    if path.is_dir():
        return _folder(path, path)
    with readable(path, "archive", "copy it again"):
        if zipfile.is_zipfile(path):
            return _zip(path)
        if tarfile.is_tarfile(path):
            return _tar(path)
    if path.suffix.lower() in (".zip", ".tar", ".tgz", ".gz"):
        raise InputError(f"{path}: is a damaged archive; copy it again")
    return _folder(path, path.parent)


def _left_by_a_mac(member: str) -> bool:
    """Whether a file is one that macOS adds to archives and shared folders."""
    return bool(re.search(r"(^|/)(__MACOSX/|\._[^/]*$|\.DS_Store$)", member))


def _folder(path: Path, folder: Path) -> Files:
    def load(member: str, size: int) -> bytes:
        with open(folder / member, "rb") as file:
            return file.read(size)

    files = list(islice((file for file in folder.rglob("*") if file.is_file()), MAX_FILES + 1))
    if len(files) > MAX_FILES:
        raise InputError(f"{folder}: holds more than {MAX_FILES} files; give the product's folder")
    paths = {file.relative_to(folder).as_posix(): str(file) for file in files}
    paths = {name: place for name, place in paths.items() if not _left_by_a_mac(name)}
    return Files(str(path), paths, load)


def _checked(path: Path, members: Iterable[tuple[str, int, Any]]) -> Iterator[tuple[str, Any]]:
    """Members of an archive and their names, one by one: a bomb is noticed before it is read.

    InputError for a name that leads out of it, and once it would unpack to too much.
    """
    packed = path.stat().st_size
    total = 0
    for count, (name, size, info) in enumerate(members, 1):
        if re.search(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.([/\\]|$)", name):
            raise InputError(f"{path}: holds {name!r}, which leads out of it; not opened")
        total += size
        if count > MAX_FILES or total > min(MAX_BYTES, MAX_RATIO * packed):
            raise InputError(
                f"{path}: {packed} bytes would unpack to {total} or more; above "
                f"{MAX_RATIO} times, {MAX_BYTES >> 30} GiB or {MAX_FILES} files it is not opened. "
                f"If you trust it, {UNPACK}"
            )
        if not _left_by_a_mac(name):
            yield name, info


def _zip(path: Path) -> Files:
    paths = {}
    members = {}
    with zipfile.ZipFile(path) as archive:
        infos = [(info.filename, info.file_size, info) for info in archive.infolist()]
    for name, info in _checked(path, infos):
        if info.is_dir():
            continue
        if info.flag_bits & 1 or info.compress_type not in READ_IN_PLACE:
            raise InputError(
                f"{path}: {name} is encrypted, or compressed in a way that is not read in place; "
                f"{UNPACK}"
            )
        name = name.replace("\\", "/")  # as some programs for Windows write it
        paths[name] = f"/vsizip/{{{path.resolve()}}}/{name}"
        members[name] = info

    def load(member: str, size: int) -> bytes:
        with (
            readable(f"{path}: {member}", "file", "copy the archive again"),
            zipfile.ZipFile(path) as archive,
            archive.open(members[member]) as file,
        ):
            return file.read(size)

    return Files(str(path), paths, load)


def _tar(path: Path) -> Files:
    paths = {}
    members = {}
    prefix = ""
    with open(path, "rb") as start:
        first = start.read(6)
        if first.startswith((b"BZh", b"\xfd7zXZ", b"]\0\0")):
            raise InputError(f"{path}: is compressed by bzip2 or xz, not gzip; {UNPACK}")
        if first.startswith(b"\x1f\x8b"):  # gzip; GDAL reads no other compression
            prefix = "/vsigzip/"
            os.environ["CPL_VSIL_GZIP_WRITE_PROPERTIES"] = "NO"  # no file beside the archive
    with tarfile.open(path) as archive:
        for name, info in _checked(path, ((info.name, info.size, info) for info in archive)):
            if info.isreg():
                name = str(PurePosixPath(name))  # without a leading "./"
                members[name] = info
                # By position, not by name: GDAL's own reading of tar lacks long or accented names.
                where = f"{info.offset_data}_{info.size}"
                paths[name] = f"/vsisubfile/{where},{prefix}{path.resolve()}"

    def load(member: str, size: int) -> bytes:
        with tarfile.open(path) as archive:
            file = archive.extractfile(members[member])
            return file.read(size) if file else b""

    return Files(str(path), paths, load)
