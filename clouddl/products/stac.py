"""STAC: an item of a catalogue as a product to predict, and the item of a mask.

An item is a GeoJSON feature that says where the bands of a scene lie and how their numbers become
reflectance. Items come from strangers: every field that is used is checked first.
https://github.com/radiantearth/stac-spec (1.0 and 1.1) and its extensions eo, raster,
classification, processing and projection.
"""

import json
import math
import os
import re
from datetime import datetime
from importlib.metadata import version
from itertools import zip_longest
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote, urljoin, urlsplit

import requests
from pydantic import AliasChoices, BaseModel, Field
from rasterio.io import DatasetReader
from rasterio.warp import transform_bounds, transform_geom

from clouddl.errors import InputError, read_yaml, readable, validated, warn
from clouddl.files import write_whole, writing
from clouddl.labels import CLOUD, NODATA
from clouddl.products.archives import MAX_TEXT, Files
from clouddl.products.product import Product, reflective, sine_of_sun
from clouddl.products.raster import open_raster
from clouddl.products.reading import AS_STORED, Level, Reading
from clouddl.sensors import Sensor, band_names, get_sensor, sensors

TIMEOUT = 30  # seconds without an answer


# GDAL would wait for ever.
GDAL_HTTP = {"MAX_RETRY": "3", "RETRY_DELAY": "1", "TIMEOUT": str(TIMEOUT)}


#: What items leave open; its comments say what the fields mean.
TABLES = read_yaml(Path(__file__).with_name("stac.yaml"), "table of STAC items")


OLI_SCALE = 2e-5  # of Landsat 8 and 9 at level 1


MASK_ITEM = Path(__file__).with_name("mask_item.yaml")


class Numbers(BaseModel):
    """A band: how numbers become reflectance, by raster:bands of 1.0 or bands of 1.1."""

    name: str | None = None
    common: str | None = Field(None, validation_alias=AliasChoices("common_name", "eo:common_name"))
    scale: float | None = Field(None, validation_alias=AliasChoices("scale", "raster:scale"))
    offset: float | None = Field(None, validation_alias=AliasChoices("offset", "raster:offset"))
    nodata: float | None = None  # the words nan, inf and -inf are numbers to pydantic


class Asset(Numbers):
    """A file of an item."""

    href: str
    type: str = ""
    roles: list[str] = []
    eo: list[Numbers] = Field([], validation_alias="eo:bands")
    raster: list[Numbers] = Field([], validation_alias="raster:bands")
    bands: list[Numbers] = []

    def layers(self) -> list[Numbers]:
        """Its bands in the order of the file, each with what the item says of it in all places."""
        layers = []
        bands: list[Numbers | None] = [*self.bands] or [None]
        for statements in zip_longest(bands, self.eo, self.raster):
            layer = Numbers.model_construct(**self.model_dump(include=set(Numbers.model_fields)))
            for statement in filter(None, statements):
                layer = layer.model_copy(update=statement.model_dump(exclude_none=True))
            layers.append(layer)
        return layers


#: Bands by common name: the asset of the file, the band, and common names of all its layers.
Bands = dict[str, tuple[str, Numbers, list[str | None]]]


class Item(BaseModel):
    """The fields of an item that are used here; the others are ignored."""

    type: Literal["Feature"]
    stac_version: str
    id: str = Field(min_length=1)
    collection: str | None = None
    properties: dict[str, Any]
    assets: dict[str, Asset] = Field(min_length=1)


def is_address(path: Path | str) -> bool:
    """Whether it is an http(s) address.

    Args:
        path: A path or an address.
    """
    return bool(re.match(r"https?://", str(path)))


def is_item(path: Path | str) -> bool:
    """Whether it looks like the path or the address of a STAC item.

    Args:
        path: A path or an address.
    """
    if is_address(path):
        return not urlsplit(str(path)).path.lower().endswith(tuple(TABLES["rasters"]))
    return bool(re.search(r"(?<!_mtl)\.(geo)?json$", str(path), re.IGNORECASE))


def limit_waiting() -> None:
    """Have GDAL give up on a server that does not answer, in any thread."""
    for name, value in GDAL_HTTP.items():
        os.environ.setdefault(f"GDAL_HTTP_{name}", value)


def load_item(path: Path | str) -> Item:
    """Read a STAC item.

    Args:
        path: A path or an address.

    Returns:
        Its fields, checked.

    Raises:
        InputError: It cannot be read or is no STAC item; the message names the field.
    """
    with readable(path, "STAC item", "it must be JSON: check the path or address"):
        fields = json.loads(_load(str(path), MAX_TEXT))
    what = fields.get("type", "JSON object") if isinstance(fields, dict) else "JSON value"
    if what != "Feature":
        raise InputError(f"{path}: is a {what}, and no STAC item; give one item")
    return validated(Item, fields, path)


