"""SPOT in DIMAP 1 and Pléiades in DIMAP 2, by Airbus."""

import math
from datetime import date

from clouddl.errors import InputError
from clouddl.products.archives import Fields, Files
from clouddl.products.image import Level
from clouddl.products.product import Product, reader, sine_of_sun
from clouddl.sensors import get_sensor

#: Bands of SPOT-4 and -5 as their products name them, to common names.
SPOT_BANDS = {"XS1": "green", "XS2": "red", "XS3": "nir", "SWIR": "swir16"}


PLEIADES_BANDS = {"B0": "blue", "B1": "green", "B2": "red", "B3": "nir"}


# W/m²/µm at 1 AU, where a product says 999 for "not known": acolite's figures.
PLEIADES_IRRADIANCE = {"B0": 1915.0, "B1": 1830.0, "B2": 1594.0, "B3": 1060.0}


@reader("SPOT DIMAP", r"(^|/)METADATA\.DIM$")
def spot(files: Files, member: str) -> Product:
    """SPOT-4/5 scene in DIMAP 1: SPOT product format, S5-ST-73-1-CN.

    L = DN / PHYSICAL_GAIN + PHYSICAL_BIAS; SOLAR_IRRADIANCE_VALUE goes with it by BAND_INDEX. The
    metadata list XS1, XS2, XS3, SWIR, while the file holds XS3, XS2, XS1, SWIR (so EOReader and
    others). DN 0 is nodata. Without a CRS (level 1A) the pixel is the card's.
    """
    fields = files.xml(member)
    _check_radiometry(fields, "BASIC", "SYSTEM")
    mission = fields.text("MISSION").upper() + fields.text("MISSION_INDEX", "")
    if mission not in ("SPOT4", "SPOT5"):
        raise InputError(f"{fields.name}: is of {mission}; of DIMAP 1, SPOT4 and SPOT5 are read")
    names = [node.text() for node in fields.all("Spectral_Band_Info/BAND_DESCRIPTION")]
    if not set(names) & set(SPOT_BANDS):
        message = "is panchromatic or of no band that is read; give the multispectral scene"
        raise InputError(f"{fields.name}: has the bands {', '.join(names)}: {message}")
    layers = ["nir", "red", "green", "swir16"][: len(names)]
    links = fields.all("DATA_FILE_PATH")
    link = links[0].root.get("href", "") if links else "IMAGERY.TIF"
    sun = _sun(fields, fields.number("SUN_ELEVATION"))
    product = Product(files, get_sensor(f"spot-{mission[-1]}"), "toa", nodata=0)
    for name, band in (SPOT_BANDS | {"XS4": "swir16"}).items():
        if band == "swir16" and name not in names:  # some modes have none
            continue
        info = f"Spectral_Band_Info[BAND_DESCRIPTION='{name}']"
        index = f"[BAND_INDEX='{fields.number(f'{info}/BAND_INDEX'):.0f}']"
        unit = sun / fields.number(f"Band_Solar_Irradiance{index}/SOLAR_IRRADIANCE_VALUE")
        scale = unit / fields.number(f"{info}/PHYSICAL_GAIN")
        offset = unit * fields.number(f"{info}/PHYSICAL_BIAS")
        product.add(band, files.sibling(member, link), scale, offset, layers)
    return product


@reader("Pléiades DIMAP", r"(^|/)DIM_PHR1[AB]_P?MS_[^/]*\.xml$")
def pleiades(files: Files, member: str) -> Product:
    """Pléiades 1A/1B in DIMAP 2: Airbus, Pléiades Imagery User Guide, appendix D.

    L = DN / GAIN + BIAS (Band_Radiance), E0 is Band_Solar_Irradiance, the sun that of the centre.
    Raster_Index orders the layers, by default B2, B1, B0, B3. DN 0 is nodata. Without a CRS (SENSOR
    level) the pixel is the card's. Of radiometry REFLECTANCE it is DN / GAIN + BIAS of
    Band_Reflectance, by default DN / 10000. Unchecked: that this is always surface reflectance; of
    the one real file at hand (Pléiades Neo) the gain is 10000.
    """
    fields = files.xml(member)
    radiometry = _check_radiometry(fields, "BASIC", "SYSTEM", "REFLECTANCE")
    level: Level = "surface" if radiometry == "REFLECTANCE" else "toa"
    links = fields.all("DATA_FILE_PATH")
    if len(links) != 1:
        raise InputError(
            f"{fields.name}: the image is cut into {len(links)} tiles; join them (gdalbuildvrt, "
            "gdal_translate), and name the result in the metadata"
        )
    file = files.sibling(member, links[0].root.get("href", ""))
    index = sorted(fields.all("Raster_Index"), key=lambda node: node.number("BAND_INDEX"))
    order = [node.text("BAND_ID") for node in index] or ["B2", "B1", "B0", "B3"]
    layers = [PLEIADES_BANDS.get(name, name) for name in order]
    product = Product(files, get_sensor("pleiades"), level, nodata=0)
    for name, band in PLEIADES_BANDS.items():
        if level == "toa":
            scale, offset = _pleiades_radiance(fields, name)
        else:
            gained = f"Band_Reflectance[BAND_ID='{name}']"
            scale = 1 / fields.number(f"{gained}/GAIN", 10000)
            offset = fields.number(f"{gained}/BIAS", 0)
        product.add(band, file, scale, offset, layers)
    return product


def _pleiades_radiance(fields: Fields, name: str) -> tuple[float, float]:
    """Scale and offset of a band whose numbers are radiance."""
    irradiance = fields.number(f"Band_Solar_Irradiance[BAND_ID='{name}']/VALUE")
    if irradiance == 999:
        irradiance = PLEIADES_IRRADIANCE[name]
    unit = _sun(fields, _centre(fields).number("SUN_ELEVATION")) / irradiance
    radiance = f"Band_Radiance[BAND_ID='{name}']"
    scale = unit / fields.number(f"{radiance}/GAIN")
    return scale, unit * fields.number(f"{radiance}/BIAS")


def _check_radiometry(fields: Fields, *known: str) -> str:
    """The radiometry of a product; InputError unless its numbers are radiance or reflectance."""
    radiometry = fields.text("RADIOMETRIC_PROCESSING", "BASIC").upper()
    if radiometry not in known:
        message = "so its numbers hold no radiance; order it with basic radiometry"
        raise InputError(
            f"{fields.name}: wrong scale: RADIOMETRIC_PROCESSING is {radiometry}, {message}"
        )
    return radiometry


def _centre(fields: Fields) -> Fields:
    """Where the angles of the centre of the image are; else the first angles of the metadata."""
    places = fields.all("Located_Geometric_Values")
    for place in places:
        if place.text("LOCATION_TYPE", "").upper() == "CENTER":
            return place
    return places[0] if places else fields


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
    return math.pi * distance**2 / sine_of_sun(elevation, fields.name)
