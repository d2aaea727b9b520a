"""Prediction of an image tile by tile: memory does not grow with the image, and there is no seam.

Tiles begin where the network's pooling cells begin, and overlap by what the network can see. While
one is computed, the next one is read.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

import numpy as np
import torch
from rasterio.windows import Window
from scipy.sparse import csr_array
from torch import Tensor
from tqdm import tqdm

from clouddl.model import CloudModel
from clouddl.network import ModelCard, chip_statistics
from clouddl.products.grids import mean_of_sums, weighted_mean, weighted_sums, weights
from clouddl.products.image import OVERVIEW, Image, strips

SIMILAR = 0.15  # a resolution this near the model's is left alone: resampling would only blur
TILE = 1024  # pixels of the network's grid a side; of smaller tiles more is margin
STEM_TILE = 2048  # the same with a stem, which needs a quarter of the memory and a wider margin

Part = tuple[Window, np.ndarray]  # a window of the image, and its probability (y, x)
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Span:
    """One axis of a tile, as (start, end) in pixels of the network's grid."""

    core: tuple[int, int]  # what the tile gives the result of
    view: tuple[int, int]  # with the margin around it


Tile = tuple[Span, Span]  # rows, columns


class TilePredictor:
    """A model on an image, tile by tile.

    The network works on a grid of its own resolution. The weights between the two grids are those
    of the whole image, so no pixel depends on where the tiles lie.

    Args:
        model: What predicts.
        image: What it predicts: its bands are a set of bands the model works from.
        tile: Pixels a side of a tile; default what the network runs best with.
        overlap: Pixels of margin; less than `receptive_field`, the default, leaves seams.
    """

    def __init__(
        self, model: CloudModel, image: Image, tile: int | None = None, overlap: int | None = None
    ) -> None:
        card = model.card
        self.model = model
        self.image = image
        self.size = network_size(image, card)
        self.same_grid = self.size == image.shape
        margin = receptive_field(card) if overlap is None else overlap
        tile = tile or (TILE if card.stem == 1 else STEM_TILE)
        axes = [cut_axis(extent, tile, margin, model.net.multiple) for extent in self.size]
        self.tiles: list[Tile] = list(product(*axes))
        pairs = list(zip(image.shape, self.size, strict=True))
        self.to_network = [weights(ours, network) for ours, network in pairs]
        self.to_image = [weights(network, ours) for ours, network in pairs]
        self.statistics = self._statistics()

    def run(self, label: str | None = None, part: tuple[int, int] = (0, 1)) -> Iterator[Part]:
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
        work = zip(tiles, ahead(self._read, tiles, 1), strict=True)
        with tqdm(total=len(tiles), desc=label, unit="tile", disable=label is None) as bar:
            for parts in ahead(self._compute, work, self.model.backend.workers):
                bar.update()
                yield from parts

    def _read(self, tile: Tile) -> np.ndarray:
        """Reflectance on the network's grid, in the order of the model's bands."""
        rows, columns = (span.view for span in tile)
        if self.same_grid:
            return self._arrange(self.image.read(Window.from_slices(rows, columns)))
        down = self.to_network[0][slice(*rows)]
        across = self.to_network[1][slice(*columns)]
        return self._arrange(self._resample(down, across))

    def _resample(self, down: csr_array, across: csr_array) -> np.ndarray:
        """The part of the network's grid of these weights (band, y, x), read strip by strip."""
        shape = len(self.image.bands), down.shape[0], across.shape[0]
        total, weight = np.zeros(shape, np.float32), np.zeros(shape, np.float32)
        for window in strips(_extent(down), _extent(across)):
            rows, columns = window.toslices()
            axes = down[:, rows], across[:, columns]
            for index, band in enumerate(self.image.read(window)):
                more_total, more_weight = weighted_sums(band, np.isfinite(band), *axes)
                total[index] += more_total
                weight[index] += more_weight
        return mean_of_sums(total, weight)

    def _compute(self, work: tuple[Tile, np.ndarray]) -> list[Part]:
        tile, reflectance = work
        probability = self.model.probability(reflectance, self.statistics)
        if not self.same_grid:
            return list(self._on_image(tile, probability))
        rows, columns = (slice(s.core[0] - s.view[0], s.core[1] - s.view[0]) for s in tile)
        window = Window.from_slices(*(span.core for span in tile))
        return [(window, probability[rows, columns])]

    def _on_image(self, tile: Tile, probability: np.ndarray) -> Iterator[Part]:
        """The tile's probability at the pixels of the image whose centres lie in its core."""
        valid = np.isfinite(probability)
        rows, columns = (
            [math.ceil(edge * ours / network - 0.5) for edge in span.core]
            for span, ours, network in zip(tile, self.image.shape, self.size, strict=True)
        )
        view_rows, view_columns = (slice(*span.view) for span in tile)
        across = self.to_image[1][slice(*columns), view_columns]
        for window in strips(rows, columns):
            down = self.to_image[0][window.toslices()[0], view_rows]
            means, _ = weighted_mean(probability, valid, down, across)
            # The edge of nodata is finer in the image, or coarser.
            means[np.isnan(self.image.read(window)).all(0)] = np.nan
            yield window, means

    def _arrange(self, values: np.ndarray) -> np.ndarray:
        """Planes in the order of the model's bands, NaN for a band the image lacks."""
        bands, order = list(self.image.bands), self.model.card.bands
        if bands == order:
            return values
        planes = np.full((len(order), *values.shape[1:]), np.nan, np.float32)
        planes[[order.index(band) for band in bands]] = values
        return planes

    def _statistics(self) -> tuple[Tensor, Tensor] | None:
        """Mean and deviation of the whole scene, or each tile would be normalised by its own."""
        if self.model.card.normalisation != "chip":
            return None
        overview = self.image.overview
        sizes = zip(overview.shape[1:], self.size, strict=True)
        axes = [weights(ours, min(network, OVERVIEW)) for ours, network in sizes]
        means = [weighted_mean(band, np.isfinite(band), *axes)[0] for band in overview]
        return chip_statistics(torch.from_numpy(self._arrange(np.stack(means)))[None])


