"""The study of 2020 on its own data, as far as it is public: the corpus `alcd`.

ALCD's reference masks (Baetens et al. 2019, Zenodo 1460960, CC BY 4.0) lie in folders named after
their Sentinel-2 L1C scenes. Those are in Google's public bucket, the heights on AWS. What wants an
account (MAJA masks at Theia, SPOT scenes at CNES) a person puts into a folder, and it is taken up.

No step was run on the real servers: there was no network where this was written. Unchecked are the
names in the archive beyond what its description says, and that all scenes are still in the bucket.
"""

import base64
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rioxarray  # noqa: F401 (gives Datasets their .rio)
import xarray as xr
import yaml
from tqdm import tqdm

from clouddl.errors import InputError, WriteError
from clouddl.files import Store, ask, row_of, write_registry, write_whole, writing
from clouddl.labels import NODATA, UKIS_BANDS
from clouddl.products import open_product
from clouddl.products.archives import Files, list_files
from clouddl.products.dem import copernicus_dem, fetch_cells
from clouddl.products.readers import find_product
from clouddl.scenes import DATA, Scene, load_catalogue
from clouddl.sensors import get_sensor

ZENODO = "https://zenodo.org/api/records/1460960"


BUCKET = "https://storage.googleapis.com"


SENTINEL2 = "gcp-public-data-sentinel-2"


RESOLUTION = 30.0  # metres of the scenes as kept: that of the study, and a tenth of the bytes


SCALE, EMPTY = 1e-4, -32768


FOLDER = "alcd"  # in the cache


BY_HAND = "by-hand"  # in that folder: what was fetched with an account


L1C = re.compile(r"S2[AB]_MSIL1C_(\d{8})T\d{6}_N\d{4}_R\d{3}_T(\d\d)([A-Z])([A-Z]{2})_\d{8}T\d{6}")


def gather(cache: Path | None = None) -> list[str]:
    """Fetch what is public, prepare scenes, write `data/catalogue/alcd.yaml`; what was found.

    Sentinel-2 is brought to 30 m, the six bands that models and ukis-csmask use, int16 reflectance
    × 10000. Returns lines to print: what was gathered, and by name what a person must fetch and
    where it goes. Called again it does what is missing. InputError: a server that does not answer,
    a disk that is full, an archive that is not safe; a scene that cannot be had is only told.
    """
    store = Store(None, cache)
    home = store.cache / FOLDER
    (home / BY_HAND).mkdir(parents=True, exist_ok=True)
    masks = _masks(store)
    scenes, told = [], []
    for name, mask in tqdm(sorted(masks.items()), "scenes", unit="scene"):
        try:
            scenes.append(_sentinel2(name, mask, store))
        except Unavailable as error:
            told.append(f"not gathered: {error}")
    for path in sorted(each for each in (home / BY_HAND).iterdir() if each.name[0] != "."):
        try:  # what a person brought may be anything: it is told, and the rest goes on
            scenes.append(_product(path, store))
        except WriteError:
            raise
        except InputError as error:
            told.append(f"not gathered: {error}")
    if not scenes:
        raise InputError(f"{home}: no scene could be had: {'; '.join(told)}")
    target = _write(scenes, store)
    return [f"{len(scenes)} scenes in {home}, catalogue {target}", *told, *_by_hand(masks, home)]


class Unavailable(InputError):
    """One scene cannot be had; the others can."""


def _masks(store: Store) -> dict[str, Path]:
    """The reference masks by the name of their scene, copied out of the archives of Zenodo."""
    listed = _json(ZENODO)
    try:
        archives = [
            {"path": f"{FOLDER}/zenodo/{Path(file['key']).name}", "bytes": str(int(file["size"])),
             "sha256": str(file["checksum"]), "url": str(file["links"]["self"])}
            for file in listed["files"] if str(file["key"]).endswith(".zip")
        ]  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{ZENODO}: is not a record of Zenodo ({error!r})") from error
    store.rows |= {row["path"]: row for row in archives}
    found: dict[str, Path] = {}
    for path in store.fetch_all(row["path"] for row in archives):
        files: Files = list_files(path)
        for member in files.find(r"classification_map\.tif$"):
            if not (scene := L1C.search(member)):
                continue  # of before the compact naming: its product is not read either
            target = store.cache / FOLDER / "masks" / f"{scene[0]}.tif"
            if not target.exists():
                files.image(member)  # refuses what is no image
                write_whole(target, files.load(member, 1 << 30))
            found[scene[0]] = target
    if not found:
        raise InputError(f"{ZENODO}: holds no classification_map.tif of an L1C scene")
    return found


