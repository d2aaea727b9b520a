"""Methods that pages compare models with, beside models themselves."""

from collections.abc import Sequence

import numpy as np
import xarray as xr

from clouddl.labels import CLOUD, UKIS_BANDS, spectral_tests, ukis_csmask
from clouddl.transfer import Method

PEER_BANDS = UKIS_BANDS[:4]  # blue, green, red, nir: sensors without SWIR have them too


def all_cloud() -> Method:
    """Make the method that calls every pixel cloud: what any other must be better than."""
    return Method((), lambda scene: np.full(scene.reflectance.shape[1:], CLOUD, np.uint8))


def peer_method() -> Method:
    """Make a method of ukis-csmask, the peer that runs on every sensor here."""

    def mask(scene: xr.Dataset) -> np.ndarray:
        bands = scene.band.values.tolist()
        level = scene.attrs["level"]
        return ukis_csmask(scene.reflectance.values, bands, level, len(PEER_BANDS))

    return Method(PEER_BANDS, mask)


def spectral_method(bands: Sequence[str]) -> Method:
    """Make a method of the spectral tests, for `transfer.evaluate`.

    Args:
        bands: Common names of the bands to use.

    Returns:
        The method.
    """
    names = list(bands)
    return Method(tuple(names), lambda scene: spectral_tests(scene.reflectance.sel(band=names)))
