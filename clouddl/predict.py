"""Prediction: cloud probability and mask of arrays, and of files of any size.

A file is read, predicted and written tile by tile, so memory does not grow with it. Tiles begin
where the network's pooling cells begin and overlap by what the network can see: there is no seam.
"""

import math
import os
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import rasterio
import rasterio.shutil
import torch
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window
from scipy.sparse import csr_array as Matrix
from tqdm import tqdm

from clouddl.errors import InputError, WriteError
from clouddl.files import writing
from clouddl.labels import CLEAR, CLOUD, NODATA, dilate, to_mask
from clouddl.model import CloudModel, load_model, pick_model
from clouddl.network import ModelCard, chip_statistics
from clouddl.products.grids import weights
from clouddl.products.image import Reading, check_reflectance, open_file
from clouddl.products.readers import find_product
from clouddl.products.stac import is_address, is_item, read_item
from clouddl.sensors import STUDY_BANDS, Sensor, middle

SAME = 0.15  # a resolution this near the model's is left alone: resampling would only blur


TRAINED = (10, 60)  # metres; train.Augmentation draws from this range


TILE = 1024  # pixels of the network's grid a side: more of them is margin in smaller tiles.


FOLDED = 2048  # the same where squares enter as one pixel: a quarter of the memory, a wider margin


STRIP = 1 << 22  # pixels of the image in memory at once, however many a tile covers


SHARE = 1 << 25  # pixels of the image that are worth a worker, which first looks over all of it


BYTES = 10  # per pixel of the results, on disk while they are made: as computed, and as COG


CACHE = 128 << 20  # bytes of decoded blocks; GDAL's default is a share of the machine's memory


OVERVIEW = 1024  # pixels a side: what the checks and the statistics of a scene are made from


COLOURS = {CLEAR: (46, 92, 60), CLOUD: (255, 255, 255), NODATA: (0, 0, 0)}


@dataclass(frozen=True)
class _Image:
    """An image read by windows, as reflectance (band, y, x) of the bands in use."""

    shape: tuple[int, int]
    resolution: float  # metres
    read: Callable[[Window], np.ndarray]
    overview: np.ndarray  # (band, y, x), decimated
    crs: CRS | None = None
    transform: Affine = Affine.identity()  # noqa: RUF009 (immutable)


@dataclass(frozen=True)
class _Plan:
    """An image that is open, and how it is predicted."""

    image: _Image
    model: CloudModel
    used: list[str]
    threshold: float
    tile: int | None
    overlap: int | None
    dilation_m: float

    def parts(
        self, label: str | None = None, share: tuple[int, int] = (0, 1)
    ) -> Iterator[tuple[Window, np.ndarray]]:
        """What `_predict` gives, for all tiles or for a share of them."""
        return _predict(self.model, self.image, self.used, self.tile, self.overlap, label, share)


def predict_array(
    model: CloudModel, image: xr.DataArray | np.ndarray, bands: Sequence[str] | None = None,
    resolution: float | None = None,
) -> np.ndarray:  # fmt: skip
    """Probability of cloud (y, x) float32 on the image's own grid, NaN where all bands are nodata.

    `image` (band, y, x) reflectance, nodata NaN. `bands` (common names) and `resolution` (metres)
    default to the coordinate and the attribute of a DataArray. Of the bands, the model's best set
    is used. InputError: bands that do not fit, a resolution that is not told.
    """
    if isinstance(image, xr.DataArray):
        bands = [str(band) for band in image.band.values] if bands is None else bands
        resolution = image.attrs.get("resolution") if resolution is None else resolution
    values = np.asarray(image, np.float32)
    if values.ndim != 3 or bands is None or len(bands) != len(values):
        raise InputError(f"image {values.shape}: want (band, y, x) and as many bands, not {bands}")
    if resolution is None or resolution <= 0:
        raise InputError(f"image: its resolution is {resolution}; give it in metres, above 0")
    used = _best_set(model.card, bands, "image")
    if used != list(bands):
        values = values[[list(bands).index(band) for band in used]]
    whole = _Image(values.shape[1:], resolution, lambda w: values[:, *w.toslices()], values)
    probability = np.empty(whole.shape, np.float32)
    for window, part in _predict(model, whole, used):
        probability[window.toslices()] = part
    return probability


