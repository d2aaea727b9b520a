"""A product: bands in files, how their numbers become reflectance, and one grid for all of them."""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window

from clouddl.errors import InputError
from clouddl.labels import NODATA, read_mask
from clouddl.products.archives import Files
from clouddl.products.grids import weighted_mean, weights
from clouddl.products.image import Reading, open_raster, read_image
from clouddl.sensors import Sensor, middle

STRIP = 1 << 24  # pixels of a band in memory at once


SURFACE = (
    "surface reflectance, and the models learnt from top-of-atmosphere. The correction takes part "
    "of thin cloud and haze away, so expect more of it missed: a lower recall, and with it a lower "
    "F2, than published; by how much was not measured. Prefer the level 1 of the same date"
)


# Masks that may lie in a product, the ones to prefer first: people's, then the processors'.
MASKS = {
    r"(^|/)classification_map\.tif$": "alcd",
    r"(^|/)labels/manual_hq\.tif$": "cloudsen12",
    r"_CLM_(R1|XS)\.tif$": "maja-clm-muscate",
    r"_MG2_(R1|XS)\.tif$": "maja-mg2",
    r"_NUA\.tif$": "maja-nua",
    r"_SCL_20m\.jp2$": "scl",
    r"fmask4[^/]*\.(tif|img)$": "fmask4",
    r"fmask\.(tif|img)$": "fmask",
    r"_QA_PIXEL\.tif$": "qa-pixel",
}


class Grid(NamedTuple):
    """Where the pixels of a file lie; without a CRS the transform is in metres from its corner."""

    shape: tuple[int, int]
    transform: Affine
    resolution: float  # metres
    crs: CRS | None

    def corners(self) -> np.ndarray:
        return np.array([self.transform @ (0, 0), self.transform @ self.shape[::-1]])


@dataclass(frozen=True)
class Layer:
    """A band in a file: reflectance = number * scale + offset."""

    path: str  # what GDAL opens
    member: str
    layout: list[str | None]  # of the file, all but this band None
    scale: float
    offset: float


