"""Products of Theia: MUSCATE (Sentinel-2, Venµs, SPOT World Heritage) and SPOT Take5."""

import re

from clouddl.errors import InputError
from clouddl.products.archives import Files
from clouddl.products.product import Product, reader, reflective
from clouddl.sensors import get_sensor

PLATFORMS = {"SENTINEL2": "sentinel-2", "VENUS": "venus", "SPOT4": "spot-4", "SPOT5": "spot-5"}


SPOT = {"B1": "XS1", "B2": "XS2", "B3": "XS3", "B4": "SWIR"}  # the card's names to the products'


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
    known = [card for name, card in PLATFORMS.items() if platform.startswith(name)]
    if not known:
        raise InputError(f"{fields.name}: no reader for {platform}; for {', '.join(PLATFORMS)}")
    card, surface = get_sensor(known[0]), not fields.text("PRODUCT_LEVEL").startswith("L1")
    nodata = fields.number("SPECIAL_VALUE[@name='nodata']", -10000 if surface else 0)
    product = Product(files, card, "surface" if surface else "toa", nodata)
    scale = 1 / fields.number("REFLECTANCE_QUANTIFICATION_VALUE")
    folder = "^" + re.escape(member[: member.rfind("/") + 1])
    lacking = ("coastal", "nir09", "cirrus") if card.id == "sentinel-2" else ()
    for native, band in reflective(card, lacking).items():
        name = SPOT[native] if card.id.startswith("spot") else native
        marks = ("REF_", "SRE_", "FRE_", "")  # REF: level 1
        each = (files.only(rf"{folder}[^/]*_{mark}{name}\.tif$") for mark in marks)
        product.add(band, next(filter(None, each), None), scale)
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
    level1 = fields.text("LEVEL").upper().startswith("N1")
    tags = ("GEOTIFF",) if level1 else ("ORTHO_SURF_CORR_ENV", "ORTHO_SURF_CORR_PENTE")
    names = [fields.text(f"FILES/{tag}", "") for tag in tags]
    file = next((found for name in names if name and (found := files.beside(member, name))), None)
    quantity = fields.number("QUANTIFICATION/VALUE", 0) or fields.number("QUANTIFICATION", 1000)
    card = get_sensor(PLATFORMS[platform])
    product = Product(files, card, "toa" if level1 else "surface", nodata=-10000)
    for native, band in reflective(card).items():
        layout = fields.text("BANDS").upper().split(";")
        product.add(band, file, 1 / quantity, 0, SPOT[native], layout)
    return product
