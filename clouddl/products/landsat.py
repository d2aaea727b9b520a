"""Landsat of the USGS."""

import json
import re
from xml.etree.ElementTree import Element, SubElement

from rasterio.windows import Window

from clouddl.errors import InputError, readable, warn
from clouddl.products.archives import Fields, Files
from clouddl.products.product import Product, reader, reflective, sine_of_sun, sun_elevation
from clouddl.products.raster import open_raster
from clouddl.products.reading import Level
from clouddl.sensors import get_sensor

QA_PIXEL = r"_QA_PIXEL\.tif$"


CENTRE = 1024  # pixels a side of the part of a quality band whose codes are looked at


@reader("Landsat Collection 2", r"_MTL\.(txt|xml|json)$")
def landsat(files: Files, member: str) -> Product:
    """Landsat 4, 5 TM, 7 ETM+, 8, 9 OLI, Collection 2: USGS LSDS-1337, -1619, -1618 and -1822.

    REFLECTANCE_MULT_BAND_n · DN + REFLECTANCE_ADD_BAND_n; at level 1 this is divided by
    sin(SUN_ELEVATION), at level 2 it is surface reflectance as it is, without a cirrus band. Level
    2 repeats the factors of level 1, so those of its own group are read. DN 0 is fill.
    """
    fields = _mtl(files, member)
    craft, level = _identify(fields)
    prefix = "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS/"
    divisor = 1.0
    if level == "toa":
        prefix = ""
        divisor = sine_of_sun(fields.number("SUN_ELEVATION"), fields.name)
    product = Product(files, get_sensor(craft), level, nodata=0)
    product.sun = sun_elevation(fields, "SUN_ELEVATION")
    for native, band in reflective(product.sensor, level).items():
        number = native.removeprefix("B")
        file = files.sibling(member, fields.text(f"FILE_NAME_BAND_{number}"))
        scale = fields.number(f"{prefix}REFLECTANCE_MULT_BAND_{number}") / divisor
        offset = fields.number(f"{prefix}REFLECTANCE_ADD_BAND_{number}") / divisor
        product.add(band, file, scale, offset)
    _check_quality(product)
    return product


def _identify(fields: Fields) -> tuple[str, Level]:
    """The card of a product and its level; InputError if it is not read."""
    craft = fields.text("SPACECRAFT_ID")
    level = fields.text("PROCESSING_LEVEL", "") or fields.text("DATA_TYPE", "unknown")
    collection = fields.text("COLLECTION_NUMBER", "")
    camera = fields.text("SENSOR_ID", "unknown")
    match = re.match(
        r"LANDSAT_([45789]) L([12])\w+ 02 (TM|ET|OL)", f"{craft} {level} {collection} {camera}"
    )
    if not match:
        edition = f"Collection {collection}" if collection else "before the Collections"
        raise InputError(
            f"{fields.name}: is {craft} {level} {camera}, {edition}; TM, ETM+, OLI at level 1 or 2 "
            "of Collection 02 are read: order the scene anew from the USGS"
        )
    return f"landsat-{match[1].replace('4', '5')}", "toa" if match[2] == "1" else "surface"


def _check_quality(product: Product) -> None:
    """Read a quality band that holds the codes of Collection 1 with these, and warn.

    Of Collection 2 all pixels but fill say how sure shadow and snow are (bits 10 to 13): low or
    high, never medium or nothing. Some Collection 1 products were converted by name only.
    """
    member = product.files.only(QA_PIXEL)
    if member is None:
        return
    with open_raster(product.files.image(member)) as file:
        rows, columns = (min(size, CENTRE) for size in file.shape)
        top, left = (file.height - rows) // 2, (file.width - columns) // 2
        codes = file.read(1, window=Window(left, top, columns, rows)).astype(int)
    codes = codes[codes & 1 == 0]
    valid = (codes >> 10 & 1) & (codes >> 12 & 1)
    if codes.size and valid.mean() < 0.5:
        product.masks = product.masks | {QA_PIXEL: "bqa"}
        warn(
            f"{product.files.name}: {member} holds codes of Collection 1 (such as {codes[0]}), "
            "although the metadata are of Collection 2; it is read with them"
        )


def _mtl(files: Files, member: str) -> Fields:
    """The fields of a file of metadata, in their groups: XML, JSON, or lines `KEY = value`."""
    if member.lower().endswith(".xml"):
        return files.xml(member)
    name = f"{files.name}: {member}"
    if member.lower().endswith(".json"):
        with readable(name, "metadata", "download it again"):
            return Fields(_element("MTL", json.loads(files.text(member))), name)
    root = Element("MTL")
    groups = [root]
    for line in files.text(member).decode("utf-8", "replace").splitlines():
        key, _, value = line.partition("=")
        key, text = key.strip(), value.strip().strip('"')
        if key == "GROUP":
            groups.append(SubElement(groups[-1], text))
        elif key == "END_GROUP":
            groups = groups[:1] + groups[1:-1]
        else:
            SubElement(groups[-1], key).text = text
    return Fields(root, name)


def _element(name: str, fields: object) -> Element:
    """Nested fields as XML."""
    element = Element(name)
    if isinstance(fields, dict):
        element.extend([_element(str(key), value) for key, value in fields.items()])
    else:
        element.text = str(fields)
    return element
