"""Scenes: from files of digital numbers to reflectance on a grid, with its mask and its heights.

`open_scene` gives one xr.Dataset whatever the sensor: `reflectance` (band, y, x), `mask` (y, x) and
`elevation` (y, x). `read_image` is the part of it that the command line uses for a user's file.
"""

import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, cast

import numpy as np
import rasterio
import rioxarray
import xarray as xr
from affine import Affine
from rasterio._err import CPLE_BaseError  # which some writers raise as it is
from rasterio.crs import CRS
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window
from scipy import sparse

from clouddl.catalogue import Scene, Store
from clouddl.errors import InputError, WriteError
from clouddl.labels import NODATA, read_mask
from clouddl.sensors import Sensor, get_sensor

METRES_PER_DEGREE = 111_320.0  # of latitude


def open_scene(scene: Scene, store: Store, card: Sensor | None = None) -> xr.Dataset:
    """Open a scene of a catalogue; `card` stands in for the sensor the record names.

    Returns `reflectance` (band, y, x) float32 with NaN for nodata; `mask` (y, x) uint8 (0 clear,
    1 cloud, 255 nodata) if the scene has a label; `elevation` (y, x) float32 in metres if it has a
    DEM. `y` and `x` are pixel centres in the CRS, or index * resolution (metres) without one.
    Raises InputError naming the file for whatever cannot be right.
    """
    sensor = card or get_sensor(scene.sensor)
    if scene.drawn is not None:
        from clouddl.drawn import draw_scene  # late: only the drawn corpus needs it

        same = {"scene": scene.id, "role": scene.role, "group": scene.group}
        if scene.bands:  # every band drawn takes its time
            wanted = tuple(band for band in sensor.bands if band.common in scene.bands)
            sensor = sensor.model_copy(update={"bands": wanted})
        drawn = draw_scene(sensor, **{"resolution": scene.resolution, **same, **scene.drawn})
        return drawn.assign_attrs(drawn=1)
    for band in scene.bands:
        if band is not None:
            sensor.band(band)
    each = [scene.bands] if len(scene.image) == 1 else [[band] for band in scene.bands]
    layers = [
        read_image(
            _place(name, store), bands, scale=scene.scale, offset=scene.offset,
            nodata=scene.nodata, resolution=scene.resolution,
        )
        for name, bands in zip(scene.image, each, strict=True)
    ]  # fmt: skip
    for name, layer in zip(scene.image, layers, strict=True):
        if not (layer.y.equals(layers[0].y) and layer.x.equals(layers[0].x)):
            raise InputError(f"{name}: its grid differs from that of {scene.image[0]}")
    image = xr.concat(layers, "band") if len(layers) > 1 else layers[0]
    check_reflectance(image, scene.image[0])
    dataset = image.to_dataset(name="reflectance")
    dataset.attrs = {
        "scene": scene.id, "sensor": sensor.id, "resolution": image.attrs["resolution"],
        "level": scene.level, "group": scene.group, "role": scene.role,
    }  # fmt: skip
    if scene.label:
        mask = read_mask(_place(scene.label, store), str(scene.label_codes), like=dataset)
        dataset["mask"] = mask.where(np.isfinite(image.values).any(axis=0), NODATA)
    if scene.dem:
        dataset["elevation"] = read_dem(store.fetch(scene.dem), dataset)
    return dataset


def _place(name: str, store: Store) -> str:
    """Where "folder/file.npz#member" lies on this machine, the member kept."""
    path, mark, member = name.partition("#")
    return f"{store.fetch(path)}{mark}{member}"


