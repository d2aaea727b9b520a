"""Scores against values worked by hand and against torchmetrics."""

import numpy as np
import pandas as pd
import pytest
import torch
from torchmetrics.classification import (
    BinaryAccuracy,
    BinaryF1Score,
    BinaryFBetaScore,
    BinaryJaccardIndex,
    BinaryMatthewsCorrCoef,
    BinaryPrecision,
    BinaryRecall,
    MulticlassAccuracy,
)

from clouddl.errors import InputError
from clouddl.score import (
    COUNTS,
    MEASURES,
    best_threshold,
    block_counts,
    counts,
    f_beta,
    measures,
    paired,
    pooled,
    precision_recall,
    reliability,
)


def masks(seed: int, shape: tuple[int, int] = (40, 50)) -> tuple[np.ndarray, np.ndarray]:
    """A mask and a reference that agree in part, both with nodata."""
    rng = np.random.default_rng(seed)
    truth = rng.random(shape) < 0.3
    found = np.where(rng.random(shape) < 0.8, truth, ~truth)
    return tuple(
        np.where(rng.random(shape) < 0.1, 255, layer).astype(np.uint8) for layer in (found, truth)
    )


def table(rows: list[tuple[int, int, int, int]], **columns: list) -> pd.DataFrame:
    columns.setdefault("group", [f"g{index}" for index in range(len(rows))])
    return pd.DataFrame(rows, columns=COUNTS).assign(**columns)


def scenes(count: int, seed: int = 0) -> pd.DataFrame:
    return pd.DataFrame([counts(*masks(seed + index, (6, 6))) for index in range(count)]).assign(
        group=[f"g{index}" for index in range(count)]
    )


def test_counts_by_hand() -> None:
    mask = np.array([[1, 1, 0, 0], [1, 255, 0, 255]], np.uint8)
    reference = np.array([[1, 0, 1, 0], [255, 1, 0, 255]], np.uint8)
    assert counts(mask, reference) == {"tp": 1, "fp": 1, "fn": 1, "tn": 2}
    assert all(type(value) is int for value in counts(mask, reference).values())


def test_counts_of_nodata_alone() -> None:
    nothing = np.full((3, 3), 255, np.uint8)
    assert counts(nothing, np.ones((3, 3), np.uint8)) == dict.fromkeys(COUNTS, 0)


def test_counts_want_one_grid() -> None:
    with pytest.raises(InputError, match=r"\(4, 4\) .* \(4, 5\) .* one grid"):
        counts(np.zeros((4, 4), np.uint8), np.zeros((4, 5), np.uint8))


def test_measures_by_hand() -> None:
    found = measures(np.array([6, 2, 4, 8]))
    assert set(found) == set(MEASURES)
    assert found["f2"] == pytest.approx(5 * 6 / (5 * 6 + 4 * 4 + 2))
    assert found["f1"] == pytest.approx(2 * 6 / (2 * 6 + 4 + 2))
    assert found["precision"] == pytest.approx(6 / 8)
    assert found["recall"] == pytest.approx(6 / 10)
    assert found["iou"] == pytest.approx(6 / 12)
    assert found["accuracy"] == pytest.approx(14 / 20)
    assert found["balanced_accuracy"] == pytest.approx((6 / 10 + 8 / 10) / 2)
    assert found["mcc"] == pytest.approx((6 * 8 - 2 * 4) / np.sqrt(8 * 10 * 10 * 12))


def test_everything_is_cloud_scores_by_chance_alone() -> None:
    """F2 rewards a mask of cloud on a cloudy scene, balanced accuracy does not."""
    found = measures(np.array([90, 10, 0, 0]))
    assert found["f2"] > 0.97
    assert found["balanced_accuracy"] == 0.5
    assert np.isnan(found["mcc"])


