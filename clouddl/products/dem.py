"""Heights of any georeferenced scene: the Copernicus DEM, fetched once and laid on its grid.

GLO-30 is a surface model (trees and roofs are in it) of 1 arc second, in files of one degree on the
open data of AWS: https://copernicus-dem-30m.s3.amazonaws.com/readme.html. There is none at sea, nor
where it is not released; heights there stay unknown, and it is said which.
"""

import math
import warnings
from pathlib import Path
from typing import cast

import numpy as np
import rioxarray
import xarray as xr
from rasterio.enums import Resampling
from rasterio.errors import RasterioError
from rasterio.warp import transform_bounds

from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.labels import on_grid


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


COPERNICUS = "https://copernicus-dem-30m.s3.amazonaws.com"


MARGIN = 0.001  # degrees around a scene: bilinear looks past its edge


def cells(like: xr.Dataset | xr.DataArray) -> list[str]:
    """Names of the one-degree cells of the Copernicus DEM that a scene lies in, from south-west.

    InputError if the scene has no CRS.
    """
    if like.rio.crs is None:
        raise InputError("the image has no CRS, so no DEM can be laid on it")
    west, south, east, north = transform_bounds(like.rio.crs, "EPSG:4326", *like.rio.bounds())
    east += 360 * (east < west)  # across the antimeridian
    rows = range(max(-90, math.floor(south - MARGIN)), min(89, math.floor(north + MARGIN)) + 1)
    columns = range(math.floor(west - MARGIN), math.floor(east + MARGIN) + 1)
    return [_name(row, (column + 180) % 360 - 180) for row in rows for column in columns]


def _name(south: int, west: int) -> str:
    ns, ew = "S" if south < 0 else "N", "W" if west < 0 else "E"
    return f"Copernicus_DSM_COG_10_{ns}{abs(south):02}_00_{ew}{abs(west):03}_00_DEM"


def fetch_cells(like: xr.Dataset | xr.DataArray, store: Store) -> tuple[list[Path], list[str]]:
    """Fetch the cells of a scene into the cache: their files, and the names of the absent."""
    found, absent = [], []
    for name in cells(like):
        path = f"copernicus-dem/{name}.tif"
        if store.learn(path, f"{COPERNICUS}/{name}/{name}.tif"):
            found.append(path)
        else:
            absent.append(name)
    return store.fetch_all(found), absent


def copernicus_dem(like: xr.Dataset | xr.DataArray, store: Store | None = None) -> xr.DataArray:
    """Heights (y, x) float32 in metres above EGM2008 on the grid of `like`, NaN where unknown.

    Bilinear from each cell; at the seam of two cells from the nearer one. Files go to the cache of
    `store` (default: the user's) and are fetched once, against the size and, where its server tells
    one, the MD5. attrs: `absent`, the cells there are none of, which a warning names too. They are
    not made 0: at sea that would be right, and where a DEM is not released it would not.
    InputError: no CRS, a download that fails, no cell at all.
    """
    files, absent = fetch_cells(like, store or Store(None))
    told = f"no Copernicus DEM of {', '.join(absent)} (sea, or not released)"
    if not files:
        raise InputError(f"{told}: there are no heights of this scene; leave elevation out")
    height = np.full((like.sizes["y"], like.sizes["x"]), np.nan, np.float32)
    for file in files:
        part = read_dem(file, like, covers=False).values
        height = np.where(np.isnan(height), part, height)
    if absent:
        warnings.warn(f"{told}: heights there stay unknown", stacklevel=2)
    attrs = {"units": "m", "source": "Copernicus DEM GLO-30", "absent": ", ".join(absent)}
    return on_grid(height, like, "elevation", **attrs)
