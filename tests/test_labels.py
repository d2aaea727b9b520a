"""Labels: the codes of every product, the processors, and masks read from files."""

import os
from pathlib import Path

import numpy as np
import pytest
import rioxarray
import xarray as xr
from rasterio.transform import from_origin

from clouddl.errors import InputError
from clouddl.labels import (
    CODES,
    LABEL_SOURCES,
    PROCESSORS,
    S2CLOUDLESS_BANDS,
    UKIS_BANDS,
    decode,
    dilate,
    label_scene,
    read_mask,
    s2cloudless,
    ukis_csmask,
    vote,
)

MIRROR = os.environ.get("CLOUDDL_MIRROR")
# The thirteen bands of Sentinel-2 in ESA's order.
ESA = "coastal blue green red rededge071 rededge075 rededge078 nir nir08 nir09 cirrus swir16 swir22"


@pytest.mark.parametrize(
    ("codes", "raw", "expected"),
    [
        ("alcd", [0, 1, 2, 3, 4, 5, 6, 7], [255, 255, 1, 1, 0, 0, 0, 0]),
        ("fmask", [0, 1, 2, 3, 4, 5], [255, 0, 1, 0, 0, 0]),
        ("fmask4", [0, 1, 2, 3, 4, 255], [0, 0, 0, 0, 1, 255]),
        ("scl", list(range(12)), [255, 255, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0]),
        ("l8biome", [0, 64, 128, 192, 255], [255, 0, 0, 1, 1]),
        ("ukis", [0, 1, 2, 3, 4], [0, 0, 0, 0, 1]),
        ("cloudsen12", [0, 1, 2, 3], [0, 1, 1, 0]),
        ("binary", [0, 1, 255], [0, 1, 255]),
        ("binary-255", [0, 255], [0, 1]),
        # one bit after the other, from the lowest
        ("maja-clm-muscate", [0, 1, 2, 4, 8, 16, 32, 64, 128], [0, 0, 1, 0, 0, 1, 0, 0, 1]),
        ("maja-clm-native", [0, 1, 2, 4, 8, 16, 32, 64, 128], [0, 0, 1, 0, 0, 0, 0, 1, 1]),
        ("maja-mg2", [0, 1, 2, 4, 8, 16, 32, 64, 128], [0, 0, 1, 0, 0, 0, 0, 0, 0]),
        ("maja-nua", [0, 1, 2, 4, 8, 16, 32, 64, 128], [0, 0, 1, 0, 0, 1, 1, 0, 0]),
        # fill, dilated, cirrus, cloud, shadow; clear land, a cloud and a fill as USGS prints them
        ("bqa", [1, 2720, 2800, 6896, 16, 1 << 12], [255, 0, 1, 1, 1, 1]),
        ("qa-pixel", [1, 2, 4, 8, 16, 21824, 22280, 9], [255, 0, 1, 1, 0, 0, 1, 255]),
    ],
)
def test_every_code(codes: str, raw: list[int], expected: list[int]) -> None:
    table = CODES[codes]
    if not codes.startswith(("maja", "qa", "bqa")):
        assert sorted([*table.clear, *table.cloud, *table.nodata]) == raw
    decoded = decode(np.array(raw), codes)
    assert decoded.dtype == np.uint8
    assert decoded.tolist() == expected


def test_every_product_is_tested() -> None:
    marks = [m for m in test_every_code.pytestmark if m.name == "parametrize"]
    assert {case[0] for case in marks[0].args[1]} == set(CODES)


def test_the_two_layouts_of_maja_differ_on_the_same_bytes() -> None:
    clm = np.arange(256)
    muscate, native = decode(clm, "maja-clm-muscate"), decode(clm, "maja-clm-native")
    both = clm & 0b10000010 > 0
    assert np.array_equal(muscate == 1, both | (clm & 0b00010000 > 0))
    assert np.array_equal(native == 1, both | (clm & 0b01000000 > 0))
    assert (muscate != native).any()


