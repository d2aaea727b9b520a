"""Reference masks for first images, as ALCD makes them (Baetens, Desjardins and Hagolle 2019).

A person labels a few points or polygons in QGIS, a random forest fills the mask and says how sure
it is, and the least certain places are put to the person next. ALCD also looks at a clear image of
another date; here there is one image, as in a satellite's first days.
"""

import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import shapely
import xarray as xr
from rasterio._err import CPLE_BaseError
from rasterio.crs import CRS
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.warp import transform
from scipy.ndimage import uniform_filter
from shapely.geometry import shape

from clouddl.errors import InputError
from clouddl.labels import CLEAR, CLOUD, NODATA, decode
from clouddl.predict import _georeferenced
from clouddl.products.image import Reading, check_reflectance, read_image
from clouddl.score import COUNTS, counts, measures
from clouddl.sensors import Sensor

# What the attribute `class` may say: ours, and ALCD's, which labels.CODES makes cloud or clear.
_ALCD = {"low cloud": 2, "high cloud": 3, "shadow": 4, "land": 5, "water": 6, "snow": 7}


CLASSES = {"cloud": CLOUD, "clear": CLEAR}


CLASSES |= dict(zip(_ALCD, decode(np.array([*_ALCD.values()]), "alcd").tolist(), strict=True))


# Normalised differences: vegetation, water, snow, moisture, and haze, which is not as red as soil.
PAIRS = (("nir", "red"), ("green", "nir"), ("green", "swir16"), ("nir", "swir16"), ("blue", "red"))


WINDOW = 5  # pixels a side: of local means and deviations, and of the places that are put next


TREES = 200


MOST = 20_000  # pixels of a class to learn from: beyond, polygons cost time and teach nothing


WGS84 = CRS.from_epsg(4326)  # what GeoJSON is in (RFC 7946), unless it says otherwise


Places = tuple[np.ndarray, np.ndarray]  # rows and columns of pixels


def features(scene: xr.Dataset) -> np.ndarray:
    """What the forest sees: (features, y, x) float32, NaN where any band is nodata.

    Bands, their means and deviations in a window, `PAIRS` it has the bands for, elevation (m).
    """
    image, names = scene.reflectance.values, scene.band.values.tolist()
    hole = ~np.isfinite(image).all(0)
    if hole.all():
        raise InputError(f"{scene.attrs.get('scene', 'image')}: no pixel has all of its bands")
    # A hole must not darken its neighbours: it takes the band's mean.
    whole = np.stack([np.where(hole, band[~hole].mean(), band) for band in image])
    near = uniform_filter(whole, (0, WINDOW, WINDOW))
    spread = np.sqrt(np.maximum(uniform_filter(whole**2, (0, WINDOW, WINDOW)) - near**2, 0))
    layers = [*whole, *near, *spread]
    for pair in PAIRS:
        if set(pair) <= set(names):
            a, b = (whole[names.index(name)] for name in pair)
            layers.append((a - b) / np.maximum(np.abs(a) + np.abs(b), 1e-6))
    if "elevation" in scene:
        layers.append(scene.elevation.fillna(scene.elevation.mean()).values)
    return np.where(hole, np.nan, np.stack(layers)).astype(np.float32)


def _vectors(path: Path | str) -> Iterator[tuple[Any, shapely.Geometry, CRS]]:
    """The `class`, the geometry and the CRS of each feature of a GeoPackage or a GeoJSON file."""
    try:
        if Path(path).suffix.lower() != ".gpkg":
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            crs = (data.get("crs") or {}).get("properties", {}).get("name", WGS84)  # QGIS may tell
            for item in data["features"]:
                kind = (item.get("properties") or {}).get("class")
                yield kind, shape(item["geometry"]), CRS.from_user_input(crs)
            return
        # SQLite, with geometries as WKB behind a header of a length its flags tell (OGC 12-128).
        with closing(sqlite3.connect(f"{Path(path).resolve().as_uri()}?mode=ro", uri=True)) as base:
            layers = "gpkg_geometry_columns JOIN gpkg_spatial_ref_sys USING (srs_id)"
            listed = base.execute(f"SELECT table_name, column_name, definition FROM {layers}")
            for table, column, crs in listed.fetchall():
                for kind, blob in base.execute(f'SELECT class, "{column}" FROM "{table}"'):
                    start = 8 + (0, 32, 48, 48, 64)[blob[3] >> 1 & 7]
                    yield kind, shapely.from_wkb(blob[start:]), CRS.from_user_input(crs)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError,
            CRSError, sqlite3.Error, shapely.errors.ShapelyError) as error:  # fmt: skip
        told = f"cannot be read as labels ({type(error).__name__}: {error})"
        raise InputError(f"{path}: {told}; save it from QGIS as GeoJSON or GeoPackage") from error