def read_item(
    path: Path | str, sensor: Sensor | None = None, reading: Reading = AS_STORED
) -> Product:
    """Read the product an item describes; s3:// and gs:// must be public buckets.

    An item at an address never leads to a file of this machine.

    Args:
        path: A path or an address.
        sensor: Its card; default that of `platform`, `constellation` or `instruments`.
        reading: Scale, offset and nodata where the item says none.

    Returns:
        The product; its bands by their common names.

    Raises:
        InputError: An item that cannot be used; the message says why.
    """
    item = load_item(path)
    card = _sensor(item, path, sensor)
    files = _files(item, str(path))
    bands = _bands(item, card)
    level = _level(item)
    for _, numbers, _ in bands.values():
        _complete(numbers, item, card, level, reading)
    nodata = _nodata(bands, reading.nodata, path)
    silent = [name for name, (_, numbers, _) in bands.items() if numbers.scale is None]
    if 0 < len(silent) < len(bands):
        raise InputError(f"{path}: gives no scale of {', '.join(silent)}; add it to these assets")
    product = Product(files, card, level, nodata, format="STAC item", stated=not silent)
    sun = item.properties.get("view:sun_elevation")
    product.sun = float(sun) if isinstance(sun, int | float) and 0 < sun <= 90 else None
    applied = _offset_applied(item)
    for band in reflective(card).values():
        if band in bands:
            asset, numbers, layers = bands[band]
            scale, offset = _scaling(numbers, reading, path)
            product.add(band, asset, scale, 0.0 if applied else offset, layers)
    if not product.layers:
        names = ", ".join(sorted(bands)) or "none"
        raise InputError(f"{path}: no asset is a band of {card.id} by common name; it has {names}")
    return product


def date_of(path: Path | str) -> str:
    """When a scene was taken, by its name: 20220301T105021, 20220301_105021, 20220301.

    Args:
        path: Of the scene.

    Returns:
        Date and time (RFC 3339); midnight if the name has no time.

    Raises:
        InputError: The name has no date, which a STAC item must have.
    """
    pattern = r"(?<!\d)(\d{8})(?:[T-]?(\d{6})\d{0,3}|_(\d{6}))?(?!\d)"
    for match in re.finditer(pattern, Path(path).name):
        day, *times = match.groups(default="")
        try:
            date = datetime.strptime(day + ("".join(times) or "000000"), "%Y%m%d%H%M%S")
        except ValueError:
            continue
        if 1972 <= date.year <= 2100:
            return f"{date.isoformat()}Z"
    raise InputError(
        f"{path}: its name has no date (YYYYMMDD), which a STAC item must have; rename it, or "
        "leave --stac out"
    )


def write_item(path: Path | str, mask: Path, probability: Path) -> Path:
    """Write the STAC item of a mask and its probability.

    Date and platform are those of the item that was predicted, if it was one, else of the name.

    Args:
        path: Of what was predicted, or the path or address of its item.
        mask: File of the mask.
        probability: File of the probability, in the same folder.

    Returns:
        Path of the item, beside the mask.

    Raises:
        InputError: The name of the scene has no date.
        WriteError: The item cannot be written.
    """
    target = mask.with_suffix(".json")
    item = read_yaml(MASK_ITEM, "template of items")
    item["id"] = target.stem
    properties = item["properties"]
    if is_item(path):
        stated = load_item(path).properties
        properties |= {name: stated[name] for name in TABLES["inherited"] if name in stated}
        href = str(path) if is_address(path) else os.path.relpath(path, mask.parent)
        item["links"] = [{"rel": "derived_from", "href": href, "type": "application/geo+json"}]
    if properties["datetime"] is None and "start_datetime" not in properties:
        properties["datetime"] = date_of(path)
    for name, file in (("cloud", mask), ("probability", probability)):
        item["assets"][name]["href"] = f"./{quote(file.name)}"
    with open_raster(mask) as file:
        properties |= _about(file)
        if file.crs:
            _place_on_earth(item, file)
    text = json.dumps(item, indent=1, ensure_ascii=False) + "\n"
    with writing(target):
        write_whole(target, text.encode())
    return target