@contextmanager
def open_raster(path: Path | str) -> Iterator[DatasetReader]:
    """A file that GDAL reads. Its CRS is asked for, so GDAL need not warn that there is none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            yield file


def read_image(
    path: Path | str | DatasetReader, bands: Sequence[str | None], *, scale: float = 1.0,
    offset: float = 0.0, nodata: float | None = None, resolution: float | None = None,
    window: Window | None = None,
) -> xr.DataArray:  # fmt: skip
    """Read one file as reflectance (band, y, x) float32 = DN * scale + offset, nodata as NaN.

    `path` is anything GDAL opens, or what it has opened and keeps open, a .npy, or
    "file.npz#member"; arrays may have bands first or last. `bands` names the layers in file
    order, None for one to skip. `nodata` defaults to the file's own. `resolution` in metres is
    needed where the file has no CRS. `window` reads a part.
    Raises InputError: unreadable or truncated file, wrong number of bands, wrong resolution.
    """
    opened: Any = path if isinstance(path, DatasetReader) else None
    name = str(opened.name if opened else path).partition("#")[0]
    wanted = [index for index, band in enumerate(bands) if band is not None]
    crs: CRS | None = None
    transform = Affine.identity()
    try:
        if name.endswith((".npy", ".npz")):
            values = _load(str(path), len(bands))
            _count(name, len(values), bands)
            values = values[(wanted, *window.toslices())] if window else values[wanted]
        else:
            with nullcontext(opened) if opened else open_raster(name) as source:
                _count(name, source.count, bands)
                crs, transform = source.crs, source.transform
                nodata = source.nodata if nodata is None else nodata
                values = source.read([index + 1 for index in wanted], window=window)
    except InputError:
        raise
    except (OSError, RasterioError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        told = f"cannot be read as an image ({error}); it may be truncated: copy it again"
        raise InputError(f"{name}: {told}") from error
    if np.iscomplexobj(values):
        raise InputError(f"{name}: holds complex numbers, as radar does; reflectance is wanted")
    array = values.astype(np.float32)  # and then in place: NaN stays what it is
    array *= np.float32(scale)
    array += np.float32(offset)
    if nodata is not None:
        array[values == nodata] = np.nan
    step = _resolution(name, crs, transform, resolution)
    if crs is None:
        transform = Affine(step, 0, -step / 2, 0, step, -step / 2)  # coordinates: index * step
    if window is not None:
        transform = rasterio.windows.transform(window, transform)
    rows, columns = np.arange(array.shape[1]) + 0.5, np.arange(array.shape[2]) + 0.5
    image = xr.DataArray(
        array, dims=("band", "y", "x"), name="reflectance",
        coords={"band": [bands[i] for i in wanted], "y": transform.f + transform.e * rows,
                "x": transform.c + transform.a * columns},
        attrs={"resolution": step},
    )  # fmt: skip
    if crs:  # in place: each of these would copy every pixel
        image.rio.write_crs(crs, inplace=True).rio.write_transform(transform, inplace=True)
    return image


def _count(name: str, count: int, bands: Sequence[str | None]) -> None:
    if count != len(bands):
        told = ", ".join(str(band) for band in bands)
        raise InputError(f"{name}: has {count} bands, but {len(bands)} are named: {told}")


def _load(path: str, count: int) -> np.ndarray:
    """An array of a .npy file or of a member of a .npz, as (band, y, x)."""
    name, _, member = path.partition("#")
    loaded = np.load(name, allow_pickle=False)  # a pickle could run code
    if isinstance(loaded, np.lib.npyio.NpzFile):
        if member not in loaded.files:
            have = ", ".join(f"{name}#{key}" for key in loaded.files)
            raise InputError(f"{path}: no such array; choose {have}")
        loaded = loaded[member]
    array = loaded[np.newaxis] if loaded.ndim == 2 else loaded
    if array.ndim != 3:
        raise InputError(f"{path}: an image has 2 or 3 dimensions, this one has {array.ndim}")
    last = array.shape[0] != count and array.shape[-1] == count
    return np.moveaxis(array, -1, 0) if last else array


def _resolution(name: str, crs: CRS | None, transform: Affine, told: float | None) -> float:
    """Metres per pixel: the file's own where its CRS says, else as told."""
    if crs is None:
        if told is None:
            raise InputError(f"{name}: has no CRS, so give its --resolution in metres")
        return float(told)
    if crs.is_geographic:  # an equal step in degrees is not square in metres: latitude is taken
        return float(told or abs(transform.e) * METRES_PER_DEGREE)
    own = abs(transform.e) * crs.linear_units_factor[1]
    if told and abs(own - told) > 0.01 * told:
        raise InputError(f"{name}: its pixels are {own:g} m, not {told:g} m; mend the resolution")
    return float(own)


def check_reflectance(array: xr.DataArray, name: str) -> None:
    """Raise InputError if `array` (band, y, x) cannot be reflectance; thermal bands are skipped."""
    bands = [str(band) for band in array.band.values]
    values = array.values[[not band.startswith("lwir") for band in bands]]
    values = values[:, ::4, ::4] if values.shape[-1] * values.shape[-2] > 1 << 20 else values
    values = values[np.isfinite(values)]
    if not values.size:
        raise InputError(f"{name}: every pixel is nodata; check the file and --nodata")
    high = float(np.percentile(values, 99))
    if high > 2:
        raise InputError(
            f"{name}: looks like digital numbers (99th percentile {high:.4g}); give --scale/"
            "--offset (Sentinel-2 L1C: --scale 0.0001, offset -0.1 from baseline 04.00)"
        )


