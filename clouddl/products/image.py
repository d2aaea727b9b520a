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
from typing import Literal, NamedTuple

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
    """Where the pixels of an image lie; without a CRS the transform is the file's own."""

    shape: tuple[int, int]
    transform: Affine = Affine.identity()
    crs: CRS | None = None


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

    def array(self, window: Window | None = None) -> xr.DataArray:
        """Read reflectance with coordinates: pixel centres in the CRS, or index * resolution.

        Args:
            window: Part of the image; default all of it.

        Returns:
            `reflectance` (band, y, x) float32, nodata NaN, with the attribute `resolution`.
        """
        values = self.read(window)
        step = self.resolution
        _, transform, crs = self.grid
        if crs is None:
            transform = Affine(step, 0, -step / 2, 0, step, -step / 2)
        if window is not None:
            transform = rasterio.windows.transform(window, transform)
        coordinates = {
            "band": list(self.bands),
            "y": transform.f + transform.e * (np.arange(values.shape[1]) + 0.5),
            "x": transform.c + transform.a * (np.arange(values.shape[2]) + 0.5),
        }
        array = xr.DataArray(values, coordinates, ("band", "y", "x"), "reflectance")
        array.attrs["resolution"] = step
        if crs:  # in place: each of these would copy every pixel
            array.rio.write_crs(crs, inplace=True).rio.write_transform(transform, inplace=True)
        return array

    def dataset(self) -> xr.Dataset:
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
    """A file that GDAL reads; it stays open, and what its cache holds is not decoded again."""

    file: DatasetReader
    lock: Lock = field(default_factory=Lock)  # GDAL lets one thread at a time into a file

    @property
    def grid(self) -> Grid:
        """Where the file says its pixels lie."""
        return Grid(self.file.shape, self.file.transform, self.file.crs)

    def read(self, window: Window | None = None) -> np.ndarray:
        """Read a window; InputError if the file is truncated."""
        return self.reading.reflectance(self._numbers(window))

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
            strips.append(self._numbers(window, (len(self.bands), bottom - top, columns)))
        return self.reading.reflectance(np.concatenate(strips, axis=1))

    def _numbers(
        self, window: Window | None, shape: tuple[int, int, int] | None = None
    ) -> np.ndarray:
        layers = [index + 1 for index in self._layers()]
        with self.lock, _readable(self.name):
            return self.file.read(layers, window=window, out_shape=shape)


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
    layers = reading.bands
    if layers is None:
        layers = tuple(band.common for band in sensor.bands) if sensor else ()
    reading = replace(reading, bands=layers)
    if name.partition("#")[0].endswith((".npy", ".npz")):
        with _readable(name):
            numbers = _load_array(name, len(layers))
        bands = _check_layers(name, layers, [numbers.dtype.name] * len(numbers), sensor)
        return ArrayImage(name, sensor, "toa", bands, reading, numbers, Grid(numbers.shape[1:]))
    with _readable(name):
        file = open_raster(name)
    bands = _check_layers(name, layers, file.dtypes, sensor)
    if reading.nodata is None:
        reading = replace(reading, nodata=file.nodata)
    reading = replace(reading, resolution=_pixel_size(file, reading.resolution))
    return RasterImage(name, sensor, "toa", bands, reading, file)


def open_array(
    array: np.ndarray | xr.DataArray | xr.Dataset,
    reading: Reading = AS_STORED,
    sensor: Sensor | None = None,
) -> Image:
    """Take an array in memory as an image.

    Args:
        array: Reflectance (band, y, x), or numbers that `reading` makes reflectance of; of a
            Dataset its `reflectance`.
        reading: Names its bands and gives its resolution (metres); of a DataArray these default
            to its coordinate `band` and its attribute `resolution`.
        sensor: Its card.

    Returns:
        The image.

    Raises:
        InputError: An array of another shape.
    """
    if isinstance(array, xr.Dataset):
        array = array.reflectance.assign_attrs(array.attrs)
    array = xr.DataArray(array)
    name = str(array.attrs.get("scene", "image"))
    layers = reading.bands
    if layers is None and "band" in array.coords:
        layers = tuple(array.band.values.tolist())
    if array.ndim != 3 or layers is None or len(layers) != len(array):
        raise InputError(f"{name} {array.shape}: want (band, y, x) and as many bands, not {layers}")
    resolution = reading.resolution
    if resolution is None:
        resolution = array.attrs.get("resolution")
    _, height, width = array.shape
    grid = Grid((height, width))
    if array.rio.crs:
        grid = Grid((height, width), array.rio.transform(), array.rio.crs)
    reading = replace(reading, bands=layers, resolution=resolution)
    bands = tuple(band for band in layers if band is not None)
    level = array.attrs.get("level", "toa")
    return ArrayImage(name, sensor, level, bands, reading, array.values, grid)


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
    reflective = [not str(band).startswith("lwir") for band in array.band.values]
    values = array.values[reflective]
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
    except (OSError, RasterioError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise InputError(
            f"{name}: cannot be read as an image ({error}); it may be truncated: copy it again"
        ) from error


def _check_layers(
    name: str, layers: Sequence[str | None], dtypes: Sequence[str], sensor: Sensor | None
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


def _load_array(path: str, count: int) -> np.ndarray:
    """An array of a .npy file or of a member of a .npz, as (band, y, x)."""
    name, _, member = path.partition("#")
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


def _pixel_size(file: DatasetReader, given: float | None) -> float | None:
    """Metres per pixel: the file's own where its CRS says, else as given."""
    if file.crs is None:
        return given
    step = abs(file.transform.e)
    if file.crs.is_geographic:  # a step in degrees is not square in metres: latitude is taken
        return given or step * METRES_PER_DEGREE
    metres = step * file.crs.linear_units_factor[1]
    if given and abs(metres - given) > 0.01 * given:
        raise InputError(
            f"{file.name}: its pixels are {metres:g} m, not {given:g} m; correct the resolution"
        )
    return metres
