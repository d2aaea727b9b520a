"""Nodata told in any way, and numbers of a wrong scale: never a wrong mask in silence."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.enums import ColorInterp
from rasterio.windows import Window
from test_predict import BANDS, SPOT, make_model, scene, write

from clouddl.errors import InputError
from clouddl.predict import predict_array, predict_file
from clouddl.products import open_image
from clouddl.products.raster import files_of, open_raster
from clouddl.products.reading import Reading, check_reflectance

SCALED = Reading(scale=1e-4)
GAP = np.s_[:, :20, :30]


@pytest.fixture
def values() -> np.ndarray:
    return np.round(scene(60, 80), 4)


def filled(folder: Path, values: np.ndarray, number: float = 0) -> Path:
    """A file whose gap holds a number that is not declared."""
    path = write(folder / "gap.tif", values)
    with rasterio.open(path, "r+") as file:
        numbers = file.read()
        numbers[GAP] = number
        file.write(numbers)
        file.nodata = None
    return path


def predict(path: Path, reading: Reading = SCALED) -> np.ndarray:
    results = predict_file(
        path, SPOT, path.parent / "out", model=make_model(), reading=reading, progress=False
    )
    with rasterio.open(results[0]) as file:
        return file.read(1)


def has_gap(values: np.ndarray) -> bool:
    """Whether the gap is nodata in all bands, and nothing else is."""
    gap = np.zeros(values.shape, bool)
    gap[GAP] = True
    return bool((np.isnan(values) == gap).all())


@pytest.mark.parametrize("internal", [True, False])
def test_a_mask_in_the_file_or_beside_it(
    internal: bool, values: np.ndarray, tmp_path: Path
) -> None:
    path = filled(tmp_path, values, 900)
    seen = np.full(values.shape[1:], 255, np.uint8)
    seen[GAP[1:]] = 0
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal),
        rasterio.open(path, "r+") as file,
    ):
        file.write_mask(seen)
    assert path.with_suffix(".tif.msk").exists() is not internal
    image = open_image(path, SPOT, SCALED)
    assert has_gap(image.read()) and has_gap(image.overview)
    assert np.isnan(image.read(Window(25, 15, 10, 10))[:, :5, :5]).all()
    assert (predict(path)[GAP[1:]] == 255).all()


@pytest.mark.parametrize("tagged", [5, 3])
def test_alpha(tagged: int, values: np.ndarray, tmp_path: Path) -> None:
    alpha = np.ones((1, *values.shape[1:]), np.float32)
    path = write(tmp_path / "a.tif", np.concatenate([values, alpha]))
    with rasterio.open(path, "r+") as file:
        numbers = file.read()
        numbers[4] = 65535 if numbers.dtype == np.uint16 else 32767
        numbers[GAP] = 0
        file.write(numbers)
        file.nodata = None
        meanings = [ColorInterp.undefined] * 5
        meanings[tagged - 1] = ColorInterp.alpha
        file.colorinterp = meanings
    reading = Reading((*BANDS, None), 1e-4)
    assert has_gap(open_image(path, SPOT, reading).read())
    if tagged == 5:  # what the file says need not be said again
        assert has_gap(open_image(path, SPOT, Reading(tuple(BANDS), 1e-4)).read())


def test_a_band_that_is_tagged_alpha_is_a_band(values: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values)
    expected = open_image(path, SPOT, SCALED).read()
    with rasterio.open(path, "r+") as file:
        file.colorinterp = [*[ColorInterp.undefined] * 3, ColorInterp.alpha]
    np.testing.assert_array_equal(open_image(path, SPOT, SCALED).read(), expected)


def virtual(path: Path, tags: str = "") -> Path:
    """A VRT of a file of four bands, as a script writes it; tags may hold the number of a band."""
    with rasterio.open(path) as file:
        name = {"uint16": "UInt16", "int16": "Int16"}[file.dtypes[0]]
    layers = "".join(
        f'<VRTRasterBand dataType="{name}" band="{n}">{tags.format(n)}<SimpleSource>'
        f'<SourceFilename relativeToVRT="1">{path.name}</SourceFilename><SourceBand>{n}'
        "</SourceBand></SimpleSource></VRTRasterBand>"
        for n in (1, 2, 3, 4)
    )
    path.with_suffix(".vrt" if path.suffix == ".tif" else ".outer.vrt").write_text(
        '<VRTDataset rasterXSize="80" rasterYSize="60"><SRS>EPSG:32631</SRS>'
        f"<GeoTransform>500000,10,0,4800000,0,-10</GeoTransform>{layers}</VRTDataset>"
    )
    return path.with_suffix(".vrt" if path.suffix == ".tif" else ".outer.vrt")


def test_nodata_of_each_band(values: np.ndarray, tmp_path: Path) -> None:
    path = filled(tmp_path, values)
    with rasterio.open(path) as file:
        numbers = file.read()
    for layer, number in enumerate((1, 2, 3, 4)):
        numbers[layer][GAP[1:]] = number
    with rasterio.open(path, "r+") as file:
        file.write(numbers)
    vrt = virtual(path, "<NoDataValue>{}</NoDataValue>")
    image = open_image(vrt, SPOT, SCALED)
    assert has_gap(image.read())
    assert has_gap(image.select(BANDS[::-1]).read())


def test_what_a_vrt_leaves_out_of_its_sources_is_warned_of(
    values: np.ndarray, tmp_path: Path
) -> None:
    inner = virtual(filled(tmp_path, values), "<NoDataValue>0</NoDataValue><Scale>0.0001</Scale>")
    outer = virtual(inner)
    lost = r"outer\.vrt: its source .*gap\.vrt says nodata 0, scale 0\.0001, .* --nodata, --scale"
    with pytest.warns(UserWarning, match=lost):
        open_image(outer, SPOT)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert has_gap(open_image(inner, SPOT).read())
        assert has_gap(open_image(outer, SPOT, Reading(scale=1e-4, nodata=0)).read())
    with rasterio.open(outer) as file:
        names = [Path(name).name for name in files_of(file)]
    assert names == ["gap.outer.vrt", "gap.vrt", "gap.tif"]


def test_sources_of_a_vrt_are_opened_once(
    values: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outer = virtual(virtual(write(tmp_path / "a.tif", values)))
    opened = []

    def note(path: Path | str) -> rasterio.DatasetReader:
        opened.append(Path(path).name)
        return open_raster(path)

    monkeypatch.setattr("clouddl.products.raster.open_raster", note)
    open_image(outer, SPOT, SCALED)
    assert sorted(opened) == ["a.tif", "a.vrt"]


def test_nodata_of_arrays(values: np.ndarray) -> None:
    model = make_model()
    gap = np.zeros(values.shape, bool)
    gap[GAP] = True
    masked = np.ma.masked_array(values, gap)
    probability = predict_array(model, masked, BANDS, 10)
    assert np.isnan(probability[GAP[1:]]).all() and np.isfinite(probability[20:]).all()
    numbers = np.where(gap, 7, np.round(values * 1e4)).astype(np.int16)
    attributes = {"_FillValue": 7, "scale_factor": 1e-4, "resolution": 10}
    array = xr.DataArray(numbers, {"band": BANDS}, ("band", "y", "x"), attrs=attributes)
    np.testing.assert_allclose(predict_array(model, array), probability, atol=1e-4, equal_nan=True)


@pytest.mark.parametrize("number", [0, -9999])
def test_an_undeclared_number_over_a_block_warns(
    number: int, values: np.ndarray, tmp_path: Path
) -> None:
    path = filled(tmp_path, values)
    with rasterio.open(path) as file:
        profile = file.profile | {"dtype": "int16", "nodata": None}
        numbers = file.read().astype(np.int16)
    numbers[GAP] = number
    with rasterio.open(path, "w", **profile) as file:
        file.write(numbers)
    with pytest.warns(UserWarning, match=f"gap.tif: {number} fills 12.5%.*--nodata {number}"):
        predict(path)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        mask = predict(path, Reading(scale=1e-4, offset=-0.05, nodata=number))
    assert (mask[GAP[1:]] == 255).all()


@pytest.mark.parametrize("number", [0, 800])
def test_an_image_of_one_value_is_refused(number: int, values: np.ndarray, tmp_path: Path) -> None:
    path = filled(tmp_path, values)
    with rasterio.open(path, "r+") as file:
        file.write(np.full_like(file.read(), number))
    with (
        warnings.catch_warnings(),
        pytest.raises(InputError, match=r"gap.tif: every pixel has the same value.*--nodata"),
    ):
        warnings.simplefilter("ignore")
        predict(path)


def test_tags_of_scale_and_offset(values: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values)
    expected = open_image(path, SPOT, Reading(scale=1e-4, offset=-0.05)).read()
    with rasterio.open(path, "r+") as file:
        file.scales = [1e-4] * 4
        file.offsets = [-0.05] * 4
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        np.testing.assert_array_equal(open_image(path, SPOT).read(), expected)
        open_image(path, SPOT, Reading(scale=1e-4, offset=-0.05))
    with pytest.warns(UserWarning, match=r"a.tif: its own tags say scale 0.0001 and offset -0.05"):
        image = open_image(path, SPOT, Reading(scale=1e-4, offset=0.0))
    np.testing.assert_allclose(image.read(), expected + 0.05, atol=1e-6)
    with rasterio.open(path, "r+") as file:
        file.scales = [1e-4, 1e-4, 1e-4, 2e-4]
    image = open_image(path, SPOT)
    np.testing.assert_allclose(image.read()[3], 2 * expected[3] + 0.05, atol=1e-6)


def test_an_offset_in_digital_numbers_is_refused(values: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values)
    with pytest.raises(
        InputError, match=r"a.tif: offset -1000 is no reflectance.*should be -0\.1 "
    ):
        open_image(path, SPOT, Reading(scale=1e-4, offset=-1000))
    with pytest.raises(InputError, match=r"offset should be -0\.1 "):
        open_image(values, None, Reading(tuple(BANDS), 1e-4, -1000, resolution=10))


def level(values: np.ndarray, offset: float = 0.0, sun: float | None = None) -> None:
    check_reflectance(values, BANDS, "a.tif", [Reading(scale=1e-4, offset=offset)] * 4, sun=sun)


def test_the_level_of_values() -> None:
    rng = np.random.default_rng(0)
    good = rng.uniform(0.02, 0.6, (4, 40, 40)).astype(np.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        level(good)
        level(good + 0.1, offset=-0.1)
        level(good + 0.3)  # cloud or snow throughout
        level(good + 0.1 + 0.2 * (good > 0.05))  # the same with a few darker pixels
    with pytest.raises(InputError, match=r"only go up to 5.9e-05: divided by too much"):
        level(good * 1e-4)
    with pytest.raises(InputError, match=r"go down to -0.07.*an offset .* taken off twice"):
        level(good - 0.1)
    with pytest.raises(InputError, match=r"looks like digital numbers.*reflectance × 10000"):
        level(good * 1e4)
    with pytest.warns(UserWarning, match=r"a.tif: no pixel is below 0\.1 .*--offset -0\.1"):
        level(good + 0.1)
    with pytest.warns(UserWarning, match=r"is hazy or overcast throughout, or an offset"):
        level(good + 0.1)
    good[:, :4] = 2.1
    with pytest.warns(UserWarning, match="goes up to 2.1; a low sun may explain it"):
        level(good)


def test_what_a_low_sun_explains() -> None:
    """A slope that faces the sun shows 1.3 / sin(elevation) at most: 2.6 at 30°, 7.5 at 10°."""
    values = np.random.default_rng(0).uniform(0.02, 0.6, (4, 40, 40)).astype(np.float32)
    values[:, :4] = 2.1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        level(values, sun=30)
    with pytest.warns(UserWarning, match="goes up to 2.1; a sun at 60° does not explain it; check"):
        level(values, sun=60)
    values[:, :4] = 7
    level(values, sun=10)
    with pytest.raises(InputError, match="look like reflectance × 10"):
        level(values, sun=30)
    with pytest.raises(InputError, match="look like reflectance × 10"):
        level(values)
    values[:, :4] = 3.9  # as before, where the sun says nothing
    with pytest.warns(UserWarning, match=r"a low sun may explain it \(up to 4; its elevation"):
        level(values)


def test_arrays_are_checked_as_files_are(values: np.ndarray) -> None:
    model = make_model()
    with pytest.raises(InputError, match="looks like digital numbers"):
        predict_array(model, values * 1e4, BANDS, 10)
    with pytest.raises(InputError, match="every pixel is nodata"):
        predict_array(model, values * np.nan, BANDS, 10)


@pytest.mark.parametrize("number", [np.inf, -np.inf])
def test_infinite_numbers_are_nodata(number: float, values: np.ndarray, tmp_path: Path) -> None:
    values[GAP] = number
    image = open_image(values, None, Reading(tuple(BANDS), resolution=10))
    assert has_gap(image.read()) and has_gap(image.overview)


@pytest.mark.parametrize("number", [65535, float(np.finfo(np.float32).max), 9.969209968386869e36])
def test_an_undeclared_number_is_named_so_that_it_is_found(
    number: float, values: np.ndarray
) -> None:
    values[GAP] = number
    with pytest.warns(UserWarning, match="fills 12.5%.*--nodata") as caught:
        check_reflectance(values, BANDS, "a.tif")
    said = float(str(caught[0].message).split("--nodata ")[1])
    reading = Reading(tuple(BANDS), nodata=said, resolution=10)
    assert has_gap(open_image(values, None, reading).read())


def test_a_band_that_shows_nothing_is_warned_of(values: np.ndarray) -> None:
    for number in (0, np.nan):
        values[3] = number
        with pytest.warns(UserWarning, match="a.tif: swir16 has one value.*--use green,red,nir$"):
            check_reflectance(values, BANDS, "a.tif")


@pytest.mark.parametrize("tagged", [2, 6])
def test_alpha_that_gdal_tags_on_a_band(tagged: int, values: np.ndarray, tmp_path: Path) -> None:
    alpha = np.full((1, *values.shape[1:]), 6.5535, np.float32)
    alpha[:, 40:] = 3  # half transparent
    path = write(tmp_path / "a.tif", np.concatenate([values, values[:1], alpha]))
    with rasterio.open(path, "r+") as file:
        numbers = file.read()
        numbers[GAP] = 0
        file.write(numbers)
        file.nodata = None
        meanings = [ColorInterp.gray, *[ColorInterp.undefined] * 5]
        meanings[tagged - 1] = ColorInterp.alpha
        file.colorinterp = meanings
    image = open_image(path, SPOT, Reading((*BANDS, None), 1e-4))
    assert image.bands == tuple(BANDS) and has_gap(image.read())


@pytest.mark.parametrize(
    ("what", "number"),
    [("scale", 0), ("scale", np.nan), ("scale", "0.1"), ("offset", np.nan), ("resolution", np.nan)]
    + [("resolution", number) for number in (0, -30, np.inf, (30, 30))],
)
def test_what_is_no_number_is_refused(
    what: str, number: object, values: np.ndarray, tmp_path: Path
) -> None:
    path = write(tmp_path / "a.tif", values)
    for source in (path, values):
        with pytest.raises(InputError, match=rf"its {what} is .*\(--{what}\)"):
            open_image(source, SPOT, Reading(**{"bands": tuple(BANDS), what: number}))  # type: ignore[arg-type]


def test_tags_that_are_no_numbers_are_refused(values: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tif", values)
    with rasterio.open(path, "r+") as file:
        file.scales = [0.0] * 4
    with pytest.raises(InputError, match=r"a\.tif: its scale is 0\.0"):
        open_image(path, SPOT)
    array = xr.DataArray(values, {"band": BANDS}, ("band", "y", "x"), attrs={"resolution": "30 m"})
    with pytest.raises(InputError, match="image: the attribute resolution cannot be read"):
        open_image(array)


def test_nodata_of_integers_may_be_encoding_or_a_list(values: np.ndarray) -> None:
    numbers = np.round(values * 1e4).astype(np.int16)
    numbers[GAP] = 7
    array = xr.DataArray(numbers, {"band": BANDS}, ("band", "y", "x"), attrs={"resolution": 30})
    array.encoding = {"_FillValue": 7, "scale_factor": 1e-4}
    assert has_gap(open_image(array).read())
    array.attrs |= {"_FillValue": [7], "scale_factor": "1e-4"}
    assert has_gap(open_image(array).read())


def test_scales_of_an_array_that_differ_are_refused(values: np.ndarray) -> None:
    array = xr.DataArray(values, {"band": BANDS}, ("band", "y", "x"), attrs={"resolution": 10})
    as_rioxarray = array.assign_attrs(scales=(1, 1, 1, 2))
    listed = array.assign_attrs(add_offset=[0, 0, 0.1, 0])
    for other, key in ((as_rioxarray, "scales"), (listed, "add_offset")):
        with pytest.raises(InputError, match=rf"image: its attribute {key} is .*, and not one num"):
            open_image(other)
    same = array.assign_attrs(scales=(0.5,) * 4, nodatavals=(values[0, 0, 0],) * 4)
    read = open_image(same).read()
    assert np.isnan(read[0, 0, 0]) and read[0, 0, 1] == values[0, 0, 1] / 2


def test_an_offset_of_the_wrong_sign_is_warned_of() -> None:
    good = np.random.default_rng(0).uniform(0.02, 0.6, (4, 40, 40)).astype(np.float32)
    with pytest.warns(UserWarning, match=r"no pixel is below 0\.1 .*--offset -0\.1"):
        level(good / 2 + 0.2, offset=0.1)


@pytest.mark.parametrize("dtype", [bool, np.complex64, "datetime64[s]", str, object])
def test_what_is_no_reflectance_is_refused(
    dtype: type | str, values: np.ndarray, tmp_path: Path
) -> None:
    numbers = values.astype(dtype)
    with pytest.raises(InputError, match=r"image: holds .*; reflectance is wanted"):
        open_image(numbers, None, Reading(tuple(BANDS), resolution=10))
    np.save(tmp_path / "a.npy", numbers)
    with pytest.raises(InputError, match=r"a\.npy: (holds|cannot be read .* of another format)"):
        open_image(tmp_path / "a.npy", SPOT)


def test_arrays_of_other_libraries_and_bands_as_text(values: np.ndarray) -> None:
    reading = Reading("green, red,nir,swir16", resolution=10)  # type: ignore[arg-type]
    assert open_image(values.tolist(), None, reading).bands == tuple(BANDS)  # type: ignore[arg-type]
    for wrong in (None, 5, b"a.tif"):
        with pytest.raises(InputError, match=r"image: .*give .*\(band, y, x\)"):
            open_image(wrong, None, reading)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="image: red, red: named twice"):
        open_image(values, None, Reading(("red", "red", "nir", "green"), resolution=10))


@pytest.mark.parametrize("numbers", [{"scale": 0.0}, {"scale": np.nan}, {"offset": np.inf}])
def test_a_scale_that_is_none_is_refused(numbers: dict[str, float], tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((1, 9, 9)))
    with pytest.raises(InputError, match=r"a\.npy: its (scale|offset) is .*; give a"):
        open_image(tmp_path / "a.npy", "spot-5", Reading(("red",), **numbers))


def told(values: np.ndarray, **options: Any) -> list[str]:
    """What is warned of reflectance (blue, green, red, nir, swir16)."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check_reflectance(values, FIVE, "a.tif", **options)
    return [str(warning.message) for warning in caught]


