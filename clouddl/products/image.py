"""An image as every other module sees it: reflectance, read by windows, wherever it came from.

xarray and rioxarray, which bring pandas and Dask, are imported late: a file that GDAL reads needs
neither.
"""

import math
import re
import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import rasterio
from affine import Affine
from rasterio import warp
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import CRSError, NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.transform import from_gcps
from rasterio.windows import Window

from clouddl.errors import InputError
from clouddl.files import split_member
from clouddl.sensors import Sensor, band_name, band_names

if TYPE_CHECKING:
    import xarray as xr

METRES_PER_DEGREE = 111_320.0  # of latitude
SAME_SPACING = 0.01  # pixels that are nearer to square than this are taken as square
STRETCH = 0.05  # a projection that stretches more than this is measured on the ground
OVERVIEW = 1024  # pixels a side of the decimated image that checks and statistics are made from
STRIP = 1 << 22  # pixels of an image in memory at once
BLOCK = 8  # pixels a side of the smallest part without data that is looked for
FILLS = (0, -9999, -999, -10000, -32768, float(np.finfo(np.float32).min))  # usual nodata numbers
OFFSET = 0.1  # that Sentinel-2's numbers hold since baseline 04.00, as reflectance
OVERCAST = 0.5  # an image of a higher median is cloud or snow, of which an offset changes nothing
HIGHEST = 4.0  # reflectance that is taken for one where the elevation of the sun is not known
NOT_UTF_8 = "a name in this path is not UTF-8, as GDAL wants it; rename it (convmv)"
BRIGHTEST = 1.3  # of snow or cloud that is lit from straight above, times the sine of the sun

# Colours of layers that say what they are; the others (grey, palette, ...) do not.
COLOURS = ("coastal", "blue", "green", "red", "nir", "alpha")

Level = Literal["toa", "surface"]
Layers = tuple[str | None, ...]  # common names in file order, None where there is none


@dataclass(frozen=True)
class Reading:
    """How the numbers of an image are to be read: reflectance = number * scale + offset.

    Attributes:
        bands: Common names of the layers in file order, None to skip one; default the sensor's.
        scale: Factor from number to reflectance; default the file's own, else 1.
        offset: Reflectance of the number 0; default the file's own, else 0.
        nodata: Number that means nodata; default the file's own.
        resolution: Metres per pixel, needed where the file has no CRS; of a product, the
            resolution to read it at.
    """

    bands: Layers | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    resolution: float | None = None

    def reflectance(self, numbers: np.ndarray) -> np.ndarray:
        """Turn stored numbers into float32 reflectance, nodata as NaN.

        Args:
            numbers: Array of any shape.

        Returns:
            A new array of the same shape, or `numbers` itself where nothing is to be done.
        """
        scale = 1.0 if self.scale is None else self.scale
        offset = self.offset or 0.0
        if numbers.dtype == np.float32 and (scale, offset, self.nodata) == (1, 0, None):
            return numbers
        values = numbers.astype(np.float32)  # and then in place, where NaN stays NaN
        values *= np.float32(scale)
        values += np.float32(offset)
        if self.nodata is not None:
            values[numbers == self.nodata] = np.nan
        return values

    def completed(
        self, scale: float | None, offset: float | None, nodata: float | None
    ) -> "Reading":
        """Take what this leaves open from what a file says of itself.

        Args:
            scale: As the file states it; None where it does not.
            offset: Likewise.
            nodata: Likewise; NaN is nodata anyway, and so never needs to be said.

        Returns:
            How the file is read.
        """
        nodata = nodata if self.nodata is None else self.nodata
        return replace(
            self,
            scale=scale if self.scale is None else self.scale,
            offset=offset if self.offset is None else self.offset,
            nodata=None if nodata is None or math.isnan(nodata) else nodata,
        )


AS_STORED = Reading()


class Grid(NamedTuple):
    """Where the pixels of an image lie; without a CRS the transform is the file's own."""

    shape: tuple[int, int]
    transform: Affine = Affine.identity()
    crs: CRS | None = None


class ControlPoints(NamedTuple):
    """Ground control points (GCPs), and their CRS."""

    points: tuple[GroundControlPoint, ...] = ()
    crs: CRS | None = None

    def grid(self, shape: tuple[int, int]) -> Grid:
        """The plane grid that fits best, without a CRS if they give none or lie on a line."""
        if len(self.points) < 3 or not self.crs:
            return Grid(shape)
        try:
            transform = from_gcps(self.points)
        except (RasterioError, ValueError):
            return Grid(shape)
        return Grid(shape, transform, self.crs) if transform.determinant else Grid(shape)


