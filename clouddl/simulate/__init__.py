"""Scenes simulated by physics from a seed: ground, air, clouds and instrument, with exact truth.

Fractal noise (power-law spectra, Lovejoy and Schertzer 2013) makes terrain, cover and optical
depth; surfaces have measured or simulated spectra; air and clouds are layers of two-stream
reflectance and transmission, laid on each other by the adding method (Petty 2006, ch. 13); the
sensor's responses bring it to bands. `notebooks/09_drawn_scenes` shows how far to believe them.
"""

import zlib
from dataclasses import dataclass

import numpy as np
import rioxarray  # noqa: F401  registers the .rio accessor
import xarray as xr
from scipy import ndimage

from clouddl.errors import InputError
from clouddl.sensors import Sensor, get_sensor, middle
from clouddl.simulate.spectra import GRID, air, surfaces, through

#: A pixel is cloud where the optical depth (water and ice cloud together) is above this.
CLOUD_OPTICAL_DEPTH = 0.8


CLOUDS = ("cumulus", "stratus", "deep", "cirrus", "contrails", "fog")


VAPOUR_SCALE_M, AEROSOL_SCALE_M, AIR_SCALE_M = 2000.0, 1500.0, 8000.0  # heights of fall by e


ICE_HEIGHT_M = 9000.0


ASYMMETRY = {"water": 0.85, "ice": 0.77}  # of scattering by drops and by crystals


@dataclass(frozen=True)
class Landscape:
    """What a surface is made of: metres of relief, shares of water and snow, weights of covers.

    `dusted`: the most snow that lies among and under its plants, as a share of what is seen; they
    stand dark in it, for the sun is low.
    """

    relief: float
    base: float
    water: float
    snow: float
    covers: dict[str, float]
    dusted: float = 0.0


LANDSCAPES = {
    "mixed": Landscape(320, 700, 0.08, 0.0, {"canopy": 4, "soil": 2, "litter": 1, "road": 0.4}),
    "forest": Landscape(220, 600, 0.03, 0.0, {"canopy": 12, "litter": 1}),
    "crops": Landscape(35, 150, 0.02, 0.0, {"canopy": 4, "litter": 2, "soil": 3}),
    "barren": Landscape(260, 900, 0.0, 0.0, {"soil": 6, "sand": 1, "litter": 0.6}),
    "sand": Landscape(60, 350, 0.0, 0.0, {"sand": 6, "soil": 3}),
    "rock": Landscape(320, 900, 0.0, 0.0, {"road": 3, "soil": 4, "roof": 0.6}),
    "urban": Landscape(30, 80, 0.04, 0.0, {"road": 5, "roof": 4, "canopy": 2, "soil": 0.6}),
    "water": Landscape(60, 40, 0.72, 0.0, {"canopy": 2, "sand": 1, "soil": 1}),
    "snow": Landscape(420, 1900, 0.01, 0.6, {"canopy": 2, "soil": 2, "litter": 1, "char": 0.2}),
    "mountain": Landscape(700, 1500, 0.02, 0.2, {"canopy": 4, "soil": 2, "litter": 1}),
    "steppe": Landscape(160, 700, 0.01, 0.0, {"soil": 4, "litter": 3, "canopy": 0.6}),
    "taiga": Landscape(220, 300, 0.05, 0.0, {"canopy": 5, "litter": 3}, dusted=0.5),
    "tundra": Landscape(260, 300, 0.03, 0.0, {"snow": 3, "soil": 3, "litter": 1}),
}