def test_nodata_next_to_the_codes() -> None:
    edge = np.array([0, 1, 0])
    assert decode(np.array([0, 2, 2]), "maja-clm-muscate", nodata=edge).tolist() == [0, 255, 1]
    assert decode(np.array([0.0, np.nan, 1.0]), "binary").tolist() == [0, 255, 1]
    assert decode(np.array([True, False]), "binary").tolist() == [1, 0]
    with pytest.raises(InputError, match="shape"):
        decode(np.zeros((2, 2)), "binary", nodata=edge)


@pytest.mark.parametrize("value", [12, -1, 300])
def test_an_unknown_code_is_named(value: float) -> None:
    with pytest.raises(InputError, match=rf"scl.*{value}.*cloudsen12"):
        decode(np.array([4, value]), "scl")
    with pytest.raises(InputError, match=r"scl.*0\.5 is no code but a fraction"):
        decode(np.array([4, 0.5]), "scl")


def test_an_unknown_table_is_named_with_the_choices() -> None:
    with pytest.raises(InputError, match=r"maja.*maja-clm-native"):
        decode(np.zeros(2), "maja")


def test_votes() -> None:
    a, b, c = (
        np.array(row, np.uint8) for row in ([0, 1, 0, 1, 255], [0, 1, 0, 0, 0], [0, 1, 1, 0, 1])
    )
    assert vote([a, b, c], "all").tolist() == [0, 1, 255, 255, 255]
    assert vote([a, b, c], "majority").tolist() == [0, 1, 0, 0, 255]
    assert vote([a, b, c], "any").tolist() == [0, 1, 1, 1, 255]
    assert vote([a], "all").tolist() == a.tolist()
    with pytest.raises(InputError, match="one shape"):
        vote([a, b[:2]], "all")
    with pytest.raises(InputError, match="majority, any"):
        vote([a], "most")


@pytest.mark.parametrize(
    ("resolution", "metres", "pixels"),
    # a point dilated by 30 m: 29 pixels of 10 m, a cross of 30 m; 45 m reaches the diagonal (42 m)
    [(10, 30, 29), (30, 30, 5), (30, 45, 9), (30, 29, 1), (10, 0, 1)],
)
def test_dilation_is_in_metres(resolution: float, metres: float, pixels: int) -> None:
    mask = np.zeros((21, 21), np.uint8)
    mask[10, 10] = 1
    grown = dilate(mask, metres, resolution)
    assert grown.dtype == np.uint8
    assert grown.sum() == pixels
    assert mask.sum() == 1


def test_dilation_leaves_nodata_and_a_clear_sky() -> None:
    mask = np.array([[0, 1, 255, 0]], np.uint8)
    assert dilate(mask, 20, 10).tolist() == [[1, 1, 255, 1]]
    assert dilate(np.zeros((3, 3), np.uint8), 100, 10).sum() == 0
    with pytest.raises(InputError, match="-1"):
        dilate(mask, -1, 10)


def simulated(size: int = 64) -> tuple[np.ndarray, list[str]]:
    """Dark ground under a bright square in all thirteen bands, with nodata in one corner."""
    image = np.full((13, size, size), 0.05, np.float32)
    image[:, 20:40, 20:40] = 0.7
    image[10] = 0.001  # 1.38 um sees no ground
    image[10, 20:40, 20:40] = 0.02
    image[3, :8, :8] = np.nan
    return image, ESA.split()


def test_s2cloudless_is_the_package_in_whatever_order_the_bands_come() -> None:
    detector = pytest.importorskip("s2cloudless").S2PixelCloudDetector
    image, bands = simulated()
    mask = s2cloudless(image, bands, resolution=10)
    stack = np.moveaxis(np.nan_to_num(image), 0, -1)[np.newaxis]
    reference = detector(threshold=0.4, all_bands=True, average_over=4, dilation_size=2)
    expected = reference.get_cloud_masks(stack)[0]
    invalid = np.isnan(image).any(axis=0)
    assert mask[invalid].tolist() == [255] * 64
    assert np.array_equal(mask[~invalid], expected[~invalid])
    assert mask[30, 30] == 1
    assert mask[60, 60] == 0
    assert np.array_equal(mask, s2cloudless(image[::-1], bands[::-1], resolution=10))


