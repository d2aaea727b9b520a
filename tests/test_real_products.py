"""Real files of products, which nobody of the project made, read as their metadata say.

They are not part of the project: CLOUDDL_PRODUCTS is the folder that holds them.
"""

import json
import os
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import rasterio

from clouddl.errors import InputError
from clouddl.products import open_product
from clouddl.products.readers import find_product

PRODUCTS = os.environ.get("CLOUDDL_PRODUCTS", "")

pytestmark = [
    pytest.mark.skipif(not PRODUCTS, reason="CLOUDDL_PRODUCTS names no folder of real products"),
    pytest.mark.filterwarnings("ignore:.*surface reflectance"),
]

EO = "eo_datasets/tests/integration/data"
L1GT = f"{EO}/LC08_L1GT_089074_20220506_20220512_02_T2"
GDAL = "gdal_autotest/autotest/gdrivers/data"


def product(path: str) -> Path:
    return Path(PRODUCTS) / path


def numbers(path: Path) -> np.ndarray:
    """The stored numbers of one band, as floats."""
    with rasterio.open(path) as file:
        return file.read(1).astype(float)


def check(scene: np.ndarray, stored: np.ndarray, scale: float, offset: float) -> None:
    """All pixels of a band against the arithmetic of its metadata; 0 is nodata."""
    expected = np.where(stored == 0, np.nan, stored * scale + offset)
    assert np.isfinite(expected).any()
    np.testing.assert_allclose(scene, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("path", "group", "level", "file"),
    [
        (L1GT, "LEVEL1_RADIOMETRIC_RESCALING", "toa", "_B5.TIF"),
        (f"{EO}/LC08_L2SP_098084_20210503_20210508_02_T1",
         "LEVEL2_SURFACE_REFLECTANCE_PARAMETERS", "surface", "_SR_B5.TIF"),
    ],
)  # fmt: skip
def test_landsat_of_collection_2(path: str, group: str, level: str, file: str) -> None:
    folder = product(path)
    text = next(folder.glob("*_MTL.txt")).read_text()
    part = text[text.index(f"GROUP = {group}") :]
    names = ("MULT", "ADD")
    found = [re.search(rf"REFLECTANCE_{name}_BAND_5 = (\S+)", part) for name in names]
    scale, offset = (float(match[1]) for match in found if match)
    sun = re.search(r"SUN_ELEVATION = (\S+)", text)
    sine = np.sin(np.radians(float(sun[1]))) if sun and level == "toa" else 1.0
    scene = open_product(folder, bands=["nir"])
    assert scene.attrs["level"] == level
    check(scene.reflectance[0].values, numbers(next(folder.glob(f"*{file}"))), scale / sine,
          offset / sine)  # fmt: skip


def test_item_of_landsat_level_1_is_what_its_files_are(tmp_path: Path) -> None:
    """Its near infrared is nir08, and it has no raster:bands."""
    folder = product(L1GT)
    item = json.loads(next(folder.glob("*_stac.json")).read_text())
    for asset in item["assets"].values():
        asset["href"] = str(folder / asset["href"].rpartition("/")[2])
    (tmp_path / "item.json").write_text(json.dumps(item))
    scene = open_product(tmp_path / "item.json")
    files = open_product(folder)
    assert scene.band.values.tolist() == files.band.values.tolist() and "nir" in scene.band
    np.testing.assert_allclose(scene.reflectance, files.reflectance, rtol=1e-5, atol=1e-6)


def test_landsat_9_in_a_tar(tmp_path: Path) -> None:
    path = product(f"{EO}/LC09_L1TP_112081_20220209_20220209_02_T1.tar")
    with tarfile.open(path) as archive:
        archive.extractall(tmp_path, filter="data")
    sun = re.search(r"SUN_ELEVATION = (\S+)", next(tmp_path.rglob("*_MTL.txt")).read_text())
    assert sun
    sine = np.sin(np.radians(float(sun[1])))
    scene = open_product(path, bands=["red"])
    stored = numbers(next(tmp_path.rglob("*_B4.TIF")))
    check(scene.reflectance[0].values, stored, 2e-5 / sine, -0.1 / sine)


