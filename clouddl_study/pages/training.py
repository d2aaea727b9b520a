"""Tables and figures of the page on training: the network, its loss, its data, its schedule."""

import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from IPython.display import Markdown
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor
from torch.nn import functional as F

from clouddl.augment import Augmentation, Batch, random_window, turn
from clouddl.chips import Chips
from clouddl.model import CloudModel
from clouddl.network import ModelCard, UNet, cloud_loss
from clouddl.score import THRESHOLDS, best_threshold, plateau, precision_recall
from clouddl.train import (
    RegionSampler,
    Schedule,
    averaging_decay,
    filled,
    labelled,
    on_validation,
)
from clouddl_study.corpora import by_origin
from clouddl_study.pages import panels
from clouddl_study.tables import percent

FRAME = "#444444"
TOY = 64  # pixels a side of the toy masks
TOY_RADII = (5, 22)  # pixels, of the small and the large toy cloud
CERTAIN = 0.95  # probability in the cloud of a toy prediction; one minus it elsewhere
STRONGER = 4  # times the strength, so that weak effects can be seen in print
ENDS = 4  # regions shown of either end of a table
STRIP_SEEDS = range(20)  # the first one that changes the patch is shown


def source(thing: Callable | type) -> Markdown:
    """Show the code of a function of the package.

    Args:
        thing: The function or class.

    Returns:
        A block of code.
    """
    code = textwrap.dedent(inspect.getsource(thing))
    return Markdown(f"```python\n{code}```")


def cloud_table(parts: Mapping[str, Chips]) -> pd.DataFrame:
    """Tell how much cloud chips hold.

    Args:
        parts: Chips by role.

    Returns:
        A row a role: real and simulated chips, regions, cloud (fraction), chips without cloud.
    """
    rows = []
    for role, chips in parts.items():
        real, simulated = (part.dataset.sizes["chip"] for part in chips.real_and_simulated())
        mask = chips.dataset.mask.values.astype(np.float32)
        mask[mask == 255] = np.nan
        rows.append(
            {
                "role": role,
                "real chips": real,
                "simulated chips": simulated,
                "regions": len(set(chips.dataset.group.values.tolist())),
                "cloud": np.nanmean(mask),
                "chips without cloud": int((np.nanmax(mask, (1, 2)) < 0.5).sum()),
            }
        )
    return pd.DataFrame(rows)


def parameters(net: UNet) -> int:
    """Count the weights of a network.

    Args:
        net: The network.

    Returns:
        How many numbers training adjusts.
    """
    return sum(weights.numel() for weights in net.parameters())


def unet_figure(card: ModelCard, side: int) -> Figure:
    """Draw the U-Net of a card: channels and sides of the feature maps of each level.

    A box is a block of two convolutions; its height shows the side of its maps, its width the
    number of channels.

    Args:
        card: Its bands, base_filters, depth and stem are used.
        side: Pixels a side of the input.

    Returns:
        The figure.
    """
    figure, axis = plt.subplots(figsize=(9.2, 4.6))
    axis.set_axis_off()
    last = card.depth
    for level in range(last + 1):
        channels = card.base_filters * 2**level
        maps = side // card.stem // 2**level
        columns = [level] if level == last else [level, 2 * last - level]
        for column in columns:
            _draw_block(axis, column, level, last, f"{channels} × {maps}²")
        if level < last:
            _draw_arrow(axis, (level + 0.28, -level), (2 * last - level - 0.28, -level), "0.6")
            _draw_arrow(axis, (level + 0.15, -level - 0.35), (level + 0.65, -level - 0.9), "C0")
            _draw_arrow(
                axis,
                (2 * last - level - 0.65, -level - 0.9),
                (2 * last - level - 0.15, -level - 0.35),
                "C1",
            )
    squares = side // card.stem
    folded = len(card.bands) * card.stem**2
    fold = f"{len(card.bands)} bands × {side}²\nfolded:\n{folded} × {squares}²"
    unfold = f"{card.stem**2} × {squares}²\nunfolded:\nlogits {side}²"
    axis.text(-1.0, 0, fold, ha="center", va="center", fontsize=10)
    axis.text(2 * last + 1.0, 0, unfold, ha="center", va="center", fontsize=10)
    _draw_arrow(axis, (-0.55, 0), (-0.28, 0), FRAME)
    _draw_arrow(axis, (2 * last + 0.28, 0), (2 * last + 0.6, 0), FRAME)
    axis.text(last, 0.06, "skip connections", ha="center", color="0.4", fontsize=10)
    axis.text(-1.0, -last, "↘ max pooling, 2 × 2", color="C0", fontsize=10)
    axis.text(
        2 * last + 1.3, -last, "↗ transposed convolution", color="C1", fontsize=10, ha="right"
    )
    axis.set(xlim=(-1.6, 2 * last + 1.7), ylim=(-last - 0.4, 0.6))
    plt.close(figure)
    return figure