def _sentinel2(name: str, mask: Path, store: Store) -> dict[str, Any]:
    """A scene of the public bucket, brought to 30 m, with its mask and heights."""
    target = store.cache / FOLDER / "scenes" / f"{name}.tif"
    scene = L1C.fullmatch(name)
    assert scene  # _masks saw to it
    if not target.exists():
        folder = f"tiles/{scene[2]}/{scene[3]}/{scene[4]}/{name}.SAFE/"
        native = "|".join(f"B{get_sensor('sentinel-2').band(b).native[1:]:0>2}" for b in UKIS_BANDS)
        wanted = re.compile(rf"MTD_MSIL1C\.xml|GRANULE/\w+/IMG_DATA/\w+_({native})\.jp2")
        paths = []
        for each in _listing(folder):
            if wanted.fullmatch(inside := each["name"].removeprefix(folder)):
                path = f"{FOLDER}/l1c/{name}.SAFE/{inside}"
                md5 = base64.b64decode(each["md5Hash"]).hex()
                store.rows[path] = {
                    "path": path, "bytes": each["size"], "sha256": f"md5:{md5}",
                    "url": f"{BUCKET}/{SENTINEL2}/{each['name']}",
                }  # fmt: skip
                paths.append(path)
        if not paths:
            raise Unavailable(f"{name}: is not in {BUCKET}/{SENTINEL2}/{folder}")
        store.fetch_all(paths)
        try:
            safe = store.cache / FOLDER / "l1c" / f"{name}.SAFE"
            opened = open_product(safe, RESOLUTION, UKIS_BANDS)
        except InputError as error:
            raise Unavailable(str(error)) from error
        _keep(opened, target)
    heights = _heights(target, store)
    return {
        "id": name, "collection": "alcd", "sensor": "sentinel-2", "image": [_path(target, store)],
        "bands": list(UKIS_BANDS), "role": "reference",
        "group": f"{scene[2]}{scene[3]}{scene[4]}", "scale": SCALE,
        "resolution": RESOLUTION, "label": _path(mask, store),
        "label_codes": "alcd", "label_kind": "people", "level": "toa",
        "licence": "masks CC BY 4.0, images Copernicus Sentinel data",
        **({"dem": _path(heights, store)} if heights else {}),
    }  # fmt: skip


def _listing(folder: str) -> Iterator[dict[str, str]]:
    """What the bucket holds in a folder: name, size, md5Hash (base64) of each file."""
    address, asked = f"{BUCKET}/storage/v1/b/{SENTINEL2}/o", {"prefix": folder}
    while asked:
        answer = _json(address, params=asked)
        try:
            for each in answer.get("items", []):
                if each["name"].startswith(folder):
                    yield {key: str(each[key]) for key in ("name", "size", "md5Hash")}
        except (AttributeError, KeyError, TypeError) as error:
            raise InputError(f"{address}: is no listing of a bucket ({error!r})") from error
        page = answer.get("nextPageToken")
        asked = {**asked, "pageToken": page} if page else {}


def _json(url: str, **options: Any) -> Any:
    answer = ask(url, **options)
    try:
        if answer.status_code == 404:
            raise ValueError("404, not found")
        return answer.json()
    except ValueError as error:
        raise InputError(f"{url}: did not answer as expected ({error})") from error


def _product(path: Path, store: Store) -> dict[str, Any]:
    """A product that a person put there (SPOT, MAJA), with the mask it carries if it does."""
    product = find_product(path)
    target = store.cache / FOLDER / "scenes" / f"{path.stem}.tif"
    mask = target.with_name(f"{path.stem}_mask.tif")
    if not target.exists():
        scene = open_product(path, max(RESOLUTION, product.coarsest(list(product.layers))))
        if "mask" in scene:
            _raster(mask, scene.mask.values[np.newaxis], scene, NODATA)
        _keep(scene, target)
    with rasterio.open(target) as file:
        metres = float(file.tags()["resolution"])
    label = {"label": _path(mask, store), "label_codes": "binary", "label_kind": "processor"}
    return {
        "id": path.stem, "collection": f"by hand: {product.format}", "sensor": product.sensor.id,
        "image": [_path(target, store)], "bands": list(product.layers), "level": product.level,
        "scale": SCALE, "resolution": metres, "role": "extra", "group": path.stem,
        **(label if mask.exists() else {}),
    }  # fmt: skip


