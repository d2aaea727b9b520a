"""A product: bands in files, how their numbers become reflectance, and one grid for all of them.

To add a product, write one function in a file of this folder: it takes the files of the product and
the file it is known by, and says of every band in which file it is, its scale and its offset::

    @reader("My format", r"_METADATA\\.xml$")
    def my_format(files: Files, member: str) -> Product:
        fields = files.xml(member)
        product = Product(files, get_sensor("my-sensor"), "toa", nodata=0)
        product.add("red", files.sibling(member, fields.text("RED")), scale=1e-4)
        return product
"""

import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from rasterio.transform import array_bounds

from clouddl.errors import InputError, absent, read_yaml, warn
from clouddl.labels import NODATA, read_mask
from clouddl.products.archives import Fields, Files
from clouddl.products.grids import weights
from clouddl.products.image import ArrayImage, Image, open_tiles, resample
from clouddl.products.place import Grid
from clouddl.products.reading import SURFACE, Level, Reading, check_reflectance
from clouddl.sensors import Sensor, band_names, middle

if TYPE_CHECKING:
    import xarray as xr


#: Masks that may lie in a product, by a pattern of their path, and their codes.
MASKS = read_yaml(Path(__file__).with_name("masks.yaml"), "table of masks")


@dataclass(frozen=True)
class Layer:
    """A band in a file: its path in the product, what GDAL opens, and how it is read.

    An image may be cut into tiles: what GDAL opens are rows of them from top to bottom, and the
    path in the product is that of the first.
    """

    member: str
    tiles: list[list[str]]
    reading: Reading


