"""Reference masks from a few labels: what a person labels stays, and the rest is learnt from it."""

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
import xarray as xr
from rasterio.warp import transform

from clouddl.cli import main
from clouddl.errors import InputError
from clouddl.mission import labelling
from clouddl.mission.labelling import features, fill, propose, read_labels
from clouddl.sensors import get_sensor
from clouddl.simulate import simulate_scene
from clouddl_study import experiments
from clouddl_study.experiments import simulated_person

SIZE = 64


@pytest.fixture(autouse=True)
def few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labelling, "TREES", 40)


@pytest.fixture(scope="module")
def scene() -> xr.Dataset:
    """A scene whose person calls plain cloud cloud, and everything else clear."""
    simulated = simulate_scene("spot-5", seed=6, size=SIZE, cloud_fraction=0.35, clouds="cumulus")
    return simulated.assign(mask=(simulated.optical_depth > 0.8).astype("uint8"))


@pytest.fixture
def image(tmp_path: Path, scene: xr.Dataset) -> Path:
    """The scene as a GeoTIFF whose first rows are nodata."""
    bands = [str(band.common) for band in get_sensor("spot-5").bands]
    layers = scene.reflectance.sel(band=bands).copy()
    layers[:, :4] = np.nan
    layers.rio.write_nodata(np.nan).rio.to_raster(tmp_path / "first.tif")
    return tmp_path / "first.tif"


def geojson(path: Path, *answers: tuple[Any, shapely.Geometry], crs: str | None = None) -> Path:
    """A file as QGIS saves it, geometries as they are given."""
    listed = [
        {"type": "Feature", "properties": {"class": name}, "geometry": shapely.geometry.mapping(g)}
        for name, g in answers
    ]
    member = {"crs": {"type": "name", "properties": {"name": crs}}} if crs else {}
    path.write_text(json.dumps({"type": "FeatureCollection", **member, "features": listed}))
    return path


def geopackage(
    path: Path,
    epsg: int,
    *answers: tuple[Any, shapely.Geometry | None],
    field: str = "class",
) -> Path:
    """A file as QGIS saves it, with the table of styles it keeps there."""
    pyogrio.raw.write(
        path,
        geometry=np.array([shapely.to_wkb(g) for _, g in answers], object),
        field_data=[np.array([name for name, _ in answers], object)],
        fields=[field],
        layer="my labels",
        geometry_type="Unknown",
        crs=f"EPSG:{epsg}",
    )
    pyogrio.raw.write(
        path, geometry=None, field_data=[np.array(["points"])], fields=["style"],
        layer="layer_styles", geometry_type=None, append=True,
    )  # fmt: skip
    return path


def at(scene: xr.Dataset, row: float, column: float) -> shapely.Point:
    """The place of a pixel's centre, in the scene's CRS."""
    return shapely.Point(*(scene.rio.transform() * (column + 0.5, row + 0.5)))


def square(scene: xr.Dataset, row: int, column: int, size: int) -> shapely.Polygon:
    """The outline of `size` × `size` pixels from a pixel on."""
    corners = (
        scene.rio.transform() * (column, row),
        scene.rio.transform() * (column + size, row + size),
    )
    (west, north), (east, south) = corners
    return shapely.box(west, south, east, north)