def test_mcc_of_opposites_and_of_whole_satellite_scenes() -> None:
    pixels = 100_000**2  # whose fourth power is far beyond an integer of 64 bits
    right, wrong = measures(np.array([[pixels, 0, 0, pixels], [0, pixels, pixels, 0]]))["mcc"]
    assert (right, wrong) == (pytest.approx(1), pytest.approx(-1))


def test_f2_holds_an_omission_worse_than_a_false_alarm() -> None:
    assert f_beta(*np.array([6, 4, 2]), 2) > f_beta(*np.array([6, 2, 4]), 2)
    precision, recall = 6 / 8, 6 / 10
    expected = 5 * precision * recall / (4 * precision + recall)
    assert f_beta(*np.array([6, 2, 4]), 2) == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_measures_are_those_of_torchmetrics(seed: int) -> None:
    mask, reference = masks(seed)
    found = measures(np.array(list(counts(mask, reference).values())))
    # torchmetrics leaves pixels out by the target alone
    target = torch.from_numpy(np.where(mask == 255, 255, reference)).int()
    theirs = {
        "f2": BinaryFBetaScore(beta=2.0, ignore_index=255),
        "f1": BinaryF1Score(ignore_index=255),
        "precision": BinaryPrecision(ignore_index=255),
        "recall": BinaryRecall(ignore_index=255),
        "iou": BinaryJaccardIndex(ignore_index=255),
        "accuracy": BinaryAccuracy(ignore_index=255),
        "balanced_accuracy": MulticlassAccuracy(2, average="macro", ignore_index=255),
        "mcc": BinaryMatthewsCorrCoef(ignore_index=255),
    }
    guess = torch.from_numpy(np.where(mask == 255, 0, mask)).int()
    for name, metric in theirs.items():
        assert found[name] == pytest.approx(metric(guess, target).item(), abs=1e-6), name


@pytest.mark.parametrize(
    ("row", "undefined"),
    [
        ((0, 0, 0, 0), set(MEASURES)),
        ((0, 0, 0, 9), set(MEASURES) - {"accuracy"}),
        ((0, 3, 0, 6), {"recall", "balanced_accuracy", "mcc"}),
        ((0, 0, 3, 6), {"precision", "mcc"}),
        ((3, 0, 0, 0), {"balanced_accuracy", "mcc"}),
    ],
)
def test_what_is_undefined_is_not_zero(row: tuple[int, ...], undefined: set[str]) -> None:
    found = measures(np.array(row))
    assert {name for name, value in found.items() if np.isnan(value)} == undefined


def test_measures_of_many_rows() -> None:
    rows = np.random.default_rng(0).integers(1, 50, (3, 5, 4))
    found = measures(rows)
    assert found["f2"].shape == (3, 5)
    assert found["f2"][1, 2] == measures(rows[1, 2])["f2"]


def test_pooled_is_the_measure_of_the_sum() -> None:
    many = scenes(8)
    (row,) = pooled(many, draws=50).to_dict("records")
    expected = measures(many[COUNTS].sum().to_numpy())
    for name in MEASURES:
        assert row[name] == pytest.approx(expected[name]), name
    assert row["scenes"] == row["units"] == 8
    cloud = many.tp.sum() + many.fn.sum()
    assert row["cloud"] == pytest.approx(cloud / many[COUNTS].to_numpy().sum())


def test_pooled_by_columns() -> None:
    many = scenes(8).assign(model=["b", "a"] * 4, sensor=["x"] * 4 + ["y"] * 4)
    by = pooled(many, ["model", "sensor"], draws=50)
    assert by[["model", "sensor"]].to_numpy().tolist() == [
        ["b", "x"], ["a", "x"], ["b", "y"], ["a", "y"],
    ]  # fmt: skip
    one = many[(many.model == "a") & (many.sensor == "y")]
    assert by.f2[3] == pytest.approx(pooled(one, draws=50).f2[0])
    alone = pooled(many, ["model"], draws=50)
    assert alone.model.tolist() == ["b", "a"]


