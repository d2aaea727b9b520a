"""From one grid to another: area means to a coarser one, linear to a finer one.

The whole package resamples by this module. One axis is resampled by a sparse matrix (`weights`);
an image by one matrix for its rows and one for its columns.
"""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def weights(size: int, target: int) -> "csr_array":
    """Make the matrix that brings one axis to a new size.

    Coarser: the part of each source pixel inside the target pixel, exact for any factor.
    Finer: linear between pixel centres, constant beyond the outermost.

    Args:
        size: Pixels of the axis.
        target: Pixels it is to have.

    Returns:
        Weights (target, size); rows add up to 1.
    """
    from scipy.sparse import csr_array  # late: an image on the network's grid needs none

    if target >= size:
        centres = (np.arange(target) + 0.5) * size / target - 0.5
        centres = np.clip(centres, 0, size - 1)
        left = centres.astype(int)
        right = np.minimum(left + 1, size - 1)
        right_weight = centres - left
        rows = np.tile(np.arange(target), 2)
        columns = np.concatenate([left, right])
        values = np.concatenate([1 - right_weight, right_weight])
    else:  # cut the axis at every edge of either grid: each piece lies in one pixel of both
        edges = np.union1d(np.arange(size + 1), np.arange(target + 1) * size / target)
        middle = (edges[1:] + edges[:-1]) / 2
        rows = (middle * target / size).astype(int)
        columns = middle.astype(int)
        values = np.diff(edges) * target / size
    return csr_array((values, (rows, columns)), shape=(target, size))


def weighted_sums(
    values: np.ndarray,
    valid: np.ndarray,
    down: "csr_array",
    across: "csr_array",
    strip: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Add up the valid values of an image, or of a part of it, by the weights of both axes.

    Args:
        values: The image (y, x).
        valid: Where it holds a value (y, x).
        down: `weights` of the rows (target y, y), or a part of them.
        across: `weights` of the columns (target x, x), or a part of them.
        strip: Whether this is a strip of many columns: resample the columns first if they get
            fewer, which needs less memory and may round the last bit otherwise.

    Returns:
        Weighted sum of the values and sum of their weights (target y, target x).
    """
    columns_first = strip and across.shape[0] < across.shape[1]

    def resampled(image: np.ndarray) -> np.ndarray:
        if columns_first:
            return down @ (across @ image.T).T
        return (across @ (down @ image).T).T

    filled = np.where(valid, values, 0).astype(np.float32, copy=False)
    return resampled(filled), resampled(valid.astype(np.float32))


def mean_of_sums(total: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Divide what `weighted_sums` gives.

    Args:
        total: Weighted sum of values, of any shape.
        weight: Sum of their weights, of the same shape.

    Returns:
        Mean (float32), NaN where nothing valid was added up.
    """
    mean = np.full(total.shape, np.nan, np.float32)
    return np.divide(total, weight, out=mean, where=weight > 1e-6, casting="same_kind")


def weighted_mean(
    values: np.ndarray,
    valid: np.ndarray,
    down: "csr_array",
    across: "csr_array",
    strip: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Resample an image, leaving out what is not valid.

    Args:
        values: The image (y, x).
        valid: Where it holds a value (y, x).
        down: `weights` of the rows.
        across: `weights` of the columns.
        strip: As for `weighted_sums`.

    Returns:
        Mean of the valid values (y, x) float32, NaN where there are none; and the fraction of
        each target pixel that is valid.
    """
    total, weight = weighted_sums(values, valid, down, across, strip)
    return mean_of_sums(total, weight), weight
