"""Training: checkpoints, scores, and runs that are killed and go on."""

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import BANDS
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

import clouddl.train
from clouddl.augment import Augmentation
from clouddl.chips import Chips
from clouddl.errors import InputError
from clouddl.model import CloudModel
from clouddl.network import ModelCard, build
from clouddl.score import best_threshold, calibration, logits
from clouddl.train import (
    CloudTask,
    PlainCheckpoints,
    Schedule,
    at_resolution,
    calibrated,
    fit,
    fit_trial,
    labelled,
    on_validation,
)

MakeCard = Callable[..., ModelCard]
STILL = {"gain": 0.0, "offset": 0.0, "brightness": 0.0, "ground": 0.0, "paste": 0.0, "haze": 0.0,
         "gaps": 0.0}  # fmt: skip
PLAIN = Augmentation((30.0, 30.0), **STILL, turns=False)


def run(
    card: ModelCard, train: Chips, validation: Chips, folder: Path,
    augmentation: Augmentation = PLAIN, start: CloudModel | None = None, **options: Any,
) -> CloudModel:  # fmt: skip
    schedule = Schedule(**{"epochs": 4, "batch_size": 2} | options)
    return fit(card, train, validation, folder, schedule, augmentation=augmentation, start=start,
               progress=False)  # fmt: skip


def same(one: CloudModel, other: CloudModel) -> bool:
    pairs = zip(one.net.state_dict().values(), other.net.state_dict().values(), strict=True)
    return all(torch.allclose(a.float(), b.float(), atol=1e-6) for a, b in pairs)


def test_labels_become_fractions() -> None:
    mask = torch.tensor([[[0, 1], [255, 1]]], dtype=torch.uint8)
    x, y = labelled([torch.zeros(1, 3, 2, 2), mask])
    assert x.dtype == y.dtype == torch.float32
    assert y[0, 0].tolist() == [0, 1]
    assert y[0, 1, 0].isnan()


def test_validation_sees_whole_chips() -> None:
    x, y = torch.rand(2, 3, 50, 50), torch.rand(2, 50, 50)
    coarse, mask = at_resolution(x, y, 2.0, 4)
    assert coarse.shape == (2, 3, 24, 24)
    assert mask.shape == (2, 24, 24)
    torch.testing.assert_close(at_resolution(x, y, 1.0, 1)[0], x)


