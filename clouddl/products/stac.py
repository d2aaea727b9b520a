"""STAC: an item of a catalogue as a product to predict, and the item of a mask.

An item is a GeoJSON feature that says where the bands of a scene lie and how their numbers become
reflectance. Both ways are plain JSON; what comes from strangers is checked before it is used.
https://github.com/radiantearth/stac-spec (1.0 and 1.1) and its extensions eo, raster,
classification, processing and projection.
"""

import json
import math
import os
import re
from collections.abc import Iterator
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urljoin

import rasterio
import requests
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError
from rasterio.warp import transform_bounds, transform_geom

from clouddl.errors import InputError, WriteError, invalid
from clouddl.labels import CLEAR, CLOUD, NODATA
from clouddl.products.archives import MAX_TEXT, Files
from clouddl.products.product import Product
from clouddl.sensors import Sensor, get_sensor, sensors

TIMEOUT = 30  # seconds without an answer


ALIASES = {"phr": "pleiades", "vns": "venus"}  # platforms, where the card has another name


LOOKS = ("overview", "visual", "thumbnail")  # roles of assets to look at, stretched to 8 bits


EXTENSIONS = ("eo/v1.1.0", "projection/v2.0.0", "raster/v1.1.0", "classification/v2.0.0",
              "processing/v1.2.0")  # fmt: skip


class Numbers(BaseModel):
    """A band: how numbers become reflectance, by raster:bands of 1.0 or bands of 1.1."""

    model_config = ConfigDict(extra="ignore", frozen=True)

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
        """Its bands in the order of the file, with all that is said of each."""
        each = []
        for index in range(max(len(self.bands), len(self.eo), len(self.raster), 1)):
            told = {name: getattr(self, name) for name in Numbers.model_fields}
            for part in (self.bands, self.eo, self.raster):
                if index < len(part):
                    told |= part[index].model_dump(exclude_none=True)
            each.append(Numbers.model_construct(**told))
        return each


