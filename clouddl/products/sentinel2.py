"""Sentinel-2 in the SAFE format of ESA."""

import re

from clouddl.errors import InputError
from clouddl.products.archives import Files
from clouddl.products.product import Product, reader, reflective
from clouddl.sensors import get_sensor, middle


@reader("Sentinel-2 L1C SAFE", r"(^|/)MTD_MSIL1C\.xml$")
@reader("Sentinel-2 L2A SAFE", r"(^|/)MTD_MSIL2A\.xml$")
def sentinel2(files: Files, member: str) -> Product:
    """Sentinel-2 L1C and L2A SAFE: ESA's Products Specification Document, S2-PDGS-TAS-DI-PSD.

    (DN + RADIO_ADD_OFFSET) / QUANTIFICATION_VALUE, for L2A BOA_ADD_OFFSET and
    BOA_QUANTIFICATION_VALUE. The offsets exist from processing baseline 04.00 on. Of the files of
    a band at several resolutions the one at its own is read. Compact naming (December 2016 on).
    """
    fields = files.xml(member)
    level1 = "MSIL1C" in member.upper()
    offset = "RADIO_ADD_OFFSET" if level1 else "BOA_ADD_OFFSET"
    scale = 1 / fields.number("QUANTIFICATION_VALUE" if level1 else "BOA_QUANTIFICATION_VALUE")
    card = get_sensor("sentinel-2")
    # The offsets go by band_id, which counts the 13 bands from 0; the metadata say which is which.
    ids = {node.root.get("bandId"): node.root.get("physicalBand")
           for node in fields.each("Spectral_Information")}  # fmt: skip
    order = {str(index): band.native for index, band in enumerate(card.bands)} | ids
    added = {order.get(node.root.get("band_id")): fields.parse(node.root.text, offset)
             for node in fields.each(offset)}  # fmt: skip
    if not added and fields.number("PROCESSING_BASELINE") >= 4:
        told = f"baseline {fields.text('PROCESSING_BASELINE')} without {offset}"
        raise InputError(
            f"{fields.name}: wrong scale: {told}: all would be 0.1 too bright; take the metadata "
            "as delivered"
        )
    product = Product(files, card, "toa" if level1 else "surface", nodata=0)
    folder = re.escape(member.rpartition("MTD_")[0]) + "GRANULE/[^/]+/IMG_DATA/"
    for native, band in reflective(card, () if level1 else ("cirrus",)).items():
        name = f"B0{native[1:]}" if len(native) == 2 else native
        found = files.find(rf"^{folder}.*_{name}(_\d\dm)?\.jp2$")
        if not level1:  # sorted, so the first is the finest
            own = f"_{middle(card.band(band).gsd_m):.0f}m."
            found = [file for file in found if own in file] or found[:1]
        if len(found) > 1:
            raise InputError(f"{files.name}: holds several tiles ({found[0]}, …); give one")
        product.add(band, found[0] if found else None, scale, added.get(native, 0.0) * scale)
    return product
