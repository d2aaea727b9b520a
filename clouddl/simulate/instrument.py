"""The instrument: blur, misregistration, calibration, noise and quantisation of each band."""

import zlib

import numpy as np
from scipy import ndimage

from clouddl.sensors import Band, Sensor, middle


def observe(
    toa: np.ndarray, sensor: Sensor, resolution: float, seed: tuple[int, int]
) -> np.ndarray:
    """What the sensor makes of the light that reaches it.

    Args:
        toa: Reflectance (band, y, x) at the top of the atmosphere.
        sensor: The sensor, its bands in the order of `toa`.
        resolution: Metres per pixel.
        seed: Seed of the noise.

    Returns:
        Reflectance (band, y, x) as measured, in steps of 1/2500.
    """
    measured = np.empty_like(toa)
    for index, band in enumerate(sensor.bands):
        name = str(band.common)
        # Every instrument is off by a little, always in the same way; str hashes are not stable.
        bias = np.random.default_rng(zlib.crc32(f"{sensor.id}/{name}".encode()))
        gain, offset, *shift = bias.uniform([0.97, -0.003, -3, -3], [1.03, 0.003, 3, 3])
        noise = np.random.default_rng([*seed, zlib.crc32(name.encode())])
        image = _blurred(toa[index], band, resolution)
        image = ndimage.shift(image, np.divide(shift, resolution), order=1, mode="nearest")
        grain = _noise_deviation(image, band, resolution) * noise.standard_normal(image.shape)
        measured[index] = np.round((gain * image + offset + grain) * 2500) / 2500
    return np.clip(measured, 0, 1.6)


def _blurred(image: np.ndarray, band: Band, resolution: float) -> np.ndarray:
    """An image (y, x) blurred by a Gaussian with the band's MTF at its own Nyquist frequency."""
    mtf = middle(band.mtf or 0.2)
    sigma = np.sqrt(-2 * np.log(mtf)) / np.pi * (middle(band.gsd_m) / resolution)
    return ndimage.gaussian_filter(image, sigma, mode="nearest")


def _noise_deviation(image: np.ndarray, band: Band, resolution: float) -> np.ndarray:
    """Standard deviation (y, x) of the noise in reflectance."""
    # Averaging the band's own pixels to larger ones of the scene lowers the noise.
    averaged = min(1.0, middle(band.gsd_m) / resolution)
    return (0.001 + image / middle(band.snr or 150.0)) * averaged
