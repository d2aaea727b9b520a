"""A GeoTIFF with a sensor card of the same name beside it."""

from pathlib import Path

from clouddl.errors import InputError, readable
from clouddl.products.archives import Files
from clouddl.products.product import Product, reader, reflective
from clouddl.products.raster import open_raster
from clouddl.sensors import get_sensor


@reader("GeoTIFF with a card beside it (image.yaml)", r"\.tiff?$", fallback=True)
def geotiff(files: Files, member: str) -> Product:
    """Any GeoTIFF with a card of the same name beside it: image.tif and image.yaml.

    Its layers are known by their descriptions (common or native names), else they are the card's in
    its order. GDAL's scale and offset of a layer are used; without them it holds reflectance.
    """
    card_name = f"{Path(member).stem}.yaml"
    if card_name not in files.paths:
        raise InputError(
            f"{files.name}: has no card {card_name} beside it: write one, or give the --sensor"
        )
    card = get_sensor(Path(files.paths[card_name]))
    with (
        readable(files.name, "image", "copy it again"),
        open_raster(files.image(member)) as file,
    ):
        descriptions = file.descriptions
    natives = {band.native: band.common for band in card.bands}
    layers = [natives.get(str(name), str(name)) for name in descriptions]
    if not set(layers) & set(natives.values()):
        layers = list(natives.values())
    if len(layers) != len(descriptions):
        message = f"has {len(descriptions)} layers, its card {len(layers)} bands"
        raise InputError(f"{files.name}: {message}; describe the layers by their common names")
    product = Product(files, card, "toa", nodata=None)
    for band in reflective(card).values():
        if band in layers:
            product.add(band, member, None, None, layers)  # the file's own scale and offset
    return product