def test_a_frame_of_zeros_is_told_once_and_by_its_number() -> None:
    numbers = np.random.default_rng(0).integers(2000, 6000, (5, 64, 64)).astype(np.uint16)
    numbers[:, :30, :20] = 0
    reading = Reading(scale=1e-4, offset=-0.1)
    (message,) = told(reading.reflectance(numbers), readings=[reading] * 5)
    assert message.startswith("a.tif: 0 fills 14.6% of the pixels") and "--nodata 0" in message


FIVE = ("blue", "green", "red", "nir", "swir16")


@pytest.fixture
def five() -> np.ndarray:
    """Reflectance as from above the atmosphere."""
    image = scene(64, 64, 5)
    return 0.06 + 0.5 * (image - image.min())


def test_a_gap_of_one_band(five: np.ndarray) -> None:
    assert told(five) == []
    five[3, 8:40, 8:24] = 0
    assert "0 fills 12.5% of the pixels, in nir, and is not" in told(five)[0]
    shifted = [Reading(scale=1e-4, offset=-0.1)] * 5
    five[3, 8:40, 8:24] = -0.1  # no offset that was taken off twice
    assert "0 fills 12.5% of the pixels, in nir, and is not" in told(five, readings=shifted)[0]


def test_water_may_be_0_in_short_wave_infrared(five: np.ndarray) -> None:
    five[4, 8:40, 8:24] = 0
    five[:4, 8:40, 8:24] = 0.07
    assert told(five) == []


