"""Where pixels lie, which layer is which band, and the names people give bands and sensors."""

import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from test_predict import make_model, scene

from clouddl.errors import InputError
from clouddl.network import ModelCard
from clouddl.predict import _warn_of_step, predict_array, predict_file
from clouddl.products import open_image
from clouddl.products.image import Image, open_file
from clouddl.products.place import Grid, check_place
from clouddl.products.reading import Reading
from clouddl.scale.tiles import network_size
from clouddl.sensors import band_name, get_sensor

UTM = "EPSG:32631"
NORTH_UP = Affine(30, 0, 500_000, 0, -30, 4_800_000)
MERCATOR_60N = Affine(60, 0, 300_000, 0, -60, 8_399_737)
TURNED_30 = Affine.translation(5e5, 48e5) * Affine.rotation(30) * Affine.scale(30, -30)
BANDS = ("blue", "green", "red", "nir", "swir16")


def write(
    path: Path,
    crs: str | None = UTM,
    transform: Affine | None = NORTH_UP,
    descriptions: tuple[str, ...] = (),
    colours: tuple[ColorInterp, ...] = (),
    size: tuple[int, int] = (40, 40),
    count: int = 5,
) -> Path:
    """An image of `count` layers, each of one number: 0.1, 0.2, ..."""
    count = len(descriptions) or len(colours) or count
    place = {"crs": crs} if crs else {}
    if transform:
        place["transform"] = transform
    with (
        warnings.catch_warnings(),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=size[0],
            width=size[1],
            count=count,
            dtype="float32",
            **place,
        ) as file,
    ):
        warnings.simplefilter("ignore")
        for layer in range(1, count + 1):
            file.write(np.full(size, layer / 10, "float32"), layer)
        for layer, text in enumerate(descriptions, 1):
            file.set_band_description(layer, text)
        if colours:
            file.colorinterp = colours
    return path


def opened(path: Path, **options: object) -> Image:
    return open_file(path, Reading(bands=BANDS, **options))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("crs", "transform", "down", "along"),
    [
        (UTM, NORTH_UP, 30, 30),
        (UTM, Affine(0, 30, 5e5, 30, 0, 48e5), 30, 30),
        (UTM, TURNED_30, 30, 30),
        (UTM, Affine(10, 0, 5e5, 0, -20, 48e5), 20, 10),
        (UTM, Affine(0, 10, 5e5, 20, 0, 48e5), 10, 20),
        ("EPSG:3857", MERCATOR_60N, 30.04, 30.04),
        ("EPSG:3395", Affine(60, 0, 3e5, 0, -60, 8_362_699), 30.1, 30.1),
        ("EPSG:2154", Affine(30, 0, 7e5, 0, -30, 66e5), 30, 30),
        ("EPSG:2263", Affine(100, 0, 98e4, 0, -100, 2e5), 30.48, 30.48),  # US feet
        ("EPSG:4326", Affine(0.0003, 0, 5, 0, -0.0003, 60), 33.396, 16.7),
        ("EPSG:4326", Affine(0.0003, 0, -80, 0, -0.0003, 0.006), 33.396, 33.396),
    ],
)
def test_pixels_are_measured_on_the_ground(
    tmp_path: Path, crs: str, transform: Affine, down: float, along: float
) -> None:
    image = opened(write(tmp_path / "a.tif", crs, transform))
    assert image.spacing == pytest.approx((down, along), rel=0.005)
    assert image.resolution == image.spacing[0]


def test_a_north_up_grid_in_metres_keeps_its_exact_resolution(tmp_path: Path) -> None:
    image = opened(write(tmp_path / "a.tif", UTM, Affine(10, 0, 5e5, 0, -10, 48e5)))
    assert image.spacing == (10.0, 10.0)