def read_labels(path: Path | str, scene: xr.Dataset) -> np.ndarray:
    """Points and polygons of a GeoJSON or GeoPackage file as (y, x) uint8: 0, 1, else 255.

    The attribute `class` is a key of `CLASSES`, or empty: not answered yet. Where features overlap
    the later one holds. The scene has a CRS. InputError names the file and the feature.
    """
    size = scene.sizes["y"], scene.sizes["x"]
    frame, to_pixel = shapely.box(0, 0, *size[::-1]), ~scene.rio.transform()
    shapes, number = [], 0
    for number, (kind, geometry, crs) in enumerate(_vectors(path), 1):
        if not (name := " ".join(str(kind or "").lower().replace("_", " ").split())):
            continue
        if name not in CLASSES:
            told = f"class {kind!r} is unknown; choose of {', '.join(CLASSES)}"
            raise InputError(f"{path}: feature {number}: {told}")
        corners = shapely.get_coordinates(geometry).T
        try:
            moved = to_pixel * tuple(map(np.array, transform(crs, scene.rio.crs, *corners)))
        except CPLE_BaseError:  # metres, where degrees are said
            moved = corners * np.nan
        drawn = shapely.set_coordinates(shapely.force_2d(geometry), np.transpose(moved))
        if not (np.isfinite(moved).all() and drawn.intersects(frame)):
            told = f"lies outside the image; save the file in its right CRS (it says {crs})"
            raise InputError(f"{path}: feature {number} {told}")
        # A polygon between the centres of pixels still labels the pixel it lies in.
        shapes += [(each, CLASSES[name]) for each in (drawn, shapely.point_on_surface(drawn))]
    if not shapes:
        told = f"none of its {number} features has a class; fill that attribute with one of"
        raise InputError(f"{path}: {told} {', '.join(CLASSES)}")
    return rasterize(shapes, size, fill=NODATA, dtype="uint8")