@dataclass
class Product:
    """What a reader says of a product; its images are not read yet.

    Attributes:
        files: The files of the product.
        sensor: Card of the sensor.
        level: Whether reflectance is top-of-atmosphere or surface reflectance.
        nodata: Number that means nodata; None for the files' own.
        masks: Pattern of the file of a mask to its codes, the one to prefer first.
        format: Name of the reader.
        layers: Where the bands lie, by common name.
        missing: Bands the product should have; asking for one is an InputError.
        sun: Elevation of the sun, degrees; None where the metadata do not say it.
        stated: Whether the metadata say how numbers become reflectance; else the user does.
    """

    files: Files
    sensor: Sensor
    level: Level
    nodata: float | None
    masks: dict[str, str] = field(default_factory=MASKS.copy)
    format: str = ""
    layers: dict[str, Layer] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    sun: float | None = None
    stated: bool = True

    def add(
        self,
        band: str,
        member: str | None,
        scale: float | None,
        offset: float | None = 0.0,
        layers: Sequence[str | None] = (),
        tiles: Sequence[Sequence[str | None]] = (),
    ) -> None:
        """Say where a band lies: reflectance = number * scale + offset.

        Args:
            band: Common name.
            member: Its file in the product; None if it is missing.
            scale: Factor from number to reflectance; None for the file's own.
            offset: Reflectance of the number 0; None for the file's own.
            layers: Common names of the layers of the file; default the band alone.
            tiles: The files of an image that is cut into tiles, as rows from top to bottom;
                `member` is the first of them.
        """
        names = list(layers) or [band]
        if member is None or band not in names or any(None in row for row in tiles):
            self.missing.append(band)
            return
        first = names.index(band)
        bands = tuple(band if index == first else None for index in range(len(names)))
        paths = [[self.files.image(str(tile)) for tile in row] for row in tiles or [[member]]]
        self.layers[band] = Layer(member, paths, Reading(bands, scale, offset, self.nodata))

    def pick(self, bands: Sequence[str] | None = None) -> list[str]:
        """Check that bands can be read.

        Args:
            bands: Names in any usual spelling, default all the product should have.

        Returns:
            Their common names.

        Raises:
            InputError: The product has no such band, or its file is missing.
        """
        if bands is None:
            bands = [*self.layers, *self.missing]
        bands = band_names(bands, self.sensor)
        for band in bands:
            if band in self.missing:
                mend = "the product is incomplete: download it again, or leave the band out (--use)"
                if self.files.find(r"\.(tiff?|jp2)\.gz$"):
                    mend = "unpack its .gz files (gunzip)"
                raise InputError(
                    f"{self.files.name}: the file of its band {band} is missing; {mend}"
                )
            if band not in self.layers:
                raise absent(self.files.name, "reflective band", band, self.layers)
        return list(bands)

    def image(self, band: str) -> Image:
        """Open the file of a band; without a CRS its pixels are the finest of the sensor's card.

        Args:
            band: Common name, one of `layers`.

        Returns:
            The image of this band alone.

        Raises:
            InputError: The file is truncated or has other layers than the metadata say.
        """
        layer = self.layers[band]
        with self._named(layer.tiles[0][0], layer.member):
            image = open_tiles(layer.tiles, layer.reading)
        reading = image.reading
        if image.grid.crs is None:
            finest = min(middle(band.gsd_m) for band in self.sensor.bands)
            reading = replace(reading, resolution=finest)
        return replace(image, name=f"{self.files.name}: {layer.member}", reading=reading)

    def coarsest(self, bands: Sequence[str]) -> float:
        """Metres per pixel of the coarsest of these bands.

        Args:
            bands: Common names.
        """
        return max(self.image(band).resolution for band in bands)

    def read(self, bands: Sequence[str] | None = None, resolution: float | None = None) -> Image:
        """Read bands on one grid.

        Args:
            bands: Common names, default all.
            resolution: Metres per pixel, default that of the coarsest of the bands.

        Returns:
            The image, in memory.

        Raises:
            InputError: A missing or damaged file, grids that differ, a wrong scale.
        """
        bands = self.pick(bands)
        images = [self.image(band) for band in bands]
        if resolution is None:
            resolution = max(image.resolution for image in images)
        if not resolution > 0:
            raise InputError(f"resolution {resolution}: must be above 0 metres")
        _check_grids(images)
        first = images[0]
        rows, columns = (max(1, round(n * first.resolution / resolution)) for n in first.shape)
        values = np.stack([_resample(image, rows, columns) for image in images])
        if self.nodata:
            self._drop_zeros(values, images, resolution)
        readings = [image.readings[0] for image in images]
        check_reflectance(
            values, bands, self.files.name, readings, self.stated, self.sun, self.level
        )
        if self.level == "surface":
            warn(f"{self.files.name}: is {SURFACE}")
        height, width = first.shape
        grid = Grid((rows, columns))
        if first.grid.crs:
            pixel = Affine.scale(width / columns, height / rows)
            grid = Grid((rows, columns), first.grid.transform * pixel, first.grid.crs)
        name = re.split(r"\.(SAFE|zip|tar|tgz|tif|json)", Path(self.files.name).resolve().name)[0]
        reading = Reading(tuple(bands), resolution=float(resolution))
        return ArrayImage(name, self.sensor, self.level, tuple(bands), reading, values, grid)

    def _drop_zeros(self, values: np.ndarray, images: Sequence[Image], resolution: float) -> None:
        """Make nodata, with a warning, where all bands store 0 although nodata is another number.

        MAJA wrote such products (its issue 99). A pixel around them may be mixed with them.
        """
        from scipy import ndimage  # late: few products are checked for this

        zeros = [image.readings[0].offset or 0.0 for image in images]
        same = np.isclose(values, np.array(zeros)[:, np.newaxis, np.newaxis], rtol=0, atol=1e-6)
        outside = ndimage.binary_opening(same.all(axis=0), np.ones((3, 3)))  # no single dark pixel
        if len(images) < 2 or not outside.any():
            return
        mixed = math.ceil(max(image.resolution for image in images) / resolution)
        values[:, ndimage.binary_dilation(outside, np.ones((3, 3)), mixed)] = np.nan
        warn(
            f"{self.files.name}: 0 fills {outside.mean():.0%} of the pixels, in all bands, while "
            f"its metadata declare {self.nodata:g} as nodata; both are read as nodata"
        )

    def mask(self, like: "xr.Dataset", codes: str | None = None) -> "xr.DataArray | None":
        """Read the mask the product carries.

        Args:
            like: Scene whose grid the mask is brought to; where it has no data, neither has the
                mask, which some processors call clear there.
            codes: Which of several masks, by its table of codes; default the one to prefer.

        Returns:
            The mask (y, x), None if there is none.

        Raises:
            InputError: There is no mask with these codes.
        """
        for pattern, table in self.masks.items():
            member = self.files.only(pattern) if codes in (None, table) else None
            if member is None:
                continue
            path = self.files.image(member)
            with self._named(path, member):
                mask = read_mask(path, table, like=like)
            valid = np.isfinite(like.reflectance.values).any(axis=0)
            return mask.where(valid, NODATA).assign_attrs(source=PurePosixPath(member).name)
        if codes:
            raise InputError(f"{self.files.name}: carries no mask with the codes {codes!r}")
        return None

    @contextmanager
    def _named(self, path: str, member: str) -> Iterator[None]:
        """Errors name the file in the product, not what GDAL was given."""
        try:
            yield
        except InputError as error:
            message = str(error).replace(path, f"{self.files.name}: {member}")
            raise InputError(message) from error


