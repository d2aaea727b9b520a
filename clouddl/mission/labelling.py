"""Reference masks for first images, as ALCD makes them (Baetens, Desjardins and Hagolle 2019).

A person labels a few points or polygons in QGIS, a random forest fills the mask and says how sure
it is, and the least certain places are proposed to the person next. ALCD also looks at a clear
image of another date; here there is one image, as in a satellite's first days.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import shapely
import xarray as xr
from pyogrio import list_layers, raw
from rasterio._err import CPLE_BaseError  # which GDAL's transformation raises as it is
from rasterio.enums import MergeAlg
from rasterio.errors import CRSError
from rasterio.features import rasterize
from rasterio.warp import transform
from scipy.ndimage import uniform_filter

from clouddl.errors import InputError, folder_of, warn
from clouddl.files import replacing, writing
from clouddl.labels import CLEAR, CLOUD, NODATA, on_grid
from clouddl.products import open_image
from clouddl.products.reading import AS_STORED, Reading, check_reflectance
from clouddl.sensors import Sensor

# What the attribute `class` may say: ours and ALCD's, which `labels.CODES` makes the same of.
CLASSES = dict.fromkeys(["cloud", "low cloud", "high cloud"], CLOUD)
CLASSES |= dict.fromkeys(["clear", "shadow", "land", "water", "snow"], CLEAR)

# Normalised differences: vegetation, water, snow, moisture, and haze, which is not as red as soil.
PAIRS = (("nir", "red"), ("green", "nir"), ("green", "swir16"), ("nir", "swir16"), ("blue", "red"))
WINDOW = 5  # pixels a side: of local means and deviations, and of the places that are proposed
TREES = 200
MOST = 20_000  # pixels of a class to learn from: more cost time and teach nothing
WGS84 = "EPSG:4326"  # what GeoJSON is in (RFC 7946)

Places = tuple[np.ndarray, np.ndarray]  # rows and columns of pixels


def features(scene: xr.Dataset) -> np.ndarray:
    """Compute what the forest predicts from.

    Args:
        scene: A scene with `reflectance` (band, y, x) and perhaps `elevation` (y, x) in metres.

    Returns:
        Bands, their means and standard deviations in a window, the `PAIRS` it has the bands for,
        elevation: (feature, y, x) float32, NaN where any band is nodata.

    Raises:
        InputError: No pixel has all of its bands.
    """
    image, names = scene.reflectance.values, scene.band.values.tolist()
    nodata = ~np.isfinite(image).all(0)
    if nodata.all():
        raise InputError(f"{scene.attrs.get('scene', 'image')}: no pixel has all of its bands")
    # Nodata must not darken its neighbours: it takes the band's mean.
    filled = np.stack([np.where(nodata, band[~nodata].mean(), band) for band in image])
    mean = uniform_filter(filled, (0, WINDOW, WINDOW))
    variance = uniform_filter(filled**2, (0, WINDOW, WINDOW)) - mean**2
    layers = [*filled, *mean, *np.sqrt(np.maximum(variance, 0))]
    for pair in PAIRS:
        if set(pair) <= set(names):
            a, b = (filled[names.index(name)] for name in pair)
            layers.append((a - b) / np.maximum(np.abs(a) + np.abs(b), 1e-6))
    if "elevation" in scene:
        layers.append(scene.elevation.fillna(scene.elevation.mean()).values)
    return np.where(nodata, np.nan, np.stack(layers)).astype(np.float32)


def _vectors(path: Path | str) -> Iterator[tuple[str, shapely.Geometry | None, str]]:
    """The `class`, the geometry and the CRS of each feature of a file."""
    try:
        for layer, geometry_type in list_layers(path):
            if geometry_type is None:  # a table, such as QGIS keeps styles in
                continue
            about, _, geometries, columns = raw.read(path, layer=layer, columns=["class"])
            names = columns[0] if columns else [None] * len(geometries)
            for name, geometry in zip(names, shapely.from_wkb(geometries), strict=True):
                yield str(name or ""), geometry, about["crs"]
    except RuntimeError as error:  # every error of pyogrio
        raise InputError(
            f"{path}: cannot be read as labels ({error}); "
            "save it from QGIS as GeoJSON or GeoPackage"
        ) from error


def read_labels(path: Path | str, scene: xr.Dataset) -> np.ndarray:
    """Read points and polygons that a person labelled.

    The attribute `class` is a key of `CLASSES`, or empty: not answered yet. Where features overlap
    the later one holds; a warning says so where one is cloud and one is clear.

    Args:
        path: A GeoJSON or GeoPackage file.
        scene: The scene whose grid and CRS the labels are put on.

    Returns:
        Labels (y, x) uint8: 0, 1, else 255.

    Raises:
        InputError: A file, a class or a place is wrong; the message names file and feature.
    """
    shapes, number = [], 0
    for number, (text, geometry, crs) in enumerate(_vectors(path), 1):
        name = " ".join(text.lower().replace("_", " ").split())
        if not name:
            continue
        feature = f"{path}: feature {number}"
        if name not in CLASSES:
            choice = ", ".join(CLASSES)
            raise InputError(f"{feature}: class {text!r} is unknown; choose of {choice}")
        outline = _outline(geometry, crs, scene, feature)
        # A polygon between the centres of pixels still labels the pixel it lies in.
        inside = shapely.point_on_surface(outline)
        shapes += [(outline, CLASSES[name]), (inside, CLASSES[name])]
    if not shapes:
        raise InputError(
            f"{path}: none of its {number} features has a class; "
            f"fill the attribute `class` with one of {', '.join(CLASSES)}"
        )
    size = scene.sizes["y"], scene.sizes["x"]
    cloud, labelled = (
        rasterize(layer, size, merge_alg=MergeAlg.add, dtype="int32")
        for layer in (shapes, [(outline, 1) for outline, _ in shapes])
    )
    _warn_of_overlap(path, (cloud > 0) & (cloud < labelled))
    return rasterize(shapes, size, fill=NODATA, dtype="uint8")


def _outline(
    geometry: shapely.Geometry | None, crs: str, scene: xr.Dataset, feature: str
) -> shapely.Geometry:
    """The geometry of a feature in columns and rows of a scene that it lies in."""
    if not geometry:
        raise InputError(f"{feature} has no geometry; draw it, or remove it")

    def move(points: np.ndarray) -> np.ndarray:
        x, y = transform(crs, scene.rio.crs, *points.T)
        return np.transpose(~scene.rio.transform() * (np.array(x), np.array(y)))

    try:
        outline = shapely.transform(geometry, move)
    except (CPLE_BaseError, CRSError):  # such as metres where degrees are said
        outline = shapely.Point()
    frame = shapely.box(0, 0, scene.sizes["x"], scene.sizes["y"])
    if not (np.isfinite(outline.bounds).all() and outline.intersects(frame)):
        raise InputError(
            f"{feature} lies outside the image; save the file in its right CRS (it says {crs})"
        )
    return outline


def _warn_of_overlap(path: Path | str, both: np.ndarray) -> None:
    """Warn where pixels (y, x) are labelled cloud and clear."""
    if both.any():
        row, column = np.argwhere(both)[0]
        warn(
            f"{path}: {both.sum()} pixels are labelled cloud and clear, the first in row {row}, "
            f"column {column}; there the later label holds: redraw the outlines if it is wrong"
        )


def fill(scene: xr.Dataset, labels: np.ndarray, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Fill a mask from a few labels with a random forest.

    Args:
        scene: The scene.
        labels: Labels (y, x): 0, 1, else 255.
        seed: Seed of the forest.

    Returns:
        The mask (y, x) uint8, 255 where a band is nodata, and the forest's confidence in it (y, x)
        float32, 0.5 to 1, NaN there. What is labelled stays as it is, with confidence 1.

    Raises:
        InputError: Nothing is labelled cloud, or nothing clear.
    """
    from sklearn.ensemble import RandomForestClassifier  # late: a second of import

    stack = features(scene)
    valid = np.isfinite(stack[0])
    labelled = valid & (labels != NODATA)
    samples = []
    for name, value in (("cloud", CLOUD), ("clear", CLEAR)):
        pixels = np.flatnonzero(labelled & (labels == value))
        if not pixels.size:
            raise InputError(f"no {name} is labelled; label at least a place of cloud and of clear")
        samples.append(np.random.default_rng(seed).permutation(pixels)[:MOST])
    chosen = np.concatenate(samples)
    forest = RandomForestClassifier(TREES, class_weight="balanced", n_jobs=-1, random_state=seed)
    forest.fit(stack.reshape(len(stack), -1)[:, chosen].T, labels.flat[chosen] == CLOUD)
    cloud = forest.predict_proba(stack[:, valid].T)[:, 1]
    mask = np.full(valid.shape, NODATA, np.uint8)
    confidence = np.full(valid.shape, np.nan, np.float32)
    mask[valid], confidence[valid] = cloud >= 0.5, np.maximum(cloud, 1 - cloud)
    mask[labelled], confidence[labelled] = labels[labelled], 1
    return mask, confidence


