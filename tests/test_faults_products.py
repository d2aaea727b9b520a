"""Products as people have them: other names, other containers, other codes, a low sun."""

import hashlib
import json
import os
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio.shutil
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from test_products import (
    SIZE,
    edit,
    landsat,
    muscate,
    numbers,
    planet,
    pleiades,
    sentinel2,
    spot,
    write,
)

from clouddl.errors import InputError
from clouddl.files import Store, write_registry
from clouddl.mission.labelling import label_image
from clouddl.predict import make_plan
from clouddl.products import open_image, open_product
from clouddl.products.readers import find_product
from clouddl.products.reading import Reading
from clouddl.scale.batch import predict_batch

pytestmark = pytest.mark.filterwarnings("ignore:.*surface reflectance")


@pytest.mark.parametrize("ending", ["_SR_8b", "_8b_SR", "_SR_8b_harmonized", "_SR_8b_clip"])
def test_superdove_surface_reflectance(ending: str, tmp_path: Path) -> None:
    path, written = planet(tmp_path, eight=True)
    image = next(path.glob("*_8b.tif"))
    image.rename(path / image.name.replace("_8b.tif", f"{ending}.tif"))
    scene = open_product(path, bands=["nir"])
    assert scene.attrs["level"] == "surface"
    np.testing.assert_allclose(scene.reflectance[0], written["nir"] * 1e-4, rtol=1e-6)


def test_a_zip_made_on_a_mac(tmp_path: Path) -> None:
    path, written = landsat(tmp_path)
    with zipfile.ZipFile(tmp_path / "mac.zip", "w") as archive:
        for file in path.iterdir():
            archive.write(file, f"L/{file.name}")
            archive.writestr(f"__MACOSX/L/._{file.name}", b"\0\5\x16\7\0\2\0\0Mac OS X")
    scene = open_product(tmp_path / "mac.zip", bands=["red"])
    assert scene.reflectance[0, 0, 0].item() == pytest.approx(4e-5 * written["B4"][0, 0] - 0.2)


def test_a_folder_a_mac_wrote_to(tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    for file in list(path.iterdir()):
        (path / f"._{file.name}").write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    assert find_product(path).format == "Landsat Collection 2"


@pytest.mark.parametrize("level", ["1C", "2A"])
def test_a_safe_of_tiff(level: str, tmp_path: Path) -> None:
    """As the Planetary Computer keeps them."""
    path, written = sentinel2(tmp_path, level)
    for file in list(path.rglob("*.jp2")):
        file.unlink()
    for native, metres in (("B04", 10), ("B11", 20)):
        folder = next(path.rglob("IMG_DATA"))
        stem = f"T31TCJ_20220301T105021_{native}"
        if level == "2A":
            folder, stem = folder / f"R{metres}m", f"{stem}_{metres}m"
        write(folder / f"{stem}.tif", written[native], metres)
    scene = open_product(path, bands=["red"])
    np.testing.assert_allclose(scene.reflectance[0], written["B04"] * 1e-4 - 0.1, atol=1e-6)


def test_older_name_of_the_scale_of_l2a(tmp_path: Path) -> None:
    path, written = sentinel2(tmp_path, "2A", baseline="02.05", offset=0)
    edit(path / "MTD_MSIL2A.xml", "BOA_QUANT", "L2A_BOA_QUANT")
    scene = open_product(path, bands=["red"])
    np.testing.assert_allclose(scene.reflectance[0], written["B04"] * 1e-4, rtol=1e-6)


@pytest.mark.parametrize(("old", "new"), [('"name"', '"x"'), ("MSIL1C", "MSIL0"), ("{", "")])
def test_a_tile_of_aws_that_names_no_product(old: str, new: str, tmp_path: Path) -> None:
    text = json.dumps({"name": "S2B_MSIL1C_20220301T105021_N0500_R051_T31TCJ_20220301T112233"})
    (tmp_path / "productInfo.json").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"productInfo.json (names no product|is of )"):
        find_product(tmp_path)


