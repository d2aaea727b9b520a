"""Scenes drawn from a seed: the embedded default when there is neither network nor mirror.

A drawn scene is a sketch: fractal noise makes terrain, cover and clouds (power-law spectra as in
Lovejoy & Schertzer 2013); the two-stream formula (Petty 2006, ch. 13) turns optical depth into
reflectance. The truth is exact. The table holds rounded typical values, written by hand. Scores on
drawn scenes show that the study runs and learns; they say nothing about real sensors.
"""

import zlib

import numpy as np
import rioxarray  # noqa: F401  registers the .rio accessor
import xarray as xr

from clouddl.errors import InputError
from clouddl.sensors import Sensor, get_sensor

#: A pixel is cloud where the optical depth (water and ice cloud together) is above this.
CLOUD_OPTICAL_DEPTH = 0.5

Land = tuple[np.ndarray, dict[str, np.ndarray]]
Clouds = tuple[np.ndarray, np.ndarray, float]
VAPOUR_SCALE_M = 2000.0  # height over which water vapour falls by e
ICE_HEIGHT_M = 9000.0

# Reflectances in per mille, one column per common name.
COMMON = ["coastal", "blue", "green", "red", "rededge071", "rededge075", "rededge078", "nir",
          "nir08", "nir09", "cirrus", "swir16", "swir22", "pan"]  # fmt: skip
TABLE = {
    "forest":  (15, 20, 40, 25, 70, 180, 230, 250, 265, 270, 180, 120, 55, 30),
    "crop":    (30, 40, 80, 50, 110, 280, 360, 380, 395, 400, 260, 200, 100, 60),
    "stubble": (60, 75, 105, 125, 170, 220, 250, 270, 290, 300, 330, 320, 220, 110),
    "soil":    (70, 90, 125, 170, 200, 220, 230, 250, 270, 280, 320, 340, 280, 140),
    "sand":    (130, 175, 265, 360, 395, 415, 430, 450, 460, 470, 500, 520, 480, 300),
    "asphalt": (85, 95, 110, 120, 130, 140, 145, 155, 160, 165, 180, 185, 165, 115),
    "roof":    (280, 310, 340, 360, 370, 380, 385, 390, 390, 390, 370, 350, 310, 345),
    "water":   (40, 42, 38, 20, 13, 10, 9, 8, 6, 5, 2, 2, 1, 30),
    "snow":    (840, 850, 850, 840, 830, 820, 800, 780, 740, 690, 300, 100, 70, 845),
    # cloud: share left by absorption in droplets and in ice crystals
    "droplets": (1000, 1000, 1000, 1000, 990, 990, 990, 980, 970, 960, 850, 800, 650, 1000),
    "crystals": (1060, 1040, 1000, 980, 970, 960, 960, 950, 940, 930, 700, 400, 250, 1000),
    # air: path reflectance, diffuse share of light, optical depth of vapour to sea level
    "path":    (110, 75, 40, 22, 17, 14, 12, 9, 7, 6, 2, 1, 0, 32),
    "diffuse": (480, 400, 300, 230, 210, 190, 180, 160, 150, 140, 100, 90, 70, 260),
    "vapour":  (0, 0, 10, 20, 60, 60, 40, 40, 20, 1000, 6000, 40, 60, 20),
}  # fmt: skip

# What a surface is made of: relief (deviation, m), base (m), share of water, of snow, cover weights
Landscape = tuple[float, float, float, float, dict[str, float]]
LANDSCAPES: dict[str, Landscape] = {
    "mixed": (320, 700, 0.08, 0.08, {"forest": 3, "crop": 2, "soil": 2, "asphalt": 0.7}),
    "forest": (220, 600, 0.03, 0.0, {"forest": 12, "crop": 1, "stubble": 1}),
    "crops": (35, 150, 0.02, 0.0, {"crop": 4, "stubble": 3, "soil": 2, "forest": 1}),
    "barren": (260, 900, 0.0, 0.0, {"soil": 4, "sand": 2, "stubble": 1}),
    "sand": (60, 350, 0.0, 0.0, {"sand": 8, "soil": 1}),
    "urban": (30, 80, 0.04, 0.0, {"asphalt": 8, "crop": 1, "forest": 1}),
    "water": (60, 40, 0.72, 0.0, {"forest": 2, "sand": 1, "soil": 1}),
    "snow": (420, 1900, 0.01, 0.6, {"forest": 2, "soil": 2, "stubble": 1}),
}


