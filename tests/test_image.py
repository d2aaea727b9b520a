"""The one door: whatever an image comes as, it is read in the same way."""

from pathlib import Path

import numpy as np
import pytest
import rasterio
import xarray as xr
from conftest import read_image
from rasterio.windows import Window
from test_predict import BANDS, SPOT, make_model, scene, write
from test_products import landsat

from clouddl.errors import InputError
from clouddl.predict import predict_array, predict_file
from clouddl.products import open_image, open_product
from clouddl.products.image import Image
from clouddl.products.reading import Reading

WINDOW = Window(8, 4, 32, 16)


@pytest.fixture
def values() -> np.ndarray:
    image = np.round(scene(60, 80), 4)
    image[:, :10, :10] = np.nan
    return image


def sources(values: np.ndarray, folder: Path) -> dict[str, Image]:
    """The same image as a file, an archive of arrays, and in memory."""
    path = write(folder / "a.tif", values)
    reading = Reading(scale=1e-4)
    stored = read_image(path, BANDS, reading)
    np.savez(folder / "a.npz", img=np.moveaxis(stored.values, 0, -1))
    return {
        "file": open_image(path, SPOT, reading),
        "npz": open_image(folder / "a.npz", SPOT, Reading(resolution=10)),
        "array": open_image(stored.values, SPOT, Reading(tuple(BANDS), resolution=10)),
        "DataArray": open_image(stored),
        "Dataset": open_image(stored.to_dataset().assign_attrs(stored.attrs)),
    }


def test_every_source_is_read_alike(values: np.ndarray, tmp_path: Path) -> None:
    opened = sources(values, tmp_path)
    expected = opened["file"].read()
    assert expected.dtype == np.float32 and np.isnan(expected[:, :10, :10]).all()
    np.testing.assert_allclose(expected[:, 20:], values[:, 20:], atol=1e-4)
    for name, image in opened.items():
        assert image.bands == tuple(BANDS) and image.shape == (60, 80), name
        assert image.resolution == 10, name
        np.testing.assert_array_equal(image.read(), expected, name)
        np.testing.assert_array_equal(image.read(WINDOW), expected[:, 4:20, 8:40], name)
        two = image.select(["nir", "green"])
        np.testing.assert_array_equal(two.read(WINDOW), expected[[2, 0], 4:20, 8:40], name)
        np.testing.assert_array_equal(two.overview, expected[[2, 0]], name)
    assert opened["DataArray"].grid == opened["file"].grid
    dataset = opened["file"].dataset()
    assert dataset.attrs["sensor"] == "spot-5" and dataset.attrs["resolution"] == 10
    assert dataset.rio.crs.to_epsg() == 32631


def test_an_image_in_memory_is_predicted_on_its_grid(values: np.ndarray, tmp_path: Path) -> None:
    model = make_model()
    path = write(tmp_path / "a.tif", values)
    image = read_image(path, BANDS, Reading(scale=1e-4)).assign_attrs(scene="memory")
    mask, probability = predict_file(image, SPOT, tmp_path / "out", model=model, progress=False)
    assert mask.name == "memory_cloud.tif"
    with rasterio.open(probability) as file, rasterio.open(path) as source:
        assert (file.crs, file.transform) == (source.crs, source.transform)
        expected = np.floor(predict_array(model, image) * 1000) / 1000  # as it is stored
        np.testing.assert_array_equal(file.read(1), expected)


def test_a_product_is_read_when_its_bands_are_chosen(tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    product = open_image(path)
    expected = open_product(path, 60, ["red", "nir"])
    image = product.select(["red", "nir"], 60)
    xr.testing.assert_equal(image.dataset().reflectance, expected.reflectance)
    assert image.sensor == product.sensor and product.level == "toa"
    assert product.read(Window(0, 0, 2, 2)).shape == (len(product.bands), 2, 2)
    assert product.overview.shape[1:] == product.shape and product.resolution == 30
    next(path.glob("*_B2.TIF")).unlink()
    incomplete = open_image(path)
    assert "blue" in incomplete.bands
    with pytest.raises(InputError, match="the file of its band blue is missing"):
        incomplete.select(["blue"])


def test_an_array_needs_bands_and_a_resolution(values: np.ndarray) -> None:
    with pytest.raises(InputError, match="a name for each band"):
        open_image(values, reading=Reading(resolution=10))
    with pytest.raises(InputError, match="its resolution is None"):
        open_image(values, reading=Reading(tuple(BANDS))).array()