def test_landsat_level_2(tmp_path: Path) -> None:
    """Its own factors are read, not those of level 1 that the metadata repeat."""
    path, written = landsat(tmp_path, level="L2SP")
    groups = "  GROUP = LEVEL2_SURFACE_REFLECTANCE_PARAMETERS\n"
    for band in range(1, 8):
        groups += f"    REFLECTANCE_MULT_BAND_{band} = 2.75e-05\n"
        groups += f"    REFLECTANCE_ADD_BAND_{band} = -0.2\n"
    groups += "  END_GROUP = LEVEL2_SURFACE_REFLECTANCE_PARAMETERS\n"
    edit(next(path.glob("*_MTL.txt")), "END_GROUP = LANDSAT_M", groups + "END_GROUP = LANDSAT_M")
    scene = open_product(path)
    assert scene.attrs["level"] == "surface" and "cirrus" not in scene.band
    result = scene.reflectance.sel(band="nir")[0, 0].item()
    assert result == pytest.approx(2.75e-5 * written["B5"][0, 0] - 0.2)
    assert scene.mask.values[0, 0] == 1 and scene.mask.values[-1, -1] == 0


def test_quality_of_collection_1_in_collection_2(tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    codes = np.full((SIZE, SIZE), 2720, np.uint16)  # clear
    codes[:3] = 2800  # cloud
    codes[3:6] = 6896  # cloud and cirrus of high confidence
    codes[0, 0] = 1  # fill
    write(next(path.glob("*_QA_PIXEL.TIF")), codes, 30)
    with pytest.warns(UserWarning, match="holds codes of Collection 1"):
        scene = open_product(path)
    assert scene.mask.values[1, 1] == 1 and scene.mask.values[4, 4] == 1
    assert (scene.mask.values[6:] == 0).all()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("COLLECTION_NUMBER = 02", "COLLECTION_NUMBER = 01", "L1TP OLI_TIRS, Collection 01"),
        ("COLLECTION_NUMBER = 02", "", "L1TP OLI_TIRS, before the Collections"),
    ],
)
def test_older_landsat_is_named(old: str, new: str, message: str, tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    edit(next(path.glob("*_MTL.txt")), old, new)
    with pytest.raises(InputError, match=f"is LANDSAT_8 {message}"):
        find_product(path)


def test_a_panchromatic_spot(tmp_path: Path) -> None:
    path, _ = spot(tmp_path)
    for name in ("XS1", "XS2", "XS3", "SWIR"):
        edit(path / "METADATA.DIM", f"DESCRIPTION>{name}", "DESCRIPTION>PAN")
    with pytest.raises(InputError, match=r"has the bands PAN, .* is panchromatic"):
        find_product(path)


def test_reflectance_of_pleiades_has_a_gain_per_band(tmp_path: Path) -> None:
    path, written = pleiades(tmp_path, radiometry="REFLECTANCE")
    gain = "<Band_Reflectance><BAND_ID>B3</BAND_ID><GAIN>8000</GAIN><BIAS>0.01</BIAS>"
    edit(next(path.glob("DIM_*.XML")), "</Data_Files>", f"</Data_Files>{gain}</Band_Reflectance>")
    scene = open_product(path, bands=["nir", "red"])
    at = np.s_[5, 5]
    assert scene.reflectance[0].values[at] == pytest.approx(written["B3"][at] / 8000 + 0.01)
    assert scene.reflectance[1].values[at] == pytest.approx(written["B2"][at] / 10000)


def landsat_item(
    folder: Path, level: str = "L1TP", platform: str = "LANDSAT_8", scaled: tuple[float, ...] = (),
    **properties: Any,
) -> np.ndarray:  # fmt: skip
    """An item whose near infrared is nir08; with `scaled` it has raster:bands."""
    values = numbers(9000, 20000)
    values[2, 3] = 0
    write(folder / "b.tif", values, 30)
    assets = {}
    for name in ("red", "nir08"):
        bands = {"eo:bands": [{"name": name, "common_name": name}]}
        if scaled:
            numbers_of = {"scale": scaled[0], "offset": scaled[1], "nodata": 0}
            bands["raster:bands"] = [numbers_of]
        assets[name] = {"href": "./b.tif", "roles": ["data"]} | bands
    about = {"datetime": "2022-03-01T10:50:21Z", "platform": platform,
             "landsat:correction": level, "landsat:collection_number": "02"}  # fmt: skip
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "L", "geometry": None, "links": [],
            "assets": assets, "properties": about | properties}  # fmt: skip
    (folder / "item.json").write_text(json.dumps(item))
    return values


