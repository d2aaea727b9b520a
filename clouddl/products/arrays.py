"""Arrays and Datasets as odc-stac, stackstac, rioxarray, netCDF and Zarr hold images."""

import reprlib
import warnings
from collections.abc import Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import rioxarray
import xarray as xr
from rasterio.errors import NotGeoreferencedWarning

from clouddl.errors import InputError, read_yaml, readable
from clouddl.products.raster import BY_COORDINATES, open_raster
from clouddl.products.reading import Reading
from clouddl.sensors import Sensor, band_name, band_names

#: Names of dimensions.
NAMES = read_yaml(Path(__file__).with_name("arrays.yaml"), "table of dimensions")
AXES, LAYERS = NAMES["axes"], NAMES["layers"]
WANTED = "give the path of a file as text, or an array (band, y, x) of numbers"
NUMBERS = ("scale_factor", "add_offset", "_FillValue", "nodata")  # attributes: how to read numbers

_Held: TypeAlias = xr.DataArray | xr.Dataset


def open_dataset(path: Path | str, reading: Reading) -> xr.Dataset | xr.DataArray:
    """Open a netCDF file or a Zarr store.

    Args:
        path: The file or folder.
        reading: Numbers are left as stored if it says how they are read.

    Returns:
        Its arrays.

    Raises:
        InputError: It cannot be read.
    """
    decode = (reading.scale, reading.offset, reading.nodata) == (None, None, None)
    options: dict[str, Any] = {"mask_and_scale": decode, "decode_times": False}
    opened: _Held
    with (
        readable(path, "image", "give a GeoTIFF, or one array of it as NETCDF:FILE:ARRAY"),
        # What it lacks of its place is said later, by name.
        warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning),
    ):
        if str(path).rstrip("/").lower().endswith(".zarr"):
            options |= {"engine": "zarr", "consolidated": False}
            opened = xr.open_dataset(path, decode_coords="all", **options)
        else:
            opened = _open_netcdf(path, options)
    return opened.assign_attrs(scene=str(path))


def _open_netcdf(path: Path | str, options: dict[str, Any]) -> _Held:
    """A netCDF file by GDAL; by xarray if that can where arrays differ in their dimensions.

    In a classic file the names of bands are such an array.
    """
    opened: _Held | list[xr.Dataset] | None = _open_cube(path)
    if opened is None:
        with suppress(ValueError):  # of dimensions that differ
            opened = rioxarray.open_rasterio(path, **options, **BY_COORDINATES)
    if isinstance(opened, xr.DataArray | xr.Dataset):
        if opened.rio.transform().is_identity:  # GDAL turns these upside down
            opened = opened.isel(y=slice(None, None, -1))
        return opened
    try:
        return xr.open_dataset(path, decode_coords="all", **options)
    except ValueError as error:
        raise InputError(
            f"{path}: holds arrays of several grids; name one: NETCDF:{path}:ARRAY"
        ) from error


def _open_cube(path: Path | str) -> xr.DataArray | None:
    """An array of netCDF with two or more dimensions beside y and x, as openEO writes (t, bands).

    GDAL lays them along one axis, which rioxarray does not take apart. None for other files.
    """
    with open_raster(path) as file:
        tags = file.tags()
        names = tags.get("NETCDF_DIM_EXTRA", "").strip("{}").split(",")
        stated = [tags.get(f"NETCDF_DIM_{name}_VALUES") for name in names]
        if len(names) < 2 or None in stated:
            return None
        labels = [str(text).strip("{}").split(",") for text in stated]
        for name, entries in zip(names, labels, strict=True):
            if name not in ("band", *LAYERS):
                _check_one(str(path), name, len(entries))
        numbers = file.read().reshape(*map(len, labels), *file.shape)
        array = xr.DataArray(numbers, dict(zip(names, labels, strict=True)), (*names, "y", "x"))
        array.attrs = {"scale_factor": file.scales[0], "add_offset": file.offsets[0]}
        array.attrs["_FillValue"] = file.nodata
        if file.crs:
            array.rio.write_crs(file.crs, inplace=True)
        return array.rio.write_transform(file.transform)


