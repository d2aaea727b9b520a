"""Prediction of an image tile by tile: memory does not grow with the image, and there is no seam.

Tiles begin where the network's pooling cells begin, and overlap by what the network can see. While
one is computed, the next one is read.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, product
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rasterio.windows import Window
from torch import Tensor
from tqdm import tqdm

from clouddl.errors import InputError
from clouddl.model import CloudModel
from clouddl.network import ModelCard, as_it_is, chip_statistics
from clouddl.products.grids import sources, weighted_mean, weights
from clouddl.products.image import OVERVIEW, Image, resample, strips

if TYPE_CHECKING:
    from scipy.sparse import csr_array

COARSEST = 20  # times the model's resolution; an image is resampled from no coarser one
TILE = 1024  # pixels of the network's grid a side; of smaller tiles more is margin
STEM_TILE = 1616  # the same with a stem, which needs a quarter of the memory and a wider margin

Prediction = tuple[Window, np.ndarray]  # a window of the image, and its probability (y, x)


@dataclass(frozen=True)
class Span:
    """One axis of a tile, in pixels of the network's grid."""

    core: slice  # of which the tile gives the result
    view: slice  # with the margin around it

    @property
    def inner(self) -> slice:
        """The core, counted from where the view begins."""
        start = self.view.start
        return slice(self.core.start - start, self.core.stop - start)


Tile = tuple[Span, ...]  # rows, columns
TileValues = tuple[Tile, np.ndarray, bool]  # on the network's grid, and whether they have gaps


@dataclass
class Axis:
    """Rows or columns of the image, and of the network's grid on the same ground."""

    pixels: int  # of the image
    network_pixels: int  # of the network's grid

    @cached_property
    def to_network(self) -> "csr_array":
        """Weights of the image's pixels in those of the network's grid."""
        return weights(self.pixels, self.network_pixels)

    @cached_property
    def to_image(self) -> "csr_array":
        """Weights of the network grid's pixels in those of the image."""
        return weights(self.network_pixels, self.pixels)

    def on_image(self, pixels: slice) -> slice:
        """Find the pixels of the image whose centres lie in pixels of the network's grid.

        Args:
            pixels: Of the network's grid.

        Returns:
            Pixels of the image.
        """
        edges = (pixels.start, pixels.stop)
        return slice(*(math.ceil(n * self.pixels / self.network_pixels - 0.5) for n in edges))


