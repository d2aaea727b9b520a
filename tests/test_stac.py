"""STAC: items are read as products, and the masks get items that any catalogue can take."""

import json
import warnings
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from conftest import Web
from pystac import STACObjectType
from pystac.validation.stac_validator import JsonSchemaSTACValidator
from rasterio.transform import from_origin

from clouddl.errors import InputError
from clouddl.products import open_product
from clouddl.products.reading import Reading
from clouddl.products.stac import date_of, load_item, read_item, write_item
from clouddl.scale.batch import predict_batch
from clouddl.sensors import get_sensor

SIZE = 24
BANDS = {"blue": "B02", "green": "B03", "red": "B04", "nir": "B08", "swir16": "B11"}
NUMBERS = {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}


def tiff(path: Path, values: np.ndarray, metres: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"count": len(values), "height": values.shape[1], "width": values.shape[2],
               "dtype": values.dtype, "crs": "EPSG:32631",
               "transform": from_origin(600_000, 4_900_000, metres, metres)}  # fmt: skip
    with rasterio.open(path, "w", driver="GTiff", **profile) as file:
        file.write(values)


def item(folder: Path, **changes: Any) -> dict[str, Any]:
    """A Sentinel-2 scene as Earth Search gives it, a file per band; written as item.json."""
    rng = np.random.default_rng(1)
    assets: dict[str, Any] = {}
    for common, native in BANDS.items():
        metres = 20 if native == "B11" else 10
        side = SIZE * 10 // metres
        values = rng.integers(1500, 6000, (1, side, side)).astype(np.uint16)
        values[0, 0, 0] = 0
        tiff(folder / "bands" / f"{native}.tif", values, metres)
        assets[common] = {
            "href": f"./bands/{native}.tif", "type": "image/tiff", "roles": ["data"],
            "eo:bands": [{"name": native, "common_name": common}], "raster:bands": [NUMBERS],
        }  # fmt: skip
    assets["red-jp2"] = {**assets["red"], "href": "gone.jp2", "type": "image/jp2"}
    three = [{"common_name": name} for name in ("red", "green", "blue")]
    assets["visual"] = {"href": "gone.tif", "roles": ["visual"], "eo:bands": three}
    assets["all"] = {"href": "gone.tif", "roles": ["data"], "eo:bands": three}
    made = {
        "type": "Feature", "stac_version": "1.0.0", "id": "S2A_31TCJ", "geometry": None,
        "collection": "sentinel-2-l1c", "links": [], "assets": assets,
        "properties": {"datetime": "2022-03-01T10:50:21Z", "platform": "sentinel-2a",
                       "instruments": ["msi"], "constellation": "sentinel-2"},
    } | changes  # fmt: skip
    (folder / "item.json").write_text(json.dumps(made))
    return made


def check_core(made: dict[str, Any]) -> None:
    """Against the schemas of STAC 1.1 and GeoJSON, of which pystac has a copy."""
    used = JsonSchemaSTACValidator().validate_core(made, STACObjectType.ITEM, made["stac_version"])
    assert used == "https://schemas.stacspec.org/v1.1.0/item-spec/json-schema/item.json"


def test_an_item_is_a_product(tmp_path: Path) -> None:
    item(tmp_path)
    product = read_item(tmp_path / "item.json")
    assert (product.sensor.id, product.level, product.nodata) == ("sentinel-2", "toa", 0)
    assert list(product.layers) == list(BANDS)
    scene = open_product(tmp_path / "item.json", bands=["red", "swir16"])
    assert scene.attrs["resolution"] == 20 and scene.attrs["scene"] == "item"
    with rasterio.open(tmp_path / "bands" / "B11.tif") as file:
        numbers = file.read(1)
    result = scene.reflectance.sel(band="swir16").values
    assert np.isnan(result[0, 0])
    assert result[3, 4] == pytest.approx(numbers[3, 4] / 10_000 - 0.1)


