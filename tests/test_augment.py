"""Training effects: what each changes, what it leaves, and that the seed decides."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import clouddl.augment
from clouddl.augment import CROP, Augmentation, cut_gaps, paste, random_window

STILL = {"gain": 0.0, "offset": 0.0, "brightness": 0.0, "ground": 0.0, "paste": 0.0, "haze": 0.0,
         "gaps": 0.0}  # fmt: skip


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(size: int = 64) -> tuple[Tensor, Tensor]:
    """Images that say where their cloud is: reflectance 0.9 on cloud, 0.1 elsewhere."""
    y = (torch.rand(3, size // 8, size // 8, generator=rng(5)) < 0.4).float()
    y = y.repeat_interleave(8, -1).repeat_interleave(8, -2)
    return (0.1 + 0.8 * y)[:, None].repeat(1, 2, 1, 1), y


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("turns", [False, True])
def test_image_and_mask_move_together(seed: int, turns: bool) -> None:
    change = Augmentation((10.0, 40.0), **STILL, turns=turns)
    x, y = change(*batch(), 10.0, rng(seed))
    assert x.shape == (3, 2, *y.shape[1:])
    assert ((y >= 0) & (y <= 1)).all()
    torch.testing.assert_close(x, (0.1 + 0.8 * y)[:, None].expand_as(x))


def test_turns_turn() -> None:
    result = {tuple(Augmentation((9.0, 9.0), **STILL)(*batch(), 9.0, rng(s))[1][0, 0].tolist())
             for s in range(30)}  # fmt: skip
    assert len(result) > 4


def test_radiometry_changes_bands_apart_and_the_mask_not_at_all() -> None:
    x, y = batch()
    change = Augmentation((10.0, 10.0), ground=0, paste=0, gaps=0, turns=False)
    changed, mask = change(x, y, 10.0, rng())
    assert (mask == y).all()
    clear = [changed[n, b][y[n] == 0] for n in range(3) for b in range(2)]
    assert all(values.std() < 1e-6 for values in clear)  # one gain and one offset for all pixels
    levels = [values.mean().item() for values in clear]
    assert len({round(level, 5) for level in levels}) == 6
    assert all(abs(level - 0.1) < 0.15 for level in levels)


def test_nodata_stays_nodata() -> None:
    x, y = batch()
    x[:, :, :16], y[:, :16] = torch.nan, torch.nan
    changed, mask = Augmentation((10.0, 10.0), paste=0, gaps=0, turns=False)(x, y, 10.0, rng())
    assert changed[:, :, :16].isnan().all()
    assert changed[:, :, 16:].isfinite().all()
    assert mask[:, :16].isnan().all()
    assert mask[:, 16:].isfinite().all()


def test_paste_brings_image_and_mask_of_the_donor() -> None:
    x, donor_x = torch.full((1, 2, 64, 64), 0.2), torch.full((1, 2, 64, 64), 0.9)
    y, donor_y = torch.zeros(1, 64, 64), torch.zeros(1, 64, 64)
    donor_y[:, 24:40, 24:40] = 1
    image, mask = paste(x, y, donor_x, donor_y)
    assert torch.equal(mask, donor_y)
    torch.testing.assert_close(image[..., 24:40, 24:40], donor_x[..., 24:40, 24:40])
    torch.testing.assert_close(image[..., :15, :], x[..., :15, :])  # beyond the rim
    assert ((image >= 0.2) & (image <= 0.9001)).all()


def test_paste_keeps_labels_to_pixels_that_were_seen() -> None:
    x, donor_x = torch.full((1, 2, 64, 64), 0.2), torch.full((1, 2, 64, 64), 0.9)
    y, donor_y = torch.zeros(1, 64, 64), torch.zeros(1, 64, 64)
    donor_y[:, 16:32] = 1
    x[..., :20], y[..., :20] = torch.nan, torch.nan
    donor_x[..., 50:], donor_y[..., 50:] = torch.nan, torch.nan
    image, mask = paste(x, y, donor_x, donor_y)
    labelled_blind = mask.isfinite() & image.isnan().all(1)
    assert not labelled_blind.any()


def test_ground_changes_only_chips_without_cloud() -> None:
    x, y = batch()
    x[0], y[0] = 0.1, 0
    change = Augmentation((10.0, 10.0), **STILL | {"ground": 0.3}, turns=False)
    changed, _ = change(x, y, 10.0, rng())
    assert (changed[1:] == x[1:]).all()
    assert changed[0].std((-1, -2)).max() < 1e-6
    assert (changed[0] > 0).all()
    assert not torch.allclose(changed[0], x[0])


def test_haze_brightens_dark_ground_most_and_blue_most() -> None:
    x, y = batch()
    change = Augmentation((10.0, 10.0), **STILL | {"haze": 0.3}, turns=False)
    changed, mask = change(x, y, 10.0, rng(), ["blue", "swir16"])
    assert torch.equal(mask, y)  # haze is no cloud
    gain = changed - x
    assert (gain >= 0).all() and gain.max() > 0.02 and changed.max() <= 1
    assert (gain[:, 0] >= gain[:, 1]).all()
    assert gain[:, 0][y == 0].mean() > gain[:, 0][y == 1].mean()


def test_augmentation_is_seeded() -> None:
    change = Augmentation((10.0, 40.0))
    one, two, other = (change(*batch(), 10.0, rng(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one[0], two[0])  # for which NaN is NaN
    np.testing.assert_array_equal(one[1], two[1])
    assert not np.array_equal(one[0], other[0], equal_nan=True)


def test_resolutions_stay_in_their_range(monkeypatch: pytest.MonkeyPatch) -> None:
    factors: list[float] = []

    def spy(
        x: Tensor, y: Tensor, rng: torch.Generator, factor: float, *_: Any
    ) -> tuple[Tensor, Tensor]:
        factors.append(factor)
        return x, y

    monkeypatch.setattr(clouddl.augment, "random_window", spy)
    for seed in range(200):
        Augmentation((20.0, 60.0))(*batch(16), 10.0, rng(seed))
    assert 2 <= min(factors) < 2.1
    assert 5.8 < max(factors) <= 6
    assert np.median(factors) == pytest.approx(12**0.5, rel=0.15)  # log-uniform
    factors.clear()
    for seed in range(20):  # detail that the chip has not cannot be drawn
        Augmentation((5.0, 20.0))(*batch(16), 10.0, rng(seed))
    assert min(factors) >= 1


@pytest.mark.parametrize(
    ("size", "factor", "expected"),
    [(64, 1.0, 64), (64, 2.0, 32), (64, 1.5, 32), (70, 1.0, 64), (256, 1.0, CROP), (64, 9.0, 16)],
)
def test_crops_suit_the_network(size: int, factor: float, expected: int) -> None:
    x, y = torch.rand(2, 3, size, size), torch.rand(2, size, size)
    small, mask = random_window(x, y, rng(), factor)
    assert small.shape == (2, 3, expected, expected)
    assert mask.shape == (2, expected, expected)


def test_crop_averages_pixels() -> None:
    x = torch.arange(32.0 * 32).reshape(1, 1, 32, 32)
    small, mask = random_window(x, x[:, 0] % 2, rng(), 2.0)
    assert (mask == 0.5).all()
    assert small[0, 0, 0, 0] == x[0, 0, :2, :2].mean()


def test_elevation_is_left_as_it_is() -> None:
    x, y = batch()
    changed, _ = Augmentation((10.0, 10.0), turns=False)(x, y, 10.0, rng(), ["red", "elevation"])
    assert torch.equal(changed[:, 1], x[:, 1])
    assert not torch.equal(changed[:, 0], x[:, 0])


@pytest.mark.parametrize("name", Augmentation().effects(["red", "swir16"]))
def test_an_effect_leaves_its_input_alone(name: str) -> None:
    x, y = batch()
    before = x.clone(), y.clone()
    effect = Augmentation(paste=1.0).effects(["red", "swir16"])[name]
    changed, mask = effect(x, y, rng())
    assert torch.equal(x, before[0]) and torch.equal(y, before[1])
    assert changed.shape == x.shape and mask.shape == y.shape


@pytest.mark.parametrize("seed", range(4))
def test_gaps_are_cut_from_image_and_label_alike(seed: int) -> None:
    x, y = torch.rand(64, 2, 96, 96), torch.zeros(64, 96, 96)
    cut, mask = cut_gaps(x, y, rng(seed), fraction=0.5)
    lost = mask.isnan()
    assert torch.equal(lost, cut.isnan().all(1)) and torch.equal(lost, cut.isnan().any(1))
    assert torch.equal(cut[~lost[:, None].expand_as(cut)], x[~lost[:, None].expand_as(x)])
    fractions = lost.float().mean((1, 2))
    assert 0.25 < (fractions > 0).float().mean() < 0.65  # some edges lie outside the sample
    assert fractions.max() <= 0.55
    assert not x.isnan().any()


def test_no_gaps_are_cut_where_none_are_asked_for() -> None:
    cut, _ = cut_gaps(*batch(), rng(), fraction=0.0)
    assert not cut.isnan().any()
