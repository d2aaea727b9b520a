"""Where the pixels of an image lie on the ground, and how many metres each is."""

import re
from contextlib import suppress
from typing import NamedTuple

import numpy as np
from affine import Affine
from rasterio import warp
from rasterio._err import CPLE_BaseError
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.errors import CRSError, RasterioError
from rasterio.io import DatasetReader
from rasterio.rpc import RPC
from rasterio.transform import from_gcps

from clouddl.errors import InputError

METRES_PER_DEGREE = 111_320.0  # of latitude
STRETCH = 0.05  # a projection that stretches more than this is measured on the ground


class Grid(NamedTuple):
    """Where the pixels of an image lie; without a CRS the transform is the file's own."""

    shape: tuple[int, int]  # (y, x) in pixels
    transform: Affine = Affine.identity()  # from pixels to the CRS
    crs: CRS | None = None
    control_points: tuple[GroundControlPoint, ...] = ()  # where they place the image, and no CRS
    control_crs: CRS | None = None
    polynomials: RPC | None = None  # rational polynomial coefficients, where no CRS places it

    @property
    def ground(self) -> "Grid":
        """The grid that pixels are measured on; without a CRS nothing is known of them.

        It is this one, or the plane one that fits the control points best, if they do not lie on a
        line.
        """
        if len(self.control_points) < 3 or not self.control_crs:
            return self
        pixels = np.array([(point.col, point.row) for point in self.control_points])
        places = np.array([(point.x, point.y) for point in self.control_points])
        for ends in pixels, places:
            if np.isfinite(ends).all() and np.linalg.matrix_rank(ends - ends.mean(0), 1e-6) < 2:
                return self
        with suppress(RasterioError, ValueError):
            return Grid(self.shape, from_gcps(self.control_points), self.control_crs)
        return self


def grid_of(file: DatasetReader) -> Grid:
    """Where the pixels of a file lie, by all that it says.

    Args:
        file: The open file.
    """
    if file.crs:
        return Grid(file.shape, file.transform, file.crs)
    points, crs = file.gcps
    return Grid(file.shape, file.transform, None, tuple(points), crs, file.rpcs)


def pixel_size(name: str, grid: Grid, given: float | None) -> float | None:
    """Metres per pixel down a column: the grid's own where its CRS says, else as given.

    Args:
        name: What the message calls the image.
        grid: The grid that its pixels are measured on.
        given: Metres per pixel; None where the user gives none.

    Returns:
        The resolution; None where nothing says it.

    Raises:
        InputError: The place of the file is impossible, or its pixels are not of the size given.
    """
    if grid.crs is None:
        return given
    check_place(name, grid)
    ground = _ground_spacing(grid)
    metres = spacing_of(grid)[0]
    tolerance = STRETCH if ground else 0.01  # the ground is measured on a sphere
    if given and abs(metres - given) > tolerance * given:
        raise InputError(
            f"{name}: its pixels are {metres:.6g} m, not {given:g} m; correct the resolution"
        )
    return given if given and grid.crs.is_geographic else metres


def check_place(name: str, grid: Grid) -> None:
    """Check that a transform can be one of its CRS.

    Args:
        name: What the message calls the image.
        grid: Its shape, transform and CRS.

    Raises:
        InputError: There is no transform, its pixels have no size, its units are others, or its CRS
            is that of no map.
    """
    (height, width), transform, crs, *_ = grid
    assert crs
    called = crs.to_string()[:40]
    if crs.to_wkt().startswith("GEOCCS"):
        raise InputError(
            f"{name}: its CRS {called} is geocentric, in which no image lies flat; correct "
            "it (gdal_edit.py -a_srs), or bring the image to a map's (gdalwarp -t_srs)"
        )
    if transform == Affine.identity():
        raise InputError(
            f"{name}: has the CRS {called} but no transform, so the size of its pixels is "
            "not known; write one (gdal_edit.py -a_ullr), or remove the CRS and give --resolution"
        )
    if transform.determinant == 0 or not np.isfinite(tuple(transform)).all():
        raise InputError(
            f"{name}: its transform {tuple(transform)[:6]} gives pixels of no size or place; "
            "correct it (gdal_edit.py -a_ullr) or its ground control points"
        )
    ends = [transform * corner for corner in ((0, 0), (width, 0), (0, height), (width, height))]
    in_degrees = all(abs(x) <= 400 and abs(y) <= 91 for x, y in ends)
    where = f"({transform.c:g}, {transform.f:g})"
    if crs.is_geographic and not in_degrees:
        raise InputError(
            f"{name}: its CRS {called} is in degrees, but its transform, from {where}, is "
            "not; correct the CRS (gdal_edit.py -a_srs)"
        )
    step = np.hypot(transform.b, transform.e)
    if crs.is_projected and in_degrees and step < 0.05:
        raise InputError(
            f"{name}: its CRS {called} is in metres, but its transform, from {where} with "
            f"pixels of {step:.3g}, is in degrees; correct the CRS (gdal_edit.py -a_srs EPSG:4326)"
        )


def spacing_of(grid: Grid) -> tuple[float, float]:
    """Metres from pixel to pixel on the ground, down a column and along a row.

    Args:
        grid: A grid with a CRS.
    """
    return _ground_spacing(grid) or _nominal_spacing(grid)


def _ground_spacing(grid: Grid) -> tuple[float, float] | None:
    """Metres on the ground down a column and along a row, at the middle of the image.

    None where the CRS is metric and true to within `STRETCH`, as UTM is, or is not of the Earth.
    Web Mercator is stretched by 1 / cos(latitude): twice at 60 degrees.
    """
    assert grid.crs
    height, width = grid.shape
    row, column = height / 2, width / 2
    pixels = (column, row), (column, row + 1), (column + 1, row)
    xs, ys = zip(*(grid.transform * pixel for pixel in pixels), strict=True)
    if not grid.crs.is_geographic:
        try:
            xs, ys = warp.transform(grid.crs, CRS.from_epsg(4326), xs, ys)
        except (RasterioError, CPLE_BaseError):
            return None
    east = (np.subtract(xs[1:], xs[0]) + 180) % 360 - 180  # across the 180th meridian
    east *= np.cos(np.radians(ys[0]))
    north = np.subtract(ys[1:], ys[0])
    down, along = (METRES_PER_DEGREE * np.hypot(east, north)).tolist()
    if not 0 < down * along < np.inf:
        return None
    nominal = _nominal_spacing(grid)
    stretches = abs(down / nominal[0] - 1), abs(along / nominal[1] - 1)
    return (down, along) if max(stretches) > STRETCH else None


def _nominal_spacing(grid: Grid) -> tuple[float, float]:
    """Units of the CRS, in metres if it has such, down a column and along a row."""
    transform = grid.transform
    unit = 1.0 if grid.crs is None or grid.crs.is_geographic else _unit(grid.crs)
    down = float(np.hypot(transform.b, transform.e))
    return down * unit, float(np.hypot(transform.a, transform.d)) * unit


def _unit(crs: CRS) -> float:
    """Metres of the unit of a CRS; a local one says it in its text only."""
    with suppress(CRSError):
        return float(crs.linear_units_factor[1])
    unit = re.search(r'UNIT\["[^"]*",\s*([\d.eE+-]+)', crs.to_wkt())
    return float(unit[1]) if unit else 1.0
