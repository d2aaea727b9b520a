"""Patches of CloudSEN12."""

from clouddl.products.archives import Files
from clouddl.products.product import Product, reader
from clouddl.sensors import get_sensor


@reader("CloudSEN12", r"(^|/)S2L1C\.tif$")
def cloudsen12(files: Files, member: str) -> Product:
    """A patch of CloudSEN12: S2L1C.tif, 13 bands in ESA's order × 10000, and labels/.

    Aybar et al. 2022, doi:10.1038/s41597-022-01878-2.
    """
    product = Product(files, get_sensor("sentinel-2"), "toa", nodata=0)
    layers = product.sensor.commons
    for band in layers:
        product.add(band, member, 1e-4, layers=layers)
    return product