def predict_file(
    path: Path | str, sensor: Sensor | None, out: Path | str, *, model: CloudModel | None = None,
    bands: Sequence[str | None] | None = None, use: Sequence[str] | None = None,
    scale: float = 1.0, offset: float = 0.0, nodata: float | None = None,
    resolution: float | None = None, threshold: float | None = None, tile: int | None = None,
    overlap: int | None = None, progress: bool = True, dilation_m: float = 0.0,
    tags: Mapping[str, str] | None = None, parts: Path | str | None = None,
) -> tuple[Path, Path]:  # fmt: skip
    """Write `<stem>_cloud.tif` and `<stem>_probability.tif` into the folder `out`; returns both.

    Cloud-optimised GeoTIFFs on the image's grid: uint8, 0 clear, 1 cloud, 255 nodata; and float32,
    nodata NaN. They appear at the end, whole, or not at all. `path` is what GDAL opens, of any
    size, or an array (.npy, "x.npz#member"), which is held in memory. `bands`: common names in file
    order, None to skip a layer; default the sensor's. `use`: the bands to work from; default the
    model's best set. `scale`, `offset`, `nodata`, `resolution`: as `read_image`; without CRS the
    resolution is the sensor's, and from 10 to 60 m the image is taken as it is. `threshold`:
    default the model's. `tile`, `overlap`: in pixels of the model's resolution, by default what the
    network runs best with; less overlap than `receptive_field` leaves seams. `dilation_m`: metres
    to grow the clouds by. `tags` go into both files, beside what they were made by. `parts`: where
    `predict_share` has left the probability, which is then not computed again.
    Without a `sensor`, `path` is a product (see `open_product`), which says all that itself: the
    results are on its ground at `resolution`, by default the model's or its own if coarser. So is
    a STAC item, whose sensor and scale may be given where it does not say them (see `read_item`).
    InputError names the file and what to mend; WriteError, the folder that cannot be written to.
    """
    plan = _plan(path, sensor, model, bands, use, scale, offset, nodata, resolution, threshold,
                 tile, overlap, dilation_m)  # fmt: skip
    label = Path(path).name if progress else None
    found = plan.parts(label) if parts is None else _saved(plan, parts)
    return _write(plan, found, results_of(path, out), tags)


