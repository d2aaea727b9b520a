"""Clouds: where they are, how thick they are, and what light they send back and let through."""

from dataclasses import dataclass

import numpy as np
from numpy.random import Generator
from scipy import ndimage

from clouddl.sensors import Sensor
from clouddl.simulate.noise import noise
from clouddl.simulate.spectra import air, band_average
from clouddl.simulate.sunlight import Sun, add_layer, incidence

#: A pixel is cloud where the optical depth (water and ice cloud together) is above this, clear
#: where it is below CLEAR_OPTICAL_DEPTH, and not labelled between. Notebook 12 shows where they
#: come from: how often ukis-csmask, which learnt from hand-labelled images, calls them cloud.
CLOUD_OPTICAL_DEPTH = 0.8
CLEAR_OPTICAL_DEPTH = 0.35

#: Types of cloud, and how often each is simulated where none is asked for.
CLOUDS = {
    "cumulus": 0.36,
    "stratus": 0.17,
    "deep": 0.16,
    "cirrus": 0.15,
    "contrails": 0.06,
    "fog": 0.1,
}

#: Types that leave gaps. Above SCATTERED_FRACTION of the sky they close to stratus.
SCATTERED = ("cumulus", "contrails")
SCATTERED_FRACTION = 0.6

#: Median optical depth inside the clouds of a scene, from and to; thin veils are typical of ice.
THICKNESS = {
    "cumulus": (8, 60),
    "stratus": (6, 60),
    "deep": (20, 120),
    "fog": (4, 20),
    "cirrus": (1, 8),
}

#: Light wanders sideways in a cloud before it leaves, and smooths what is smaller (Marshak 1995).
DIFFUSION_M = 80.0

HEIGHTS_M = {"stratus": (500, 1800), "deep": (5000, 8500), "cumulus": (900, 3000)}
FOG_HEIGHT_M, ICE_HEIGHT_M = 200.0, 9000.0

ASYMMETRY = {"water": 0.85, "ice": 0.77}  # of scattering by drops and by crystals

#: Effective radius of drops and of crystals: median in µm and spread (standard deviation of the
#: logarithm). Maps of monthly means end at 40 µm (NASA 2013); single clouds spread further.
RADIUS_UM = {"water": (10, 0.3), "ice": (30, 0.6)}
LARGE_CRYSTALS_UM = (60, 120)  # an eighth of the crystals are larger than 60 µm


@dataclass(frozen=True)
class CloudLayer:
    """A layer of drops (`phase` "water") or crystals ("ice") at a height in metres.

    `optical_depth` at 0.55 µm (2y, 2x) is twice the scene and periodic, so that clouds outside the
    scene cast shadows into it.
    """

    phase: str
    height: float
    optical_depth: np.ndarray

    @property
    def in_scene(self) -> np.ndarray:
        """Optical depth (y, x) over the scene itself."""
        return _crop(self.optical_depth)

    def sunlight_below(self, sun: Sun, resolution: float) -> np.ndarray:
        """Fraction (y, x) of the sunlight that the layer's shadow leaves on the ground.

        Args:
            sun: Position of the sun.
            resolution: Metres per pixel.
        """
        shift = self.height / np.tan(sun.elevation) / resolution
        rows, columns = np.cos(sun.azimuth) * shift, -np.sin(sun.azimuth) * shift
        shadow = _crop(np.roll(self.optical_depth, (round(rows), round(columns)), (0, 1)))
        return np.exp(-(1 - ASYMMETRY[self.phase]) * shadow / sun.mu)


