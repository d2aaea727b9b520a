"""Scenes: reflectance, masks and heights on one grid, resampling, and what is refused."""

import itertools
import os

import numpy as np
import pytest
import rasterio
import xarray as xr
from conftest import read_image
from rasterio.coords import disjoint_bounds
from rasterio.transform import from_origin
from rasterio.warp import transform_bounds
from rasterio.windows import Window

from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.products.dem import read_dem
from clouddl.products.reading import Reading, check_reflectance
from clouddl.scenes import Scene, load_catalogue, open_scene, resample

real = pytest.mark.skipif(
    "CLOUDDL_MIRROR" not in os.environ, reason="needs the real files: set CLOUDDL_MIRROR"
)


def write(path, array, crs="EPSG:32631", step=10.0, origin=(500_000, 4_600_000), nodata=None):
    array = np.asarray(array)
    with rasterio.open(
        path, "w", driver="GTiff", count=len(array), height=array.shape[1], width=array.shape[2],
        dtype=array.dtype, crs=crs, transform=from_origin(*origin, step, step), nodata=nodata,
    ) as target:  # fmt: skip
        target.write(array)
    return path


class Folder(Store):
    """A store whose files are those of a folder, unverified."""

    def __init__(self, folder):
        self.folder = folder

    def fetch(self, path):
        return self.folder / path


def record(**changes):
    fields = {"id": "s", "collection": "c", "sensor": "sentinel-2", "bands": ["red", "nir"],
              "image": ["s.tif"], "scale": 1e-4, "nodata": 0, "resolution": 10,
              "role": "train", "group": "g"}  # fmt: skip
    return Scene(**{**fields, **changes})


def dataset(image, resolution=10.0, **layers):
    grid = {axis: np.arange(n) * resolution for axis, n in zip("yx", image.shape[1:], strict=True)}
    data = {"reflectance": (("band", "y", "x"), image.astype(np.float32))}
    data |= {name: (("y", "x"), layer) for name, layer in layers.items()}
    names = ["red", "nir", "swir16"][: len(image)]
    return xr.Dataset(data, {"band": names, **grid}, {"resolution": resolution})


DN = np.arange(1, 97, dtype=np.uint16).reshape(2, 6, 8) * 100


def test_read_image_scales_masks_and_places(tmp_path):
    values = DN.copy()
    values[:, 0, 0] = 0
    image = read_image(write(tmp_path / "a.tif", values, nodata=0), ["red", "nir"],
                       Reading(scale=1e-4, offset=-0.1))  # fmt: skip
    assert image.dtype == np.float32 and image.shape == (2, 6, 8)
    assert np.isnan(image[:, 0, 0]).all() and np.isfinite(image).sum() == 94
    np.testing.assert_allclose(image[1, 2, 3], DN[1, 2, 3] * 1e-4 - 0.1, rtol=1e-5)
    assert image.rio.crs.to_epsg() == 32631 and image.attrs["resolution"] == 10
    assert (image.x[0], image.y[0]) == (500_005, 4_599_995)


def test_read_image_skips_layers_and_reads_windows(tmp_path):
    path = write(tmp_path / "a.tif", DN)
    part = read_image(path, [None, "nir"], window=Window(2, 1, 3, 4))
    np.testing.assert_array_equal(part[0], DN[1, 1:5, 2:5])
    assert list(part.band.values) == ["nir"] and (part.x[0], part.y[0]) == (500_025, 4_599_985)