@dataclass(frozen=True, eq=False)
class Image(ABC):
    """An image that is read by windows as reflectance; its file stays open.

    Attributes:
        name: What messages call it: a path, mostly.
        sensor: Card of the sensor; None for an array of which it is not known.
        level: Whether this is top-of-atmosphere or surface reflectance.
        bands: Common names of the bands that are read, in order.
        reading: How its numbers are read; `reading.bands` are all layers of the file, and
            `reading.resolution` is None only while nothing says it.
    """

    name: str
    sensor: Sensor | None
    level: Level
    bands: tuple[str, ...]
    reading: Reading

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """Shape (y, x), transform and CRS."""

    @abstractmethod
    def read(self, window: Window | None = None) -> np.ndarray:
        """Read reflectance (band, y, x) float32, nodata NaN, of a window or of all."""

    @property
    @abstractmethod
    def overview(self) -> np.ndarray:
        """The image decimated to at most `OVERVIEW` pixels a side (band, y, x) float32."""

    @property
    def readings(self) -> list[Reading]:
        """How the numbers of every band are read, in the order of `bands`."""
        return [self.reading] * len(self.bands)

    @property
    def ground(self) -> Grid:
        """The grid that pixels are measured on; without a CRS nothing is known of them."""
        return self.grid

    @property
    def control_points(self) -> ControlPoints:
        """Ground control points, where these place the image and no transform does."""
        return ControlPoints()

    @property
    def shape(self) -> tuple[int, int]:
        """Size (y, x) in pixels."""
        return self.grid.shape

    @property
    def resolution(self) -> float:
        """Metres per pixel; InputError where nothing says it."""
        metres = self.reading.resolution
        if metres is None or metres <= 0:
            message = f"its resolution is {metres}; give it in metres, above 0 (--resolution)"
            raise InputError(f"{self.name}: {message}")
        return float(metres)

    @property
    def spacing(self) -> tuple[float, float]:
        """Metres from pixel to pixel on the ground, down a column and along a row."""
        if self.ground.crs is None:
            return self.resolution, self.resolution
        down, along = _spacing(self.ground)
        if abs(along / down - 1) <= SAME_SPACING:
            return self.resolution, self.resolution
        return self.resolution, self.resolution * along / down

    def coarsest(self, bands: Sequence[str]) -> float | None:
        """Metres per pixel of the coarsest of some bands, None if nothing says it."""
        return self.reading.resolution

    def select(self, bands: Sequence[str], resolution: float | None = None) -> "Image":
        """Take some bands of the image, and settle its resolution.

        Args:
            bands: Common names, some of `self.bands`.
            resolution: Metres per pixel; default `reading.resolution`.

        Returns:
            An image of the same file.
        """
        resolution = self.reading.resolution if resolution is None else resolution
        reading = replace(self.reading, resolution=resolution)
        return replace(self, bands=tuple(bands), reading=reading)

    def array(self, window: Window | None = None) -> "xr.DataArray":
        """Read reflectance with coordinates: pixel centres in the CRS, or index * resolution.

        Args:
            window: Part of the image; default all of it.

        Returns:
            `reflectance` (band, y, x) float32, nodata NaN, with the attribute `resolution`.
        """
        import rioxarray  # noqa: F401 (gives xarray its .rio)
        import xarray as xr

        values = self.read(window)
        step = self.resolution
        _, transform, crs = self.grid
        axes = transform
        if crs is None or transform.b or transform.d:  # a turned grid has no x of its columns
            axes = Affine(step, 0, -step / 2, 0, step, -step / 2)
        if window is not None:
            axes = rasterio.windows.transform(window, axes)
            transform = rasterio.windows.transform(window, transform)
        coordinates = {
            "band": list(self.bands),
            "y": axes.f + axes.e * (np.arange(values.shape[1]) + 0.5),
            "x": axes.c + axes.a * (np.arange(values.shape[2]) + 0.5),
        }
        array = xr.DataArray(values, coordinates, ("band", "y", "x"), "reflectance")
        array.attrs["resolution"] = step
        if crs:  # in place: each of these would copy every pixel
            array.rio.write_crs(crs, inplace=True).rio.write_transform(transform, inplace=True)
        return array

    def dataset(self) -> "xr.Dataset":
        """Read all of it as a scene: `reflectance`, and what is known of it as attributes."""
        return (
            self.array()
            .to_dataset()
            .assign_attrs(
                scene=self.name,
                sensor=self.sensor.id if self.sensor else "",
                resolution=self.resolution,
                level=self.level,
            )
        )

    def _layers(self) -> list[int]:
        """Indices of the bands among the layers of the file."""
        layers = self.reading.bands or self.bands
        return [layers.index(band) for band in self.bands]