class Item(BaseModel):
    """The parts of an item that are used here; the others are left alone."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    type: Literal["Feature"]
    stac_version: str
    id: str = Field(min_length=1)
    collection: str | None = None
    properties: dict[str, Any]
    assets: dict[str, Asset] = Field(min_length=1)


def is_address(path: Path | str) -> bool:
    """Whether it is an address on a network, and no path of this machine."""
    return bool(re.match(r"https?://", str(path)))


def is_item(path: Path | str) -> bool:
    """Whether a path or an address is that of a STAC item, by its looks."""
    return is_address(path) or str(path).lower().endswith((".json", ".geojson"))


def load_item(path: Path | str) -> Item:
    """Read an item from a file or an address. InputError names it and the field to mend."""
    try:
        if is_address(path):
            data = _first(str(path), MAX_TEXT)
        else:
            with open(path, "rb") as stream:
                data = stream.read(MAX_TEXT)
        fields = json.loads(data)
        return Item.model_validate(fields)
    except ValidationError as error:
        kind = fields.get("type", "JSON object") if isinstance(fields, dict) else "JSON value"
        if kind != "Feature":
            raise InputError(f"{path}: is a {kind}, and no STAC item; give one item") from error
        raise invalid(path, error) from error
    except OSError as error:  # requests' errors are of it too
        raise InputError(f"{path}: cannot be read as a STAC item ({error})") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path}: is not JSON ({error}); copy the STAC item again") from error


def _first(address: str, size: int) -> bytes:
    """At most the first `size` bytes from an address."""
    ask = {"Range": f"bytes=0-{size - 1}"}
    with requests.get(address, headers=ask, stream=True, timeout=TIMEOUT) as answer:
        answer.raise_for_status()
        return b"".join(_up_to(answer.iter_content(1 << 16), size))[:size]


def _up_to(parts: Iterator[bytes], size: int) -> Iterator[bytes]:
    while size > 0 and (part := next(parts, b"")):
        size -= len(part)
        yield part


def read_item(
    path: Path | str, sensor: Sensor | None = None, scale: float = 1.0, offset: float = 0.0,
    nodata: float | None = None,
) -> Product:  # fmt: skip
    """The product an item describes; its bands by their common names, where they lie.

    The sensor is that of `platform`, `constellation` or `instruments`, unless it is given. Scale,
    offset and nodata are the item's; those given stand in where it has none. s3:// and gs:// are
    read without credentials: public buckets only. An address never leads to a file of this machine.
    """
    item = load_item(path)
    card = sensor or _sensor(item, str(path))
    places = {key: _place(str(path), asset.href) for key, asset in item.assets.items()}

    def load(member: str, size: int) -> bytes:
        where = places[member]
        try:
            if is_address(where):
                return _first(where, size)
            with open(where, "rb") as stream:
                return stream.read(size)
        except OSError as error:
            raise InputError(f"{path}: asset {member}: cannot be read ({error})") from error

    opened = {key: f"/vsicurl/{at}" if is_address(at) else at for key, at in places.items()}
    for name, value in (("MAX_RETRY", "3"), ("RETRY_DELAY", "1"), ("TIMEOUT", str(TIMEOUT))):
        os.environ.setdefault(f"GDAL_HTTP_{name}", value)  # GDAL would wait for ever
    found: dict[str, tuple[str, int, list[Numbers]]] = {}  # asset, layer, and all its layers
    for key, asset in sorted(item.assets.items(), key=_preferred):
        layers = asset.layers()
        for index, layer in enumerate(layers):
            if layer.common and not set(asset.roles) & {*LOOKS}:
                found.setdefault(layer.common, (key, index, layers))
    level = _level(item)
    told = [layers[index].nodata for _, index, layers in found.values()]
    empty = {value for value in told if value is not None and not math.isnan(value)}
    if len(empty) > 1:
        raise InputError(f"{path}: its bands have several nodata values; give them one")
    own = next(iter(empty), None)
    product = Product(Files(str(path), opened, load), card, level, nodata if own is None else own)
    product.format = "STAC item"
    # Of Sentinel-2 rescaled by a provider, some items still tell the offset that was taken off.
    applied = any(k.endswith(":boa_offset_applied") and v for k, v in item.properties.items())
    for band in (band.common for band in card.bands if not band.common.startswith("lwir")):
        if band not in found:
            continue
        key, index, layers = found[band]
        numbers = layers[index]
        if (scale, offset) != (1.0, 0.0) and (numbers.scale, numbers.offset) != (None, None):
            raise InputError(f"{path}: tells its own scale and offset; leave them out")
        by = scale if numbers.scale is None else numbers.scale
        plus = 0.0 if applied else offset if numbers.offset is None else numbers.offset
        product.add(band, key, by, plus, str(index), [str(n) for n in range(len(layers))])
    if not product.layers:
        names = ", ".join(sorted(found)) or "none"
        raise InputError(f"{path}: no asset is a band of {card.id} by common name; it has {names}")
    return product


def _preferred(asset: tuple[str, Asset]) -> tuple[bool, bool, bool]:
    """Sorts the assets that may hold a band: of its own, data, and no second copy as JPEG 2000."""
    _, told = asset
    return len(told.layers()) > 1, "data" not in told.roles, "jp2" in told.type.lower()


def _sensor(item: Item, path: str) -> Sensor:
    told = [item.properties.get(key) for key in ("platform", "constellation", "instruments")]
    names = [str(name) for each in told for name in (each if isinstance(each, list) else [each])]
    short = {re.sub(r"\W", "", card): card for card in sensors()} | ALIASES
    for name in names:
        plain = re.sub(r"[\W_]", "", name.lower()).replace("é", "e")
        for start, card in short.items():
            if plain.startswith(start):
                return get_sensor(card)
    raise InputError(f"{path}: of which sensor? Its platform is {names[0]!r}; say --sensor")


def _place(item: str, href: str) -> str:
    """Where an asset lies: an https address, or a path."""
    if bucket := re.match(r"(s3|gs)://([^/]+)/(.+)", href):
        kind, name, key = bucket.groups()
        host = f"{name}.s3.amazonaws.com" if kind == "s3" else f"storage.googleapis.com/{name}"
        return f"https://{host}/{quote(key)}"
    if is_address(href):
        return href
    if is_address(item):
        return urljoin(item, href)
    if re.match(r"/vsi|[a-z0-9+.-]{2,}:", href, re.IGNORECASE) and not href.startswith("file://"):
        raise InputError(f"{item}: {href}: is no path and no address that is read here")
    return str(Path(item).parent / href.removeprefix("file://"))


def _level(item: Item) -> Literal["toa", "surface"]:
    told = str(item.properties.get("processing:level") or item.collection or item.id)
    surface = re.search(r"(^|[^a-z0-9])(l2|level-?2|sr|surface|msil2a)", told, re.IGNORECASE)
    return "surface" if surface else "toa"


def item_of(scene: Path | str, out: Path | str) -> Path:
    """The item that is written beside the mask of a scene."""
    from clouddl.predict import results_of  # late: it reads items through this module

    return results_of(scene, out)[0].with_suffix(".json")


def date_of(scene: Path | str) -> str:
    """When a scene was taken (RFC 3339) by its name: 20220301T105021, 20220301_105021, 20220301.

    Midnight if it has no time. InputError if it has no date, which a STAC item must have.
    """
    pattern = r"(?<!\d)(\d{8})(?:[T-]?(\d{6})\d{0,3}|_(\d{6}))?(?!\d)"
    for found in re.finditer(pattern, Path(str(scene)).name):
        try:
            told = f"{found[1]}{found[2] or found[3] or '000000'}"
            day = datetime.strptime(told, "%Y%m%d%H%M%S")
        except ValueError:
            continue
        if 1972 <= day.year <= 2100:
            return f"{day.isoformat()}Z"
    told = "its name has no date (YYYYMMDD), which a STAC item must have"
    raise InputError(f"{scene}: {told}; rename it, or leave --stac out")


def write_item(scene: Path | str, mask: Path, probability: Path) -> Path:
    """Write the STAC item of a mask and its probability beside them; returns its path.

    Date and platform are those of the item that was predicted, if it was one, else of the name.
    """
    target = mask.with_suffix(".json")
    properties: dict[str, Any] = {}
    links = []
    if is_item(scene):
        source = load_item(scene)
        for name in ("datetime", "start_datetime", "end_datetime", "platform", "constellation",
                     "instruments", "gsd"):  # fmt: skip
            if name in source.properties:
                properties[name] = source.properties[name]
        href = str(scene) if is_address(scene) else os.path.relpath(scene, mask.parent)
        links = [{"rel": "derived_from", "href": href, "type": "application/geo+json"}]
    properties.setdefault("datetime", None)
    if properties["datetime"] is None and "start_datetime" not in properties:
        properties["datetime"] = date_of(scene)
    with rasterio.open(mask) as file:
        tags, crs, bounds = file.tags(), file.crs, file.bounds
        height, width = file.shape
        metres, transform = float(file.res[0]), list(file.transform)[:6]
        cloud = seen = 0
        for _, window in file.block_windows():
            values = file.read(1, window=window)
            cloud, seen = cloud + int((values == CLOUD).sum()), seen + int((values != NODATA).sum())
    model = f"{tags.get('model')} {tags.get('model_version')}"
    properties |= {
        "eo:cloud_cover": round(100 * cloud / seen, 2) if seen else 0.0,
        "processing:software": {"CloudDL": version("clouddl")},
        "processing:lineage": f"Cloud mask by CloudDL, model {model} (weights "
        f"{tags.get('weights_sha256')}), bands {tags.get('bands')}, cloud from a probability of "
        f"{tags.get('threshold')}",
    }
    geometry = box = None
    if crs:
        code = crs.to_epsg()
        properties |= {"proj:code": f"EPSG:{code}" if code else None,
                       "proj:shape": [height, width], "proj:transform": transform}  # fmt: skip
        box = [round(edge, 7) for edge in transform_bounds(crs, "EPSG:4326", *bounds)]
        corners = [(bounds.left, bounds.top), (bounds.left, bounds.bottom),
                   (bounds.right, bounds.bottom), (bounds.right, bounds.top)]  # fmt: skip
        ring = {"type": "Polygon", "coordinates": [[*corners, corners[0]]]}
        geometry = transform_geom(crs, "EPSG:4326", ring, precision=7)
    kind = "image/tiff; application=geotiff; profile=cloud-optimized"
    sampled = {"spatial_resolution": metres} if crs else {}
    classes = [
        {"value": CLEAR, "name": "clear", "description": "Clear ground, snow, water or shadow",
         "color_hint": "2E5C3C"},
        {"value": CLOUD, "name": "cloud", "description": "Cloud", "color_hint": "FFFFFF"},
        {"value": NODATA, "name": "no_data", "description": "Not seen", "nodata": True},
    ]  # fmt: skip
    item = {
        "type": "Feature", "stac_version": "1.1.0", "id": target.stem, "properties": properties,
        "stac_extensions": [
            f"https://stac-extensions.github.io/{name}/schema.json" for name in EXTENSIONS
        ],
        "geometry": geometry, **({"bbox": box} if box else {}), "links": links,
        "assets": {
            "cloud": {
                "href": f"./{quote(mask.name)}", "type": kind, "title": "Cloud mask",
                "roles": ["data", "cloud"], "classification:classes": classes,
                "raster:bands": [{"data_type": "uint8", "nodata": NODATA, **sampled}],
            },
            "probability": {
                "href": f"./{quote(probability.name)}", "type": kind, "roles": ["data"],
                "title": "Probability of cloud",
                "raster:bands": [{"data_type": "float32", "nodata": "nan", **sampled}],
            },
        },
    }  # fmt: skip
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        part.write_text(json.dumps(item, indent=1, ensure_ascii=False) + "\n", "utf-8")
        part.replace(target)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise WriteError(f"{target}: cannot be written ({error.strerror}); make room") from error
    return target