def test_quality_of_collection_1() -> None:
    """Its QA_PIXEL holds 2800 and 6896: 93 % of the pixels are cloud, where Collection 2 has 0."""
    path = product(f"{EO}/LC08_L1TP_090084_20160121_20200907_02_T1")
    with pytest.warns(UserWarning, match="holds codes of Collection 1"):
        scene = open_product(path, bands=["red"])
    valid = scene.mask.values != 255
    assert (scene.mask.values[valid] == 1).mean() == pytest.approx(0.93, abs=0.01)


def test_sentinel2_as_aws_keeps_it() -> None:
    path = product(f"{EO}/sinergise_s2_l1c")
    scene = open_product(path, bands=["red"])
    assert scene.attrs["level"] == "toa"
    check(scene.reflectance[0].values, numbers(next(path.rglob("B04.jp2"))), 1e-4, 0.0)


def test_sentinel2_l1c_in_a_zip() -> None:
    path = next(product(f"{EO}/s2_null_granule").glob("*.zip"))
    scene = find_product(path)
    layer = scene.layers["red"]
    check(open_product(path, bands=["red"]).reflectance[0].values, numbers(Path(layer.tiles[0][0])),
          1e-4, 0.0)  # fmt: skip


def test_sentinel2_l2a_of_baseline_02_05() -> None:
    path = next(product(f"{GDAL}/sentinel2/fake_l2a_MSIL2Ap").glob("*.SAFE"))
    found = find_product(path)
    assert not found.missing and len(found.layers) == 12
    assert {(layer.reading.scale, layer.reading.offset) for layer in found.layers.values()} == {
        (1e-4, 0.0)
    }
    with pytest.raises(InputError, match="every pixel is nodata"):
        open_product(path)


def test_the_sun_of_real_metadata() -> None:
    text = next(product(L1GT).glob("*_MTL.txt")).read_text()
    sun = re.search(r"SUN_ELEVATION = (\S+)", text)
    assert sun and find_product(product(L1GT)).sun == float(sun[1])
    neo = find_product(product(f"{GDAL}/dimap2/vhr2020_ms_fs"))
    assert neo.sun == pytest.approx(52.3271354)


@pytest.mark.filterwarnings("error::UserWarning")  # the colours of _NED_ are for display
def test_pleiades_neo_has_its_six_bands_in_two_files() -> None:
    found = find_product(product(f"{GDAL}/dimap2/vhr2020_ms_fs"))
    assert found.sensor.id == "pleiades-neo" and found.level == "surface"
    layers = {"red": 1, "green": 2, "blue": 3, "nir": 4, "rededge071": 5, "coastal": 6}
    assert set(found.layers) == set(layers)
    for band, number in layers.items():  # every layer holds its number, as GDAL counts them
        image = found.image(band)
        assert image.shape == (1366, 1663) and image.resolution == pytest.approx(1.2, abs=0.01)
        assert np.unique(image.read()) == pytest.approx([number / 10_000])
    with pytest.raises(InputError, match="wrong scale: by the metadata its values only go up"):
        found.read(["red"])


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (f"{EO}/LC08_L1TP_090084_20160121_20170405_01_T1.tar.gz",
         "is LANDSAT_8 L1TP OLI_TIRS, Collection 01; .* order the scene anew"),
        ("landsat_small_satellite/inst/testdata/LC8",
         "is LANDSAT_8 L1T OLI_TIRS, before the Collections"),
        (f"{GDAL}/dimap", "has the bands PAN: is panchromatic"),
        ("stactools_landsat/tests/data-files/oli-tirs/"
         "LC08_L2SP_047027_20201204_20210313_02_T1_SR_stac.json", "eo:bands"),
        ("stactools_landsat/tests/data-files/tm/"
         "LT05_L2SP_010067_19860424_20200918_02_T2_ST_stac.json", "no asset is a band"),
    ],
)  # fmt: skip
def test_what_is_not_read_is_named(path: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        find_product(product(path))