def _load(place: str, size: int) -> bytes:
    """At most the first `size` bytes of a file or from an address."""
    if not is_address(place):
        with open(place, "rb") as stream:
            return stream.read(size)
    first = {"Range": f"bytes=0-{size - 1}"}
    with requests.get(place, headers=first, stream=True, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        data = bytearray()
        for chunk in answer.iter_content(1 << 16):  # the errors of answer.raw are not of requests
            data += chunk
            if len(data) >= size:
                break
    return bytes(data[:size])


def _files(item: Item, path: str) -> Files:
    """The assets of an item as the files of a product."""
    limit_waiting()
    places = {key: _place(path, asset.href) for key, asset in item.assets.items()}

    def load(member: str, size: int) -> bytes:
        with readable(path, f"asset {member}", "check its address in the item"):
            return _load(places[member], size)

    opened = {key: f"/vsicurl/{at}" if is_address(at) else at for key, at in places.items()}
    return Files(path, opened, load)


def _place(item: str, href: str) -> str:
    """Where an asset lies: an http(s) address, or a path."""
    bucket = re.match(r"(s3|gs)://([^/]+)/(.+)", href)
    if bucket:
        return TABLES["buckets"][bucket[1]].format(bucket[2], quote(bucket[3]))
    if is_address(item):
        href = urljoin(item, href)
    if is_address(href):
        return href
    path = href.removeprefix("file://")
    if not is_address(item) and not (Path(item).parent / path).exists():
        path = unquote(path)  # a space, as %20
    if is_address(item) or re.match(r"/vsi|[a-z0-9+.-]{2,}:", path, re.IGNORECASE):
        raise InputError(f"{item}: {href}: is no path and no address that is read here")
    return str(Path(item).parent / path)


def _bands(item: Item, card: Sensor) -> Bands:
    """Bands of an item by their common names, which some items spell in another way."""
    bands: Bands = {}
    for key, asset in sorted(item.assets.items(), key=_preference):
        layers = asset.layers()
        # A file of one band is called after it where nothing else says it.
        only = key if len(layers) == 1 else None
        names = [*band_names([layer.common or layer.name or only for layer in layers], card)]
        for name, layer in zip(names, layers, strict=True):
            if name and not set(TABLES["pictures"]) & set(asset.roles):
                bands.setdefault(name, (key, layer, names))
    return bands


def _factors(item: Item, card: Sensor, level: Level) -> tuple[float, float] | None:
    """Scale and offset by which an agency stores reflectance, None where that is not known."""
    if card.id == "sentinel-2":
        baseline = _baseline(item)
        if baseline is None:
            return None
        return 1e-4, -0.1 if baseline >= 4 and not _offset_applied(item) else 0.0
    # Number of the collection: 02, or the name that holds it.
    collection = str(item.properties.get("landsat:collection_number") or item.id)
    if not re.search("(^|_)0?2(_|$)", collection):
        return None
    return TABLES["landsat"].get(card.id, {}).get(level)


def _complete(numbers: Numbers, item: Item, card: Sensor, level: Level, reading: Reading) -> None:
    """Give a band of an item the factors of its agency where it has none.

    Those of Landsat's level 1 give reflectance times the sine of the sun's elevation.
    """
    factors = _factors(item, card, level)
    if factors and (numbers.scale, numbers.offset) == (None, None):
        if (reading.scale, reading.offset) == (None, None):
            numbers.scale, numbers.offset = factors
        elif factors[1] and reading.offset is None:
            formula = f"number * {factors[0]:g} {factors[1]}"
            raise InputError(
                f"{item.id}: by its metadata reflectance = {formula}: "
                "leave --scale out, or give --offset too (0 if it was taken off)"
            )
        if (numbers.nodata, reading.nodata) == (None, None):
            numbers.nodata = 0.0
    if card.id.startswith("landsat") and level == "toa" and numbers.scale == OLI_SCALE:
        sine = _sine(item)
        numbers.scale /= sine
        numbers.offset = (numbers.offset or 0.0) / sine


def _baseline(item: Item) -> int | None:
    """Processing baseline of Sentinel-2, by its first two digits; the name of a product has it."""
    keys = ("s2:processing_baseline", "processing:version", "s2:product_uri")
    for text in (*(str(item.properties.get(key)) for key in keys), item.id):
        digits = re.match(r"(\d+)\.\d+$", text) or re.search(r"S2[A-D]_MSI\w+_N(\d\d)\d\d_", text)
        if digits:
            return int(digits[1])
    return None


def _offset_applied(item: Item) -> bool:
    """Whether a provider took the offset of Sentinel-2 off, which some items still give."""
    said = item.properties.items()
    return any(k.endswith(":boa_offset_applied") and str(v) in ("True", "true") for k, v in said)


def _sine(item: Item) -> float:
    """Sine of the sun's elevation of an item; 1 with a warning where it gives none."""
    sun = item.properties.get("view:sun_elevation")
    if isinstance(sun, int | float):
        return sine_of_sun(float(sun), item.id)
    warn(
        f"{item.id}: gives no view:sun_elevation, so its reflectance is not divided by the sine of "
        "it and is too low; give the file MTL.txt of the scene in place of the item"
    )
    return 1.0


def _preference(entry: tuple[str, Asset]) -> tuple[bool, bool, bool]:
    """Sort key of assets: a file of one band, data, and no second copy as JPEG 2000 first."""
    asset = entry[1]
    return len(asset.layers()) > 1, "data" not in asset.roles, "jp2" in asset.type.lower()


def _nodata(bands: Bands, default: float | None, path: Path | str) -> float | None:
    """The nodata value of all bands; InputError if they have several."""
    stated = [numbers.nodata for _, numbers, _ in bands.values()]
    values = {value for value in stated if value is not None and not math.isnan(value)}
    if len(values) > 1:
        raise InputError(f"{path}: its bands have several nodata values; give them one")
    return next(iter(values), default)


def _scaling(
    numbers: Numbers, reading: Reading, path: Path | str
) -> tuple[float | None, float | None]:
    """Scale and offset of a band: the item's, or those of `reading` where it has none."""
    if numbers.scale is None and numbers.offset is None:
        return reading.scale, reading.offset
    if (reading.scale, reading.offset) != (None, None):
        raise InputError(f"{path}: has its own scale and offset; leave them out")
    return 1.0 if numbers.scale is None else numbers.scale, numbers.offset or 0.0


def _sensor(item: Item, path: Path | str, given: Sensor | None) -> Sensor:
    """The card that is given, else that of the platform, the constellation or an instrument."""
    names: list[Any] = []
    for key in ("platform", "constellation", "instruments"):
        value = item.properties.get(key)
        names += value if isinstance(value, list) else [value]
    cards = {re.sub(r"\W", "", card): card for card in sensors()} | TABLES["platforms"]
    plain = [re.sub(r"[\W_]", "", str(name).lower()).replace("é", "e") for name in names]
    stated = [cards[start] for name in plain for start in cards if name.startswith(start)]
    if given:
        if stated and stated[0] != given.id:
            warn(
                f"{path}: is of {stated[0]} by its properties, but is read as {given.id}; leave "
                "--sensor out if the item is right"
            )
        return given
    if not stated:
        raise InputError(
            f"{path}: of which sensor? Its platform is {str(names[0])!r}; say --sensor"
        )
    return get_sensor(stated[0])


def _level(item: Item) -> Level:
    stated = item.properties.get("processing:level") or item.properties.get("landsat:correction")
    text = str(stated or item.collection or item.id)
    surface = re.search(r"(^|[^a-z0-9])(l2|level-?2|sr|surface|msil2a)", text, re.IGNORECASE)
    return "surface" if surface else "toa"


def _about(file: DatasetReader) -> dict[str, Any]:
    """Cloud cover of a mask, and how it was made."""
    cloud = valid = 0
    for _, window in file.block_windows():
        values = file.read(1, window=window)
        cloud += int((values == CLOUD).sum())
        valid += int((values != NODATA).sum())
    tags = file.tags()
    return {
        "eo:cloud_cover": round(100 * cloud / max(valid, 1), 2),
        "processing:software": {"CloudDL": version("clouddl")},
        "processing:lineage": (
            f"Cloud mask by CloudDL, model {tags.get('model')} {tags.get('model_version')} "
            f"(weights {tags.get('weights_sha256')}), bands {tags.get('bands')}, cloud from a "
            f"probability of {tags.get('threshold')}"
        ),
    }


def _place_on_earth(item: dict[str, Any], file: DatasetReader) -> None:
    """Fill in where the mask lies."""
    from shapely.geometry import box, mapping  # late: nothing else here needs it

    code = file.crs.to_epsg()
    item["properties"] |= {
        "proj:code": f"EPSG:{code}" if code else None,
        "proj:shape": list(file.shape),
        "proj:transform": list(file.transform)[:6],
    }
    outline = mapping(box(*file.bounds))
    item["geometry"] = transform_geom(file.crs, "EPSG:4326", outline, precision=7)
    bounds = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
    item["bbox"] = [round(edge, 7) for edge in bounds]
    for asset in item["assets"].values():
        asset["raster:bands"][0]["spatial_resolution"] = float(file.res[0])
