"""What is fetched for the study of 2020, and heights: from twins of the servers on this machine."""

import base64
import errno
import hashlib
import json
import re
import shutil
import warnings
import zipfile
from pathlib import Path
from typing import Any

import jupytext
import numpy as np
import pytest
import rasterio
import xarray as xr
import yaml
from conftest import Web
from rasterio.transform import from_origin
from test_products import muscate, sentinel2, write

from clouddl import files, scenes
from clouddl.cli import fetch
from clouddl.errors import InputError
from clouddl.files import Store, row_of, write_registry
from clouddl.products import dem, open_product
from clouddl.products.dem import cells, copernicus_dem
from clouddl.scenes import DATA, Scene, load_catalogue, open_scene
from clouddl.sensors import STUDY_BANDS
from clouddl_study import alcd, corpora
from clouddl_study.corpora import open_corpus
from clouddl_study.notebooks import check_parameters

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
NAME = "S2A_MSIL1C_20220301T105021_N0500_R051_T31TCJ_20220301T112233"
GONE = "S2B_MSIL1C_20180101T105021_N0205_R051_T31TFJ_20180101T112233"
CELL = "Copernicus_DSM_COG_10_N44_00_E004_00_DEM"


def height_file(folder: Path, name: str = CELL, south: int = 44, west: int = 4) -> None:
    """A cell of 100 pixels a side, whose heights are the latitude north of it, in 0.01 degree."""
    rows = np.repeat(np.arange(99.5, 0, -1, dtype=np.float32)[:, None], 100, 1)
    path = folder / name / f"{name}.tif"
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="GTiff", count=1, height=100, width=100, dtype="float32",
        crs="EPSG:4326", transform=from_origin(west, south + 1, 0.01, 0.01),
    ) as file:  # fmt: skip
        file.write(rows, 1)