def _keep(scene: xr.Dataset, target: Path) -> None:
    """Write a scene's reflectance as int16."""
    values = np.round(scene.reflectance.values / SCALE)
    values = np.where(np.isnan(values), EMPTY, values.clip(EMPTY + 1, 32767)).astype(np.int16)
    _raster(target, values, scene, EMPTY, predictor=2)


def _heights(image: Path, store: Store) -> Path | None:
    """The heights of a scene on its grid, None at sea."""
    target = store.cache / FOLDER / "dem" / image.name
    if not target.exists():
        with xr.open_dataset(image, engine="rasterio") as scene:
            if not fetch_cells(scene, store)[0]:
                return None
            height = copernicus_dem(scene, store).values
            _raster(target, height[np.newaxis], scene, np.nan, predictor=3)
    return target


def _raster(target: Path, values: np.ndarray, like: xr.Dataset, nodata: float, **how: Any) -> None:
    """Write (layer, y, x) on the grid of a scene, whole or not at all."""
    place = {"crs": like.rio.crs, "transform": like.rio.transform()} if like.rio.crs else {}
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}")
    with (
        writing(target.parent),
        rasterio.open(
            part, "w", driver="GTiff", count=len(values), height=values.shape[1], nodata=nodata,
            width=values.shape[2], dtype=values.dtype, compress="deflate", tiled=True,
            **place, **how,
        ) as file,
    ):  # fmt: skip
        file.update_tags(resolution=like.attrs.get("resolution", ""))
        file.write(values)
    part.replace(target)


def _write(scenes: list[dict[str, Any]], store: Store) -> Path:
    """The catalogue `alcd` and its registry: these scenes as references for Sentinel-2.

    To train and choose on, and for other sensors, it has the scenes of the catalogue `real`: the
    masks of 2020 that were trained on want an account, and no image is both trained and scored on.
    """
    real = load_catalogue("real")
    kept = [s for s in real.scenes if s.role in ("train", "validation")
            or (s.role == "reference" and s.sensor != "sentinel-2")]  # fmt: skip
    rows = {path: Store(real.registry).rows[path] for each in kept for path in each.files()}
    for scene in scenes:
        for path in Scene.model_validate(scene).files():
            rows[path] = row_of(path, store.cache / path)
    registry = DATA / "registry" / "alcd.csv"
    write_registry(registry, rows.values())
    collections: dict[str, dict[str, list]] = {}
    for scene in [*scenes, *(s.model_dump(exclude_defaults=True) for s in kept)]:
        own = {key: value for key, value in scene.items() if key != "collection"}
        collections.setdefault(scene["collection"], {"scenes": []})["scenes"].append(own)
    title = "ALCD's reference masks; to train on, the public patches"
    text = yaml.safe_dump(
        {"name": "alcd", "title": title, "registry": registry.name, "collections": collections},
        allow_unicode=True, sort_keys=False,
    )  # fmt: skip
    target = DATA / "catalogue" / "alcd.yaml"
    write_whole(target, f"# Written by `clouddl fetch alcd`.\n{text}".encode())
    load_catalogue(target)
    return target


def _by_hand(masks: Iterable[str], home: Path) -> list[str]:
    """What wants an account, by name, and where it goes."""
    found = [L1C.fullmatch(name) for name in sorted(masks)]
    maja = [f"  SENTINEL2{name[2]}_{s[1]}-*_L2A_T{s[2]}{s[3]}{s[4]}_*"
            for name, s in zip(sorted(masks), found, strict=True) if s]  # fmt: skip
    return [
        f"To fetch with an account, into {home / BY_HAND} (zip or folder), then run this again:",
        "MAJA masks, in the level 2A products of https://theia.cnes.fr of the same dates:",
        *maja,
        "SPOT scenes, level 1C of SPOT World Heritage or Take5, from CNES (https://swh-2a-carto.fr,",
        "https://www.theia-land.fr). Kettig et al. 2020 do not name theirs; any will do.",
    ]


def _path(file: Path, store: Store) -> str:
    return file.relative_to(store.cache).as_posix()
