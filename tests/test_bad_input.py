"""Bad input: what is given, what is said, and the exit code; and readers given broken files.

Every row is one line on standard error that names the file or the option, and never a traceback.
"""

import io
import json
import pickle
import resource
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from conftest import Run, read_image, write_tiff
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rasterio.windows import Window
from test_products import landsat, muscate, pleiades, sentinel2, spot, take5

from clouddl.errors import InputError
from clouddl.labels import read_mask
from clouddl.model import read_card
from clouddl.products import open_product
from clouddl.products.readers import find_product
from clouddl.products.reading import Reading
from clouddl.products.stac import load_item, read_item
from clouddl.scenes import load_catalogue
from clouddl.sensors import CARDS, get_sensor

PREDICT = "predict --sensor spot-5 --out out --model tiny.json"
LABEL = "label good.tif --sensor spot-5 --out out"
PRODUCT = "predict --out out"
SAFE = "S2A_MSIL1C_20220301T105021_N0500_R051_T31TCJ_20220301T112233.SAFE"
ITEM = {"type": "Feature", "stac_version": "1.0.0", "id": "a", "assets": {"red": {"href": "b.tif"}},
        "properties": {"platform": "sentinel-2a"}}  # fmt: skip


def change(folder: Path, pattern: str, old: str, new: str) -> None:
    """Write something else into a file of metadata."""
    (path,) = folder.rglob(pattern)
    text = path.read_text("latin-1")
    assert old in text
    path.write_text(text.replace(old, new), "latin-1")


def products(place: Path) -> None:
    """Products of the right layout with one thing wrong each, in folders by what is wrong."""
    (place / "nothing").mkdir()
    for name in ("one", "two"):
        sentinel2(place / "several" / name)
    for name, pattern, old, new in (
        ("entities", "MTD*.xml", "<n1:Level", "<!DOCTYPE a [<!ENTITY b 'c'>]><n1:Level"),
        ("noxml", "MTD*.xml", "</n1:General_Info>", ""),
        ("noquantity", "MTD*.xml", "QUANTIFICATION_VALUE", "VALUE"),
        ("words", "MTD*.xml", ">10000<", ">many<"),
        ("nooffset", "MTD*.xml", "RADIO_ADD_OFFSET", "ADD_OFFSET"),
        ("tenth", "MTD*.xml", ">10000<", ">1000<"),
    ):
        sentinel2(place / name)
        change(place / name, pattern, old, new)
    next(sentinel2(place / "lacks")[0].rglob("*_B03.jp2")).unlink()
    cut = next(sentinel2(place / "short")[0].rglob("*_B04.jp2"))
    cut.write_bytes(cut.read_bytes()[:60])
    virtual = next(sentinel2(place / "virtual")[0].rglob("*_B04.jp2"))
    virtual.write_text("<VRTDataset rasterXSize='1' rasterYSize='1'/>")
    landsat(place / "night", sun="-3.0")
    landsat(place / "level2", level="L2SP")
    landsat(place / "mtl")
    change(place / "mtl", "*_MTL.txt", "REFLECTANCE_ADD_BAND_3", "ADD_BAND_3")
    spot(place / "display", "LINEAR_STRETCH")
    pleiades(place / "undated")
    change(place / "undated", "DIM*.XML", "2016-09-06", "September")
    muscate(place / "unknown")
    change(place / "unknown", "*_MTD_ALL.xml", "SENTINEL2A</PLAT", "LANDSAT9</PLAT")
    take5(place / "spot6")
    change(place / "spot6", "*.xml", ">SPOT4<", ">SPOT6<")