def draw_scene(
    sensor: Sensor | str,
    *,
    seed: int,
    size: int = 256,
    resolution: float = 30.0,
    surface: str = "mixed",
    cloud_fraction: float = 0.2,
    scene: str | None = None,
    role: str = "train",
    group: str = "drawn",
) -> xr.Dataset:
    """Draw one scene of `size` x `size` pixels of `resolution` metres as the sensor would see it.

    Landscape and clouds depend on `seed`, `surface` (a key of `LANDSCAPES`) and `cloud_fraction`
    (0 to 1) alone, not on the sensor. Thermal bands, which hold no reflectance, are left out.
    Returns `reflectance` (band, y, x) at the top of the atmosphere, `mask` (y, x), 1 where the
    optical depth is above `CLOUD_OPTICAL_DEPTH`, and `elevation` (y, x) in metres.
    Raises InputError for an argument out of range or a band without a column in `TABLE`.
    """
    sensor = get_sensor(sensor) if isinstance(sensor, str) else sensor
    names = [str(band.common) for band in sensor.bands if not str(band.common).startswith("lwir")]
    if surface not in LANDSCAPES:
        raise InputError(f"surface {surface!r} is unknown; choose one of {', '.join(LANDSCAPES)}")
    if not 0 <= cloud_fraction <= 1:
        raise InputError(f"cloud_fraction is {cloud_fraction}; give a share from 0 to 1")
    if seed < 0 or size < 16 or resolution <= 0:
        raise InputError(f"{seed=}, {size=}, {resolution=}: give seed >= 0, size >= 16, metres > 0")
    if unknown := set(names) - set(COMMON):
        raise InputError(f"sensor {sensor.id}: bands {sorted(unknown)} cannot be drawn; drop them")
    column = [COMMON.index(name) for name in names]
    table = {k: np.array(v)[column][:, None, None] / 1000 for k, v in TABLE.items()}

    rng = np.random.default_rng(seed)
    azimuth, sun = np.radians(rng.uniform(110, 170)), np.radians(rng.uniform(32, 62))
    elevation, cover = _land(rng, LANDSCAPES[surface], size, resolution)
    texture, tint = (_noise(rng, size, slope) for slope in (1.2, 2.2))
    droplets, crystals, height = _clouds(rng, size, resolution, cloud_fraction)

    ground = np.sum([share * table[name] for name, share in cover.items()], axis=0)
    lean = np.linspace(-1, 1, len(COMMON))[column][:, None, None]  # redder here, bluer there
    smooth = 1 - 0.75 * cover["snow"]
    ground = ground * np.exp(smooth * (0.13 * texture + 0.12 * tint * lean))

    # Sunlight on slopes and in the shadows of clouds; the diffuse part reaches every pixel.
    lit = _facing(elevation / resolution, azimuth, sun) / np.sin(sun)
    for depth, level in ((droplets, height), (crystals, ICE_HEIGHT_M)):
        shift = level / np.tan(sun) / resolution
        rows, columns = round(np.cos(azimuth) * shift), round(-np.sin(azimuth) * shift)
        moved = np.roll(depth, (rows, columns), (0, 1))[:size, :size]
        lit = lit * (1 - _albedo(moved)) ** 2  # squared: the direct beam dims faster than the sky
    toa = ground * (table["diffuse"] + (1 - table["diffuse"]) * lit)

    # Upwards through vapour, droplets, crystals and air.
    toa = toa * np.exp(-table["vapour"] * np.exp(-elevation / VAPOUR_SCALE_M))
    water, ice = droplets[:size, :size], crystals[:size, :size]
    bulge = 90 / resolution * np.log1p(water)  # towers: the sunny side is brighter
    relief = np.clip(_facing(bulge, azimuth, sun) / np.sin(sun), 0.75, 1.1)
    for depth, level, tone in ((water, height, "droplets"), (ice, ICE_HEIGHT_M, "crystals")):
        bright = table[tone] * np.exp(-table["vapour"] * np.exp(-level / VAPOUR_SCALE_M))
        toa = _albedo(depth) * relief * bright + toa * (1 - _albedo(depth))
    toa = table["path"] + (1 - 1.5 * table["path"]) * toa

    for index, name in enumerate(names):
        # Every instrument is off by a little, always in the same way; str hashes are not stable.
        own = np.random.default_rng(zlib.crc32(f"{sensor.id}/{name}".encode()))
        toa[index] = own.uniform(0.95, 1.05) * toa[index] + own.uniform(-0.004, 0.004)
        speckle = np.random.default_rng([seed, zlib.crc32(name.encode())])
        toa[index] += (0.002 + 0.006 * toa[index]) * speckle.standard_normal((size, size))

    steps = resolution * (np.arange(size) + 0.5)
    data = xr.Dataset(coords={"band": names, "y": 4_900_000 - steps, "x": 400_000 + steps})
    data["reflectance"] = ("band", "y", "x"), np.clip(toa, 0, 1.6).astype("float32")
    data["mask"] = ("y", "x"), (water + ice > CLOUD_OPTICAL_DEPTH).astype("uint8")
    data["elevation"] = ("y", "x"), elevation.astype("float32")
    data.attrs = {"scene": scene or f"drawn-{sensor.id}-{surface}-{seed}", "sensor": sensor.id}
    data.attrs |= {"resolution": float(resolution), "level": "toa", "group": group, "role": role}
    return data.rio.write_crs("EPSG:32631")


