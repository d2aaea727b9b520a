"""Fractal noise: the shapes of terrain, of land cover and of clouds."""

import numpy as np
from numpy.random import Generator


def noise(
    rng: Generator,
    size: int,
    slope: float,
    outer: float = np.inf,
    wind: float | None = None,
) -> np.ndarray:
    """Periodic noise with a power-law spectrum (Lovejoy and Schertzer 2013).

    Args:
        rng: Source of randomness.
        size: Pixels along each side.
        slope: The power spectrum falls as k**-slope, k being the wavenumber.
        outer: Outer scale in pixels, above which the spectrum is flat.
        wind: Direction in radians along which shapes are stretched five times; None: round.

    Returns:
        Noise (y, x) of mean 0 and standard deviation 1.
    """
    rows, columns = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    k = np.hypot(rows, columns)
    if wind is not None:
        along = np.cos(wind) * rows + np.sin(wind) * columns
        k = np.hypot(k, 5 * along) / np.sqrt(5)
    gain = np.maximum(k, max(1 / size, 1 / outer)) ** (-slope / 2)
    gain[0, 0] = 0
    white = rng.standard_normal((size, size))
    field = np.fft.irfft2(np.fft.rfft2(white) * gain, s=(size, size))
    return field / field.std()