def test_bands_of_stac_1_1(tmp_path: Path) -> None:
    """One file of two bands; scale and nodata of the asset, an offset of the second band."""
    tiff(tmp_path / "two.tif", np.arange(2 * 16, dtype=np.uint16).reshape(2, 4, 4) + 1000, 10)
    bands = [{"eo:common_name": "nir"}, {"eo:common_name": "red", "raster:offset": -0.05}]
    asset = {"href": str(tmp_path / "two.tif"), "bands": bands, "raster:scale": 1e-4, "nodata": 0}
    item(tmp_path, stac_version="1.1.0", assets={"image": asset})
    scene = open_product(tmp_path / "item.json")
    assert scene.band.values.tolist() == ["red", "nir"]  # in the order of the card
    assert scene.reflectance[0, 0, 1].item() == pytest.approx((1000 + 16 + 1) * 1e-4 - 0.05)
    assert scene.reflectance[1, 0, 1].item() == pytest.approx(0.1001)


def test_an_offset_that_was_taken_off_is_not_taken_off_again(tmp_path: Path) -> None:
    made = item(tmp_path)
    properties = {**made["properties"], "earthsearch:boa_offset_applied": True}
    item(tmp_path, properties=properties, collection="sentinel-2-l2a")
    product = read_item(tmp_path / "item.json")
    assert {layer.reading.offset for layer in product.layers.values()} == {0.0}
    assert product.level == "surface"


@pytest.mark.parametrize(
    ("properties", "sensor"),
    [
        ({"platform": "landsat-8"}, "landsat-8"),
        ({"platform": "SPOT 5", "instruments": ["hrg"]}, "spot-5"),
        ({"platform": "PHR-1B"}, "pleiades"),
        ({"platform": "PNEO-3"}, "pleiades-neo"),
        ({"platform": "SPOT-7"}, "spot-7"),
        ({"constellation": "Pléiades"}, "pleiades"),
        ({"platform": "2420", "constellation": "PlanetScope"}, "planetscope"),
        ({"platform": "VENUS"}, "venus"),
    ],
)
def test_the_sensor_is_named_by_the_item(
    properties: dict[str, Any], sensor: str, tmp_path: Path
) -> None:
    item(tmp_path, properties=properties)
    assert read_item(tmp_path / "item.json").sensor.id == sensor


def test_what_the_item_does_not_say_may_be_given(tmp_path: Path) -> None:
    made = item(tmp_path, properties={})
    path = tmp_path / "item.json"
    with pytest.raises(InputError, match="of which sensor"):
        read_item(path)
    for asset in made["assets"].values():
        asset.pop("raster:bands", None)
    item(tmp_path, properties={}, assets=made["assets"])
    product = read_item(path, get_sensor("sentinel-2"), Reading(None, 1e-4, -0.1, 0))
    layer = product.layers["red"]
    assert (layer.reading.scale, layer.reading.offset, product.nodata) == (1e-4, -0.1, 0)


