"""Landsat of the USGS."""

import re
from xml.etree.ElementTree import Element, SubElement

from clouddl.errors import InputError
from clouddl.products.archives import Fields, Files
from clouddl.products.product import Product, reader, reflective, sine_of_sun
from clouddl.sensors import get_sensor


@reader("Landsat Collection 2", r"_MTL\.txt$")
def landsat(files: Files, member: str) -> Product:
    """Landsat 5 TM, 7 ETM+, 8 and 9 OLI, Collection 2 Level 1: USGS LSDS-1337 and LSDS-1822.

    (REFLECTANCE_MULT_BAND_n · DN + REFLECTANCE_ADD_BAND_n) / sin(SUN_ELEVATION); DN 0 is fill.
    """
    fields = _mtl(files, member)
    keys = ("SPACECRAFT_ID", "PROCESSING_LEVEL", "COLLECTION_NUMBER", "SENSOR_ID")
    identity = " ".join(fields.text(key, "unknown") for key in keys)
    match = re.match(r"LANDSAT_([5789]) L1\w+ 02 (TM|ET|OL)", identity)
    if not match:
        message = f"is {identity}; TM, ETM+, OLI at level 1 of Collection 02 are read"
        raise InputError(f"{fields.name}: {message}")
    sine = sine_of_sun(fields.number("SUN_ELEVATION"), fields.name)
    product = Product(files, get_sensor(f"landsat-{match[1]}"), "toa", nodata=0)
    for native, band in reflective(product.sensor).items():
        number = native.removeprefix("B")
        file = files.sibling(member, fields.text(f"FILE_NAME_BAND_{number}"))
        scale = fields.number(f"REFLECTANCE_MULT_BAND_{number}") / sine
        offset = fields.number(f"REFLECTANCE_ADD_BAND_{number}") / sine
        product.add(band, file, scale, offset)
    return product


def _mtl(files: Files, member: str) -> Fields:
    """The `KEY = value` lines of a file of metadata; its groups are not kept."""
    root = Element("MTL")
    for line in files.text(member).decode("utf-8", "replace").splitlines():
        key, _, value = line.partition("=")
        SubElement(root, key.strip()).text = value.strip().strip('"')
    return Fields(root, f"{files.name}: {member}")