def _typical(scene: xr.Dataset, n: int, seed: int) -> Places:
    """For each of `n` spectral clusters the pixel that is most like it."""
    from sklearn.cluster import KMeans  # late, too

    stack = features(scene)
    rows, columns = np.nonzero(np.isfinite(stack[0]))
    sample = np.random.default_rng(seed).permutation(len(rows))[:MOST]
    table = stack[:, rows[sample], columns[sample]].T
    table = (table - table.mean(0)) / np.maximum(table.std(0), 1e-6)
    clusters = KMeans(min(n, len(sample)), n_init=3, random_state=seed)
    nearest = sample[np.unique(clusters.fit_transform(table).argmin(0))]
    return rows[nearest], columns[nearest]


def _uncertain(confidence: np.ndarray, n: int) -> Places:
    """The `n` least certain pixels, none in a disc around another; NaN is never chosen."""
    valid = np.isfinite(confidence)
    # Means, or every place would be a mixed pixel of an edge, which nobody can judge.
    mean = uniform_filter(np.where(valid, confidence, 1), WINDOW)
    free = np.where(valid, mean, np.inf)
    radius = np.sqrt(valid.sum() / max(n, 1)) / 2  # n such discs never cover the whole image
    down, across = np.ogrid[: free.shape[0], : free.shape[1]]
    places: list[tuple[np.intp, ...]] = []
    while len(places) < n and np.isfinite(free).any():
        row, column = np.unravel_index(free.argmin(), free.shape)
        places.append((row, column))
        free[np.hypot(down - row, across - column) <= radius] = np.inf
    rows, columns = np.array(places, int).reshape(-1, 2).T
    return rows, columns