@pytest.fixture
def servers(web: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Web:
    """Zenodo, Google's bucket and the DEM's, with one scene that is there and one that is not."""
    monkeypatch.delenv("CLOUDDL_MIRROR", raising=False)
    for module, name, address in (
        (alcd, "ZENODO", "zenodo/record"), (alcd, "BUCKET", "bucket"), (dem, "COPERNICUS", "dem"),
    ):  # fmt: skip
        monkeypatch.setattr(module, name, f"{web.address}/{address}")
    for folder in ("catalogue", "registry"):
        shutil.copytree(DATA / folder, tmp_path / "data" / folder)
    for module in (alcd, corpora, scenes):
        monkeypatch.setattr(module, "DATA", tmp_path / "data")
    monkeypatch.setenv("CLOUDDL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Store, "retries", 1)
    codes = np.full((4, 4), 5, np.uint8)  # land, at 60 m
    codes[:2] = 2  # low cloud
    write(tmp_path / "map.tif", codes, 60)
    with zipfile.ZipFile(web.folder / "masks.zip", "w") as archive:
        for name in (NAME, GONE, "S2A_OPER_PRD_MSIL1C_OLD"):
            member = f"Reference_dataset/{name}/Classification/classification_map.tif"
            archive.write(tmp_path / "map.tif", member)
        archive.writestr("quicklook.bin", np.random.default_rng(1).bytes(200_000))
    data = (web.folder / "masks.zip").read_bytes()
    md5 = hashlib.md5(data).hexdigest()
    file = {"key": "masks.zip", "size": len(data), "checksum": f"md5:{md5}",
            "links": {"self": f"{web.address}/masks.zip"}}  # fmt: skip
    text = {"key": "readme.txt", "size": 1, "checksum": "md5:0", "links": {"self": "x"}}
    (web.folder / "zenodo").mkdir()
    (web.folder / "zenodo" / "record").write_text(json.dumps({"files": [text, file]}))
    bucket = web.folder / "bucket"
    tile = bucket / alcd.SENTINEL2 / "tiles" / "31" / "T" / "CJ"
    sentinel2(tile)
    listed = [
        {"name": path.relative_to(bucket / alcd.SENTINEL2).as_posix(),
         "size": str(path.stat().st_size),
         "md5Hash": base64.b64encode(hashlib.md5(path.read_bytes()).digest()).decode()}
        for path in sorted(tile.rglob("*")) if path.is_file()
    ]  # fmt: skip
    listing = bucket / "storage" / "v1" / "b" / alcd.SENTINEL2 / "o"
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps({"items": listed}))
    height_file(web.folder / "dem")
    return web


def test_what_is_public_becomes_a_catalogue(servers: Web, tmp_path: Path) -> None:
    lines = alcd.gather()
    assert lines[0].startswith(f"1 scenes in {tmp_path}/cache/alcd, catalogue {tmp_path}/data/")
    assert lines[1].startswith(f"not gathered: {GONE}: is not in {servers.address}/bucket/")
    assert f"into {tmp_path}/cache/alcd/by-hand (zip or folder)" in lines[2]
    assert "  SENTINEL2A_20220301-*_L2A_T31TCJ_*" in lines
    made, store = open_corpus("alcd")
    (scene,) = [each for each in made.scenes if each.collection == "alcd"]
    assert (scene.id, scene.role, scene.group) == (NAME, "reference", "31TCJ")
    opened = open_scene(scene, store)
    bands = ["blue", "green", "red", "nir", "swir16", "swir22"]
    safe = open_product(tmp_path / "cache" / "alcd" / "l1c" / f"{NAME}.SAFE", 30, bands)
    np.testing.assert_allclose(opened.reflectance, safe.reflectance, atol=6e-5)
    assert opened.band.values.tolist() == bands
    assert opened.mask.values[:4].all() and not opened.mask.values[4:].any()
    # At 44.24 north or so: 0.24 degree above the south of the cell is 24 of its heights.
    assert float(opened.elevation.mean()) == pytest.approx(24.5, abs=0.7)
    real = load_catalogue("real")
    assert made.select("train") == real.select("train")  # and what is trained on is never scored on
    assert {s.sensor for s in made.select("reference")} >= {"sentinel-2", "landsat-5", "landsat-8"}


def test_a_second_time_only_what_is_missing(servers: Web, tmp_path: Path) -> None:
    alcd.gather()
    servers.asked.clear()
    name = "SENTINEL2A_20180815-105726-885_L2A_T31TCJ_C_V1-9"
    with warnings.catch_warnings():  # of surface reflectance
        warnings.simplefilter("ignore")
        muscate(tmp_path / "cache" / "alcd" / "by-hand")
        (tmp_path / "cache" / "alcd" / "by-hand" / "notes.txt").write_text("not a product")
        lines = alcd.gather()
    assert {path for path, _ in servers.asked} == {
        "zenodo/record", f"bucket/storage/v1/b/{alcd.SENTINEL2}/o",
    }  # fmt: skip
    assert lines[0].startswith("2 scenes") and "notes.txt: is no product known" in lines[2]
    made, store = open_corpus("alcd")
    scene = open_scene(made.scene(name), store)
    assert scene.attrs["level"] == "surface" and (scene.mask == 1).any()


def test_servers_that_stumble(servers: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "retries", 2)
    servers.refuse = [503, 429]
    servers.cut = [10_000, 100_000]  # the record is whole, the archive breaks off
    assert alcd.gather()[0].startswith("1 scenes")
    asked = [ask for path, ask in servers.asked if path == "masks.zip"]
    assert asked == [None, "bytes=65536-"]  # what came in whole chunks is kept


def test_a_checksum_that_differs(servers: Web, tmp_path: Path) -> None:
    record = servers.folder / "zenodo" / "record"
    record.write_text(re.sub("md5:[0-9a-f]{32}", "md5:" + 32 * "0", record.read_text()))
    with pytest.raises(InputError, match=r"masks\.zip sent another file"):
        alcd.gather()
    assert not list((tmp_path / "cache" / "alcd" / "zenodo").iterdir())


def test_a_file_that_is_missing(servers: Web) -> None:
    next(servers.folder.rglob("*_B11.jp2")).unlink()
    with pytest.raises(InputError, match=r"_B11\.jp2: 404"):
        alcd.gather()


def test_no_space_left(servers: Web, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: Any, incomplete: Path, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(incomplete))

    with monkeypatch.context() as patch:
        patch.setattr(files, "_download", full)
        with pytest.raises(InputError, match=r"No space left.*set CLOUDDL_CACHE to a folder with"):
            alcd.gather()
    assert alcd.gather()[0].startswith("1 scenes")


def test_a_scene_that_cannot_be_read_is_told(servers: Web) -> None:
    for path in servers.folder.rglob("MTD_MSIL1C.xml"):
        path.write_text("<a/>" + " " * (path.stat().st_size - 4))
    listing = next(servers.folder.rglob("o"))
    listed = json.loads(listing.read_text())
    for each in listed["items"]:
        data = (servers.folder / "bucket" / alcd.SENTINEL2 / each["name"]).read_bytes()
        each["md5Hash"] = base64.b64encode(hashlib.md5(data).digest()).decode()
    listing.write_text(json.dumps(listed))
    with pytest.raises(InputError, match=r"no scene could be had: .*has no QUANTIFICATION_VALUE"):
        alcd.gather()


@pytest.mark.parametrize("answer", ["{}", "[]", '{"files": [{"key": "a.zip"}]}', "no json"])
def test_a_record_that_is_none(servers: Web, answer: str) -> None:
    (servers.folder / "zenodo" / "record").write_text(answer)
    with pytest.raises(InputError, match="zenodo/record"):
        alcd.gather()


def test_a_server_that_is_not_there(servers: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Store, "retries", 0)
    monkeypatch.setattr(alcd, "ZENODO", "http://127.0.0.1:9/record")
    with pytest.raises(InputError, match=r"127\.0\.0\.1:9/record: does not answer"):
        alcd.gather()
    with pytest.raises(InputError, match="corpus alcd: is not here; gather it with"):
        open_corpus("alcd")
    with pytest.raises(InputError, match="fetch maja: only alcd is gathered by name"):
        fetch("maja")


# --- heights


def grid(west: float, north: float, crs: str = "EPSG:32631") -> xr.DataArray:
    y, x = north - 30 * np.arange(0.5, 8), west + 30 * np.arange(0.5, 8)
    found = xr.DataArray(np.zeros((8, 8)), {"y": y, "x": x}, ("y", "x"))
    return found.rio.write_crs(crs) if crs else found


def test_names_of_the_cells() -> None:
    assert cells(grid(600_000, 4_900_000)) == [CELL]
    # A corner of four cells, 0° N 3° E being 500 000 m east, 0 m north in zone 31.
    four = [f"Copernicus_DSM_COG_10_{n}_00_DEM" for n in
            ("S01_00_E002", "S01_00_E003", "N00_00_E002", "N00_00_E003")]  # fmt: skip
    assert cells(grid(499_900, 100)) == four
    west = cells(grid(300_000, 4_900_000, "EPSG:32601"))  # zone 1, west of 177° W
    assert west == ["Copernicus_DSM_COG_10_N44_00_W180_00_DEM"]
    with pytest.raises(InputError, match="no CRS"):
        cells(grid(0, 0, ""))


def test_heights_are_fetched_once_and_checked(servers: Web, tmp_path: Path) -> None:
    scene = grid(600_000, 4_900_000)
    found = copernicus_dem(scene, store := Store(None, tmp_path / "cache"))
    assert found.dtype == np.float32 and found.attrs["absent"] == ""
    assert float(found.mean()) == pytest.approx(24.5, abs=0.7)
    servers.asked.clear()
    np.testing.assert_array_equal(copernicus_dem(scene, store), found)
    assert servers.asked == []
    servers.etag = "0" * 32
    with pytest.raises(InputError, match="sent another file"):
        copernicus_dem(scene, Store(None, tmp_path / "other"))
    servers.etag = "0" * 32 + "-2"  # of an upload in parts: no checksum, only the size is left
    assert np.isfinite(copernicus_dem(scene, Store(None, tmp_path / "other"))).all()


def test_heights_there_are_none_of_are_told_and_not_made_zero(servers: Web, tmp_path: Path) -> None:
    store = Store(None, tmp_path / "cache")
    height_file(servers.folder / "dem", "Copernicus_DSM_COG_10_N00_00_E003_00_DEM", 0, 3)
    with pytest.warns(UserWarning, match="no Copernicus DEM of .*S01_00_E002.*stay unknown"):
        found = copernicus_dem(grid(499_900, 100), store)
    assert "S01_00_E003" in found.attrs["absent"]
    assert np.isfinite(found.values[0, -1]) and np.isnan(found.values[-1, 0])
    with pytest.raises(InputError, match=r"no Copernicus DEM of .*leave elevation out"):
        copernicus_dem(grid(600_000, 5_900_000), store)


def test_a_product_with_its_heights(servers: Web, tmp_path: Path) -> None:
    path, _ = sentinel2(tmp_path)
    scene = open_product(path, 30, ["red"], elevation=True)
    assert scene.elevation.shape == (8, 8) and np.isfinite(scene.elevation).all()


# --- the notebooks on it


def small_real(folder: Path, mirror: Path) -> None:
    """A catalogue `real` of the whole one's kinds: tiny scenes in files, and a few simulated."""
    kinds = [("sentinel-2", "train", 3), ("sentinel-2", "validation", 2),
             ("landsat-5", "reference", 1), ("landsat-8", "reference", 3)]  # fmt: skip
    collections: dict[str, dict[str, Any]] = {}
    for sensor, role, count in kinds:
        metres = 10 if sensor == "sentinel-2" else 30
        one = {"sensor": sensor, "role": role, "resolution": metres, "scale": 1e-4}
        if role == "reference":
            one |= {"label_codes": "binary", "label_kind": "people"}
        scenes = []
        for number in range(count):
            name = f"{sensor}-{role}-{number}"
            told = {"seed": number, "size": 64, "surface": "mixed", "cloud_fraction": 0.4}
            simulated = Scene(id=name, collection="", sensor=sensor, role="train", group=name,
                          resolution=metres, simulated=told)  # fmt: skip
            opened = open_scene(simulated, Store(None))
            numbers = (opened.reflectance.values * 1e4).astype(np.uint16)
            write(mirror / f"{name}.tif", numbers, metres)
            write(mirror / f"{name}_mask.tif", opened.mask.values, metres)
            label = {"label": f"{name}_mask.tif"} if role == "reference" else {}
            scenes.append({"id": name, "group": name, "image": [f"{name}.tif"], **label})
            one["bands"] = opened.band.values.tolist()
        collections[f"{sensor} {role}"] = one | {"scenes": scenes}
    simulated = [{"id": f"simulated-{n}", "group": f"simulated-{n}", "role": role,
              "simulated": {"seed": n, "size": 64, "surface": "barren", "cloud_fraction": 0.3}}
             for n, role in enumerate(("train", "validation"))]  # fmt: skip
    collections["simulated"] = {"sensor": "sentinel-2", "bands": list(STUDY_BANDS),
                                "resolution": 10,
                            "scenes": simulated}  # fmt: skip
    made = {"name": "real", "title": "t", "registry": "real.csv", "collections": collections}
    (folder / "catalogue" / "real.yaml").write_text(yaml.safe_dump(made))
    rows = [row_of(file.name, file) for file in mirror.iterdir()]
    write_registry(folder / "registry" / "real.csv", rows)


def run_notebook(name: str, **given: Any) -> dict[str, Any]:
    """Run the cells of a notebook here, which is quicker than in a kernel; its variables."""
    space: dict[str, Any] = {"__name__": name}
    for number, cell in enumerate(jupytext.read(NOTEBOOKS / f"{name}.py").cells):
        if cell.cell_type == "code":
            exec(compile(cell.source, f"{name}, cell {number}", "exec"), space)
        if "parameters" in cell.metadata.get("tags", []):
            space |= check_parameters(NOTEBOOKS / f"{name}.py", given)
    return space


def test_the_notebooks_run_on_it_unchanged(
    servers: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mirror").mkdir()
    small_real(tmp_path / "data", tmp_path / "mirror")
    alcd.gather()
    common: dict[str, Any] = {"corpus": "alcd", "mirror": str(tmp_path / "mirror"),
                              "work": str(tmp_path / "work")}  # fmt: skip
    compared = run_notebook("01_data_preparation", **common)["layers"]["consensus"]
    assert "simulated-0" not in compared.dataset.scene.values  # processors have no say there
    run_notebook("02_training", **common, epochs=1)
    run_notebook("03_hyperopt_search", **common, trials=1, trial_epochs=1, epochs=1)
    fourth = run_notebook("04_sentinel2_validation", **common, draws=10)
    assert fourth["first"] == "alcd" and list(fourth["scenes"]) == [NAME]
    fifth = run_notebook("05_spot_transfer", **common, draws=10, adaptation_scenes=1,
                         adaptation_epochs=1)  # fmt: skip
    assert list(fifth["sets"]) == ["landsat-5", "landsat-8"]
    tables = {path.name for path in (tmp_path / "work" / "results").glob("*.csv")}
    assert {"scores_sentinel2.csv", "scores_transfer.csv", "headline.csv"} <= tables