def test_no_water_is_bright_where_short_wave_infrared_is_0(five: np.ndarray) -> None:
    """A detector whose swath is narrower than that of the others."""
    five[4, :, :16] = 0
    assert "0 fills 25% of the pixels, in swir16, and is not" in told(five)[0]


@pytest.mark.parametrize("band", [1, 4])
def test_lost_lines_of_one_band(band: int, five: np.ndarray) -> None:
    """As a scanner leaves them on a turned grid; what a correction clips at 0 is none."""
    five[3] = np.maximum(five[3], 0.21)
    y, x = np.indices(five.shape[1:])
    lost = (3 * y + x) % 60 < 3
    clipped = five.copy()
    clipped[band] = np.clip(clipped[band] - np.percentile(clipped[band], 5), 0, None)
    assert not [words for words in told(clipped, level="surface") if "fills" in words]
    five[band][lost] = 0
    (words,) = told(five, level="surface")
    assert f"0 fills {100 * lost.mean():.3g}% of the pixels, in {FIVE[band]}, and is not" in words


@pytest.mark.parametrize(
    ("number", "reading"),
    [(1, Reading()), (1, SCALED), (10_000, Reading(scale=1e-4, offset=-0.1)),
     (255, Reading(scale=1 / 255)), (2**32 - 1, SCALED), (-(2**31), SCALED)],
)  # fmt: skip
def test_a_frame_of_any_number(number: int, reading: Reading, five: np.ndarray) -> None:
    five[:, :16] = reading.reflectance(np.array([number], np.int64))
    (words,) = told(five, readings=[reading] * 5)
    assert words.endswith(f"--nodata {number}") and "fills 25% of the pixels" in words


