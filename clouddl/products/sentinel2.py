"""Sentinel-2 in the SAFE format of ESA."""

import re

from clouddl.errors import InputError
from clouddl.products.archives import Fields, Files
from clouddl.products.image import Level
from clouddl.products.product import Product, reader, reflective
from clouddl.sensors import Sensor, get_sensor, middle


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

    (DN + BOA_ADD_OFFSET) / BOA_QUANTIFICATION_VALUE. Of the files of a band at several
    resolutions the one at its own is read.
    """
    return _safe(files, member, "surface", "BOA_QUANTIFICATION_VALUE", "BOA_ADD_OFFSET")


def _safe(files: Files, member: str, level: Level, quantification: str, offset: str) -> Product:
    fields = files.xml(member)
    scale = 1 / fields.number(quantification)
    card = get_sensor("sentinel-2")
    offsets = _offsets(fields, offset, card)
    product = Product(files, card, level, nodata=0)
    folder = re.escape(member.rpartition("MTD_")[0]) + "GRANULE/[^/]+/IMG_DATA/"
    for native, band in reflective(card).items():
        if level == "surface" and band == "cirrus":
            continue
        image = f"^{folder}.*_B{native[1:]:0>2}"
        metres = middle(card.band(band).gsd_m)
        file = files.only(rf"{image}(_{metres:.0f}m)?\.jp2$")
        coarser = files.find(rf"{image}_\d\dm\.jp2$")
        product.add(
            band, file or next(iter(coarser), None), scale, offsets.get(native, 0.0) * scale
        )
    return product


def _offsets(fields: Fields, tag: str, card: Sensor) -> dict[str | None, float]:
    """Offsets by native band; none before baseline 04.00."""
    # The offsets go by band_id, which counts the 13 bands from 0; the metadata say which is which.
    natives: dict[str | None, str | None] = {
        str(index): band.native for index, band in enumerate(card.bands)
    }
    for node in fields.all("Spectral_Information"):
        natives[node.root.get("bandId")] = node.root.get("physicalBand")
    offsets = {natives.get(node.root.get("band_id")): node.number() for node in fields.all(tag)}
    if not offsets and fields.number("PROCESSING_BASELINE") >= 4:
        raise InputError(
            f"{fields.name}: wrong scale: baseline {fields.text('PROCESSING_BASELINE')} without "
            f"{tag}: all would be 0.1 too bright; take the metadata as delivered"
        )
    return offsets