LEVEL_1 = (2e-5 / 0.5, -0.1 / 0.5)  # the sun at 30 degrees
LEVEL_2 = (2.75e-5, -0.2)


@pytest.mark.parametrize(
    ("level", "platform", "scaled", "right"),
    [
        ("L1TP", "LANDSAT_8", (), LEVEL_1),
        ("L1GT", "LANDSAT_9", (2e-5, -0.1), LEVEL_1),
        ("L1TP", "LANDSAT_8", (4e-5, -0.2), (4e-5, -0.2)),  # its provider has divided by the sine
        ("L2SP", "LANDSAT_8", (), LEVEL_2),
        ("L2SP", "LANDSAT_5", (), LEVEL_2),
        ("L2SR", "LANDSAT_7", LEVEL_2, LEVEL_2),
    ],
)
def test_items_of_landsat(
    level: str, platform: str, scaled: tuple[float, ...], right: tuple[float, float],
    tmp_path: Path,
) -> None:  # fmt: skip
    values = landsat_item(tmp_path, level, platform, scaled, **{"view:sun_elevation": 30.0})
    scene = open_product(tmp_path / "item.json")
    assert scene.band.values.tolist() == ["red", "nir"]
    assert scene.attrs["level"] == ("toa" if level.startswith("L1") else "surface")
    expected = np.where(values == 0, np.nan, values * right[0] + right[1])
    np.testing.assert_allclose(scene.reflectance[1], expected, rtol=1e-5, atol=1e-6)


def test_the_scale_of_an_item_is_not_given_without_its_offset(tmp_path: Path) -> None:
    values = landsat_item(tmp_path, **{"view:sun_elevation": 30.0})
    path = tmp_path / "item.json"
    with pytest.raises(InputError, match=r"number \* 2e-05 -0.1: leave --scale out, or give --off"):
        open_image(path, None, Reading(scale=2e-5))
    image = open_image(path, None, Reading(scale=2e-5, offset=0.0)).select(["red"])
    assert np.nanmax(image.read()) == pytest.approx(values.max() * 2e-5)


def test_an_item_of_level_1_without_the_sun(tmp_path: Path) -> None:
    landsat_item(tmp_path)
    with pytest.warns(UserWarning, match="no view:sun_elevation"):
        open_product(tmp_path / "item.json")


def test_tm_of_level_1_has_factors_of_its_own(tmp_path: Path) -> None:
    landsat_item(tmp_path, "L1TP", "LANDSAT_5", **{"view:sun_elevation": 30.0})
    with pytest.raises(InputError):
        open_product(tmp_path / "item.json")