def test_a_resolution_is_compared_with_the_ground(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", "EPSG:3857", MERCATOR_60N)
    assert opened(path, resolution=30).resolution > 0
    with pytest.raises(InputError, match=r"a\.tif: its pixels are 30\.\d+ m, not 60 m"):
        opened(path, resolution=60)


@pytest.mark.parametrize(
    ("crs", "transform", "message"),
    [
        (UTM, None, "has the CRS EPSG:32631 but no transform"),
        ("EPSG:4326", NORTH_UP, "its CRS EPSG:4326 is in degrees, but its transform"),
        (UTM, Affine(0.0003, 0, 5, 0, -0.0003, 43), "EPSG:32631 is in metres.*is in degrees"),
        ("EPSG:3857", Affine(0.0003, 0, 5, 0, -0.0003, 43), "EPSG:3857 is in metres"),
        ("EPSG:4978", NORTH_UP, "EPSG:4978 is geocentric"),
    ],
)
def test_a_transform_that_is_not_one_of_its_crs_is_refused(
    tmp_path: Path, crs: str, transform: Affine | None, message: str
) -> None:
    with pytest.raises(InputError, match=rf"a\.tif: .*{message}"):
        opened(write(tmp_path / "a.tif", crs, transform))


def test_both_axes_of_the_network_grid_are_those_of_the_ground(tmp_path: Path) -> None:
    card = ModelCard.model_construct(name="a", resolution=30.0)
    image = opened(write(tmp_path / "a.tif", UTM, Affine(10, 0, 5e5, 0, -20, 48e5), size=(60, 60)))
    assert network_size(image, card) == (40, 20)


def test_an_image_far_too_coarse_is_refused(tmp_path: Path) -> None:
    card = ModelCard.model_construct(name="a", resolution=30.0)
    path = write(tmp_path / "a.tif", UTM, Affine(1e4, 0, 3e5, 0, -1e4, 48e5), size=(20, 20))
    with pytest.raises(InputError, match=r"a\.tif: its pixels are 10000 m, too coarse"):
        network_size(opened(path), card)


def test_a_turned_image_keeps_its_transform(tmp_path: Path) -> None:
    turned = Affine(0, 30, 5e5, 30, 0, 48e5)
    array = opened(write(tmp_path / "a.tif", UTM, turned)).array()
    assert len(set(array.x.values.tolist())) == len(array.x)
    assert array.rio.transform(recalc=False) == turned


@pytest.mark.parametrize(
    ("sensor", "descriptions", "bands"),
    [
        ("sentinel-2", ("red", "green", "blue", "nir"), ("red", "green", "blue", "nir")),
        ("sentinel-2", ("B04", "B8A", "B11", "SCL"), ("red", "nir08", "swir16")),
        ("sentinel-2", ("B4, central wavelength 665 nm", "Band 3 (Green)"), ("red", "green")),
        ("spot-5", ("XS3", "XS2", "XS1", "SWIR"), ("nir", "red", "green", "swir16")),
        ("landsat-8", ("SR_B5", "SR_B4", "nir08_not"), ("nir", "red")),
        ("pleiades", ("B2", "B1", "B0", "B3"), ("red", "green", "blue", "nir")),
        ("planetscope", ("Band 1", "Band 2", "Band 3", "Band 4"), ("blue", "green", "red", "nir")),
    ],
)
def test_layers_are_known_by_their_descriptions(
    tmp_path: Path, sensor: str, descriptions: tuple[str, ...], bands: tuple[str, ...]
) -> None:
    path = write(tmp_path / "a.tif", descriptions=descriptions)
    image = open_file(path, sensor=get_sensor(sensor))
    assert image.bands == bands
    numbers = image.read()[:, 0, 0]
    assert numbers == pytest.approx(np.arange(1, len(bands) + 1) / 10)


def test_layers_are_known_by_their_colours(tmp_path: Path) -> None:
    colours = ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.undefined
    path = write(tmp_path / "a.tif", colours=colours)
    image = open_file(path, sensor=get_sensor("planetscope"))
    assert image.bands == ("red", "green", "blue", "nir")
    with pytest.raises(InputError, match=r"only some of its layers.*red, green, blue, no name"):
        open_file(path, sensor=get_sensor("sentinel-2"))


def test_colours_of_a_png_are_those_of_its_format(tmp_path: Path) -> None:
    numbers = np.random.default_rng(0).integers(800, 5000, (4, 40, 40)).astype("uint16")
    path = tmp_path / "a.png"
    shape = {"height": 40, "width": 40, "count": 4, "dtype": "uint16"}
    with rasterio.open(path, "w", driver="PNG", **shape) as file:
        file.write(numbers)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        image = open_image(path, "spot-5", Reading(("green", "red", "nir", "swir16"), 1e-4))
    np.testing.assert_allclose(image.read(), numbers * 1e-4, atol=1e-6)


def test_bands_that_contradict_the_file_are_warned_of(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", descriptions=("red", "green", "blue"))
    sensor = get_sensor("sentinel-2")
    with pytest.warns(UserWarning, match=r"a\.tif: --bands contradicts.*blue \(red\)"):
        image = open_file(path, Reading(bands=("blue", "green", "red")), sensor)
    assert image.bands == ("blue", "green", "red")
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        open_file(path, Reading(bands=("B04", "B3", None)), sensor)


@pytest.mark.parametrize(
    ("spelling", "sensor", "band"),
    [
        ("B02", "sentinel-2", "blue"),
        ("b2", "sentinel-2", "blue"),
        ("B8A", "sentinel-2", "nir08"),
        ("NIR", "sentinel-2", "nir"),
        ("SWIR 1", "sentinel-2", "swir16"),
        ("nir08", "landsat-8", "nir"),
        ("SR_B4", "landsat-8", "red"),
        ("SR_B4", "landsat-7", "nir"),
        ("XS3", "spot-4", "nir"),
        ("PIR", "pleiades", "nir"),
        ("B0", "pleiades", "blue"),
        ("Red Edge 1", "sentinel-2", "rededge071"),
        ("red edge", "sentinel-2", None),
        ("green_i", "planetscope", None),
        ("Band 3", "sentinel-2", None),
        ("swir16", "pleiades", None),
    ],
)
def test_bands_by_the_names_people_write(spelling: str, sensor: str, band: str | None) -> None:
    assert band_name(spelling, get_sensor(sensor)) == band


def test_every_band_of_a_card_is_known_by_both_of_its_names() -> None:
    for sensor in map(get_sensor, ("sentinel-2", "landsat-5", "landsat-9", "venus", "microcarb")):
        for band in sensor.bands:
            assert band_name(band.common, sensor) == band.common
            assert band_name(band.native, sensor) == band.common


def test_bands_of_a_reading_become_common_names(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", count=3)
    image = open_file(path, Reading(bands=("B03", "Red", "nir")), get_sensor("S2B"))
    assert image.bands == ("green", "red", "nir")


@pytest.mark.parametrize(
    ("name", "sensor"),
    [
        ("sentinel2", "sentinel-2"),
        ("Sentinel-2", "sentinel-2"),
        ("S2A", "sentinel-2"),
        ("s2b", "sentinel-2"),
        ("SENTINEL_2C", "sentinel-2"),
        ("LC08", "landsat-8"),
        ("LE07", "landsat-7"),
        ("LT05", "landsat-5"),
        ("Landsat 9", "landsat-9"),
        ("SPOT5", "spot-5"),
        ("PHR1A", "pleiades"),
        ("PNEO", "pleiades-neo"),
        ("PNEO3", "pleiades-neo"),
        ("Pléiades Neo", "pleiades-neo"),
        ("SPOT6", "spot-6"),
        ("Spot 7", "spot-7"),
        ("S6", "spot-6"),
        ("PSScene", "planetscope"),
        ("Venµs", "venus"),
    ],
)
def test_sensors_by_the_names_people_write(name: str, sensor: str) -> None:
    assert get_sensor(name).id == sensor


def test_an_unknown_sensor_is_answered_with_the_nearest() -> None:
    with pytest.raises(InputError, match=r"'sentinal-2' is unknown.*did you mean 'sentinel-2'\?"):
        get_sensor("sentinal-2")


@pytest.mark.parametrize("name", ["nowhere.tif", "nowhere.npy", "nowhere.npz#image"])
def test_a_missing_file_is_said_to_be_missing(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"nowhere\.\w+.*: does not exist"):
        opened(Path(tmp_path, name))


def test_a_folder_is_said_to_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder, not an image"):
        opened(tmp_path)


def by_points(
    path: Path, crs: str | None, transform: Affine, corners: tuple[tuple[int, int], ...]
) -> Path:
    """An image that ground control points place, given as (row, column) and a transform."""
    write(path, crs=None, transform=None)
    points = []
    for row, column in corners:
        x, y = transform * (column, row)
        points.append(GroundControlPoint(row, column, x, y, 0))
    with rasterio.open(path, "r+") as file:
        file.gcps = points, CRS.from_string(crs) if crs else CRS()
    return path


def placed(path: Path, **options: object) -> Image:
    return open_file(path, Reading(bands=BANDS, **options), get_sensor("landsat-7"))  # type: ignore[arg-type]


CORNERS = ((0, 0), (0, 40), (40, 0), (40, 40))


@pytest.mark.parametrize(
    ("crs", "transform", "metres", "along"),
    [
        (UTM, NORTH_UP, 30, 30),
        (UTM, TURNED_30, 30, 30),
        (UTM, Affine(20, 0, 5e5, 0, -30, 48e5), 30, 20),
        ("EPSG:4326", Affine(4e-4, 0, 3, 0, -3e-4, 45), 33.4, 31.5),
    ],
)
def test_ground_control_points_give_the_size_of_pixels(
    crs: str, transform: Affine, metres: float, along: float, tmp_path: Path
) -> None:
    image = opened(by_points(tmp_path / "gcp.tif", crs, transform, CORNERS))
    assert image.resolution == pytest.approx(metres, rel=2e-3)
    assert image.spacing == pytest.approx((metres, along), rel=2e-3)
    assert image.grid.crs is None and len(image.grid.control_points) == 4


@pytest.mark.parametrize(("crs", "corners"), [(None, CORNERS), (UTM, CORNERS[:2]),
                                              (UTM, ((0, 0), (10, 10), (40, 40)))])  # fmt: skip
def test_points_without_the_size_of_pixels_want_a_resolution(
    crs: str | None, corners: tuple[tuple[int, int], ...], tmp_path: Path
) -> None:
    path = by_points(tmp_path / "gcp.tif", crs, NORTH_UP, corners)
    with pytest.raises(InputError, match=r"gcp.tif: is placed by ground control .*--resolution"):
        placed(path)
    assert placed(path, resolution=25).resolution == 25


def test_a_resolution_that_contradicts_the_points_is_refused(tmp_path: Path) -> None:
    path = by_points(tmp_path / "gcp.tif", UTM, NORTH_UP, CORNERS)
    with pytest.raises(InputError, match="its pixels are 30 m, not 10 m"):
        placed(path, resolution=10)


@pytest.mark.parametrize("crs", [UTM, None])
def test_ground_control_points_are_handed_on_to_the_mask(crs: str | None, tmp_path: Path) -> None:
    path = by_points(tmp_path / "gcp.tif", crs, TURNED_30, CORNERS)
    with rasterio.open(path, "r+") as file:
        file.write(np.random.default_rng(0).uniform(0.02, 0.6, file.read().shape).astype("float32"))
        points, points_crs = file.gcps
    reading = Reading(BANDS, resolution=None if crs else 30)
    for result in predict_file(
        path, "landsat-7", tmp_path / "out", model=make_model(), reading=reading
    ):
        with rasterio.open(result) as file:
            assert file.crs is None and file.gcps[1] == points_crs
            assert [point.asdict() for point in file.gcps[0]] == [
                point.asdict() | {"id": made.id}
                for point, made in zip(points, file.gcps[0], strict=True)
            ]


def test_rational_polynomials_are_handed_on_to_the_mask(tmp_path: Path) -> None:
    path = write(tmp_path / "rpc.tif", crs=None, transform=None)
    along = {"line_off": 20.0, "line_scale": 20.0, "samp_off": 20.0, "samp_scale": 20.0}
    ground = {"lat_off": 45.0, "lat_scale": 0.01, "long_off": 3.0, "long_scale": 0.01}
    terms = {"line_num_coeff": 2, "samp_num_coeff": 1, "line_den_coeff": 0, "samp_den_coeff": 0}
    polynomials = {name: np.eye(20)[term].tolist() for name, term in terms.items()}
    points = RPC(height_off=0.0, height_scale=100.0, **along, **ground, **polynomials)
    with rasterio.open(path, "r+") as file:
        file.write(np.random.default_rng(0).uniform(0.02, 0.6, file.read().shape).astype("float32"))
        file.rpcs = points
    for result in predict_file(
        path, "landsat-7", tmp_path / "out", model=make_model(), reading=Reading(BANDS)
    ):
        with rasterio.open(result) as file:
            assert file.rpcs.to_dict() | {"err_bias": None, "err_rand": None} == points.to_dict()


@pytest.mark.parametrize(("unit", "metres"), [('"metre",1', 100), ('"foot",0.3048', 30.48)])
def test_a_local_crs_is_read_in_its_unit_and_handed_on(
    unit: str, metres: float, tmp_path: Path
) -> None:
    local = f'LOCAL_CS["site",UNIT[{unit}]]'
    path = write(tmp_path / "local.tif", local, Affine(100, 0, 1000, 0, -100, 2000))
    image = opened(path)
    assert image.resolution == pytest.approx(metres)
    with rasterio.open(path, "r+") as file:
        file.write(np.random.default_rng(0).uniform(0.02, 0.6, file.read().shape).astype("float32"))
    for result in predict_file(
        path, "landsat-7", tmp_path / "out", model=make_model(), reading=Reading(BANDS)
    ):
        with rasterio.open(result) as file, rasterio.open(path) as source:
            assert file.crs == source.crs and file.transform == source.transform


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_a_transform_of_no_numbers_is_refused(tmp_path: Path, number: float) -> None:
    for transform in (Affine(number, 0, 5e5, 0, -30, 48e5), Affine(30, 0, number, 0, -30, 48e5)):
        with pytest.raises(InputError, match=r"a\.tif: its transform .* no size or place"):
            check_place("a.tif", Grid((9, 9), transform, CRS.from_epsg(32631)))


@pytest.mark.parametrize("ends", [[(0, 0), (0, 40), (0, 90)], [(0, 0)] * 4])
def test_points_on_a_line_say_no_size(ends: list[tuple[int, int]]) -> None:
    points = [GroundControlPoint(y, x, 5e5 + 30 * x, 48e5 - 30 * y) for y, x in ends]
    grid = Grid((9, 9), control_points=tuple(points), control_crs=CRS.from_epsg(32631))
    assert grid.ground is grid and grid.crs is None and grid.transform == Affine.identity()


def test_a_resolution_is_compared_with_degrees(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", "EPSG:4326", Affine(0.0003, 0, 5, 0, -0.0003, 45))
    assert opened(path, resolution=33).resolution == 33
    with pytest.raises(InputError, match=r"a\.tif: its pixels are 33\.396 m, not 10 m"):
        opened(path, resolution=10)


@pytest.mark.parametrize(
    ("text", "band"),
    [
        ("B11 - SWIR 1610nm", "swir16"),
        ("T31TCJ_20220301T105021_B8A", "nir08"),
        ("B02_median", "blue"),
        ("Grün", "green"),
        ("rojo", "red"),
        ("NDVI_B8_B4", None),
        ("Red Edge (705)", None),
    ],
)
def test_names_of_an_operator_among_other_words(text: str, band: str | None) -> None:
    assert band_name(text, get_sensor("sentinel-2")) == band


def test_a_layer_that_is_not_understood_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", descriptions=("sininen", "green", "red", "nir"))
    with pytest.warns(UserWarning, match=r"a\.tif: the layers sininen are not understood.*blue"):
        open_file(path, sensor=get_sensor("pleiades"))


def test_what_never_ends_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: is a pipe or a device"):
        open_image(tmp_path / "a.tif", "spot-5")


def test_a_transform_without_a_crs_that_says_other_pixels(tmp_path: Path) -> None:
    for step, said in ((10, True), (30, False), (0.0003, False)):
        transform = Affine(step, 0, 5e5, 0, -step, 48e5)
        image = opened(write(tmp_path / "a.tif", None, transform))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _warn_of_step(image, 30)
        assert [f"--resolution {step}" in str(one.message) for one in caught] == [True] * said


def test_an_image_of_hardly_any_ground_is_warned_of() -> None:
    """As of a drone: 64 pixels of 5 cm are a tenth of a pixel of the models."""
    with pytest.warns(UserWarning, match=r"shows only 3\.2 × 3\.2 m of ground"):
        predict_array("spot", scene(64, 64), BANDS[1:], 0.05)


def test_an_array_whose_pixels_lie_on_no_grid_is_refused() -> None:
    places = {
        "band": list(BANDS),
        "y": 48e5 - 30.0 * np.arange(40),
        "x": 5e5 + 30.0 * np.arange(40),
    }
    array = xr.DataArray(scene(40, 40, 5), places, ("band", "y", "x")).rio.write_crs(UTM)
    assert open_image(array).resolution == 30
    with pytest.raises(InputError, match="image: its x has steps from 30 to 270, so its pixels"):
        open_image(array.isel(x=[*range(10), *range(18, 40)]))
