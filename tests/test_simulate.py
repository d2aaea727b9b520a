"""The simulated scenes: form, truth, physics, and the same numbers on every machine."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
import yaml
from scipy import ndimage

from clouddl.errors import InputError
from clouddl.sensors import Band, Sensor, get_sensor
from clouddl.simulate import CLOUD_OPTICAL_DEPTH, CLOUDS, LANDSCAPES, clouds, simulate_scene
from clouddl.simulate.clouds import CLEAR_OPTICAL_DEPTH, LARGE_CRYSTALS_UM, effective_radius
from clouddl.simulate.spectra import GRID, air, band_average, response, surfaces

CATALOGUE = Path(__file__).parents[1] / "data" / "catalogue" / "simulated.yaml"


CENTRES = {"blue": 0.49, "green": 0.56, "red": 0.66, "nir": 0.84, "cirrus": 1.375, "swir16": 1.61}


def toy(
    identifier: str = "toy", names: tuple[str, ...] = tuple(CENTRES), **figures: float
) -> Sensor:
    """A sensor made for this test, so that no card can change the numbers below."""
    bands = tuple(
        Band.model_validate(
            {"common": name, "native": name, "centre_um": CENTRES.get(name, 11.0)}
            | {"width_um": 0.05, "gsd_m": 20}
            | figures
        )
        for name in names
    )
    missing = tuple(n for n in ("blue", "green", "red", "nir", "swir16") if n not in names)
    return Sensor(
        id=identifier, title="Toy", operator="us", launched="", bands=bands, missing=missing,
        sources=("this test",),
    )  # fmt: skip


NUMBERS, CLOUDY = [0.148, 0.108, 0.4396, 0.096, 0.2592], 920


@pytest.mark.parametrize("surface", LANDSCAPES)
@pytest.mark.parametrize("fraction", [0.0, 0.2, 0.6])
def test_form_and_fraction_of_cloud(surface: str, fraction: float) -> None:
    scene = simulate_scene(toy(), seed=3, size=96, surface=surface, cloud_fraction=fraction)
    assert dict(scene.sizes) == {"band": 6, "y": 96, "x": 96}
    assert list(scene.band.values) == list(CENTRES)
    assert scene.reflectance.dims == ("band", "y", "x")
    assert (scene.reflectance.dtype, scene.mask.dtype) == ("float32", "uint8")
    assert scene.elevation.dtype == "float32"
    assert not scene.reflectance.isnull().any() and not scene.elevation.isnull().any()
    assert float(scene.reflectance.min()) >= 0 and float(scene.reflectance.max()) <= 1.6
    assert set(np.unique(scene.mask)) <= {0, 1, 255}
    cloud = scene.mask == 1
    assert abs(float(cloud.mean()) - fraction) < 0.12 and (fraction or not cloud.any())
    xr.testing.assert_equal(cloud, scene.optical_depth > CLOUD_OPTICAL_DEPTH)
    xr.testing.assert_equal(scene.mask == 0, scene.optical_depth <= CLEAR_OPTICAL_DEPTH)


def test_attributes_and_place() -> None:
    scene = simulate_scene(toy(), seed=3, size=32, resolution=20)
    assert scene.attrs["level"] == "toa" and scene.attrs["sensor"] == "toy"
    assert scene.attrs["role"] == "train" and scene.attrs["group"] == "simulated"
    assert scene.attrs["resolution"] == 20.0 and scene.attrs["scene"] == "simulated-toy-mixed-3"
    assert scene.rio.crs.to_epsg() == 32631
    assert scene.rio.resolution() == (20.0, -20.0)


def test_same_seed_same_scene() -> None:
    first, second = (simulate_scene(toy(), seed=11, size=64) for _ in range(2))
    xr.testing.assert_identical(first, second)
    assert not first.equals(simulate_scene(toy(), seed=12, size=64))


def test_same_numbers_on_every_machine() -> None:
    scene = simulate_scene(toy(), seed=11, size=64, surface="mixed", clouds="cumulus")
    simulated = scene.reflectance.values[[0, 2, 3, 4, 5], [5, 20, 33, 47, 60], [8, 50, 31, 2, 44]]
    np.testing.assert_allclose(simulated, NUMBERS, rtol=0, atol=5e-4)  # a step of the instrument
    assert abs(int((scene.mask == 1).sum()) - CLOUDY) <= 1


def test_overcast_varies_smoothly_inside() -> None:
    scene = simulate_scene("sentinel-2", seed=3, size=128, clouds="stratus", cloud_fraction=1)
    red = scene.reflectance.sel(band="red").values
    assert red.std() / red.mean() > 0.03  # flat cloud is taken for snow or sand
    fine = red - ndimage.uniform_filter(red, 3)
    assert fine.std() < 0.4 * red.std()  # light wanders, so that it is not grainy either


def test_other_weather_over_the_same_ground() -> None:
    one, other = (simulate_scene(toy(), seed=(5, day), size=64) for day in (0, 1))
    xr.testing.assert_equal(one.elevation, other.elevation)
    assert not one.optical_depth.equals(other.optical_depth)
    clear = [
        simulate_scene(toy(), seed=(5, day), size=64, cloud_fraction=0).reflectance
        for day in (0, 1)
    ]
    alike = xr.corr(clear[0].sel(band="nir"), clear[1].sel(band="nir"))
    assert float(alike) > 0.8  # the sun and the haze differ, the ground does not


@pytest.mark.parametrize("cloud_type", CLOUDS)
def test_every_type_of_cloud(cloud_type: str) -> None:
    scene = simulate_scene(toy(), seed=6, surface="forest", clouds=cloud_type, cloud_fraction=0.3)
    cloud, red = scene.mask == 1, scene.reflectance.sel(band="red")
    assert 0.03 < float(cloud.mean()) < 0.6
    assert float(red.where(cloud).mean()) > float(red.where(~cloud).mean())
    if cloud_type == "fog":
        assert float(scene.elevation.where(cloud).mean()) < float(scene.elevation.mean())


def test_snow_under_trees_is_grey_and_dark_in_the_short_wave_infrared() -> None:
    """Not as white as a snow field: a model took it for thin cloud, on a sensor it did not know."""
    for seed in range(4):
        scene = simulate_scene(toy(), seed=seed, surface="taiga", cloud_fraction=0)
        visible, infrared = (scene.reflectance.sel(band=b) for b in ("red", "swir16"))
        assert 0.05 < float(visible.median()) < 0.45
        assert float(infrared.median()) < float(visible.median()) + 0.05
    bare = simulate_scene(toy(), seed=0, surface="forest", cloud_fraction=0).reflectance
    assert float(bare.sel(band="swir16").median()) > float(bare.sel(band="red").median()) + 0.05


def test_ice_is_darker_than_water_in_the_short_wave_infrared() -> None:
    """Pilewskie and Twomey (1987): crystals absorb at 1.6 µm, drops hardly do."""
    ratio = {}
    for cloud_type in ("cumulus", "deep"):
        ratios = []
        for seed in range(4):
            s = simulate_scene(toy(), seed=seed, size=64, clouds=cloud_type, cloud_fraction=0.6)
            thick = s.optical_depth > 10
            ratios.append(float((s.reflectance.sel(band="swir16") / s.reflectance.sel(band="red"))
                               .where(thick).mean()))  # fmt: skip
        ratio[cloud_type] = np.nanmean(ratios)
    assert ratio["deep"] < 0.8 * ratio["cumulus"]


def test_tops_of_deep_clouds_reach_from_grey_to_the_colour_of_snow() -> None:
    """Large crystals under a high sun are as dark at 1.6 µm as fresh snow, small ones are not."""
    ratios = []
    for seed in range(40):
        top = simulate_scene(toy(), seed=seed, size=32, clouds="deep", cloud_fraction=1)
        bands = top.reflectance.where(top.optical_depth > 20)
        ratios.append(float((bands.sel(band="swir16") / bands.sel(band="red")).median()))
    assert np.nanmin(ratios) < 0.19 and 0.25 < np.nanmedian(ratios) < 0.5


def test_absorbing_particles_scatter_forward_and_darken_under_a_high_sun() -> None:
    assert clouds.absorbing_asymmetry(0.77, 0.0) == pytest.approx(0.77)
    assert 0.77 < clouds.absorbing_asymmetry(0.77, 0.1) < clouds.absorbing_asymmetry(0.77, 0.3) < 1
    assert clouds.high_sun_factor(0.77, 0.0, mu=0.9) == pytest.approx(1)
    low, middle, high = (clouds.high_sun_factor(0.77, 0.1, mu=mu) for mu in (0.3, 0.5, 0.9))
    assert middle == pytest.approx(1) and high < 1 < low


def test_overcast_is_of_clouds_that_cover_the_sky() -> None:
    for seed in range(20):  # trails and cumulus leave gaps
        scene = simulate_scene(toy(), seed=seed, size=32, cloud_fraction=1)
        assert float((scene.mask == 1).mean()) > 0.6, seed


def test_only_high_cloud_is_seen_in_the_cirrus_band() -> None:
    """Vapour swallows 1.38 µm below: the ground is dark, cirrus is not (Gao 1993)."""
    card = get_sensor("landsat-8")
    ground = simulate_scene(card, seed=4, size=64, cloud_fraction=0, surface="sand")
    high = simulate_scene(
        card, seed=4, size=64, cloud_fraction=0.5, clouds="cirrus", surface="sand"
    )
    dark, grey = (float(ground.reflectance.sel(band=name).mean()) for name in ("cirrus", "nir"))
    assert dark < 0.2 * grey
    bright = float(high.reflectance.sel(band="cirrus").where(high.mask == 1).mean())
    assert bright > 1.5 * dark


def test_blur_and_noise_are_the_cards() -> None:
    plain = simulate_scene(toy(mtf=0.3, snr=1000), seed=2, size=64).reflectance
    noisy = simulate_scene(toy(mtf=0.3, snr=20), seed=2, size=64).reflectance
    soft = simulate_scene(toy(mtf=0.01, snr=1000), seed=2, size=64).reflectance
    step = lambda image: float(abs(image.diff("x")).mean())  # noqa: E731
    assert step(soft) < step(plain) < step(noisy)


def test_open_cards_are_simulated_at_their_middle() -> None:
    scene = simulate_scene("co3d", seed=1, size=32)
    assert list(scene.band.values) == ["blue", "green", "red", "nir"]


def test_responses_are_weights() -> None:
    for shape in ("box", "gaussian"):
        band = toy().bands[2].model_copy(update={"response": shape})
        weights = response(band, "toy")
        assert weights.sum() == pytest.approx(1) and (weights @ GRID) == pytest.approx(
            0.66, abs=1e-3
        )
    with pytest.raises(InputError, match="toy: no published response"):
        response(toy().bands[0].model_copy(update={"response": "published"}), "toy")
    with pytest.raises(InputError, match="toy: band lwir11"):
        response(toy(names=("lwir11",)).bands[0], "toy")
    spot = get_sensor("spot-4")
    centre = response(spot.band("green"), "spot-4") @ GRID
    assert 0.53 < centre < 0.56


def test_spectra_are_reflectances() -> None:
    for name, spectra in surfaces().items():
        assert spectra.shape[1] == len(GRID) and spectra.min() >= 0 and spectra.max() <= 1, name
    canopy, snow = (surfaces()[name].mean(0) for name in ("canopy", "snow"))
    red, nir, swir = (np.argmin(abs(GRID - at)) for at in (0.66, 0.84, 1.61))
    assert canopy[nir] > 3 * canopy[red] and snow[red] > 3 * snow[swir]
    assert air().ice_per_um[swir] > 2 * air().water_per_um[swir]  # why ice clouds are darker there
    measured = band_average(toy(), surfaces()["snow"], ["red", "swir16"])
    assert (
        measured.shape == (len(surfaces()["snow"]), 2) and (measured[:, 0] > measured[:, 1]).all()
    )


def test_sensors_share_the_place_but_not_the_radiometry() -> None:
    one, other = (simulate_scene(toy(name), seed=5, size=64) for name in ("one", "other"))
    xr.testing.assert_equal(one.mask, other.mask)
    xr.testing.assert_equal(one.elevation, other.elevation)
    difference = float(abs(one.reflectance - other.reflectance).mean())
    assert 0.0003 < difference < 0.05


def test_brightness_alone_does_not_give_the_mask() -> None:
    """Over snow and sand no threshold on red finds the clouds."""
    for surface in ("snow", "sand"):
        scene = simulate_scene(toy(), seed=105, surface=surface, cloud_fraction=0.3)
        red, cloud = scene.reflectance.sel(band="red").values, scene.mask.values == 1
        best = max(((red > level) == cloud).mean() for level in np.linspace(0, 1.2, 60))
        assert best < 0.95


def test_thermal_bands_are_left_out() -> None:
    scene = simulate_scene(toy(names=("blue", "lwir11", "swir16")), seed=1, size=32)
    assert list(scene.band.values) == ["blue", "swir16"]


def test_large_crystals_are_given_to_clouds_of_ice_alone() -> None:
    def radii(phase: str, fraction: float) -> np.ndarray:
        rng = np.random.default_rng(0)
        return np.array([effective_radius(rng, phase, fraction) for _ in range(300)])

    least, most = LARGE_CRYSTALS_UM
    every, none = radii("ice", 1.0), radii("ice", 0.0)
    assert ((every >= least) & (every <= most)).all()
    assert 0.05 < (none > least).mean() < 0.2  # an eighth
    assert (radii("water", 1.0) == radii("water", 0.0)).all()


def test_large_crystals_darken_the_infrared_of_overcast_and_nothing_else() -> None:
    overcast = {"seed": 5, "size": 32, "clouds": "deep", "cloud_fraction": 1.0}
    plain, large = (
        simulate_scene("landsat-8", large_crystals=fraction, **overcast) for fraction in (0.0, 1.0)
    )
    xr.testing.assert_equal(plain.optical_depth, large.optical_depth)
    change = (large.reflectance - plain.reflectance).mean(("y", "x"))
    assert float(change.sel(band="swir16")) < -0.02
    assert abs(float(change.sel(band="red"))) < 0.01


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"surface": "moon"}, "moon.*mixed, forest, crops, barren, sand, rock, urban, water, snow"),
        ({"cloud_fraction": 1.5}, "cloud_fraction is 1.5"),
        ({"clouds": "mist"}, "mist.*cumulus"),
        ({"seed": -1}, "seed=-1"),
        ({"seed": (1, -1)}, r"seed=\(1, -1\)"),
        ({"large_crystals": 2}, "large_crystals is 2; give a fraction"),
        ({"size": 8}, "size=8"),
        ({"resolution": 0.0}, "resolution=0.0"),
        ({"sensor": toy(names=("blue", "other"))}, "toy: band other"),
    ],
)
def test_bad_arguments(wrong: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        simulate_scene(**({"sensor": toy(), "seed": 1, "size": 32} | wrong))


def test_catalogue_can_be_simulated() -> None:
    collections = yaml.safe_load(CATALOGUE.read_text())["collections"]
    groups: dict[str, str] = {}
    for collection in collections.values():
        sensor = get_sensor(collection["sensor"])
        for record in collection["scenes"]:
            assert groups.setdefault(record["group"], record["role"]) == record["role"]
        simulate_scene(sensor, **(record["simulated"] | {"size": 32}))
    seeds = [r["simulated"]["seed"] for c in collections.values() for r in c["scenes"]]
    assert len(seeds) == len(set(seeds)) == 60
