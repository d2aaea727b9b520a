"""The study of 2020 on its own data, as far as it is public: the corpus `alcd`.

ALCD's reference masks (Baetens et al. 2019, Zenodo 1460960, CC BY 4.0) lie in folders named after
their Sentinel-2 L1C scenes. Those are in Google's public bucket, the heights on AWS. What needs an
account (MAJA masks at Theia, SPOT scenes at CNES) the user puts into a folder, and it is taken up.

No step was run on the real servers: there was no network where this was written. Unchecked are the
names in the archive beyond what its description says, and that all scenes are still in the bucket.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rioxarray  # noqa: F401 (gives Datasets their .rio)
import xarray as xr
import yaml
from tqdm import tqdm

from clouddl.errors import InputError, WriteError, readable
from clouddl.files import (
    Row,
    Store,
    ask,
    replacing,
    row_of,
    write_registry,
    write_whole,
    writing,
)
from clouddl.labels import NODATA, UKIS_BANDS
from clouddl.products import open_product
from clouddl.products.archives import list_files
from clouddl.products.dem import copernicus_dem, fetch_cells
from clouddl.products.readers import find_product
from clouddl.scenes import DATA, Scene, load_catalogue
from clouddl.sensors import get_sensor

ZENODO = "https://zenodo.org/api/records/1460960"
BUCKET = "https://storage.googleapis.com"
SENTINEL2 = "gcp-public-data-sentinel-2"
RESOLUTION = 30.0  # metres of the scenes as kept: that of the study, and a tenth of the bytes
SCALE = 1e-4  # of the reflectance as kept, int16
EMPTY = -32768  # its nodata
FOLDER = "alcd"  # in the cache
BY_HAND = "by-hand"  # in that folder: what was fetched with an account
MAX_MASK = 1 << 30  # bytes
L1C = re.compile(r"S2[AB]_MSIL1C_(\d{8})T\d{6}_N\d{4}_R\d{3}_T(\d\d)([A-Z])([A-Z]{2})_\d{8}T\d{6}")


class Unavailable(InputError):
    """One scene cannot be had; the others can."""


@dataclass(frozen=True)
class L1cProduct:
    """A Sentinel-2 L1C product: its name, and what that says."""

    name: str
    date: str
    zone: str
    latitude: str
    square: str

    @classmethod
    def within(cls, text: str) -> "L1cProduct | None":
        """Find the name of a product in a path.

        Args:
            text: Such as the path of a mask in its archive.

        Returns:
            The product; None if there is no name, or one of before the compact naming, whose
            product is not read either.
        """
        match = L1C.search(text)
        return cls(match[0], *match.groups()) if match else None

    @property
    def tile(self) -> str:
        """Its tile, such as 31TCJ."""
        return f"{self.zone}{self.latitude}{self.square}"

    @property
    def folder(self) -> str:
        """Its folder in the bucket."""
        return f"tiles/{self.zone}/{self.latitude}/{self.square}/{self.name}.SAFE/"


def gather() -> list[str]:
    """Fetch what is public, prepare the scenes, and write `data/catalogue/alcd.yaml`.

    Sentinel-2 is brought to 30 m, the six bands that models and ukis-csmask use, int16 reflectance
    × 10000. Called again, it does what is missing.

    Returns:
        Lines to print: what was gathered, which scenes could not be had and why, and by name what
        the user has to fetch and where it goes.

    Raises:
        InputError: A server does not answer, an archive is not safe, or there is no scene at all.
        WriteError: The disk is full.
    """
    store = Store(None)
    folder = store.cache / FOLDER
    (folder / BY_HAND).mkdir(parents=True, exist_ok=True)
    masks = _fetch_masks(store)
    public, faults = _public_scenes(masks, store)
    supplied, more_faults = _supplied_scenes(folder / BY_HAND, store)
    scenes, faults = public + supplied, faults + more_faults
    if not scenes:
        raise InputError(f"{folder}: no scene could be had: {'; '.join(faults)}")
    target = _write_catalogue(scenes, store)
    summary = f"{len(scenes)} scenes in {folder}, catalogue {target}"
    return [summary, *(f"not gathered: {fault}" for fault in faults), *_to_fetch(masks, folder)]


def _public_scenes(
    masks: dict[L1cProduct, Path], store: Store
) -> tuple[list[dict[str, Any]], list[str]]:
    """Records of the scenes in the bucket, and what is wrong with the others."""
    scenes, faults = [], []
    by_name = sorted(masks.items(), key=lambda item: item[0].name)
    for product, mask in tqdm(by_name, "scenes", unit="scene"):
        try:
            scenes.append(_public_scene(product, mask, store))
        except Unavailable as error:
            faults.append(str(error))
    return scenes, faults


def _supplied_scenes(folder: Path, store: Store) -> tuple[list[dict[str, Any]], list[str]]:
    """Records of the products that the user supplied, and what is wrong with the others."""
    scenes, faults = [], []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            scenes.append(_supplied_scene(path, store))
        except WriteError:
            raise
        except InputError as error:  # it may be anything, and the others can still be read
            faults.append(str(error))
    return scenes, faults


def _fetch_masks(store: Store) -> dict[L1cProduct, Path]:
    """The reference masks, copied out of the archives of Zenodo."""
    archives = _archives()
    store.rows |= {row["path"]: row for row in archives}
    masks: dict[L1cProduct, Path] = {}
    for path in store.fetch_all(row["path"] for row in archives):
        masks |= _extract_masks(path, store.cache / FOLDER / "masks")
    if not masks:
        raise InputError(f"{ZENODO}: holds no classification_map.tif of an L1C scene")
    return masks


def _archives() -> list[Row]:
    """Rows for a registry of the archives that the record at Zenodo lists."""
    record = _fetch_json(ZENODO)
    with readable(ZENODO, "record of Zenodo", "it may have changed: look at it"):
        return [
            {
                "path": f"{FOLDER}/zenodo/{Path(file['key']).name}",
                "bytes": str(int(file["size"])),
                "sha256": str(file["checksum"]),
                "url": str(file["links"]["self"]),
            }
            for file in record["files"]
            if str(file["key"]).endswith(".zip")
        ]


def _extract_masks(archive: Path, folder: Path) -> dict[L1cProduct, Path]:
    masks = {}
    files = list_files(archive)
    for member in files.find(r"classification_map\.tif$"):
        product = L1cProduct.within(member)
        if product is None:
            continue
        target = folder / f"{product.name}.tif"
        if not target.exists():
            files.image(member)  # refuses what is no image
            write_whole(target, files.load(member, MAX_MASK))
        masks[product] = target
    return masks


def _public_scene(product: L1cProduct, mask: Path, store: Store) -> dict[str, Any]:
    """The record of a scene of the public bucket, brought to 30 m, with its mask and heights."""
    target = store.cache / FOLDER / "scenes" / f"{product.name}.tif"
    if not target.exists():
        folder = _fetch_product(product, store)
        try:
            scene = open_product(folder, RESOLUTION, UKIS_BANDS)
        except InputError as error:
            raise Unavailable(str(error)) from error
        _write_reflectance(target, scene)
    record = {
        "id": product.name,
        "collection": "alcd",
        "sensor": "sentinel-2",
        "image": [_registry_path(target, store)],
        "bands": list(UKIS_BANDS),
        "role": "reference",
        "group": product.tile,
        "scale": SCALE,
        "resolution": RESOLUTION,
        "label": _registry_path(mask, store),
        "label_codes": "alcd",
        "label_kind": "people",
        "level": "toa",
        "licence": "masks CC BY 4.0, images Copernicus Sentinel data",
    }
    heights = _heights(target, store)
    if heights:
        record["dem"] = _registry_path(heights, store)
    return record


def _fetch_product(product: L1cProduct, store: Store) -> Path:
    """Fetch the metadata and the bands of a product; Unavailable if the bucket has none."""
    card = get_sensor("sentinel-2")
    natives = "|".join(f"B{card.band(band).native[1:]:0>2}" for band in UKIS_BANDS)
    wanted = re.compile(rf"MTD_MSIL1C\.xml|GRANULE/\w+/IMG_DATA/\w+_({natives})\.jp2")
    folder = f"{FOLDER}/l1c/{product.name}.SAFE"
    rows = {}
    for file in _list_bucket(product.folder):
        member = file["name"].removeprefix(product.folder)
        if wanted.fullmatch(member):
            rows[f"{folder}/{member}"] = _bucket_row(f"{folder}/{member}", file)
    if not rows:
        raise Unavailable(f"{product.name}: is not in {BUCKET}/{SENTINEL2}/{product.folder}")
    store.rows |= rows
    store.fetch_all(rows)
    return store.cache / folder


def _list_bucket(folder: str) -> Iterator[dict[str, str]]:
    """Name, size and md5Hash (base64) of each file in a folder of the bucket."""
    address = f"{BUCKET}/storage/v1/b/{SENTINEL2}/o"
    query = {"prefix": folder}
    while query:
        answer = _fetch_json(address, params=query)
        with readable(address, "listing of the bucket", "it may have changed: look at it"):
            files = [
                {key: str(file[key]) for key in ("name", "size", "md5Hash")}
                for file in answer.get("items", [])
                if file["name"].startswith(folder)
            ]
            page = answer.get("nextPageToken")
        yield from files
        query = {"prefix": folder, "pageToken": page} if page else {}


def _bucket_row(path: str, file: dict[str, str]) -> Row:
    """A row for a registry of a file in the bucket."""
    md5 = base64.b64decode(file["md5Hash"]).hex()
    url = f"{BUCKET}/{SENTINEL2}/{file['name']}"
    return {"path": path, "bytes": file["size"], "sha256": f"md5:{md5}", "url": url}


def _fetch_json(url: str, **options: Any) -> Any:
    answer = ask(url, **options)
    if answer.status_code == 404:
        raise InputError(f"{url}: 404, not found")
    with readable(url, "answer", "try again later"):
        return answer.json()


def _supplied_scene(path: Path, store: Store) -> dict[str, Any]:
    """The record of a product that the user supplied (SPOT, MAJA), with its mask if it has one."""
    product = find_product(path)
    target = store.cache / FOLDER / "scenes" / f"{path.stem}.tif"
    mask = target.with_name(f"{path.stem}_mask.tif")
    if not target.exists():
        scene = open_product(path, max(RESOLUTION, product.coarsest(list(product.layers))))
        if "mask" in scene:
            _write_raster(mask, scene.mask.values[np.newaxis], scene, NODATA)
        _write_reflectance(target, scene)
    with rasterio.open(target) as file:
        resolution = float(file.tags()["resolution"])
    record = {
        "id": path.stem,
        "collection": f"by hand: {product.format}",
        "sensor": product.sensor.id,
        "image": [_registry_path(target, store)],
        "bands": list(product.layers),
        "level": product.level,
        "scale": SCALE,
        "resolution": resolution,
        "role": "extra",
        "group": path.stem,
    }
    if mask.exists():
        record["label"] = _registry_path(mask, store)
        record |= {"label_codes": "binary", "label_kind": "processor"}
    return record


def _heights(image: Path, store: Store) -> Path | None:
    """The heights of a scene on its grid, None at sea."""
    target = store.cache / FOLDER / "dem" / image.name
    if not target.exists():
        with xr.open_dataset(image, engine="rasterio") as scene:
            if not fetch_cells(scene, store)[0]:
                return None
            heights = copernicus_dem(scene, store).values
            _write_raster(target, heights[np.newaxis], scene, np.nan, predictor=3)
    return target


def _write_reflectance(target: Path, scene: xr.Dataset) -> None:
    values = np.round(scene.reflectance.values / SCALE)
    numbers = np.where(np.isnan(values), EMPTY, values.clip(EMPTY + 1, 32767)).astype(np.int16)
    _write_raster(target, numbers, scene, EMPTY, predictor=2)


def _write_raster(
    target: Path, values: np.ndarray, scene: xr.Dataset, nodata: float, predictor: int = 1
) -> None:
    """Write (layer, y, x) on the grid of a scene, as a GeoTIFF."""
    grid = {"crs": scene.rio.crs, "transform": scene.rio.transform()} if scene.rio.crs else {}
    count, height, width = values.shape
    size = {"count": count, "height": height, "width": width, "dtype": values.dtype}
    form = {"driver": "GTiff", "compress": "deflate", "tiled": True, "predictor": predictor}
    with writing(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with (
            replacing(target) as temporary,
            rasterio.open(temporary, "w", nodata=nodata, **size, **form, **grid) as file,
        ):
            file.update_tags(resolution=scene.attrs.get("resolution", ""))
            file.write(values)


def _write_catalogue(scenes: list[dict[str, Any]], store: Store) -> Path:
    """Write the catalogue `alcd` and its registry: these scenes as references for Sentinel-2.

    To train and choose on, and for other sensors, it has the scenes of the catalogue `real`: the
    masks of 2020 that were trained on need an account, and no image is both trained and scored on.
    """
    real = load_catalogue("real")
    public = Store(real.registry)
    kept = [scene for scene in real.scenes if _is_kept(scene)]
    rows = {path: public.rows[path] for scene in kept for path in scene.files()}
    for record in scenes:
        for path in Scene.model_validate(record).files():
            rows[path] = row_of(path, store.cache / path)
    registry = DATA / "registry" / "alcd.csv"
    write_registry(registry, rows.values())
    records = [*scenes, *(scene.model_dump(exclude_defaults=True) for scene in kept)]
    catalogue = {
        "name": "alcd",
        "title": "ALCD's reference masks; to train on, the public patches",
        "registry": registry.name,
        "collections": _collections(records),
    }
    text = yaml.safe_dump(catalogue, allow_unicode=True, sort_keys=False)
    target = DATA / "catalogue" / "alcd.yaml"
    write_whole(target, f"# Written by `clouddl fetch alcd`.\n{text}".encode())
    load_catalogue(target)
    return target


def _is_kept(scene: Scene) -> bool:
    """Whether a scene of the catalogue `real` is taken over."""
    if scene.role == "reference":
        return scene.sensor != "sentinel-2"
    return scene.role in ("train", "validation")


def _collections(records: list[dict[str, Any]]) -> dict[str, dict[str, list]]:
    """Records of scenes, as a catalogue lists them by collection."""
    collections: dict[str, dict[str, list]] = {}
    for record in records:
        fields = {key: value for key, value in record.items() if key != "collection"}
        collections.setdefault(record["collection"], {"scenes": []})["scenes"].append(fields)
    return collections


def _to_fetch(products: Iterable[L1cProduct], folder: Path) -> list[str]:
    """What needs an account, by name, and where it goes."""
    by_name = sorted(products, key=lambda product: product.name)
    maja = [f"  SENTINEL{p.name[1:3]}_{p.date}-*_L2A_T{p.tile}_*" for p in by_name]
    return [
        f"To fetch with an account, into {folder / BY_HAND} (zip or folder), then run this again:",
        "MAJA masks, in the level 2A products of https://theia.cnes.fr of the same dates:",
        *maja,
        "SPOT scenes, level 1C of SPOT World Heritage or Take5, from CNES (https://swh-2a-carto.fr,",
        "https://www.theia-land.fr). Kettig et al. 2020 do not name theirs; any will do.",
    ]


def _registry_path(file: Path, store: Store) -> str:
    return file.relative_to(store.cache).as_posix()
