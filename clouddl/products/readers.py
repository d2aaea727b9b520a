"""Which reader of this folder reads a path."""

import re
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from clouddl.errors import InputError
from clouddl.products.archives import list_files
from clouddl.products.product import READERS, Product, Reader
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
    files = list_files(Path(path))
    name = Path(path).name
    if Path(path).is_file() and name in files.paths:
        matches = _known_by([name]) or _known_by([name], fallback=True)
    else:
        matches = _known_by(files.paths)
    if len(matches) > 1:
        listed = ", ".join(member for _, member in matches[:3])
        message = f"holds {len(matches)} products ({listed}); give one of these files"
        raise InputError(f"{path}: {message}")
    if not matches:
        known = ", ".join(reader.name for reader in READERS)
        raise InputError(f"{path}: is no product known. Known: {known}. For an image, say --sensor")
    reader, member = matches[0]
    product = reader.read(files, member)
    product.format = reader.name
    return product


def _known_by(names: Iterable[str], fallback: bool = False) -> list[tuple[Reader, str]]:
    return [
        (reader, name)
        for reader in READERS
        for name in sorted(names)
        if reader.fallback == fallback and re.search(reader.pattern, name, re.IGNORECASE)
    ]
