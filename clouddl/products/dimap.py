"""SPOT-4/5 in DIMAP 1; Pléiades, Pléiades Neo and SPOT-6/7 in DIMAP 2; by Airbus."""

import math
from datetime import date
from pathlib import Path

from clouddl.errors import InputError, read_yaml
from clouddl.products.archives import Fields, Files
from clouddl.products.image import JOIN
from clouddl.products.product import Product, reader, sine_of_sun, sun_elevation
from clouddl.products.reading import Level
from clouddl.sensors import get_sensor

#: Bands of SPOT-4 and -5 as their products name them, to common names.
SPOT_BANDS = {"XS1": "green", "XS2": "red", "XS3": "nir", "SWIR": "swir16"}


#: What products in DIMAP 2 of a satellite have in common; its head says what the fields mean.
SATELLITES = read_yaml(Path(__file__).with_name("dimap.yaml"), "table of satellites")


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
        raise InputError(
            f"{fields.name}: has the bands {', '.join(names)}: is panchromatic or of no band that "
            "is read; give the multispectral scene"
        )
    layers = ["nir", "red", "green", "swir16"][: len(names)]
    links = fields.all("DATA_FILE_PATH")
    link = links[0].root.get("href", "") if links else "IMAGERY.TIF"
    sun = _sun(fields, fields.number("SUN_ELEVATION"))
    product = Product(files, get_sensor(f"spot-{mission[-1]}"), "toa", nodata=0)
    product.sun = sun_elevation(fields, "SUN_ELEVATION")
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


@reader("Pléiades DIMAP", r"(^|/)DIM_PHR1[AB]_P?MS(-[NX])?_[^/]*\.xml$")
def pleiades(files: Files, member: str) -> Product:
    """Pléiades 1A/1B in DIMAP 2: Airbus, Pléiades Imagery User Guide, appendix D.

    L = DN / GAIN + BIAS (Band_Radiance), E0 is Band_Solar_Irradiance, the sun that of the centre.
    Raster_Index orders the layers, by default B2, B1, B0, B3. DN 0 is nodata, unless Special_Value
    says another. Without a CRS (SENSOR level) the pixel is the card's. Tiles (R1C1, R1C2, ...) are
    read as one image. Of radiometry REFLECTANCE it is DN / GAIN + BIAS of Band_Reflectance, by
    default DN / 10000. This is reflectance from which, as Airbus announced it in February 2017,
    the scattering by air molecules is taken off, but no haze, aerosol or cloud; it is read as
    surface reflectance. Unchecked on a real product: the one at hand has words for numbers.
    """
    return _dimap2(files, member, "PHR")


@reader("SPOT-6/7 DIMAP", r"(^|/)DIM_SPOT[67]_P?MS(-[NX])?_[^/]*\.xml$")
def spot_6_7(files: Files, member: str) -> Product:
    """SPOT-6 and SPOT-7 in DIMAP 2: Astrium, SPOT 6 & SPOT 7 Imagery User Guide, appendix A.

    The same format as Pléiades, with the same bands B0 to B3 (blue to NIR), see `pleiades`; no
    SWIR. An irradiance of 999, "not known", is refused. Unchecked: no real product was at hand, and
    the twin of the tests was made after EOReader, OTB and the metadata of Pléiades.
    """
    return _dimap2(files, member, "SPOT")


@reader("Pléiades Neo DIMAP", r"(^|/)DIM_(PNEO\d_([^/]*_)?)?P?MS(-FS|-[NX])?(_[^/]*)?\.xml$")
def pleiades_neo(files: Files, member: str) -> Product:
    """Pléiades Neo in DIMAP 2: the metadata of GDAL's test file vhr2020_ms_fs, and acolite.

    Six bands lie in two files, _RGB_ and _NED_ (NIR, RE, DB), each with a Raster_Index of its own;
    otherwise the same as Pléiades, see `pleiades`. Where BAND_INDEX does not number the layers of
    its file from 1 (that test file says 4, 2, 3 of _NED_), their order in the list counts. Of
    radiometry REFLECTANCE: DN / GAIN + BIAS of Band_Reflectance for every band. There Band_Radiance
    leads from this reflectance back to radiance at the top of the atmosphere, as acolite does; it
    is not used, since those of the test file are not plausible (more light in NIR than arrives).
    Unchecked on other pixels than the constant ones of that file.
    """
    return _dimap2(files, member, "PNEO")