def predict_share(
    path: Path | str, sensor: Sensor | None, parts: Path | str, share: tuple[int, int], **how: Any
) -> None:
    """Predict some of the tiles of an image: of n shares the one numbered i, `share` being (i, n).

    Writes their probability into the folder `parts`, from which `predict_file` puts the whole
    together: the same as without shares, bit for bit. `how`: what `predict_file` takes to read and
    to predict, the same for each share. InputError, WriteError: as there.
    """
    plan = _plan(path, sensor, **how)
    height, width = plan.image.shape
    results_folder(parts, room=height * width * 4 // share[1])
    with writing(parts), rasterio.Env(GDAL_CACHEMAX=CACHE):
        for window, found in plan.parts(share=share):
            target = Path(parts, f"{window.row_off}-{window.col_off}.npy")
            part = target.with_suffix(f".{os.getpid()}")
            with part.open("wb") as stream:
                np.save(stream, found)
            part.replace(target)


def _saved(plan: _Plan, parts: Path | str) -> Iterator[tuple[Window, np.ndarray]]:
    """What shares have left in a folder; InputError if that is not the whole image."""
    missing = math.prod(plan.image.shape)
    for path in sorted(Path(parts).glob("*.npy")):
        found = np.load(path, allow_pickle=False)
        missing -= found.size
        row, column = map(int, path.stem.split("-"))
        yield Window(column, row, *found.shape[::-1]), found
    if missing:
        told = f"lacks {missing} pixels that were predicted; all workers must see the same folders"
        raise InputError(f"{parts}: {told}")


def _plan(
    path: Path | str, sensor: Sensor | None, model: CloudModel | None = None,
    bands: Sequence[str | None] | None = None, use: Sequence[str] | None = None,
    scale: float = 1.0, offset: float = 0.0, nodata: float | None = None,
    resolution: float | None = None, threshold: float | None = None, tile: int | None = None,
    overlap: int | None = None, dilation_m: float = 0.0,
) -> _Plan:  # fmt: skip
    """Open an image and settle all that `predict_file` leaves open; InputError as there."""
    product = None
    if sensor is None or is_item(path):
        numbers = (scale, offset, nodata)
        item = is_item(path)
        product = read_item(path, sensor, *numbers) if item else find_product(path)
        if bands is not None or (not item and numbers != (1.0, 0.0, None)):
            told = "a product says its own scale, offset, nodata and bands"
            raise InputError(f"{path}: {told}; leave them out, or say --sensor for a plain image")
        sensor, bands = product.sensor, list(product.layers)
        if not use:  # whoever lacks blue gets another model, but a file that is lost is told
            product.pick([band for band in STUDY_BANDS if band in product.missing])
    own = [band.common for band in sensor.bands]
    listed = own if bands is None else list(bands)
    named = [band for band in listed if band is not None]
    wanted = list(use or named)
    if wrong := [band for band in named if band not in own or named.count(band) > 1]:
        told = f"{', '.join(wrong)}: not a band of {sensor.id}, or named twice"
        raise InputError(f"{path}: {told}; choose of {', '.join(own)}")
    if wrong := [band for band in wanted if band not in named]:
        raise InputError(f"{path}: has no {', '.join(wrong)} to use; it has {', '.join(named)}")
    try:
        model = model or load_model(pick_model(wanted))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    best = _best_set(model.card, wanted, path)
    if use and set(use) != set(best):
        raise InputError(f"{path}: cannot use {', '.join(use)}; {_sets(model.card)}")
    used = [band for band in named if band in best]
    threshold = model.card.threshold if threshold is None else threshold
    if resolution is None and not product and not _georeferenced(path):
        # The card says. What lies in the range of resolutions trained at is taken as it is: files
        # without georeference are often resampled, and the network sees alike throughout.
        coarsest = max(middle(sensor.band(band).gsd_m) for band in used)
        low, high = TRAINED
        resolution = model.card.resolution if low <= coarsest <= high else coarsest
    metres = 1 if resolution is None else resolution
    if not (0 <= threshold <= 1 and dilation_m >= 0 and (tile is None or tile > 0) and metres > 0):
        told = f"threshold {threshold}, dilation {dilation_m} m, tile {tile}"
        raise InputError(f"{path}: {told}, resolution {resolution}: give values within reason")
    if product:
        metres = resolution or max(product.coarsest(used), model.card.resolution)
        image = _whole(product.open(used, metres))
    else:
        image = _open(path, listed, used, nodata, scale=scale, offset=offset, resolution=resolution)
        seen = xr.DataArray(image.overview, {"band": used}, ("band", "y", "x"))
        check_reflectance(seen, str(path))
    return _Plan(image, model, used, threshold, tile, overlap, dilation_m)


def _write(
    plan: _Plan, found: Iterable[tuple[Window, np.ndarray]], results: tuple[Path, Path],
    tags: Mapping[str, str] | None,
) -> tuple[Path, Path]:  # fmt: skip
    """Write probability, part by part, and the mask of it, as cloud-optimised GeoTIFF."""
    image, card, out = plan.image, plan.model.card, results[0].parent
    threshold, dilation_m = plan.threshold, plan.dilation_m
    made_by = {"model": card.name, "model_version": card.version, "threshold": threshold,
               "bands": ",".join(plan.used), "weights_sha256": card.weights_sha256}  # fmt: skip
    height, width = image.shape
    results_folder(out, room=height * width * BYTES)
    profile = {"driver": "GTiff", "height": height, "width": width, "count": 1, "crs": image.crs,
               "transform": image.transform, "tiled": True, "bigtiff": "IF_SAFER"}  # fmt: skip
    # In a folder beside the results: a move within one file system is at once, and whole.
    with (
        writing(out), TemporaryDirectory(prefix=".clouddl-", dir=out) as work,
        warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=CACHE),
    ):  # fmt: skip
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        raw, cogs = ([Path(work, f"{kind}{n}.tif") for n in (0, 1)] for kind in ("raw", "cog"))
        with (
            rasterio.open(raw[0], "w", dtype="uint8", nodata=NODATA, **profile) as mask,
            rasterio.open(raw[1], "w+", dtype="float32", nodata=np.nan, **profile) as probability,
        ):
            mask.write_colormap(1, COLOURS)  # before the first pixel: GeoTIFF wants it so
            for file, content in (mask, "0 clear, 1 cloud"), (probability, "probability of cloud"):
                file.set_band_description(1, content)
                file.update_tags(**made_by | dict(tags or {}))
            for window, part in found:
                probability.write(part, 1, window=window)
                if not dilation_m:
                    mask.write(to_mask(part, threshold), 1, window=window)
            rows, margin = max(1, STRIP // width), int(dilation_m / image.resolution) + 1
            for y in range(0, height if dilation_m else 0, rows):  # clouds grow from tile to tile
                top, bottom = max(0, y - margin), min(height, y + rows + margin)
                part = probability.read(1, window=Window(0, top, width, bottom - top))
                cloud = dilate(to_mask(part, threshold), dilation_m, image.resolution)
                cloud = cloud[y - top : y - top + rows]
                mask.write(cloud, 1, window=Window(0, y, width, len(cloud)))
        for source, cog, overviews in zip(raw, cogs, ("NEAREST", "AVERAGE"), strict=True):
            rasterio.shutil.copy(source, cog, driver="COG", compress="DEFLATE", predictor="YES",
                                 overview_resampling=overviews, bigtiff="IF_SAFER",
                                 num_threads="ALL_CPUS")  # fmt: skip
        for cog, result in zip(cogs, results, strict=True):
            os.replace(cog, result)
    return results


def _whole(scene: xr.Dataset) -> _Image:
    """A scene that is in memory, to be read by windows."""
    values, crs = scene.reflectance.values, scene.rio.crs
    step = -(-max(values.shape) // OVERVIEW)
    return _Image(values.shape[1:], scene.attrs["resolution"], lambda w: values[:, *w.toslices()],
                  values[:, ::step, ::step], crs,
                  scene.rio.transform() if crs else Affine.identity())  # fmt: skip


def _georeferenced(path: Path | str) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                return file.crs is not None
    except RasterioError:  # an array, or broken: reading it will say
        return False


def shares(path: Path | str, most: int) -> int:
    """Into how many shares, `most` at the most, it is worth cutting an image; 1 is to leave it.

    A file is worth it from SHARE pixels a share on. What is no plain image is read as a whole, and
    reading it is most of the work.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                return max(1, min(most, file.height * file.width // SHARE))
    except RasterioError:  # an array, or broken: reading it will say
        return 1


def results_of(path: Path | str, out: Path | str) -> tuple[Path, Path]:
    """The files `predict_file` writes into `out`: mask and probability."""
    name = str(path).partition("#")[0]
    stem = Path(urlsplit(name).path if is_address(name) else name).stem
    return Path(out, f"{stem}_cloud.tif"), Path(out, f"{stem}_probability.tif")


def results_folder(out: Path | str, room: int = 0) -> None:
    """Make the folder of results; WriteError if it cannot be, or has less than `room` bytes."""
    try:
        Path(out).mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(out).free
    except OSError as error:
        raise WriteError(f"{out}: cannot be the folder of results ({error.strerror})") from error
    if free < room:  # before GDAL notices, which says so in many lines, and late
        told = f"the disk is full: {free >> 20} MiB are free, and a scene wants {room >> 20}"
        raise WriteError(f"{out}: {told} while it is worked on; make room")


def _sets(card: ModelCard) -> str:
    return f"model {card.name} works from {'; or '.join(', '.join(s) for s in card.band_sets)}"


def _best_set(card: ModelCard, bands: Sequence[str], name: object) -> list[str]:
    if best := card.best_set(bands):
        return best
    raise InputError(f"{name}: has {', '.join(bands)}, but {_sets(card)}; choose another model")


def _open(
    path: Path | str, listed: Sequence[str | None], used: Sequence[str], nodata: float | None,
    scale: float, offset: float, resolution: float | None,
) -> _Image:  # fmt: skip
    """Open a file of layers `listed` to read the `used` ones, in file order, window by window."""
    keep = tuple(band if band in used else None for band in listed)
    image = open_file(path, Reading(keep, scale, offset, nodata, resolution))
    return _Image(image.shape, image.resolution, image.read, image.overview, *image.grid[:0:-1])


def receptive_field(card: ModelCard) -> int:
    """How far (pixels of the model's resolution) an output pixel sees: the margin of a tile.

    Two convolutions on each of depth + 1 levels down and depth levels up, each reaching
    kernel // 2 pixels of its level, and the shift between a pixel and its pooling cell; all that
    in squares of `stem` pixels, whose far corner is seen too.
    """
    cell, reach = 2**card.depth, 2 * (card.kernel_size // 2)
    squares = reach * (2 * cell - 1) + reach * (cell - 1) + cell - 1
    return card.stem * squares + card.stem - 1


def _working(image: _Image, card: ModelCard) -> tuple[int, int]:
    """Size (y, x) of the grid the network works on: the image's ground, in the model's pixels."""
    ratio = image.resolution / card.resolution
    if abs(ratio - 1) <= SAME:
        return image.shape
    return max(1, round(image.shape[0] * ratio)), max(1, round(image.shape[1] * ratio))


def _predict(
    model: CloudModel, image: _Image, used: Sequence[str], tile: int | None = None,
    overlap: int | None = None, label: str | None = None, share: tuple[int, int] = (0, 1),
) -> Iterator[tuple[Window, np.ndarray]]:  # fmt: skip
    """Probability on the image's grid, part by part: (window, (y, x) float32).

    The weights between the two grids are those of the whole image, so that a tile takes its rows
    of them and no pixel depends on where the tiles lie. A progress bar with `label`. Of n shares of
    the tiles the one numbered i, `share` being (i, n).
    """
    card, size = model.card, _working(image, model.card)
    margin = receptive_field(card) if overlap is None else overlap
    tile = tile or (TILE if card.stem == 1 else FOLDED)
    rows, columns = (_spans(extent, tile, margin, model.net.multiple) for extent in size)
    axes = list(zip(image.shape, size, strict=True))
    there, back = [weights(n, m) for n, m in axes], [weights(m, n) for n, m in axes]

    def planes(values: np.ndarray) -> np.ndarray:
        if list(used) == card.bands:
            return values
        full = np.full((len(card.bands), *values.shape[1:]), np.nan, np.float32)
        full[[card.bands.index(band) for band in used]] = values
        return full

    def read(span: tuple[_Span, _Span]) -> np.ndarray:
        (top, bottom), (left, right) = (one.seen for one in span)
        if size == image.shape:
            return planes(image.read(Window(left, top, right - left, bottom - top)))
        return planes(_gather(image, len(used), there[0][top:bottom], there[1][left:right]))

    statistics = None
    if card.normalisation == "chip":  # of the whole scene at once, or each tile would have its own
        few = image.overview
        fit = [weights(n, min(m, OVERVIEW)) for n, m in zip(few.shape[1:], size, strict=True)]
        seen = planes(np.stack([_ratio(*_sums(band, *fit)) for band in few]))
        statistics = chip_statistics(torch.from_numpy(seen)[None])

    def compute(work: tuple[tuple[_Span, _Span], np.ndarray]) -> list[tuple[Window, np.ndarray]]:
        span, values = work
        probability = model.probability(values, statistics)
        if size == image.shape:
            (top, bottom), (left, right) = (one.core for one in span)
            (y, _), (x, _) = (one.seen for one in span)
            window = Window(left, top, right - left, bottom - top)
            return [(window, probability[top - y : bottom - y, left - x : right - x])]
        # The pixels of the image whose centres lie in the tile, margin left out.
        (top, bottom), (left, right) = (
            [math.ceil(edge * n / m - 0.5) for edge in one.core]
            for one, (n, m) in zip(span, axes, strict=True)
        )
        (y0, y1), (x0, x1) = (one.seen for one in span)
        across, parts = back[1][left:right, x0:x1], []
        for window in _strips(top, bottom, left, right):
            down = back[0][window.row_off : window.row_off + window.height, y0:y1]
            found = _ratio(*_sums(probability, down, across))
            # The edge of nodata is finer in the image, or coarser.
            found[np.isnan(image.read(window)).all(0)] = np.nan
            parts.append((window, found))
        return parts

    spans = [(row, column) for row in rows for column in columns]
    first, last = (len(spans) * n // share[1] for n in (share[0], share[0] + 1))
    spans = spans[first:last]
    bar = tqdm(spans, label, unit="tile", disable=label is None)
    tiles = zip(spans, _ahead(read, spans, 1), strict=True)
    for parts in _ahead(compute, tiles, model.fast.workers):
        bar.update()
        yield from parts
    bar.close()


@dataclass(frozen=True)
class _Span:
    """One axis of a tile, as (start, end): the pixels it answers for, and those it looks at."""

    core: tuple[int, int]
    seen: tuple[int, int]


def _spans(extent: int, tile: int, margin: int, cell: int) -> list[_Span]:
    """An axis of `extent` pixels cut evenly into tiles, which begin where pooling cells begin.

    All look at equally many pixels, up to the last cell: a network compiled for one shape of tile
    serves them all.
    """

    def up(pixels: float) -> int:
        return math.ceil(pixels / cell) * cell

    step = up(extent / math.ceil(extent / up(tile)))
    inner = min(2, math.ceil(extent / step) - 1)  # sides on which a tile has neighbours
    size = min(up(extent), step + inner * up(margin))
    spans = []
    for start in range(0, extent, step):
        low = min(max(0, start - up(margin)), up(extent) - size)
        spans.append(_Span((start, min(start + step, extent)), (low, min(low + size, extent))))
    return spans


def _ahead(work: Callable[[Any], Any], items: Iterable[Any], count: int) -> Iterator[Any]:
    """What `work` gives for each item, in order, worked on in `count` threads of its own.

    Of what was begun nothing goes on when the caller stops or an item fails.
    """
    pool, waiting, coming = ThreadPoolExecutor(count), deque[Future[Any]](), iter(items)
    try:
        while True:
            # Before the next item is called for, which may be as large as a tile, one is done with.
            done = [waiting.popleft().result()] if len(waiting) == count else []
            if (item := next(coming, None)) is None:
                yield from done
                break
            waiting.append(pool.submit(work, item))
            yield from done
        for last in waiting:
            yield last.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _gather(image: _Image, bands: int, down: Matrix, across: Matrix) -> np.ndarray:
    """The part of the working grid that the rows `down` and `across` stand for (band, y, x)."""
    (top, bottom), (left, right) = ((m.indices.min(), m.indices.max() + 1) for m in (down, across))
    total, share = np.zeros((2, bands, down.shape[0], across.shape[0]), np.float32)
    for window in _strips(top, bottom, left, right):
        part = down[:, window.row_off : window.row_off + window.height], across[:, left:right]
        for index, band in enumerate(image.read(window)):
            more = _sums(band, *part)
            total[index] += more[0]
            share[index] += more[1]
    return _ratio(total, share)


def _strips(top: int, bottom: int, left: int, right: int) -> Iterator[Window]:
    """Windows that cut a part of the image into strips of at most STRIP pixels."""
    rows = max(1, STRIP // max(1, right - left))
    for y in range(top, bottom if right > left else top, rows):
        yield Window(left, y, right - left, min(rows, bottom - y))


def _sums(values: np.ndarray, down: Matrix, across: Matrix) -> tuple[np.ndarray, np.ndarray]:
    """Weighted sum of what is not NaN, and the sum of its weights (y, x)."""
    valid = np.isfinite(values)
    parts = np.where(valid, values, 0), valid.astype(np.float32)
    if across.shape[0] < across.shape[1]:  # the axis that shrinks goes first: less to hold
        total, share = (down @ (across @ part.T).T for part in parts)
    else:
        total, share = ((across @ (down @ part).T).T for part in parts)
    return total, share


def _ratio(total: np.ndarray, share: np.ndarray) -> np.ndarray:
    out = np.full(total.shape, np.nan, np.float32)
    return np.divide(total, share, out=out, where=share > 1e-6, casting="same_kind")
