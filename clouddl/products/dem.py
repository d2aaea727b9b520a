"""Heights of any georeferenced scene: the Copernicus DEM, fetched once and laid on its grid.

GLO-30 is a surface model (trees and roofs are in it) of 1 arc second, in files of one degree on the
open data of AWS: https://copernicus-dem-30m.s3.amazonaws.com/readme.html. There is none at sea, nor
where it is not released; heights there stay unknown, and a warning names the files.
"""

import math
from pathlib import Path
from typing import cast

import numpy as np
import rioxarray
import xarray as xr
from rasterio.enums import Resampling
from rasterio.warp import transform_bounds

from clouddl.errors import InputError, readable, warn
from clouddl.files import Store
from clouddl.labels import on_grid

COPERNICUS = "https://copernicus-dem-30m.s3.amazonaws.com"


MARGIN = 0.001  # degrees around a scene: bilinear looks past its edge


def read_dem(
    path: Path | str, like: xr.Dataset | xr.DataArray, covers: bool = True
) -> xr.DataArray:
    """Read heights on the grid of an image, bilinear.

    A declared nodata of 0 is read as sea level: 0 m is a height, and SRTM files use it for the sea.

    Args:
        path: A DEM of one band, in metres.
        like: The image.
        covers: Whether a DEM outside the image is an error; False for one of several.

    Returns:
        `elevation` (y, x) float32 in metres, NaN outside the DEM.

    Raises:
        InputError: The image or the DEM has no CRS, or the DEM cannot be read.
    """
    if like.rio.crs is None:
        raise InputError(f"{path}: the image has no CRS, so no DEM can be laid on it")
    with readable(path, "DEM of one band"):
        raster = cast(xr.DataArray, rioxarray.open_rasterio(path))
        heights = raster.squeeze("band", drop=True).load()
    if heights.rio.crs is None:
        raise InputError(f"{path}: the DEM has no CRS; write one with gdal_edit.py -a_srs")
    nodata = heights.rio.nodata
    if nodata:
        heights = heights.where(heights != nodata)
    heights = heights.astype(np.float32).rio.write_nodata(np.nan)
    heights = heights.rio.reproject_match(like, resampling=Resampling.bilinear)
    if covers and not np.isfinite(heights).any():
        raise InputError(f"{path}: the DEM does not cover the image")
    return on_grid(heights.values, like, "elevation", units="m")


def cells(like: xr.Dataset | xr.DataArray) -> list[str]:
    """Names of the one-degree files of the Copernicus DEM that a scene lies in.

    Args:
        like: The scene.

    Returns:
        The names, from south-west, without an ending.

    Raises:
        InputError: The scene has no CRS.
    """
    if like.rio.crs is None:
        raise InputError("the image has no CRS, so no DEM can be laid on it")
    west, south, east, north = transform_bounds(like.rio.crs, "EPSG:4326", *like.rio.bounds())
    if east < west:  # across the antimeridian
        east += 360
    rows = range(max(-90, math.floor(south - MARGIN)), math.floor(north + MARGIN) + 1)
    columns = range(math.floor(west - MARGIN), math.floor(east + MARGIN) + 1)
    return [_name(row, column) for row in rows for column in columns if row < 90]


def _name(south: int, west: int) -> str:
    west = (west + 180) % 360 - 180
    row = f"{'S' if south < 0 else 'N'}{abs(south):02}"
    column = f"{'W' if west < 0 else 'E'}{abs(west):03}"
    return f"Copernicus_DSM_COG_10_{row}_00_{column}_00_DEM"


def fetch_cells(like: xr.Dataset | xr.DataArray, store: Store) -> tuple[list[Path], list[str]]:
    """Fetch the files of a scene into the cache.

    Args:
        like: The scene.
        store: Whose cache is used.

    Returns:
        The files, and the names of those that do not exist.
    """
    paths = []
    absent = []
    for name in cells(like):
        path = f"copernicus-dem/{name}.tif"
        if store.learn(path, f"{COPERNICUS}/{name}/{name}.tif"):
            paths.append(path)
        else:
            absent.append(name)
    return store.fetch_all(paths), absent


def copernicus_dem(like: xr.Dataset | xr.DataArray, store: Store | None = None) -> xr.DataArray:
    """Heights of the Copernicus DEM on the grid of a scene, bilinear from each of its files.

    Files are fetched once, and checked against the size and, where its server gives one, the MD5.
    Where there is no file heights are not made 0: at sea that would be right, and where a DEM is
    not released it would not.

    Args:
        like: The scene.
        store: Whose cache is used; default the user's.

    Returns:
        `elevation` (y, x) float32 in metres above EGM2008, NaN where unknown; the attribute
        `absent` names the files there are none of.

    Raises:
        InputError: No CRS, a download that fails, no file at all.
    """
    files, absent = fetch_cells(like, store or Store(None))
    message = f"no Copernicus DEM of {', '.join(absent)} (sea, or not released)"
    if not files:
        raise InputError(f"{message}: there are no heights of this scene; leave elevation out")
    heights = np.full((like.sizes["y"], like.sizes["x"]), np.nan, np.float32)
    for file in files:
        cell = read_dem(file, like, covers=False).values
        heights = np.where(np.isnan(heights), cell, heights)
    if absent:
        warn(f"{message}: heights there stay unknown")
    attrs = {"units": "m", "source": "Copernicus DEM GLO-30", "absent": ", ".join(absent)}
    return on_grid(heights, like, "elevation", **attrs)