Read = Callable[[Files, str], Product]


@dataclass(frozen=True)
class Reader:
    """Reads products of one format, known by a file whose path matches `pattern`, in any case.

    A `fallback` is tried last, and only for a file that is given by its name.
    """

    name: str
    pattern: str
    read: Read
    fallback: bool = False


READERS: list[Reader] = []


def reader(name: str, pattern: str, fallback: bool = False) -> Callable[[Read], Read]:
    """Register the decorated function as the reader of a product.

    Args:
        name: Name of the format, for messages.
        pattern: Regular expression of the path of the file the product is known by.
        fallback: Try it last, and only for a file that is given by its name.

    Returns:
        The decorator.
    """

    def register(read: Read) -> Read:
        READERS.append(Reader(name, pattern, read, fallback))
        return read

    return register


def reflective(card: Sensor, level: Level = "toa") -> dict[str, str]:
    """Bands of a card that hold reflectance: not the thermal ones, nor at the surface the cirrus.

    Args:
        card: Card of the sensor.
        level: Level of the product.

    Returns:
        Native to common name.
    """
    without = ("lwir",) if level == "toa" else ("lwir", "cirrus")
    bands = [band for band in card.bands if not band.common.startswith(without)]
    return {band.native: band.common for band in bands}


def sun_elevation(fields: Fields, path: str, zenith: bool = False) -> float | None:
    """Elevation of the sun where nothing but a check depends on it.

    Args:
        fields: Metadata.
        path: Where they give it, degrees.
        zenith: Whether that is the angle from the zenith.

    Returns:
        Degrees above the horizon, None where the metadata give no such number.
    """
    try:
        angle = fields.number(path)
    except InputError:
        return None
    elevation = 90 - angle if zenith else angle
    return elevation if 0 < elevation <= 90 else None


def sine_of_sun(elevation: float, name: str) -> float:
    """Sine of the elevation of the sun.

    Args:
        elevation: Degrees above the horizon.
        name: File of metadata, for the message.

    Raises:
        InputError: The sun is not above the horizon.
    """
    if not 0 < elevation <= 90:
        raise InputError(f"{name}: the sun's elevation is {elevation}°; no reflectance by night")
    return math.sin(math.radians(elevation))


def _transform(image: Image) -> Affine:
    """Transform of an image; without a CRS in metres from its corner."""
    return image.grid.transform if image.grid.crs else Affine.scale(image.resolution)


def _bounds(image: Image) -> np.ndarray:
    return np.array(array_bounds(*image.shape, _transform(image)))


def _check_grids(images: Sequence[Image]) -> None:
    """Raise InputError unless all images cover the same ground to half a pixel."""
    first = images[0]
    for image in images[1:]:
        pixel = max(abs(_transform(first).e), abs(_transform(image).e))
        moved = np.abs(_bounds(image) - _bounds(first)).max()
        if image.grid.crs != first.grid.crs or moved > pixel / 2:
            member = first.name.rpartition(": ")[2]
            raise InputError(
                f"{image.name}: its grid is not that of {member}: one is damaged, or of another "
                "scene; download it again"
            )


def _resample(image: Image, rows: int, columns: int) -> np.ndarray:
    """A band (rows, columns) float32: area means, or bilinear if finer, without the nodata."""
    height, width = image.shape
    means, _ = resample(image, weights(height, rows), weights(width, columns))
    return means[0]