def test_muscate_filled_with_another_number(tmp_path: Path) -> None:
    """Never clear: nodata, or a warning."""
    path, _ = muscate(tmp_path)
    for file in path.glob("*_SRE_*.tif"):
        side = 24 if file.stem.endswith(("B2", "B3", "B4", "B8")) else 12
        values = numbers(200, 5000, side, side, dtype="int16")
        values[:, : side // 2] = 0
        write(file, values, 240 / side)
    with pytest.warns(UserWarning, match="is not declared|read as nodata"):
        scene = open_product(path, bands=["blue", "red", "swir16"], resolution=20)
    assert np.isnan(scene.reflectance.values[:, :, :6]).all()
    assert np.isfinite(scene.reflectance.values[:, :, 7:]).all()


def test_a_name_that_is_not_utf_8_is_refused_with_its_mend(tmp_path: Path) -> None:
    name = os.fsdecode(os.fsencode(tmp_path) + b"/bild \xe4.tif")
    os.close(os.open(name, os.O_CREAT))
    message = r"a name in this path is not UTF-8.*rename it \(convmv\)"
    with pytest.raises(InputError, match=message):
        open_image(name, "sentinel-2")
    (outcome,) = predict_batch([name], "sentinel-2", tmp_path / "out")
    assert outcome.status == "failed" and "is not UTF-8" in outcome.error


class Cp437(zipfile.ZipInfo):
    """A member of a zip whose name is not marked as UTF-8, as old programs write it."""

    def _encodeFilenameFlags(self) -> tuple[bytes, int]:
        return self.filename.encode("cp437"), self.flag_bits & ~0x800


@pytest.mark.parametrize("encoding", ["utf-8", "cp437"])
def test_names_with_accents_and_spaces(encoding: str, tmp_path: Path) -> None:
    path, written = landsat(tmp_path)
    place = tmp_path / "Bödele im März.zip"
    with zipfile.ZipFile(place, "w") as archive:
        for file in path.iterdir():
            name = f"Bödele/{file.name}"
            archive.writestr(name if encoding == "utf-8" else Cp437(name), file.read_bytes())
    scene = open_product(place, bands=["red"])
    assert scene.reflectance[0, 4, 4].item() == pytest.approx(written["B4"][4, 4] * 4e-5 - 0.2)


def test_bands_of_a_product_in_usual_spellings(tmp_path: Path) -> None:
    path, _ = sentinel2(tmp_path)
    scene = open_product(path, bands=["B04", "Blue", "B8A", "SWIR"], resolution=20)
    assert scene.band.values.tolist() == ["red", "blue", "nir08", "swir16"]
    with pytest.raises(InputError, match="no reflective band"):
        open_product(path, bands=["B17"])


def test_bands_of_an_item_in_usual_spellings(tmp_path: Path) -> None:
    values = write(tmp_path / "a.tif", numbers(1000, 5000, 2, SIZE, SIZE))
    names = [{"common_name": name} for name in ("Red", "SWIR1")]
    asset = {"href": "a.tif", "eo:bands": names, "raster:bands": [{"scale": 1e-4}] * 2}
    properties = {"datetime": "2022-03-01T10:50:21Z", "platform": "sentinel-2a"}
    item = {"type": "Feature", "stac_version": "1.0.0", "id": "a", "geometry": None, "links": [],
            "properties": properties, "assets": {"image": asset}}  # fmt: skip
    (tmp_path / "item.json").write_text(json.dumps(item))
    scene = open_product(tmp_path / "item.json", bands=["B11", "B4"])
    assert scene.band.values.tolist() == ["swir16", "red"]
    np.testing.assert_allclose(scene.reflectance, values[::-1] * 1e-4, rtol=1e-6)
    with pytest.raises(InputError, match=r"leave them out .--use takes some of its bands"):
        open_image(tmp_path / "item.json", reading=Reading(bands=("red", "swir16")))


def test_a_file_of_a_mirror_whose_server_gave_an_md5_or_its_size(tmp_path: Path) -> None:
    data = b"a scene"
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / "a.tif").write_bytes(data)
    row = {"path": "a.tif", "bytes": str(len(data)), "url": "https://x/a.tif"}
    for checksum in ("", f"md5:{hashlib.md5(data).hexdigest()}", hashlib.sha256(data).hexdigest()):
        write_registry(tmp_path / "r.csv", [{**row, "sha256": checksum}])
        store = Store(tmp_path / "r.csv", tmp_path / "cache", mirror)
        assert store.fetch("a.tif") == mirror / "a.tif"
    write_registry(tmp_path / "r.csv", [{**row, "sha256": f"md5:{'0' * 32}"}])
    with pytest.raises(InputError, match=r"a\.tif: md5 0{32} expected, .*copy it again"):
        Store(tmp_path / "r.csv", tmp_path / "cache", mirror).fetch("a.tif")


def test_an_image_is_labelled_with_the_name_of_its_sensor(tmp_path: Path) -> None:
    values = np.random.default_rng(0).uniform(0.02, 0.6, (4, 32, 32)).astype(np.float32)
    write(tmp_path / "a.tif", values)
    (proposals,) = label_image(tmp_path / "a.tif", "spot-5", tmp_path / "out", points=3)
    assert len(json.loads(proposals.read_text())["features"]) == 3


