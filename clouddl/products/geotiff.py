"""A GeoTIFF with a sensor card of the same name beside it."""

import math
from pathlib import Path

from rasterio.errors import RasterioError

from clouddl.errors import InputError
from clouddl.products.archives import Files
from clouddl.products.product import Product, reader, reflective
from clouddl.products.image import open_raster
from clouddl.sensors import get_sensor


@reader("GeoTIFF with a card beside it (image.yaml)", r"\.tiff?$")
def geotiff(files: Files, member: str) -> Product:
    """Any GeoTIFF with a card of the same name beside it: image.tif and image.yaml.

    Its layers are known by their descriptions (common or native names), else they are the card's in
    its order. GDAL's scale and offset of a layer are used; without them it holds reflectance.
    """
    card = get_sensor(Path(files.name).with_suffix(".yaml"))
    try:
        with open_raster(files.image(member)) as file:
            count, told, nodata = file.count, file.descriptions, file.nodata
            scaling = list(zip(file.scales, file.offsets, strict=True))
    except RasterioError as error:
        raise InputError(f"{files.name}: cannot be read ({error}); copy it again") from error
    names = {band.native: band.common for band in card.bands}
    layout = [names.get(str(name), str(name)) for name in told]
    if not set(layout) & set(names.values()):
        layout = list(names.values())
    if len(layout) != count:
        few = f"has {count} layers, its card {len(layout)} bands"
        raise InputError(f"{files.name}: {few}; describe the layers by their common names")
    product = Product(files, card, "toa", math.nan if nodata is None else nodata)
    for band in reflective(card).values():
        if band in layout:
            product.add(band, member, *scaling[layout.index(band)], band, layout)
    return product
