"""Results, paths and scores: what gave a wrong number, or another image's mask, in silence."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
import rasterio.shutil
import rioxarray
import torch
import xarray as xr
from affine import Affine
from test_products import landsat

from clouddl import cli
from clouddl.errors import InputError, WriteError
from clouddl.files import is_local, split_member, writing
from clouddl.labels import read_mask
from clouddl.model import CloudModel, load_model
from clouddl.network import ModelCard, build
from clouddl.predict import Options, check_results, predict_array, predict_file, results_of
from clouddl.products import ProductImage, open_image, open_product
from clouddl.products.readers import find_product
from clouddl.products.reading import Reading
from clouddl.products.stac import is_item
from clouddl.scale.batch import _made_from, predict_batch
from clouddl.sensors import get_sensor

NORTH_UP = Affine(30, 0, 500_000, 0, -30, 4_800_000)
MASK = np.random.default_rng(0).integers(0, 2, (12, 9)).astype(np.uint8)


def write_mask(path: Path, values: np.ndarray, transform: Affine = NORTH_UP, **tags: Any) -> Path:
    options = {"crs": "EPSG:32631", "transform": transform} | tags
    height, width = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=1, dtype="uint8", **options
    ) as file:
        file.write(values, 1)
    return path


def test_a_mask_of_0_and_255_is_not_taken_for_nodata(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "m.tif", MASK * 255)
    with pytest.raises(InputError, match=r"m\.tif: .*0 and 255.*--codes binary-255"):
        read_mask(path, "binary")
    assert np.array_equal(read_mask(path, "binary-255"), MASK)
    clear = write_mask(tmp_path / "clear.tif", MASK * 255, nodata=255)
    assert np.array_equal(read_mask(clear, "binary"), MASK * 255)


@pytest.mark.parametrize("crs", ["EPSG:32631", None])
def test_a_mask_with_the_south_up_is_turned(tmp_path: Path, crs: str | None) -> None:
    like = read_mask(write_mask(tmp_path / "m.tif", MASK, crs=crs), "binary")
    south_up = Affine(30, 0, 500_000, 0, 30, 4_800_000 - 12 * 30)
    path = write_mask(tmp_path / "s.tif", MASK[::-1], south_up, crs=crs)
    assert np.array_equal(read_mask(path, "binary", like=like), MASK)
    west = Affine(-30, 0, 500_000 + 9 * 30, 0, 30, 4_800_000 - 12 * 30)
    path = write_mask(tmp_path / "w.tif", MASK[::-1, ::-1], west, crs=crs)
    assert np.array_equal(read_mask(path, "binary", like=like), MASK)
    image = read_mask(tmp_path / "s.tif", "binary")
    assert np.array_equal(read_mask(tmp_path / "m.tif", "binary", like=image), MASK[::-1])


@pytest.mark.parametrize("crs", ["EPSG:32631", None])
def test_a_mask_shifted_by_a_pixel_or_turned_is_refused(tmp_path: Path, crs: str | None) -> None:
    like = read_mask(write_mask(tmp_path / "m.tif", MASK, crs=crs), "binary")
    shifted = write_mask(tmp_path / "s.tif", MASK, NORTH_UP * Affine.translation(1, 0), crs=crs)
    with pytest.raises(InputError, match=r"s\.tif: its grid .* is not the image's"):
        read_mask(shifted, "binary", like=like)
    turned = write_mask(tmp_path / "t.tif", MASK, NORTH_UP * Affine.rotation(30), crs=crs)
    with pytest.raises(InputError, match=r"t\.tif.*turned"):
        read_mask(turned, "binary", like=like)


def test_a_number_sign_may_be_part_of_a_name(tmp_path: Path) -> None:
    assert split_member("a.npz#b") == ("a.npz", "b")
    assert split_member("a#1/b.tif") == ("a#1/b.tif", "")
    assert split_member("a#1/b.npz#c") == ("a#1/b.npz", "c")
    path = write_mask(tmp_path / "m#2.tif", MASK)
    assert np.array_equal(read_mask(path, "binary"), MASK)
    np.save(tmp_path / "m.npz#1.npy", MASK)
    assert np.array_equal(read_mask(tmp_path / "m.npz#1.npy", "binary"), MASK)


def test_names_of_gdal_are_no_paths(tmp_path: Path) -> None:
    for name in ("https://h/a.tif", "s3://b/a.tif", "zip://a.zip!b.tif", "/vsizip/a.zip/b.tif"):
        assert not is_local(name)
    assert not is_local('NETCDF:"a.nc":b') and not is_local("NETCDF:a.nc:b")
    assert is_local("a.tif") and is_local("/a/b:c.tif") and is_local(os.curdir)
    (tmp_path / "NETCDF:x").touch()
    assert is_local(tmp_path / "NETCDF:x")


SENSOR = get_sensor("spot-5")
COMMON = [band.common for band in SENSOR.bands]
VALUES = np.random.default_rng(1).uniform(0.02, 0.6, (4, 20, 24)).astype(np.float32)


@pytest.fixture(scope="module")
def model() -> CloudModel:
    card = ModelCard(
        name="tiny",
        resolution=30.0,
        base_filters=4,
        depth=2,
        bands=COMMON,
        mean=[0.2] * 4,
        std=[0.1] * 4,
    )
    torch.manual_seed(0)
    return CloudModel(card, build(card))


def write_image(path: Path, values: np.ndarray = VALUES) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        height=height,
        width=width,
        count=count,
        dtype="float32",
        crs="EPSG:32631",
        transform=NORTH_UP,
    ) as file:
        file.write(values)
    return path


def cube(values: np.ndarray = VALUES, names: list[str] = COMMON) -> xr.DataArray:
    y = 4_800_000 - 30 * (np.arange(values.shape[1]) + 0.5)
    x = 500_000 + 30 * (np.arange(values.shape[2]) + 0.5)
    array = xr.DataArray(values, {"band": names, "y": y, "x": x}, ("band", "y", "x"))
    return array.rio.write_crs("EPSG:32631")


@pytest.mark.parametrize(
    ("source", "stem"),
    [
        ("a/b.c.tif", "b.c"),
        ("file.npz#member", "file"),
        ("X.SAFE/MTD_MSIL1C.xml", "X"),
        ("L2A.v1.2/metadata.json", "L2A.v1.2"),
        ("2022.03.01", "2022.03.01"),
        ('NETCDF:"a.nc":b', "a_b"),
        ("zip://a.zip!b.tif", "b"),
        ("s3://bucket/b.tif", "b"),
        ("/vsizip/a.zip/b.tif", "b"),
        ("https://host/items/ID/?x=1", "ID"),
    ],
)
def test_results_are_named_after_their_image(
    source: str, stem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("X.SAFE", "L2A.v1.2", "2022.03.01"):
        Path(folder).mkdir()
    assert results_of(source, "out")[0] == Path("out", f"{stem}_cloud.tif")
    assert results_of(".", "out")[0] == Path("out", f"{tmp_path.name}_cloud.tif")


def test_results_of_another_image_are_not_replaced(tmp_path: Path, model: CloudModel) -> None:
    one, other = write_image(tmp_path / "1/a.tif"), write_image(tmp_path / "2/a.tif", VALUES / 2)
    out = tmp_path / "out"
    mask, _ = predict_file(one, "spot-5", out, model=model, progress=False)
    before = mask.read_bytes()
    with pytest.raises(InputError, match=r"2/a\.tif: .*made of another input .*1/a\.tif"):
        predict_file(other, "spot-5", out, model=model, progress=False)
    assert mask.read_bytes() == before
    predict_file(one, SENSOR, out, model=model, progress=False)
    outcomes = predict_batch([other], SENSOR, out)
    assert outcomes[0].status == "failed" and "another input" in outcomes[0].error
    predict_file(cube(), SENSOR, out, model=model, progress=False)
    predict_file(cube(), SENSOR, out, model=model, progress=False)
    with pytest.raises(InputError, match="another input"):
        predict_file(cube(VALUES[:, ::-1]), SENSOR, out, model=model, progress=False)


def test_any_way_to_hold_an_image(tmp_path: Path, model: CloudModel) -> None:
    array = cube()
    dataset = array.to_dataset("band")
    named = dataset.rename(dict(zip(COMMON, ["XS1", "XS2", "XS3", "SWIR"], strict=True)))
    dataset.to_zarr(tmp_path / "a.zarr", consolidated=False)
    path = write_image(tmp_path / "a#1.tif")
    ways = {
        "reflectance": array.to_dataset(name="reflectance").assign_attrs(resolution=30.0),
        "time": array.expand_dims(time=[0]),
        "odc-stac": dataset.expand_dims(time=[0]),
        "stackstac": array.expand_dims(time=[0]).transpose("time", "y", "x", "band"),
        "native": named,
        "zarr": tmp_path / "a.zarr",
        "number sign": path,
        "gdal": f"/vsisubfile/0_{path.stat().st_size},{path}",
    }
    for first, second in (("Y", "X"), ("northing", "easting"), ("row", "col")):
        ways[first] = array.rename(y=first, x=second).transpose(second, "band", first)
    ways["numbers of rows"] = ways["row"].assign_coords(y=("row", array.y.values),
                                                        x=("col", array.x.values))  # fmt: skip
    ways["slash"] = f"{path}/"
    with rasterio.open(write_image(tmp_path / "b.tif"), "r+") as file:
        file.descriptions = COMMON
    ways["variables"] = rioxarray.open_rasterio(tmp_path / "b.tif", band_as_variable=True)
    right = None
    for name, source in ways.items():
        out = tmp_path / name
        _, probability = predict_file(source, "spot-5", out, model=model, progress=False)
        with rasterio.open(probability) as file:
            values = file.read(1)
            assert file.crs and file.transform == NORTH_UP, name
        right = values if right is None else right
        assert np.array_equal(values, right), name


def test_what_cannot_be_an_image_is_refused() -> None:
    with pytest.raises(InputError, match=r"time has 2 entries.*isel\(time=0\)"):
        open_image(xr.concat([cube(), cube()], "time"), "spot-5")
    with pytest.raises(InputError, match=r"shape \(.*\) and the bands \('green',\)"):
        open_image(cube()[0], "spot-5")
    with pytest.raises(InputError, match="none of its variables"):
        open_image(xr.Dataset({"rain": ("y", np.zeros(3))}), "spot-5")
    with pytest.raises(InputError, match="differ in size, scale"):
        dataset = cube().to_dataset("band")
        dataset["red"].attrs["scale_factor"] = 2.0
        open_image(dataset, "spot-5")
    with pytest.raises(InputError):
        open_image(cube(VALUES[:, :0]), "spot-5")
    with pytest.raises(InputError, match="give --sensor"):
        open_image("s3://bucket/a.tif")
    assert not is_item("https://host/a.tif?sig=1") and is_item("https://host/items/a")


def test_a_model_in_memory_cannot_go_to_other_processes(tmp_path: Path, model: CloudModel) -> None:
    with pytest.raises(InputError, match="path of its card"):
        predict_batch(["a.tif"], "spot-5", tmp_path, model=model)  # type: ignore[arg-type]


def test_a_model_can_be_pickled(model: CloudModel) -> None:
    copy = pickle.loads(pickle.dumps(model))
    assert np.array_equal(copy.probability(VALUES), model.probability(VALUES))


def test_a_product_is_not_read_far_finer_than_it_is() -> None:
    class Coarse:
        def pick(self, bands: list[str]) -> list[str]:
            return bands

        def coarsest(self, bands: list[str]) -> float:
            return 10.0

    image = ProductImage("p", SENSOR, "toa", tuple(COMMON), Reading(), Coarse())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"p: a resolution of 0\.5 m is far finer .* 10 m"):
        image.select(COMMON, 0.5)


def test_the_mask_of_a_reference_hides_pixels(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "m.tif", MASK)
    with rasterio.open(path, "r+") as file:
        seen = np.full(MASK.shape, 255, np.uint8)
        seen[:4] = 0
        file.write_mask(seen)
    assert np.array_equal(read_mask(path, "binary"), np.where(seen, MASK, 255))


def test_the_nodata_number_of_a_reference(tmp_path: Path) -> None:
    path = write_mask(tmp_path / "m.tif", MASK, nodata=0)
    with pytest.warns(UserWarning, match=r"m\.tif: its nodata value is 0, .* counted as clear"):
        assert np.array_equal(read_mask(path, "binary"), MASK)
    numbers = MASK.astype(np.int16)
    numbers[:4] = -9999
    with rasterio.open(path) as file:
        profile = file.profile | {"dtype": "int16", "nodata": -9999}
    with rasterio.open(path, "w", **profile) as file:
        file.write(numbers, 1)
    assert np.array_equal(read_mask(path, "binary"), np.where(numbers < 0, 255, MASK))


def test_words_for_a_reference_that_is_no_mask(tmp_path: Path) -> None:
    np.savez(tmp_path / "two.npz", a=MASK, b=MASK)
    np.savez(tmp_path / "one.npz", a=MASK)
    np.save(tmp_path / "line.npy", MASK.ravel())
    (tmp_path / "text.tif").write_text("hello")
    assert np.array_equal(read_mask(tmp_path / "one.npz", "binary"), MASK)
    for name, message in {
        "": "is a folder, not a mask",
        "gone.tif": "does not exist; check the path",
        "two.npz": r"Name one of .*two\.npz#a",
        "one.npz#x": r"no such array; choose .*one\.npz#a",
        "line.npy": "2 or 3 dimensions",
        "text.tif": "or of another format",
    }.items():
        with pytest.raises(InputError, match=message):
            read_mask(tmp_path / name, "binary")


def test_results_that_cannot_be_written_are_refused_before_work(tmp_path: Path) -> None:
    made_of = "image.tif"
    folder, foreign = tmp_path / "folder_cloud.tif", tmp_path / "foreign_cloud.tif"
    folder.mkdir()
    write_mask(foreign, MASK)
    for result, message in {
        folder: "is a folder, not a result",
        foreign: "is there already, and nothing says of what",
        tmp_path / ("x" * 250): "would be too long; rename it",
        tmp_path / os.fsdecode(b"d\xe9"): "is not UTF-8",
    }.items():
        with pytest.raises(InputError, match=message):
            check_results([result], made_of)
    with (
        pytest.raises(WriteError, match=r"could not be written .* give another path"),
        writing(tmp_path),
    ):
        raise PermissionError(13, "Permission denied")


def test_arrays_whose_bands_are_named_elsewhere() -> None:
    """stackstac has a coordinate of common names, rioxarray the attribute long_name."""
    names = cube().band.values.tolist()
    numbers = cube().assign_coords(band=range(1, len(names) + 1))
    for array in (
        numbers.assign_coords(common_name=("band", names)),
        numbers.assign_attrs(long_name=tuple(names)),
    ):
        assert list(open_image(array).bands) == names
    assert list(open_image(VALUES.tolist(), reading=Reading(bands=",".join(names))).bands) == names


@pytest.mark.parametrize(
    ("source", "message"),
    [
        *[(wrong, "no image; give the path of a file as text, or an array")
          for wrong in (None, 5, b"a.tif", [], ["a.tif", "b.tif"], [[1, 2], [3]], {})],
        ("", "'' is no path"),
        (VALUES.astype(complex), "image: holds complex numbers"),
    ],
)  # fmt: skip
def test_what_holds_no_image(source: Any, message: str) -> None:
    for sensor in (None, SENSOR):
        with pytest.raises(InputError, match=message):
            open_image(source, sensor, Reading(bands=tuple(cube().band.values)))


@pytest.mark.parametrize("path", [None, 5, b"a.zip", [], " "])
def test_what_is_no_path_of_a_product(path: Any) -> None:
    with pytest.raises(InputError, match="is no path; give that of an image or a product"):
        open_product(path)


@pytest.mark.parametrize("bands", [5, (1, 2, 3, 4), (b"red",)])
def test_what_are_no_names_of_bands(bands: Any) -> None:
    for given in ({"reading": Reading(bands=bands)}, {"options": Options(use=bands)}):
        with pytest.raises(InputError, match="is no name of a band; name the layers in the order"):
            predict_file(cube(), SENSOR, "out", **given)


def test_scenes_without_a_name_or_named_twice(tmp_path: Path) -> None:
    for scene in ("", None, VALUES):
        with pytest.raises(InputError, match="one has no name"):
            predict_batch([scene], "spot-5", tmp_path)  # type: ignore[list-item]
    outcomes = predict_batch(["gone.tif", "gone.tif"], "spot-5", tmp_path)
    assert [outcome.status for outcome in outcomes] == ["failed"]


def test_results_are_made_anew_where_anything_read_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source of a VRT, a mask beside the file, a band that metadata name."""
    source = write_image(tmp_path / "a.tif")
    rasterio.shutil.copy(source, tmp_path / "b.vrt", driver="VRT")

    def states() -> list[str]:
        return [_made_from(str(tmp_path / name), "") for name in ("a.tif", "b.vrt", "P_MTL.txt")]

    product, _ = landsat(tmp_path)
    monkeypatch.setattr("clouddl.products.readers.find_product", lambda _: find_product(product))
    (tmp_path / "P_MTL.txt").touch()
    before = states()
    assert states() == before and all(before)
    os.utime(next(product.glob("*_B4.TIF")), (1, 1))
    assert [a == b for a, b in zip(before, states(), strict=True)] == [True, True, False]
    os.utime(source, (1, 1))
    assert [a == b for a, b in zip(before, states(), strict=True)] == [False, False, False]
    before = states()
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(source, "r+") as file:
        file.write_mask(np.full(file.shape, 255, np.uint8))
    os.utime(source, (1, 1))
    assert states()[0] != before[0]


