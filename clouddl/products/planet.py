"""PlanetScope of Planet."""

import re

from clouddl.errors import InputError
from clouddl.products.archives import Files
from clouddl.products.product import Product, reader, reflective, sun_elevation
from clouddl.sensors import get_sensor

#: Layers of an image by their number.
LAYERS = {
    4: ["blue", "green", "red", "nir"],
    8: ["coastal", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"],
}


# What may follow the name of an image: made like Sentinel-2, cut to an area of interest.
CUT = r"(_harmonized)?(_clip)?\.tif$"


@reader("PlanetScope", r"_AnalyticMS(_8b)?_metadata[^/]*\.xml$")
def planetscope(files: Files, member: str) -> Product:
    """PlanetScope scenes, analytic: Planet Imagery Product Specification.

    `_AnalyticMS.tif` or `_AnalyticMS_8b.tif`: DN × reflectanceCoefficient of the band's metadata;
    `_AnalyticMS_SR.tif` or `_AnalyticMS_SR_8b.tif`: surface reflectance × 10000. Of SuperDove's
    eight bands the four of the card are read.
    """
    fields = files.xml(member)
    nodes = {node.number("bandNumber"): node for node in fields.all("bandSpecificMetadata")}
    layers = LAYERS.get(len(nodes), [])
    if not layers or set(nodes) != set(range(1, len(nodes) + 1)):
        raise InputError(f"{fields.name}: has {len(nodes)} bands; products of 4 or 8 are read")
    scene = "^" + re.escape(member[: member.lower().rfind("_analyticms")]) + "_AnalyticMS"
    eight = "_8b" if len(nodes) == 8 else ""
    toa = files.only(rf"{scene}{eight}{CUT}")
    file = toa or files.only(rf"{scene}(_SR{eight}|{eight}_SR){CUT}")
    product = Product(files, get_sensor("planetscope"), "toa" if toa else "surface", nodata=0)
    product.sun = sun_elevation(fields, "illuminationElevationAngle")
    for band in reflective(product.sensor).values():
        node = nodes[layers.index(band) + 1]
        scale = node.number("reflectanceCoefficient") if toa else 1e-4
        product.add(band, file, scale, layers=layers)
    return product
