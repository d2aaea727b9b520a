"""A model: its probabilities, and what its files keep and refuse."""

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import clouddl.model
from clouddl.errors import InputError
from clouddl.model import CloudModel, load_model, pick_model, read_card, save_model, shipped_models
from clouddl.network import ModelCard, build, chip_statistics

MakeCard = Callable[..., ModelCard]


def model(card: ModelCard, seed: int = 0) -> CloudModel:
    """A network that has seen a few batches, so that its running statistics are not 0 and 1."""
    torch.manual_seed(seed)
    net = build(card).train()
    with torch.no_grad():
        for _ in range(5):
            net(torch.randn(4, len(card.bands), 32, 32))
    return CloudModel(card, net, "cpu")


def image(bands: int, height: int = 32, width: int = 32, seed: int = 0) -> np.ndarray:
    values = np.random.default_rng(seed).uniform(0, 0.6, (bands, height, width))
    return values.astype(np.float32)


@pytest.mark.parametrize("size", [(1, 1), (3, 50), (31, 33), (32, 32)])
def test_sizes_that_are_no_multiple_are_padded(tiny: MakeCard, size: tuple[int, int]) -> None:
    result = model(tiny()).probability(image(4, *size))
    assert result.shape == size
    assert result.dtype == np.float32
    assert ((result >= 0) & (result <= 1)).all()


@pytest.mark.parametrize(("stem", "inside"), [(1, 28), (2, 24)])
def test_padding_does_not_reach_back(tiny: MakeCard, stem: int, inside: int) -> None:
    # With kernels of one pixel only the pooling blocks see each other: stem × 4 pixels a side.
    one = model(tiny(kernel_size=1, stem=stem, smooth=False))
    whole = image(4, 32, 32)
    cut, kept = one.probability(whole[:, :30, :29]), np.s_[:inside, :inside]
    np.testing.assert_allclose(cut[kept], one.probability(whole)[kept], atol=1e-6)


@pytest.mark.parametrize("normalisation", ["fixed", "chip", "log"])
def test_nodata_stays_where_it_is(tiny: MakeCard, normalisation: str) -> None:
    values = image(4)
    values[:, 10:14, 20:25] = np.nan  # all bands: nodata
    values[1, 3, 3] = np.nan  # one band: the others still tell
    result = model(tiny(normalisation=normalisation)).probability(values)
    invalid = np.zeros((32, 32), bool)
    invalid[10:14, 20:25] = True
    np.testing.assert_array_equal(np.isnan(result), invalid)


@pytest.mark.parametrize("normalisation", ["fixed", "chip", "log"])
def test_an_image_of_nodata_is_nodata(tiny: MakeCard, normalisation: str) -> None:
    values = np.full((4, 16, 16), np.nan, np.float32)
    assert np.isnan(model(tiny(normalisation=normalisation)).probability(values)).all()


