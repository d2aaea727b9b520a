"""The network: shapes, normalisation, the band sets of a card, and the loss."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage

from clouddl.network import ModelCard, UNet, chip_statistics, cloud_loss, normalise

MakeCard = Callable[..., ModelCard]


@pytest.mark.parametrize("bands", [1, 3, 13])
@pytest.mark.parametrize(
    ("depth", "kernel_size", "stem"), [(1, 5, 1), (2, 3, 1), (3, 1, 1), (2, 3, 2), (1, 3, 4)]
)
def test_one_logit_for_each_pixel(
    tiny: MakeCard, bands: int, depth: int, kernel_size: int, stem: int
) -> None:
    names = [f"band {number}" for number in range(bands)]
    net = UNet(tiny(bands=names, depth=depth, kernel_size=kernel_size, stem=stem))
    x = torch.randn(2, bands, 16, 24)
    assert net(x).shape == (2, 16, 24)
    assert net.multiple == stem * 2**depth


@pytest.mark.parametrize("stem", [1, 2, 3])
def test_smooth_logits_are_means_of_neighbours(tiny: MakeCard, stem: int) -> None:
    smooth, rough = (UNet(tiny(stem=stem, smooth=way)).eval() for way in (True, False))
    rough.load_state_dict(smooth.state_dict())
    x = torch.randn(1, 4, 12 * stem, 16 * stem)
    with torch.inference_mode():
        logits, before = smooth(x)[0].numpy(), rough(x)[0].numpy()
    kernel = np.outer([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
    inside = slice(stem, -stem)
    expected = ndimage.convolve(before, kernel)[inside, inside]
    np.testing.assert_allclose(logits[inside, inside], expected, atol=1e-5)


def test_cards_of_trained_models_from_before_smoothing_are_read(tiny: MakeCard) -> None:
    fields = tiny().model_dump(exclude={"smooth"})
    assert ModelCard.model_validate(fields).smooth
    assert not ModelCard.model_validate(fields | {"weights_sha256": "ab"}).smooth
    assert ModelCard.model_validate(fields | {"weights_sha256": "ab", "smooth": True}).smooth


def test_filters_double_at_each_level(tiny: MakeCard) -> None:
    net = UNet(tiny(bands=["green", "red", "nir"], stem=2))
    assert net.first[0].weight.shape == (4, 12, 3, 3)  # four pixels of three bands are one square
    assert [block[0].weight.shape[0] for block in net.down] == [8, 16]


def test_kernels_of_even_size_are_refused(tiny: MakeCard) -> None:
    with pytest.raises(ValueError, match="kernel_size"):
        tiny(kernel_size=4)


def test_fixed_normalisation_uses_the_card(tiny: MakeCard) -> None:
    card = tiny(bands=["red", "nir"], mean=[0.1, 0.3], std=[0.05, 0.2])
    x = torch.tensor([0.2, 0.1])[None, :, None, None].expand(1, 2, 3, 3)
    result = normalise(x, card)
    assert result[0, :, 0, 0].tolist() == pytest.approx([2.0, -1.0])


def test_log_normalisation_leaves_heights_alone(tiny: MakeCard) -> None:
    card = tiny(bands=["red", "elevation"], mean=[-1.5, 400], std=[0.5, 200], normalisation="log")
    x = torch.tensor([0.2, 600.0])[None, :, None, None].expand(1, 2, 3, 3)
    result = normalise(x, card)
    assert result[0, :, 0, 0].tolist() == pytest.approx([(np.log(0.25) + 1.5) / 0.5, 1.0])
    dark = torch.tensor([-0.01, 0.0])[None, :, None, None]  # noise below zero has a logarithm too
    assert normalise(dark, card).isfinite().all()


def test_chip_normalisation_uses_the_image(tiny: MakeCard) -> None:
    values = np.random.default_rng(0).uniform(0, 0.6, (1, 4, 32, 32)).astype(np.float32)
    x = torch.from_numpy(values) + torch.arange(4.0)[:, None, None]
    x[0, 2, :5] = torch.nan
    result = normalise(x, tiny(normalisation="chip"))
    assert result.mean((-2, -1))[0].tolist() == pytest.approx([0] * 4, abs=1e-4)
    rows = result[0, 2, 5:]  # without the nodata, which is 0 now
    assert rows.std(correction=0).item() == pytest.approx(1, abs=1e-3)
    assert (result[0, 2, :5] == 0).all()


def test_statistics_of_a_chip_by_hand() -> None:
    x = torch.tensor([[[[0.0, 0.4], [0.2, torch.nan]], [[0.3] * 2] * 2, [[torch.nan] * 2] * 2]])
    mean, std = chip_statistics(x)
    assert mean.shape == std.shape == (1, 3, 1, 1)
    assert mean.flatten().tolist() == pytest.approx([0.2, 0.3, 0.0])
    # the deviation has a floor: neither an even image nor an empty one is stretched
    assert std.flatten().tolist() == pytest.approx([(0.08 / 3) ** 0.5, 0.02, 0.02])


def test_band_sets_default_to_all_bands(tiny: MakeCard) -> None:
    assert tiny().band_sets == [["green", "red", "nir", "swir16"]]


def test_the_largest_set_that_fits(tiny: MakeCard) -> None:
    sets = [["green", "red"], ["green", "red", "nir"], ["green", "red", "nir", "swir16"]]
    card = tiny(band_sets=sets)
    assert card.best_set(["nir", "red", "green", "blue"]) == sets[1]
    assert card.best_set(["swir16", "nir", "red", "green"]) == sets[2]
    assert card.best_set(["red", "green"]) == sets[0]
    assert card.best_set(["green", "nir"]) is None
    assert card.best_set([]) is None


def test_loss_by_hand() -> None:
    probability = [[0.5, 0.8], [0.9, 0.2]]
    target = [[0.0, 1.0], [1.0, 0.25]]
    logits = torch.tensor(probability).logit()[None]
    parts = [
        math.log(0.5), math.log(0.8), math.log(0.9), 0.25 * math.log(0.2) + 0.75 * math.log(0.8),
    ]  # fmt: skip
    overlap = 0.8 + 0.9 + 0.25 * 0.2
    dice_loss = 1 - (2 * overlap + 1) / (sum(map(sum, probability)) + 2.25 + 1)
    expected = -sum(parts) / 4 + dice_loss
    assert cloud_loss(logits, torch.tensor(target)[None]).item() == pytest.approx(expected)


def test_loss_is_small_only_for_the_right_answer() -> None:
    target = torch.tensor([[[0.0, 1.0], [1.0, 0.0]]])
    right = (target * 2 - 1) * 12
    assert cloud_loss(right, target) < 1e-3 < 1 < cloud_loss(-right, target)


def test_unlabelled_pixels_have_no_gradient() -> None:
    target = torch.tensor([[[0.0, torch.nan], [1.0, 0.5]]])
    logits = torch.tensor([[[0.3, 5.0], [-0.2, 1.0]]], requires_grad=True)
    loss = cloud_loss(logits, target)
    loss.backward()
    assert logits.grad is not None
    assert torch.isfinite(loss)
    assert (logits.grad != 0).tolist() == [[[True, False], [True, True]]]
    other = logits.detach().clone()
    other[0, 0, 1] = -80
    assert cloud_loss(other, target) == loss


def test_loss_without_any_label() -> None:
    logits = torch.randn(1, 4, 4, requires_grad=True)
    loss = cloud_loss(logits, torch.full((1, 4, 4), torch.nan))
    loss.backward()
    assert loss == 0
    assert logits.grad is not None
    assert (logits.grad == 0).all()


def test_loss_without_cloud_is_finite() -> None:
    loss = cloud_loss(torch.full((1, 4, 4), -30.0), torch.zeros(1, 4, 4))
    assert loss.item() == pytest.approx(0, abs=1e-5)
