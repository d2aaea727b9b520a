"""An image as every other module sees it: reflectance, read by windows, wherever it came from."""

import warnings
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import rasterio
import rioxarray  # noqa: F401 (gives xarray its .rio)
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from clouddl.errors import InputError
from clouddl.sensors import Sensor

METRES_PER_DEGREE = 111_320.0  # of latitude
OVERVIEW = 1024  # pixels a side of the decimated image that checks and statistics are made from
STRIP = 1 << 22  # pixels of an image in memory at once

Level = Literal["toa", "surface"]


@dataclass(frozen=True)
class Reading:
    """How the numbers of an image are to be read: reflectance = number * scale + offset.

    Attributes:
        bands: Common names of the layers in file order, None to skip one; default the sensor's.
        scale: Factor from number to reflectance.
        offset: Reflectance of the number 0.
        nodata: Number that means nodata; default the file's own.
        resolution: Metres per pixel, needed where the file has no CRS; of a product, the
            resolution to read it at.
    """

    bands: tuple[str | None, ...] | None = None
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    resolution: float | None = None

    def reflectance(self, numbers: np.ndarray) -> np.ndarray:
        """Turn stored numbers into float32 reflectance, nodata as NaN.

        Args:
            numbers: Array of any shape.

        Returns:
            A new array of the same shape, or `numbers` itself where nothing is to be done.
        """
        if numbers.dtype == np.float32 and (self.scale, self.offset, self.nodata) == (1, 0, None):
            return numbers
        values = numbers.astype(np.float32)  # and then in place, where NaN stays NaN
        values *= np.float32(self.scale)
        values += np.float32(self.offset)
        if self.nodata is not None:
            values[numbers == self.nodata] = np.nan
        return values


AS_STORED = Reading()


class Grid(NamedTuple):
    """Where the pixels of an image lie."""

    shape: tuple[int, int]
    transform: Affine
    crs: CRS | None


@dataclass(frozen=True, eq=False)
class Image(ABC):
    """An image that is read by windows as reflectance; its file stays open.

    Attributes:
        name: What messages call it: a path, mostly.
        sensor: Card of the sensor; None for an array nothing is known of.
        level: Whether reflectance is top-of-atmosphere or surface reflectance.
        bands: Common names of the bands that are read, in order.
        reading: How its numbers are read; `reading.bands` lists all layers of the file.
    """

    name: str
    sensor: Sensor | None
    level: Level
    bands: tuple[str, ...]
    reading: Reading

    any_resolution: ClassVar[bool] = False  # whether `select` can resample

    @property
    @abstractmethod
    def grid(self) -> Grid:
        """Shape (y, x), transform and CRS; without a CRS the transform is the file's own."""

    @abstractmethod
    def read(self, window: Window | None = None) -> np.ndarray:
        """Read reflectance (band, y, x) float32, nodata NaN, of a window or of all."""

    @cached_property
    @abstractmethod
    def overview(self) -> np.ndarray:
        """The image decimated to about `OVERVIEW` pixels a side (band, y, x) float32."""

    @property
    def shape(self) -> tuple[int, int]:
        """Size (y, x) in pixels."""
        return self.grid.shape

    @property
    def resolution(self) -> float:
        """Metres per pixel; InputError where neither the file nor `reading` says it."""
        metres = self.native_resolution(self.bands)
        if metres is None:
            raise InputError(f"{self.name}: has no CRS, so give its --resolution in metres")
        return metres

    def native_resolution(self, bands: Sequence[str]) -> float | None:
        """Metres per pixel of the coarsest of these bands; None if nothing says it."""
        return _pixel_size(self.name, self.grid, self.reading.resolution)

    def require(self, bands: Sequence[str]) -> None:  # noqa: B027 (nothing is missing here)
        """Raise InputError if one of these bands should be there, but its file is missing."""

    def select(self, bands: Sequence[str], resolution: float | None = None) -> "Image":
        """The image with fewer bands, and with its resolution settled.

        Args:
            bands: Common names, a part of `self.bands`.
            resolution: Metres per pixel; default `reading.resolution`.

        Returns:
            An image on the same file.
        """
        resolution = self.reading.resolution if resolution is None else resolution
        reading = replace(self.reading, resolution=resolution)
        return replace(self, bands=tuple(bands), reading=reading)

    def array(self, window: Window | None = None) -> xr.DataArray:
        """Read reflectance with coordinates: pixel centres in the CRS, or index * resolution.

        Args:
            window: Part of the image; default all of it.

        Returns:
            `reflectance` (band, y, x) float32, nodata NaN, with the attribute `resolution`.
        """
        values, step = self.read(window), self.resolution
        _, transform, crs = self.grid
        if crs is None:
            transform = Affine(step, 0, -step / 2, 0, step, -step / 2)
        if window is not None:
            transform = rasterio.windows.transform(window, transform)
        rows = np.arange(values.shape[1]) + 0.5
        columns = np.arange(values.shape[2]) + 0.5
        coordinates = {
            "band": list(self.bands),
            "y": transform.f + transform.e * rows,
            "x": transform.c + transform.a * columns,
        }
        array = xr.DataArray(values, coordinates, ("band", "y", "x"), "reflectance")
        array.attrs["resolution"] = step
        if crs:  # in place: each of these would copy every pixel
            array.rio.write_crs(crs, inplace=True).rio.write_transform(transform, inplace=True)
        return array

    def dataset(self) -> xr.Dataset:
        """Read all of it as the scene Dataset: `reflectance`, and what is known as attributes."""
        array = self.array()
        about = {"scene": self.name, "resolution": array.attrs["resolution"], "level": self.level}
        if self.sensor:
            about["sensor"] = self.sensor.id
        return array.to_dataset().assign_attrs(about)

    def _layers(self) -> list[int]:
        """Indices of the bands among the layers of the file, in order of `bands`."""
        return [(self.reading.bands or self.bands).index(band) for band in self.bands]


