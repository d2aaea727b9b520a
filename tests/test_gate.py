"""The quality gate: demands, verdicts, reports, exit codes."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
import yaml

from clouddl.cli import main
from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.mission import gate
from clouddl.mission.gate import Spec, drift, read_spec, run_gate
from clouddl.model import CloudModel, save_model
from clouddl.network import ModelCard, build
from clouddl.scenes import Scene
from clouddl.transfer import open_scenes

MakeCard = Callable[..., ModelCard]
SAMPLE = Path(__file__).parents[1] / "data" / "gate.yml"


@pytest.fixture
def scenes(simulated: Callable[..., Scene]) -> dict[str, xr.Dataset]:
    """Three simulated SPOT-5 scenes of two surfaces."""
    biomes = ("Barren", "Mixed", "Mixed")
    records = [simulated(n, "reference", sensor="spot-5", biome=b) for n, b in enumerate(biomes)]
    return open_scenes(records, Store(None), 30)


@pytest.fixture
def model(tiny: MakeCard) -> CloudModel:
    torch.manual_seed(0)
    return CloudModel(tiny(weights_sha256="abc"), build(tiny()), "cpu")


@pytest.fixture
def oracle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Predictions that know the truth, a tenth of a probability off."""

    def know(model: CloudModel, scenes: dict[str, xr.Dataset]) -> dict[str, np.ndarray]:
        return {name: np.where(s.mask == 1, 0.9, 0.1) for name, s in scenes.items()}

    monkeypatch.setattr(gate, "predictions", know)


def judged(model: CloudModel, scenes: dict[str, xr.Dataset], **demands: Any) -> pd.DataFrame:
    return run_gate(model, scenes, Spec(**demands)).rows


@pytest.mark.usefixtures("oracle")
def test_what_is_demanded_is_judged(model: CloudModel, scenes: dict[str, xr.Dataset]) -> None:
    rows = judged(model, scenes, f2_min=0.99, f2_lower_min=0.9, surface_f2_min={"Mixed": 1.0},
                  calibration_max=0.05)  # fmt: skip
    assert rows.columns.tolist() == ["criterion", "surface", "found", "demanded", "passed"]
    assert rows.criterion.tolist() == [
        "f2 at least", "f2 lower bound at least", "f2 at least", "calibration error at most"
    ]  # fmt: skip
    assert rows.surface.tolist() == ["all", "all", "Mixed", "all"]
    assert rows.found.round(6).tolist() == [1, 1, 1, 0.1]
    assert rows.passed.tolist() == [True, True, True, False]


@pytest.mark.usefixtures("oracle")
def test_a_limit_met_exactly_is_met(model: CloudModel, scenes: dict[str, xr.Dataset]) -> None:
    assert run_gate(model, scenes, Spec(f2_min=1, f2_lower_min=1, surface_f2_min=1)).passed


@pytest.mark.usefixtures("oracle")
def test_one_number_for_every_surface_that_has_cloud(
    model: CloudModel, scenes: dict[str, xr.Dataset]
) -> None:
    assert judged(model, scenes, surface_f2_min=0.5).surface.tolist() == ["Barren", "Mixed"]
    scenes["simulated-0"]["mask"] = scenes["simulated-0"].mask * 0
    assert judged(model, scenes, surface_f2_min=0.5).surface.tolist() == ["Mixed"]


@pytest.mark.usefixtures("oracle")
def test_what_cannot_be_measured_does_not_pass(
    model: CloudModel, scenes: dict[str, xr.Dataset]
) -> None:
    rows = judged(model, scenes, surface_f2_min={"SnowIce": 0.1})
    assert np.isnan(rows.found[0])
    assert not rows.passed[0]
    one = {"simulated-0": scenes["simulated-0"]}  # one group: nothing to draw from
    assert not run_gate(model, one, Spec(f2_lower_min=0.1)).passed
    scenes["simulated-0"]["mask"] = scenes["simulated-0"].mask * 0
    assert not run_gate(model, one, Spec(surface_f2_min=0.1)).passed