def choose_places(
    confidence: np.ndarray | None, n: int, scene: xr.Dataset, seed: int = 0
) -> Places:
    """Choose the places to label next.

    Args:
        confidence: Confidence (y, x) of `fill`, whose least certain pixels are chosen, spread
            apart; None: one pixel of each of `n` spectral clusters.
        n: How many places.
        scene: The scene.
        seed: Seed of the clusters.

    Returns:
        Rows and columns of the pixels.
    """
    return _typical(scene, n, seed) if confidence is None else _uncertain(confidence, n)


def propose(confidence: np.ndarray | None, n: int, scene: xr.Dataset) -> dict:
    """Propose the places to label next, to open in QGIS.

    Args:
        confidence: As for `choose_places`.
        n: How many places.
        scene: The scene.

    Returns:
        A GeoJSON FeatureCollection of points, whose attribute `class` is for the person to fill.
    """
    rows, columns = choose_places(confidence, n, scene)
    values = [None] * len(rows) if confidence is None else confidence[rows, columns].tolist()
    xs, ys = transform(scene.rio.crs, WGS84, scene.x.values[columns], scene.y.values[rows])
    points = [
        {
            "type": "Feature",
            "properties": {"number": number, "class": None, "confidence": value},
            "geometry": {"type": "Point", "coordinates": [round(x, 9), round(y, 9)]},
        }
        for number, (x, y, value) in enumerate(zip(xs, ys, values, strict=True), 1)
    ]
    return {"type": "FeatureCollection", "features": points}