@dataclass(frozen=True, eq=False)
class RasterImage(Image):
    """A file that GDAL reads; it stays open, so that what windows share is decoded once."""

    file: DatasetReader
    lock: Lock = field(default_factory=Lock)  # GDAL lets one thread at a time into a file

    @property
    def grid(self) -> Grid:
        """Where the file says its pixels lie."""
        return Grid(self.file.shape, self.file.transform, self.file.crs)

    def read(self, window: Window | None = None) -> np.ndarray:
        """Read a window; InputError if the file is truncated."""
        with self.lock, _readable(self.name):
            numbers = self.file.read([layer + 1 for layer in self._layers()], window=window)
        return self.reading.reflectance(numbers)

    @cached_property
    def overview(self) -> np.ndarray:
        """Decimated by strips that GDAL's cache holds, or blocks of several bands are decoded
        once for each band."""
        layers = [layer + 1 for layer in self._layers()]
        height, width = self.shape
        rows, columns = (min(size, OVERVIEW) for size in self.shape)
        dtype = np.result_type(*(self.file.dtypes[layer - 1] for layer in layers))
        numbers = np.empty((len(layers), rows, columns), dtype)
        strips = min(rows, -(-height * width // STRIP))
        edges = np.linspace(0, rows, strips + 1).astype(int).tolist()
        for top, bottom in pairwise(edges):
            first, last = top * height // rows, bottom * height // rows
            window = Window(0, first, width, last - first)
            shape = (len(layers), bottom - top, columns)
            with self.lock, _readable(self.name):
                numbers[:, top:bottom] = self.file.read(layers, window=window, out_shape=shape)
        return self.reading.reflectance(numbers)


@dataclass(frozen=True, eq=False)
class ArrayImage(Image):
    """An image in memory."""

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

    def native_resolution(self, bands: Sequence[str]) -> float | None:
        """As given: an array that was resampled is only about what its grid says."""
        return self.reading.resolution or super().native_resolution(bands)

    @cached_property
    def overview(self) -> np.ndarray:
        """Every so many pixels."""
        step = slice(None, None, -(-max(self.numbers.shape) // OVERVIEW))
        return self._reflectance(step, step)

    def _reflectance(self, rows: slice, columns: slice) -> np.ndarray:
        layers = self._layers()
        numbers = self.numbers[:, rows, columns]
        if layers != list(range(len(numbers))):
            numbers = numbers[layers]
        return self.reading.reflectance(numbers)


def open_file(path: Path | str, reading: Reading, sensor: Sensor | None = None) -> Image:
    """Open one file of an image: what GDAL opens, a .npy, a .npz or "file.npz#member".

    Args:
        path: The file. Arrays may have bands first or last, and are held in memory.
        reading: How its numbers are read.
        sensor: Its card, whose bands are the layers where `reading` names none.

    Returns:
        The image, its layers that have a name as `bands`.

    Raises:
        InputError: An unreadable file, a wrong number of bands, a band the sensor does not have.
    """
    name = str(path)
    layers, bands = _named_layers(name, reading, sensor)
    if name.partition("#")[0].endswith((".npy", ".npz")):
        with _readable(name):
            numbers = _load_array(name, len(layers))
        _check_layers(name, layers, [str(numbers.dtype)] * len(numbers))
        grid = Grid(numbers.shape[1:], Affine.identity(), None)
        reading = replace(reading, bands=layers)
        return ArrayImage(name, sensor, "toa", bands, reading, numbers, grid)
    with _readable(name):
        file = _open_quietly(name)
    _check_layers(name, layers, file.dtypes)
    nodata = file.nodata if reading.nodata is None else reading.nodata
    reading = replace(reading, bands=layers, nodata=nodata)
    return RasterImage(name, sensor, "toa", bands, reading, file)


def open_array(
    array: xr.DataArray | np.ndarray, reading: Reading = AS_STORED, sensor: Sensor | None = None
) -> Image:
    """Take an array in memory as an image; what `read` gives may be a view of it.

    Args:
        array: Reflectance (band, y, x), or numbers that `reading` makes reflectance of.
        reading: Names its bands and gives its resolution (metres); of a DataArray these default
            to its coordinate `band` and its attribute `resolution`.
        sensor: Its card.

    Returns:
        The image.

    Raises:
        InputError: An array of another shape, or no resolution.
    """
    values, bands, metres = np.asarray(array), reading.bands, reading.resolution
    grid, about = Grid(values.shape[-2:], Affine.identity(), None), {}
    if isinstance(array, xr.DataArray):
        about = array.attrs
        bands = bands or tuple(str(band) for band in array.band.values)
        metres = about.get("resolution") if metres is None else metres
        if array.rio.crs:
            grid = Grid(values.shape[-2:], array.rio.transform(), array.rio.crs)
    name = str(about.get("scene", "image"))
    if values.ndim != 3 or bands is None or len(bands) != len(values):
        raise InputError(f"{name} {values.shape}: want (band, y, x) and as many bands, not {bands}")
    if metres is None or metres <= 0:
        raise InputError(f"{name}: its resolution is {metres}; give it in metres, above 0")
    reading = replace(reading, bands=bands, resolution=metres)
    _, bands = _named_layers(name, reading, sensor)
    level = about.get("level", "toa")
    return ArrayImage(name, sensor, level, bands, reading, values, grid)


def read_image(
    path: Path | str,
    bands: Sequence[str | None],
    reading: Reading = AS_STORED,
    window: Window | None = None,
) -> xr.DataArray:
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


def check_reflectance(array: xr.DataArray, name: str) -> None:
    """Check that an array can be reflectance; thermal bands are skipped.

    Args:
        array: Reflectance (band, y, x), nodata NaN.
        name: What the message calls it.

    Raises:
        InputError: Every pixel is nodata, or the values look like digital numbers.
    """
    bands = [str(band) for band in array.band.values]
    values = array.values[[not band.startswith("lwir") for band in bands]]
    if values.shape[-1] * values.shape[-2] > 1 << 20:
        values = values[:, ::4, ::4]
    values = values[np.isfinite(values)]
    if not values.size:
        raise InputError(f"{name}: every pixel is nodata; check the file and --nodata")
    high = float(np.percentile(values, 99))
    if high > 2:
        raise InputError(
            f"{name}: looks like digital numbers (99th percentile {high:.4g}); give --scale/"
            "--offset (Sentinel-2 L1C: --scale 0.0001, offset -0.1 from baseline 04.00)"
        )


@contextmanager
def open_raster(path: Path | str) -> Iterator[DatasetReader]:
    """Open a file with GDAL, without its warning that the file has no CRS.

    Args:
        path: What GDAL opens.

    Yields:
        The open file.
    """
    with _open_quietly(path) as file:
        yield file


def _open_quietly(path: Path | str) -> DatasetReader:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Whatever goes wrong with a file as an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except (OSError, RasterioError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{name}: cannot be read as an image ({error}); it may be truncated: copy it again"
        ) from error


def _named_layers(
    name: str, reading: Reading, sensor: Sensor | None
) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    """All layers of a file, and the names among them."""
    known = tuple(band.common for band in sensor.bands) if sensor else ()
    layers = known if reading.bands is None else tuple(reading.bands)
    bands = tuple(band for band in layers if band is not None)
    wrong = [band for band in bands if bands.count(band) > 1 or (sensor and band not in known)]
    if wrong:
        sensor_id = sensor.id if sensor else "the image"
        raise InputError(
            f"{name}: {', '.join(wrong)}: not a band of {sensor_id}, or named twice; "
            f"choose of {', '.join(known)}"
        )
    return layers, bands


def strips(rows: Sequence[int], columns: Sequence[int]) -> Iterator[Window]:
    """Cut a part of an image into strips of at most `STRIP` pixels.

    Args:
        rows: First row, and the one after the last.
        columns: The same of the columns.

    Yields:
        Windows from top to bottom.
    """
    (top, bottom), (left, right) = rows, columns
    if right <= left:
        return
    height = max(1, STRIP // (right - left))
    for y in range(top, bottom, height):
        yield Window(left, y, right - left, min(height, bottom - y))


def _check_layers(name: str, layers: Sequence[str | None], dtypes: Sequence[str]) -> None:
    if len(dtypes) != len(layers):
        names = ", ".join(map(str, layers))
        raise InputError(f"{name}: has {len(dtypes)} bands, but {len(layers)} are named: {names}")
    if any(dtype.startswith("complex") for dtype in dtypes):
        raise InputError(f"{name}: holds complex numbers, as radar does; reflectance is wanted")


def _load_array(path: str, count: int) -> np.ndarray:
    """An array of a .npy file or of a member of a .npz, as (band, y, x)."""
    name, _, member = path.partition("#")
    loaded = np.load(name, allow_pickle=False)  # a pickle could run code
    if isinstance(loaded, np.lib.npyio.NpzFile):
        member = member or _image_member(name, loaded, count)
        if member not in loaded.files:
            choice = ", ".join(f"{name}#{key}" for key in loaded.files)
            raise InputError(f"{path}: no such array; choose {choice}")
        loaded = loaded[member]
    array = loaded[np.newaxis] if loaded.ndim == 2 else loaded
    if array.ndim != 3:
        raise InputError(f"{path}: an image has 2 or 3 dimensions, this one has {array.ndim}")
    bands_last = array.shape[0] != count and array.shape[-1] == count
    return np.moveaxis(array, -1, 0) if bands_last else array


def _image_member(name: str, arrays: np.lib.npyio.NpzFile, count: int) -> str:
    """The image of a .npz: its only 3-D array, or the only one of `count` bands."""
    shapes = {key: arrays[key].shape for key in arrays.files}
    images = [key for key, shape in shapes.items() if len(shape) == 3]
    if len(images) > 1:
        images = [key for key in images if count in (shapes[key][0], shapes[key][-1])]
    if len(images) != 1:
        choice = ", ".join(f"{name}#{key} {shape}" for key, shape in shapes.items())
        raise InputError(f"{name}: which array is the image of {count} bands? Name one of {choice}")
    return images[0]


def _pixel_size(name: str, grid: Grid, given: float | None) -> float | None:
    """Metres per pixel: the file's own where its CRS says, else as given."""
    if grid.crs is None:
        return None if given is None else float(given)
    step = abs(grid.transform.e)
    if grid.crs.is_geographic:  # a step in degrees is not square in metres: latitude is taken
        return float(given or step * METRES_PER_DEGREE)
    metres = step * grid.crs.linear_units_factor[1]
    if given and abs(metres - given) > 0.01 * given:
        raise InputError(
            f"{name}: its pixels are {metres:g} m, not {given:g} m; correct the resolution"
        )
    return float(metres)
