"""Backends: each gives the mask of plain PyTorch in float32, or nearly, and says when it cannot."""

import importlib.util
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.labels import NODATA, to_mask
from clouddl.model import CloudModel, load_model
from clouddl.network import ModelCard, build, normalise, statistics_for
from clouddl.scale import backends
from clouddl.scale.backends import NEAR, Backend, choose, fill_squares, folded
from clouddl.scenes import Scene, load_catalogue, open_scene, store_of
from clouddl.score import COUNTS, counts, f_beta
from clouddl.transfer import open_scenes, probability

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs the extra fast (openvino)"
)
BACKENDS = ["mixed", pytest.param("openvino", marks=needs_openvino)]
CPU = torch.device("cpu")


@pytest.fixture
def half(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half precision, whether or not this processor gains by it."""
    monkeypatch.setattr(backends, "has_half", lambda device: True)


def trained(card: ModelCard) -> CloudModel:
    """A network of random weights, whose running statistics are not 0 and 1."""
    torch.manual_seed(0)
    net = build(card).train()
    with torch.no_grad():
        for _ in range(5):
            net(torch.randn(4, len(card.bands), 32, 32))
    return CloudModel(card, net, "cpu")


def image(height: int, width: int) -> np.ndarray:
    """Reflectance (4, y, x) with nodata in all bands, nodata in one, and noise below zero."""
    values = np.random.default_rng(0).uniform(-0.01, 0.6, (4, height, width)).astype(np.float32)
    values[:, 3:7, 5:9] = np.nan
    values[2, 20, 20:] = np.nan
    return values


def check_masks(name: str, backend: str, scenes: Mapping[str, xr.Dataset]) -> None:
    """The promise: at most 0.1 % of the pixels of a scene differ, and F2 of a sensor by 0.002.

    Not F2 of each scene: where a mask holds 67 cloud pixels, ten of them move it more.
    """
    plain, quick = (load_model(name, "cpu", way) for way in ("float32", backend))
    of = {"expected": Counter[tuple[str, str]](), "result": Counter[tuple[str, str]]()}
    for scene_id, scene in scenes.items():
        expected, result = (
            to_mask(probability(model, scene), model.card.threshold) for model in (plain, quick)
        )
        np.testing.assert_array_equal(result == NODATA, expected == NODATA)
        assert (result != expected).mean() <= 0.001, scene_id
        for key, mask in (("expected", expected), ("result", result)):
            counted = counts(mask, scene.mask.values)
            of[key].update({(scene.sensor, kind): int(counted[kind]) for kind in COUNTS})
    for sensor in {scene.sensor for scene in scenes.values()}:
        f2 = [f_beta(*(np.array(c[sensor, k]) for k in ("tp", "fp", "fn")), beta=2)
              for c in of.values()]  # fmt: skip
        np.testing.assert_allclose(f2[1], f2[0], atol=0.002, err_msg=sensor)


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("backend", BACKENDS)
def test_masks_of_drawn_scenes_stay_the_same(backend: str, simulated: Callable[..., Scene]) -> None:
    scenes = {
        f"simulated-{seed}": open_scene(simulated(seed, size=128), Store(None)) for seed in range(3)
    }
    check_masks("any", backend, scenes)


@pytest.mark.skipif("CLOUDDL_MIRROR" not in os.environ, reason="needs CLOUDDL_MIRROR")
@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", ["spot", "five", "pleiades", "any"])
def test_masks_of_all_real_references_stay_the_same(backend: str, name: str) -> None:
    real = load_catalogue("real")
    scenes = open_scenes(real.select("reference"), store_of(real, None), 30.0)
    bands = set(load_model(name).card.band_sets[-1])
    check_masks(name, backend, {n: s for n, s in scenes.items() if bands <= set(s.band.values)})


@pytest.mark.parametrize("normalisation", ["fixed", "chip", "log"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_probability_is_that_of_float32(
    tiny: Callable[..., ModelCard], monkeypatch: pytest.MonkeyPatch, backend: str,
    normalisation: str,
) -> None:  # fmt: skip
    plain = trained(tiny(normalisation=normalisation, stem=4 if normalisation == "log" else 2))
    quick = CloudModel(plain.card, plain.net, "cpu", backend)
    for native, tolerance in ((False, 1e-5), (True, 0.02)):
        monkeypatch.setattr(backends, "has_half", lambda device, native=native: native)
        quick.backend = Backend(plain.net, plain.card, CPU, backend)
        for size in ((48, 64), (30, 41), (48, 64)):
            result, expected = (model.probability(image(*size)) for model in (quick, plain))
            assert result.dtype == np.float32 and result.shape == size
            np.testing.assert_allclose(result, expected, atol=tolerance)


@pytest.mark.parametrize("stem", [1, 2, 3, 4])
@pytest.mark.parametrize("normalisation", ["fixed", "chip", "log"])
def test_squares_hold_what_training_saw(
    tiny: Callable[..., ModelCard], monkeypatch: pytest.MonkeyPatch, normalisation: str, stem: int
) -> None:  # fmt: skip
    """numpy's normalisation is PyTorch's but for the last bits, in pixel_unshuffle's channels."""
    monkeypatch.setattr(backends, "BLOCK", 500)
    bands = ["green", "red", "elevation", "nir"]
    card = tiny(bands=bands, normalisation=normalisation, stem=stem, std=[0.1, 0.3, 500, 0.7])
    values = image(41, 30)
    values[2] *= 3000
    for some in (values, np.nan_to_num(values), np.full_like(values, np.nan)):
        x = torch.from_numpy(some)[None]
        mean, std = statistics_for(x, card)
        squares = np.full((-(-41 // stem) + 2, -(-30 // stem) + 3, 4 * stem**2), 7, np.float32)
        invalid = fill_squares(squares, some, card, (mean, std))
        np.testing.assert_array_equal(invalid[:41, :30], np.isnan(some).all(0))
        spare = [stem * n - m for n, m in zip(squares.shape, (41, 30), strict=False)]
        padded = torch.nn.functional.pad(x, (0, spare[1], 0, spare[0]), mode="replicate")
        expected = normalise(padded, card, (mean, std))
        expected = torch.nn.functional.pixel_unshuffle(expected, stem)[0].permute(1, 2, 0)
        np.testing.assert_allclose(squares, expected.numpy(), rtol=2e-6, atol=2e-6)


@pytest.mark.usefixtures("half")
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_image_near_the_threshold_is_computed_exactly(
    tiny: Callable[..., ModelCard], backend: str
) -> None:
    plain = trained(tiny())
    expected = plain.probability(image(32, 32))
    crowd, edges = np.histogram(expected[np.isfinite(expected)], 100)
    plain.card.threshold = float(edges[crowd.argmax()])  # where most pixels are
    quick = CloudModel(plain.card, plain.net, "cpu", backend)
    np.testing.assert_allclose(quick.probability(image(32, 32)), expected, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_new_weights_are_noticed(tiny: Callable[..., ModelCard], backend: str) -> None:
    plain = trained(tiny())
    quick = CloudModel(plain.card, plain.net, "cpu", backend)
    before = quick.probability(image(32, 32))
    with torch.no_grad():
        plain.net.last.bias += 1
    after = quick.probability(image(32, 32))
    assert np.nanmin(after - before) > 0.01
    np.testing.assert_allclose(after, plain.probability(image(32, 32)), atol=0.02)


def test_folding_changes_nothing_but_the_layers(tiny: Callable[..., ModelCard]) -> None:
    model = trained(tiny())
    net = folded(model.net)
    types = {type(module) for module in net.modules()}
    assert not types & {torch.nn.BatchNorm2d, torch.nn.Dropout2d}
    x = torch.randn(1, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net(x), model.net(x), atol=1e-5, rtol=1e-5)


def test_the_backend_is_chosen_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose("mixed", CPU) == "mixed"
    assert choose(None, CPU) == "float32"  # as conftest.py asks in the environment
    monkeypatch.delenv("CLOUDDL_BACKEND")
    for installed, native, expected in (
        (True, True, "openvino"), (True, False, "openvino"),
        (False, True, "mixed"), (False, False, "float32"),
    ):  # fmt: skip
        monkeypatch.setattr(backends, "has_half", lambda device, native=native: native)
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, installed=installed: installed or None
        )
        assert choose(None, CPU) == expected
    monkeypatch.setattr(backends, "has_half", lambda device: True)
    assert choose(None, torch.device("cuda")) == "mixed"
    with pytest.raises(InputError, match=r"openvino: is not installed.*clouddl\[fast\]"):
        choose("openvino", CPU)
    monkeypatch.setenv("CLOUDDL_BACKEND", "abacus")
    with pytest.raises(InputError, match="abacus: there is none; choose one of auto, float32"):
        choose(None, CPU)


@needs_openvino
def test_a_converted_network_is_kept_for_the_next_process(
    tiny: Callable[..., ModelCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUDDL_CACHE", str(tmp_path))
    first = trained(tiny())
    expected = CloudModel(first.card, first.net, "cpu", "openvino").probability(image(32, 32))
    (kept,) = (path for path in (tmp_path / "openvino").iterdir() if path.name != "compiled")
    with monkeypatch.context() as patch:
        patch.setattr(torch.jit, "trace", None)  # not needed again
        again = CloudModel(first.card, first.net, "cpu", "openvino").probability(image(32, 32))
    np.testing.assert_array_equal(again, expected)
    broken = bytearray((kept / "network.bin").read_bytes())
    broken[100] ^= 255
    (kept / "network.bin").write_bytes(broken)
    mended = CloudModel(first.card, first.net, "cpu", "openvino").probability(image(32, 32))
    np.testing.assert_array_equal(mended, expected)
    with torch.no_grad():
        first.net.last.bias.add_(1)  # other weights are another network
    other = CloudModel(first.card, first.net, "cpu", "openvino").probability(image(32, 32))
    assert np.nanmin(other - expected) > 0


@needs_openvino
def test_openvino_works_without_a_cache(
    tiny: Callable[..., ModelCard], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("CLOUDDL_CACHE", str(tmp_path / "file"))  # no folder can be made there
    plain = trained(tiny())
    quick = CloudModel(plain.card, plain.net, "cpu", "openvino")
    np.testing.assert_allclose(
        quick.probability(image(32, 32)), plain.probability(image(32, 32)), atol=NEAR
    )


@needs_openvino
def test_what_openvino_cannot_do_pytorch_does(
    tiny: Callable[..., ModelCard], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = trained(tiny())
    quick = CloudModel(plain.card, plain.net, "cpu", "openvino")

    def fail(*arguments: object) -> None:
        raise ValueError("no such layer")

    monkeypatch.setattr(backends, "openvino_buffers", fail)
    with pytest.warns(UserWarning, match="OpenVINO: no such layer; PyTorch is used"):
        result = quick.probability(image(32, 32))
    np.testing.assert_allclose(result, plain.probability(image(32, 32)), atol=0.02)
