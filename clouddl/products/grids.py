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


def weighted_mean(
    values: np.ndarray,
    valid: np.ndarray,
    down: "csr_array",
    across: "csr_array",
) -> tuple[np.ndarray, np.ndarray]:
    """Resample an image, leaving out what is not valid.

    Rows come first: less work where they get fewer. Where they get more, give the image and the
    axes transposed.

    Args:
        values: The image (y, x).
        valid: Where it holds a value (y, x).
        down: `weights` of the rows (target y, y).
        across: `weights` of the columns (target x, x).

    Returns:
        Mean of the valid values (target y, target x) float32, NaN where there are none; and the
        fraction of each target pixel that is valid.
    """

    def resampled(image: np.ndarray) -> np.ndarray:
        return (across @ (down @ image).T).T

    if valid.all():  # the weights of a pixel add up to 1
        mean = resampled(values).astype(np.float32, copy=False)
        return mean, np.ones(mean.shape)
    total = resampled(np.where(valid, values, 0).astype(np.float32, copy=False))
    fraction = resampled(valid.astype(np.float32))
    mean = np.full(total.shape, np.nan, np.float32)
    np.divide(total, fraction, out=mean, where=fraction > 1e-6, casting="same_kind")
    return mean, fraction


def sources(axis: "csr_array") -> slice:
    """Find the source pixels that weights take from.

    Args:
        axis: `weights`, or a part of their targets.

    Returns:
        From the first of these pixels to the last.
    """
    return slice(int(axis.indices.min()), int(axis.indices.max()) + 1)