def test_a_missing_band_is_named() -> None:
    image, bands = simulated()
    with pytest.raises(InputError, match=r"s2cloudless.*cirrus"):
        s2cloudless(np.delete(image, 10, 0), bands[:10] + bands[11:], resolution=10)
    with pytest.raises(InputError, match=r"ukis-csmask.*swir16, swir22"):
        ukis_csmask(image[:4], list(UKIS_BANDS[:4]))


@pytest.mark.parametrize(("size", "n_bands"), [(64, 6), (64, 4)])
def test_ukis_csmask_on_a_small_image(size: int, n_bands: int, recwarn) -> None:
    pytest.importorskip("ukis_csmask.mask")
    image, bands = simulated(size)
    before = image.copy()
    mask = ukis_csmask(image, bands, n_bands=n_bands)
    assert mask.shape == (size, size)
    assert set(np.unique(mask)) <= {0, 1, 255}
    assert np.array_equal(mask == 255, np.isnan(image).any(axis=0))
    assert np.array_equal(image, before, equal_nan=True)
    assert not [w for w in recwarn if "256" in str(w.message)]


def test_ukis_csmask_options_and_absence(monkeypatch: pytest.MonkeyPatch) -> None:
    image, bands = simulated()
    with pytest.raises(InputError, match="l1c"):
        ukis_csmask(image, bands, level="l1c")
    monkeypatch.setitem(__import__("sys").modules, "ukis_csmask.mask", None)
    with pytest.raises(InputError, match=r"pip install 'clouddl\[ukis\]'"):
        ukis_csmask(image, bands)


def scene(image: np.ndarray, bands: list[str], level: str = "toa") -> xr.Dataset:
    centres = (np.arange(image.shape[1]) + 0.5) * 10
    return xr.Dataset(
        {"reflectance": (("band", "y", "x"), image)},
        {"band": bands, "y": centres[::-1], "x": centres},
        {"resolution": 10.0, "level": level, "scene": "simulated"},
    )


def test_label_scene_names_what_it_cannot_label() -> None:
    pytest.importorskip("s2cloudless")
    image, bands = simulated()
    mask = label_scene(scene(image, bands), "s2cloudless")
    assert mask.shape == image.shape[1:]
    assert mask.dtype == np.uint8
    assert np.array_equal(mask, s2cloudless(image, bands, 10.0))
    with pytest.raises(InputError, match="surface"):
        label_scene(scene(image, bands, "surface"), "s2cloudless")
    with pytest.raises(InputError, match=r"'fmask'.*consensus"):
        label_scene(scene(image, bands), "fmask")


def write(path: Path, array: np.ndarray, resolution: float, crs: str | None = "EPSG:32631") -> Path:
    raster = xr.DataArray(array, dims=("y", "x")).rio.write_transform(
        from_origin(500000, 4800000, resolution, resolution)
    )
    (raster.rio.write_crs(crs) if crs else raster).rio.to_raster(path)
    return path


def test_read_mask_of_every_format(tmp_path: Path) -> None:
    codes = np.array([[0, 2], [5, 7]], np.uint8)
    np.save(tmp_path / "m.npy", codes)
    np.savez(tmp_path / "m.npz", msk=codes[..., np.newaxis])
    paths = [write(tmp_path / "m.tif", codes, 60), tmp_path / "m.npy", f"{tmp_path}/m.npz#msk"]
    for path in paths:
        mask = read_mask(path, "alcd")
        assert mask.dims == ("y", "x")
        assert mask.values.tolist() == [[255, 1], [0, 0]]
        assert mask.attrs["codes"] == "alcd"