def netcdf(path: Path, conventions: bool = True) -> tuple[np.ndarray, xr.Dataset]:
    """A netCDF file of int16 variables, with scale, offset and fill; its numbers, and as xarray.

    Without conventions it is as of openEO: time comes first, no variable names its CRS, and x and
    y have no attributes.
    """
    stored = numbers(300, 6000, 4, SIZE, SIZE, dtype="int16")
    stored[:, 0, 0] = -999
    attributes = {"scale_factor": 1e-4, "add_offset": -0.01, "_FillValue": np.int16(-999)}
    layers = {name: (("y", "x"), layer, attributes)
              for name, layer in zip(("B3", "B4", "B8", "B11"), stored, strict=True)}  # fmt: skip
    centres = np.arange(SIZE) * 30 + 15
    dataset = xr.Dataset(layers, {"x": 500_000 + centres, "y": 4_800_000 - centres})
    if conventions:
        dataset = dataset.rio.write_crs("EPSG:32631").rio.write_coordinate_system()
    else:
        day = np.array(["2022-03-01"], "datetime64[ns]")
        dataset = dataset.expand_dims(t=day)
        dataset["crs"] = (), np.int32(0), {"crs_wkt": CRS.from_epsg(32631).to_wkt()}
    dataset.to_netcdf(path, engine="scipy")
    return stored, dataset


def test_netcdf_is_read_by_its_own_scale_offset_and_fill(tmp_path: Path) -> None:
    stored, _ = netcdf(tmp_path / "a.nc")
    image = open_image(tmp_path / "a.nc", "sentinel-2")
    assert image.bands == ("green", "red", "nir", "swir16")
    assert image.resolution == pytest.approx(30) and image.grid.crs
    assert tuple(image.grid.transform)[:6] == (30, 0, 500_000, 0, -30, 4_800_000)
    expected = np.where(stored == -999, np.nan, stored * 1e-4 - 0.01)
    np.testing.assert_allclose(image.read(), expected, atol=1e-6)
    given = Reading(scale=2e-4, offset=0.0, nodata=-999)
    numbers_as_given = open_image(tmp_path / "a.nc", "sentinel-2", given).read()
    np.testing.assert_allclose(numbers_as_given, np.where(stored == -999, np.nan, stored * 2e-4),
                               atol=1e-6)  # fmt: skip


def test_netcdf_without_conventions_keeps_its_rows_and_its_place(tmp_path: Path) -> None:
    stored, dataset = netcdf(tmp_path / "a.nc", conventions=False)
    expected = np.where(stored == -999, np.nan, stored * 1e-4 - 0.01)
    image = open_image(tmp_path / "a.nc", "sentinel-2")
    np.testing.assert_allclose(image.read(), expected, atol=1e-6)
    assert tuple(image.grid.transform)[:6] == (30, 0, 500_000, 0, -30, 4_800_000)
    layer = open_image(f"NETCDF:{tmp_path}/a.nc:B4", "sentinel-2", Reading(("red",)))
    np.testing.assert_allclose(layer.read(), expected[1:2], atol=1e-6)
    dataset.isel(t=0).drop_vars(["t", "x", "y", "crs"]).to_netcdf(tmp_path / "b.nc", engine="scipy")
    np.testing.assert_allclose(
        open_image(tmp_path / "b.nc", "sentinel-2").read(), expected, atol=1e-6
    )


