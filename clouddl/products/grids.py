"""From one grid to another: area means to a coarser one, linear to a finer one."""

import numpy as np
from scipy import sparse


def weights(size: int, target: int) -> sparse.csr_array:
    """Matrix (target, size) that brings one axis to a new size, rows adding up to 1.

    Coarser: the share of each source pixel inside the target pixel, exact for any factor.
    Finer: linear between pixel centres, constant beyond the outermost.
    """
    if target >= size:
        at = np.clip((np.arange(target) + 0.5) * size / target - 0.5, 0, size - 1)
        left = at.astype(int)
        rows = np.tile(np.arange(target), 2)
        columns = np.concatenate([left, np.minimum(left + 1, size - 1)])
        shares = np.concatenate([1 - (at - left), at - left])
    else:  # cut the axis at every edge of either grid: each piece lies in one pixel of both
        cuts = np.union1d(np.arange(size + 1), np.arange(target + 1) * size / target)
        middle, shares = (cuts[1:] + cuts[:-1]) / 2, np.diff(cuts) * target / size
        rows, columns = (middle * target / size).astype(int), middle.astype(int)
    return sparse.csr_array((shares, (rows, columns)), shape=(target, size))


def weighted_mean(
    values: np.ndarray, valid: np.ndarray, down: sparse.csr_array, across: sparse.csr_array
) -> tuple[np.ndarray, np.ndarray]:
    """Means of the `valid` values (y, x) by `weights` of both axes, and how much of each is valid.

    NaN where there is nothing to take a mean of.
    """
    share = (across @ (down @ valid.astype(np.float32)).T).T
    total = (across @ (down @ np.where(valid, values, 0).astype(np.float32)).T).T
    return np.divide(total, share, out=np.full_like(total, np.nan), where=share > 1e-6), share