@pytest.mark.parametrize("where", ["file", "address"])
def test_predicting_an_item_writes_one(
    where: str, tmp_path: Path, web_apart: Web, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    item(web_apart.folder)
    path = f"{web_apart.address}/item.json?key=a/b.c" if where == "address" else "web/item.json"
    (result,) = predict_batch([path], None, "out")
    assert result.error == "" and result.status == "done"
    assert {p.name for p in Path("out").iterdir()} == {
        "item_cloud.tif", "item_probability.tif", "item_cloud.json",
    }  # fmt: skip
    made = json.loads(Path("out/item_cloud.json").read_text())
    check_core(made)
    assert made["id"] == "item_cloud" and made["stac_version"] == "1.1.0"
    properties = made["properties"]
    assert properties["datetime"] == "2022-03-01T10:50:21Z"
    assert properties["platform"] == "sentinel-2a"
    assert properties["proj:code"] == "EPSG:32631" and properties["proj:shape"] == [8, 8]
    assert properties["processing:software"].keys() == {"CloudDL"}
    assert "model five" in properties["processing:lineage"]
    with rasterio.open("out/item_cloud.tif") as file:
        mask = file.read(1)
        assert properties["proj:transform"] == list(file.transform)[:6]
    assert properties["eo:cloud_cover"] == round(100 * (mask == 1).sum() / (mask != 255).sum(), 2)
    named = [name.split("/")[3] for name in made["stac_extensions"]]
    assert {"raster", "classification", "processing"} <= set(named)
    # 600 000 m east, 4 900 000 m north of UTM zone 31: near 4.25° E, 44.25° N.
    west, south, east, north = made["bbox"]
    assert 4.25 < west < east < 4.26 and 44.24 < south < north < 44.25
    assert made["geometry"]["type"] == "Polygon"
    cloud, probability = made["assets"]["cloud"], made["assets"]["probability"]
    assert cloud["href"] == "./item_cloud.tif" and probability["href"] == "./item_probability.tif"
    assert [row["value"] for row in cloud["classification:classes"]] == [0, 1, 255]
    assert cloud["raster:bands"] == [
        {"data_type": "uint8", "nodata": 255, "spatial_resolution": 30.0}
    ]
    (link,) = made["links"]
    assert link["rel"] == "derived_from"
    assert link["href"] == (path if where == "address" else "../web/item.json")
    assert load_item("out/item_cloud.json").assets.keys() == {"cloud", "probability"}
    (again,) = predict_batch([path], None, "out")
    assert again.status == "left"
    Path("out/item_cloud.json").unlink()
    (again,) = predict_batch([path], None, "out")
    assert again.status == "done"


def test_any_mask_may_have_an_item(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    values = np.random.default_rng(1).uniform(0.01, 0.6, (4, 16, 16)).astype(np.float32)
    tiff(tmp_path / "spot_20100104.tif", values, 20)
    np.save("bare_20100104T101112.npy", values)
    scenes = ["spot_20100104.tif", "bare_20100104T101112.npy", "dateless.tif"]
    tiff(tmp_path / scenes[2], values, 20)
    result = predict_batch(scenes, "spot-5", "out", stac=True)
    assert [scene.status for scene in result] == ["done", "done", "failed"]
    assert "its name has no date (YYYYMMDD)" in result[2].error
    made = [json.loads(Path(f"out/{Path(n).stem}_cloud.json").read_text()) for n in scenes[:2]]
    for written in made:
        check_core(written)
    assert [written["properties"]["datetime"] for written in made] == [
        "2010-01-04T00:00:00Z", "2010-01-04T10:11:12Z",
    ]  # fmt: skip
    assert made[0]["links"] == [] and made[0]["bbox"]
    assert made[1]["geometry"] is None and "bbox" not in made[1]  # no place on Earth


@pytest.mark.parametrize(
    ("name", "date"),
    [
        ("S2A_MSIL1C_20220301T105021_N0500_R051_T31TCJ_20220301T112233.SAFE", "10:50:21"),
        ("LC08_L1TP_198030_20220301_20220308_02_T1.tar", "00:00:00"),
        ("SENTINEL2A_20220301-105726-885_L2A_T31TCJ_C_V1-9", "10:57:26"),
        ("DIM_PHR1B_MS_202203011051234_ORT_1234567101-001.XML", "10:51:23"),
        ("20220301_084707_12_2420_3B_AnalyticMS", "08:47:07"),
    ],
)
def test_dates_in_names(name: str, date: str) -> None:
    assert date_of(name) == f"2022-03-01T{date}Z"
    assert datetime.fromisoformat(date_of(name)).tzinfo


def drop(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda made: made.pop(name)


BAD: dict[str, tuple[Any, str]] = {
    "no assets": (drop("assets"), "item.json: assets: Field required"),
    "no properties": (drop("properties"), "item.json: properties: Field required"),
    "collection": (lambda m: m.update(type="Collection"), "is a Collection, and no STAC item"),
    "search": (lambda m: m.update(type="FeatureCollection"), "is a FeatureCollection, and no"),
    "href": (lambda m: m["assets"]["red"].pop("href"), "item.json: assets.red.href: Field req"),
    "scale": (
        lambda m: m["assets"]["red"].update({"raster:bands": [{"scale": "x"}]}),
        "assets.red.raster:bands.0.scale: Input should be a valid number",
    ),
    "gone": (lambda m: m["assets"]["red"].update(href="no.tif"), "the asset red cannot be read"),
    "text": (lambda m: m["assets"]["red"].update(href="item.json"), "red is neither TIFF nor"),
    "vsi": (lambda m: m["assets"]["red"].update(href="/vsicurl/http://x"), "no path and no addr"),
    "ftp": (lambda m: m["assets"]["red"].update(href="ftp://x/y.tif"), "no path and no address"),
    "names": (lambda m: m.update(assets={"a": m["assets"]["all"] | {"eo:bands": []}}), "no asset"),
    "nodata": (
        lambda m: m["assets"]["red"].update({"raster:bands": [{"nodata": 5}]}),
        "its bands have several nodata values",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_items_that_do_not_serve(case: str, tmp_path: Path) -> None:
    change, message = BAD[case]
    made = item(tmp_path)
    change(made)
    (tmp_path / "item.json").write_text(json.dumps(made))
    with pytest.raises(InputError, match=r"item\.json") as caught:
        read_item(tmp_path / "item.json")
    assert message in str(caught.value)


def test_text_that_is_no_item(tmp_path: Path, web: Web) -> None:
    for text, message in (
        ("{", "the STAC item cannot be read"),
        ("[1]", "is a JSON value, and no STAC item"),
        ("[" * 100_000, "the STAC item cannot be read"),
        ("\udcff", "the STAC item cannot be read"),
    ):
        path = tmp_path / "a.json"
        path.write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(InputError, match=message):
            load_item(path)
    for path in (tmp_path / "gone.json", f"{web.address}/gone.json", "http://127.0.0.1:9/a.json"):
        with pytest.raises(InputError, match="the STAC item cannot be read"):
            load_item(path)
    made = item(tmp_path)
    with pytest.raises(InputError, match="has its own scale and offset"):
        read_item(tmp_path / "item.json", reading=Reading(scale=0.1))
    assert made["assets"]


def test_an_address_never_leads_to_a_file_of_this_machine(tmp_path: Path, web: Web) -> None:
    made = item(tmp_path)  # whose bands lie outside the folder that is served
    for href in (str(tmp_path / "bands" / "B04.tif"), "../bands/B04.tif", "file:///etc/passwd"):
        made["assets"]["red"]["href"] = href
        (web.folder / "item.json").write_text(json.dumps(made))
        with pytest.raises(InputError, match=r"item\.json"):
            read_item(f"{web.address}/item.json")


def test_an_item_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiff(tmp_path / "a_cloud.tif", np.zeros((1, 4, 4), np.uint8), 10)
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(InputError, match=r"a_cloud\.json: a result could not be written \(.*full"):
        write_item("a_20200101.tif", tmp_path / "a_cloud.tif", tmp_path / "a_probability.tif")
    assert [path.name for path in tmp_path.iterdir()] == ["a_cloud.tif"]


def test_bands_by_their_names_or_those_of_their_assets(tmp_path: Path) -> None:
    made = item(tmp_path)
    for key in ("visual", "all", "red-jp2"):
        made["assets"].pop(key)
    for key, asset in made["assets"].items():
        asset.pop("eo:bands")
        if key in ("red", "nir"):  # as in STAC 1.1
            asset["bands"] = [{"name": BANDS[key]}]
    assets = {BANDS[key]: asset for key, asset in made["assets"].items()}
    item(tmp_path, assets=assets)
    assert list(read_item(tmp_path / "item.json").layers) == list(BANDS)


def test_a_space_in_an_address_may_be_encoded(tmp_path: Path) -> None:
    made = item(tmp_path)
    (tmp_path / "bands" / "B04.tif").rename(tmp_path / "bands" / "my red.tif")
    made["assets"]["red"]["href"] = "./bands/my%20red.tif"
    item(tmp_path, assets=made["assets"])
    (tmp_path / "bands" / "B04.tif").rename(tmp_path / "bands" / "my red.tif")
    assert read_item(tmp_path / "item.json").layers["red"].tiles[0][0].endswith("my red.tif")


def test_an_offset_of_which_false_says_that_it_is_not_taken_off(tmp_path: Path) -> None:
    made = item(tmp_path)
    item(tmp_path, properties={**made["properties"], "earthsearch:boa_offset_applied": "false"})
    assert read_item(tmp_path / "item.json").layers["red"].reading.offset == -0.1


@pytest.mark.parametrize(("baseline", "offset"), [("05.09", -0.1), ("02.12", 0.0)])
def test_the_baseline_gives_scale_and_offset(baseline: str, offset: float, tmp_path: Path) -> None:
    """The items of the Planetary Computer say nothing else."""
    made = item(tmp_path)
    for asset in made["assets"].values():
        asset.pop("raster:bands", None)
    properties = {**made["properties"], "s2:processing_baseline": baseline}
    item(tmp_path, assets=made["assets"], properties=properties)
    reading = read_item(tmp_path / "item.json").layers["red"].reading
    assert (reading.scale, reading.offset, reading.nodata) == (1e-4, offset, 0)


def test_a_scale_that_some_bands_lack(tmp_path: Path) -> None:
    made = item(tmp_path)
    made["assets"]["red"].pop("raster:bands")
    item(tmp_path, assets=made["assets"])
    with pytest.raises(InputError, match="gives no scale of red"):
        read_item(tmp_path / "item.json")


def test_a_sensor_that_contradicts_the_item(tmp_path: Path) -> None:
    item(tmp_path)
    with pytest.warns(UserWarning, match="is of sentinel-2 by its properties, but is read as spot"):
        read_item(tmp_path / "item.json", get_sensor("spot-5"))


@pytest.mark.parametrize(
    "fields",
    [
        {"s2:processing_baseline": "05.10"},
        {"processing:version": "05.10"},
        {"s2:product_uri": "S2A_MSIL1C_20220301T105021_N0510_R051_T31TCJ_20220301T112233.SAFE"},
    ],
)
def test_a_scale_without_the_offset_of_the_baseline(fields: dict[str, str], tmp_path: Path) -> None:
    made = item(tmp_path)
    for asset in made["assets"].values():
        asset.pop("raster:bands", None)
    item(tmp_path, assets=made["assets"], properties=made["properties"] | fields)
    path = tmp_path / "item.json"
    right = {(1e-4, -0.1)}
    for reading in (Reading(), Reading(scale=1e-4, offset=-0.1)):
        layers = read_item(path, reading=reading).layers.values()
        assert {(layer.reading.scale, layer.reading.offset) for layer in layers} == right
    with pytest.raises(
        InputError, match=r"number \* 0.0001 -0.1: leave --scale out, or give --off"
    ):
        read_item(path, reading=Reading(scale=1e-4))
    taken_off = {**made["properties"], **fields, "earthsearch:boa_offset_applied": True}
    item(tmp_path, assets=made["assets"], properties=taken_off)
    layers = read_item(path, reading=Reading(scale=1e-4)).layers.values()
    assert {layer.reading.offset for layer in layers} == {0.0}


def test_what_an_item_leaves_to_the_user_is_checked_as_of_a_plain_image(tmp_path: Path) -> None:
    made = item(tmp_path)
    for asset in made["assets"].values():
        asset.pop("raster:bands", None)
    item(tmp_path, assets=made["assets"])
    with pytest.raises(InputError, match=r"looks like digital numbers.*give --scale/--offset"):
        read_item(tmp_path / "item.json").read()
    with pytest.warns(UserWarning, match=r"no pixel is below 0\.1.*--offset -0\.1"):
        read_item(tmp_path / "item.json", reading=Reading(scale=1e-4, nodata=0)).read()


def test_an_item_that_contradicts_the_names_of_the_layers_is_warned_of(tmp_path: Path) -> None:
    """In silence the bands would be read in the wrong order."""
    names = ["green", "red", "nir", "swir16"]
    values = np.random.default_rng(0).integers(1500, 6000, (4, 40, 40)).astype(np.uint16)
    tiff(tmp_path / "all.tif", values, 30)
    with rasterio.open(tmp_path / "all.tif", "r+") as file:
        file.descriptions = names
    for order in (names, names[::-1]):
        stated = [{"common_name": name} for name in order]
        asset = {"href": "all.tif", "eo:bands": stated, "raster:bands": [NUMBERS] * 4}
        item(tmp_path, assets={"all": asset})
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            open_product(tmp_path / "item.json")
        told = [str(one.message) for one in caught if "contradicts" in str(one.message)]
        assert bool(told) == (order != names)
    assert "all.tif: the metadata or catalogue contradicts what the file says of its" in told[0]