def files(place: Path) -> None:
    """Files that are not what their name says, or not fit for use."""
    (place / "empty.zip").write_bytes(b"")
    (place / "broken.zip").write_bytes(b"PK\3\4" + bytes(100))
    (place / "broken.tar").write_bytes(bytes(range(256)) * 4)
    with zipfile.ZipFile(place / "out.zip", "w") as archive:
        archive.writestr("../MTD_MSIL1C.xml", "<a/>")
    with zipfile.ZipFile(place / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/MTD_MSIL1C.xml", bytes(10_000_000))
    with tarfile.open(place / "out.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("/etc/MTD_MSIL1C.xml"), io.BytesIO())
    (place / "text.tif").write_text("not an image")
    (place / "zero.tif").write_bytes(b"")
    np.save(place / "flat.npy", np.zeros(9, np.float32))
    np.save(place / "objects.npy", np.array([{}, {}], object), allow_pickle=True)
    (place / "text.npy").write_text("not an array")
    np.savez(place / "two.npz", a=np.zeros((4, 9, 9)), b=np.zeros((4, 9, 9)))
    (place / "pickled.safetensors").write_bytes(pickle.dumps({"a": 1}))
    card = (place / "tiny.json").read_text()
    (place / "pickled.json").write_text(card)
    (place / "notjson.json").write_text(card[:100])
    write_tiff(place / "complex.tif", np.ones((4, 9, 9), np.complex64))
    write_tiff(place / "infinite.tif", np.full((4, 9, 9), np.inf, np.float32))
    write_tiff(place / "bytes.tif", np.full((4, 9, 9), 200, np.uint8))
    write_tiff(place / "codes.tif", np.full((1, 2, 4), 77, np.uint8))
    write_tiff(place / "bare.tif", np.ones((4, 9, 9), np.float32))
    (place / "catalogue.yaml").write_text("name: a\ntitle: b\ncollections: [1]\n")
    (place / "listed.yaml").write_text("name: a\ntitle: b\nregistry: [1]\ncollections: {}\n")
    for name in ("deep.yaml", "deep.json", "deep.geojson"):
        (place / name).write_text("[" * 5000)
    ring = "[" * 900 + "]" * 900  # JSON can be read, but Python goes no deeper
    (place / "ring.geojson").write_text(
        f'{{"features": [{{"geometry": {{"type": "Polygon", "coordinates": {ring}}}}}]}}'
    )
    (place / "alias.yaml").write_text("a: &a [x]\nname: *b\n")
    (place / "list.json").write_text("[1]")
    (place / "brace.json").write_text("{")
    (place / "search.json").write_text(json.dumps({"type": "FeatureCollection", "features": []}))
    (place / "assetless.json").write_text(json.dumps(ITEM | {"assets": {}}))
    (place / "moon.json").write_text(json.dumps(ITEM | {"properties": {"platform": "moon"}}))
    (place / "bandless.json").write_text(
        json.dumps(ITEM | {"assets": {"picture": ITEM["assets"]["red"]}})
    )
    (place / "spec.yml").write_text("f2: high\n")


BAD: list[tuple[str, str, int]] = [
("predict good.tif --sensor spot-9 --out out", "sensor 'spot-9' is unknown; choose co3d, ", 2),
    ("predict good.tif --sensor no.yaml --out out", "no.yaml: the sensor card cannot be read", 2),
    ("sensors text.yaml", "text.yaml: title: Field required; correct this field (and 4 more)", 2),
    (f"{PREDICT} good.tif --bands green,red,nir,blue", "good.tif: blue: not a band of spot-5", 2),
    (f"{PREDICT} good.tif --bands green,red,nir,swir16,-", "has 4 bands, but 5 are named", 2),
    (f"{PREDICT} good.tif --use blue", "good.tif: has no band 'blue'; it has green, red, nir", 2),
    (f"{PREDICT} numbers.tif", "numbers.tif: looks like digital numbers", 2),
    (f"{PREDICT} empty.tif", "empty.tif: every pixel is nodata; check the file and --nodata", 2),
    (f"{PREDICT} cut.tif", "cut.tif", 2),
    (f"{PREDICT} gone.tif", "gone.tif: does not exist", 2),
    (f"{PREDICT} gone.npz", "gone.npz: does not exist", 2),
    (f"{PREDICT} good.tif ./good.tif", "is an input, or the result of another input", 2),
    (f"{PREDICT} good.tif --resolution 10", "good.tif: its pixels are 30 m, not 10 m", 2),
    (f"{PREDICT} good.tif --model broken.json", "broken.safetensors: the weights are broken", 2),
    (f"{PREDICT} good.tif --model gone.json", "gone.json: there is no such model card", 2),
    (f"{PREDICT} good.tif --model blue.json", "but model blue works from blue, nir", 2),
    ("score mask.tif --reference moved.tif", "moved.tif: its grid (2 x 4 pixels, EPSG:32631", 2),
    ("score mask.tif --reference good.tif", "good.tif: it has 4 layers; give a file of one", 2),
    ("score mask.tif --reference gone.tif", "gone.tif: does not exist; check the path", 2),
    ("score mask.tif --reference truth.tif --codes alcds", "label codes 'alcds' are unknown", 2),
    ("score mask.tif --reference truth.tif --reference truth.tif", "1 masks but 2 references", 2),
    ("study --corpus simulated --profile quickly", "unknown profile 'quickly'; did you", 2),
    ("study --corpus dawn", "corpus 'dawn' is unknown; choose auto, real or simulated", 2),
    ("study --corpus simulated --only 02_trainin", "'02_trainin'; did you mean '02_training'", 2),
    ("study --mirror nowhere", "mirror nowhere: no such folder; correct --mirror", 2),
    ("fetch --mirror nowhere", "mirror nowhere: no such folder; correct --mirror", 2),
    ("fetch --catalogue reel", "reel.yaml: no such catalogue; in ", 2),
    ("sensors plot spot-9", "sensor 'spot-9' is unknown", 2),
    ("sensors plot spot-4 --out plot.gif", "plot.gif: cannot be drawn to; give a file ending", 2),
    ("sensors spot-4 --out simulated.png", "--out goes with plot: clouddl sensors plot", 2),
    ("sensors noyaml.yaml", "noyaml.yaml: the sensor card", 2),
    ("fetch --role referense", "referense", 2),
    ("fetch maja", "fetch maja: only alcd is gathered by name", 2),
    ("study --corpus alcd", "corpus alcd: is not here; gather it with `clouddl fetch alcd`", 2),
    ("score mask.tif --reference truth.tif --csv mask.tif/a.csv", "mask.tif", 2),
    # products
    (f"{PRODUCT} gone", "gone: does not exist", 2),
    (f"{PRODUCT} nothing", "nothing: is no product known. Known: ", 2),
    (f"{PRODUCT} several", "several: holds 2 products", 2),
    (f"{PRODUCT} entities", "declares a document type", 2),
    (f"{PRODUCT} noxml", "MTD_MSIL1C.xml is not XML", 2),
    (f"{PRODUCT} noquantity", "has no QUANTIFICATION_VALUE; the metadata are incomplete", 2),
    (f"{PRODUCT} words", "QUANTIFICATION_VALUE is 'many', not a number", 2),
    (f"{PRODUCT} nooffset", "wrong scale: baseline 05.00 without RADIO_ADD_OFFSET", 2),
    (f"{PRODUCT} tenth", "wrong scale: by the metadata its values", 2),
    (f"{PRODUCT} lacks", "the file of its band green is missing", 2),
    (f"{PRODUCT} short", "B04.jp2", 2),
    (f"{PRODUCT} virtual", "is neither TIFF nor JPEG 2000", 2),
    (f"{PRODUCT} night", "no reflectance by night", 2),
    (f"{PRODUCT} level2", "has no LEVEL2_SURFACE_REFLECTANCE_PARAMETERS", 2),
    (f"{PRODUCT} mtl", "has no REFLECTANCE_ADD_BAND_3; the metadata are incomplete", 2),
    (f"{PRODUCT} display", "RADIOMETRIC_PROCESSING is LINEAR_STRETCH", 2),
    (f"{PRODUCT} undated", "IMAGING_DATE 'September' is not YYYY-MM-DD", 2),
    (f"{PRODUCT} unknown", "no reader for LANDSAT9", 2),
    (f"{PRODUCT} spot6", "PLATEFORM is SPOT6, not SPOT4 or SPOT5", 2),
    (f"{PRODUCT} lacks --scale 0.1", "a product says its own scale", 2),
    (f"{PRODUCT} good.tif", "good.tif: has no card good.yaml beside it", 2),
    # archives
    (f"{PRODUCT} empty.zip", "empty.zip: is a damaged archive", 2),
    (f"{PRODUCT} broken.zip", "broken.zip", 2),
    (f"{PRODUCT} broken.tar", "broken.tar", 2),
    (f"{PRODUCT} out.zip", "which leads out of it; not opened", 2),
    (f"{PRODUCT} out.tar", "which leads out of it; not opened", 2),
    (f"{PRODUCT} bomb.zip", "would unpack to 10000000", 2),
    # images and arrays
    (f"{PREDICT} text.tif", "text.tif: cannot be read as an image", 2),
    (f"{PREDICT} zero.tif", "zero.tif: cannot be read as an image", 2),
    (f"{PREDICT} nothing", "nothing: does not exist; check the path", 2),
    (f"{PREDICT} flat.npy", "flat.npy: an image has 2 or 3 dimensions", 2),
    (f"{PREDICT} objects.npy", "objects.npy: cannot be read", 2),
    (f"{PREDICT} text.npy", "text.npy: cannot be read", 2),
    (f"{PREDICT} two.npz", "two.npz: which array is the image of 4 bands?", 2),
    (f"{PREDICT} two.npz#c", "two.npz#c: no such array; choose", 2),
    (f"{PREDICT} complex.tif", "complex.tif: holds complex numbers", 2),
    (f"{PREDICT} infinite.tif", "infinite.tif: every pixel is nodata", 2),
    (f"{PREDICT} bytes.tif", "bytes.tif: looks like digital numbers", 2),
    (f"{PREDICT} good.tif --nodata 0 --scale nan", "good.tif", 2),
    # STAC
    (f"{PRODUCT} gone.json", "gone.json: the STAC item cannot be read (No such file", 2),
    (f"{PRODUCT} brace.json", "brace.json: the STAC item cannot be read", 2),
    (f"{PRODUCT} deep.json", "deep.json: the STAC item cannot be read (maximum recursion", 2),
    (f"{PRODUCT} list.json", "list.json: is a JSON value, and no STAC item", 2),
    (f"{PRODUCT} search.json", "search.json: is a FeatureCollection", 2),
    (f"{PRODUCT} assetless.json", "assetless.json: assets: Dictionary should have at least 1", 2),
    (f"{PRODUCT} moon.json", "moon.json: of which sensor? Its platform is 'moon'", 2),
    (f"{PRODUCT} bandless.json", "bandless.json: no asset is a band of sentinel-2", 2),
    (f"{PRODUCT} http://127.0.0.1:9/a.json", "a.json: the STAC item cannot be read", 2),
    # models
    (f"{PREDICT} good.tif --model pickled.json", "the weights are broken or of another model", 2),
    (f"{PREDICT} good.tif --model notjson.json", "notjson.json: the record: Invalid JSON", 2),
    (f"{PREDICT} good.tif --model deep.json", "deep.json: the record: Invalid JSON: recursion", 2),
    # many scenes, and where they go
    (f"{PREDICT} good.tif cut.tif", "clouddl: cut.tif", 1),
    (f"{PREDICT} zero.tif cut.tif", "0 done, 0 left as they were, 2 failed", 1),
    ("predict good.tif --sensor spot-5 --model tiny.json --out mask.tif", "mask.tif: cannot be", 2),
    (f"{PREDICT} good.tif --workers 2", "--workers goes with --scheduler local", 2),
    (f"{PREDICT} good.tif --stac", "good.tif: its name has no date (YYYYMMDD)", 2),
    # catalogues, specifications
    ("fetch --catalogue catalogue.yaml", "catalogue.yaml: collections: each wants a list", 2),
    ("fetch --catalogue deep.yaml", "deep.yaml: the catalogue cannot be read", 2),
    ("fetch --catalogue alias.yaml", "alias.yaml: the catalogue cannot be read", 2),
    ("fetch --catalogue listed.yaml", "listed.yaml: registry: Input is not a valid path", 2),
    ("gate spot real --spec deep.yaml", "deep.yaml: the gate specification cannot be read", 2),
    ("register gone.yaml", "gone.yaml: no such catalogue", 2),
    ("gate spot real --spec gone.yml", "gone.yml", 2),
    ("gate spot real --spec spec.yml", "spec.yml: f2", 2),
    ("sensors deep.yaml", "deep.yaml: the sensor card", 2),
    ("score codes.tif --reference truth.tif", "binary: code(s) [77] are not in its table", 2),
    (f"{LABEL} --labels gone.geojson", "gone.geojson", 2),
    (f"{LABEL} --labels deep.geojson", "deep.geojson: cannot be read", 2),
    (f"{LABEL} --labels ring.geojson", "ring.geojson: cannot be read", 2),
]  # fmt: skip


@pytest.mark.parametrize(("line", "said", "code"), BAD)
def test_a_bad_input_is_told_in_a_line(
    run: Run, place: Path, line: str, said: str, code: int
) -> None:
    files(place)
    if PRODUCT in line:
        products(place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of GDAL, about files that are broken
        found, out, err = run(line)
    assert found == code
    assert said in err
    assert "Traceback" not in err
    if code == 2:  # and nothing was written
        assert out == "" and err.startswith("clouddl: ") and err.count("\n") == 1
        assert not (place / "out").exists()


def test_there_are_at_least_forty_kinds() -> None:
    assert len({said for _, said, _ in BAD}) >= 40


# --- broken files


SOME = settings(
    max_examples=60,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
# A byte that changes, a piece that is lost, a piece that comes twice or from elsewhere.
CHANGES = st.lists(
    st.tuples(st.floats(0, 1), st.integers(0, 40), st.binary(max_size=8)), min_size=1, max_size=4
)
WORDS = st.sampled_from(["name", "title", "scenes", "collections", "bands", "registry", "id", "a",
                         "common", "centre_um", "sources", "image", "resolution"])  # fmt: skip
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=8)
TREES = st.recursive(
    PLAIN, lambda t: st.lists(t, max_size=4) | st.dictionaries(WORDS | PLAIN, t, max_size=5)
)


@pytest.fixture
def little_memory() -> Iterator[None]:
    """What a broken file asks for is refused, not taken from the machine."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def broken(whole: bytes, changes: list[tuple[float, int, bytes]]) -> bytes:
    for where, lost, put in changes:
        at = int(where * len(whole))
        whole = whole[:at] + put + whole[at + lost :]
    return whole


def tolerant(read: Callable[[], Any]) -> None:
    """A reader gives a result or an InputError; any other exception fails the test."""
    with warnings.catch_warnings(), suppress(InputError):
        warnings.simplefilter("ignore")
        read()


@SOME
@given(tree=TREES)
def test_any_tree_as_catalogue_or_card(tmp_path: Path, tree: Any) -> None:
    path = tmp_path / "tree.yaml"
    path.write_text(yaml.safe_dump(tree), "utf-8", "surrogatepass")
    tolerant(lambda: load_catalogue(path))
    tolerant(lambda: load_catalogue(_in(path, {"name": "a", "title": "b", "collections": tree})))
    tolerant(lambda: get_sensor(path))


def _in(path: Path, tree: Any) -> Path:
    path.write_text(yaml.safe_dump(tree), "utf-8", "surrogatepass")
    return path


@SOME
@given(tree=TREES, changes=CHANGES)
def test_any_tree_as_item_or_model_card(tmp_path: Path, tree: Any, changes: Any) -> None:
    path = tmp_path / "item.json"
    for text in (
        json.dumps(tree, default=str, skipkeys=True),
        json.dumps(ITEM | {"assets": tree}, skipkeys=True),
    ):
        path.write_text(text)
        tolerant(lambda: load_item(path))
        tolerant(lambda: read_card(path))
    path.write_bytes(broken(json.dumps(ITEM).encode(), changes))
    tolerant(lambda: read_item(path))


@SOME
@given(changes=CHANGES)
def test_broken_catalogues_and_cards(tmp_path: Path, changes: Any) -> None:
    text = """name: a
title: b
collections:
  one:
    sensor: sentinel-2
    bands: [red, nir]
    scale: 1.0e-4
    resolution: 10
    scenes:
      - {id: a, group: g, role: train, image: [a.tif]}
      - {id: b, group: h, role: reference, image: [b.tif], label: c.tif, label_codes: alcd}
"""
    path = tmp_path / "broken.yaml"
    for whole, read in ((text.encode(), load_catalogue),
                        ((CARDS / "spot-5.yaml").read_bytes(), get_sensor)):  # fmt: skip
        path.write_bytes(broken(whole, changes))
        tolerant(lambda read=read: read(path))


@pytest.mark.parametrize(
    ("twin", "pattern"),
    [(sentinel2, "MTD*.xml"), (muscate, "*_MTD_ALL.xml"), (take5, "*.xml"), (spot, "*.DIM"),
     (pleiades, "*.XML"), (landsat, "*_MTL.txt")],
)  # fmt: skip
def test_broken_metadata(twin: Any, pattern: str, tmp_path: Path, little_memory: None) -> None:
    folder, _ = twin(tmp_path)
    (path,) = folder.rglob(pattern)
    whole = path.read_bytes()

    @settings(SOME, max_examples=40)
    @given(changes=CHANGES)
    def check(changes: Any) -> None:
        path.write_bytes(broken(whole, changes))
        tolerant(lambda: find_product(folder))

    check()


@settings(SOME, max_examples=150)
@given(changes=CHANGES)
def test_broken_images(tmp_path: Path, little_memory: None, changes: Any) -> None:
    path = tmp_path / "image.tif"
    bands = ["green", "red", "nir", "swir16"]
    path.unlink(missing_ok=True)  # GDAL would look into the broken one
    write_tiff(path, np.ones((4, 32, 32), np.uint16), compress="deflate", nodata=0)
    path.write_bytes(broken(path.read_bytes(), changes))
    tolerant(lambda: read_image(path, bands, Reading(resolution=30)))
    tolerant(lambda: read_image(path, bands, Reading(resolution=30), Window(0, 0, 8, 8)))
    path.unlink()
    write_tiff(path, np.ones((1, 32, 32), np.uint8), nodata=255)
    path.write_bytes(broken(path.read_bytes(), changes))
    tolerant(lambda: read_mask(path, "binary"))


@settings(SOME, max_examples=40)
@given(changes=CHANGES, mode=st.sampled_from(["w:gz", "w:", "zip"]))
def test_broken_archives(tmp_path: Path, changes: Any, mode: Any) -> None:
    if not (tmp_path / "in").exists():
        landsat(tmp_path / "in")
    path = tmp_path / ("a.zip" if mode == "zip" else "a.tar")
    if mode == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in (tmp_path / "in").rglob("*.*"):
                archive.write(file, file.name)
    else:
        with tarfile.open(path, mode) as packed:
            packed.add(tmp_path / "in", "in")
    path.write_bytes(broken(path.read_bytes(), changes))
    tolerant(lambda: open_product(path, bands=["red"]))