@pytest.mark.parametrize("normalisation", ["fixed", "chip"])
def test_a_missing_band_is_as_if_it_were_the_mean(tiny: MakeCard, normalisation: str) -> None:
    one = model(tiny(normalisation=normalisation))
    absent = image(4)
    average = absent.copy()
    absent[3], average[3] = np.nan, 0.2
    np.testing.assert_allclose(one.probability(absent), one.probability(average), atol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_wrong_number_of_bands_is_an_error(tiny: MakeCard, count: int) -> None:
    with pytest.raises(InputError, match="tiny wants 4 bands: green, red, nir, swir16"):
        model(tiny()).probability(image(count))


def test_statistics_make_tiles_equal_to_the_whole(tiny: MakeCard) -> None:
    one = model(tiny(kernel_size=1, normalisation="chip", smooth=False))
    whole = image(4, 32, 32)
    whole[:, :, 16:] += 0.5  # the two halves differ, so their own statistics do
    expected = one.probability(whole)
    statistics = chip_statistics(torch.from_numpy(whole)[None])
    halves = whole[:, :, :16], whole[:, :, 16:]
    tiles = [one.probability(half, statistics) for half in halves]
    np.testing.assert_allclose(np.concatenate(tiles, 1), expected, atol=1e-5)
    alone = [one.probability(half) for half in halves]
    assert np.abs(np.concatenate(alone, 1) - expected).max() > 1e-3


def test_round_trip(tiny: MakeCard, tmp_path: Path) -> None:
    card = tiny(
        threshold=0.37, normalisation="chip", band_sets=[["green", "red"], ["nir"]], seed=3,
        trained_on={"scene": "0" * 64}, scores={"validation_f2": 0.9}, labels="consensus",
    )  # fmt: skip
    first = model(card)
    written = save_model(first, tmp_path / "folder" / "tiny")
    assert written == tmp_path / "folder" / "tiny.json"
    assert sorted(path.name for path in written.parent.iterdir()) == [
        "tiny.json", "tiny.safetensors",
    ]  # fmt: skip
    weights = written.with_suffix(".safetensors").read_bytes()
    assert hashlib.sha256(weights).hexdigest() == read_card(written).weights_sha256
    assert len(weights) < 3 * sum(p.numel() for p in first.net.parameters()) + 8192  # float16
    for path in (written, written.with_suffix(".safetensors"), str(written.with_suffix(""))):
        second = load_model(path)
        assert second.card == first.card
        assert not second.net.training
        values = image(4, 48, 40, seed=1)
        difference = np.abs(second.probability(values) - first.probability(values))
        assert difference.max() < 2e-3


def test_scores_that_are_undefined_survive(tiny: MakeCard, tmp_path: Path) -> None:
    card = tiny(scores={"validation_f2": float("nan")})
    again = read_card(save_model(model(card), tmp_path / "tiny"))
    assert np.isnan(again.scores["validation_f2"])


def test_names_with_dots_stay_apart(tiny: MakeCard, tmp_path: Path) -> None:
    first = save_model(model(tiny(name="tiny-0.1")), tmp_path / "tiny-0.1")
    second = save_model(model(tiny(name="tiny-0.2")), tmp_path / "tiny-0.2")
    assert first != second
    assert load_model(first).card.name == load_model(tmp_path / "tiny-0.1").card.name == "tiny-0.1"


def flip(data: bytes) -> bytes:
    return data[:-100] + bytes([data[-100] ^ 1]) + data[-99:]


@pytest.mark.parametrize("harm", [flip, lambda data: data[:-50], lambda data: b""])
def test_broken_weights_are_refused(
    tiny: MakeCard, tmp_path: Path, harm: Callable[[bytes], bytes]
) -> None:
    path = save_model(model(tiny()), tmp_path / "tiny").with_suffix(".safetensors")
    path.write_bytes(harm(path.read_bytes()))
    with pytest.raises(InputError, match=r"tiny\.safetensors: the weights are broken .* sha256"):
        load_model(path)


def test_weights_that_are_absent(tiny: MakeCard, tmp_path: Path) -> None:
    card = save_model(model(tiny()), tmp_path / "tiny")
    card.with_suffix(".safetensors").unlink()
    with pytest.raises(InputError, match=r"tiny\.safetensors: the file of weights cannot be read"):
        load_model(card)


class Trap:
    """Unpickling one calls `sprung`."""

    calls = 0

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return sprung, ()


def sprung() -> None:
    Trap.calls += 1


def test_a_pickle_is_never_opened(tiny: MakeCard, tmp_path: Path) -> None:
    card = save_model(model(tiny()), tmp_path / "tiny")
    weights = card.with_suffix(".safetensors")
    torch.save({"first.0.weight": Trap()}, weights)
    fields = json.loads(card.read_text())
    # even where the card vouches for it
    for data in (weights.read_bytes(), pickle.dumps(Trap())):
        weights.write_bytes(data)
        fields["weights_sha256"] = hashlib.sha256(data).hexdigest()
        card.write_text(json.dumps(fields))
        with pytest.raises(InputError, match=r"tiny\.safetensors: the file of weights cannot be"):
            load_model(card)
    assert Trap.calls == 0


def test_weights_of_another_shape_are_refused(tiny: MakeCard, tmp_path: Path) -> None:
    card = save_model(model(tiny()), tmp_path / "tiny")
    fields = json.loads(card.read_text()) | {"base_filters": 8}
    card.write_text(json.dumps(fields))
    with pytest.raises(InputError, match=r"(?s)tiny\.safetensors: .*size mismatch"):
        load_model(card)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"name": None}, "name"),
        ({"bands": None}, "bands"),
        ({"resolution": 0}, "resolution"),
        ({"depth": 0}, "depth"),
        ({"dropout": 1.0}, "dropout"),
        ({"threshold": 1.5}, "threshold"),
        ({"normalisation": "percentile"}, "normalisation"),
        ({"mean": [0.1]}, "bands, mean and std must be of one length"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_card_that_is_wrong(
    tiny: MakeCard, tmp_path: Path, change: dict[str, Any], text: str
) -> None:
    path = save_model(model(tiny()), tmp_path / "tiny")
    fields = json.loads(path.read_text()) | change
    absent = [key for key, value in change.items() if value is None]
    path.write_text(json.dumps({k: v for k, v in fields.items() if k not in absent}))
    with pytest.raises(InputError) as raised:
        load_model(path)
    assert str(path) in str(raised.value)
    assert text in str(raised.value)


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", "\udcff"])
def test_a_card_that_is_no_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "broken.json"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(InputError, match=r"broken\.json"):
        read_card(path)


def test_a_card_that_is_absent(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json: there is no such model card"):
        load_model(tmp_path / "nowhere.safetensors")


@pytest.fixture
def shipped(tiny: MakeCard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two models as if they were shipped: one for three bands, one for four."""
    monkeypatch.setattr(clouddl.model, "WEIGHTS", tmp_path)
    for bands in (["green", "red", "nir"], ["green", "red", "nir", "swir16"]):
        name = f"of-{len(bands)}"
        save_model(model(tiny(bands=bands, name=name)), tmp_path / name)
    return [card.name for card in shipped_models()]


def test_pick_the_model_of_most_bands(shipped: list[str]) -> None:
    assert shipped == ["of-3", "of-4"]
    assert pick_model(["blue", "green", "red", "nir", "swir16", "swir22"]) == "of-4"
    assert pick_model(["green", "red", "nir"]) == "of-3"
    assert load_model("of-3").card.bands == ["green", "red", "nir"]


def test_no_model_for_these_bands(shipped: list[str]) -> None:
    with pytest.raises(InputError, match=r"bands red, pan; .*green, red, nir; .*--model"):
        pick_model(["red", "pan"])


def test_an_unknown_name_lists_the_shipped_ones(shipped: list[str]) -> None:
    with pytest.raises(InputError, match="the shipped ones are: of-3, of-4"):
        load_model("of-5")