def test_band_sets_are_dropped_whole(tiny: MakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    sets = [["green", "red", "nir", "swir16"], ["green", "red", "nir"], ["red"]]
    task = CloudTask(tiny(band_sets=sets, normalisation="fixed"), 30.0, PLAIN, 1e-3)
    shown: list[Tensor] = []

    def spy(x: Tensor, card: ModelCard) -> Tensor:
        shown.append(x.isfinite().all((-1, -2)))
        return torch.nan_to_num(x)

    monkeypatch.setattr(clouddl.train, "normalise", spy)
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    loss = task.training_step([torch.rand(40, 4, 16, 16), torch.ones(40, 16, 16).byte()], 0)
    assert torch.isfinite(loss)
    result = {tuple(row) for row in shown[0].tolist()}
    assert result == {(True,) * 4, (True, True, True, False), (False, True, False, False)}


def test_gaps_are_filled_before_the_network_and_have_no_label(
    tiny: MakeCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = CloudTask(tiny(normalisation="fixed"), 30.0, replace(PLAIN, gaps=1.0), 1e-3)
    shown: list[Tensor] = []

    def spy(x: Tensor, card: ModelCard) -> Tensor:
        shown.append(x)
        return x

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        shown.append(target)
        return logits.sum()

    monkeypatch.setattr(clouddl.train, "normalise", spy)
    monkeypatch.setattr(clouddl.train, "cloud_loss", loss)
    monkeypatch.setattr(task, "log", lambda *_, **__: None)
    batch = [torch.rand(40, 4, 32, 32), torch.ones(40, 32, 32).byte()]
    assert torch.isfinite(task.training_step(batch, 0))
    image, target = shown
    assert image.isfinite().all()
    assert 0.05 < target.isnan().float().mean() < 0.5
    assert (target[~target.isnan()] == 1).all()


def test_checkpoints_are_no_pickles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: Any, **__: Any) -> None:
        raise AssertionError("a pickle was used")

    for module, names in ((pickle, ("load", "loads", "dump", "dumps")), (torch, ("load", "save"))):
        for name in names:
            monkeypatch.setattr(module, name, forbidden)
    state = {
        "epoch": 3, "loss": 0.5, "worst": -math.inf, "none": None, "yes": True, "empty": {},
        "numbers": {0: {"step": torch.tensor(7.0)}, 1: [1, (2, "a")]}, "score": np.float64(0.25),
        "weights": torch.arange(6.0).reshape(2, 3).T, "half": torch.ones(2, dtype=torch.bfloat16),
        "tensor": "a key of this name is no tensor",
    }  # fmt: skip
    path, plain = tmp_path / "folder" / "last.ckpt", PlainCheckpoints()
    plain.save_checkpoint(state, path)
    result = plain.load_checkpoint(path)
    assert list(result) == list(state)
    assert torch.equal(result.pop("weights"), state.pop("weights"))
    assert torch.equal(result.pop("half"), state.pop("half"))
    numbers = result.pop("numbers")
    assert list(numbers) == [0, 1]
    assert numbers[0]["step"] == 7
    assert numbers[1] == [1, [2, "a"]]
    del state["numbers"]
    assert result == state
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
    with safe_open(path, "pt") as stream:
        assert json.loads(stream.metadata()["structure"])
    plain.remove_checkpoint(path)
    plain.remove_checkpoint(path)
    assert not path.exists()


def test_a_checkpoint_without_tensors(tmp_path: Path) -> None:
    PlainCheckpoints().save_checkpoint({"epoch": 1}, tmp_path / "a.ckpt")
    assert PlainCheckpoints().load_checkpoint(tmp_path / "a.ckpt") == {"epoch": 1}


@pytest.mark.parametrize("harm", ["cut", "empty", "pickle", "foreign", "absent"])
def test_a_broken_checkpoint_is_named(tmp_path: Path, harm: str) -> None:
    path = tmp_path / "last.ckpt"
    PlainCheckpoints().save_checkpoint({"weights": torch.ones(100)}, path)
    if harm == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif harm == "empty":
        path.write_bytes(b"")
    elif harm == "pickle":
        path.write_bytes(pickle.dumps({"weights": 1}))
    elif harm == "foreign":  # safetensors, but not a checkpoint
        save_file({"a": torch.ones(2)}, path)
    else:
        path.unlink()
    with pytest.raises(InputError, match=r"last\.ckpt: broken checkpoint .* delete it"):
        PlainCheckpoints().load_checkpoint(path)


def test_calibration_makes_probabilities_frequencies_and_keeps_the_order() -> None:
    rng = np.random.default_rng(0)
    true = rng.uniform(size=200_000)
    cloud = rng.uniform(size=true.size) < true
    timid = 1 / (1 + np.exp(-(0.4 * logits(true) - 1)))  # what a model says where `true` holds
    scale, shift = calibration([(timid, cloud)])
    assert (scale, shift) == (pytest.approx(2.5, abs=0.05), pytest.approx(2.5, abs=0.05))
    assert calibration([(timid, np.ones(true.size, bool))]) == (1.0, 0.0)
    # A set counts as much as another, however small: 2,000 pixels that say the contrary of 200,000
    # leave nothing to tell cloud by.
    contrary = (timid[:2000], ~cloud[:2000])
    assert abs(calibration([(timid, cloud), contrary])[0]) < 0.3


def test_fit_learns_and_keeps_its_record(
    tiny: MakeCard, train_chips: Chips, validation_chips: Chips, tmp_path: Path
) -> None:
    card = tiny(dropout=0.0)
    result = run(card, train_chips, validation_chips, tmp_path, epochs=25, patience=25,
                learning_rate=2e-2)  # fmt: skip
    mean, std = train_chips.statistics()
    torch.manual_seed(0)
    fresh = CloudModel(card.model_copy(update={"mean": mean, "std": std}), build(card), "cpu")
    probability, truth = on_validation(result, validation_chips)
    labelled_pixels = int((validation_chips.dataset.mask != 255).sum())
    assert probability.shape == truth.shape == (labelled_pixels,)
    f2 = best_threshold(probability, truth)[1]
    assert f2 > best_threshold(*on_validation(fresh, validation_chips))[1] + 0.03
    assert f2 > 0.75
    assert (result.card.mean, result.card.std) == (mean, std)
    assert result.card.trained_on == train_chips.sources
    assert result.card.threshold == best_threshold(probability, truth)[0]
    assert result.card.scores["validation_f2"] == pytest.approx(f2)
    assert result.card.scores["epochs"] == 25
    assert card.trained_on == {}  # the caller's card is left alone
    curves = pd.read_csv(tmp_path / "curves" / "metrics.csv")
    assert {"epoch", "loss", "val_loss", "val_f2", "val_threshold"} <= set(curves)
    losses = curves.loss.dropna()
    assert len(losses) == 25
    assert losses.iloc[-5:].mean() < losses.iloc[:5].mean()
    # What is returned is the best epoch, not the last; calibration moves the thresholds tried.
    assert curves.val_f2.max() == pytest.approx(f2, abs=5e-3)
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.ckpt", "last.ckpt"]
    for path in folder.iterdir():
        with safe_open(path, "pt") as stream:
            assert "structure" in stream.metadata()


def test_fit_is_seeded(
    tiny: MakeCard, train_chips: Chips, validation_chips: Chips, tmp_path: Path
) -> None:
    runs = [
        run(tiny(seed=seed), train_chips, validation_chips, tmp_path / name, epochs=2,
            augmentation=Augmentation((30.0, 60.0)))
        for name, seed in (("a", 1), ("b", 1), ("c", 2))
    ]  # fmt: skip
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


@pytest.mark.parametrize("step", [3, 7])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    tiny: MakeCard, train_chips: Chips, validation_chips: Chips, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, step: int,
) -> None:  # fmt: skip
    def go(folder: str) -> CloudModel:
        card = tiny(dropout=0.2, band_sets=[["green", "red"], ["green", "red", "nir", "swir16"]])
        return run(card, train_chips, validation_chips, tmp_path / folder,
                   augmentation=Augmentation((30.0, 60.0)))  # fmt: skip

    whole = go("whole")
    step_as_usual = CloudTask.training_step

    def killed(self: CloudTask, batch: list[Tensor], index: int) -> Tensor:
        if self.global_step == step:  # three steps make an epoch
            raise ConnectionAbortedError("killed")
        return step_as_usual(self, batch, index)

    with monkeypatch.context() as patch, pytest.raises(ConnectionAbortedError):
        patch.setattr(CloudTask, "training_step", killed)
        go("killed")
    resumed: list[int] = []

    def watched(self: CloudTask, batch: list[Tensor], index: int) -> Tensor:
        resumed.append(self.global_step)
        return step_as_usual(self, batch, index)

    monkeypatch.setattr(CloudTask, "training_step", watched)
    again = go("killed")
    assert resumed == list(range(step // 3 * 3, 12))  # from the last epoch's end, not from 0
    last = [PlainCheckpoints().load_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt")
            for run in ("whole", "killed")]  # fmt: skip
    for name, value in last[0]["current_model_state"].items():
        torch.testing.assert_close(last[1]["current_model_state"][name], value, msg=name)
    assert same(whole, again)
    assert again.card == whole.card
    curves = [pd.read_csv(tmp_path / run / "curves" / "metrics.csv") for run in ("whole", "killed")]
    tidy = [curve.groupby("epoch").val_f2.last() for curve in curves]
    pd.testing.assert_series_equal(tidy[1], tidy[0])


def test_a_run_that_is_done_is_not_done_again(
    tiny: MakeCard, train_chips: Chips, validation_chips: Chips, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    first = run(tiny(), train_chips, validation_chips, tmp_path, epochs=1)

    def forbidden(*_: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(CloudTask, "training_step", forbidden)
    second = run(tiny(), train_chips, validation_chips, tmp_path, epochs=1)
    assert same(first, second)
    assert second.card == first.card


def test_fit_refuses_a_broken_checkpoint(
    tiny: MakeCard, train_chips: Chips, validation_chips: Chips, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").write_bytes(b"\x80\x04not safetensors")
    with pytest.raises(InputError, match=r"last\.ckpt: broken checkpoint"):
        run(tiny(), train_chips, validation_chips, tmp_path)


def test_fit_goes_on_from_other_weights(
    tiny: MakeCard, train_chips: Chips, validation_chips: Chips, tmp_path: Path
) -> None:
    start = run(tiny(), train_chips, validation_chips, tmp_path / "a", epochs=1)
    before = start.card.model_copy(deep=True)
    weights = {name: value.clone() for name, value in start.net.state_dict().items()}
    result = run(start.card, train_chips, validation_chips, tmp_path / "b", epochs=1,
                learning_rate=1e-9, start=start)  # fmt: skip
    # nothing is learnt at this rate: what differs from a fresh network came from `start`
    name = "first.0.weight"
    torch.testing.assert_close(result.net.state_dict()[name], weights[name], atol=1e-5, rtol=0)
    assert (result.card.mean, result.card.std) == (before.mean, before.std)
    assert start.card == before


def test_fit_without_cloud_in_validation(
    tiny: MakeCard, train_chips: Chips, validation_chips: Chips, tmp_path: Path
) -> None:
    clear = validation_chips.dataset.copy()
    clear["mask"] = clear["mask"] * 0
    result = run(tiny(), train_chips, Chips(clear), tmp_path, epochs=1)
    assert result.card.threshold == 0.5
    assert np.isnan(result.card.scores["validation_f2"])


def test_a_trial_is_a_fit_described_by_plain_data(zarr: Path, tmp_path: Path) -> None:
    point = {"base_filters": 8, "dropout": 0.1, "kernel_size": 3, "learning_rate": 2e-3}
    fields = {"name": "trial", "bands": BANDS, "labels": "truth", "resolution": 30.0}
    options = {"chips": str(zarr), "card": fields, "folder": str(tmp_path)}
    result = fit_trial(point, **options, epochs=1, batch_size=4)
    assert [path.name for path in tmp_path.iterdir()] == ["8-0.1-3-0.002"]
    card = ModelCard(**fields, base_filters=8, dropout=0.1, kernel_size=3)
    train, validation = (Chips.open(zarr, BANDS, "truth", r) for r in ("train", "validation"))
    model = calibrated(fit(card, train, None, tmp_path / "fit", Schedule(1, 4)), validation)
    assert result == model.card.scores["validation_f2"]