@pytest.mark.parametrize("order", ["first", "last"])
def test_arrays_with_bands_first_or_last(tmp_path, order):
    stored = DN if order == "first" else np.moveaxis(DN, 0, -1)
    np.save(tmp_path / "a.npy", stored)
    np.savez(tmp_path / "a.npz", img=stored)
    for name in ("a.npy", "a.npz#img"):
        image = read_image(f"{tmp_path / name}", ["red", "nir"], Reading(resolution=30))
        np.testing.assert_array_equal(image, DN)
        assert image.rio.crs is None and list(image.x[:2].values) == [0, 30]
    window = read_image(
        tmp_path / "a.npy", ["red", None], Reading(resolution=30), Window(2, 1, 3, 4)
    )
    np.testing.assert_array_equal(window[0], DN[0, 1:5, 2:5])
    assert (window.x[0], window.y[0]) == (60, 30)


def test_what_cannot_be_read_is_named(tmp_path):
    path = write(tmp_path / "a.tif", DN)
    with pytest.raises(InputError, match=r"a\.tif: has 2 bands, but 1 are named: red"):
        read_image(path, ["red"])
    with pytest.raises(InputError, match=r"a\.tif: its pixels are 10 m, not 30 m"):
        read_image(path, ["red", "nir"], Reading(resolution=30))
    big = write(tmp_path / "cut.tif", np.ones((2, 200, 200), np.uint16))
    big.write_bytes(big.read_bytes()[:30_000])
    with pytest.raises(InputError, match=r"cut\.tif: cannot be read.*truncated"):
        read_image(big, ["red", "nir"])
    with pytest.raises(InputError, match=r"none\.tif"):
        read_image(tmp_path / "none.tif", ["red"])
    np.save(tmp_path / "a.npy", DN)
    with pytest.raises(InputError, match="--resolution"):
        read_image(tmp_path / "a.npy", ["red", "nir"])
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(InputError, match=r"pickle\.npy"):
        read_image(tmp_path / "pickle.npy", ["red"], Reading(resolution=10))
    np.savez(tmp_path / "a.npz", img=DN)
    with pytest.raises(InputError, match=r"choose .*#img"):
        read_image(f"{tmp_path}/a.npz#image", ["red", "nir"], Reading(resolution=10))
    (tmp_path / "bad.npz").write_bytes(b"PK\3\4nothing")
    with pytest.raises(InputError, match=r"bad\.npz"):
        read_image(f"{tmp_path}/bad.npz#img", ["red"], Reading(resolution=10))


def test_check_reflectance():
    good, bands = np.full((2, 4, 4), 0.3), ["red", "nir"]
    check_reflectance(good, bands, "a.tif")
    with pytest.raises(InputError, match=r"a\.tif: looks like digital numbers.*--scale 0\.0001"):
        check_reflectance(good * 10_000, bands, "a.tif")
    with pytest.raises(InputError, match="every pixel is nodata"):
        check_reflectance(good * np.nan, bands, "a.tif")
    kelvin = np.concatenate([good, good[:1] * 1000])
    check_reflectance(kelvin, [*bands, "lwir11"], "a.tif")


def test_open_scene_with_mask_and_heights(tmp_path):
    values = DN.copy()
    values[:, 0, 0] = 0
    write(tmp_path / "s.tif", values)
    write(tmp_path / "m.tif", np.eye(6, 8, dtype=np.uint8)[None])
    write(tmp_path / "d.tif", np.full((1, 20, 20), 250, np.int16), step=30,
          origin=(499_900, 4_600_100))  # fmt: skip
    scene = open_scene(record(label="m.tif", label_codes="binary", dem="d.tif"), Folder(tmp_path))
    assert scene.attrs == {"scene": "s", "sensor": "sentinel-2", "resolution": 10.0,
                           "level": "toa", "group": "g", "role": "train"}  # fmt: skip
    assert scene.mask.dtype == np.uint8 and scene.mask.values[0, 0] == 255
    assert scene.mask.values[1, 1] == 1 and scene.mask.values[1, 2] == 0
    assert (scene.elevation == 250).all() and scene.elevation.dtype == np.float32