@dataclass(frozen=True, eq=False)
class RasterImage(Image):
    """A file that GDAL reads; it stays open, and what its cache holds is not decoded again.

    It may say other than by a number that pixels are nodata:
    https://gdal.org/en/stable/development/rfc/rfc15_nodatabitmask.html

    Attributes:
        file: The open file.
        layers: How the numbers of each layer are read.
        alpha: Number of the layer of transparency, from 1; None if there is none.
        shared_mask: Whether one mask, in the file or beside it (.msk), holds for all layers.
        layer_masks: Whether layers have masks of their own.
        lock: GDAL lets one thread at a time into a file.
    """

    file: DatasetReader
    layers: tuple[Reading, ...]
    alpha: int | None
    shared_mask: bool
    layer_masks: bool
    lock: Lock = field(default_factory=Lock)

    @property
    def grid(self) -> Grid:
        """Where the file says its pixels lie."""
        return Grid(self.file.shape, self.file.transform, self.file.crs)

    @cached_property
    def ground(self) -> Grid:
        """Where the file says its pixels lie, or its ground control points."""
        return _ground(self.file)

    @property
    def control_points(self) -> ControlPoints:
        """Those of the file."""
        return _control_points(self.file)

    @property
    def readings(self) -> list[Reading]:
        """How the numbers of every band are read: layers of a file may differ."""
        return [self.layers[index] for index in self._layers()]

    def read(self, window: Window | None = None) -> np.ndarray:
        """Read a window; InputError if the file is truncated."""
        return self._reflectance(window)

    @cached_property
    def overview(self) -> np.ndarray:
        """Decimated by strips that GDAL's cache holds, so that blocks are decoded only once."""
        height, width = self.shape
        rows, columns = min(height, OVERVIEW), min(width, OVERVIEW)
        count = min(rows, -(-height * width // STRIP))
        edges = np.linspace(0, rows, count + 1).astype(int).tolist()
        strips = []
        for top, bottom in pairwise(edges):
            first, last = top * height // rows, bottom * height // rows
            window = Window(0, first, width, last - first)
            strips.append(self._reflectance(window, (bottom - top, columns)))
        return np.concatenate(strips, axis=1)

    def _reflectance(
        self, window: Window | None, shape: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Read a window, decimated to a shape, invalid pixels as NaN."""
        layers = [index + 1 for index in self._layers()]
        size = (len(layers), *shape) if shape else None
        with self.lock, _readable(self.name):
            numbers = self.file.read(layers, window=window, out_shape=size)
            invalid = self._invalid(layers, window, shape)
        readings = self.readings
        if len(set(readings)) == 1:
            values = readings[0].reflectance(numbers)
        else:
            pairs = zip(readings, numbers, strict=True)
            values = np.stack([reading.reflectance(layer) for reading, layer in pairs])
        if invalid is not None:
            values[np.broadcast_to(invalid, values.shape)] = np.nan
        return values

    def _invalid(
        self, layers: list[int], window: Window | None, shape: tuple[int, int] | None
    ) -> np.ndarray | None:
        """Where pixels are nodata (layer or 1, y, x), of the locked file; None if no mask says."""
        invalid = None
        if self.alpha is not None:
            size = (1, *shape) if shape else None
            invalid = self.file.read([self.alpha], window=window, out_shape=size) == 0
        if self.shared_mask or self.layer_masks:
            masked = [1] if self.shared_mask else layers
            size = (len(masked), *shape) if shape else None
            hidden = self.file.read_masks(masked, window=window, out_shape=size) == 0
            invalid = hidden if invalid is None else invalid | hidden
        return invalid


@dataclass(frozen=True, eq=False)
class ArrayImage(Image):
    """An image in memory, of which `read` may give a view."""

    numbers: np.ndarray  # (layer, y, x)
    place: Grid

    @property
    def grid(self) -> Grid:
        """As given; an array alone has no place on Earth."""
        return self.place

    def read(self, window: Window | None = None) -> np.ndarray:
        """Read a window."""
        rows, columns = window.toslices() if window else (slice(None), slice(None))
        return self._reflectance(rows, columns)

    @cached_property
    def overview(self) -> np.ndarray:
        """Every so many pixels."""
        every = slice(None, None, -(-max(self.numbers.shape) // OVERVIEW))
        return self._reflectance(every, every)

    def _reflectance(self, rows: slice, columns: slice) -> np.ndarray:
        numbers = self.numbers[:, rows, columns]
        layers = self._layers()
        if layers != list(range(len(numbers))):
            numbers = numbers[layers]
        return self.reading.reflectance(numbers)


def open_file(
    path: Path | str, reading: Reading = AS_STORED, sensor: Sensor | None = None
) -> Image:
    """Open one file of an image: what GDAL opens, a .npy, a .npz or "file.npz#member".

    Args:
        path: The file. Arrays may have bands first or last, and are held in memory.
        reading: How its numbers are read.
        sensor: Its card, whose bands are the layers where `reading` names none.

    Returns:
        The image, its layers that have a name as `bands`.

    Raises:
        InputError: An unreadable file, a wrong number of bands, a band the sensor does not have,
            a resolution that contradicts the file.
    """
    name = str(path)
    card = tuple(band.common for band in sensor.bands) if sensor else ()
    layers: Layers = card
    if reading.bands is not None:
        layers = band_names(reading.bands, sensor)
    if split_member(name)[0].endswith((".npy", ".npz")):
        with _readable(name):
            numbers = _load_array(name, len(layers))
        reading = replace(reading, bands=layers)
        bands = _check_layers(name, layers, [numbers.dtype.name] * len(numbers), sensor)
        return ArrayImage(name, sensor, "toa", bands, reading, numbers, Grid(numbers.shape[1:]))
    with _readable(name):
        file = open_raster(name)
    described = _described_layers(file, sensor)
    if reading.bands is None:
        layers = _layers_in_order(name, described, card)
    alpha = _alpha(file, layers)
    if alpha and len(layers) == file.count - 1:
        layers = (*layers[: alpha - 1], None, *layers[alpha - 1 :])
    bands = _check_layers(name, layers, file.dtypes, sensor)
    if sensor:  # of a product the metadata say the order, and colours are for display
        _warn_of_other_order(name, layers, described)
    reading = replace(reading, bands=layers)
    readings = _layer_readings(file, reading)
    reading = replace(reading, resolution=_pixel_size(file, reading.resolution))
    if sensor and reading.resolution is None and file.gcps[0]:
        raise InputError(
            f"{name}: is placed by ground control points that do not say the size of its pixels "
            f"(CRS {file.gcps[1]}, {len(file.gcps[0])} points); give it in metres (--resolution)"
        )
    masks = _masks(file)
    return RasterImage(name, sensor, "toa", bands, reading, file, readings, alpha, *masks)


def open_array(array: "xr.DataArray", reading: Reading, sensor: Sensor | None) -> Image:
    """Take an array in memory as an image.

    Args:
        array: Reflectance (band, y, x), or numbers that `reading` makes reflectance of.
        reading: Names its bands and gives its resolution (metres); of a DataArray these default
            to its coordinate `band` and its attribute `resolution`.
        sensor: Its card.

    Returns:
        The image.

    Raises:
        InputError: An array of another shape.
    """
    name = str(array.attrs.get("scene", "image"))
    layers = reading.bands
    if layers is None and "band" in array.coords:
        layers = tuple(array.band.values.tolist())
    if layers is not None:
        layers = band_names(layers, sensor)
    if array.ndim != 3 or layers is None or len(layers) != len(array):
        raise InputError(f"{name} {array.shape}: want (band, y, x) and as many bands, not {layers}")
    attrs = array.attrs  # scale and offset as the CF conventions call them
    reading = reading.completed(
        attrs.get("scale_factor"), attrs.get("add_offset"), array.rio.nodata
    )
    for band in layers:
        _check_offset(name, band, reading)
    resolution = reading.resolution
    if resolution is None:
        resolution = attrs.get("resolution")
    grid = Grid((array.shape[1], array.shape[2]))
    if array.rio.crs:
        grid = Grid(grid.shape, array.rio.transform(), array.rio.crs)
        _check_place(name, grid, array.rio.crs)
        resolution = resolution or _spacing(grid)[0]
    reading = replace(reading, bands=layers, resolution=resolution)
    bands = tuple(band for band in layers if band is not None)
    return ArrayImage(name, sensor, attrs.get("level", "toa"), bands, reading, array.values, grid)


def read_image(
    path: Path | str,
    bands: Sequence[str | None],
    reading: Reading = AS_STORED,
    window: Window | None = None,
) -> "xr.DataArray":
    """Read one file as reflectance.

    Args:
        path: As for `open_file`.
        bands: Common names of the layers in file order, None for one to skip.
        reading: How its numbers are read; its `bands` are not used.
        window: Part of the image; default all of it.

    Returns:
        Reflectance (band, y, x) float32, nodata NaN, as `Image.array` gives it.

    Raises:
        InputError: An unreadable or truncated file, wrong number of bands, wrong resolution.
    """
    return open_file(path, replace(reading, bands=tuple(bands))).array(window)


def check_reflectance(
    values: np.ndarray,
    bands: Sequence[str],
    name: str,
    readings: Sequence[Reading] = (),
    product: bool = False,
    sun: float | None = None,
) -> None:
    """Check that values can be reflectance; thermal bands are skipped.

    Warns of what may be right: blocks of an undeclared nodata number, an offset that seems
    forgotten, and reflectance above 2, which a low sun explains.

    Args:
        values: Reflectance (band, y, x), nodata NaN.
        bands: Common names of its bands.
        name: What the message calls it.
        readings: How the numbers of every band were read; by default they were reflectance.
        product: Whether its metadata say how, so that no option of the user's does.
        sun: Elevation of the sun, degrees; None where it is not known. A slope that faces a low sun
            shows up to 1 / sin(elevation) times its reflectance.

    Raises:
        InputError: Every pixel is nodata or the same, or the values cannot be reflectance.
    """
    reflective = [not band.startswith("lwir") for band in bands]
    values = values[reflective]
    if values.shape[-1] * values.shape[-2] > 1 << 20:
        values = values[:, ::4, ::4]
    stated = [reading for reading, used in zip(readings, reflective, strict=False) if used]
    finite = np.isfinite(values)
    if not finite.any():
        mend = "download it again" if product else "check the file and --nodata"
        raise InputError(f"{name}: every pixel is nodata; {mend}")
    fill = _fill(values, stated or [AS_STORED] * len(values))
    if fill is not None:
        number, filled = fill
        mend = "predict its bands with --sensor and" if product else "say"
        warnings.warn(
            f"{name}: {number:g} fills {filled.mean():.0%} of the pixels, in all bands, and is "
            f"not declared as nodata; if it means nodata, {mend} --nodata {number:g}",
            stacklevel=3,
        )
        finite &= ~filled
    _check_level(values[finite], name, stated, product, sun)
    _check_variety(values, name)


def _check_variety(values: np.ndarray, name: str) -> None:
    """Raise InputError if every band (band, y, x) holds one value only."""
    if values[0].size < BLOCK**2:
        return
    valid = (band[np.isfinite(band)] for band in values)  # the first that varies is enough
    if not any(band.size and np.ptp(band) for band in valid):
        first = values[np.isfinite(values)][0]
        raise InputError(
            f"{name}: every pixel has the same value (reflectance {first:.4g}), so it shows "
            "nothing; check the file and --nodata"
        )


def _fill(values: np.ndarray, readings: Sequence[Reading]) -> tuple[float, np.ndarray] | None:
    """An undeclared nodata number that fills a block of pixels in all bands, and where (y, x)."""
    height, width = values.shape[1:]
    rows, columns = height // BLOCK * BLOCK, width // BLOCK * BLOCK
    for number in FILLS:
        stored = np.array([number], np.float32)
        filled = np.ones(values.shape[1:], bool)
        for band, reading in zip(values, readings, strict=True):
            with np.errstate(over="ignore"):
                level = float(reading.reflectance(stored)[0])
            if not math.isfinite(level):  # a number that float32 cannot scale fills nothing
                filled[:] = False
                break
            filled &= np.abs(band - level) <= 1e-6 * (1 + abs(level))
            if not filled.any():
                break
        blocks = filled[:rows, :columns].reshape(rows // BLOCK, BLOCK, columns // BLOCK, BLOCK)
        if blocks.all((1, 3)).any():
            return number, filled
    return None


def _check_level(
    values: np.ndarray, name: str, readings: Sequence[Reading], product: bool, sun: float | None
) -> None:
    """Raise InputError if valid values (any,) cannot be reflectance; warn if they hardly can."""
    if not values.size:
        return
    low, middle, high = np.percentile(values, [1, 50, 99])
    highest = HIGHEST if sun is None else max(HIGHEST, _brightest(sun))
    if high > highest or middle > highest / 4:
        factor = 10 ** max(1, round(math.log10(high / 0.5)))
        cause = f"go up to {high:.4g}: they look like reflectance × {factor}, not yet divided"
    elif high < 0.02:
        cause = f"only go up to {high:.2g}: divided by too much, or stretched to 8 bits"
    elif low < -0.05:
        cause = f"go down to {low:.2g}: an offset seems to have been taken off twice"
    else:
        if high > 2:
            _warn_of_sun(name, high, sun)
        if not product and middle < OVERCAST:  # the metadata of a product say the offset
            _warn_of_offset(values, name, readings)
        return
    if product:
        raise InputError(
            f"{name}: wrong scale: by the metadata its values {cause}. Take the "
            "product as delivered, or give its bands with --sensor, --scale and --offset"
        )
    what = "looks like digital numbers" if high > 2 else "wrong scale"
    raise InputError(
        f"{name}: {what}: its values {cause}; give --scale/--offset "
        "(Sentinel-2 L1C: --scale 0.0001, offset -0.1 from baseline 04.00)"
    )


def _brightest(sun: float) -> float:
    """Reflectance of a bright slope that faces a sun of this elevation, degrees."""
    return BRIGHTEST / math.sin(math.radians(sun))


def _warn_of_sun(name: str, high: float, sun: float | None) -> None:
    """Warn of a reflectance above 2, unless the sun is known to be so low."""
    if sun is not None and high <= _brightest(sun):
        return
    if sun is None:
        cause = f"a low sun may explain it (up to {HIGHEST:g}; its elevation is not known)"
    else:
        cause = f"a sun at {sun:.0f}° does not explain it"
    warnings.warn(
        f"{name}: reflectance goes up to {high:.3g}; {cause}; check the scale", stacklevel=5
    )


def _warn_of_offset(values: np.ndarray, name: str, readings: Sequence[Reading]) -> None:
    """Warn of values (any,) of which the lowest lie above the offset of Sentinel-2."""
    least = values.min()
    forgotten = bool(readings) and not any(reading.offset for reading in readings)
    if forgotten and OFFSET <= least < 2 * OFFSET:
        warnings.warn(
            f"{name}: no pixel is below {OFFSET} (the lowest reflectance is {least:.3g}): it is "
            "hazy or overcast throughout, or an offset is forgotten; Sentinel-2 from baseline "
            f"04.00 (January 2022) needs --offset -{OFFSET}",
            stacklevel=5,
        )


def open_raster(path: Path | str) -> DatasetReader:
    """Open a file with GDAL, without its warning that the file has no CRS.

    Args:
        path: What GDAL opens.

    Returns:
        The open file, for a `with` statement.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


def strips(rows: slice, columns: slice) -> Iterator[Window]:
    """Cut a part of an image into strips of at most `STRIP` pixels.

    Args:
        rows: Its rows, as slice(start, stop).
        columns: Its columns.

    Yields:
        Windows from top to bottom.
    """
    width = columns.stop - columns.start
    if width <= 0:
        return
    step = max(1, STRIP // width)
    for top in range(rows.start, rows.stop, step):
        height = min(step, rows.stop - top)
        yield Window(columns.start, top, width, height)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Whatever goes wrong with a file as an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: {NOT_UTF_8}") from error
    except (OSError, RasterioError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        path = Path(name.partition("#")[0])
        if ":" not in name[2:] and not name.startswith("/vsi"):  # else GDAL's, not a path
            if not path.exists():
                raise InputError(f"{name}: does not exist; check the path") from error
            if path.is_dir():
                raise InputError(
                    f"{name}: is a folder, not an image; give a file of it, or a product without "
                    "--sensor"
                ) from error
        raise InputError(
            f"{name}: cannot be read as an image ({error}); it may be truncated: copy it again"
        ) from error


def _check_layers(
    name: str, layers: Layers, dtypes: Sequence[str], sensor: Sensor | None
) -> tuple[str, ...]:
    """The names among the layers of a file; InputError if they do not fit it or the sensor."""
    if len(dtypes) != len(layers):
        names = ", ".join(map(str, layers))
        raise InputError(f"{name}: has {len(dtypes)} bands, but {len(layers)} are named: {names}")
    if any(dtype.startswith("complex") for dtype in dtypes):
        raise InputError(f"{name}: holds complex numbers, as radar does; reflectance is wanted")
    bands = tuple(band for band in layers if band is not None)
    if sensor is None:
        return bands
    known = [band.common for band in sensor.bands]
    wrong = [band for band in bands if band not in known or bands.count(band) > 1]
    if wrong:
        names = ", ".join(known)
        raise InputError(
            f"{name}: {', '.join(wrong)}: not a band of {sensor.id}, or named twice; "
            f"choose of {names}"
        )
    return bands


def _alpha(file: DatasetReader, layers: Layers) -> int | None:
    """Number of the layer of transparency; a layer that is named as a band is none."""
    if ColorInterp.alpha not in file.colorinterp:
        return None
    tagged = file.colorinterp.index(ColorInterp.alpha) + 1
    if len(layers) != file.count or layers[tagged - 1] is None:
        return tagged
    # GDAL tags the first layer that is no colour, which of five bands and alpha is the second.
    if layers[-1] is None and _is_alpha(file, file.count):
        return file.count
    return None


def _is_alpha(file: DatasetReader, layer: int) -> bool:
    """Whether a layer holds nothing but 0 and one other number."""
    height, width = (min(side, OVERVIEW) for side in file.shape)
    with _readable(file.name):
        return len(np.unique(file.read(layer, out_shape=(height, width)))) <= 2


def _masks(file: DatasetReader) -> tuple[bool, bool]:
    """Whether a file has a shared mask or such of layers; those of a nodata number do not count."""
    flags = [set(flag) for flag in file.mask_flag_enums]
    shared = any(MaskFlags.per_dataset in flag and MaskFlags.alpha not in flag for flag in flags)
    return shared, any(not flag for flag in flags)


def _layer_readings(file: DatasetReader, reading: Reading) -> tuple[Reading, ...]:
    """How each layer of a file is read: as `reading` says, else as the file's tags do."""
    tags = zip(file.scales, file.offsets, file.nodatavals, strict=True)
    readings = tuple(reading.completed(*tag) for tag in tags)
    other = []
    for band, scale, offset, layer in zip(
        reading.bands or (), file.scales, file.offsets, readings, strict=True
    ):
        if band is None:
            continue
        _check_offset(file.name, band, layer)
        used = np.array([layer.scale, layer.offset], float)
        if (scale, offset) != (1, 0) and not np.allclose((scale, offset), used, 1e-4, 1e-9):
            other.append(
                f"{file.name}: its own tags say scale {scale:g} and offset {offset:g}, but scale "
                f"{used[0]:g} and offset {used[1]:g} are given and used; leave them out to use the "
                "tags"
            )
    if other:
        warnings.warn(other[0], stacklevel=3)
    return readings


def _check_offset(name: str, band: str | None, reading: Reading) -> None:
    """Raise InputError if the offset of a band is no reflectance."""
    if band is None or band.startswith("lwir"):
        return
    offset = reading.offset or 0.0
    if abs(offset) <= 1:
        return
    scale = reading.scale or 1.0
    raise InputError(
        f"{name}: offset {offset:g} is no reflectance: it is in digital numbers, and reflectance = "
        f"number * scale + offset; say --offset {offset * scale:g} (offset * scale)"
    )


class _Described(NamedTuple):
    """What a file says of one of its layers."""

    text: str  # its description, or the colour it is shown in
    band: str | None  # the common name this means, None if it is not clear


def _described_layers(file: DatasetReader, sensor: Sensor | None) -> list[_Described]:
    """What a file says of its layers, by their descriptions, else by their colours."""
    layers = []
    for text, colour, dtype in zip(file.descriptions, file.colorinterp, file.dtypes, strict=True):
        # GDAL itself calls any three layers of bytes red, green, blue.
        if not text and colour.name in COLOURS and (dtype != "uint8" or colour.name == "alpha"):
            text = colour.name
        layers.append(_Described(text or "", band_name(text, sensor) if text else None))
    return layers


def _layers_in_order(name: str, described: Sequence[_Described], card: Sequence[str]) -> Layers:
    """The bands in the order the file says, else in that of the sensor's card."""
    named = {layer.band for layer in described if layer.band}
    unnamed = [layer for layer in described if not layer.text]
    if not named:
        return tuple(card)
    missing = [band for band in card if band not in named]
    if len(unnamed) > 1 or (unnamed and len(missing) != 1):
        places = ", ".join(layer.text or "no name" for layer in described)
        raise InputError(
            f"{name}: only some of its layers are named ({places}); name all of them by --bands"
        )
    return tuple(layer.band if layer.text else missing[0] for layer in described)


def _warn_of_other_order(name: str, layers: Layers, described: Sequence[_Described]) -> None:
    """Warn where the bands that are given are not those the file names."""
    pairs = [(band, layer) for band, layer in zip(layers, described, strict=True) if band]
    wrong = [f"{band} ({layer.text})" for band, layer in pairs if layer.band not in (None, band)]
    if wrong:
        message = (
            f"{name}: --bands contradicts what the file says of its layers: {', '.join(wrong)}; "
            "--bands is used: leave it out if the file is right"
        )
        warnings.warn(message, stacklevel=3)


def _load_array(path: str, count: int) -> np.ndarray:
    """An array of a .npy file or of a member of a .npz, as (band, y, x)."""
    name, member = split_member(path)
    array = np.load(name, allow_pickle=False)  # a pickle could run code
    if isinstance(array, np.lib.npyio.NpzFile):
        if member and member not in array.files:
            choice = ", ".join(f"{name}#{key}" for key in array.files)
            raise InputError(f"{path}: no such array; choose {choice}")
        array = array[member or _find_member(name, array, count)]
    if array.ndim == 2:
        array = array[np.newaxis]
    if array.ndim != 3:
        raise InputError(f"{path}: an image has 2 or 3 dimensions, this one has {array.ndim}")
    bands_last = array.shape[0] != count and array.shape[-1] == count
    return np.moveaxis(array, -1, 0) if bands_last else array


def _find_member(name: str, arrays: np.lib.npyio.NpzFile, count: int) -> str:
    """The only 3-D array of `count` bands, first or last, in a .npz."""
    shapes = {key: arrays[key].shape for key in arrays.files}
    images = [
        key for key, shape in shapes.items() if len(shape) == 3 and count in (shape[0], shape[2])
    ]
    if len(images) != 1:
        choice = ", ".join(f"{name}#{key} {shape}" for key, shape in shapes.items())
        raise InputError(f"{name}: which array is the image of {count} bands? Name one of {choice}")
    return images[0]


def _spacing(grid: Grid) -> tuple[float, float]:
    """Metres from pixel to pixel on the ground, down a column and along a row."""
    return _ground_spacing(grid) or _nominal_spacing(grid)


def _control_points(file: DatasetReader) -> ControlPoints:
    """The ground control points of a file that has no CRS."""
    points, crs = file.gcps
    return ControlPoints() if file.crs else ControlPoints(tuple(points), crs)


def _ground(file: DatasetReader) -> Grid:
    """Where the pixels of a file lie, by its transform or its ground control points."""
    if file.crs is None:
        return _control_points(file).grid(file.shape)
    return Grid(file.shape, file.transform, file.crs)


def _pixel_size(file: DatasetReader, given: float | None) -> float | None:
    """Metres per pixel down a column: the file's own where its CRS says, else as given."""
    grid = _ground(file)
    if grid.crs is None:
        return given
    _check_place(file.name, grid, grid.crs)
    ground = _ground_spacing(grid)
    metres = _spacing(grid)[0]
    if grid.crs.is_geographic:
        return given or metres
    tolerance = STRETCH if ground else 0.01  # the ground is measured on a sphere
    if given and abs(metres - given) > tolerance * given:
        raise InputError(
            f"{file.name}: its pixels are {metres:.6g} m, not {given:g} m; correct the resolution"
        )
    return metres


def _check_place(name: str, grid: Grid, crs: CRS) -> None:
    """InputError if a transform cannot be one of its CRS."""
    (height, width), transform, _ = grid
    if transform == Affine.identity():
        raise InputError(
            f"{name}: has the CRS {_crs_name(crs)} but no transform, so the size of its pixels is "
            "not known; write one (gdal_edit.py -a_ullr), or remove the CRS and give --resolution"
        )
    if transform.determinant == 0:
        raise InputError(f"{name}: its transform {tuple(transform)[:6]} gives pixels of no size")
    ends = [transform * corner for corner in ((0, 0), (width, 0), (0, height), (width, height))]
    in_degrees = all(abs(x) <= 400 and abs(y) <= 91 for x, y in ends)
    where = f"({transform.c:g}, {transform.f:g})"
    if crs.is_geographic and not in_degrees:
        raise InputError(
            f"{name}: its CRS {_crs_name(crs)} is in degrees, but its transform, from {where}, is "
            "not; correct the CRS (gdal_edit.py -a_srs)"
        )
    step = np.hypot(transform.b, transform.e)
    if crs.is_projected and in_degrees and step < 0.05:
        raise InputError(
            f"{name}: its CRS {_crs_name(crs)} is in metres, but its transform, from {where} with "
            f"pixels of {step:.3g}, is in degrees; correct the CRS (gdal_edit.py -a_srs EPSG:4326)"
        )


def _crs_name(crs: CRS) -> str:
    return crs.to_string()[:40]


def _unit(crs: CRS) -> float:
    """Metres of the unit of a CRS; a local one says it in its text only."""
    with suppress(CRSError):
        return float(crs.linear_units_factor[1])
    unit = re.search(r'UNIT\["[^"]*",\s*([\d.eE+-]+)', crs.to_wkt())
    return float(unit[1]) if unit else 1.0


def _nominal_spacing(grid: Grid) -> tuple[float, float]:
    """Units of the CRS, in metres if it has such, down a column and along a row."""
    transform = grid.transform
    unit = 1.0 if grid.crs is None or grid.crs.is_geographic else _unit(grid.crs)
    down = float(np.hypot(transform.b, transform.e))
    return down * unit, float(np.hypot(transform.a, transform.d)) * unit


def _ground_spacing(grid: Grid) -> tuple[float, float] | None:
    """Metres on the ground down a column and along a row, at the middle of the image.

    None where the CRS is metric and true to within `STRETCH`, as UTM is, or is not of the Earth.
    Web Mercator is stretched by 1 / cos(latitude): twice at 60 degrees.
    """
    assert grid.crs
    transform = grid.transform
    height, width = grid.shape
    x, y = transform * (width / 2, height / 2)
    steps = np.array([[transform.b, transform.e], [transform.a, transform.d]])
    if not grid.crs.is_geographic:
        xs, ys = [x, *(x + steps[:, 0])], [y, *(y + steps[:, 1])]
        try:
            xs, ys = warp.transform(grid.crs, CRS.from_epsg(4326), xs, ys)
        except (RasterioError, CPLE_BaseError):
            return None
        y = ys[0]
        steps = np.transpose([np.subtract(xs[1:], xs[0]), np.subtract(ys[1:], y)])
        steps[:, 0] = (steps[:, 0] + 180) % 360 - 180  # across the 180th meridian
    steps *= METRES_PER_DEGREE
    steps[:, 0] *= np.cos(np.radians(y))
    down, along = np.hypot(*steps.T).tolist()
    if not 0 < down * along < np.inf:
        return None
    nominal = _nominal_spacing(grid)
    stretches = abs(down / nominal[0] - 1), abs(along / nominal[1] - 1)
    return (down, along) if max(stretches) > STRETCH else None