@pytest.mark.parametrize("highest", [1.0, 0.9])
def test_saturated_cloud_is_no_gap(highest: float, five: np.ndarray) -> None:
    y, x = np.indices(five.shape[1:])
    cloud = 3 * np.exp(-((y - 30) ** 2 + (x - 40) ** 2) / 200)
    bright = np.minimum(five + cloud.astype(np.float32), np.float32(highest))
    assert (bright == highest).all(0)[24:32, 32:40].all() and told(bright) == []
    bright[3] = np.nan
    assert not [words for words in told(bright) if "fills" in words]


def test_nodata_that_float32_does_not_hold(values: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_reflectance(values, BANDS, "a.tif", [Reading(nodata=-1.797e308)] * 4)


@pytest.mark.parametrize(("number", "columns"), [(0, 2), (-9999, 1), (65535, 2)])
def test_narrow_gaps(number: int, columns: int, five: np.ndarray) -> None:
    """As between the lines of Landsat 7, or saturated ones: too narrow for a block."""
    five[:, :, 30 : 30 + columns] = Reading(scale=1e-4).reflectance(np.array([number]))
    words = told(five, readings=[Reading(scale=1e-4)] * 5)
    assert len(words) == 1 and f"{number} fills {100 * columns / 64:.3g}%" in words[0]
    assert f"--nodata {number}" in words[0]


def test_few_dark_pixels_are_no_gap(five: np.ndarray) -> None:
    five[:, 3, 3] = 0
    assert told(five) == []


def test_values_darker_than_the_air(five: np.ndarray) -> None:
    """Surface reflectance that no metadata tell of, or a scale of 10,000 for 12 bits."""
    assert "blue is below 0.045 in places" in told(five * 0.15)[0]
    assert told(five * 0.15, level="surface") == []
    assert told(five * 0.15, product=True) == []
    array = xr.DataArray(five * 0.15, {"band": list(FIVE)}, ("band", "y", "x"))
    with pytest.warns(UserWarning, match="darker than the air alone.*surface reflectance"):
        predict_array(make_model(), array.assign_attrs(resolution=30))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        predict_array(make_model(), array.assign_attrs(resolution=30, level="surface"))


def test_an_offset_of_landsat_that_is_forgotten(five: np.ndarray) -> None:
    reading = Reading(scale=2.75e-5)
    assert (
        "Landsat Collection 2 -0.1 at level 1 and -0.2 at level 2"
        in told(five * 0.5 + 0.2, readings=[reading] * 5)[0]
    )


def test_numbers_that_are_no_reflectance_of_any_scale(five: np.ndarray) -> None:
    for values in ((five - five.mean()) / five.std(), 10 * np.log10(five)):
        with pytest.raises(InputError, match="look standardised, logarithmic, or hold a nodata"):
            told(values)
    least, most = (end((1, 2), keepdims=True) for end in (five.min, five.max))
    assert "every band goes from 0 to 1" in told((five - least) / (most - least))[-1]


def test_numbers_that_ran_over(five: np.ndarray) -> None:
    five[0, 3, 3] = -0.78
    assert "a few pixels go down to -0.78: numbers ran over" in told(five)[0]


def test_8_bit_numbers_are_warned_of(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    numbers = (scene(40, 40) * 200).astype(np.uint8)
    with rasterio.open(
        path, "w", driver="GTiff", count=4, height=40, width=40, dtype="uint8"
    ) as file:
        file.write(numbers)
    with pytest.warns(UserWarning, match="a.tif: holds 8-bit numbers, as pictures do"):
        image = open_image(path, SPOT, Reading(scale=1 / 255))
    assert image.read()[0, 0, 0] == pytest.approx(numbers[0, 0, 0] / 255)


def test_a_divisor_is_no_scale(values: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"scale 10000 is no factor.*the scale is 0\.0001"):
        open_image(write(tmp_path / "a.tif", values), SPOT, Reading(scale=1e4))


def test_an_array_whose_bands_are_first_or_last(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", scene(6, 4))
    with pytest.warns(UserWarning, match="does not say whether bands are first or last"):
        assert open_image(tmp_path / "a.npy", SPOT).shape == (6, 4)


def test_arrays_that_pytorch_does_not_take(values: np.ndarray) -> None:
    array = xr.DataArray(values, {"band": BANDS}, ("band", "y", "x"), attrs={"resolution": 10})
    right = predict_array(make_model(), array)
    still = array.copy(data=np.broadcast_to(values, values.shape))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        np.testing.assert_array_equal(predict_array(make_model(), still), right)
        turned = array.copy(data=values[:, ::-1].copy()).isel(y=slice(None, None, -1))
        np.testing.assert_array_equal(predict_array(make_model(), turned), right)