def test_read_mask_names_the_file_that_fails(tmp_path: Path) -> None:
    np.savez(tmp_path / "m.npz", msk=np.zeros((2, 2)), other=np.zeros((2, 2)))
    np.save(tmp_path / "pickle.npy", np.array([{}], object), allow_pickle=True)
    (tmp_path / "torn.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "empty.npy").touch()
    names = ["none.tif", "m.npz", "m.npz#img", "pickle.npy", "torn.npz#a", "empty.npy", "none.npy"]
    for name in names:
        with pytest.raises(InputError, match=name):
            read_mask(tmp_path / name, "binary")
    with pytest.raises(InputError, match=r"m\.npz#msk.*fmask.*\[9\.0\]"):
        np.savez(tmp_path / "m.npz", msk=np.full((2, 2), 9.0))
        read_mask(f"{tmp_path}/m.npz#msk", "fmask")


def test_read_mask_on_the_grid_of_an_image(tmp_path: Path) -> None:
    fine = np.zeros((4, 4), np.uint8)
    fine[:2, :2] = [[1, 1], [1, 0]]  # three of four
    fine[2:, 2:] = [[1, 0], [0, 0]]  # one of four
    fine[:2, 2:] = 255
    fine[2, 0], fine[2:, 1], fine[3, 0] = 1, 255, 255  # one valid pixel of four
    path = write(tmp_path / "fine.tif", fine, 10)
    coarse = rioxarray.open_rasterio(write(tmp_path / "c.tif", np.zeros((2, 2), np.uint8), 20))
    mask = read_mask(path, "binary", like=coarse)
    assert mask.values.tolist() == [[1, 255], [1, 0]]
    assert np.array_equal(mask.x, coarse.x)
    same = rioxarray.open_rasterio(path)
    assert np.array_equal(read_mask(path, "binary", like=same), fine)


def test_read_mask_refuses_another_grid(tmp_path: Path) -> None:
    path = write(tmp_path / "mask.tif", np.zeros((4, 4), np.uint8), 10)
    other = rioxarray.open_rasterio(
        write(tmp_path / "zone.tif", np.zeros((4, 4), np.uint8), 10, "EPSG:32632")
    )
    with pytest.raises(InputError, match=r"mask\.tif.*EPSG:32631.*EPSG:32632"):
        read_mask(path, "binary", like=other)
    shifted = rioxarray.open_rasterio(path)
    shifted = shifted.assign_coords(x=shifted.x + 10)
    with pytest.raises(InputError, match="bounds"):
        read_mask(path, "binary", like=shifted.rio.write_transform(shifted.rio.transform(True)))
    bare = write(tmp_path / "bare.tif", np.zeros((4, 4), np.uint8), 10, None)
    assert read_mask(bare, "binary", like=other).shape == (4, 4)
    with pytest.raises(InputError, match=r"4 x 4 pixels.*2 x 4 pixels"):
        read_mask(bare, "binary", like=other.isel(y=slice(2)))


@pytest.mark.skipif(MIRROR is None, reason="CLOUDDL_MIRROR is not set: no real image to label")
def test_processors_on_a_real_patch() -> None:
    pytest.importorskip("ukis_csmask.mask")
    name = "ROIs1158_spring_s2_cloudy_26_p100.tif"
    raw = rioxarray.open_rasterio(Path(str(MIRROR)) / "sen12mscr_pairs" / "cloudy" / name)
    dataset = scene(raw.values.astype(np.float32) * 1e-4, ESA.split())
    masks = {source: label_scene(dataset, source) for source in LABEL_SOURCES}
    a, b, c = (masks[source] for source in PROCESSORS)
    agreed, either = masks["consensus"], masks["union"]
    same = (a == b) & (b == c)
    assert np.array_equal(agreed == 255, ~same)
    assert np.array_equal(agreed[same], a[same])
    assert np.array_equal(either, np.maximum(b, c))
    assert same.mean() > 0.5
    assert set(S2CLOUDLESS_BANDS) <= set(ESA.split())
