"""Prediction: cloud probability and mask of arrays, and of images of any size.

An image is opened, a plan is made of what was left open, tiles are predicted one after another,
and the results are written as they come.
"""

import hashlib
import math
import os
import re
import shutil
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import rasterio
import rasterio.shutil
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetWriter
from rasterio.windows import Window

from clouddl.errors import InputError, WriteError, absent, folder_of, warn
from clouddl.files import is_local, replacing, split_member, working_folder, writing
from clouddl.labels import CLEAR, CLOUD, NODATA, dilate, to_mask
from clouddl.model import CloudModel, pick_model, shared_model
from clouddl.network import TRAINED, ModelCard
from clouddl.products import ProductImage, Source, open_image
from clouddl.products.image import OVERVIEW, Image, strips
from clouddl.products.raster import check_name, open_raster
from clouddl.products.reading import AS_STORED, Reading, check_reflectance
from clouddl.scale.tiles import Prediction, TilePredictor
from clouddl.sensors import Sensor, band_names, middle

if TYPE_CHECKING:
    import xarray as xr

PART_PIXELS = 1 << 25  # of an image that are worth a worker, which first looks over all of it
PROBABILITY_BYTES = 4  # per pixel
LONGEST_NAME = 240  # bytes of the name of a result, which is written under a longer one
LEAST_GROUND = 300.0  # metres a side that an image should show: ten pixels of the models
LEAST_STEP = 0.05  # of a transform without a CRS: less is in degrees
RESULT_BYTES = 12  # per pixel, on disk while results are made: as computed, grown, and as COG
NODATA_OF = {"float32": np.nan, "uint8": NODATA}  # by the type of the probability
STEPS = {"float32": 1000, "uint8": 250}  # of a stored probability from 0 to 1, by its type
CACHE = 128 << 20  # bytes of decoded blocks; GDAL's default is a fraction of the machine's memory
MADE_OF = "source"  # tag of a result: the image it was made of
FOLDER_SUFFIXES = (".safe", ".zarr")
# Metadata that are called the same in every product; its folder tells them apart.
SAME_IN_EVERY_PRODUCT = r"MTD(_\w+)?|manifest|metadata|INSPIRE"
COLOURS = {CLEAR: (46, 92, 60), CLOUD: (255, 255, 255), NODATA: (0, 0, 0)}


@dataclass(frozen=True)
class Options:
    """How to predict.

    Attributes:
        use: Bands to work from; default the model's best set of those there are.
        threshold: Probability from which a pixel is cloud; default the model's.
        dilation_m: Metres to grow the clouds by.
        tile: Pixels a side of a tile, at the model's resolution; default what runs best.
        probability_type: "float32", in thousandths, or "uint8", in steps of 1 / 250, which the
            file says; both rounded down.
    """

    use: tuple[str, ...] | None = None
    threshold: float | None = None
    dilation_m: float = 0.0
    tile: int | None = None
    probability_type: str = "float32"


DEFAULT = Options()


@dataclass(frozen=True)
class Plan:
    """An open image, and how it is predicted; see `make_plan`."""

    image: Image
    model: CloudModel
    threshold: float
    options: Options
    checked: bool  # whether its values have been found to be reflectance
    made_of: str  # so that results are not replaced by another image's