def pixels(places: dict, scene: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns, with fractions, of the points of a FeatureCollection."""
    lon, lat = np.transpose([f["geometry"]["coordinates"] for f in places["features"]])
    xs, ys = transform("EPSG:4326", scene.rio.crs, lon, lat)
    columns, rows = ~scene.rio.transform() * (np.array(xs), np.array(ys))
    return rows - 0.5, columns - 0.5


def answered(path: Path, places: dict, scene: xr.Dataset, name: str) -> Path:
    """The places filled in by one who knows the truth, saved under another name."""
    rows, columns = np.rint(pixels(places, scene)).astype(int)
    for feature, cloud in zip(places["features"], scene.mask.values[rows, columns], strict=True):
        feature["properties"]["class"] = "cloud" if cloud else "clear"
    (path / name).write_text(json.dumps(places))
    return path / name


def test_features_are_nodata_where_a_band_is(scene: xr.Dataset) -> None:
    incomplete = scene.copy(deep=True)
    incomplete.reflectance[1, 3, 4] = np.nan
    stack, complete = features(incomplete), features(scene)
    assert stack.dtype == np.float32
    # 4 bands, their means, their deviations; 4 pairs, for it has no blue; elevation.
    assert stack.shape == (4 * 3 + 4 + 1, SIZE, SIZE)
    assert np.isnan(stack[:, 3, 4]).all() and np.isfinite(stack).all(0).sum() == SIZE**2 - 1
    np.testing.assert_array_equal(stack[:, 20:, 20:], complete[:, 20:, 20:])
    level = scene.copy(deep=True).drop_vars("elevation")
    level.reflectance[:] = 0.25
    np.testing.assert_allclose(features(level)[4:8], 0.25, atol=1e-6)
    np.testing.assert_allclose(features(level)[8:], 0, atol=1e-3)
    with pytest.raises(InputError, match="no pixel has all of its bands"):
        features(level.assign(reflectance=level.reflectance * np.nan))


def test_a_person_brings_the_mask_near_the_truth(scene: xr.Dataset) -> None:
    truth = scene.mask.values
    table = simulated_person(scene, truth, rounds=4, per_round=10)
    assert table["round"].tolist() == [1, 2, 3, 4]
    assert table.points.iloc[-1] in (40, 41)  # one more if the first ten were all alike
    np.testing.assert_allclose(table.minutes, table.points / 3)
    assert table.accuracy.iloc[-1] > max(0.9, table.accuracy.iloc[0])
    assert table.f2.iloc[-1] > max(0.85, table.f2.iloc[0])


def test_a_person_who_errs_does_worse_and_one_who_cannot_tell_says_nothing(
    scene: xr.Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    labels_given = []

    def recorded(scene: xr.Dataset, labels: np.ndarray, *rest: Any) -> Any:
        labels_given.append(labels.copy())
        return fill(scene, labels, *rest)

    monkeypatch.setattr(experiments, "fill", recorded)
    truth = scene.mask.values.copy()
    truth[:, 40:] = 255
    right = simulated_person(scene, truth, 2, 12, seed=1)
    assert set(labels_given[-1][:, 40:].ravel()) == {255}
    answered_here = labels_given[-1] != 255
    np.testing.assert_array_equal(labels_given[-1][answered_here], truth[answered_here])
    wrong = simulated_person(scene, truth, 2, 12, seed=1, error_rate=0.5)
    assert (labels_given[-1] != truth)[labels_given[-1] != 255].sum() >= 3
    assert wrong.accuracy.iloc[-1] < right.accuracy.iloc[-1]


def test_what_is_labelled_stays_and_the_seed_decides(scene: xr.Dataset) -> None:
    incomplete = scene.copy(deep=True)
    incomplete.reflectance[:, :5, :5] = np.nan
    labels = np.full((SIZE, SIZE), 255, np.uint8)
    labels[::6, ::6] = scene.mask.values[::6, ::6]
    labels[30, 30] = 1 - scene.mask.values[30, 30]
    mask, confidence = fill(incomplete, labels, seed=3)
    labelled = labels != 255
    labelled[:5, :5] = False
    np.testing.assert_array_equal(mask[labelled], labels[labelled])
    assert (confidence[labelled] == 1).all()
    nodata = np.zeros((SIZE, SIZE), bool)
    nodata[:5, :5] = True
    np.testing.assert_array_equal(mask == 255, nodata)
    np.testing.assert_array_equal(np.isnan(confidence), nodata)
    assert np.nanmin(confidence) >= 0.5 and np.nanmax(confidence) <= 1
    again = fill(incomplete, labels, seed=3)
    np.testing.assert_array_equal(again[1], confidence)


@pytest.mark.parametrize(("value", "lacks"), [(0, "cloud"), (1, "clear")])
def test_both_classes_are_needed(scene: xr.Dataset, value: int, lacks: str) -> None:
    labels = np.full((SIZE, SIZE), 255, np.uint8)
    labels[8, 8] = value
    with pytest.raises(InputError, match=f"no {lacks} is labelled; label at least"):
        fill(scene, labels)


def test_places_lie_at_low_confidence_on_the_grid_and_apart(scene: xr.Dataset) -> None:
    labels = np.full((SIZE, SIZE), 255, np.uint8)
    labels[::9, ::9] = scene.mask.values[::9, ::9]
    confidence = fill(scene, labels)[1]
    places = propose(confidence, 12, scene)
    rows, columns = pixels(places, scene)
    assert len(rows) == 12
    near = np.rint([rows, columns]).astype(int)
    np.testing.assert_allclose([rows, columns], near, atol=1e-3)
    assert confidence[tuple(near)].mean() < np.quantile(confidence, 0.3)
    apart = np.hypot(*(near[:, :, None] - near[:, None, :]))[~np.eye(12, dtype=bool)]
    assert apart.min() > SIZE / np.sqrt(12) / 2
    for number, feature in enumerate(places["features"], 1):
        properties = feature["properties"]
        assert (properties["number"], properties["class"]) == (number, None)
        assert 0.5 <= properties["confidence"] <= 1


def test_places_are_never_put_where_nothing_is_known(scene: xr.Dataset) -> None:
    confidence = np.full((SIZE, SIZE), np.nan, np.float32)
    assert propose(confidence, 5, scene)["features"] == []
    confidence[10:12, 20:22] = 0.6
    rows, columns = pixels(propose(confidence, 5, scene), scene)
    assert set(np.rint(rows)) <= {10, 11} and set(np.rint(columns)) <= {20, 21}


def test_first_places_are_spread_over_what_there_is_to_see(scene: xr.Dataset) -> None:
    rows, columns = np.rint(pixels(propose(None, 12, scene), scene)).astype(int)
    assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == len(rows) >= 11
    nir = scene.reflectance.sel(band="nir").values
    # Each place stands for its spectral cluster: together they span the image's brightness.
    assert np.ptp(nir[rows, columns]) > 0.5 * np.ptp(nir)


CODED = {"cloud": 1, "clear": 0, "low cloud": 1, "High_Cloud ": 1, "shadow": 0, "land": 0,
         "water": 0, "snow": 0, None: 255, "": 255}  # fmt: skip


@pytest.mark.parametrize("form", ["geojson", "crs", "gpkg"])
def test_points_and_polygons_are_read_back(tmp_path: Path, scene: xr.Dataset, form: str) -> None:
    answers = [(name, at(scene, 2 * i, 3 * i)) for i, name in enumerate(CODED)]
    answers += [("clear", square(scene, 40, 10, 6)), ("cloud", square(scene, 42, 12, 2))]
    sliver = square(scene, 50, 50, 1).buffer(-13)  # of 4 m, away from its pixel's centre
    answers += [("cloud", shapely.affinity.translate(sliver, 10, 10))]
    expected = np.full((SIZE, SIZE), 255, np.uint8)
    for i, code in enumerate(CODED.values()):
        expected[2 * i, 3 * i] = code
    expected[40:46, 10:16], expected[42:44, 12:14], expected[50, 50] = 0, 1, 1
    if form == "gpkg":
        path = geopackage(tmp_path / "labels.gpkg", 32631, *answers)
    elif form == "crs":
        path = geojson(tmp_path / "a.geojson", *answers, crs="urn:ogc:def:crs:EPSG::32631")
    else:
        degrees = [
            (name, shapely.transform(g, lambda xy: np.transpose(
                transform(scene.rio.crs, "EPSG:4326", *xy.T))))
            for name, g in answers
        ]  # fmt: skip
        path = geojson(tmp_path / "a.geojson", *degrees)
    np.testing.assert_array_equal(read_labels(path, scene), expected)


def test_proposals_answered_come_back_on_their_pixels(tmp_path: Path, scene: xr.Dataset) -> None:
    places = propose(None, 8, scene)
    rows, columns = np.rint(pixels(places, scene)).astype(int)
    labels = read_labels(answered(tmp_path, places, scene, "one.geojson"), scene)
    assert (labels != 255).sum() == len(rows)
    np.testing.assert_array_equal(labels[rows, columns], scene.mask.values[rows, columns])


def test_a_place_that_is_labelled_cloud_and_clear_is_warned_of(
    tmp_path: Path, scene: xr.Dataset
) -> None:
    one, utm = tmp_path / "one.geojson", "EPSG:32631"
    wide, narrow = at(scene, 20, 20).buffer(90), at(scene, 20, 20).buffer(40)
    geojson(one, ("cloud", wide), ("high cloud", narrow), ("land", at(scene, 5, 5)), crs=utm)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        read_labels(one, scene)
    geojson(one, ("cloud", wide), ("clear", narrow), ("cloud", at(scene, 20, 20)), crs=utm)
    with pytest.warns(UserWarning, match=r"one\.geojson: \d+ pixels are labelled cloud and clear"):
        assert read_labels(one, scene)[20, 20] == 1


def test_bad_labels_say_what_to_mend(tmp_path: Path, scene: xr.Dataset) -> None:
    inside, utm = at(scene, 5, 5), "EPSG:32631"

    def bad(path: Path, *said: str) -> None:
        with pytest.raises(InputError) as caught:
            read_labels(path, scene)
        message = str(caught.value)
        assert message.startswith(f"{path}: ")
        assert [words for words in said if words not in message] == []

    one = tmp_path / "bad.geojson"
    known = "cloud, low cloud, high cloud, clear, shadow, land, water, snow"
    bad(
        geojson(one, ("cloud", inside), ("clowd", inside), crs=utm),
        "feature 2: class 'clowd'",
        known,
    )
    bad(geojson(one, ("cloud", inside)), "feature 1 lies outside the image", "EPSG:4326")
    bad(geojson(one, ("cloud", shapely.Point(3, 44))), "feature 1 lies outside the image")
    bad(geojson(one, ("cloud", inside), crs="EPSG:32731"), "outside the image", "EPSG:32731")
    bad(geojson(one, ("cloud", at(scene, -2, 5)), crs=utm), "outside the image")
    bad(geojson(one, ("cloud", shapely.Point()), crs=utm), "bad.geojson")
    bad(geojson(one, ("cloud", inside), crs="EPSG:1"), "outside the image", "EPSG:4326")
    bad(geojson(one), "none of its 0 features has a class; fill")
    bad(geojson(one, (None, inside), ("", inside), crs=utm), "none of its 2 features", known)
    for text in ("", '{"type": "Feat', "[]", "{}", '{"features": [{"geometry": null}]}',
                 '{"features": [{"geometry": {"type": "Point"}}]}'):  # fmt: skip
        one.write_text(text)
        bad(one, "cannot be read as labels", "GeoJSON or GeoPackage")
    one.write_bytes(b"\xff\xfe\x00")
    bad(one, "cannot be read as labels")
    bad(tmp_path / "gone.geojson", "No such file")
    bad(tmp_path / "gone.gpkg", "cannot be read as labels")
    (tmp_path / "text.gpkg").write_text("not a database, whatever its name says")
    bad(tmp_path / "text.gpkg", "cannot be read as labels")
    plain = geopackage(tmp_path / "plain.gpkg", 32631, ("cloud", inside), field="kind")
    bad(plain, "none of its 1 features has a class; fill the attribute `class`")
    bare = geopackage(tmp_path / "bare.gpkg", 32631, ("clear", inside), ("cloud", None))
    bad(bare, "feature 2 has no geometry")


def run(line: str, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(sys, "argv", ["clouddl", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    return int(ended.value.code or 0)


def test_a_mask_in_two_rounds_from_the_command_line(
    image: Path, scene: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    line = "label first.tif --sensor spot-5 --out out --points 16"
    assert run(line, monkeypatch) == 0
    assert capsys.readouterr().out == "out/first_next.geojson\n"
    asked = tmp_path / "out" / "first_next.geojson"
    places = json.loads(asked.read_text())
    assert min(pixels(places, scene)[0]) > 3.9  # not where it is nodata
    one = answered(tmp_path, places, scene, "one.geojson")
    assert run(f"{line} --labels one.geojson", monkeypatch) == 0
    names = [f"out/first_{end}" for end in ("next.geojson", "reference.tif", "confidence.tif")]
    assert capsys.readouterr().out.split() == names
    answered(tmp_path, json.loads(asked.read_text()), scene, "two.geojson")
    assert run(f"{line} --labels one.geojson --labels two.geojson", monkeypatch) == 0
    assert sorted(path.name for path in asked.parent.iterdir()) == sorted(n[4:] for n in names)
    with rasterio.open(image) as source, rasterio.open(names[1]) as file:
        mask = file.read(1)
        assert (file.crs, file.transform) == (source.crs, source.transform)
        assert (file.dtypes, file.nodata) == (("uint8",), 255)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
    with rasterio.open(names[2]) as file:
        confidence = file.read(1)
        assert file.dtypes == ("float32",) and np.isnan(file.nodata)
    assert set(mask[:4].ravel()) == {255} and set(mask[4:].ravel()) == {0, 1}
    np.testing.assert_array_equal(np.isnan(confidence), mask == 255)
    assert (mask == scene.mask.values)[4:].mean() > 0.85
    labels = np.minimum(*(read_labels(p, scene) for p in (one, tmp_path / "two.geojson")))
    again = np.rint(pixels(json.loads(asked.read_text()), scene)).astype(int)
    assert set(labels[tuple(again)]) == {255}  # nothing is asked twice


def test_bad_input_of_the_command_is_one_line_and_nothing_is_written(
    image: Path, scene: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    geojson(tmp_path / "clear.geojson", ("land", at(scene, 9, 9)), crs="EPSG:32631")
    geojson(tmp_path / "bad.geojson", ("clowd", at(scene, 9, 9)), crs="EPSG:32631")
    np.save("array.npy", scene.reflectance.values)
    (tmp_path / "cut.tif").write_bytes(image.read_bytes()[:3000])
    with rasterio.open("plain.tif", "w", driver="GTiff", count=4, width=8, height=8,
                       dtype="uint16") as file:  # fmt: skip
        file.write(np.full((4, 8, 8), 4000, np.uint16))
    (tmp_path / "kept").mkdir()
    geojson(tmp_path / "kept" / "first_next.geojson", ("cloud", at(scene, 9, 9)), crs="EPSG:32631")
    kept = (tmp_path / "kept" / "first_next.geojson").read_bytes()
    for line, said in (
        ("first.tif --out out --labels clear.geojson", "clear.geojson: no cloud is labelled; "),
        ("first.tif --out out --labels bad.geojson", "bad.geojson: feature 1: class 'clowd'"),
        ("first.tif --out out --labels gone.geojson", "gone.geojson: cannot be read as labels"),
        ("first.tif --out out --bands green,red,nir", "first.tif: has 4 bands, but 3 are named"),
        ("first.tif --out out --bands green,red,nir,blue", "first.tif: blue: not a band of"),
        ("first.tif --out out --scale 10000", "first.tif: scale 10000 is no factor"),
        ("gone.tif --out out", "gone.tif: does not exist"),
        ("cut.tif --out out", "cut.tif: cannot be read as an image"),
        ("array.npy --out out", "array.npy: has no CRS to lay labels on; georeference it"),
        ("plain.tif --out out --scale 0.0001", "plain.tif: has no CRS to lay labels on"),
        ("first.tif --out kept", "first_next.geojson: holds answers; rename it"),
        ("first.tif --out first.tif", "first.tif"),
    ):
        assert run(f"label --sensor spot-5 {line}", monkeypatch) == 2, line
        out, err = capsys.readouterr()
        assert out == "" and err.startswith("clouddl: ") and err.count("\n") == 1, err
        assert said in err
        assert not (tmp_path / "out").exists()
    assert (tmp_path / "kept" / "first_next.geojson").read_bytes() == kept
