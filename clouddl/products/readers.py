"""The readers of this folder, and which of them reads a path."""

import re
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from clouddl.errors import InputError
from clouddl.products.archives import list_files
from clouddl.products.geotiff import geotiff
from clouddl.products.product import READERS, Product
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
    file = Path(path).name if Path(path).is_file() else ""
    names = [file] if file in files.paths else list(files.paths)
    matches = [
        (reader, name)
        for reader in READERS
        for name in sorted(names)
        if re.search(reader.pattern, name, re.IGNORECASE) and reader.read is not geotiff
    ]
    if not matches and file in files.paths and re.search(r"\.tiff?$", file, re.IGNORECASE):
        if f"{Path(file).stem}.yaml" not in files.paths:
            message = f"has no card {Path(file).stem}.yaml beside it: write one"
            raise InputError(f"{path}: {message}, or give the --sensor")
        matches = [(reader, file) for reader in READERS if reader.read is geotiff]
    if len(matches) > 1:
        listed = ", ".join(name for _, name in matches[:3])
        raise InputError(
            f"{path}: holds {len(matches)} products ({listed}); give one of these files"
        )
    if not matches:
        known = ", ".join(reader.name for reader in READERS)
        raise InputError(f"{path}: is no product known. Known: {known}. For an image, say --sensor")
    reader, member = matches[0]
    product = reader.read(files, member)
    product.format = reader.name
    return product