class TilePredictor:
    """A model on an image, tile by tile.

    The weights between the image and the network's grid are those of the full image, so no pixel
    depends on where the tiles lie.

    Args:
        model: What predicts.
        image: What it predicts: its bands are a set of bands the model works from.
        tile: Pixels a side of a tile; default what the network runs best with.
    """

    def __init__(self, model: CloudModel, image: Image, tile: int | None = None) -> None:
        card = model.card
        self.model = model
        self.image = image
        size = network_size(image, card)
        self.same_grid = size == image.shape
        self.rows, self.columns = map(Axis, image.shape, size)
        margin = receptive_field(card)
        tile = tile or (TILE if card.stem == 1 else STEM_TILE)
        spans = (cut_axis(pixels, tile, margin, model.net.multiple) for pixels in size)
        self.tiles = list(product(*spans))
        self.statistics = self._statistics()

    def run(self, label: str | None = None, part: tuple[int, int] = (0, 1)) -> Iterator[Prediction]:
        """Predict the tiles, or a part of them.

        Args:
            label: Of a progress bar; None for no bar.
            part: (i, n) for the tiles of part i, from 0, of n.

        Yields:
            Windows of the image with their probability (y, x) float32, nodata NaN.
        """
        number, count = part
        first = len(self.tiles) * number // count
        last = len(self.tiles) * (number + 1) // count
        tiles = self.tiles[first:last]
        work = ahead(self._read, tiles, 1)
        with tqdm(total=len(tiles), desc=label, unit="tile", delay=1, disable=label is None) as bar:
            for tile, probability, gaps in ahead(self._compute, work, self.model.backend.workers):
                bar.update()
                yield from self._on_image(tile, probability, gaps)

    def _read(self, tile: Tile) -> TileValues:
        """Reflectance of a tile, as the model wants it."""
        rows, columns = tile
        if self.same_grid:
            values = self.image.read(Window.from_slices(rows.view, columns.view))
            return tile, self._arrange(values), False
        down = self.rows.to_network[rows.view]
        across = self.columns.to_network[columns.view]
        values, gaps = resample(self.image, down, across)
        # Unless there are gaps in every band, no pixel can be nodata in all of them.
        return tile, self._arrange(values), bool(gaps.all())

    def _compute(self, values: TileValues) -> TileValues:
        """Probability of a tile, of its reflectance."""
        tile, reflectance, gaps = values
        return tile, self.model.probability(reflectance, self.statistics), gaps

    def _on_image(self, tile: Tile, probability: np.ndarray, gaps: bool) -> Iterator[Prediction]:
        """Bring a tile from the network's grid back to the image's, strip by strip.

        Only as it is asked for: of a finer image a whole tile would be many times as large.
        """
        rows, columns = tile
        if self.same_grid:
            window = Window.from_slices(rows.core, columns.core)
            yield window, probability[rows.inner, columns.inner]
            return
        image_rows = self.rows.on_image(rows.core)
        image_columns = self.columns.on_image(columns.core)
        across = self.columns.to_image[image_columns, columns.view].astype(np.float32)
        for window in strips(image_rows, image_columns):
            strip_rows, _ = window.toslices()
            down = self.rows.to_image[strip_rows, rows.view].astype(np.float32)
            view = sources(down)
            part = probability[view].T
            means = weighted_mean(part, np.isfinite(part), across, down[:, view])[0].T
            if gaps:  # their edge is finer in the image, or coarser
                means[np.isnan(self.image.read(window)).all(0)] = np.nan
            yield window, means

    def _arrange(self, values: np.ndarray) -> np.ndarray:
        """Planes in the order of the model's bands, NaN for a band the image lacks."""
        bands = list(self.image.bands)
        order = self.model.card.bands
        if bands == order:
            return values
        shape = len(order), *values.shape[1:]
        planes = np.full(shape, np.nan, np.float32)
        planes[[order.index(band) for band in bands]] = values
        return planes

    def _statistics(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation of the full scene, or each tile would be normalised by its own."""
        if self.model.card.normalisation != "chip":
            return None
        overview = self.image.overview
        height, width = overview.shape[1:]
        down = weights(height, min(self.rows.network_pixels, OVERVIEW))
        across = weights(width, min(self.columns.network_pixels, OVERVIEW))
        means = [weighted_mean(band, np.isfinite(band), down, across)[0] for band in overview]
        return chip_statistics(torch.from_numpy(self._arrange(np.stack(means)))[None])


def receptive_field(card: ModelCard) -> int:
    """Compute how far an output pixel sees: the margin a tile needs.

    Two convolutions on each of depth + 1 levels down and depth levels up, each reaching
    kernel // 2 pixels of its level, and the shift between a pixel and its pooling cell; all that
    in squares of `stem` pixels, of which the far corner counts too. A smooth network adds a pixel.

    Args:
        card: Card of the model.

    Returns:
        Pixels of the model's resolution.
    """
    cell = 2**card.depth
    reach = 2 * (card.kernel_size // 2)
    squares = reach * (2 * cell - 1) + reach * (cell - 1) + cell - 1
    return card.stem * squares + card.stem - 1 + card.smooth


def network_size(image: Image, card: ModelCard) -> tuple[int, int]:
    """Compute the size of the grid the network works on: the image's ground in its pixels.

    Args:
        image: The image.
        card: Card of the model.

    Returns:
        Size (y, x); the image's own where its pixels are taken as they are.

    Raises:
        InputError: The pixels are too coarse for the model to see a cloud in them.
    """
    if max(image.spacing) > COARSEST * card.resolution:
        raise InputError(
            f"{image.name}: its pixels are {max(image.spacing):g} m, too coarse for model "
            f"{card.name} at {card.resolution:g} m; give an image of {COARSEST * card.resolution:g}"
            " m or finer, or correct the resolution or the CRS if it is wrong"
        )
    if all(as_it_is(metres, card.resolution) for metres in image.spacing):
        return image.shape
    height, width = image.shape
    down, along = (metres / card.resolution for metres in image.spacing)
    return max(1, round(height * down)), max(1, round(width * along))


def cut_axis(extent: int, tile: int, margin: int, cell: int) -> list[Span]:
    """Cut an axis evenly into tiles that begin where pooling cells begin.

    All look at equally many pixels, up to the last cell: a network compiled for one shape of tile
    serves them all. At the ends there is no margin to look at, so the first and the last tile give
    that much more.

    Args:
        extent: Pixels of the axis.
        tile: Pixels of a tile without its margins, at most.
        margin: Pixels to look at on either side of it.
        cell: Pixels of a pooling cell.

    Returns:
        The spans, in order.
    """

    def round_up(pixels: float) -> int:
        return math.ceil(pixels / cell) * cell

    margin = round_up(margin)
    between = max(1, extent - 2 * margin)
    step = round_up(between / math.ceil(between / round_up(tile)))
    size = min(round_up(extent), step + 2 * margin)
    starts = range(0, between, step)
    edges = [0, *(start + margin for start in starts[1:]), extent]
    spans = []
    for start, core in zip(starts, pairwise(edges), strict=True):
        first = min(start, round_up(extent) - size)
        spans.append(Span(slice(*core), slice(first, min(first + size, extent))))
    return spans


def ahead(work: Callable[[Any], Any], items: Iterable[Any], count: int) -> Iterator[Any]:
    """Work on items in threads, ahead of who asks for the results.

    When the caller stops or an item fails, nothing of what was begun goes on.

    Args:
        work: What to do with an item.
        items: Called for one by one: each may be as large as a tile.
        count: Number of threads, and of items in work at once.

    Yields:
        The results, in order.
    """
    pool = ThreadPoolExecutor(count)
    waiting: deque[Future[Any]] = deque()
    done: list[Any] = []
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            yield from done  # while the next one is in work
            done = [waiting.popleft().result()] if len(waiting) == count else []
        yield from done
        for future in waiting:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