def test_drift_by_hand(tiny: MakeCard, scenes: dict[str, xr.Dataset]) -> None:
    scene = scenes["simulated-0"]
    scene.reflectance.values[:] = 0.45
    scene.reflectance.values[:, 0] = np.nan
    fixed = dict(drift(tiny(mean=[0.25] * 4, std=[0.1] * 4), {"a": scene}))
    assert list(fixed) == [f"{band} of spot-5" for band in ("green", "red", "nir", "swir16")]
    assert list(fixed.values()) == pytest.approx([2] * 4, abs=1e-5)
    log = dict(drift(tiny(mean=[np.log(0.5)] * 4, normalisation="log"), {"a": scene}))
    assert list(log.values()) == pytest.approx([0] * 4, abs=1e-5)


def test_sensors_that_drift_apart_do_not_cancel(
    tiny: MakeCard, scenes: dict[str, xr.Dataset]
) -> None:
    up, down = scenes["simulated-0"], scenes["simulated-1"].assign_attrs(sensor="spot-4")
    up.reflectance.values[:], down.reflectance.values[:] = 0.3, 0.1
    drifts = dict(drift(tiny(), {"up": up, "down": down}))
    assert drifts["red of spot-5"] == pytest.approx(1, abs=1e-5)
    assert drifts["red of spot-4"] == pytest.approx(1, abs=1e-5)


def test_an_image_calibrated_otherwise_is_told(
    model: CloudModel, scenes: dict[str, xr.Dataset]
) -> None:
    before = judged(model, scenes, drift_max=2)
    assert before.passed.all()
    bright = {n: s.assign(reflectance=s.reflectance * 2) for n, s in scenes.items()}
    assert not judged(model, bright, drift_max=2).passed.all()


def test_scenes_that_cannot_be_scored_are_named(
    tiny: MakeCard, model: CloudModel, scenes: dict[str, xr.Dataset]
) -> None:
    model.card.trained_on = {"simulated-0": "simulated", "other": "5ea1"}
    scenes["bare"] = scenes["simulated-1"].drop_vars("mask")
    scenes["blank"] = scenes["bare"].assign(mask=scenes["simulated-1"].mask * 0 + 255)
    scenes["blue"] = scenes["simulated-1"].isel(band=[0, 1])
    scenes["copy"] = scenes["simulated-1"].assign_attrs(sha256="5ea1", scene="renamed")
    verdict = run_gate(model, scenes, Spec(f2_min=0.1))
    assert verdict.scenes.scene.tolist() == ["simulated-1", "simulated-2"]
    assert verdict.left_out == {
        "simulated-0": "is one the model was trained on",
        "bare": "has no reference mask",
        "blank": "has a reference mask of nodata alone: check its file and label_codes",
        "blue": "has green, red, which the model cannot work from",
        "copy": "is one the model was trained on",
    }
    with pytest.raises(InputError, match="none of the scenes can be scored: bare has no reference"):
        run_gate(model, {"bare": scenes["bare"]}, Spec(f2_min=0.1))
    with pytest.raises(InputError, match="there are none"):
        run_gate(model, {}, Spec(f2_min=0.1))


@pytest.mark.usefixtures("oracle")
def test_the_report_can_be_filed(
    model: CloudModel, scenes: dict[str, xr.Dataset], tmp_path: Path
) -> None:
    scenes["bare"] = scenes["simulated-1"].drop_vars("mask")
    verdict = run_gate(model, scenes, Spec(f2_min=0.9, surface_f2_min={"SnowIce": 0.1}))
    path = verdict.write(tmp_path / "deep" / "report", "the scenes of May")
    text = path.read_text("utf-8")
    assert path.name == "gate.md"
    for words in (
        "# Quality gate: FAILED", " UTC", "the scenes of May; 3 scored, 1 left out", "model: tiny",
        "sha256 of the weights: abc", "| f2 at least | all | 1.000 | 0.900 | yes |",
        "| f2 at least | SnowIce | – | 0.100 | **no** |", "f2_low", "| Barren | 1 | 1 |",
        "| simulated-2 | spot-5 | Mixed | simulated |", "| bare | has no reference mask |",
    ):  # fmt: skip
        assert words in text, words
    table = pd.read_csv(path.with_name("gate.csv"))
    assert table.passed.tolist() == [True, False]
    assert sorted(p.name for p in path.parent.iterdir()) == ["gate.csv", "gate.md"]