@pytest.mark.parametrize("names", [["B2", "B3", "B4"], [1, 2, 3]])
def test_netcdf_of_one_date_with_bands_as_a_dimension(names: list[Any], tmp_path: Path) -> None:
    """Names are an array of their own in the file, which GDAL does not read; numbers are not."""
    values = np.arange(2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5) / 200
    axes = {"t": [0, 5], "bands": names, "y": 48e5 - np.arange(4) * 10, "x": np.arange(5) * 10}
    cube = xr.DataArray(values, axes, ("t", "bands", "y", "x"), "S2").to_dataset()
    cube["crs"] = (), np.int32(0), {"crs_wkt": CRS.from_epsg(32631).to_wkt()}
    cube.S2.attrs["grid_mapping"] = "crs"
    cube.isel(t=[1]).to_netcdf(tmp_path / "one.nc", engine="scipy")
    cube.to_netcdf(tmp_path / "two.nc", engine="scipy")
    reading = Reading() if names[0] == "B2" else Reading(("blue", "green", "red"))
    image = open_image(tmp_path / "one.nc", "sentinel-2", reading)
    assert image.bands == ("blue", "green", "red") and image.grid.crs == CRS.from_epsg(32631)
    np.testing.assert_array_equal(image.read(), values[1])
    with pytest.raises(InputError, match=r"two\.nc: its dimension t has 2 entries; choose one"):
        open_image(tmp_path / "two.nc", "sentinel-2", reading)


def test_netcdf_4_of_one_date_with_bands_as_a_dimension(tmp_path: Path) -> None:
    """GDAL tells the names of the bands of such a file; here they are what it writes, numbers."""
    values = np.arange(3 * 4 * 5, dtype=np.int16).reshape(3, 4, 5)
    with rasterio.open(tmp_path / "a.tif", "w", driver="GTiff", height=4, width=5, count=3,
                       dtype="int16", nodata=0, crs="EPSG:32631",
                       transform=Affine(10, 0, 5e5, 0, -10, 48e5)) as file:  # fmt: skip
        file.write(values)
        file.scales = [1e-4] * 3
        file.update_tags(NETCDF_DIM_EXTRA="{t,bands}", NETCDF_DIM_t_DEF="{1,4}",
                         NETCDF_DIM_t_VALUES="{7}", NETCDF_DIM_bands_DEF="{3,4}",
                         NETCDF_DIM_bands_VALUES="{1,2,3}")  # fmt: skip
    rasterio.shutil.copy(tmp_path / "a.tif", tmp_path / "a.nc", driver="netCDF", FORMAT="NC4")
    image = open_image(tmp_path / "a.nc", "sentinel-2", Reading(("blue", "green", "red")))
    expected = np.where(values == 0, np.nan, values * np.float32(1e-4))
    np.testing.assert_allclose(image.read(), expected, atol=1e-7)
    assert tuple(image.grid.transform)[:6] == (10, 0, 5e5, 0, -10, 48e5)


def test_rows_of_zarr_without_coordinates_keep_their_order(tmp_path: Path) -> None:
    values = np.arange(3 * 4 * 5, dtype=np.float32).reshape(3, 4, 5) / 100
    layers = {name: (("y", "x"), layer) for name, layer in zip("rgn", values, strict=True)}
    dataset = xr.Dataset(layers).rename(r="B4", g="B3", n="B8")
    dataset.to_zarr(tmp_path / "a.zarr", consolidated=False)
    image = open_image(tmp_path / "a.zarr", "sentinel-2", Reading(resolution=20))
    np.testing.assert_array_equal(image.select(["red", "green", "nir"]).read(), values)


def test_an_array_along_latitude_and_longitude_is_placed() -> None:
    places = {"lat": 45 - 2e-4 * np.arange(6), "lon": 3 + 3e-4 * np.arange(8)}
    array = xr.DataArray(np.zeros((1, 6, 8)), {"band": ["red"]} | places, ("band", "lat", "lon"))
    image = open_image(array)
    assert image.grid.crs == CRS.from_epsg(4326)
    assert image.spacing == pytest.approx((22.26, 23.61), rel=1e-3)
    with pytest.raises(InputError, match="image: its y are no numbers; correct them"):
        open_image(array.assign_coords(lat=np.arange(6).astype("datetime64[D]")))


