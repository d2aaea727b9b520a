"""Landsat of USGS."""

import re

from clouddl.errors import InputError
from clouddl.products.archives import Files
from clouddl.products.product import Product, reader, reflective, sine
from clouddl.sensors import get_sensor


@reader("Landsat Collection 2", r"_MTL\.txt$")
def landsat(files: Files, member: str) -> Product:
    """Landsat 5 TM, 7 ETM+, 8 and 9 OLI, Collection 2 Level 1: USGS LSDS-1337 and LSDS-1822.

    (REFLECTANCE_MULT_BAND_n · DN + REFLECTANCE_ADD_BAND_n) / sin(SUN_ELEVATION); DN 0 is fill.
    """
    name = f"{files.name}: {member}"
    told: dict[str, str] = {}
    for line in files.text(member).decode("utf-8", "replace").splitlines():
        key, _, value = (part.strip().strip('"') for part in line.partition("="))
        told.setdefault(key, value)
    is_a = [told.get(key) for key in ("SPACECRAFT_ID", "PROCESSING_LEVEL", "COLLECTION_NUMBER")]
    read = re.fullmatch(r"LANDSAT_([5789]) L1\w+ 02", " ".join(map(str, is_a)))
    if not read or told.get("SENSOR_ID", "")[:2] not in ("TM", "ET", "OL"):
        what = f"{' '.join(map(str, is_a))} {told.get('SENSOR_ID')}"
        raise InputError(f"{name}: is {what}; TM, ETM+, OLI at level 1 of Collection 02 are read")
    product = Product(files, get_sensor(f"landsat-{read[1]}"), "toa", nodata=0)
    try:
        unit = sine(float(told["SUN_ELEVATION"]), name)
        for native, band in reflective(product.sensor).items():
            number = native[1:]
            file = files.beside(member, told[f"FILE_NAME_BAND_{number}"])
            scale = float(told[f"REFLECTANCE_MULT_BAND_{number}"]) / unit
            offset = float(told[f"REFLECTANCE_ADD_BAND_{number}"]) / unit
            product.add(band, file, scale, offset)
    except KeyError as error:
        raise InputError(f"{name} has no {error.args[0]}; the metadata are incomplete") from error
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{name}: {error}") from error
    return product