def loss_figure() -> Figure:
    """Draw both terms of the loss for a small and a large cloud and predictions of any radius.

    The toy cloud is a disc, and so is each prediction, around the same centre: `CERTAIN` inside,
    one minus that outside.

    Returns:
        The figure: each cloud with some predictions, and its losses against the predicted radius.
    """
    figure, axes = plt.subplots(2, 2, figsize=(9, 7.4))
    radii = np.arange(0, TOY // 2)
    for (picture, plot), true_radius in zip(axes, TOY_RADII, strict=True):
        target = _disc(true_radius)
        terms = np.array([_loss_terms(_disc(float(radius)), target) for radius in radii])
        picture.imshow(target.numpy(), cmap="gray", vmin=-0.4, vmax=1)
        picture.set_title(f"cloud on {percent(float(target.mean()))} of the pixels", fontsize=10)
        angle = np.linspace(0, 2 * np.pi, 100)
        for radius, line in ((true_radius * 0.6, ":"), (true_radius * 1.35, "--")):
            middle = (TOY - 1) / 2
            rows, columns = middle + radius * np.sin(angle), middle + radius * np.cos(angle)
            picture.plot(columns, rows, line, color="C1")
            plot.axvline(radius, color="C1", ls=line, lw=1)
        panels.frame(picture, color=FRAME)
        plot.plot(radii, terms[:, 0], label="BCE")
        plot.plot(radii, terms[:, 1], color="C2", label="1 − Dice")
        plot.plot(radii, terms.sum(1), color="black", lw=1, label="loss: the sum")
        plot.axvline(true_radius, color="0.5", lw=1)
        plot.set(xlabel="predicted radius (pixels)", ylabel="loss", ylim=(0, None))
    axes[0, 1].legend(fontsize=9)
    plt.close(figure)
    return figure


def toy_losses(radius: float, true_radius: float) -> pd.Series:
    """Compute the terms of the loss for a disc as prediction and a disc as truth.

    Args:
        radius: Of the predicted cloud in pixels.
        true_radius: Of the true cloud in pixels.

    Returns:
        BCE, Dice term, and their sum.
    """
    cross_entropy, dice = _loss_terms(_disc(radius), _disc(true_radius))
    return pd.Series({"BCE": cross_entropy, "1 - Dice": dice, "loss": cross_entropy + dice})


def effects_table(augmentation: Augmentation, resolution: float) -> pd.DataFrame:
    """List the training effects and their strengths.

    Args:
        augmentation: The effects.
        resolution: Of the chips, in metres.

    Returns:
        A row an effect: its name, what it stands for, and its strength in words.
    """
    low, high = (max(metres, resolution) for metres in augmentation.resolution)
    rows = [
        ("resolution", "sensors of other sharpness", f"pixels of {low:g} to {high:g} m"),
        ("turn", "other orbits, other directions of light", "quarter turns, mirrored or not"),
        (
            "ground",
            "soils, sands and snow that the archive lacks; only images without cloud",
            f"each band × exp(n), n of standard deviation {augmentation.ground:g}, "
            "and one such factor for all bands",
        ),
        (
            "paste",
            "other pairs of cloud and ground",
            f"clouds of another chip on {100 * augmentation.paste:.0f} % of the images",
        ),
        (
            "haze",
            "dust and smoke, which are no cloud",
            f"reflectance at 0.49 µm of standard deviation {augmentation.haze:g}, "
            "less at longer wavelengths",
        ),
        (
            "light",
            "calibration, height of the sun, air",
            f"gain of a band ± {100 * augmentation.gain:.0f} %, brightness of all bands "
            f"± {100 * augmentation.brightness:.0f} %, offset ± {augmentation.offset:g}",
        ),
        (
            "gaps",
            "edges of swaths, stripes of Landsat 7; cut, then filled as in use",
            f"{100 * augmentation.gaps:.0f} % of the images",
        ),
    ]
    return pd.DataFrame(rows, columns=["effect", "stands for", "strength"])


def effects_figure(chips: Chips, bands: Sequence[str]) -> Figure:
    """Show one patch as it is, and after each training effect alone.

    The patch is one without cloud (so that all effects apply) and varied ground; clouds come from
    seven chips that have some. All pictures have one stretch, so brightness can be compared.

    Args:
        chips: Labelled chips.
        bands: Their bands.

    Returns:
        The figure, four pictures a row: the strengths in use, then `STRONGER` times as strong ones.
    """
    x, y = labelled(_clear_and_cloudy(chips))
    used = Augmentation(paste=1)
    strong = Augmentation(
        paste=1,
        ground=STRONGER * used.ground,
        haze=STRONGER * used.haze,
        gain=STRONGER * used.gain,
        brightness=STRONGER * used.brightness,
        offset=STRONGER * used.offset,
    )
    pictures = {"original": x, **_alone(x, y, used, bands, chips.resolution)}
    for name, picture in _alone(x, y, strong, bands, chips.resolution).items():
        if name in ("ground", "haze", "light"):
            pictures[f"{name}, {STRONGER} × as strong"] = picture
    rows = -(-len(pictures) // 4)
    size = (panels.WIDTH * 4, (panels.WIDTH + 0.3) * rows)
    figure, axes = plt.subplots(rows, 4, figsize=size)
    brightest = float(np.clip(np.nanpercentile(x[0].numpy(), 99), 0.25, 1))
    for axis, (name, picture) in zip(axes.flat, pictures.items(), strict=False):
        axis.imshow(_colours(picture[0], brightest))
        axis.set_title(name)
    for axis in axes.flat:
        axis.axis("off")
    plt.close(figure)
    return figure


def steps_of(chips: Chips, schedule: Schedule) -> int:
    """Count the steps of a training.

    Args:
        chips: The training chips.
        schedule: How long to train.

    Returns:
        Batches in an epoch, times epochs.
    """
    return schedule.epochs * -(-chips.dataset.sizes["chip"] // schedule.batch_size)


def schedule_figure(schedule: Schedule, steps: int) -> Figure:
    """Plot the learning rate of each step, and its weight in the average of the weights.

    Args:
        schedule: Has the highest learning rate.
        steps: Of the whole training.

    Returns:
        The figure.
    """
    optimiser = torch.optim.Adam([torch.zeros(1, requires_grad=True)], schedule.learning_rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimiser, schedule.learning_rate, steps)
    rates = []
    for _ in range(steps):
        rates.append(cycle.get_last_lr()[0])
        optimiser.step()
        cycle.step()
    decay = averaging_decay(steps)
    averaged = (1 - decay) * decay ** np.arange(steps)[::-1]
    figure, (above, below) = plt.subplots(2, figsize=(6.5, 4.4), sharex=True)
    above.plot(rates)
    above.set(ylabel="learning rate")
    below.fill_between(np.arange(steps), averaged, color="C2", alpha=0.5, lw=0)
    below.set(xlabel="step", ylabel="weight in the average", ylim=(0, None))
    plt.close(figure)
    return figure


def sampling_table(chips: Chips, seed: int) -> pd.DataFrame:
    """Tell how often chips of the `ENDS` largest and smallest regions are shown in an epoch.

    Args:
        chips: The training chips.
        seed: Of the training.

    Returns:
        A row a region: its chips, and how often an epoch shows one of them on average.
    """
    groups = pd.Series(chips.dataset.group.values.tolist())
    sampler = RegionSampler(groups.tolist(), seed)
    table = pd.DataFrame({"region": groups, "chance": sampler.probabilities})
    regions = table.groupby("region").chance.agg(["size", "sum"]).sort_values("size")
    regions = regions.iloc[::-1]
    if len(regions) > 2 * ENDS:
        regions = pd.concat([regions[:ENDS], regions[-ENDS:]])
    return pd.DataFrame(
        {
            "region": regions.index,
            "chips": regions["size"],
            "shown in an epoch, on average": (regions["sum"] * len(sampler)).round(1),
        }
    )


def score(model: CloudModel, yards: Mapping[str, Chips]) -> dict[str, float]:
    """Score a model on each yardstick, at the threshold that suits it best there.

    Args:
        model: The model.
        yards: Chips by name, as `corpora.yardsticks` opens them.

    Returns:
        F2 by yardstick, and their mean.
    """
    f2 = {name: best_threshold(*on_validation(model, chips))[1] for name, chips in yards.items()}
    return {**f2, "mean": float(np.mean(list(f2.values())))}


def scored(models: Mapping[str, CloudModel], yards: Mapping[str, Chips], head: str) -> pd.DataFrame:
    """Score models on all yardsticks.

    Args:
        models: By the name of their setting.
        yards: As for `score`.
        head: Of the column of names.

    Returns:
        A row a model.
    """
    rows = [{head: name, **score(model, yards)} for name, model in models.items()]
    return pd.DataFrame(rows).round(4)


def label_scores(models: Mapping[str, CloudModel], yards: Mapping[str, Chips]) -> pd.DataFrame:
    """Score models that were trained on different labels.

    Args:
        models: By the source of their labels.
        yards: As for `score`.

    Returns:
        A row a source: labels, validation F2 on its own labels, and F2 on each yardstick.
    """
    rows = []
    for labels, model in models.items():
        own = model.card.scores["validation_f2"]
        rows.append({"labels": labels, "F2, own labels": own, **score(model, yards)})
    return pd.DataFrame(rows).round(4)


def threshold_figure(model: CloudModel, validation: Chips) -> Figure:
    """Plot F2 against the threshold on validation, the plateau, and the threshold chosen.

    Args:
        model: A calibrated model.
        validation: The chips that its threshold was chosen on.

    Returns:
        The figure.
    """
    figure, axis = plt.subplots(figsize=(6.5, 3.6))
    curves = []
    for name, part in by_origin(validation).items():
        probability, truth = on_validation(model, part)
        if truth.any():
            f2 = precision_recall(probability, truth).f2
            curves.append(f2)
            axis.plot(THRESHOLDS, f2, lw=1, label=f"{name} chips")
    if curves:
        mean = np.mean(curves, axis=0)
        low, _, high = plateau(mean)
        axis.plot(THRESHOLDS, mean, color="black", label="mean")
        axis.axvspan(low, high, color="0.9", label="plateau")
    axis.axvline(model.card.threshold, color="C1", ls="--", label="threshold chosen")
    axis.set(xlabel="threshold", ylabel="F2")
    axis.legend(fontsize=10)
    plt.close(figure)
    return figure


def curves_figure(runs: Path, names: Sequence[str]) -> Figure:
    """Plot the training loss of runs against the epoch.

    Args:
        runs: Folder of the runs.
        names: Of the runs.

    Returns:
        The figure.
    """
    figure, axis = plt.subplots(figsize=(6.5, 5.6))
    # Solid lines, and dashed ones where the colours begin again.
    axis.set_prop_cycle(plt.cycler(linestyle=["-", "--"]) * plt.rcParams["axes.prop_cycle"])
    for name in names:
        table = pd.read_csv(runs / name / "curves" / "metrics.csv")
        axis.plot(table.groupby("epoch").loss.mean(), label=name)
    axis.set(xlabel="epoch", ylabel="training loss (BCE + Dice)")
    panels.legend_below(axis, 2)
    plt.close(figure)
    return figure


def _draw_block(axis: Axes, column: float, level: int, last: int, text: str) -> None:
    """Draw one block of the U-Net: high at the top, wide at the bottom."""
    height = 0.6 * 0.8**level
    width = 0.26 + 0.24 * level / max(1, last)
    corner = (column - width / 2, -level - height / 2)
    axis.add_patch(Rectangle(corner, width, height, facecolor="#CFE3F1", edgecolor="C0"))
    axis.text(column, -level + height / 2 + 0.03, text, ha="center", va="bottom", fontsize=9)


def _draw_arrow(
    axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str
) -> None:
    axis.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.4})


def _disc(radius: float) -> Tensor:
    """A disc of ones (y, x) in the middle of `TOY` pixels a side."""
    distance = torch.arange(TOY) - (TOY - 1) / 2
    return ((distance[:, None] ** 2 + distance**2).sqrt() < radius).float()


def _loss_terms(prediction: Tensor, target: Tensor) -> tuple[float, float]:
    """Cross-entropy, and what the Dice term adds to it in `cloud_loss`."""
    logits = torch.logit(torch.where(prediction > 0, CERTAIN, 1 - CERTAIN))
    cross_entropy = float(F.binary_cross_entropy_with_logits(logits, target))
    return cross_entropy, float(cloud_loss(logits[None], target[None])) - cross_entropy


def _clear_and_cloudy(chips: Chips) -> tuple[Tensor, Tensor]:
    """A batch of one varied chip without cloud, and seven chips that are partly bright cloud."""
    images, masks = chips.tensors()
    cloud = torch.where(masks == 255, torch.nan, masks.float()).nanmean((1, 2)).nan_to_num(1)
    clouds = ((masks >= 0.5) & (masks != 255))[:, None]
    light = images.float().nan_to_num()
    contrast = (light.std((2, 3)) / (light.mean((2, 3)) + 0.1)).mean(1)
    clear = int(torch.where(cloud <= max(0.005, float(cloud.min())), contrast, -1).argmax())
    brightness = (light * clouds).sum((1, 2, 3)) / clouds.sum((1, 2, 3)).clamp_min(1)
    partly = (cloud > 0.15) & (cloud < 0.5)
    cloudy = torch.where(partly, brightness, -(cloud - 0.33).abs()).argsort(descending=True)[:7]
    order = torch.tensor([clear, *cloudy.tolist()])
    return images[order], masks[order]


def _alone(
    x: Tensor, y: Tensor, augmentation: Augmentation, bands: Sequence[str], resolution: float
) -> dict[str, Tensor]:
    """The batch after each effect alone, by name."""
    coarsest = augmentation.resolution[1] / resolution

    def coarser(x: Tensor, y: Tensor, rng: torch.Generator) -> Batch:
        return random_window(x, y, rng, coarsest, augmentation.crop)

    effects = {"resolution": coarser, "turn": turn, **augmentation.effects(bands)}
    changed = {}
    for name, effect in effects.items():
        for seed in STRIP_SEEDS:
            after, _ = effect(x, y, torch.Generator().manual_seed(seed))
            if not torch.equal(after[0], x[0]):
                break
        changed[name] = filled(after)
    return changed


def _colours(image: Tensor, brightest: float) -> np.ndarray:
    """A picture (y, x, 3) of the first three bands, the longest wavelength as red."""
    order = [min(band, len(image) - 1) for band in (2, 1, 0)]
    return panels.stretched(image[order].permute(1, 2, 0).numpy(), brightest)