def test_the_crs_of_a_dataset_that_no_band_names(tmp_path: Path) -> None:
    _, dataset = netcdf(tmp_path / "a.nc", conventions=False)
    dataset.to_zarr(tmp_path / "a.zarr", consolidated=False)
    for source in (dataset, dataset.set_coords("crs"), tmp_path / "a.zarr"):
        image = open_image(source, "sentinel-2")
        assert image.grid.crs == CRS.from_epsg(32631) and image.resolution == 30
    dataset["crs"].attrs["crs_wkt"] = "nonsense"
    with pytest.raises(InputError, match=r"image: the CRS cannot be read .* correct it"):
        open_image(dataset, "sentinel-2")
    unplaced = dataset.drop_vars("crs").assign_coords(x=dataset.x / 3, y=dataset.y / 3)
    with pytest.warns(UserWarning, match="has steps of 10; if they are metres, give --resolution"):
        make_plan(unplaced, "sentinel-2")


def test_a_zip_with_the_separators_of_windows(tmp_path: Path) -> None:
    path, written = sentinel2(tmp_path)
    with zipfile.ZipFile(tmp_path / "windows.zip", "w") as archive:
        for file in filter(Path.is_file, path.rglob("*")):
            entry = zipfile.ZipInfo()
            entry.filename = str(file.relative_to(tmp_path)).replace("/", "\\")
            archive.writestr(entry, file.read_bytes())
    scene = open_product(tmp_path / "windows.zip", bands=["red"])
    np.testing.assert_allclose(scene.reflectance[0], written["B04"] * 1e-4 - 0.1, atol=1e-6)


@pytest.mark.parametrize("suffix", ["zip", "tar.xz", "tar.bz2"])
def test_an_archive_that_is_not_read_in_place_is_to_be_unpacked(
    suffix: str, tmp_path: Path
) -> None:
    path, _ = landsat(tmp_path)
    packed = tmp_path / f"a.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_LZMA) as archive:
            archive.write(next(path.glob("*_MTL.txt")), "a_MTL.txt")
    else:
        with tarfile.open(packed, f"w:{suffix[4:]}") as tar:  # type: ignore[call-overload]
            tar.add(path, "L")
    with pytest.raises(
        InputError, match=rf"a\.{suffix}: .*compressed .*; unpack it and give the f"
    ):
        find_product(packed)


def test_a_part_of_a_product_names_the_product(tmp_path: Path) -> None:
    safe, _ = sentinel2(tmp_path)
    for part in (next(safe.rglob("*_B02.jp2")), next((safe / "GRANULE").iterdir())):
        with pytest.raises(InputError, match=r"is a part of one; give .*MTD_MSIL1C\.xml$"):
            find_product(part)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["T31TCJ_B02.jp2"], "T31TCJ_B02.jp2 lacks the metadata of its product"),
        (["x_3B_AnalyticMS_SR_8b.tif"], "_8b.tif lacks the metadata of its product"),
        (["DIM_PHR1B_P_2016.XML"], "is panchromatic; give the multispectral"),
        (["in.SAFE.zip"], "in.SAFE.zip is an archive; give it, unpacked"),
        (["a.hdr"], "a.hdr: it is the header of an image: give the file beside it"),
        (["a.dim"], "a.dim: a product of SNAP (BEAM-DIMAP) is not read: export it"),
        (["item.json"], "if item.json is a STAC item, give it itself"),
    ],
)
def test_what_is_near_to_a_product_is_told_its_mend(
    names: list[str], message: str, tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=re.escape(message)):
        find_product(tmp_path)
    if "SNAP" in message or "header" in message:
        with pytest.raises(InputError, match=re.escape(message.partition(": ")[2])):
            open_image(tmp_path / names[0], "sentinel-2")
    (tmp_path / "x_MTL.txt").touch()
    with pytest.raises(InputError, match="leave --sensor out if these are the metadata"):
        open_image(tmp_path / "x_MTL.txt", "landsat-8")


@pytest.mark.parametrize(
    ("gain", "message"), [("0", "METADATA.DIM: a scale, a gain"), ("inf", "'inf', not a number")]
)
def test_a_number_of_metadata_that_cannot_be(gain: str, message: str, tmp_path: Path) -> None:
    path, _ = spot(tmp_path)
    edit(path / "METADATA.DIM", "<PHYSICAL_GAIN>2.5<", f"<PHYSICAL_GAIN>{gain}<")
    with pytest.raises(InputError, match=message):
        find_product(path)