def test_open_scene_from_one_file_per_band(tmp_path):
    for name, layer in zip("rn", DN, strict=True):
        write(tmp_path / f"{name}.tif", layer[None])
    scene = open_scene(record(image=["r.tif", "n.tif"]), Folder(tmp_path))
    np.testing.assert_allclose(scene.reflectance, DN * 1e-4, rtol=1e-5)
    write(tmp_path / "n.tif", DN[1:, :5])
    with pytest.raises(InputError, match=r"n\.tif: its grid differs"):
        open_scene(record(image=["r.tif", "n.tif"]), Folder(tmp_path))


def test_open_scene_refuses_what_does_not_fit(tmp_path):
    write(tmp_path / "s.tif", DN)
    write(tmp_path / "m.tif", np.zeros((1, 5, 5), np.uint8), origin=(0, 0))
    with pytest.raises(InputError, match=r"m\.tif"):
        open_scene(record(label="m.tif", label_codes="binary"), Folder(tmp_path))
    with pytest.raises(InputError, match="spot-4 has no band 'blue'"):
        open_scene(record(bands=["blue", "red"], sensor="spot-4"), Folder(tmp_path))
    with pytest.raises(InputError, match="digital numbers"):
        open_scene(record(scale=1.0), Folder(tmp_path))


def test_a_drawn_scene_needs_no_files():
    scene = open_scene(record(bands=[], image=[], simulated={"seed": 1, "size": 64}), Store(None))
    assert scene.reflectance.shape[1:] == (64, 64) and scene.attrs["scene"] == "s"
    assert {"mask", "elevation"} <= set(scene)


def test_read_dem_is_bilinear_and_refuses_no_overlap(tmp_path):
    image = read_image(write(tmp_path / "a.tif", DN), ["red", "nir"])
    slope = np.tile(np.arange(40, dtype=np.float32) * 5, (40, 1))[None]  # 5 m in every 20 m
    dem = write(tmp_path / "d.tif", slope, step=20, origin=(499_800, 4_600_400))
    height = read_dem(dem, image)
    np.testing.assert_allclose(np.diff(height, axis=1), 2.5, atol=0.2)
    sea = write(tmp_path / "sea.tif", np.zeros((1, 40, 40), np.int16), step=20,
                origin=(499_800, 4_600_400), nodata=0)  # fmt: skip
    assert (read_dem(sea, image) == 0).all()
    far = write(tmp_path / "far.tif", slope, origin=(0, 0))
    with pytest.raises(InputError, match="does not cover"):
        read_dem(far, image)
    with pytest.raises(InputError, match="no CRS"):
        read_dem(dem, dataset(DN / 1e4))


def test_resample_by_a_whole_factor_is_the_block_mean():
    image = np.random.default_rng(0).random((2, 12, 8))
    coarse = resample(dataset(image), 40)
    np.testing.assert_allclose(
        coarse.reflectance, image.reshape(2, 3, 4, 2, 4).mean((2, 4)), rtol=1e-5
    )
    assert list(coarse.x.values) == [15, 55] and coarse.attrs["resolution"] == 40


@pytest.mark.parametrize(("resolution", "size"), [(60, 43), (30, 85), (25.6, 100)])
def test_resample_by_any_factor_keeps_the_mean_and_a_plane(resolution, size):
    plane = np.tile(np.arange(256) / 256, (1, 256, 1))
    coarse = resample(dataset(plane), resolution)
    assert coarse.reflectance.shape == (1, size, size)
    np.testing.assert_allclose(coarse.reflectance.mean(), plane.mean(), rtol=1e-4)
    np.testing.assert_allclose(coarse.reflectance[0, 0], coarse.x / 2560, atol=3e-4)


def test_resample_by_a_broken_factor_weighs_by_area():
    image = np.random.default_rng(1).random((1, 15, 15))
    fine = image.repeat(4, 1).repeat(4, 2)  # 60 pixels: 15 of them make one of the 4 of the target
    blocks = fine.reshape(1, 4, 15, 4, 15).mean((2, 4))
    np.testing.assert_allclose(resample(dataset(image), 37.5).reflectance, blocks, rtol=1e-5)


