"""Scenes simulated by physics from a seed: ground, air, clouds and instrument, with exact truth.

Fractal noise makes terrain, cover and optical depth; surfaces have measured or simulated spectra;
air and clouds are layers of two-stream reflectance and transmission, put on each other by the
adding method (Petty 2006, ch. 13); the sensor's responses bring it to bands. Notebook 12 shows how
far to believe the scenes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import rioxarray  # noqa: F401  registers the .rio accessor
import xarray as xr
from numpy.random import Generator

from clouddl.errors import InputError
from clouddl.labels import CLEAR, CLOUD, NODATA
from clouddl.sensors import Sensor, get_sensor
from clouddl.simulate.atmosphere import simulate_atmosphere
from clouddl.simulate.clouds import (
    CLEAR_OPTICAL_DEPTH,
    CLOUD_OPTICAL_DEPTH,
    CLOUDS,
    CloudLayer,
    effective_radius,
    reflectance_above,
    simulate_clouds,
)
from clouddl.simulate.instrument import observe
from clouddl.simulate.landscape import LANDSCAPES, Ground, simulate_ground
from clouddl.simulate.sunlight import Sun, incidence, terrain_shadow

__all__ = [
    "CLOUDS",
    "CLOUD_OPTICAL_DEPTH",
    "LANDSCAPES",
    "places",
    "simulate_scene",
    "simulate_set",
]

#: Of the places of a set, in turn: wholly clear and wholly cloudy ones are among them.
CLOUD_FRACTIONS = (0.2, 0.0, 0.5, 0.05, 1.0, 0.3, 0.0, 0.8)


def simulate_scene(
    sensor: Sensor | str,
    *,
    seed: int | Sequence[int],
    size: int = 256,
    resolution: float = 30.0,
    surface: str = "mixed",
    cloud_fraction: float = 0.2,
    clouds: str | None = None,
    large_crystals: float = 0.0,
) -> xr.Dataset:
    """Simulate one scene as the sensor would see it.

    The ground depends on the seed of the place and `surface`; sun, air and clouds on that of the
    day too: other days of one place are a time series. Nothing but the last step, the instrument,
    depends on the sensor. The attributes `scene`, `role` and `group` are for the caller to set.

    Args:
        sensor: A card or its id; open figures are taken at the middle of their ranges. Thermal
            bands, which hold no reflectance, are left out.
        seed: Seed of the place, 0 or more, or those of the place and of the day (default 0).
        size: Pixels along each side, 16 or more.
        resolution: Metres per pixel.
        surface: A key of `LANDSCAPES`.
        cloud_fraction: Fraction of cloudy pixels aimed at.
        clouds: Type of the low clouds, one of `CLOUDS`; None: chosen at random.
        large_crystals: Fraction of the scenes whose clouds of ice are given large crystals, beyond
            how often these are measured. A network does not learn from a dozen scenes what is rare,
            so scenes to train on show more of it.

    Returns:
        `reflectance` (band, y, x) at the top of the atmosphere, `optical_depth` (y, x) of cloud at
        0.55 µm, `mask` (y, x) by `CLOUD_OPTICAL_DEPTH` and `CLEAR_OPTICAL_DEPTH`, 255 between them,
        and `elevation` (y, x) in metres.

    Raises:
        InputError: An argument is out of range, or a band outside 0.40-2.45 µm.
    """
    sensor = _reflective(get_sensor(sensor) if isinstance(sensor, str) else sensor)
    if surface not in LANDSCAPES:
        raise InputError(f"surface {surface!r} is unknown; choose one of {', '.join(LANDSCAPES)}")
    if clouds is not None and clouds not in CLOUDS:
        raise InputError(f"clouds {clouds!r} are unknown; choose one of {', '.join(CLOUDS)}")
    if not 0 <= cloud_fraction <= 1:
        raise InputError(f"cloud_fraction is {cloud_fraction}; give a fraction from 0 to 1")
    if not 0 <= large_crystals <= 1:
        raise InputError(f"large_crystals is {large_crystals}; give a fraction from 0 to 1")
    place, day = seed if isinstance(seed, Sequence) else (seed, 0)
    if place < 0 or day < 0 or size < 16 or resolution <= 0:
        values = f"{seed=}, {size=}, {resolution=}"
        raise InputError(f"{values}: give seeds >= 0, size >= 16, metres > 0")

    rng = np.random.default_rng([place, 0])
    ground = simulate_ground(rng, LANDSCAPES[surface], size, resolution)
    rng = np.random.default_rng([place, 1, day])
    azimuth, elevation = np.radians(rng.uniform([110, 18], [170, 66]))
    sun = Sun(azimuth, elevation)
    layers = simulate_clouds(rng, ground.elevation, resolution, cloud_fraction, clouds)
    toa = _top_of_atmosphere(rng, ground, layers, sensor, sun, resolution, large_crystals)
    reflectance = observe(toa, sensor, resolution, (place, day))

    depth = np.sum([layer.in_scene for layer in layers], axis=0)
    mask = np.where(depth > CLOUD_OPTICAL_DEPTH, CLOUD, CLEAR)
    mask[(depth > CLEAR_OPTICAL_DEPTH) & (depth <= CLOUD_OPTICAL_DEPTH)] = NODATA
    steps = resolution * (np.arange(size) + 0.5)
    scene = xr.Dataset(
        data_vars={
            "reflectance": (("band", "y", "x"), reflectance.astype("float32")),
            "optical_depth": (("y", "x"), depth.astype("float32")),
            "mask": (("y", "x"), mask.astype("uint8")),
            "elevation": (("y", "x"), ground.elevation.astype("float32")),
        },
        coords={"band": list(sensor.commons), "y": 4_900_000 - steps, "x": 400_000 + steps},
        attrs={
            "scene": f"simulated-{sensor.id}-{surface}-{place}",
            "sensor": sensor.id,
            "resolution": float(resolution),
            "level": "toa",
            "group": "simulated",
            "role": "train",
            "sun_elevation": float(np.degrees(sun.elevation)),
            "surface": surface,
        },
    )
    return scene.rio.write_crs("EPSG:32631")


def _reflective(sensor: Sensor) -> Sensor:
    """The sensor without its thermal bands, open figures at the middle of their ranges."""
    bands = tuple(b for b in sensor.middle().bands if not b.common.startswith("lwir"))
    return sensor.model_copy(update={"bands": bands})


def _top_of_atmosphere(
    rng: Generator,
    ground: Ground,
    layers: list[CloudLayer],
    sensor: Sensor,
    sun: Sun,
    resolution: float,
    large_crystals: float,
) -> np.ndarray:
    """Reflectance (band, y, x) at the top of the atmosphere, before the instrument."""
    atmosphere = simulate_atmosphere(rng, sensor, sun, ground.elevation.mean())
    # The ground under sun and sky: slopes, and shadows of terrain and of clouds.
    sunlit = incidence(ground.elevation / resolution, sun) / sun.mu
    sunlit = sunlit * ~terrain_shadow(ground.elevation, sun, resolution)
    for layer in layers:
        sunlit = sunlit * layer.sunlight_below(sun, resolution)
    direct = atmosphere.direct()[:, None, None]
    reflectance = ground.reflectance(sensor) * (direct * sunlit + 1 - direct)
    # Upwards through air, drops, air, crystals, air.
    bottom = 0.0
    for layer in layers:
        reflectance = atmosphere.reflectance_above(reflectance, bottom, layer.height)
        radius = effective_radius(rng, layer.phase, large_crystals)
        reflectance = reflectance_above(layer, reflectance, sensor, sun, resolution, radius)
        bottom = layer.height
    return atmosphere.reflectance_above(reflectance, bottom, np.inf)


def places(count: int, seed: int = 0, large_crystals: float = 0.0) -> list[dict[str, Any]]:
    """List places of every landscape and every cloud fraction, in turn.

    Args:
        count: Number of places.
        seed: Seed of the first place; the next ones count up.
        large_crystals: As for `simulate_scene`.

    Returns:
        Arguments of `simulate_scene` for each place: seed, surface, cloud_fraction and
        large_crystals.
    """
    listed = []
    for number in range(count):
        turn, landscape = divmod(number, len(LANDSCAPES))
        fraction = CLOUD_FRACTIONS[(turn + landscape) % len(CLOUD_FRACTIONS)]
        surface = list(LANDSCAPES)[landscape]
        place = {"seed": seed + number, "surface": surface, "cloud_fraction": fraction}
        listed.append(place | {"large_crystals": large_crystals})
    return listed


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
    """Simulate `places`.

    Places of one `seed` are the same for every sensor.

    Args:
        sensor: A card or its id.
        count: Number of places.
        seed: Seed of the first place; the next ones count up.
        size: Pixels along each side.
        resolution: Metres per pixel.
        role: Role of the scenes.
        days: On how many days each place is simulated.

    Returns:
        Scenes by id, those of a place one after the other (ids end in the number of the day). A
        place is one group.
    """
    scenes = {}
    for arguments in places(count, seed):
        surface, fraction = arguments["surface"], arguments["cloud_fraction"]
        number = arguments.pop("seed")
        place = f"{surface}-{number}"
        for day in range(days):
            name = f"{place}-{day}" if days > 1 else place
            turned = CLOUD_FRACTIONS.index(fraction) + day
            arguments["cloud_fraction"] = CLOUD_FRACTIONS[turned % len(CLOUD_FRACTIONS)]
            seeds = number, day
            scene = simulate_scene(
                sensor, seed=seeds, size=size, resolution=resolution, **arguments
            )
            attributes = {"scene": name, "group": place, "role": role, "biome": surface}
            scenes[name] = scene.assign_attrs(
                attributes, collection="simulated", sha256="simulated"
            )
    return scenes