def fill(scene: xr.Dataset, labels: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Fill a mask from its `labels` (y, x: 0, 1, else 255) with a random forest.

    Returns the mask (y, x) uint8, 255 where a band is nodata, and the forest's confidence in it
    (y, x) float32, 0.5 to 1, NaN there. What is labelled stays as it is, with confidence 1.
    InputError: nothing labelled cloud, or nothing clear.
    """
    from sklearn.ensemble import RandomForestClassifier  # late: a second of import

    stack = features(scene)
    valid = np.isfinite(stack[0])
    taught, learnt = valid & (labels != NODATA), []
    for name, value in (("cloud", CLOUD), ("clear", CLEAR)):
        each = np.flatnonzero(taught & (labels == value))
        if not each.size:
            raise InputError(f"no {name} is labelled; label at least a place of cloud and of clear")
        learnt.append(np.random.default_rng(seed).permutation(each)[:MOST])
    chosen = np.concatenate(learnt)
    forest = RandomForestClassifier(TREES, class_weight="balanced", n_jobs=-1, random_state=seed)
    forest.fit(stack.reshape(len(stack), -1)[:, chosen].T, labels.flat[chosen] == CLOUD)
    mask, confidence = np.full(valid.shape, NODATA, np.uint8), stack[0] * np.nan
    cloud = forest.predict_proba(stack[:, valid].T)[:, 1]
    mask[valid], confidence[valid] = cloud >= 0.5, np.maximum(cloud, 1 - cloud)
    mask[taught], confidence[taught] = labels[taught], 1
    return mask, confidence


def _first(scene: xr.Dataset, n: int, seed: int) -> Places:
    """For each of `n` spectral clusters the pixel that is most like it."""
    from sklearn.cluster import KMeans  # late, too

    stack = features(scene)
    rows, columns = np.nonzero(np.isfinite(stack[0]))
    few = np.random.default_rng(seed).permutation(len(rows))[:MOST]
    table = stack[:, rows[few], columns[few]].T
    table = (table - table.mean(0)) / np.maximum(table.std(0), 1e-6)
    found = KMeans(min(n, len(few)), n_init=3, random_state=seed).fit_transform(table)
    like = few[np.unique(found.argmin(0))]
    return rows[like], columns[like]


def _next(confidence: np.ndarray, n: int) -> Places:
    """The `n` least certain pixels, none in a disc around another; NaN is never chosen."""
    valid = np.isfinite(confidence)
    # Means, or every place would be a mixed pixel of an edge, which nobody can judge.
    left = np.where(valid, uniform_filter(np.where(valid, confidence, 1), WINDOW), np.inf)
    reach = np.sqrt(valid.sum() / max(n, 1)) / 2  # n such discs never cover the whole image
    down, across = np.ogrid[: left.shape[0], : left.shape[1]]
    places: list[Any] = []
    while len(places) < n and np.isfinite(left).any():
        places.append(np.unravel_index(left.argmin(), left.shape))
        left[np.hypot(down - places[-1][0], across - places[-1][1]) <= reach] = np.inf
    rows, columns = np.array(places, int).reshape(-1, 2).T
    return rows, columns


def propose(confidence: np.ndarray | None, n: int, scene: xr.Dataset, seed: int = 0) -> dict:
    """The `n` places to label next, to open in QGIS: a GeoJSON FeatureCollection of points.

    They are centres of the least certain pixels of `confidence` (y, x), spread apart; without it,
    one pixel of each of `n` spectral clusters. The attribute `class` is for the person to fill.
    """
    rows, columns = _first(scene, n, seed) if confidence is None else _next(confidence, n)
    sure = [None] * len(rows) if confidence is None else confidence[rows, columns].tolist()
    xs, ys = transform(scene.rio.crs, WGS84, scene.x.values[columns], scene.y.values[rows])
    listed = [
        {
            "type": "Feature",
            "properties": {"number": number, "class": None, "confidence": certain},
            "geometry": {"type": "Point", "coordinates": [round(x, 9), round(y, 9)]},
        }
        for number, (x, y, certain) in enumerate(zip(xs, ys, sure, strict=True), 1)
    ]
    return {"type": "FeatureCollection", "features": listed}


def label_image(
    path: Path | str, sensor: Sensor, out: Path | str, labels: Sequence[Path | str] = (),
    points: int = 10, bands: Sequence[str | None] | None = None, **reading: Any,
) -> list[Path]:  # fmt: skip
    """Write `<stem>_next.geojson` into `out` and, from `labels`, the mask and its confidence.

    `<stem>_reference.tif` (uint8, 0, 1, 255) and `<stem>_confidence.tif` (float32, nodata NaN) are
    cloud-optimised, on the image's grid. Of several files of labels the later one holds. `bands`,
    `reading` (scale, offset, nodata): as `read_image`. The image is held in memory. Results appear
    whole, or not at all. InputError names the file and what to mend.
    """
    listed = list(bands or [band.common for band in sensor.bands])
    for band in filter(None, listed):
        sensor.band(band)  # says what is wrong with it, if so
    reading |= {"resolution": None if _georeferenced(path) else 1}
    image = read_image(path, listed, Reading(**reading))
    if image.rio.crs is None:
        raise InputError(f"{path}: has no CRS to lay labels on; georeference it (gdal_edit.py)")
    check_reflectance(image, str(path))
    scene = image.to_dataset().assign_attrs(scene=str(path))
    given = np.full(image.shape[1:], NODATA, np.uint8)
    for file in labels:
        more = read_labels(file, scene)
        given = np.where(more == NODATA, given, more)
    ends = ("next.geojson", "reference.tif", "confidence.tif")
    results = [Path(out, f"{Path(path).stem}_{end}") for end in ends]
    if (old := results[0]).exists() and any(kind for kind, _, _ in _vectors(old)):
        raise InputError(f"{old}: holds answers; rename it and give it with --labels")
    layers: tuple[np.ndarray, ...] = ()
    if labels:
        try:
            layers = fill(scene, given)
        except InputError as error:
            raise InputError(f"{', '.join(map(str, labels))}: {error}") from error
    asked = np.where(given == NODATA, layers[1], np.nan) if layers else None
    Path(out).mkdir(parents=True, exist_ok=True)
    # In a folder beside the results: a move within one file system is at once, and whole.
    with TemporaryDirectory(prefix=".clouddl-", dir=out) as work:
        Path(work, old.name).write_text(json.dumps(propose(asked, points, scene), indent=1))
        results = results[: 1 + len(layers)]
        for layer, result in zip(layers, results[1:], strict=True):
            hole, way = (NODATA, "NEAREST") if layer is layers[0] else (np.nan, "AVERAGE")
            raster = image.isel(band=0, drop=True).copy(data=layer).rio.write_nodata(hole)
            raster.rio.to_raster(Path(work, result.name), driver="COG", compress="DEFLATE",
                                 predictor="YES", overview_resampling=way)  # fmt: skip
        for result in results:
            os.replace(Path(work, result.name), result)
    return results


def simulated_person(
    scene: xr.Dataset, truth: np.ndarray, rounds: int, per_round: int, seed: int = 0,
    error_rate: float = 0.0, seconds_per_point: float = 20.0,
) -> pd.DataFrame:  # fmt: skip
    """A drawn person who answers from `truth` (y, x: 0, 1, 255): what each round of labels brings.

    They are wrong with `error_rate`, say nothing where truth is 255, and add a place of a class
    that was not among those put to them. Columns: round, points, minutes, f2 and accuracy over all
    pixels. `seconds_per_point` is an assumption, not a measurement.
    """
    rng, table = np.random.default_rng(seed), []
    labels, asked = np.full(truth.shape, NODATA, np.uint8), np.zeros(truth.shape, bool)
    places = _first(scene, per_round, seed)
    for number in range(1, rounds + 1):
        wrong = (rng.random(len(places[0])) < error_rate) & (truth[places] != NODATA)
        labels[places], asked[places] = np.where(wrong, 1 - truth[places], truth[places]), True
        for value in (CLEAR, CLOUD):
            if not (labels == value).any() and (truth == value).any():
                place = np.unravel_index(rng.choice(np.flatnonzero(truth == value)), truth.shape)
                labels[place], asked[place] = value, True
        mask, confidence = fill(scene, labels, seed)
        score, points = counts(mask, truth), int(asked.sum())
        found = measures(np.array([score[name] for name in COUNTS]))
        row = {"round": number, "points": points, "minutes": points * seconds_per_point / 60}
        table.append(row | {name: float(found[name]) for name in ("f2", "accuracy")})
        places = _next(np.where(asked, np.nan, confidence), per_round)
    return pd.DataFrame(table)
