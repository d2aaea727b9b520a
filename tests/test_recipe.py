"""The recipe of the book, as written, for a sensor the package does not know."""

import json
import re
import shlex
from pathlib import Path

import pandas as pd
import pytest
import rioxarray
import yaml

from clouddl.cli import app
from clouddl.errors import InputError
from clouddl.mission.labelling import read_labels
from clouddl.mission.preflight import expected, working_bands, working_resolution
from clouddl.scenes import DATA, load_catalogue, register, store_of
from clouddl.sensors import get_sensor
from clouddl.simulate import simulate_scene

PAGE = Path(__file__).parents[1] / "book" / "adapt.md"
CARD = """\
id: my-sensor
title: A sensor of one's own
operator: us
launched: never
bands:
  - {common: blue, native: "B1", centre_um: 0.48, width_um: [0.05, 0.08], gsd_m: 8}
  - {common: green, native: "B2", centre_um: 0.55, width_um: 0.07, gsd_m: 8}
  - {common: red, native: "B3", centre_um: 0.65, width_um: 0.06, gsd_m: 8}
  - {common: nir, native: "B4", centre_um: 0.84, width_um: 0.1, gsd_m: 8}
missing: [swir16]
sources: [this test]
"""
# What makes a run of minutes one of seconds; the commands are otherwise as the page has them.
SHORT = {"preflight": "--corpus simulated --epochs 1 --draws 2", "refine": "--epochs 2"}


def commands() -> list[str]:
    """The page's console lines that call clouddl, in order."""
    return re.findall(r"^\$ clouddl (.+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)


def answered(proposed: Path, truth: Path, scene: object) -> dict:
    """What a person makes of proposed points: their classes, from the simulated truth."""
    points = json.loads(proposed.read_text())
    mask = rioxarray.open_rasterio(truth).squeeze()
    for feature in points["features"]:
        lon, lat = feature["geometry"]["coordinates"]
        x, y = _to_grid(lon, lat, mask.rio.crs)
        value = int(mask.sel(x=x, y=y, method="nearest"))
        feature["properties"]["class"] = "cloud" if value else "clear"
    return points


def _to_grid(lon: float, lat: float, crs: object) -> tuple[float, float]:
    from rasterio.warp import transform

    (x,), (y,) = transform("EPSG:4326", crs, [lon], [lat])
    return x, y


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the card, two images and their truth, and the catalogue of the page."""
    monkeypatch.chdir(tmp_path)
    Path("my-card.yaml").write_text(CARD)
    card = get_sensor("my-card.yaml")
    for number, name in enumerate(("image", "other")):
        scene = simulate_scene(
            card, seed=60 + number, size=128, cloud_fraction=0.4, clouds="cumulus"
        )
        scene.reflectance.rio.to_raster(f"{name}.tif")
        scene.mask.rio.to_raster(f"{name}_truth.tif")
    Path("other_truth.tif").rename("other_reference.tif")
    Path("scenes.yaml").write_text(re.search(r"```yaml\n(name:.*?)```", PAGE.read_text(), re.S)[1])
    spec = {"f2_min": 0.01, "drift_max": 9.0}
    Path("gate.yml").write_text(yaml.safe_dump(spec))
    # An archive of four small scenes: the embedded one takes minutes.
    catalogue = yaml.safe_load((DATA / "catalogue" / "simulated.yaml").read_text())
    small = {name: c for name, c in catalogue["collections"].items() if "reference" not in name}
    for collection in small.values():
        for role, count in (("train", 3), ("validation", 1)):
            some = [s for s in collection["scenes"] if s["role"] == role][:count]
            for scene in some:
                scene["simulated"] |= {"size": 64, "cloud_fraction": 0.4}
            collection[role] = some
        collection["scenes"] = collection.pop("train") + collection.pop("validation")
    data = tmp_path / "data"
    (data / "catalogue").mkdir(parents=True)
    (data / "catalogue" / "simulated.yaml").write_text(
        yaml.safe_dump(catalogue | {"collections": small})
    )
    (data / "registry").mkdir()
    (data / "registry" / "real.csv").write_bytes((DATA / "registry" / "real.csv").read_bytes())
    monkeypatch.setattr("clouddl.scenes.DATA", data)
    return tmp_path


def test_the_recipe_as_written(places: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = commands()
    verbs = [line.split()[0] for line in lines]
    assert verbs == ["sensors", "preflight", "predict", "label", "label", "score", "register",
                     "refine", "gate"]  # fmt: skip
    for line in lines:
        verb = line.split()[0]
        if "--labels" in line:
            given = answered(places / "reference/image_next.geojson", places / "image_truth.tif", 0)
            assert len({f["properties"]["class"] for f in given["features"]}) == 2
            (places / "labels.geojson").write_text(json.dumps(given))
            assert read_labels("labels.geojson", _scene("image.tif")).min() == 0
        # Exit code 0 of a command is None or 0 here: errors are raised.
        code = app(shlex.split(line) + shlex.split(SHORT.get(verb, "")), standalone_mode=False)
        assert not code, line
    table = pd.read_csv("preflight/expected.csv")
    assert len(table) == 2 and table.f2.between(0, 1).all() and "blue width_um" in table
    assert Path("refined/my-sensor.safetensors").exists()
    assert "# Quality gate: passed" in Path("report/gate.md").read_text()
    assert "my-sensor" in capsys.readouterr().out


def _scene(path: str) -> object:
    image = rioxarray.open_rasterio(path)
    return image.to_dataset(name="reflectance")


def test_files_of_a_catalogue_of_ones_own_are_held_to_their_checksums(
    places: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("reference").mkdir()
    Path("image_truth.tif").rename("reference/image_reference.tif")
    monkeypatch.setenv("CLOUDDL_MIRROR", str(places / "data"))  # of the study, not of these
    registry = register("scenes.yaml")
    assert registry.resolve() == places / "files.csv"
    store = store_of(load_catalogue("scenes.yaml"))
    assert store.fetch("image.tif").resolve() == places / "image.tif"
    Path("other.tif").write_bytes(b"another file")
    with pytest.raises(InputError, match=r"other\.tif: truncated or changed"):
        store_of(load_catalogue("scenes.yaml")).fetch("other.tif")
    Path("other.tif").unlink()
    with pytest.raises(InputError, match=r"other\.tif: no such file; scenes\.yaml names it"):
        register("scenes.yaml")
    Path("scenes.yaml").write_text(Path("scenes.yaml").read_text().replace("files.csv", "null"))
    with pytest.raises(InputError, match="write a name for its registry"):
        register("scenes.yaml")


def test_working_bands_and_resolution() -> None:
    assert working_bands(get_sensor("spot-4")) == ["green", "red", "nir", "swir16"]
    assert working_resolution(get_sensor("spot-4")) == 30
    assert working_bands(get_sensor("microcarb")) == ["red"]  # the footprint of B2 is kilometres
    assert 100 <= working_resolution(get_sensor("microcarb")) <= 120
    lonely = get_sensor("spot-4").model_copy(update={"bands": get_sensor("landsat-8").bands[:1]})
    with pytest.raises(InputError, match="shares none of"):
        working_bands(lonely)


def test_a_closed_card_is_expected_once(tiny, simulated) -> None:  # type: ignore[no-untyped-def]
    from clouddl.model import CloudModel
    from clouddl.network import build

    card = tiny()
    model = CloudModel(card, build(card))
    table = expected(model, get_sensor("spot-5"), draws=4, places=2)
    assert len(table) == 1 and table.scenes[0] == 2