def _noise(rng: np.random.Generator, n: int, slope: float, outer: float = np.inf) -> np.ndarray:
    """Periodic noise (n, n), mean 0, deviation 1, spectrum k**-slope below `outer` pixels."""
    k = np.hypot(np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None, :])
    gain = np.maximum(k, max(1 / n, 1 / outer)) ** (-slope / 2)
    gain[0, 0] = 0
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * gain, s=(n, n))
    return field / field.std()


def _land(rng: np.random.Generator, kind: Landscape, size: int, resolution: float) -> Land:
    """Elevation (y, x) in metres and the share (y, x) of every cover, which add up to 1."""
    relief, base, water, snowy, weights = kind
    extent = (size * resolution / 7680) ** 0.8  # relief is stated for 256 pixels of 30 m
    rough = relief * extent * _noise(rng, 2 * size, 3.9)[:size, :size]
    elevation = np.maximum(base + rough, 0)
    level = np.quantile(elevation, water)
    lake = (elevation <= level) * float(water > 0)
    elevation = np.maximum(elevation, level)
    # Fields and streets: rectangles on a turned grid, each with a draw of its own.
    turn, cell = rng.uniform(0, np.pi / 2), rng.uniform(250, 450) / resolution
    row, col = np.mgrid[:size, :size]
    along, across = (np.cos(turn) * a + np.sin(turn) * b for a, b in ((col, row), (row, -col)))
    plots = rng.standard_normal((len(weights), 64, 64))
    lane = np.floor(across / cell).astype(int) % 64
    plot = np.floor((along / cell + 37 * np.sin(lane)) / 1.7).astype(int) % 64
    draws = {}
    for index, (name, weight) in enumerate(weights.items()):
        patchy = 1.0 if name in ("crop", "stubble") else 0.35 if name == "soil" else 0.0
        blend = _noise(rng, size, 2.7) + patchy * plots[index, lane, plot]
        draws[name] = np.exp(4 * (blend / np.hypot(1, patchy) + 0.6 * np.log(weight)))
    total = np.sum(list(draws.values()), axis=0)
    cover = {name: draw / total for name, draw in draws.items()}
    if "asphalt" in cover:  # roofs: bright, small, many
        bright = _noise(rng, size, 0.8) + 0.8 * _noise(rng, size, 2.0)
        cover["roof"] = cover["asphalt"] / (1 + np.exp(-3 * (bright - 1)))
        cover["asphalt"] = cover["asphalt"] - cover["roof"]
    line = np.quantile(elevation, 1 - snowy)
    ragged = elevation - line + 0.15 * relief * _noise(rng, size, 1.6)
    snow = 1 / (1 + np.exp(-ragged / (0.06 * relief))) * float(snowy > 0) * (1 - lake)
    cover = {name: share * (1 - lake) * (1 - snow) for name, share in cover.items()}
    return elevation, cover | {"water": lake, "snow": snow}


def _clouds(rng: np.random.Generator, size: int, resolution: float, fraction: float) -> Clouds:
    """Optical depth (2y, 2x) of droplets and of ice, and the height of the droplets in metres."""
    n = 2 * size  # periodic and twice the scene, so that clouds outside cast shadows into it
    height = rng.uniform(900, 2600)
    outer = np.exp(rng.uniform(np.log(1500), np.log(9000))) / resolution  # cumulus to stratus
    soft, veil = rng.uniform(0.18, 0.36), rng.choice([0.0, 0.1, 0.3, 0.7], p=[0.4, 0.2, 0.2, 0.2])
    low = _noise(rng, n, 3.3, outer)
    high = _noise(rng, n, 3.2, 9000 / resolution)  # next line: cirrus is drawn out along the wind
    high = np.sum([np.roll(high, (step, 2 * step), (0, 1)) for step in range(0, 24, 2)], axis=0)
    if fraction == 0:
        return np.zeros((n, n)), np.zeros((n, n)), height
    # Log-normal optical depth: edges fade, cores are thick. The scene's own quantile sets the share
    window = low[:size, :size]
    edge = np.quantile(window, 1 - fraction * (1 - veil))
    droplets = CLOUD_OPTICAL_DEPTH * np.exp(np.minimum((low - edge) / soft, 4.6))
    crystals = np.zeros((n, n))
    if veil:
        free = high[:size, :size][window <= edge]
        rim = np.quantile(free, max(0, 1 - fraction * veil / (1 - fraction * (1 - veil))))
        crystals = CLOUD_OPTICAL_DEPTH * np.exp(np.minimum((high - rim) / high.std() / 0.5, 2.0))
    return droplets, crystals, height


def _facing(height: np.ndarray, azimuth: float, sun: float) -> np.ndarray:
    """Cosine of the angle between the sun and the normal of a surface (y, x) given in pixels."""
    south, east = np.gradient(height)
    towards = np.cos(azimuth) * south - np.sin(azimuth) * east
    return np.maximum(np.sin(sun) + np.cos(sun) * towards, 0) / np.sqrt(1 + south**2 + east**2)


def _albedo(depth: np.ndarray) -> np.ndarray:
    """Two-stream albedo of a cloud without absorption, asymmetry 0.85."""
    return 0.15 * depth / (1 + 0.15 * depth)