def test_offsets_of_some_bands_only(tmp_path: Path) -> None:
    path, _ = sentinel2(tmp_path)
    edit(path / "MTD_MSIL1C.xml", '<RADIO_ADD_OFFSET band_id="1">-1000</RADIO_ADD_OFFSET>', "")
    with pytest.raises(InputError, match="without RADIO_ADD_OFFSET of every band"):
        find_product(path)


def test_landsat_4_is_read_as_landsat_5(tmp_path: Path) -> None:
    path, written = landsat(tmp_path, 5)
    edit(next(path.glob("*_MTL.txt")), "LANDSAT_5", "LANDSAT_4")
    scene = open_product(path, bands=["red"])
    assert scene.attrs["sensor"] == "landsat-5"
    assert scene.reflectance[0, 0, 0].item() == pytest.approx(
        3.7614e-3 * written["B3"][0, 0] - 0.023514
    )


def test_landsat_under_a_sun_of_five_degrees(tmp_path: Path) -> None:
    """Its offset, -0.1 over the sine, is below -1."""
    path, _ = landsat(tmp_path, sun="5.0")
    image = next(path.glob("*_B4.TIF"))
    image.unlink()  # to overwrite it would take the metadata away too
    write(image, numbers(6000, 7000), 30)
    product = find_product(path)
    assert product.layers["red"].reading.offset == pytest.approx(-0.1 / 0.0871557, rel=1e-4)
    assert open_product(path, bands=["red"]).reflectance.max() < 0.5


def test_bands_that_are_packed_one_by_one(tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    for file in list(path.glob("*_B?.TIF")):
        file.rename(f"{file}.gz")
    with pytest.raises(InputError, match=r"unpack its \.gz files"):
        open_product(path)


def test_reflectances_with_and_without_relief_are_not_mixed(tmp_path: Path) -> None:
    path, _ = muscate(tmp_path)
    next(path.glob("*_SRE_B4.tif")).unlink()
    with pytest.raises(InputError, match="the file of its band red is missing"):
        open_product(path)


def test_what_lines_of_metadata_lack_is_told_with_their_file(tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    lines = next(path.glob("*_MTL.txt"))
    lines.write_text(lines.read_text().replace("FILE_NAME_BAND_4", "FILE_NAME_BAND_X"))
    with pytest.raises(InputError, match=r"_MTL\.txt has no FILE_NAME_BAND_4; the metadata are"):
        open_product(path)


@pytest.mark.parametrize("ending", ["xml", "json"])
def test_landsat_by_its_other_metadata(ending: str, tmp_path: Path) -> None:
    path, _ = landsat(tmp_path)
    lines = next(path.glob("*_MTL.txt"))
    right = open_product(path).reflectance
    other = lines.with_suffix(f".{ending}")
    groups: dict[str, Any] = {}
    open_groups = [groups]
    for key, _, value in (line.strip().partition(" = ") for line in lines.read_text().splitlines()):
        if key == "GROUP":
            open_groups.append(open_groups[-1].setdefault(value, {}))
        elif key == "END_GROUP":
            open_groups.pop()
        elif value:
            open_groups[-1][key] = value.strip('"')
    text = json.dumps(groups)
    if ending == "xml":
        text = re.sub(r'"(\w+)": "([^"]*)"', r"<\1>\2</\1>", lines.read_text())
        text = re.sub(r'(\w+) = "?([^"\n]*)"?', r"<\1>\2</\1>", text)
        text = re.sub("<GROUP>(.*)</GROUP>", r"<\1>", text)
        text = re.sub("<END_GROUP>(.*)</END_GROUP>", r"</\1>", text).replace("\nEND\n", "")
    other.write_text(text)
    xr.testing.assert_equal(open_product(path).reflectance, right)  # one product, not two
    lines.unlink()
    for given in (path, other):
        xr.testing.assert_equal(open_product(given).reflectance, right)
    other.write_text("{")
    with pytest.raises(InputError, match=f"MTL.{ending}.*(cannot be read|is not XML)"):
        find_product(path)