def label_image(
    path: Path | str,
    sensor: Sensor | str,
    out: Path | str,
    labels: Sequence[Path | str] = (),
    points: int = 10,
    reading: Reading = AS_STORED,
) -> list[Path]:
    """Propose places to label and, from labels, make a mask and its confidence.

    The image is held in memory. Results appear whole, or not at all.

    Args:
        path: The image, with a CRS.
        sensor: Its sensor, the name of it or the path of its card.
        out: Folder for the results.
        labels: Files of labels; where they overlap the later one holds.
        points: How many places to propose.
        reading: How the numbers of the image are read.

    Returns:
        The files written: `<stem>_next.geojson` and, with labels, cloud-optimised on the image's
        grid, `<stem>_reference.tif` (uint8: 0, 1, 255) and `<stem>_confidence.tif` (float32,
        nodata NaN).

    Raises:
        InputError: An image, a file of labels or the old proposals cannot be used.
    """
    image = open_image(path, sensor, reading)
    if image.grid.crs is None:
        raise InputError(f"{path}: has no CRS to lay labels on; georeference it (gdal_edit.py)")
    scene = image.dataset()
    check_reflectance(scene.reflectance.values, image.bands, str(path), image.readings)
    given = _all_labels(labels, scene)
    stem = folder_of(out) / Path(path).stem
    proposals = Path(f"{stem}_next.geojson")
    if proposals.exists() and any(name for name, _, _ in _vectors(proposals)):
        raise InputError(f"{proposals}: holds answers; rename it and give it with --labels")
    unlabelled, rasters = None, {}
    if labels:
        try:
            mask, confidence = fill(scene, given)
        except InputError as error:
            raise InputError(f"{', '.join(map(str, labels))}: {error}") from error
        unlabelled = np.where(given == NODATA, confidence, np.nan)
        rasters = {
            Path(f"{stem}_reference.tif"): on_grid(mask, scene).rio.write_nodata(NODATA),
            Path(f"{stem}_confidence.tif"): on_grid(confidence, scene).rio.write_nodata(np.nan),
        }
    places = json.dumps(propose(unlabelled, points, scene), indent=1)
    with writing(out):
        Path(out).mkdir(parents=True, exist_ok=True)
        _write_together(proposals, places, rasters)
    return [proposals, *rasters]


def _all_labels(files: Sequence[Path | str], scene: xr.Dataset) -> np.ndarray:
    """The labels (y, x) of several files, the later one where they overlap."""
    labels = np.full((scene.sizes["y"], scene.sizes["x"]), NODATA, np.uint8)
    for file in files:
        more = read_labels(file, scene)
        _warn_of_overlap(file, (labels != NODATA) & (more != NODATA) & (labels != more))
        labels = np.where(more == NODATA, labels, more)
    return labels


def _write_together(proposals: Path, places: str, rasters: dict[Path, xr.DataArray]) -> None:
    """Write the proposals and the rasters: all of them, or none."""
    with ExitStack() as files:
        files.enter_context(replacing(proposals)).write_text(places)
        for target, raster in rasters.items():
            raster.rio.to_raster(
                files.enter_context(replacing(target)),
                driver="COG",
                compress="DEFLATE",
                predictor="YES",
                overview_resampling="NEAREST" if raster.dtype == np.uint8 else "AVERAGE",
            )