def predict_array(
    model: CloudModel | Path | str,
    image: "xr.DataArray | np.ndarray",
    bands: Sequence[str] | None = None,
    resolution: float | None = None,
) -> np.ndarray:
    """Predict the probability of cloud of an image in memory.

    Args:
        model: What predicts, from its best set of the bands; or the name or card of a model.
        image: Reflectance (band, y, x), nodata NaN.
        bands: Common names; default the coordinate of a DataArray.
        resolution: Metres per pixel; default the attribute of a DataArray.

    Returns:
        Probability (y, x) float32 on the image's own grid, NaN where all bands are nodata.

    Raises:
        InputError: Bands that do not fit, no resolution, or values that are no reflectance.
    """
    model = _loaded(model)
    names = None if bands is None else band_names(bands)
    opened = open_image(image, reading=Reading(bands=names, resolution=resolution))
    opened = opened.select(_best_set(model.card, opened.bands, opened.name))
    _check_overview(opened, OVERVIEW // 2)  # as the network is fast on arrays
    probability = np.empty(opened.shape, np.float32)
    for window, values in TilePredictor(model, opened).run():
        probability[window.toslices()] = values
    return probability


def predict_file(
    source: Source,
    sensor: Sensor | str | None,
    out: Path | str,
    *,
    model: CloudModel | Path | str | None = None,
    reading: Reading = AS_STORED,
    options: Options = DEFAULT,
    progress: bool = True,
    tags: Mapping[str, str] | None = None,
) -> tuple[Path, Path]:
    """Write the mask and the probability of an image: `<stem>_cloud.tif`, `<stem>_probability.tif`.

    Both are cloud-optimised GeoTIFFs on the image's grid: uint8, 0 clear, 1 cloud, 255 nodata; and
    float32, nodata NaN, or as `options.probability_type` says. They appear at the end, complete:
    once both can be moved into place, first the probability, then the mask.

    Products and STAC items are predicted at `reading.resolution`, by default at the model's or
    their own if coarser. Without a CRS or a given resolution the resolution is the sensor's, but
    from 20 m on not finer than the model's; clouds are then grown by metres that are a guess, and
    a warning says so. The network averages finer pixels to the model's resolution, and takes
    coarser ones up to 60 m as they are (`network.as_it_is`).

    Args:
        source: What `open_image` opens, of any size; arrays are held in memory.
        sensor: The sensor, its name or the path of its card; None for a product or an item,
            which says it itself.
        out: Folder of the results.
        model: What predicts, or the name or card of a model; default the shipped one that makes the
            most of the bands.
        reading: How the image's numbers are read.
        options: How to predict.
        progress: Whether to show a progress bar.
        tags: Go into both files, together with what they were made by.

    Returns:
        Paths of the mask and of the probability.

    Raises:
        InputError: The message names the image and what to do.
        WriteError: The folder cannot be written to.
    """
    return predict_plan(make_plan(source, sensor, model, reading, options), out, progress, tags)


def predict_plan(
    plan: Plan,
    out: Path | str,
    progress: bool = True,
    tags: Mapping[str, str] | None = None,
    parts: Path | str | None = None,
) -> tuple[Path, Path]:
    """Write the results of an image that is opened: see `predict_file`.

    Args:
        plan: Of `make_plan`.
        out: As for `predict_file`.
        progress: As for `predict_file`.
        tags: As for `predict_file`.
        parts: Folder of the probability, if `predict_part` has predicted it.

    Returns:
        Paths of the mask and of the probability.

    Raises:
        InputError: Parts are missing; and as `predict_file`.
        WriteError: As `predict_file`.
    """
    if parts:
        predictions = _saved_parts(plan, Path(parts))
    else:
        predictions = _predictions(plan, Path(plan.image.name).name if progress else None)
    return _write(plan, predictions, out, tags or {})


def make_plan(
    source: Source,
    sensor: Sensor | str | None,
    model: CloudModel | Path | str | None = None,
    reading: Reading = AS_STORED,
    options: Options = DEFAULT,
) -> Plan:
    """Open an image and settle all that was left open.

    Args:
        source: As for `predict_file`.
        sensor: As for `predict_file`.
        model: As for `predict_file`.
        reading: As for `predict_file`.
        options: As for `predict_file`.

    Returns:
        The open image, the model, and how it is predicted.

    Raises:
        InputError: As `predict_file`.
    """
    _check_options(options)
    image = opened = open_image(source, sensor, reading)
    wanted = list(band_names(options.use or image.bands, image.sensor))
    for band in wanted:
        if band not in image.bands:
            raise absent(image.name, "band", band, image.bands)
    model = _default_model(image.name, wanted) if model is None else _loaded(model)
    best = _best_set(model.card, wanted, image.name, exact=bool(options.use))
    used = [band for band in image.bands if band in best]
    resolution = _resolution(image, used, model.card)
    if options.dilation_m and image.coarsest(used) is None:
        warn(
            f"{image.name}: nothing says its resolution, so clouds are grown by metres of pixels "
            f"that are taken as {resolution:g} m; give --resolution"
        )
    threshold = model.card.threshold if options.threshold is None else options.threshold
    with rasterio.Env(GDAL_CACHEMAX=CACHE):
        image = image.select(used, resolution)
    checked = isinstance(opened, ProductImage)  # by itself
    return Plan(image, model, threshold, options, checked, _made_of(source, image))


def _predictions(
    plan: Plan, label: str | None = None, part: tuple[int, int] = (0, 1)
) -> Iterator[Prediction]:
    """Predict, as `TilePredictor.run`; the image is checked while its first tiles are in work."""
    predictions = TilePredictor(plan.model, plan.image, plan.options.tile).run(label, part)
    with rasterio.Env(GDAL_CACHEMAX=CACHE), ThreadPoolExecutor(1) as pool:
        first = pool.submit(list, islice(predictions, 1))
        if not plan.checked:
            _check_overview(plan.image)
        return chain(first.result(), predictions)


def _made_of(source: Source, image: Image) -> str:
    """A name of what results are made of that no other image has."""
    if isinstance(source, Path | str):
        return os.path.abspath(source) if is_local(source) else str(source)
    digest = hashlib.sha256(image.overview.tobytes()).hexdigest()[:16]
    return f"{image.name}, in memory, {digest}"


def _check_overview(image: Image, pixels: int = OVERVIEW) -> None:
    """Raise InputError if an image cannot be reflectance, by at most so many pixels a side."""
    step = -(-max(image.overview.shape) // pixels)
    values = image.overview[:, ::step, ::step]
    check_reflectance(values, image.bands, image.name, image.readings, level=image.level)
    ground = np.multiply(image.shape, image.spacing)
    if ground.min() < LEAST_GROUND:
        warn(
            f"{image.name}: shows only {ground[0]:.3g} × {ground[1]:.3g} m of ground, in which "
            "cloud and bright ground look alike; give more of the scene, or the right --resolution"
        )


def _resolution(image: Image, used: Sequence[str], card: ModelCard) -> float:
    """Metres per pixel to predict at: as given, else as the image says, else by the sensor."""
    if image.reading.resolution is not None:
        return image.reading.resolution
    coarsest = image.coarsest(used)
    if coarsest is None:
        assert image.sensor  # only a file, which is opened with a sensor, may lack a resolution
        coarsest = max(middle(image.sensor.band(band).gsd_m) for band in used)
        taken = coarsest if coarsest < TRAINED[0] else max(coarsest, card.resolution)
        _warn_of_step(image, taken)
        return taken
    # A product is resampled anyway; a file without CRS often has been.
    return max(coarsest, card.resolution)


def _warn_of_step(image: Image, taken: float) -> None:
    """Warn where a transform without a CRS says other pixels than are taken, if it is in metres."""
    transform = image.grid.transform
    step = math.hypot(transform.b, transform.e)
    if not transform.is_identity and step > LEAST_STEP and abs(step / taken - 1) > 0.05:
        warn(
            f"{image.name}: has no CRS, so its pixels are taken as {taken:g} m, but its transform "
            f"has steps of {step:g}; if they are metres, give --resolution {step:g}"
        )


def _check_options(options: Options) -> None:
    if not isinstance(options, Options):
        raise InputError(f"options {options!r}: give Options(threshold=…, …)")
    for name, least, most in (
        ("threshold", 0, 1),
        ("dilation_m", 0, math.inf),
        ("tile", 1, math.inf),
    ):
        value = getattr(options, name)
        number = isinstance(value, int | float | np.number)
        if value is not None and not (number and least <= value <= most and value < math.inf):
            raise InputError(f"{name} {value!r}: give a number from {least} to {most}")
    if options.probability_type not in tuple(NODATA_OF):
        known = " or ".join(NODATA_OF)
        raise InputError(f"probability_type {options.probability_type!r}: give {known}")


def _loaded(model: CloudModel | Path | str) -> CloudModel:
    if isinstance(model, Path | str):
        return shared_model(model)
    if not isinstance(model, CloudModel):
        raise InputError(f"model {model!r}: give a model, its name or the path of its card")
    return model


def _default_model(name: str, bands: Sequence[str]) -> CloudModel:
    try:
        return shared_model(pick_model(bands))
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def _best_set(card: ModelCard, bands: Sequence[str], name: str, exact: bool = False) -> list[str]:
    """The most of these bands that the model works from; InputError for none, or not all."""
    best = card.best_set(bands)
    if not best or (exact and set(best) != set(bands)):
        has = ", ".join(bands)
        sets = "; or ".join(", ".join(band_set) for band_set in card.band_sets)
        raise InputError(
            f"{name}: has {has}, but model {card.name} works from {sets}; choose another model, "
            "or call the bands so if they are these"
        )
    return best


def _write(
    plan: Plan, predictions: Iterable[Prediction], out: Path | str, tags: Mapping[str, str]
) -> tuple[Path, Path]:
    """Write the probability, window by window, and its mask, as cloud-optimised GeoTIFF."""
    results = results_of(plan.image.name, out)
    check_results(results, plan.made_of)
    make_results_folder(out, math.prod(plan.image.shape) * RESULT_BYTES)
    # In a folder next to the results: within one file system a file is moved at once.
    with (
        writing(out),
        working_folder(Path(out)) as work,
        rasterio.Env(GDAL_CACHEMAX=CACHE, COG_TMP_COMPRESSION="NONE"),  # of overviews, for a moment
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        raw_mask, raw_probability = work / "mask.tif", work / "probability.tif"
        dtype = plan.options.probability_type
        nodata = NODATA_OF[dtype]
        with (
            _create(raw_mask, plan, "uint8", NODATA, "0 clear, 1 cloud", tags) as mask,
            _create(raw_probability, plan, dtype, nodata, "probability of cloud", tags) as raw,
        ):
            mask.write_colormap(1, COLOURS)  # before the first pixel: GeoTIFF wants it so
            if dtype == "uint8":
                raw.scales = [1 / STEPS[dtype]]
            for window, values in predictions:
                mask.write(to_mask(values, plan.threshold), 1, window=window)
                raw.write(_stored(values, dtype), 1, window=window)
        if plan.options.dilation_m:
            _dilate(plan, raw_mask)
        with replacing(results[0], work) as mask_cog, replacing(results[1], work) as cog:
            _copy_as_cog(raw_mask, mask_cog, level=3, overview_resampling="NEAREST")
            # More effort takes half as long again for 4 % of the file, and a predictor enlarges it.
            _copy_as_cog(raw_probability, cog, level=1, overview_resampling="AVERAGE")
    return results


def _stored(probability: np.ndarray, dtype: str) -> np.ndarray:
    """A probability in the steps of its file.

    Further digits are the noise of the network's arithmetic, and would more than double the file.
    Rounded down, it reaches a threshold of whole steps just where the mask has cloud.
    """
    steps = np.rint(probability * STEPS[dtype])
    # Not by floor: the product is rounded, so a step would be missed, or taken too early.
    steps -= steps / STEPS[dtype] > probability
    if dtype == "uint8":
        return np.nan_to_num(steps, nan=NODATA)
    return steps / STEPS[dtype]


def _create(
    path: Path, plan: Plan, dtype: str, nodata: float, content: str, tags: Mapping[str, str]
) -> DatasetWriter:
    """Create a result, its band named, with what it was made by."""
    card = plan.model.card
    grid = plan.image.grid
    height, width = grid.shape
    file = rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=1,
        dtype=dtype,
        nodata=nodata,
        crs=grid.crs,
        transform=grid.transform,
        tiled=True,
        bigtiff="IF_SAFER",
    )
    if grid.control_points:
        file.gcps = list(grid.control_points), grid.control_crs or CRS()
    if grid.polynomials:
        file.rpcs = grid.polynomials
    file.set_band_description(1, content)
    made_by = {
        MADE_OF: plan.made_of,
        "model": card.name,
        "model_version": card.version,
        "threshold": plan.threshold,
        "bands": ",".join(plan.image.bands),
        "weights_sha256": card.weights_sha256,
    }
    try:
        file.update_tags(**made_by | dict(tags))
    except (TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"tags {tags!r}: cannot be written ({error}); give names and texts: {{'run': '7'}}"
        ) from error
    return file


def _dilate(plan: Plan, path: Path) -> None:
    """Grow the clouds of a mask, which they do from strip to strip."""
    height, width = plan.image.shape
    metres, resolution = plan.options.dilation_m, plan.image.resolution
    margin = int(metres / resolution) + 1
    ungrown = shutil.copy(path, path.with_name("ungrown.tif"))
    with rasterio.open(ungrown) as source, rasterio.open(path, "r+") as mask:
        for window in strips(slice(0, height), slice(0, width)):
            rows, columns = window.toslices()
            top = max(0, rows.start - margin)
            view = Window.from_slices((top, min(height, rows.stop + margin)), columns)
            grown = dilate(source.read(1, window=view), metres, resolution)
            mask.write(grown[rows.start - top : rows.stop - top], 1, window=window)


def _copy_as_cog(path: Path, target: Path, **how: str | int) -> None:
    """Copy a GeoTIFF as a cloud-optimised one."""
    rasterio.shutil.copy(
        path,
        target,
        driver="COG",
        compress="DEFLATE",
        bigtiff="IF_SAFER",
        num_threads="ALL_CPUS",
        **how,
    )


def predict_part(plan: Plan, parts: Path | str, part: tuple[int, int]) -> None:
    """Predict a part of the tiles of an image, for `predict_plan` to put together.

    Args:
        plan: Of `make_plan`, the same for all parts.
        parts: Folder for the probability, the same for all parts.
        part: (i, n) for part i, from 0, of n.

    Raises:
        InputError: As `predict_file`.
        WriteError: As `predict_file`.
    """
    predictions = _predictions(plan, part=part)
    make_results_folder(parts, math.prod(plan.image.shape) * PROBABILITY_BYTES // part[1])
    with writing(parts), rasterio.Env(GDAL_CACHEMAX=CACHE):
        for window, values in predictions:
            target = Path(parts, f"{window.row_off}-{window.col_off}.npy")
            with replacing(target) as temporary, temporary.open("wb") as stream:
                np.save(stream, values)


def _saved_parts(plan: Plan, parts: Path) -> Iterator[Prediction]:
    """What `predict_part` has left in a folder; InputError if that is not all of the image."""
    missing = math.prod(plan.image.shape)
    for path in sorted(parts.glob("*.npy")):
        values = np.load(path, allow_pickle=False)
        missing -= values.size
        row, column = map(int, path.stem.split("-"))
        yield Window(column, row, *values.shape[::-1]), values
    if missing:
        raise InputError(
            f"{parts}: lacks {missing} pixels that were predicted; all workers must see the same "
            "folders"
        )


def part_count(source: Path | str, most: int) -> int:
    """Say into how many parts it is worth cutting an image.

    Args:
        source: Path of the image. What is no file that GDAL opens is read at once, and reading
            it is most of the work: it is left in one part.
        most: Number of parts at the most.

    Returns:
        Number of parts, of `PART_PIXELS` pixels at the least.
    """
    try:
        with open_raster(source) as file:
            return max(1, min(most, file.height * file.width // PART_PIXELS))
    except RasterioError:  # an array, or a broken file: reading it will say
        return 1


def results_of(source: Path | str, out: Path | str) -> tuple[Path, Path]:
    """Name the files `predict_file` writes.

    Args:
        source: Path or address of the image; of one in memory, its attribute `scene`.
        out: Folder of the results.

    Returns:
        Paths of the mask and of the probability.

    Raises:
        InputError: No folder is given.
    """
    stem, folder = _stem(source), folder_of(out)
    return folder / f"{stem}_cloud.tif", folder / f"{stem}_probability.tif"


def _stem(source: Path | str) -> str:
    """How the results of an image are called: as its file, or as the folder of its product."""
    file, _ = split_member(source)
    if not is_local(file):
        return _stem_of_address(file)
    path = Path(os.path.abspath(file))
    if path.is_dir():  # a dot in its name may belong to a date or a version
        return path.stem if path.suffix.lower() in FOLDER_SUFFIXES else path.name
    if re.fullmatch(SAME_IN_EVERY_PRODUCT, path.stem, re.IGNORECASE) and path.parent.name:
        return _stem(path.parent)
    return path.stem


def _stem_of_address(name: str) -> str:
    """The same for an address and for a name that only GDAL knows."""
    dataset = re.fullmatch(r'[A-Za-z]\w+:"?(?!//)([^"]+?)"?(?::+/*([^":]+))?', name)
    if dataset:  # NETCDF:"a.nc":b
        variable = re.sub(r"\W+", "_", dataset[2] or "")
        return Path(dataset[1]).stem + (f"_{variable}" if variable else "")
    address = urlsplit(name)
    last = (address.path.rstrip("/") or address.netloc).rpartition("!")[2]
    return Path(last).stem or "image"


def check_results(results: Iterable[Path], made_of: str) -> None:
    """Refuse to replace the results of another image.

    Args:
        results: Files to be written.
        made_of: What they would be made of, as their tag `source` would say it.

    Raises:
        InputError: There are results of this name, of another image; or it cannot be written.
    """
    for result in results:
        check_name(result)
        if len(os.fsencode(result.name)) > LONGEST_NAME:
            raise InputError(
                f"{made_of}: the name of its result, {result.name}, would be too long; rename it"
            )
        if result.is_dir():
            raise InputError(f"{made_of}: {result} is a folder, not a result; give another --out")
        if not result.exists():
            continue
        try:
            with open_raster(result) as file:
                other = file.tags().get(MADE_OF)
        except RasterioError:  # broken, so nothing is lost
            continue
        if other != made_of:
            origin = f"made of another input ({other})" if other else "and nothing says of what"
            raise InputError(
                f"{made_of}: {result} is there already, {origin}; give another folder, or move or "
                "delete it"
            )


def make_results_folder(out: Path | str, room: int = 0) -> None:
    """Make the folder of results.

    Args:
        out: The folder.
        room: Bytes that must be free.

    Raises:
        WriteError: It cannot be made, or the disk is full.
    """
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free
    except OSError as error:
        raise WriteError(f"{out}: cannot be the folder of results ({error.strerror})") from error
    if free < room:  # before GDAL notices, which says so in many lines, and late
        raise WriteError(
            f"{out}: the disk is full: {free >> 20} MiB are free, and a scene wants {room >> 20} "
            "while it is worked on; make room"
        )