def test_resample_to_finer_pixels_is_bilinear():
    fine = resample(dataset(np.array([[[0.0, 1.0]]])), 2.5)
    np.testing.assert_allclose(fine.reflectance[0, 0], [0, 0, 0.125, 0.375, 0.625, 0.875, 1, 1])
    assert fine.sizes["y"] == 4 and fine.x.values[0] == -3.75


def test_resample_leaves_nodata_out():
    image = np.full((1, 4, 4), 0.5)
    image[0, :2, :2] = np.nan
    image[0, 0, 2] = np.nan
    mask = np.array([[255, 255, 1, 1], [255, 1, 0, 0], [1, 0, 0, 0], [1, 0, 0, 1]], np.uint8)
    height = np.full((4, 4), 100, np.float32)
    coarse = resample(dataset(image, mask=mask, elevation=height), 20)
    np.testing.assert_array_equal(coarse.reflectance[0], [[np.nan, 0.5], [0.5, 0.5]])
    np.testing.assert_array_equal(coarse.mask, [[255, 1], [1, 0]])
    assert coarse.mask.dtype == np.uint8 and (coarse.elevation == 100).all()
    with pytest.raises(InputError, match="above 0"):
        resample(coarse, 0)


@real
def test_every_collection_of_the_real_corpus_opens():
    catalogue = load_catalogue("real")
    store = Store(catalogue.registry)
    first = {scene.collection: scene for scene in reversed(catalogue.scenes)}
    for scene in first.values():
        opened = open_scene(scene, store)
        assert ("mask" in opened) == bool(scene.label or scene.simulated), scene.id
        assert ("elevation" in opened) == bool(scene.dem or scene.simulated), scene.id
        coarse = resample(opened, 60)
        np.testing.assert_allclose(
            coarse.reflectance.mean(("y", "x")), opened.reflectance.mean(("y", "x")), rtol=0.01
        )


@real
def test_real_grounds_that_overlap_are_in_one_group() -> None:
    catalogue = load_catalogue("real")
    store = Store(catalogue.registry)
    learnt = {"train", "validation", "reference"}
    images = [s for s in catalogue.scenes if s.role in learnt and s.image]
    grounds = []
    for scene in images:
        if scene.image[0].endswith(".tif"):
            with rasterio.open(store.fetch(scene.image[0])) as file:
                if file.crs:
                    bounds = transform_bounds(file.crs, "EPSG:4326", *file.bounds)
                    grounds.append((scene.group, bounds))
    assert len(grounds) == 139
    overlap = [
        {group, other}
        for (group, one), (other, two) in itertools.combinations(grounds, 2)
        if group != other and not disjoint_bounds(one, two)
    ]
    assert not overlap


@real
def test_the_masked_patches_have_two_layers_of_radar_first_and_their_targets_none() -> None:
    catalogue = load_catalogue("real")
    store = Store(catalogue.registry)
    for name in ("masked", "target"):
        mean = open_scene(catalogue.scene(f"{name}_1302"), store).reflectance.mean(("y", "x"))
        bands = mean.to_series()
        assert len(bands) == 13
        assert bands["coastal"] > bands["blue"] > bands["green"] > bands["red"]  # mostly water
        assert bands["cirrus"] < 0.01 < bands["nir09"] < bands["nir08"]


@real
def test_the_band_order_of_landsat_8_biome_is_what_the_values_say():
    catalogue = load_catalogue("real")
    scene = open_scene(catalogue.scene("l8_Water_01_0922"), Store(catalogue.registry))
    mean = scene.reflectance.mean(("y", "x")).to_series()
    assert 200 < mean["lwir11"] < 330 and mean["cirrus"] < 0.02
    assert mean["blue"] > mean["green"] > mean["red"] > mean["swir16"]  # clear water