def simulate_scene(
    sensor: Sensor | str,
    *,
    seed: int,
    size: int = 256,
    resolution: float = 30.0,
    surface: str = "mixed",
    cloud_fraction: float = 0.2,
    clouds: str | None = None,
    weather: int = 0,
) -> xr.Dataset:
    """Draw one scene of `size` x `size` pixels of `resolution` metres as the sensor would see it.

    The ground depends on `seed` and `surface` (a key of `LANDSCAPES`), sun, air and clouds on
    `seed` and `weather`: other weathers of one seed are a time series of one place. `clouds` names
    the low ones (one of `CLOUDS`; None: simulated); `cloud_fraction` is the share of cloudy pixels
    aimed at. Nothing but the last step, the instrument, depends on the sensor. An open card is
    taken at the middle of its ranges. Thermal bands, which hold no reflectance, are left out.

    Returns `reflectance` (band, y, x) at the top of the atmosphere, `optical_depth` (y, x) of
    cloud at 0.55 µm, `mask` (y, x), 1 where it is above `CLOUD_OPTICAL_DEPTH`, and `elevation`
    (y, x) in metres. Raises InputError for an argument out of range or a band outside 0.4-2.45 µm.
    """
    sensor = (get_sensor(sensor) if isinstance(sensor, str) else sensor).middle()
    names = [str(band.common) for band in sensor.bands if not str(band.common).startswith("lwir")]
    if surface not in LANDSCAPES:
        raise InputError(f"surface {surface!r} is unknown; choose one of {', '.join(LANDSCAPES)}")
    if clouds is not None and clouds not in CLOUDS:
        raise InputError(f"clouds {clouds!r} are unknown; choose one of {', '.join(CLOUDS)}")
    if not 0 <= cloud_fraction <= 1:
        raise InputError(f"cloud_fraction is {cloud_fraction}; give a share from 0 to 1")
    if seed < 0 or weather < 0 or size < 16 or resolution <= 0:
        told = f"{seed=}, {weather=}, {size=}, {resolution=}"
        raise InputError(f"{told}: give seed and weather >= 0, size >= 16, metres > 0")

    ground = np.random.default_rng([seed, 0])
    elevation, cover, spectra = _land(ground, LANDSCAPES[surface], size, resolution)
    rng = np.random.default_rng([seed, 1, weather])
    azimuth, sun = np.radians(rng.uniform(110, 170)), np.radians(rng.uniform(18, 66))
    depths = _clouds(rng, elevation, resolution, cloud_fraction, clouds)
    rho = np.tensordot(through(sensor, names, spectra).T, cover, 1)

    # The ground under sun and sky: slopes, and shadows of terrain and of clouds.
    sky = _Air(rng, sensor, names, np.sin(sun), elevation.mean())
    lit = _facing(elevation / resolution, azimuth, sun) / np.sin(sun)
    lit = lit * ~_cast(elevation, azimuth, sun, resolution)
    for kind, (depth, height) in depths.items():
        shift = height / np.tan(sun) / resolution
        rows, columns = round(np.cos(azimuth) * shift), round(-np.sin(azimuth) * shift)
        moved = np.roll(depth, (rows, columns), (0, 1))[:size, :size]
        lit = lit * np.exp(-(1 - ASYMMETRY[kind]) * moved / np.sin(sun))
    direct = sky.direct()[:, None, None]
    toa = rho * (direct * lit + 1 - direct)

    # Upwards through air, drops, air, crystals, air.
    below = 0.0
    for kind, (depth, height) in depths.items():
        toa = sky.over(toa, below, height)
        toa = _cloud(toa, kind, depth[:size, :size], rng, sensor, names, np.sin(sun), resolution,
                     azimuth, sun)  # fmt: skip
        below = height
    toa = sky.over(toa, below, np.inf)

    total = np.sum([depth[:size, :size] for depth, _ in depths.values()], axis=0)
    toa = _instrument(toa, sensor, names, resolution, seed, weather)
    steps = resolution * (np.arange(size) + 0.5)
    data = xr.Dataset(coords={"band": names, "y": 4_900_000 - steps, "x": 400_000 + steps})
    data["reflectance"] = ("band", "y", "x"), toa.astype("float32")
    data["optical_depth"] = ("y", "x"), total.astype("float32")
    data["mask"] = ("y", "x"), (total > CLOUD_OPTICAL_DEPTH).astype("uint8")
    data["elevation"] = ("y", "x"), elevation.astype("float32")
    data.attrs = {"scene": f"simulated-{sensor.id}-{surface}-{seed}", "sensor": sensor.id}
    data.attrs |= {"resolution": float(resolution), "level": "toa", "group": "simulated", "role": "train"}
    data.attrs |= {"sun_elevation": float(np.degrees(sun)), "surface": surface}
    return data.rio.write_crs("EPSG:32631")


