"""An image that is delivered as several files, which lie side by side in rows and columns."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from affine import Affine
from rasterio.windows import Window, intersect, intersection

from clouddl.errors import InputError
from clouddl.products.image import Image, open_file
from clouddl.products.place import Grid
from clouddl.products.reading import Reading

JOIN = "join them first (gdalbuildvrt, gdal_translate), and give the result with --sensor"


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
