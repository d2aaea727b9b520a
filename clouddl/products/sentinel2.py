"""Sentinel-2: the SAFE format of ESA, tiles of the public archive on AWS, patches of CloudSEN12."""

import json
import re
from collections.abc import Iterable
from contextlib import suppress

from clouddl.errors import InputError
from clouddl.products.archives import Fields, Files
from clouddl.products.product import Product, reader, reflective, sun_elevation
from clouddl.products.reading import Level
from clouddl.sensors import Sensor, get_sensor, middle

# JPEG 2000 of ESA, or the TIFF that providers make of it (Planetary Computer).
IMAGE = r"\.(jp2|tiff?)$"


@reader("Sentinel-2 L1C SAFE", r"(^|/)MTD_MSIL1C\.xml$")
def sentinel2_l1c(files: Files, member: str) -> Product:
    """Sentinel-2 L1C: ESA's Products Specification Document, S2-PDGS-TAS-DI-PSD.

    (DN + RADIO_ADD_OFFSET) / QUANTIFICATION_VALUE; the offsets exist from processing baseline
    04.00 on. Compact naming (December 2016 on).
    """
    return _safe(files, member, "toa", "QUANTIFICATION_VALUE", "RADIO_ADD_OFFSET")


@reader("Sentinel-2 L2A SAFE", r"(^|/)MTD_MSIL2A\.xml$")
def sentinel2_l2a(files: Files, member: str) -> Product:
    """Sentinel-2 L2A, of the same specification: no cirrus band.

    (DN + BOA_ADD_OFFSET) / BOA_QUANTIFICATION_VALUE, which baselines before 02.07 call
    L2A_BOA_QUANTIFICATION_VALUE. Of the files of a band at several resolutions the one at its own
    is read.
    """
    return _safe(files, member, "surface", "BOA_QUANTIFICATION_VALUE", "BOA_ADD_OFFSET")


@reader("Sentinel-2 tile of AWS (Sinergise)", r"(^|/)productInfo\.json$")
def sentinel2_aws(files: Files, member: str) -> Product:
    """Sentinel-2 tile as the public archive on AWS keeps it: B01.jp2 beside productInfo.json.

    Its metadata lack the scale: it is 1/10000, and from baseline 04.00 on, which the product's name
    tells, the offset is -1000 in all bands (Products Specification Document). L2A has its bands in
    R10m, R20m and R60m. https://roda.sentinel-hub.com/sentinel-s2-l1c/readme.html
    """
    try:
        name = str(json.loads(files.text(member))["name"])
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{files.name}: {member} names no product; download it again") from error
    parts = re.match(r"S2[A-D]_MSI(L1C|L2A)_\w+?_N(\d\d)\d\d_", name)
    if not parts:
        raise InputError(f"{files.name}: {member} is of {name}, not of Sentinel-2 L1C or L2A")
    level: Level = "toa" if parts[1] == "L1C" else "surface"
    offset = -0.1 if int(parts[2]) >= 4 else 0.0
    product = Product(files, get_sensor("sentinel-2"), level, nodata=0)
    folder = "^" + re.escape(member.removesuffix("productInfo.json"))
    for native, band in reflective(product.sensor, level).items():
        metres = middle(product.sensor.band(band).gsd_m)
        file = files.only(rf"{folder}(R{metres:.0f}m/)?B{native[1:]:0>2}\.jp2$")
        product.add(band, file, 1e-4, offset)
    return product


@reader("CloudSEN12", r"(^|/)S2L1C\.tif$")
def cloudsen12(files: Files, member: str) -> Product:
    """A patch of CloudSEN12: S2L1C.tif, 13 bands in ESA's order × 10000, and labels/.

    Aybar et al. 2022, doi:10.1038/s41597-022-01878-2.
    """
    product = Product(files, get_sensor("sentinel-2"), "toa", nodata=0)
    layers = product.sensor.commons
    for band in layers:
        product.add(band, member, 1e-4, layers=layers)
    return product


def _safe(files: Files, member: str, level: Level, quantification: str, offset: str) -> Product:
    fields = files.xml(member)
    older = f"L2A_{quantification}"
    scale = 1 / fields.number(older if fields.text(older, "") else quantification)
    card = get_sensor("sentinel-2")
    bands = reflective(card, level)
    offsets = _offsets(fields, offset, card, bands)
    product = Product(files, card, level, nodata=0)
    granule = re.escape(member.rpartition("MTD_")[0]) + "GRANULE/[^/]+/"
    for tile in files.find(rf"^{granule}MTD_TL\.xml$"):
        with suppress(InputError):  # a band can be read without
            angles = files.xml(tile)
            product.sun = sun_elevation(angles, "Mean_Sun_Angle/ZENITH_ANGLE", zenith=True)
    folder = f"{granule}IMG_DATA/"
    for native, band in bands.items():
        image = f"^{folder}.*_B{native[1:]:0>2}"
        metres = middle(card.band(band).gsd_m)
        file = files.only(rf"{image}(_{metres:.0f}m)?{IMAGE}")
        coarser = files.find(rf"{image}_\d\dm{IMAGE}")
        product.add(
            band, file or next(iter(coarser), None), scale, offsets.get(native, 0.0) * scale
        )
    return product


def _offsets(
    fields: Fields, tag: str, card: Sensor, bands: Iterable[str]
) -> dict[str | None, float]:
    """Offsets by native band, of all `bands` or, before baseline 04.00, of none."""
    # The offsets go by band_id, which counts the 13 bands from 0.
    natives = {str(index): band.native for index, band in enumerate(card.bands)}
    offsets = {natives.get(node.root.get("band_id", "")): node.number() for node in fields.all(tag)}
    if not offsets.keys() >= set(bands) and fields.number("PROCESSING_BASELINE") >= 4:
        raise InputError(
            f"{fields.name}: wrong scale: baseline {fields.text('PROCESSING_BASELINE')} without "
            f"{tag} of every band: they would be 0.1 too bright; take the metadata as delivered"
        )
    return offsets
