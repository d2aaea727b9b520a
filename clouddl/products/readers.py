"""Which reader of this folder reads a path."""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from clouddl.errors import InputError
from clouddl.products.archives import list_files
from clouddl.products.product import READERS, Product, Reader
from clouddl.products.raster import IN_PLACE_OF
from clouddl.products.stac import is_item, read_item

for module in iter_modules([str(Path(__file__).parent)]):  # every reader registers itself
    import_module(f"clouddl.products.{module.name}")


# What is near to a product, by the names of its files, and what makes it one.
HINTS = {
    r"(^|/)DIM_(PHR1|SPOT|PNEO)\w*_P(AN)?[_-]": "{} is panchromatic; give the multispectral image",
    r"(_B\d\d?A?|_AnalyticMS\w*|_XS\d)\.(jp2|tiff?)(\.gz)?$": (
        "{} lacks the metadata of its product (such as MTD_MSIL1C.xml, _MTL.txt, _metadata.xml); "
        "add them, or give an image with --sensor"
    ),
    r"\.(zip|tar|tgz|gz|bz2|xz|7z|rar)$": "{} is an archive; give it, unpacked if it lies in one",
    r"\.dim$": "{}: " + IN_PLACE_OF[".dim"] + ", with --sensor",
    r"\.hdr$": "{}: " + IN_PLACE_OF[".hdr"] + ", with --sensor",
    r"\.(geo)?json$": "if {} is a STAC item, give it itself",
}


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
    files = list_files(Path(path))
    name = Path(path).name
    names = [name] if Path(path).is_file() and name in files.paths else list(files.paths)
    matches = _known_by(names)
    around = None if matches else _product_around(Path(path))
    if names == [name] and (not around or f"{Path(name).stem}.yaml" in files.paths):
        matches = matches or _known_by(names, fallback=True)
    if len(matches) > 1:
        listed = ", ".join(member for _, member in matches[:3])
        message = f"holds {len(matches)} products ({listed}); give one of these files"
        raise InputError(f"{path}: {message}")
    if not matches:
        known = ", ".join(reader.name for reader in READERS)
        advice = f". Known: {known}. For an image, say --sensor"
        if around:
            advice = f": it is a part of one; give {around}"
        for pattern, hint in ({} if around else HINTS).items():
            near = [name for name in names if re.search(pattern, name, re.IGNORECASE)]
            if near:
                advice = f": {hint.format(min(near))}"
                break
        raise InputError(f"{path}: is no product known{advice}")
    reader, member = matches[0]
    try:
        product = reader.read(files, member)
    except ZeroDivisionError as error:
        message = (
            "a scale, a gain or an irradiance is 0; the metadata are damaged: download it again"
        )
        raise InputError(f"{path}: {member}: {message}") from error
    product.format = reader.name
    return product


def _product_around(path: Path) -> Path | None:
    """The file a product is known by, of which a path seems to be a part: a band, a granule."""
    for folder in list(path.absolute().parents)[:4]:
        with suppress(OSError):
            known = [name for _, name in _known_by(os.listdir(folder))]
            if known:
                return folder / get_close_matches(path.name, known, 1, 0)[0]
    return None


def _known_by(names: Iterable[str], fallback: bool = False) -> list[tuple[Reader, str]]:
    """Readers and the files they know; of one product's metadata in several formats the first."""
    matches: dict[tuple[str, str], tuple[Reader, str]] = {}
    for reader in READERS:
        for name in sorted(names):
            if reader.fallback == fallback and re.search(reader.pattern, name, re.IGNORECASE):
                matches.setdefault((reader.name, os.path.splitext(name)[0]), (reader, name))
    return list(matches.values())
