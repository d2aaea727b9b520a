"""Products of Theia: MUSCATE (Sentinel-2, Venµs, SPOT World Heritage) and SPOT Take5."""

import re

from clouddl.errors import InputError
from clouddl.products.archives import Files
from clouddl.products.dimap import SPOT_BANDS
from clouddl.products.product import MASKS, Product, reader, reflective, sun_elevation
from clouddl.products.reading import Level
from clouddl.sensors import get_sensor

PLATFORMS = {"SENTINEL2": "sentinel-2", "VENUS": "venus", "SPOT4": "spot-4", "SPOT5": "spot-5"}


NODATA = {"toa": 0, "surface": -10000}  # of MUSCATE, where the metadata do not say it


TAKE5_FILES = {"toa": ["GEOTIFF"], "surface": ["ORTHO_SURF_CORR_ENV", "ORTHO_SURF_CORR_PENTE"]}


# The cloud mask of Venµs keeps the order of bits of MAJA's native format.
VENUS_CODES = {"maja-clm-muscate": "maja-clm-native"}


@reader("MUSCATE (Theia)", r"_MTD_ALL\.xml$")
def muscate(files: Files, member: str) -> Product:
    """MUSCATE products of Theia: Sentinel-2 and Venµs (MAJA), SPOT World Heritage level 1C.

    https://labo.obs-mip.fr/multitemp/sentinel-2/theias-sentinel-2-l2a-product-format/ and, for
    Venµs, https://www.cesbio.cnrs.fr/multitemp/format-of-venµs-l2a-produced-by-muscate/ : a TIFF
    per band, DN / REFLECTANCE_QUANTIFICATION_VALUE. SRE is read before FRE, which has the relief
    flattened and so is further from what was seen. Unchecked: the names of SPOT World Heritage's
    files, known from Start-MAJA's patterns only (*XS1*.tif, *SWIR*.tif, nodata 0).
    """
    fields = files.xml(member)
    platform = fields.text("PLATFORM").upper().replace("-", "")
    cards = [card for name, card in PLATFORMS.items() if platform.startswith(name)]
    if not cards:
        raise InputError(f"{fields.name}: no reader for {platform}; for {', '.join(PLATFORMS)}")
    card = get_sensor(cards[0])
    level: Level = "toa" if fields.text("PRODUCT_LEVEL").startswith("L1") else "surface"
    nodata = fields.number("SPECIAL_VALUE[@name='nodata']", NODATA[level])
    scale = 1 / fields.number("REFLECTANCE_QUANTIFICATION_VALUE")
    product = Product(files, card, level, nodata)
    product.sun = sun_elevation(fields, "Mean_Value_List/Sun_Angles/ZENITH_ANGLE", zenith=True)
    bands = reflective(card)
    if card.id == "sentinel-2":
        bands = {name: band for name, band in bands.items() if name not in ("B1", "B9", "B10")}
    elif card.id == "venus":
        product.masks = {file: VENUS_CODES.get(codes, codes) for file, codes in MASKS.items()}
    else:
        bands = SPOT_BANDS
    folder = "^" + re.escape(member[: member.rfind("/") + 1])
    prefixes = ("REF_", "SRE_", "FRE_")  # REF: level 1; one for all bands
    prefix = next((p for p in prefixes if files.find(rf"{folder}[^/]*_{p}[^/]*\.tif$")), "")
    for name, band in bands.items():
        product.add(band, files.only(rf"{folder}[^/]*_{prefix}{name}\.tif$"), scale)
    return product


@reader("SPOT Take5", r"(^|/)SPOT\d_\w+_XS_\d{8}_N[^/]*\.xml$")
def take5(files: Files, member: str) -> Product:
    """SPOT-4 and -5 Take5 of Theia, levels 1C (N1, top-of-atmosphere) and 2A (N2A, surface).

    One TIFF of XS1, XS2, XS3, SWIR; the metadata name it, its bands and the QUANTIFICATION (1000).
    https://www.theia-land.fr/en/product/spot-4-take-5/ and SNAP's reader. ENV is read before PENTE,
    which has the relief flattened. Unchecked: nodata -10000.
    """
    fields = files.xml(member)
    platform = fields.text("PLATEFORM").upper()
    if platform not in ("SPOT4", "SPOT5"):
        raise InputError(f"{fields.name}: PLATEFORM is {platform}, not SPOT4 or SPOT5")
    level: Level = "toa" if fields.text("LEVEL").upper().startswith("N1") else "surface"
    names = [fields.text(f"FILES/{tag}", "") for tag in TAKE5_FILES[level]]
    matches = [files.sibling(member, name) for name in names if name]
    file = next(filter(None, matches), None)
    quantity = fields.number("QUANTIFICATION/VALUE", 0) or fields.number("QUANTIFICATION", 1000)
    layers = [SPOT_BANDS.get(name, name) for name in fields.text("BANDS").upper().split(";")]
    product = Product(files, get_sensor(PLATFORMS[platform]), level, nodata=-10000)
    for band in SPOT_BANDS.values():
        product.add(band, file, 1 / quantity, layers=layers)
    return product