def test_a_report_that_breaks_leaves_the_old_one(
    model: CloudModel,
    scenes: dict[str, xr.Dataset],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "gate.md").write_text("old")
    verdict = run_gate(model, scenes, Spec(f2_min=0.1))
    monkeypatch.setattr(gate, "_table", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        verdict.write(tmp_path, "the scenes of May")
    assert [p.name for p in tmp_path.iterdir()] == ["gate.md"]
    assert (tmp_path / "gate.md").read_text() == "old"


def test_the_sample_can_be_read() -> None:
    spec = read_spec(SAMPLE)
    assert all(value is not None for value in spec.model_dump().values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("f2_mim: 0.9", "f2_mim: Extra inputs are not permitted; correct this field"),
        ("f2_min: 90", "f2_min: Input should be less than or equal to 1"),
        ("drift_max: 0", "drift_max: Input should be greater than 0"),
        ("# nothing", "demands nothing; give one of f2_min, f2_lower_min"),
        ("- f2_min", "no list of fields"),
        ("f2_min: [", "the gate specification cannot be read"),
    ],
)
def test_a_spec_that_is_none(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "gate.yml"
    path.write_text(text)
    with pytest.raises(InputError, match=f"^{path}: .*{message}"):
        read_spec(path)
    with pytest.raises(InputError, match="absent: the gate specification cannot be read"):
        read_spec(tmp_path / "absent")


# The command.


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    def go(*words: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["clouddl", "gate", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return int(ended.value.code or 0), said.out, said.err

    return go


@pytest.fixture
def place(tmp_path: Path, model: CloudModel, simulated: Callable[..., Scene]) -> Path:
    """A model, a catalogue of simulated scenes and three specifications."""
    save_model(model, tmp_path / "tiny")
    for name, role in (("mine", "reference"), ("bare", "train")):
        records = [simulated(n, role).model_dump(exclude={"collection"}) for n in range(2)]
        fields = {"name": name, "title": name, "collections": {"simulated": {"scenes": records}}}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(fields))
    for name, text in (("low", "f2_min: 0.0"), ("high", "f2_min: 1.0"), ("bad", "f2: 1")):
        (tmp_path / f"{name}.yml").write_text(text)
    return tmp_path


def test_exit_codes(run: Any, place: Path) -> None:
    line = place / "tiny.json", place / "mine.yaml", "--spec"
    code, out, _ = run(*line, place / "low.yml")
    assert (code, out.splitlines()[-1]) == (0, "passed")
    code, out, _ = run(*line, place / "high.yml", "--report", place / "report")
    assert (code, out.splitlines()[-1]) == (1, "FAILED")
    assert f"reference scenes of {place / 'mine.yaml'}" in (place / "report/gate.md").read_text()
    for words, message in (
        ((*line, place / "bad.yml"), "bad.yml: f2: Extra inputs"),
        ((place / "none.json", *line[1:], place / "low.yml"), "there is no such model card"),
        (
            (line[0], place / "bare.yaml", "--spec", place / "low.yml"),
            "no scenes of role 'reference'; it has",
        ),
        ((*line, place / "low.yml", "--report", place / "low.yml"), "low.yml"),
    ):
        code, _, err = run(*words)
        assert code == 2
        assert err.startswith("clouddl: ") and message in err and err.count("\n") == 1


@pytest.mark.skipif("CLOUDDL_MIRROR" not in os.environ, reason="needs CLOUDDL_MIRROR")
def test_a_shipped_model_on_real_scenes(run: Any, tmp_path: Path) -> None:
    (tmp_path / "gate.yml").write_text("f2_min: 0.8\ndrift_max: 3\n")
    code, out, _ = run("spot", "real", "--spec", tmp_path / "gate.yml", "--report", tmp_path)
    assert code == 0, out
    assert "drift of swir16 of landsat-8" in out
    assert "22 scored, 3 left out" in (tmp_path / "gate.md").read_text()  # On-Cloud-N lacks SWIR