def as_array(
    source: np.ndarray | xr.DataArray | xr.Dataset, sensor: Sensor | None = None
) -> xr.DataArray:
    """Bring an image in memory to the dimensions (band, y, x) and to common names of bands.

    Args:
        source: An array; a Dataset of one variable a band, or with `reflectance`.
        sensor: Its card, for the names of its bands.

    Returns:
        The DataArray; what has no names of dimensions as it is.

    Raises:
        InputError: Several dates, no variable that is a band, or bands that are read differently.
    """
    if not isinstance(source, xr.DataArray | xr.Dataset):
        try:
            numbers = np.asanyarray(source, None if hasattr(source, "dtype") else float)
        except (TypeError, ValueError):
            numbers = np.empty(0)
        if numbers.ndim < 2:
            raise InputError(f"image: is {reprlib.repr(source)}, and no image; {WANTED}")
        array = xr.DataArray(numbers)
        _check_size(array, "image")
        return array
    name = str(source.attrs.get("scene", "image"))
    _check_size(source, name)
    source = _with_axes(_with_crs(source, name))
    array = _stack(source, sensor, name) if isinstance(source, xr.Dataset) else source
    others = [layer for layer in LAYERS if layer in array.dims]
    if "band" not in array.dims and len(others) == 1:
        array = array.rename({others[0]: "band"})
    array = _one_date(array, name)
    if set(array.dims) == {"band", "y", "x"}:
        array = array.transpose("band", "y", "x")
    if "band" not in array.coords or "band" not in array.dims:
        return array
    labels = array.band.values.tolist()
    for stated in (array.coords.get("common_name"), array.attrs.get("long_name")):
        # As stackstac and rioxarray name bands.
        texts = np.array(stated, ndmin=1).astype(str).tolist()
        if len(texts) == len(labels) and all(map(band_name, texts)):
            labels = texts
    if all(isinstance(label, str) for label in labels):
        return array.assign_coords(band=list(band_names(tuple(labels), sensor)))
    array = array.drop_vars("band")  # numbers of layers say nothing
    if sensor and len(labels) == len(sensor.bands):
        array = array.assign_coords(band=list(sensor.commons))
    return array


def _check_size(image: xr.DataArray | xr.Dataset, name: str) -> None:
    shape = tuple(image.sizes.values())
    if 0 in shape:
        raise InputError(f"{name}: has no pixels (shape {shape}); check how it was cropped")


def _with_crs(image: _Held, name: str) -> _Held:
    """With the CRS that some variable holds, though the bands do not name it (openEO)."""
    variables = image.coords if isinstance(image, xr.DataArray) else image.variables
    with readable(name, "CRS", "correct it, or drop the variable that holds it"):
        crs = image.rio.crs
        for variable in variables.values():
            crs = crs or variable.attrs.get("crs_wkt") or variable.attrs.get("spatial_ref")
        if crs:
            image = image.copy(deep=False)
            image.rio.write_crs(crs, inplace=True)
    return image


def _with_axes(image: _Held) -> _Held:
    """With dimensions that are called y and x."""
    for old in image.dims:
        new = AXES.get(str(old).lower())
        if new is None or new in image.dims:
            continue
        in_degrees = str(old).lower().startswith(("lat", "lon"))
        if in_degrees and old in image.coords and not image.rio.crs:
            image = image.rio.write_crs(4326)
        if new not in image.coords:
            image = image.rename({old: new})
        elif image[new].dims == (old,):
            image = image.swap_dims({old: new})
    return image


def _stack(dataset: xr.Dataset, sensor: Sensor | None, name: str) -> xr.DataArray:
    """The reflectance of a scene, or the variables of a Dataset that are bands, as one array."""
    if "reflectance" in dataset:
        return dataset.reflectance.assign_attrs(dataset.attrs)
    variables = {str(key): band_name(str(key), sensor) for key in dataset.data_vars}
    if not any(variables.values()):  # as of rioxarray: band_1, and what that is
        for key in variables:
            variables[key] = band_name(str(dataset[key].attrs.get("long_name", "")), sensor)
    bands = {key: band for key, band in variables.items() if band}
    if not bands:
        images = [key for key in variables if dataset[key].ndim >= 3]
        if len(images) == 1:
            return dataset[images[0]].assign_attrs(dataset.attrs)
        listed = ", ".join(variables) or "none"
        raise InputError(f"{name}: none of its variables ({listed}) is a band; rename them")
    if len(set(bands.values())) < len(bands):
        raise InputError(f"{name}: two of the variables {', '.join(bands)} are one band; drop one")
    layers = [_one_date(dataset[key], name) for key in bands]
    first = layers[0]
    for layer in layers:
        same = [str(layer.attrs.get(key)) == str(first.attrs.get(key)) for key in NUMBERS]
        if not all(same) or layer.sizes != first.sizes:
            raise InputError(
                f"{name}: {layer.name} and {first.name} differ in size, scale, offset or nodata; "
                "bring the bands to one grid and to reflectance first"
            )
    layers = [layer.drop_vars("band", errors="ignore") for layer in layers]
    stacked = xr.concat(layers, "band", coords="minimal", compat="override")
    stacked = stacked.assign_coords(band=list(bands.values()))
    return stacked.assign_attrs(first.attrs | dataset.attrs)


def _one_date(array: xr.DataArray, name: str) -> xr.DataArray:
    """The array without dimensions of length 1; InputError for several dates."""
    layers = ("band", "y", "x", *LAYERS)
    for dimension in [dimension for dimension in array.dims if dimension not in layers]:
        if array.sizes[dimension] == 1:
            array = array.squeeze(dimension, drop=True)
        elif array.ndim > 3 or dimension in ("time", "date"):
            _check_one(name, dimension, array.sizes[dimension])
    return array


def _check_one(name: str, dimension: Hashable, count: int) -> None:
    """Raise InputError for several dates."""
    if count > 1:
        raise InputError(
            f"{name}: its dimension {dimension} has {count} entries; choose one "
            f"(in xarray by .isel({dimension}=0))"
        )