def _crop(field: np.ndarray) -> np.ndarray:
    """The scene (y, x) of a field (2y, 2x)."""
    return field[: len(field) // 2, : len(field) // 2]


def simulate_clouds(
    rng: Generator,
    elevation: np.ndarray,
    resolution: float,
    fraction: float,
    cloud_type: str | None,
) -> list[CloudLayer]:
    """Simulate a layer of drops and one of crystals above it.

    Args:
        rng: Source of randomness.
        elevation: Elevation (y, x) in metres; fog fills valleys.
        resolution: Metres per pixel.
        fraction: Fraction of cloudy pixels aimed at.
        cloud_type: One of `CLOUDS`; None: chosen by how often each occurs.

    Returns:
        The two layers, the lower one first.
    """
    size = 2 * len(elevation)
    cloud_type = cloud_type or _cloud_type(rng, fraction)
    cirrus = rng.choice([0.0, 0.1, 0.3, 0.6], p=[0.5, 0.2, 0.15, 0.15])  # of the cloud fraction
    if cloud_type in ("cirrus", "contrails"):
        cirrus = 1.0
    heights = {name: rng.uniform(*ends) for name, ends in HEIGHTS_M.items()}
    height = heights.get(cloud_type, heights["cumulus"])
    if cloud_type == "fog":
        height = FOG_HEIGHT_M

    low, high = np.zeros((size, size)), np.zeros((size, size))
    if fraction > 0:
        outer = [1000, 4000] if cloud_type == "cumulus" else [4000, 15000]  # metres
        outer = np.exp(rng.uniform(*np.log(outer))) / resolution
        softness = rng.uniform(0.15, 0.6) * (2 if cloud_type == "stratus" else 1)
        field = noise(rng, size, rng.uniform(3, 3.8), outer)
        if cloud_type == "contrails":
            high = _contrails(rng, field, resolution)
        elif cirrus:
            streaks = noise(rng, size, 3.2, 9000 / resolution, wind=rng.uniform(0, np.pi))
            thick = _uneven(rng, size, outer, THICKNESS["cirrus"])
            high = _optical_depth(streaks, fraction * cirrus, rng.uniform(0.3, 0.8), thick)
        if cloud_type == "fog":  # up to an inversion
            valleys = np.tile(-elevation / max(elevation.std(), 1), (2, 2))
            thick = _uneven(rng, size, outer, THICKNESS["fog"])
            low = _optical_depth(valleys + 0.25 * field, fraction * (1 - cirrus), softness, thick)
        elif cloud_type not in ("cirrus", "contrails"):
            thick = _uneven(rng, size, outer, THICKNESS[cloud_type])
            low = _optical_depth(field, fraction * (1 - cirrus), softness, thick)
        if cloud_type == "deep":  # its top is ice
            top = CloudLayer("ice", height, high + low)
            return [CloudLayer("water", 1000.0, np.minimum(low, 3)), top]
    return [CloudLayer("water", height, low), CloudLayer("ice", ICE_HEIGHT_M, high)]


def _cloud_type(rng: Generator, fraction: float) -> str:
    """A type by how often it occurs, for this fraction of the sky."""
    cloud_type = str(rng.choice([*CLOUDS], p=[*CLOUDS.values()]))
    if fraction > SCATTERED_FRACTION and cloud_type in SCATTERED:
        return "stratus"
    return cloud_type


def _uneven(rng: Generator, size: int, outer: float, median: tuple[float, float]) -> np.ndarray:
    """Optical depth (2y, 2x) of the inside of clouds: smooth, log-normal (Cahalan 1994).

    Its median is between the ends of `median`.
    """
    middle = np.exp(rng.uniform(*np.log(median)))
    deviation, slope = rng.uniform(0.3, 0.9), rng.uniform(3.2, 4)
    shape = noise(rng, size, slope, outer * rng.uniform(0.3, 3))
    return middle * np.exp(deviation * shape)


def _optical_depth(
    field: np.ndarray, fraction: float, softness: float, inside: np.ndarray
) -> np.ndarray:
    """Optical depth of a field (2y, 2x): edges fade, and far from them it is that of `inside`.

    `fraction` of the scene's pixels, a quarter of the field, are cloud.
    """
    edge = np.quantile(_crop(field), np.clip(1 - fraction, 0, 1))
    depth = CLOUD_OPTICAL_DEPTH * np.exp(np.minimum((field - edge) / softness, 20))
    return depth / (1 + np.maximum(depth - CLOUD_OPTICAL_DEPTH, 0) / inside)


def _contrails(rng: Generator, field: np.ndarray, resolution: float) -> np.ndarray:
    """Optical depth (2y, 2x) of parallel trails, 90 to 500 m wide, that meander a little."""
    turn = rng.uniform(0, np.pi)
    row, column = np.mgrid[: len(field), : len(field)]
    across = np.cos(turn) * row + np.sin(turn) * column + 6 * noise(rng, len(field), 3.5)
    trails = []
    for width in rng.uniform(90, 500, 14):
        centre = rng.uniform(across.min(), across.max())
        trails.append(np.exp(-(((across - centre) / (width / resolution)) ** 2)))
    return rng.uniform(0.3, 2) * np.max(trails, axis=0) * np.exp(0.4 * field)


def reflectance_above(
    layer: CloudLayer,
    below: np.ndarray,
    sensor: Sensor,
    sun: Sun,
    resolution: float,
    radius: float,
) -> np.ndarray:
    """Reflectance just above a layer of cloud.

    Args:
        layer: The cloud.
        below: Reflectance (band, y, x) of what lies below it.
        sensor: The sensor, for the absorption in its bands.
        sun: Position of the sun.
        resolution: Metres per pixel.
        radius: Effective radius of drops or crystals in µm.

    Returns:
        Reflectance (band, y, x).
    """
    depth = layer.in_scene
    if not depth.any():
        return below
    absorption = air()[f"{layer.phase}_per_um"].to_numpy()
    co_albedo = band_average(sensor, 0.5 * (1 - np.exp(-1.7 * absorption * radius)))
    smooth = ndimage.gaussian_filter(np.log1p(depth), DIFFUSION_M / resolution)
    bulge = 60 / resolution * smooth  # towers: the sunny side is brighter
    relief = np.clip(incidence(bulge, sun) / sun.mu, 0.7, 1.3)
    above = np.empty_like(below)
    for band, lost in enumerate(co_albedo):
        asymmetry = absorbing_asymmetry(ASYMMETRY[layer.phase], lost)
        beam, passed = two_stream(depth * 0.5 / sun.mu, asymmetry, lost)
        beam = beam * high_sun_factor(asymmetry, lost, sun.mu)
        sphere, up = two_stream(depth, asymmetry, lost)
        under = np.minimum(below[band], 0.95)  # a sunlit slope of snow can be above 1
        above[band] = add_layer(under, beam * relief, passed * up, sphere)
    return above


def effective_radius(rng: Generator, phase: str, large_crystals: float) -> float:
    """Draw the effective radius of the drops or crystals of a cloud.

    Args:
        rng: Source of randomness.
        phase: "water" or "ice".
        large_crystals: Fraction of the clouds of ice that are given large ones.

    Returns:
        Radius in µm.
    """
    median, spread = RADIUS_UM[phase]
    radius = median * np.exp(rng.normal(0, spread))
    if phase == "ice" and large_crystals and rng.random() < large_crystals:
        radius = np.exp(rng.uniform(*np.log(LARGE_CRYSTALS_UM)))
    return float(radius)


def absorbing_asymmetry(asymmetry: float, co_albedo: float) -> float:
    """Asymmetry of particles that absorb.

    Half of the light that a particle meets is diffracted, straight on. Absorption takes from the
    other half, which goes through the particle and leaves it in all directions. So the more is
    absorbed, the more of what is left goes forward (van Diedenhoven et al. 2014).

    Args:
        asymmetry: Mean cosine of the scattering angle without absorption.
        co_albedo: Fraction of light absorbed where it is scattered, up to 0.5.

    Returns:
        Mean cosine of the scattering angle.
    """
    refracted = 2 * asymmetry - 1
    return (0.5 + (0.5 - co_albedo) * refracted) / (1 - co_albedo)


def high_sun_factor(asymmetry: float, co_albedo: float, mu: float) -> float:
    """How much darker a thick cloud is under this sun than under one of 30 degrees.

    Light that comes in steeply goes deeper, and more of it is absorbed before it comes back. The
    factor is 1 without absorption (reflectance of a half-space, Hapke 1981, eq. 9 and 13).

    Args:
        asymmetry: Mean cosine of the scattering angle.
        co_albedo: Fraction of light absorbed where it is scattered.
        mu: Cosine of the sun's zenith angle.

    Returns:
        The factor.
    """
    gamma = np.sqrt(co_albedo / (1 - (1 - co_albedo) * asymmetry))
    return (1 + gamma) / (1 + 2 * gamma * mu)


def two_stream(
    depth: np.ndarray, asymmetry: float, co_albedo: float
) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance and transmission of a cloud (Petty 2006, eq. 13.65 and 13.66).

    Args:
        depth: Optical depth (y, x).
        asymmetry: Mean cosine of the scattering angle.
        co_albedo: Fraction of light absorbed where it is scattered, 1 - ω.

    Returns:
        Reflectance and transmission (y, x).
    """
    lost = max(co_albedo, 1e-6)
    omega = 1 - lost
    a, b = np.sqrt(1 - omega * asymmetry), np.sqrt(lost)
    deep = (a - b) / (a + b)
    fall = np.exp(-2 * a * b * depth)
    below = 1 - deep**2 * fall**2
    return deep * (1 - fall**2) / below, (1 - deep**2) * fall / below