def receptive_field(card: ModelCard) -> int:
    """Compute how far an output pixel sees: the margin a tile needs.

    Two convolutions on each of depth + 1 levels down and depth levels up, each reaching
    kernel // 2 pixels of its level, and the shift between a pixel and its pooling cell; all that
    in squares of `stem` pixels, of which the far corner counts too.

    Args:
        card: Card of the model.

    Returns:
        Pixels of the model's resolution.
    """
    cell = 2**card.depth
    reach = 2 * (card.kernel_size // 2)
    squares = reach * (2 * cell - 1) + reach * (cell - 1) + cell - 1
    return card.stem * squares + card.stem - 1


def network_size(image: Image, card: ModelCard) -> tuple[int, int]:
    """Compute the size of the grid the network works on: the image's ground in its pixels.

    Args:
        image: The image.
        card: Card of the model.

    Returns:
        Size (y, x); the image's own where its resolution is near the model's.
    """
    ratio = image.resolution / card.resolution
    if abs(ratio - 1) <= SIMILAR:
        return image.shape
    height, width = image.shape
    return max(1, round(height * ratio)), max(1, round(width * ratio))


def cut_axis(extent: int, tile: int, margin: int, cell: int) -> list[Span]:
    """Cut an axis evenly into tiles that begin where pooling cells begin.

    All look at equally many pixels, up to the last cell: a network compiled for one shape of tile
    serves them all.

    Args:
        extent: Pixels of the axis.
        tile: Pixels of a tile, at most.
        margin: Pixels to look at on either side of it.
        cell: Pixels of a pooling cell.

    Returns:
        The spans, in order.
    """

    def whole_cells(pixels: float) -> int:
        return math.ceil(pixels / cell) * cell

    step = whole_cells(extent / math.ceil(extent / whole_cells(tile)))
    neighbours = min(2, math.ceil(extent / step) - 1)  # sides on which a tile has a margin
    size = min(whole_cells(extent), step + neighbours * whole_cells(margin))
    spans = []
    for start in range(0, extent, step):
        low = min(max(0, start - whole_cells(margin)), whole_cells(extent) - size)
        core = start, min(start + step, extent)
        spans.append(Span(core, (low, min(low + size, extent))))
    return spans


def ahead(work: Callable[[Item], Result], items: Iterable[Item], count: int) -> Iterator[Result]:
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
    waiting: deque[Future[Result]] = deque()
    done: list[Result] = []
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


def _extent(axis: csr_array) -> tuple[int, int]:
    """First and last source pixel (excluded) that these weights take from."""
    return int(axis.indices.min()), int(axis.indices.max()) + 1
