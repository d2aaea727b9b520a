"""SPOT in DIMAP 1 and Pléiades in DIMAP 2, of Airbus."""

import math
from datetime import date

from clouddl.errors import InputError
from clouddl.products.archives import Fields, Files
from clouddl.products.product import Product, reader, reflective, sine
from clouddl.sensors import get_sensor

SPOT = {"B1": "XS1", "B2": "XS2", "B3": "XS3", "B4": "SWIR"}  # the card's names to the products'


def _sun(fields: Fields, elevation: float) -> float:
    """π d² / sin(elevation), d being the distance of the sun in astronomical units on IMAGING_DATE.

    Reflectance is this times radiance over the irradiance of the sun at 1 AU. d is that of 6S, as
    in OTB's VarSol: 1 - 0.01673 cos(0.9856° (day of the year - 4)).
    """
    day = fields.text("IMAGING_DATE")
    try:
        since = date.fromisoformat(day[:10]).timetuple().tm_yday - 4
    except ValueError:
        raise InputError(f"{fields.name}: IMAGING_DATE {day!r} is not YYYY-MM-DD") from None
    distance = 1 - 0.01673 * math.cos(math.radians(0.9856 * since))
    return math.pi * distance**2 / sine(elevation, fields.name)


def _basic(fields: Fields, *also: str) -> None:
    """Raise InputError unless the numbers of a DIMAP product are radiance (or `also`)."""
    kind = fields.text("RADIOMETRIC_PROCESSING", "BASIC").upper()
    if kind not in ("BASIC", "SYSTEM", *also):
        told = "so its numbers hold no radiance; order it with basic radiometry"
        raise InputError(f"{fields.name}: wrong scale: RADIOMETRIC_PROCESSING is {kind}, {told}")


@reader("SPOT DIMAP", r"(^|/)METADATA\.DIM$")
def spot(files: Files, member: str) -> Product:
    """SPOT-4/5 scene in DIMAP 1: SPOT product format, S5-ST-73-1-CN.

    L = DN / PHYSICAL_GAIN + PHYSICAL_BIAS; SOLAR_IRRADIANCE_VALUE goes with it by BAND_INDEX. The
    metadata list XS1, XS2, XS3, SWIR, while the file holds XS3, XS2, XS1, SWIR (so EOReader and
    others). DN 0 is nodata. Without a CRS (level 1A) the pixel is the card's.
    """
    fields = files.xml(member)
    _basic(fields)
    mission = fields.text("MISSION").upper() + fields.text("MISSION_INDEX", "")
    if mission not in ("SPOT4", "SPOT5"):
        raise InputError(f"{fields.name}: is of {mission}; of DIMAP 1, SPOT4 and SPOT5 are read")
    sun = _sun(fields, fields.number("SUN_ELEVATION"))
    irradiance = {node.text("BAND_INDEX"): node.number("SOLAR_IRRADIANCE_VALUE")
                  for node in fields.each("Band_Solar_Irradiance")}  # fmt: skip
    physical = {node.text("BAND_DESCRIPTION").replace("XS4", "SWIR"): node
                for node in fields.each("Spectral_Band_Info")}  # fmt: skip
    link = fields.root.find(".//DATA_FILE_PATH")
    file = files.beside(member, "IMAGERY.TIF" if link is None else str(link.get("href")))
    product = Product(files, get_sensor(f"spot-{mission[4]}"), "toa", nodata=0)
    for native, band in reflective(product.sensor).items():
        name = SPOT[native]
        if name == "SWIR" and name not in physical:  # the modes of three bands
            continue
        node = physical.get(name)
        if node is None or node.text("BAND_INDEX") not in irradiance:
            raise InputError(f"{fields.name} has no gain or no irradiance of {name}")
        unit = sun / irradiance[node.text("BAND_INDEX")]
        scale, offset = unit / node.number("PHYSICAL_GAIN"), unit * node.number("PHYSICAL_BIAS")
        layout = ["XS3", "XS2", "XS1", "SWIR"][: len(physical)]
        product.add(band, file, scale, offset, name, layout)
    return product


# W/m²/µm at 1 AU, where a product says 999 for "not known": acolite's figures.
PLEIADES_IRRADIANCE = {"B0": 1915.0, "B1": 1830.0, "B2": 1594.0, "B3": 1060.0}


@reader("Pléiades DIMAP", r"(^|/)DIM_PHR1[AB]_P?MS_[^/]*\.xml$")
def pleiades(files: Files, member: str) -> Product:
    """Pléiades 1A/1B in DIMAP 2: Airbus, Pléiades Imagery User Guide, appendix D.

    L = DN / GAIN + BIAS (Band_Radiance), E0 is Band_Solar_Irradiance, the sun that of the centre.
    Raster_Index orders the layers, by default B2, B1, B0, B3. DN 0 is nodata. Without a CRS (SENSOR
    level) the pixel is the card's. Unchecked: that radiometry REFLECTANCE is surface × 10000.
    """
    fields = files.xml(member)
    _basic(fields, "REFLECTANCE")
    surface = fields.text("RADIOMETRIC_PROCESSING", "").upper() == "REFLECTANCE"
    places = fields.each("Located_Geometric_Values") or [fields]
    centre = [place for place in places if place.text("LOCATION_TYPE", "").upper() == "CENTER"]
    sun = _sun(fields, (centre or places)[0].number("SUN_ELEVATION"))
    radiance, irradiance = (
        {node.text("BAND_ID"): node for node in fields.each(name)}
        for name in ("Band_Radiance", "Band_Solar_Irradiance")
    )
    index = sorted(fields.each("Raster_Index"), key=lambda node: node.number("BAND_INDEX"))
    layout = [node.text("BAND_ID") for node in index] or ["B2", "B1", "B0", "B3"]
    links = [str(node.root.get("href")) for node in fields.each("DATA_FILE_PATH")]
    if len(links) != 1:
        told = "join them (gdalbuildvrt, gdal_translate), and name the result in the metadata"
        raise InputError(f"{fields.name}: the image is cut into {len(links)} tiles; {told}")
    product = Product(files, get_sensor("pleiades"), "surface" if surface else "toa", nodata=0)
    for native, band in reflective(product.sensor).items():
        scale, offset = 1e-4, 0.0
        if not surface:
            if native not in radiance or native not in irradiance:
                raise InputError(f"{fields.name} has no gain or no irradiance of {native}")
            sunlight = irradiance[native].number("VALUE")
            unit = sun / (PLEIADES_IRRADIANCE[native] if sunlight == 999 else sunlight)
            scale = unit / radiance[native].number("GAIN")
            offset = unit * radiance[native].number("BIAS")
        product.add(band, files.beside(member, links[0]), scale, offset, native, layout)
    return product