def read_dem(
    path: Path | str, like: xr.Dataset | xr.DataArray, covers: bool = True
) -> xr.DataArray:
    """Heights (y, x) float32 in metres on the grid of `like`, bilinear; NaN outside the DEM.

    InputError if it does not cover the image at all, unless it is one of several (`covers` False).
    A declared nodata of 0 is read as sea level: 0 m is a height, and SRTM files use it for the sea.
    """
    if like.rio.crs is None:
        raise InputError(f"{path}: the image has no CRS, so no DEM can be laid on it")
    try:
        raster = cast(xr.DataArray, rioxarray.open_rasterio(path))
        raw = raster.squeeze("band", drop=True).load()
    except (OSError, RasterioError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a DEM of one band: {error}") from error
    if raw.rio.crs is None:
        raise InputError(f"{path}: the DEM has no CRS; write one with gdal_edit.py -a_srs")
    hole = raw.rio.nodata
    height = raw.astype(np.float32)
    height = height.where(raw != hole) if hole else height  # 0 and None: every value is a height
    height.attrs = {}
    height = height.rio.write_nodata(np.nan).rio.reproject_match(
        like, resampling=Resampling.bilinear
    )
    if covers and not np.isfinite(height).any():
        raise InputError(f"{path}: the DEM does not cover the image")
    grid = {axis: like[axis] for axis in ("y", "x")}
    return height.assign_coords(grid).rename("elevation").assign_attrs(units="m")


@contextmanager
def writing(out: Path | str) -> Iterator[None]:
    """What GDAL or the system say when images cannot be written to a folder, as WriteError."""
    try:
        yield
    except InputError:
        raise
    except (OSError, RasterioError, CPLE_BaseError) as error:
        told = f"a result could not be written ({error}); the disk or the quota is full, it seems"
        raise WriteError(f"{out}: {told}: make room") from error


def weights(size: int, target: int) -> sparse.csr_array:
    """Matrix (target, size) that brings one axis to a new size, rows adding up to 1.

    Coarser: the share of each source pixel inside the target pixel, exact for any factor.
    Finer: linear between pixel centres, constant beyond the outermost.
    """
    if target >= size:
        at = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        left = at.astype(int)
        rows = np.tile(np.arange(target), 2)
        columns = np.concatenate([left, np.minimum(left + 1, size - 1)])
        shares = np.concatenate([1 - (at - left), at - left])
    else:  # cut the axis at every edge of either grid: each piece lies in one pixel of both
        cuts = np.union1d(np.arange(size + 1), np.arange(target + 1) * size / target)
        middle, shares = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts) * target / size
        rows, columns = (middle * target / size).astype(int), middle.astype(int)
    return sparse.csr_array((shares, (rows, columns)), shape=(target, size))


def weighted_mean(
    values: np.ndarray, valid: np.ndarray, down: sparse.csr_array, across: sparse.csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """Means of the `valid` values (y, x) by `weights` of both axes, and how much of each is valid.

    NaN where there is nothing to take a mean of.
    """
    share = (across @ (down @ valid.astype(np.float32)).T).T
    total = (across @ (down @ np.where(valid, values, 0).astype(np.float32)).T).T
    return np.divide(total, share, out=np.full_like(total, np.nan), where=share > 1e-6), share


def resample(dataset: xr.Dataset, resolution: float) -> xr.Dataset:
    """Bring a scene to `resolution` metres: area means when coarser, bilinear when finer.

    Reflectance and elevation leave NaN out of the mean. A mask pixel is cloud where at least half
    of what is labelled is cloud, and 255 where less than half of it is labelled. The grid keeps
    its outer edges, so pixels are `resolution` to within the rounding of their number.
    """
    own = float(dataset.attrs["resolution"])
    if resolution <= 0:
        raise InputError(f"resolution {resolution}: must be above 0 metres")
    sizes = {axis: max(1, round(dataset.sizes[axis] * own / resolution)) for axis in ("y", "x")}
    grids = [weights(dataset.sizes[axis], sizes[axis]) for axis in ("y", "x")]
    coords = {"band": dataset.band.values}
    for axis, size in sizes.items():
        old = dataset[axis].values.astype(float)
        step = (old[-1] - old[0]) / (len(old) - 1) if len(old) > 1 else own
        coords[axis] = old[0] - step / 2 + (np.arange(size) + 0.5) * step * len(old) / size
    out = xr.Dataset(coords=coords, attrs={**dataset.attrs, "resolution": float(resolution)})
    image = [weighted_mean(b, np.isfinite(b), *grids)[0] for b in dataset.reflectance.values]
    out["reflectance"] = ("band", "y", "x"), np.stack(image).astype(np.float32)
    if "mask" in dataset:
        mask = dataset.mask.values
        cloud, labelled = weighted_mean(mask == 1, mask != NODATA, *grids)
        found = np.where(labelled < 0.5 - 1e-6, NODATA, cloud >= 0.5 - 1e-6)
        out["mask"] = ("y", "x"), found.astype(np.uint8), dataset.mask.attrs
    if "elevation" in dataset:
        height = dataset.elevation.values
        height, _ = weighted_mean(height, np.isfinite(height), *grids)
        out["elevation"] = ("y", "x"), height.astype(np.float32)
    return out.rio.write_crs(dataset.rio.crs) if dataset.rio.crs else out
