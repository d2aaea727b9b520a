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
    infos = {
        node.text("BAND_DESCRIPTION").replace("XS4", "SWIR"): node
        for node in fields.all("Spectral_Band_Info")
    }
    suns = {node.text("BAND_INDEX"): node for node in fields.all("Band_Solar_Irradiance")}
    sun = _sun(fields, fields.number("SUN_ELEVATION"))
    links = fields.all("DATA_FILE_PATH")
    name = links[0].root.get("href", "") if links else "IMAGERY.TIF"
    file = files.sibling(member, name)
    layers = [SPOT_BANDS[key] for key in ("XS3", "XS2", "XS1", "SWIR")][: len(infos)]
    product = Product(files, get_sensor(f"spot-{mission[-1]}"), "toa", nodata=0)
    for native, band in SPOT_BANDS.items():
        if native == "SWIR" and native not in infos:  # the modes of three bands
            continue
        info = infos.get(native)
        if info is None or info.text("BAND_INDEX") not in suns:
            raise InputError(f"{fields.name} has no gain or no irradiance of {native}")
        unit = sun / suns[info.text("BAND_INDEX")].number("SOLAR_IRRADIANCE_VALUE")
        scale = unit / info.number("PHYSICAL_GAIN")
        product.add(band, file, scale, unit * info.number("PHYSICAL_BIAS"), layers)
    return product


@reader("Pléiades DIMAP", r"(^|/)DIM_PHR1[AB]_P?MS_[^/]*\.xml$")
def pleiades(files: Files, member: str) -> Product:
    """Pléiades 1A/1B in DIMAP 2: Airbus, Pléiades Imagery User Guide, appendix D.

    L = DN / GAIN + BIAS (Band_Radiance), E0 is Band_Solar_Irradiance, the sun that of the centre.
    Raster_Index orders the layers, by default B2, B1, B0, B3. DN 0 is nodata. Without a CRS (SENSOR
    level) the pixel is the card's. Unchecked: that radiometry REFLECTANCE is surface × 10000.
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
    sun = _sun(fields, _centre(fields).number("SUN_ELEVATION"))
    radiance = {node.text("BAND_ID"): node for node in fields.all("Band_Radiance")}
    irradiance = {node.text("BAND_ID"): node for node in fields.all("Band_Solar_Irradiance")}
    product = Product(files, get_sensor("pleiades"), level, nodata=0)
    for native, band in PLEIADES_BANDS.items():
        if level == "surface":
            product.add(band, file, 1e-4, layers=layers)
            continue
        if native not in radiance or native not in irradiance:
            raise InputError(f"{fields.name} has no gain or no irradiance of {native}")
        sunlight = irradiance[native].number("VALUE")
        if sunlight == 999:
            sunlight = PLEIADES_IRRADIANCE[native]
        unit = sun / sunlight
        scale = unit / radiance[native].number("GAIN")
        product.add(band, file, scale, unit * radiance[native].number("BIAS"), layers)
    return product


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
