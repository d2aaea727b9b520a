"""An image as every other module sees it: reflectance, read by windows, wherever it came from.

xarray and rioxarray, which bring pandas and Dask, are imported late: a file that GDAL reads needs
neither.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING

import numpy as np
import rasterio
from affine import Affine
from rasterio.io import DatasetReader
from rasterio.windows import Window, intersect, intersection

from clouddl.errors import InputError, readable
from clouddl.files import load_array, masks_of, split_member
from clouddl.products.grids import sources, weighted_mean
from clouddl.products.place import Grid, check_place, grid_of, pixel_size, spacing_of
from clouddl.products.raster import (
    OVERVIEW,
    check_layers,
    find_layers,
    layer_readings,
    open_raster,
    readable_raster,
    warn_of_sources,
)
from clouddl.products.reading import AS_STORED, Level, Reading, check_scaling
from clouddl.sensors import Sensor, band_names

if TYPE_CHECKING:
    import xarray as xr
    from scipy.sparse import csr_array

# Attributes of a DataArray that say its nodata number; the last one holds one of each band.
NODATA_ATTRIBUTES = ("_FillValue", "missing_value", "fill_value", "nodata", "nodatavals")
SAME_SPACING = 0.01  # pixels that are nearer to square than this are taken as square
JOIN = "join them first (gdalbuildvrt, gdal_translate), and give the result with --sensor"
STRIP = 1 << 22  # pixels of an image in memory at once


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

    @cached_property
    def overview(self) -> np.ndarray:
        """The image decimated to at most `OVERVIEW` pixels a side (band, y, x) float32."""
        height, width = self.shape
        every = -(-max(height, width) // OVERVIEW)
        if every == 1:
            return self.read()
        lines = [Window(0, row, width, 1) for row in range(0, height, every)]
        return np.concatenate([self.read(line)[..., ::every] for line in lines], axis=1)

    @property
    def readings(self) -> list[Reading]:
        """How the numbers of every band are read, in the order of `bands`."""
        return [self.reading] * len(self.bands)

    @property
    def shape(self) -> tuple[int, int]:
        """Size (y, x) in pixels."""
        return self.grid.shape

    @property
    def extent(self) -> Window:
        """The window of all pixels."""
        height, width = self.shape
        return Window(0, 0, width, height)

    @property
    def resolution(self) -> float:
        """Metres per pixel; InputError where nothing says it."""
        metres = self.reading.resolution
        if metres is None or not 0 < metres < np.inf:
            message = f"its resolution is {metres}; give it in metres, above 0 (--resolution)"
            raise InputError(f"{self.name}: {message}")
        return float(metres)

    @property
    def spacing(self) -> tuple[float, float]:
        """Metres from pixel to pixel on the ground, down a column and along a row."""
        ground = self.grid.ground
        if ground.crs:
            down, along = spacing_of(ground)
            if abs(along / down - 1) > SAME_SPACING:
                return self.resolution, self.resolution * along / down
        return self.resolution, self.resolution

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
        _, transform, crs, *_ = self.grid
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

    @cached_property
    def grid(self) -> Grid:
        """Where the file says its pixels lie."""
        return grid_of(self.file)

    @property
    def readings(self) -> list[Reading]:
        """How the numbers of every band are read: layers of a file may differ."""
        return [self.layers[index] for index in self._layers()]

    def read(self, window: Window | None = None) -> np.ndarray:
        """Read a window; InputError if the file is truncated."""
        window = window or self.extent
        return self._reflectance(window, (window.height, window.width))

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

    def _reflectance(self, window: Window, shape: tuple[int, int]) -> np.ndarray:
        """Read a window, decimated to a shape, invalid pixels as NaN."""
        layers = [index + 1 for index in self._layers()]
        opacity = []  # (layer or 1, y, x), 0 where pixels are nodata

        def read(method: Callable[..., np.ndarray], layers: list[int]) -> np.ndarray:
            return method(layers, window=window, out_shape=(len(layers), *shape))

        with self.lock, readable_raster(self.name):
            numbers = read(self.file.read, layers)
            if self.alpha:
                opacity.append(read(self.file.read, [self.alpha]))
            if self.shared_mask or self.layer_masks:
                opacity.append(read(self.file.read_masks, [1] if self.shared_mask else layers))
        readings = self.readings
        if len(set(readings)) == 1:
            values = readings[0].reflectance(numbers)
        else:
            pairs = zip(readings, numbers, strict=True)
            values = np.stack([reading.reflectance(layer) for reading, layer in pairs])
        for layer in opacity:
            values[np.broadcast_to(layer == 0, values.shape)] = np.nan
        return values


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
        rows, columns = (window or self.extent).toslices()
        numbers = self.numbers[:, rows, columns]
        layers = self._layers()
        if layers != list(range(len(numbers))):
            numbers = numbers[layers]
        return self.reading.reflectance(numbers)


@dataclass(frozen=True, eq=False)
class TiledImage(Image):
    """A band of several files; a window is read from the tiles that it touches."""

    tiles: tuple[tuple[Image, Window], ...]  # and the part of the image that each is
    place: Grid

    @property
    def grid(self) -> Grid:
        """All tiles together, placed by the first."""
        return self.place

    def read(self, window: Window | None = None) -> np.ndarray:
        """Read a window; InputError if a file is truncated."""
        window = window or self.extent
        values = np.empty((len(self.bands), window.height, window.width), np.float32)
        for tile, place in self.tiles:
            if intersect(window, place):
                part = intersection(window, place)
                rows, columns = _seen_from(window, part).toslices()
                values[:, rows, columns] = tile.read(_seen_from(place, part))
        return values


def _seen_from(window: Window, part: Window) -> Window:
    """A part of a window, counted from its first pixel."""
    left, top = part.col_off - window.col_off, part.row_off - window.row_off
    return Window(left, top, part.width, part.height)


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
    given = None if reading.bands is None else band_names(reading.bands, sensor)
    if split_member(name)[0].endswith((".npy", ".npz")):
        layers = given
        if layers is None:
            layers = sensor.commons if sensor else ()
        check_scaling(name, layers, reading)
        with readable_raster(name):
            numbers = load_array(name, len(layers))
        check_layers(name, layers, [numbers.dtype.name] * len(numbers), sensor)
        reading = replace(reading, bands=layers)
        grid = Grid(numbers.shape[1:])
        return ArrayImage(name, sensor, "toa", reading.named, reading, numbers, grid)
    with readable_raster(name):
        file = open_raster(name)
    layers, alpha = find_layers(file, given, sensor)
    reading = replace(reading, bands=layers)
    readings = layer_readings(file, reading)
    warn_of_sources(file, reading)
    grid = grid_of(file)
    resolution = pixel_size(file.name, grid.ground, reading.resolution)
    reading = replace(reading, resolution=resolution)
    if sensor and resolution is None and grid.control_points:
        raise InputError(
            f"{name}: is placed by ground control points that do not say the size of its pixels "
            f"(CRS {grid.control_crs}, {len(grid.control_points)} points); give it in metres "
            "(--resolution)"
        )
    masks = masks_of(file)
    return RasterImage(name, sensor, "toa", reading.named, reading, file, readings, alpha, *masks)


def open_tiles(paths: Sequence[Sequence[str]], reading: Reading) -> Image:
    """Open the file or the files of one band.

    Args:
        paths: What GDAL opens, as rows of tiles from top to bottom.
        reading: How their numbers are read, in all alike; it names one band.

    Returns:
        The image.

    Raises:
        InputError: A file cannot be read, or the tiles do not lie side by side.
    """
    rows = [[open_file(path, reading) for path in row] for row in paths]
    first = rows[0][0]
    if len(paths) == len(paths[0]) == 1:
        return first
    tiles = []
    columns = []
    top = 0
    for row in rows:
        left = 0
        height = row[0].shape[0]
        for tile in row:
            place = Window(left, top, tile.shape[1], height)
            _check_tile(first.grid, tile, place)
            tiles.append((tile, place))
            left += tile.shape[1]
        columns.append(left)
        top += height
    if len(set(columns)) > 1:
        raise InputError(f"{first.name}: its tiles make rows of different widths {columns}; {JOIN}")
    grid = Grid((top, columns[0]), *first.grid[1:3])
    reading = replace(first.readings[0], resolution=first.reading.resolution)
    return TiledImage(first.name, None, first.level, first.bands, reading, tuple(tiles), grid)


def _check_tile(grid: Grid, tile: Image, place: Window) -> None:
    """InputError unless a tile is as high as its row, and lies where its place says."""
    expected = grid.transform * Affine.translation(place.col_off, place.row_off)
    pixel = abs(grid.transform.a) + abs(grid.transform.b)
    moved = max(abs(tile.grid.transform.c - expected.c), abs(tile.grid.transform.f - expected.f))
    placed = grid.crs is None or moved <= pixel / 2
    if tile.shape[0] != place.height or tile.grid.crs != grid.crs or not placed:
        raise InputError(f"{tile.name}: does not lie beside the other tiles of its image; {JOIN}")


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
    names = reading.bands
    if names is None and "band" in array.coords:
        names = np.ravel(array.band.values).tolist()
    layers = band_names(names or (), sensor)
    if array.ndim != 3 or len(layers) != len(array):
        raise InputError(
            f"{name}: has the shape {array.shape} and the bands {layers}; give (band, y, x), and "
            "a name for each band"
        )
    check_layers(name, layers, [array.dtype.name] * len(layers), sensor)
    nodata = _stated(array, name, *NODATA_ATTRIBUTES)
    if nodata is None and array.dtype.kind == "f":
        nodata = array.rio.nodata
    scale = _stated(array, name, "scale_factor", "scales")
    offset = _stated(array, name, "add_offset", "offsets")
    reading = replace(reading.completed(scale, offset, nodata), bands=layers)
    if reading.resolution is None:
        reading = replace(reading, resolution=_stated(array, name, "resolution"))
    check_scaling(name, layers, reading)
    grid = _grid_of(array, name, reading)
    if reading.resolution is None and grid.crs:
        reading = replace(reading, resolution=spacing_of(grid)[0])
    level = array.attrs.get("level", "toa")
    numbers = array.values
    if min(numbers.strides) < 0 or not numbers.flags.writeable:  # PyTorch takes no such views
        numbers = numbers.copy()
    return ArrayImage(name, sensor, level, reading.named, reading, numbers, grid)


def _grid_of(array: "xr.DataArray", name: str, reading: Reading) -> Grid:
    """Where an array (band, y, x) lies, by its CRS or its coordinates.

    InputError for coordinates with gaps or overlaps, as of parts that were joined.
    """
    crs = array.rio.crs
    axes = {"y", "x"} & set(array.coords)
    for axis in axes:
        if array[axis].dtype.kind not in "iuf":
            raise InputError(f"{name}: its {axis} are no numbers; correct them, or drop them")
        places = array[axis].values.astype(float)
        even, step = np.linspace(places[0], places[-1], len(places), retstep=True)
        if crs and np.abs(places - even).max() > abs(step) / 2:
            steps = np.abs(np.diff(places))
            raise InputError(
                f"{name}: its {axis} has steps from {steps.min():g} to {steps.max():g}, so its "
                "pixels lie on no grid; bring it to one first (.interp, .reindex or odc-geo)"
            )
    grid = Grid((array.shape[1], array.shape[2]))
    if crs:
        grid = Grid(grid.shape, array.rio.transform(), crs)
        check_place(name, grid)
    elif reading.resolution is None and len(axes) == 2 and min(grid.shape) > 1:
        transform = array.rio.transform()
        if transform.a != 1:  # else these are numbers of columns
            grid = Grid(grid.shape, transform)
    return grid


def _stated(array: "xr.DataArray", name: str, *keys: str) -> float | None:
    """The first of some attributes that is there; integers may still have it as encoding.

    InputError if it has other values for other bands.
    """
    for key in keys:
        value = array.attrs.get(key)
        if value is None and array.dtype.kind in "iu":
            value = array.encoding.get(key)
        if value is not None:
            with readable(name, f"attribute {key}", "write a number there"):
                numbers = np.unique(np.asarray(value, float))
            if len(numbers) != 1:
                raise InputError(
                    f"{name}: its attribute {key} is {value}, and not one number for all bands; "
                    "bring the bands to reflectance first"
                )
            return float(numbers[0])
    return None


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


def resample(image: Image, down: "csr_array", across: "csr_array") -> tuple[np.ndarray, np.ndarray]:
    """Resample what weights take from an image, strip by strip: any size needs little memory.

    Args:
        image: The image.
        down: `weights` of its rows (target y, y), or a part of their targets.
        across: `weights` of its columns (target x, x), or a part of their targets.

    Returns:
        Means of the valid values (band, target y, target x) float32, NaN where there are none; and
        which bands have nodata there (band).

    Raises:
        InputError: The file is truncated.
    """
    columns = sources(across)
    across = across[:, columns].astype(np.float32)
    shape = len(image.bands), down.shape[0], across.shape[0]
    means = np.empty(shape, np.float32)
    gaps = np.zeros(len(image.bands), bool)
    rows = sources(down)
    source_step = max(1, STRIP // across.shape[1])
    step = max(1, source_step * down.shape[0] // (rows.stop - rows.start))
    for top in range(0, down.shape[0], step):
        strip = down[top : top + step]
        rows = sources(strip)
        strip = strip[:, rows].astype(np.float32)
        for index, band in enumerate(image.read(Window.from_slices(rows, columns))):
            valid = np.isfinite(band)
            gaps[index] |= not valid.all()
            means[index, top : top + step], _ = weighted_mean(band, valid, strip, across)
    return means, gaps