@dataclass
class Product:
    """What a reader found: the layers by common name. The images themselves are not read yet.

    `missing` are bands the product should have: asking for one is an InputError.
    """

    files: Files
    sensor: Sensor
    level: Literal["toa", "surface"]
    nodata: float | None  # None: the files' own
    format: str = ""
    layers: dict[str, Layer] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def add(
        self, band: str, member: str | None, scale: float, offset: float = 0.0,
        native: str = "", layout: Sequence[str] = ("",),
    ) -> None:  # fmt: skip
        """Note a band; `layout` names the layers of its file, and `native` is its name there."""
        if member is None:
            self.missing.append(band)
        else:
            own = [band if name == native else None for name in layout]
            self.layers[band] = Layer(self.files.image(member), member, own, scale, offset)

    def pick(self, bands: Sequence[str] | None = None) -> list[str]:
        """The bands asked for, by default all; InputError for one that is not there."""
        wanted = [*self.layers, *self.missing] if bands is None else list(bands)
        for band in wanted:
            if band in self.missing:
                told = "is missing; the product is incomplete: download it again"
                raise InputError(f"{self.files.name}: the file of its band {band} {told}")
            if band not in self.layers:
                have = ", ".join(self.layers)
                raise InputError(f"{self.files.name}: has no reflective band {band}; it has {have}")
        return wanted

    def coarsest(self, bands: Sequence[str]) -> float:
        """Metres per pixel of the coarsest of these bands."""
        return max(self._grid(self.layers[band]).resolution for band in bands)

    def open(
        self, bands: Sequence[str] | None = None, resolution: float | None = None
    ) -> xr.Dataset:
        """Read `bands` on one grid of `resolution` metres: see `open_product`, but for the mask."""
        wanted = self.pick(bands)
        grids = [self._grid(self.layers[band]) for band in wanted]
        target = max(grid.resolution for grid in grids) if resolution is None else resolution
        if not target > 0:
            raise InputError(f"resolution {resolution}: must be above 0 metres")
        (height, width), transform, own, crs = first = grids[0]
        for band, grid in zip(wanted, grids, strict=True):
            pixel = max(abs(first.transform.e), abs(grid.transform.e))
            if grid.crs != crs or np.abs(grid.corners() - first.corners()).max() > pixel / 2:
                member, other = self.layers[band].member, self.layers[wanted[0]].member
                raise InputError(f"{self.files.name}: {member}: its grid is not that of {other}")
        size = max(1, round(height * own / target)), max(1, round(width * own / target))
        pairs = zip(wanted, grids, strict=True)
        image = np.stack([self._read(self.layers[band], grid, size) for band, grid in pairs])
        self._check(image)
        if self.level == "surface":
            warnings.warn(f"{self.files.name}: is {SURFACE}", stacklevel=3)
        affine = transform * Affine.scale(width / size[1], height / size[0])
        name = re.split(r"\.(SAFE|zip|tar|tgz|tif|json)", Path(self.files.name).resolve().name)[0]
        dataset = xr.Dataset(
            {"reflectance": (("band", "y", "x"), image)},
            {"band": wanted, "y": affine.f + affine.e * (np.arange(size[0]) + 0.5),
             "x": affine.c + affine.a * (np.arange(size[1]) + 0.5)},
            {"scene": name, "sensor": self.sensor.id, "resolution": float(target),
             "level": self.level, "group": name, "role": "extra", "product": self.format},
        )  # fmt: skip
        return dataset.rio.write_crs(crs).rio.write_transform(affine) if crs else dataset

    def mask(self, like: xr.Dataset, codes: str | None = None) -> xr.DataArray | None:
        """The mask the product carries, on the grid of `like`; `codes` chooses among several."""
        for pattern, table in MASKS.items():
            if table == "maja-clm-muscate" and self.sensor.id == "venus":
                table = "maja-clm-native"  # whose order of bits Venµs keeps
            if codes in (None, table) and (found := self.files.only(pattern)):
                path = self.files.image(found)
                with self._named(path, found):
                    mask = read_mask(path, table, like=like)
                seen = np.isfinite(like.reflectance.values).any(axis=0)  # some call the rest clear
                return mask.where(seen, NODATA).assign_attrs(source=PurePosixPath(found).name)
        if codes:
            raise InputError(f"{self.files.name}: carries no mask with the codes {codes!r}")
        return None

    @contextmanager
    def _named(self, path: str, member: str) -> Iterator[None]:
        """Errors name the file in the product, not what GDAL was given."""
        try:
            yield
        except InputError as error:
            told = str(error).replace(path, f"{self.files.name}: {member}")
            raise InputError(told) from error

    def _grid(self, layer: Layer) -> Grid:
        with self._named(layer.path, layer.member):
            try:
                with open_raster(layer.path) as file:
                    shape, transform, crs = file.shape, file.transform, file.crs
            except RasterioError as error:
                told = f"cannot be read ({error}); it may be truncated: download it again"
                raise InputError(f"{layer.path}: {told}") from error
        own = float(self._part(layer, Window(0, 0, 1, 1), crs).attrs["resolution"])
        return Grid(shape, transform if crs else Affine.scale(own), own, crs)

    def _part(self, layer: Layer, window: Window, crs: CRS | None) -> xr.DataArray:
        nominal = min(middle(band.gsd_m) for band in self.sensor.bands)
        with self._named(layer.path, layer.member):
            resolution = None if crs else nominal
            reading = Reading(None, layer.scale, layer.offset, self.nodata, resolution)
            return read_image(layer.path, layer.layout, reading, window)

    def _read(self, layer: Layer, grid: Grid, size: tuple[int, int]) -> np.ndarray:
        """A band (y, x) float32 of that size: area means, or bilinear if finer, NaN left out.

        As `resample`, but strip by strip: a band of any size needs little memory.
        """
        (height, width), out = grid.shape, np.empty(size, np.float32)
        down, across = weights(height, size[0]), weights(width, size[1])
        step = max(1, int(STRIP / width * size[0] / height))
        for top in range(0, size[0], step):
            rows = down[top : top + step]
            first, last = int(rows.indices.min()), int(rows.indices.max()) + 1
            part = self._part(layer, Window(0, first, width, last - first), grid.crs).values[0]
            means = weighted_mean(part, np.isfinite(part), rows[:, first:last], across)
            out[top : top + step] = means[0]
        return out

    def _check(self, values: np.ndarray) -> None:
        """Raise InputError if these cannot be reflectance, saying which scale they look like."""
        every = -(-max(values.shape) // 1024)
        values = values[:, ::every, ::every]
        values = values[np.isfinite(values)]
        if not values.size:
            raise InputError(f"{self.files.name}: every pixel is nodata; download it again")
        low, high = np.percentile(values, [1, 99])
        told = ""
        if high > 2:
            factor = 10 ** max(1, round(math.log10(high / 0.5)))
            told = f"go up to {high:.4g}: they look like reflectance × {factor}, not yet divided"
        elif high < 0.02:
            told = f"only go up to {high:.2g}: divided by too much, or stretched to 8 bits"
        elif low < -0.05:
            told = f"go down to {low:.2g}: an offset seems to have been taken off twice"
        if told:
            raise InputError(
                f"{self.files.name}: wrong scale: by the metadata its values {told}. Take the "
                "product as delivered, or give its bands with --sensor, --scale and --offset"
            )


@dataclass(frozen=True)
class Reader:
    """Reads the products that are known by a file whose path matches `pattern`."""

    name: str
    pattern: str
    read: "Read"


Read = Callable[[Files, str], Product]


READERS: list[Reader] = []


def reader(name: str, pattern: str) -> Callable[[Read], Read]:
    """Register a function of a file of this folder as the reader of a product."""

    def register(read: Read) -> Read:
        READERS.append(Reader(name, pattern, read))
        return read

    return register


def reflective(card: Sensor, lacking: Sequence[str] = ()) -> dict[str, str]:
    """Native to common name of the bands that hold reflectance, but for those `lacking`."""
    bands = [band for band in card.bands if not band.common.startswith("lwir")]
    return {band.native: band.common for band in bands if band.common not in lacking}


def sine(elevation: float, name: str) -> float:
    if not 0 < elevation <= 90:
        raise InputError(f"{name}: the sun's elevation is {elevation}°; no reflectance by night")
    return math.sin(math.radians(elevation))