def test_a_model_may_be_given_as_text(tmp_path: Path) -> None:
    _, right = predict_file(
        cube(), SENSOR, tmp_path / "1", model=load_model("spot"), progress=False
    )
    _, found = predict_file(cube(), SENSOR, tmp_path / "2", model="spot", progress=False)
    with rasterio.open(right) as one, rasterio.open(found) as other:
        np.testing.assert_array_equal(other.read(), one.read())
        stored = np.floor(predict_array("spot", cube()) * 1000) / np.float32(1000)
        np.testing.assert_array_equal(stored, one.read(1))
    with pytest.raises(InputError, match="there is no such model card"):
        predict_array("nowhere.json", cube())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"options": Options(threshold="0.5")}, "threshold '0.5': give a number from 0 to 1"),
        ({"options": Options(dilation_m="60")}, "dilation_m '60': give a number from 0"),
        ({"options": Options(tile="256")}, "tile '256': give a number from 1"),
        ({"options": {"threshold": 0.5}}, r"give Options\(threshold=…"),
        ({"reading": {"scale": 1e-4}}, r"give a Reading\(scale=…"),
        ({"reading": Reading(nodata="0")}, "its nodata is '0'; give a number"),
        ({"options": Options(probability_type=[1])}, r"probability_type \[1\]: give float32 or"),
        ({"tags": 5}, "tags 5: cannot be written .* give names and texts"),
        ({"tags": ["run"]}, r"tags \['run'\]: cannot be written"),
        ({"tags": {1: "7"}}, "tags {1: '7'}: cannot be written"),
        ({"tags": {"run": "\udcff"}}, "tags .*: cannot be written"),
        ({"model": 3}, "model 3: give a model, its name or the path of its card"),
        ({"out": None}, "out is None: give the folder for the results"),
        ({"out": " "}, "out is ' ': give the folder for the results"),
        ({"out": "s3://bucket/masks"}, "out is 's3://bucket/masks': .* this machine"),
    ],
)
def test_arguments_of_another_type(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        predict_file(cube(), SENSOR, **{"out": tmp_path, "progress": False} | given)


def test_a_mask_is_not_its_own_reference(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_mask(tmp_path / "a.tif", MASK)
    monkey = ["clouddl", "score", str(path), "--reference", str(path)]
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr("sys.argv", monkey)
        cli.main()
    assert "is given as the mask and as its reference" in capsys.readouterr().err


def test_a_reference_of_another_day_and_a_table_in_place_of_a_mask(
    tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    mask = write_mask(tmp_path / "S2A_MSIL1C_20220301T105021_N0400_20220308_cloud.tif", MASK)
    same = write_mask(tmp_path / "truth_20220301.tif", MASK)
    assert run(f"score {mask} --reference {same}")[::2] == (0, "")
    other = write_mask(tmp_path / "truth_20220411.tif", MASK)
    words = "is of 2022-03-01 and its reference"
    assert words in run(f"score {mask} --reference {other}")[2]
    code, _, words = run(f"score {mask} --reference {same} --csv {mask}")
    assert code == 2 and "is there, and no table by its name" in words
    assert np.array_equal(read_mask(mask, "binary"), MASK)


def test_a_result_that_was_cut_short_is_made_anew(tmp_path: Path) -> None:
    image = write_image(tmp_path / "a.tif")

    def status() -> str:
        return predict_batch([str(image)], SENSOR, tmp_path / "out")[0].status

    assert [status(), status()] == ["done", "left"]
    mask, _ = results_of(image, tmp_path / "out")
    mask.write_bytes(mask.read_bytes()[:-20])
    assert [status(), status()] == ["done", "left"]


def test_a_probability_is_no_mask(tmp_path: Path) -> None:
    np.save(tmp_path / "p.npy", MASK * 0.25)
    with pytest.raises(InputError, match=r"0\.25 is no code but a fraction, as of a probability"):
        read_mask(tmp_path / "p.npy", "binary")


def test_a_missing_source_of_a_vrt_is_named(tmp_path: Path) -> None:
    source = write_image(tmp_path / "a.tif")
    rasterio.shutil.copy(source, tmp_path / "b.vrt", driver="VRT")
    text = (tmp_path / "b.vrt").read_text()
    *others, last = text.split("a.tif</SourceFilename>")
    one_band = "a.tif</SourceFilename>".join(others) + "c.tif</SourceFilename>" + last
    (tmp_path / "c.vrt").write_text(one_band)
    with pytest.raises(InputError, match=r"c\.vrt: its source .*c\.tif is missing; put it back"):
        open_image(tmp_path / "c.vrt", SENSOR)
    source.unlink()
    with pytest.raises(InputError, match=r"b\.vrt: its source .*a\.tif is missing"):
        open_image(tmp_path / "b.vrt", SENSOR)