def _dimap2(files: Files, member: str, family: str) -> Product:
    """A product in DIMAP 2 of one of the `SATELLITES` whose names begin with `family`."""
    fields = files.xml(member)
    radiometry = _check_radiometry(fields, "BASIC", "SYSTEM", "REFLECTANCE")
    level: Level = "surface" if radiometry == "REFLECTANCE" else "toa"
    mission = fields.text("MISSION").upper() + fields.text("MISSION_INDEX", "").upper()
    known = [name for name in SATELLITES if name.startswith(family)]
    if mission not in known:
        raise InputError(
            f"{fields.name}: is of {mission}, but its name is one of {', '.join(known)}; it was "
            "renamed, or is damaged"
        )
    nodata = fields.number("Special_Value[SPECIAL_VALUE_TEXT='NODATA']/SPECIAL_VALUE_COUNT", 0)
    satellite = SATELLITES[mission]
    bands = satellite["bands"]
    product = Product(files, get_sensor(satellite["card"]), level, nodata)
    product.sun = sun_elevation(_centre(fields), "SUN_ELEVATION")
    where: dict[str, tuple[list[str], list[list[str | None]]]] = {}
    for group in fields.all("Data_Files"):
        order = _order_of_layers(group, fields, satellite.get("layers"))
        where |= dict.fromkeys(order, (order, _tiles(group, fields, files, member)))
    for name, band in bands.items():
        if name not in where:  # three bands were ordered
            continue
        order, tiles = where[name]
        layers = [bands.get(layer, layer) for layer in order]
        if level == "surface":
            reflectance = f"Band_Reflectance[BAND_ID='{name}']"
            scale = 1 / fields.number(f"{reflectance}/GAIN", 10000)
            offset = fields.number(f"{reflectance}/BIAS", 0)
        else:
            scale, offset = _radiance(fields, name, satellite.get("irradiance", {}))
        product.add(band, tiles[0][0], scale, offset, layers, tiles)
    return product


def _order_of_layers(group: Fields, fields: Fields, usual: list[str] | None) -> list[str]:
    """BAND_ID of the layers of a file, by its own list or by that of the product."""
    index = group.all("Raster_Index") or fields.all("Raster_Index")
    if not index and not usual:
        raise InputError(f"{fields.name} has no Raster_Index; the metadata are incomplete")
    numbers = [node.number("BAND_INDEX") for node in index]
    if sorted(numbers) == list(range(1, len(index) + 1)):
        index = sorted(index, key=lambda node: node.number("BAND_INDEX"))
    return [node.text("BAND_ID") for node in index] or usual or []


def _tiles(group: Fields, fields: Fields, files: Files, member: str) -> list[list[str | None]]:
    """The files of an image as rows of tiles, None where one is missing."""
    places: dict[tuple[int, int], str | None] = {}
    for tile in group.all("Data_File"):
        link = tile.root.find("DATA_FILE_PATH")
        href = "" if link is None else link.get("href", "")
        row, column = (tile.root.get(name, "1") for name in ("tile_R", "tile_C"))
        if not row.isdecimal() or not column.isdecimal() or (int(row), int(column)) in places:
            raise InputError(f"{group.name}: where does the tile {href!r} lie? {JOIN}")
        places[int(row), int(column)] = files.sibling(member, href)
    if not places:
        raise InputError(f"{group.name} has no Data_File; the metadata are incomplete")
    height, width = (max(numbers) for numbers in zip(*places, strict=True))
    overlap = fields.number("OVERLAP_ROW", 0) + fields.number("OVERLAP_COL", 0)
    if len(places) > 1 and overlap:
        raise InputError(f"{group.name}: its tiles overlap, by {overlap:g} pixels; {JOIN}")
    if len(places) != height * width:
        raise InputError(
            f"{group.name}: names {len(places)} tiles, not the {height} x {width} of its rows and "
            f"columns; {JOIN}"
        )
    return [[places[row, column] for column in range(1, width + 1)] for row in range(1, height + 1)]


def _radiance(fields: Fields, name: str, known: dict[str, float]) -> tuple[float, float]:
    """Scale and offset of a band whose numbers are radiance; `known` are irradiances."""
    irradiance = fields.number(f"Band_Solar_Irradiance[BAND_ID='{name}']/VALUE")
    if irradiance == 999:
        if name not in known:
            raise InputError(
                f"{fields.name}: the solar irradiance of {name} is 999, not known; give the image "
                "by --sensor and --scale"
            )
        irradiance = known[name]
    unit = _sun(fields, _centre(fields).number("SUN_ELEVATION")) / irradiance
    radiance = f"Band_Radiance[BAND_ID='{name}']"
    scale = unit / fields.number(f"{radiance}/GAIN")
    return scale, unit * fields.number(f"{radiance}/BIAS")


def _check_radiometry(fields: Fields, *known: str) -> str:
    """The radiometry of a product; InputError unless its numbers are radiance or reflectance."""
    radiometry = fields.text("RADIOMETRIC_PROCESSING", "BASIC").upper()
    if radiometry not in known:
        raise InputError(
            f"{fields.name}: wrong scale: RADIOMETRIC_PROCESSING is {radiometry}, so its numbers "
            "hold no radiance; order it with basic radiometry"
        )
    return radiometry


def _centre(fields: Fields) -> Fields:
    """Where the angles of the centre of the image are; else the first angles of the metadata."""
    places = fields.all("Located_Geometric_Values")
    centres = [place for place in places if place.text("LOCATION_TYPE", "").upper() == "CENTER"]
    return [*centres, *places, fields][0]


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
