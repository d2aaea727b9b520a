"""The worked examples of CONTRIBUTING run as they stand there."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import yaml
from conftest import write_tiff

from clouddl import labels
from clouddl.augment import Augmentation
from clouddl.mission.degrade import DEGRADATIONS, degrade
from clouddl.products import open_product, readers
from clouddl.sensors import get_sensor
from clouddl.simulate import LANDSCAPES, simulate_scene
from clouddl_study.notebooks import check_parameters

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
EXAMPLES = dict(re.findall(r"```(?:python|yaml) (\S+)\n(.*?)```", CONTRIBUTING, re.DOTALL))


@pytest.fixture
def example(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """The example that the test names, in a file of its name."""
    path = tmp_path / request.param
    path.write_text(EXAMPLES[request.param])
    return path


def module(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_every_example_is_tried() -> None:
    tried = re.findall(r'"example", \["([^"]+)"\]', Path(__file__).read_text("utf-8"))
    assert sorted(tried) == sorted(EXAMPLES)


@pytest.mark.parametrize("example", ["my_sensor.yaml"], indirect=True)
def test_a_sensor(example: Path) -> None:
    assert [band.common for band in get_sensor(example).bands] == ["green", "red", "nir"]


@pytest.mark.parametrize("example", ["my_product.py"], indirect=True)
def test_a_product(example: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "READERS", [*readers.READERS])
    monkeypatch.setattr("clouddl.products.product.READERS", readers.READERS)
    module(example)
    folder = tmp_path / "product"
    folder.mkdir()
    files = ""
    for number, band in enumerate(("green", "red", "nir"), 1):
        write_tiff(folder / f"{band}.tif", np.full((1, 4, 4), 1000 * number, np.int16))
        files += f"<{band}>{band}.tif</{band}>"
    fields = f"<OFFSET>-500</OFFSET><QUANTIFICATION>10000</QUANTIFICATION><FILES>{files}</FILES>"
    (folder / "A_MINE.xml").write_text(f"<Product>{fields}</Product>")
    scene = open_product(folder)
    assert scene.attrs["product"] == "My format"
    np.testing.assert_allclose(scene.reflectance[:, 0, 0], [0.05, 0.15, 0.25], atol=1e-6)


@pytest.mark.parametrize("example", ["my_codes.yaml"], indirect=True)
def test_the_codes_of_a_mask(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "CODES", labels.CODES | labels.read_codes(example))
    found = labels.decode(np.array([[0, 1, 2], [3, 4, 1]]), "my-mask")
    assert found.tolist() == [[255, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("example", ["my_effect.py"], indirect=True)
def test_a_training_effect(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    effect = module(example).add_stripes
    known = Augmentation.effects
    monkeypatch.setattr(
        Augmentation,
        "effects",
        lambda self, bands: {
            **known(self, bands),
            "stripes": lambda x, y, rng: effect(x, y, rng, strength=0.1),
        },
    )
    x, y = torch.full((2, 2, 32, 32), 0.2), torch.zeros(2, 32, 32)
    strengths = dict.fromkeys(("gain", "offset", "brightness", "ground", "haze", "gaps"), 0.0)
    only = Augmentation((30.0, 30.0), **strengths, paste=0.0, turns=False)
    changed, labelled = only(x, y, 30.0, torch.Generator().manual_seed(0), ["red", "nir"])
    assert torch.equal(labelled, y) and changed.std() > 0
    assert torch.equal(changed[:, :, 0], changed[:, :, -1])  # a column has one factor


@pytest.mark.parametrize("example", ["my_landscape.yaml"], indirect=True)
def test_a_landscape(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = yaml.safe_load(example.read_text())
    known = type(LANDSCAPES["mixed"])
    for name, fields in entry.items():
        monkeypatch.setitem(LANDSCAPES, name, known(**fields))
    scene = simulate_scene("spot-5", seed=1, size=32, surface="snow_plain", cloud_fraction=0.0)
    green, swir = (scene.reflectance.sel(band=band) for band in ("green", "swir16"))
    assert float(((green - swir) / (green + swir)).median()) > 0.4  # the snow index


@pytest.mark.parametrize("example", ["my_degradation.py"], indirect=True)
def test_a_degradation(example: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DEGRADATIONS, "dead_columns", module(example).dead_columns)
    scene = simulate_scene("spot-5", seed=1, size=32)
    lost = np.isnan(degrade(scene, "dead_columns", 0.5).reflectance.values)
    assert 0 < lost.mean() < 1 and (lost == lost[:, :1]).all()
    assert not np.isnan(degrade(scene, "dead_columns", 0.0).reflectance.values).any()


@pytest.mark.parametrize("example", ["13_my_page.py"], indirect=True)
def test_a_page(example: Path) -> None:
    assert check_parameters(example, {"corpus": "simulated", "seed": 3})["seed"] == 3