def _noise(
    rng: np.random.Generator, n: int, slope: float, outer: float = np.inf, wind: float | None = None
) -> np.ndarray:
    """Periodic noise (n, n), mean 0, deviation 1, spectrum k**-slope below `outer` pixels.

    Simulated out five times along the direction `wind` (radians), where that is given.
    """
    rows, columns = np.fft.fftfreq(n)[:, None], np.fft.rfftfreq(n)[None, :]
    k = np.hypot(rows, columns)
    if wind is not None:
        along = np.cos(wind) * rows + np.sin(wind) * columns
        k = np.hypot(k, 5 * along) / np.sqrt(5)
    gain = np.maximum(k, max(1 / n, 1 / outer)) ** (-slope / 2)
    gain[0, 0] = 0
    field = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((n, n))) * gain, s=(n, n))
    return field / field.std()


def _falling(n: int) -> np.ndarray:
    """Odds of n things, the first the likeliest by far."""
    odds = np.exp(-np.arange(n) / (n / 3))
    return odds / odds.sum()


def _land(
    rng: np.random.Generator, kind: Landscape, size: int, resolution: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Elevation (y, x) in metres, share (cover, y, x) of every cover, and spectra (cover, GRID)."""
    extent = (size * resolution / 7680) ** 0.8  # relief is stated for 256 pixels of 30 m
    rough = kind.relief * extent * _noise(rng, 2 * size, 3.9)[:size, :size]
    elevation = np.maximum(kind.base + rough, 0)
    level = np.quantile(elevation, kind.water)
    lake = (elevation <= level) * float(kind.water > 0)
    elevation = np.maximum(elevation, level)
    # Fields and streets: rectangles on a turned grid, each with a draw of its own.
    turn, cell = rng.uniform(0, np.pi / 2), rng.uniform(80, 450) / resolution
    row, col = np.mgrid[:size, :size]
    along, across = (np.cos(turn) * a + np.sin(turn) * b for a, b in ((col, row), (row, -col)))
    lane = np.floor(across / cell).astype(int) % 64
    plot = np.floor((along / cell + 37 * np.sin(lane)) / 1.7).astype(int) % 64
    library, shares, spectra = surfaces(), [], []
    white = rng.choice(library["snow"])
    lean = np.interp(GRID, [0.4, 2.45], [-1, 1])  # redder, or bluer
    for name, weight in kind.covers.items():
        built = name in ("road", "roof") and "canopy" in kind.covers  # else it is bare rock
        patchy = 1.2 if built else rng.choice([0.0, 1.0]) if name != "sand" else 0.0
        for spectrum in rng.choice(library[name], 3):  # three soils, three crops, three roofs
            blend = _noise(rng, size, 1.6 if built else 2.7)
            blend = blend + patchy * rng.standard_normal((64, 64))[lane, plot]
            shares.append(np.exp(3 * (blend / np.hypot(1, patchy) + 0.6 * np.log(weight / 3))))
            # Samples in a laboratory are dry and unshaded: ground in the field is darker. And the
            # library is poor in pale, grey ground (chalk, gypsum, salt): samples are tilted too.
            tilt = np.exp(rng.normal(0, 0.25) * lean) if name in ("soil", "sand") else 1.0
            shade = rng.uniform(0.55, 1.2) if not kind.dusted else rng.uniform(0.25, 0.9)
            snowy = kind.dusted * rng.uniform()
            ground = np.minimum(spectrum * tilt * shade, 0.9)
            spectra.append((1 - snowy) * ground + snowy * white)
    cover = np.stack(shares) / np.sum(shares, axis=0)
    line = np.quantile(elevation, 1 - kind.snow)
    ragged = elevation - line + 0.15 * kind.relief * extent * _noise(rng, size, 1.6)
    snow = 1 / (1 + np.exp(-ragged / (0.06 * kind.relief * extent)))
    snow = snow * float(kind.snow > 0) * (1 - lake)
    cover = np.concatenate([cover * (1 - lake) * (1 - snow), [lake, snow]])
    glint = max(0, rng.normal(0, 0.05))  # sunlight mirrored by waves, alike in every band
    clear = rng.choice(len(library["water"]), p=_falling(len(library["water"])))  # few are muddy
    spectra += [library["water"][clear] + glint, white]
    # Brighter here, darker there, redder or bluer: within one cover too. Snow is smooth.
    texture, tint = _noise(rng, size, 1.2), _noise(rng, size, 2.2)
    rough = 0.13 * (1 - 0.75 * snow)
    both = np.concatenate([cover * (1 + rough * texture), cover * rough * tint])
    flat = np.stack(spectra)
    return elevation, both, np.concatenate([flat, flat * lean])


def _clouds(
    rng: np.random.Generator, elevation: np.ndarray, resolution: float, fraction: float,
    kind: str | None,
) -> dict[str, tuple[np.ndarray, float]]:  # fmt: skip
    """Optical depth (2y, 2x) and height (m) of a layer of drops and one of crystals.

    Twice the scene and periodic, so that clouds outside it cast shadows into it.
    """
    size = len(elevation)
    n = 2 * size
    low, high = np.zeros((n, n)), np.zeros((n, n))
    kind = kind or str(rng.choice(CLOUDS, p=[0.36, 0.17, 0.16, 0.15, 0.06, 0.1]))
    veil = rng.choice([0.0, 0.1, 0.3, 0.6], p=[0.5, 0.2, 0.15, 0.15])
    veil = 1.0 if kind in ("cirrus", "contrails") else veil
    heights = {"fog": 200, "stratus": rng.uniform(500, 1800), "deep": rng.uniform(5000, 8500)}
    height = float(heights.get(kind, rng.uniform(900, 3000)))
    if fraction == 0:
        return {"water": (low, height), "ice": (high, ICE_HEIGHT_M)}

    def depth(field: np.ndarray, share: float, soft: float, most: float) -> np.ndarray:
        # Log-normal: edges fade, cores are thick, to `most`. The scene's quantile sets the share.
        edge = np.quantile(field[:size, :size], np.clip(1 - share, 0, 1))
        free = CLOUD_OPTICAL_DEPTH * np.exp(np.minimum((field - edge) / soft, 20))
        return free / (1 + np.maximum(free - CLOUD_OPTICAL_DEPTH, 0) / most)

    outer = np.exp(rng.uniform(*np.log([1000, 4000] if kind == "cumulus" else [4000, 15000])))
    soft = rng.uniform(0.12, 0.36) * (2 if kind == "stratus" else 1)
    field = _noise(rng, n, rng.uniform(2.8, 3.5), outer / resolution)
    if kind == "fog":  # it fills valleys up to an inversion
        field = np.tile(-elevation / max(elevation.std(), 1), (2, 2)) + 0.25 * field
    if kind == "contrails":
        turn, row, col = rng.uniform(0, np.pi), *np.mgrid[:n, :n]
        away = np.cos(turn) * row + np.sin(turn) * col + 6 * _noise(rng, n, 3.5)
        lines = [
            np.exp(-(((away - rng.uniform(away.min(), away.max())) / (metres / resolution)) ** 2))
            for metres in rng.uniform(90, 500, 14)
        ]
        high = rng.uniform(0.3, 2) * np.max(lines, axis=0) * np.exp(0.4 * field)
    else:
        if veil:  # cirrus is simulated out along the wind
            streaks = _noise(rng, n, 3.2, 9000 / resolution, rng.uniform(0, np.pi))
            high = depth(streaks, fraction * veil, rng.uniform(0.3, 0.8), rng.uniform(1.0, 8.0))
        if kind != "cirrus":
            most = 50 if kind != "fog" else rng.uniform(4, 20)
            low = depth(field, fraction * (1 - veil), soft, most)
    if kind == "deep":  # its top is ice
        return {"water": (np.minimum(low, 3), 1000.0), "ice": (high + low, height)}
    return {"water": (low, height), "ice": (high, ICE_HEIGHT_M)}


class _Air:
    """Molecules, aerosol and gases by band, for one sun and one weather."""

    def __init__(
        self, rng: np.random.Generator, sensor: Sensor, names: list[str], mu: float, level: float
    ) -> None:
        self.mu = mu
        table = air()
        rayleigh = 0.008569 * GRID**-4 * (1 + 0.0113 * GRID**-2)  # Hansen and Travis (1974)
        haze = np.exp(min(rng.normal(np.log(0.12), 0.9), 0.2)) * (GRID / 0.55) ** -rng.uniform(
            0.6, 1.6
        )
        # Absorption as in SPCTRL2 (Bird and Riordan 1986), down to the ground and back up.
        mass, water = 1 / mu + 1, np.exp(rng.normal(np.log(1.5), 0.6))
        damp = table.vapour * water * mass
        dry = (
            table.ozone * 0.3 * mass
            + 1.41 * table.mixed * mass / (1 + 118.3 * table.mixed * mass) ** 0.45
        )
        spectra = np.stack(
            [rayleigh, haze, 0.2385 * damp / (1 + 20.07 * damp) ** 0.45, dry]
        )  # fmt: skip
        self.rayleigh, self.haze, _, _ = through(sensor, names, spectra)
        # Absorption varies within a band: what is averaged is light, not depth.
        vapour, dry = -np.log(through(sensor, names, np.exp(-spectra[2:])).clip(1e-6))
        self.vapour, self.dry = vapour, dry
        self.rayleigh = self.rayleigh * np.exp(-level / AIR_SCALE_M)
        self.vapour = self.vapour * np.exp(-level / VAPOUR_SCALE_M)

    def direct(self) -> np.ndarray:
        """Share (band) of the light on the ground that comes straight from the sun."""
        lost = 0.5 * self.rayleigh + 0.12 * self.haze
        return np.exp((lost - self.rayleigh - self.haze) / self.mu)

    def over(self, rho: np.ndarray, bottom: float, top: float) -> np.ndarray:
        """Reflectance (band, y, x) above a layer of air from `bottom` to `top` metres."""

        def share(scale: float) -> float:
            return float(np.exp(-bottom / scale) - np.exp(-top / scale))

        molecules, haze = self.rayleigh * share(AIR_SCALE_M), self.haze * share(AEROSOL_SCALE_M)
        gas = self.vapour * share(VAPOUR_SCALE_M) + self.dry * share(AIR_SCALE_M)
        angle = 0.75 * (1 + self.mu**2)  # Rayleigh's phase function, seen from above
        path = (angle * molecules + 0.25 * haze) / (4 * self.mu)
        back = 0.5 * molecules + 0.12 * haze  # half of Rayleigh's scattering goes back
        through_ = np.exp(-back * (1 / self.mu + 1) - gas)
        shape = (len(rho), 1, 1)
        path, through_, sphere = (v.reshape(shape) for v in (path, through_, back / (1 + back)))
        return path * np.exp(-gas.reshape(shape) / 2) + through_ * rho / (1 - sphere * rho)


def _cloud(
    rho: np.ndarray, kind: str, depth: np.ndarray, rng: np.random.Generator, sensor: Sensor,
    names: list[str], mu: float, resolution: float, azimuth: float, sun: float,
) -> np.ndarray:  # fmt: skip
    """Reflectance (band, y, x) above a cloud of optical depth (y, x) over a ground `rho`."""
    # Effective radius in µm: drops are alike, crystals grow from cirrus to anvils.
    radius = np.exp(rng.uniform(*np.log([6, 16] if kind == "water" else [15, 120])))
    if not depth.any():
        return rho
    absorption = air()[f"{kind}_per_um"].to_numpy()
    lost = through(sensor, names, 0.5 * (1 - np.exp(-1.7 * absorption * radius)))
    bulge = 90 / resolution * np.log1p(depth)  # towers: the sunny side is brighter
    relief = np.clip(_facing(bulge, azimuth, sun) / np.sin(sun), 0.75, 1.12)
    out = np.empty_like(rho)
    for band, co_albedo in enumerate(lost):
        beam, passed = _two_stream(depth * 0.5 / mu, ASYMMETRY[kind], co_albedo)
        sphere, up = _two_stream(depth, ASYMMETRY[kind], co_albedo)
        under = np.minimum(rho[band], 0.95)  # a sunlit slope of snow can be above 1
        out[band] = beam * relief + passed * up * under / (1 - sphere * under)
    return out


def _two_stream(depth: np.ndarray, g: float, lost: float) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance and transmission of a cloud (Petty 2006, eq. 13.65 and 13.66); `lost` = 1 - ω."""
    lost = max(lost, 1e-6)
    omega = 1 - lost
    a, b = np.sqrt(1 - omega * g), np.sqrt(lost)
    deep = (a - b) / (a + b)
    fall = np.exp(-2 * a * b * depth)
    below = 1 - deep**2 * fall**2
    return deep * (1 - fall**2) / below, (1 - deep**2) * fall / below


def _cast(height: np.ndarray, azimuth: float, sun: float, resolution: float) -> np.ndarray:
    """Where terrain (y, x) in metres stands between a pixel and the sun."""
    shadow = np.zeros(height.shape, bool)
    rise = resolution * np.tan(sun)
    reach = int(min(len(height) / 2, np.ptp(height) / rise + 1))
    for step in range(1, reach):
        # The sun stands in direction (-cos, sin) of (row, column): bring what is there to here.
        towards = ndimage.shift(
            height, (np.cos(azimuth) * step, -np.sin(azimuth) * step), order=0, mode="nearest"
        )
        shadow |= towards > height + step * rise
    return shadow


def _facing(height: np.ndarray, azimuth: float, sun: float) -> np.ndarray:
    """Cosine of the angle between the sun and the normal of a surface (y, x) given in pixels."""
    south, east = np.gradient(height)
    towards = np.cos(azimuth) * south - np.sin(azimuth) * east
    return np.maximum(np.sin(sun) + np.cos(sun) * towards, 0) / np.sqrt(1 + south**2 + east**2)


def _instrument(
    toa: np.ndarray, sensor: Sensor, names: list[str], resolution: float, seed: int, weather: int
) -> np.ndarray:
    """What the camera makes of it: blur, misregistration, calibration, noise, steps of 12 bits."""
    out = np.empty_like(toa)
    for index, name in enumerate(names):
        band = sensor.band(name)
        # Every instrument is off by a little, always in the same way; str hashes are not stable.
        own = np.random.default_rng(zlib.crc32(f"{sensor.id}/{name}".encode()))
        gain, offset, rows, columns = own.uniform([0.97, -0.003, -3, -3], [1.03, 0.003, 3, 3])
        # A Gaussian whose transfer at the Nyquist frequency of the band's own pixels is its MTF.
        mtf = middle(band.mtf or 0.2)
        own_pixel = middle(band.gsd_m) / resolution
        blur = np.sqrt(-2 * np.log(mtf)) / np.pi * own_pixel
        seen = ndimage.gaussian_filter(toa[index], blur, mode="nearest")
        seen = ndimage.shift(seen, (rows / resolution, columns / resolution), order=1,
                             mode="nearest")  # fmt: skip
        noise = np.random.default_rng([seed, weather, zlib.crc32(name.encode())])
        ratio = middle(band.snr or 150.0)
        # Averaging pixels of the band's own size to the scene's lowers the noise.
        spread = (0.001 + seen / ratio) * min(1.0, own_pixel)
        seen = gain * seen + offset + spread * noise.standard_normal(seen.shape)
        out[index] = np.round(seen * 2500) / 2500
    return np.clip(out, 0, 1.6)


def simulate_set(
    sensor: Sensor | str,
    count: int,
    *,
    seed: int = 0,
    size: int = 128,
    resolution: float = 30.0,
    role: str = "reference",
    days: int = 1,
) -> dict[str, xr.Dataset]:
    """`count` simulated places in turn of every landscape and share of cloud, by scene id.

    Places of one `seed` are the same for every sensor. `days` draws each place in that many
    weathers, one after the other (ids end in the number of the day); a place is one split group.
    """
    shares = (0.2, 0.0, 0.5, 0.1, 0.35, 0.7)
    found = {}
    for number in range(count):
        surface = list(LANDSCAPES)[number % len(LANDSCAPES)]
        place = f"{surface}-{seed + number}"
        for day in range(days):
            share = shares[(number // len(LANDSCAPES) + number + day) % len(shares)]
            name = f"{place}-{day}" if days > 1 else place
            scene = simulate_scene(
                sensor, seed=seed + number, weather=day, surface=surface, cloud_fraction=share,
                size=size, resolution=resolution,
            )  # fmt: skip
            about = {"biome": surface, "collection": "simulated", "sha256": "simulated"}
            found[name] = scene.assign_attrs(about, scene=name, group=place, role=role)
    return found
