"""A GeoTIFF with a sensor card of the same name beside it."""

from pathlib import Path

from rasterio.errors import RasterioError

from clouddl.errors import InputError
from clouddl.products.archives import Files
from clouddl.products.image import open_raster
from clouddl.products.product import Product, reader, reflective
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
    try:
        with open_raster(files.image(member)) as file:
            descriptions = file.descriptions
            scales = file.scales
            offsets = file.offsets
    except RasterioError as error:
        raise InputError(f"{files.name}: cannot be read ({error}); copy it again") from error
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
            index = layers.index(band)
            product.add(band, member, scales[index], offsets[index], layers)
    return product