def test_the_interval_holds_the_point_and_shrinks() -> None:
    widths = []
    for count in (5, 20, 80):
        (row,) = pooled(scenes(count), draws=400).to_dict("records")
        for name in MEASURES:
            assert row[f"{name}_low"] <= row[name] <= row[f"{name}_high"]
        widths.append(row["f2_high"] - row["f2_low"])
    assert widths[0] > widths[1] > widths[2] > 0


def test_the_interval_is_that_of_drawing_by_hand() -> None:
    rows = [(5, 1, 0, 4), (2, 0, 6, 4)]
    (row,) = pooled(table(rows), draws=4000).to_dict("records")
    # two scenes give four equal draws: the worse twice, both, both, the better twice
    worse, better = (measures(np.array(r))["recall"] for r in (rows[1], rows[0]))
    assert (row["recall_low"], row["recall_high"]) == (pytest.approx(worse), pytest.approx(better))


def test_the_interval_is_seeded() -> None:
    many = scenes(6)
    assert pooled(many, draws=50).equals(pooled(many, draws=50))
    assert not pooled(many, draws=50).equals(pooled(many, draws=50, seed=1))


def test_patches_of_one_place_are_drawn_together() -> None:
    rows = [(8, 1, 1, 10), (1, 1, 8, 10)] * 10
    apart = pooled(table(rows), draws=400)
    # each place holds a good and a bad patch, so that it matters not which places are drawn
    places = [index // 2 for index in range(20)]
    together = pooled(table(rows, group=places), draws=400)
    assert together.f2[0] == apart.f2[0]
    assert (together.scenes[0], together.units[0], apart.units[0]) == (20, 10, 20)
    assert together.f2_low[0] == pytest.approx(together.f2_high[0])
    assert apart.f2_high[0] - apart.f2_low[0] > 0.1
    named = pooled(table(rows, place=places), unit="place", draws=400)
    assert named.units[0] == 10


def test_one_unit_has_no_interval() -> None:
    (row,) = pooled(table([(5, 1, 1, 5)] * 3, group=["a"] * 3)).to_dict("records")
    assert np.isfinite(row["f2"])
    assert np.isnan([row["f2_low"], row["f2_high"]]).all()


def test_pooled_scenes_without_cloud() -> None:
    (row,) = pooled(table([(0, 0, 0, 9)] * 3), draws=50).to_dict("records")
    assert np.isnan([row[name] for name in ("f2", "f2_low", "f2_high", "recall")]).all()
    assert row["accuracy"] == row["accuracy_low"] == 1
    assert row["cloud"] == 0


def test_the_threshold_between_cloud_and_clear() -> None:
    probability = np.repeat([0.105, 0.305, 0.705, 0.905], 25)
    truth = probability > 0.5
    threshold, f2 = best_threshold(probability, truth)
    assert f2 == 1
    assert threshold == pytest.approx(0.51, abs=0.011)  # the middle of 0.31 … 0.70


def test_the_threshold_weighs_recall_more() -> None:
    probability = np.repeat([0.205, 0.405, 0.605, 0.805], [60, 40, 10, 40])
    truth = np.repeat([False, True, False, True], [60, 40, 10, 40])
    assert best_threshold(probability, truth)[0] < 0.405


def test_the_score_of_the_threshold_is_that_of_its_mask() -> None:
    rng = np.random.default_rng(0)
    truth = rng.random(5000) < 0.2
    probability = np.clip(rng.normal(np.where(truth, 0.6, 0.3), 0.2), 0, 1).astype(np.float32)
    threshold, f2 = best_threshold(probability, truth)

    def score(at: float) -> float:
        row = counts((probability >= at).astype(np.uint8), truth.astype(np.uint8))
        return float(measures(np.array(list(row.values())))["f2"])

    assert f2 == pytest.approx(score(threshold))
    assert f2 >= max(score(at) for at in np.arange(1, 100) / 100) - 1e-4
    curve = precision_recall(probability, truth)
    assert curve.threshold.tolist() == (np.arange(1, 100) / 100).tolist()
    assert curve.f2.max() == pytest.approx(f2, abs=1e-4)
    assert (curve.recall.diff().dropna() <= 0).all()
    (row,) = curve[curve.threshold == threshold].to_dict("records")
    assert row["f2"] == pytest.approx(f2)


@pytest.mark.parametrize("probability", [0.0, 0.4, 1.0])
def test_the_threshold_where_there_is_no_cloud(probability: float) -> None:
    threshold, f2 = best_threshold(np.full(20, probability), np.zeros(20, bool))
    assert threshold == 0.5
    assert np.isnan(f2)


def test_the_threshold_where_there_is_nothing() -> None:
    threshold, f2 = best_threshold(np.empty(0), np.empty(0, bool))
    assert threshold == 0.5
    assert np.isnan(f2)


def test_reliability() -> None:
    probability = np.array([0.0, 0.04, 0.55, 0.55, 0.55, 0.55, 1.0])
    truth = np.array([0, 0, 1, 1, 1, 0, 1], bool)
    found = reliability(probability, truth)
    assert found.pixels.tolist() == [2, 0, 0, 0, 0, 4, 0, 0, 0, 1]
    assert found.observed[[0, 5, 9]].tolist() == [0, 0.75, 1]
    assert found.predicted[[0, 5, 9]].tolist() == pytest.approx([0.02, 0.55, 1])
    assert found.observed[[1, 8]].isna().all()


def test_blocks_of_a_scene_hold_all_its_pixels_once() -> None:
    found, truth = masks(3)  # 40 × 50 pixels
    blocks = block_counts(found, truth, size=16)
    assert len(blocks) == 3 * 4 and blocks.group.is_unique
    assert blocks[COUNTS].sum().to_dict() == counts(found, truth)
    assert pooled(blocks, draws=50).f2[0] == pytest.approx(
        pooled(table([tuple(counts(found, truth).values())])).f2[0]
    )
    corner = counts(found[32:, 48:], truth[32:, 48:])
    assert blocks[COUNTS].iloc[-1].to_dict() == corner
    truth[:16, :16] = 255  # a block without a label is no block to draw
    assert len(block_counts(found, truth, size=16)) == 11


def test_within_a_patch_methods_are_drawn_by_the_same_blocks() -> None:
    found, truth = masks(5, (64, 64))
    (one, other) = (block_counts(mask, truth, size=16) for mask in (found, truth))
    difference = paired(other, one, draws=200)
    assert difference["units"] == 16
    assert 0 < difference["low"] <= difference["difference"] <= difference["high"]
    with pytest.raises(InputError, match="one grid"):
        block_counts(found[:40], truth)


def test_a_paired_difference_is_narrower_than_the_scores() -> None:
    """Scenes are hard for both alike: the difference of two runs is better known than either."""
    rng = np.random.default_rng(0)
    tp = rng.integers(10, 1000, 30)
    hard = pd.DataFrame({"group": [f"g{i:02}" for i in range(30)], "tp": tp, "fp": 1000 - tp})
    hard = hard.assign(fn=100, tn=5000)
    easier = hard.assign(fn=80)
    found = paired(easier, hard)
    assert found["difference"] > 0 and found["low"] > 0 and found["units"] == 30
    alone = pooled(hard).iloc[0]
    assert found["high"] - found["low"] < 0.3 * (alone.f2_high - alone.f2_low)
    assert paired(hard, hard) == {"difference": 0, "low": 0, "high": 0, "units": 30}
    alone = paired(easier[:1], hard[:1])
    assert alone["units"] == 1
    assert np.isnan(alone["low"])
    assert np.isnan(alone["high"])
    with pytest.raises(InputError, match="other scenes"):
        paired(hard, hard.iloc[:-1])
