"""Sunlight: the position of the sun, slopes, shadows of terrain, and layers upon layers."""

from dataclasses import dataclass

import numpy as np
from scipy import ndimage


@dataclass(frozen=True)
class Sun:
    """Where the sun stands: azimuth clockwise from north and elevation, in radians."""

    azimuth: float
    elevation: float

    @property
    def mu(self) -> float:
        """Cosine of the zenith angle."""
        return np.sin(self.elevation)


def incidence(height: np.ndarray, sun: Sun) -> np.ndarray:
    """Cosine of the angle between the sun and the normal of a surface, 0 where it faces away.

    Args:
        height: Height (y, x) of the surface, in pixels.
        sun: Position of the sun.

    Returns:
        The cosine (y, x).
    """
    south, east = np.gradient(height)
    towards = np.cos(sun.azimuth) * south - np.sin(sun.azimuth) * east
    facing = np.maximum(np.sin(sun.elevation) + np.cos(sun.elevation) * towards, 0)
    return facing / np.sqrt(1 + south**2 + east**2)


def terrain_shadow(elevation: np.ndarray, sun: Sun, resolution: float) -> np.ndarray:
    """Where terrain stands between a pixel and the sun.

    Args:
        elevation: Elevation (y, x) in metres.
        sun: Position of the sun.
        resolution: Metres per pixel.

    Returns:
        True in shadow (y, x).
    """
    shadow = np.zeros(elevation.shape, bool)
    rise = resolution * np.tan(sun.elevation)  # of a sunbeam over one pixel, in metres
    reach = int(min(len(elevation) / 2, np.ptp(elevation) / rise + 1))
    for step in range(1, reach):
        # The sun stands in direction (-cos, sin) of (row, column): bring what is there to here.
        shift = np.cos(sun.azimuth) * step, -np.sin(sun.azimuth) * step
        towards = ndimage.shift(elevation, shift, order=0, mode="nearest")
        shadow |= towards > elevation + step * rise
    return shadow


def add_layer(
    below: np.ndarray, reflected: np.ndarray, transmitted: np.ndarray, sphere: np.ndarray
) -> np.ndarray:
    """Put a layer of air or cloud on what lies below (adding method, Petty 2006, ch. 13).

    Args:
        below: Reflectance (…, y, x) of what lies below.
        reflected: Reflectance of the layer itself.
        transmitted: Its transmission, down and up.
        sphere: Its reflectance of diffuse light from below.

    Returns:
        Reflectance (…, y, x) above the layer.
    """
    return reflected + transmitted * below / (1 - sphere * below)
