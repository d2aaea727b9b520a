"""One file of an image, read as reflectance: by windows, with no data as NaN."""

import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader
from rasterio.windows import Window

from clouddl.errors import InputError

METRES_PER_DEGREE = 111_320.0  # of latitude


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
