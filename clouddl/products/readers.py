"""Which reader of this folder reads a path."""

import os
import re
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from clouddl.errors import InputError
from clouddl.products.archives import list_files
from clouddl.products.product import READERS, Product, Reader
from clouddl.products.raster import HINTS
from clouddl.products.stac import is_item, read_item

for module in iter_modules([str(Path(__file__).parent)]):  # every reader registers itself
    import_module(f"clouddl.products.{module.name}")


def find_product(path: Path | str) -> Product:
    """Recognise a product and read its metadata, but not yet its images.

    Args:
        path: A folder, a zip, a tar, a file of metadata, or a STAC item (path or address).

    Returns:
        The product; its `format` is the name of its reader.

    Raises:
        InputError: No product is known by this path (the message lists the known formats), it
            holds several, or its metadata are incomplete or damaged.
    """
    if is_item(path):
        return read_item(path)
    place = Path(path)
    files = list_files(place)
    names = [place.name] if place.is_file() and place.name in files.paths else list(files.paths)
    matches = _known_by(names)
    around = None if matches else _product_around(place)
    if names == [place.name] and (not around or f"{place.stem}.yaml" in files.paths):
        matches = matches or _known_by(names, fallback=True)
    if len(matches) > 1:
        listed = ", ".join(member for _, member in matches[:3])
        message = f"holds {len(matches)} products ({listed}); give one of these files"
        raise InputError(f"{path}: {message}")
    if not matches:
        advice = f": it is a part of one; give {around}" if around else _advice(names)
        raise InputError(f"{path}: is no product known{advice}")
    reader, member = matches[0]
    try:
        product = reader.read(files, member)
    except ZeroDivisionError as error:
        raise InputError(
            f"{path}: {member}: a scale, a gain or an irradiance is 0; the metadata are damaged: "
            "download it again"
        ) from error
    product.format = reader.name
    return product


def _advice(names: Sequence[str]) -> str:
    """What to do about files that are no product, by their names."""
    for pattern, hint in HINTS["product"].items():
        near = [name for name in names if re.search(pattern, name, re.IGNORECASE)]
        if near:
            return f": {hint.format(min(near))}"
    known = ", ".join(reader.name for reader in READERS)
    return f". Known: {known}. For an image, say --sensor"


def _product_around(path: Path) -> Path | None:
    """The file a product is known by, of which a path seems to be a part: a band, a granule."""
    for folder in list(path.absolute().parents)[:4]:
        with suppress(OSError):
            known = [name for _, name in _known_by(os.listdir(folder))]
            if known:
                return folder / get_close_matches(path.name, known, 1, 0)[0]
    return None


def _known_by(names: Sequence[str], fallback: bool = False) -> list[tuple[Reader, str]]:
    """Readers and the files they know; of one product's metadata in several formats the first."""
    matches: dict[tuple[str, str], tuple[Reader, str]] = {}
    for reader in READERS:
        for name in sorted(names):
            if reader.fallback == fallback and re.search(reader.pattern, name, re.IGNORECASE):
                matches.setdefault((reader.name, os.path.splitext(name)[0]), (reader, name))
    return list(matches.values())
