"""Page 9: models trained on one sensor and scored on another."""

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score

from clouddl.labels import CLEAR, CLOUD
from clouddl.model import CloudModel
from clouddl.score import paired, precision_recall
from clouddl.sensors import get_sensor, middle
from clouddl.transfer import Scenes, pixels, predictions
from clouddl_study.tables import ALL_CLOUD, enough_units, percent, points

# Sensors in the order in which the page shows them, and the trivial method.
TITLES = {
    "sentinel-2": "Sentinel-2",
    "landsat-8": "Landsat 8",
    "spot-4": "SPOT-4",
    "spot-5": "SPOT-5",
    "landsat-5": "Landsat 5",
    ALL_CLOUD: ALL_CLOUD,
}


def matrix_table(blocks: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Join tables of scores of pairs of sensors.

    Args:
        blocks: Tables of `score.pooled` with `train` and `test`, by what they are of.

    Returns:
        All rows, with the columns images, "trained on" and "scored on".
    """
    parts = [block.assign(images=title) for title, block in blocks.items()]
    table = pd.concat(parts, ignore_index=True)
    table["trained on"] = table.train.map(TITLES)
    table["scored on"] = table.test.map(TITLES)
    return table


def f2_grid(scores: pd.DataFrame, value: str = "f2") -> pd.DataFrame:
    """Arrange scores of pairs as a matrix.

    Args:
        scores: A row for each pair, with `train`, `test` and the value.
        value: Column to show.

    Returns:
        The value, training sensors down and scored sensors across.
    """
    grid = scores.pivot(index="train", columns="test", values=value)
    rows = [name for name in TITLES if name in grid.index]
    columns = [name for name in TITLES if name in grid.columns]
    return grid.reindex(index=rows, columns=columns)


def matrix_figure(blocks: Mapping[str, pd.DataFrame]) -> Figure:
    """Plot F2 of each pair of sensors as coloured cells, one matrix for each block.

    Args:
        blocks: As for `matrix_table`.

    Returns:
        The figure; all matrices share one colour scale.
    """
    grids = {title: f2_grid(block) for title, block in blocks.items()}
    values = np.concatenate([grid.to_numpy().ravel() for grid in grids.values()])
    scale = float(np.nanmin(values)), float(np.nanmax(values))
    figure, axes = plt.subplots(1, len(grids), figsize=(10.4, 4.4))
    for axis, (title, grid) in zip(np.atleast_1d(axes), grids.items(), strict=True):
        _plot_grid(axis, grid, scale)
        axis.set(xlabel="scored on", ylabel="trained on", title=f"F2: {title}")
    plt.close(figure)
    return figure


def _plot_grid(axis: Axes, grid: pd.DataFrame, scale: tuple[float, float]) -> None:
    """Plot one matrix, each value written into its cell."""
    axis.imshow(grid, cmap="cividis", vmin=scale[0], vmax=scale[1], aspect="auto")
    for (row, column), value in np.ndenumerate(grid.to_numpy()):
        ink = "black" if value > sum(scale) / 2 else "white"
        axis.text(column, row, percent(value), ha="center", va="center", color=ink)
    axis.set_xticks(range(len(grid.columns)), [TITLES[name] for name in grid.columns])
    rows = [TITLES[name].replace("everything ", "everything\n") for name in grid.index]
    axis.set_yticks(range(len(grid.index)), rows)
    axis.grid(False)


def differences_to_own(
    counts: pd.DataFrame, names: Sequence[str], draws: int, seed: int
) -> pd.DataFrame:
    """Compute differences in F2 to the model trained on the very sensor that is scored.

    Args:
        counts: A row for each scene, with the columns of `score.paired`, train and test.
        names: Training sensors to compare.
        draws: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        A row for each pair of different sensors, its interval by the rule of `enough_units`.
    """
    rows = []
    for test, part in counts.groupby("test", sort=False):
        own = part[part.train == test]
        for train in names:
            if train != test:
                difference = paired(part[part.train == train], own, draws=draws, seed=seed)
                about = {"scored on": TITLES[test], "trained on": TITLES[train]}
                rows.append(about | difference)
    return enough_units(pd.DataFrame(rows))


def model_or_match(scores: pd.DataFrame) -> pd.DataFrame:
    """Split a square matrix of F2 into what the model, the images and their match contribute.

    The value of a pair is the mean of all, plus an effect of its row (the model), plus one of its
    column (how hard the images are), plus a rest. The rest on the diagonal is what training on the
    very sensor brings beyond the two.

    Args:
        scores: A row for each pair, with `train`, `test` and `f2`; ALL_CLOUD is left out.

    Returns:
        A row for each sensor, in points of F2.
    """
    grid = f2_grid(scores[scores.train != ALL_CLOUD])
    mean = grid.to_numpy().mean()
    model = grid.mean(axis=1) - mean
    images = grid.mean(axis=0) - mean
    rows = []
    for name in grid.index:
        rest = grid.loc[name, name] - mean - model[name] - images[name]
        rows.append(
            {
                "sensor": TITLES[name],
                "its model, on all sensors": 100 * model[name],
                "its images, with all models": 100 * images[name],
                "its model on its images, beyond both": 100 * rest,
            }
        )
    return pd.DataFrame(rows)


def without_threshold(
    models: Mapping[str, CloudModel], sets: Mapping[str, Scenes], bands: Sequence[str]
) -> pd.DataFrame:
    """Compare models where no threshold, or the best threshold, is applied.

    Args:
        models: By training sensor.
        sets: Scenes with `mask`, by scored sensor.
        bands: Common names of the bands to use.

    Returns:
        A row for each pair: average precision; F2 at the threshold that is best for these very
        scenes, which reads their true masks, and that threshold; per cent of pixels called cloud at
        the model's own threshold, and per cent that are cloud.
    """
    rows = []
    for test, scenes in sets.items():
        for train, model in models.items():
            probability, truth = pixels(predictions(model, scenes, bands), scenes)
            curve = precision_recall(probability, truth)
            best = curve.loc[curve.f2.idxmax()]
            rows.append(
                {
                    "train": train,
                    "test": test,
                    "average precision": average_precision_score(truth, probability),
                    "best_f2": best.f2,
                    "best threshold": best.threshold,
                    "called cloud %": 100 * (probability >= model.card.threshold).mean(),
                    "cloud %": 100 * truth.mean(),
                }
            )
    return pd.DataFrame(rows)


def threshold_table(ranking: pd.DataFrame) -> pd.DataFrame:
    """Average `without_threshold` over the scored sensors, for each training sensor.

    Args:
        ranking: As `without_threshold` returns it.

    Returns:
        A row for each training sensor.
    """
    means = ranking.drop(columns="test").groupby("train", sort=False).mean().reset_index()
    means.insert(0, "trained on", means.pop("train").map(TITLES))
    rounded = means.round({"called cloud %": 1, "cloud %": 1}).round(3)
    return rounded.rename(columns={"best_f2": "F2 at the best threshold"})


def image_table(sets: Mapping[str, Scenes], bands: Sequence[str]) -> pd.DataFrame:
    """Describe how sensors see the same simulated places.

    Args:
        sets: Scenes with `mask`, of the same places, by sensor.
        bands: Common names of the bands to average over.

    Returns:
        A row for each sensor: the finest and coarsest ground sampling of its bands (m), mean
        reflectance of clear and of cloudy pixels, and the mean difference of neighbouring clear
        pixels, which sharpness and noise both raise.
    """
    rows = []
    for name, scenes in sets.items():
        sampling = [middle(get_sensor(name).band(band).gsd_m) for band in bands]
        clear, cloud, steps = [], [], []
        for scene in scenes.values():
            image = scene.reflectance.sel(band=list(bands)).values
            mask = scene.mask.values
            clear.append(image[:, mask == CLEAR])
            cloud.append(image[:, mask == CLOUD])
            both = (mask[:, 1:] == CLEAR) & (mask[:, :-1] == CLEAR)
            steps.append(np.abs(np.diff(image, axis=2))[:, both])
        rows.append(
            {
                "sensor": TITLES[name],
                "ground sampling, m": " to ".join(
                    f"{m:g}" for m in sorted({min(sampling), max(sampling)})
                ),
                "clear, reflectance": np.concatenate(clear, axis=1).mean(),
                "cloud, reflectance": np.concatenate(cloud, axis=1).mean(),
                "neighbours differ by": np.concatenate(steps, axis=1).mean(),
            }
        )
    return pd.DataFrame(rows).round(4)


def explanation(scores: pd.DataFrame, ranking: pd.DataFrame) -> str:
    """Say in numbers how much of the matrix the model, its threshold and the match explain.

    Args:
        scores: The matrix, with `train`, `test` and `f2`; ALL_CLOUD is among the rows.
        ranking: As `without_threshold` returns it.

    Returns:
        Lines of Markdown.
    """
    grid = f2_grid(scores[scores.train != ALL_CLOUD])
    best = grid.mean(axis=1).idxmax()
    wins = int((grid.idxmax(axis=0) == best).sum())
    own = model_or_match(scores)["its model on its images, beyond both"].mean() / 100
    fixed = grid.mean(axis=1)
    free = f2_grid(ranking, "best_f2").mean(axis=1)
    floor = scores[scores.train == ALL_CLOUD].set_index("test").f2
    above = int(grid.gt(floor, axis="columns").to_numpy().sum())
    return "\n".join(
        [
            f"- Highest mean F2 over the scored sensors: the model of **{TITLES[best]}** "
            f"({percent(fixed[best])}), which is ahead in {wins} of {len(grid.columns)} columns.",
            f"- Trained on the very sensor, beyond model and images: **{points(own)} points** on "
            "average.",
            "- Between the best and the worst model, means over the scored sensors: "
            f"**{100 * (fixed.max() - fixed.min()):.1f} points** at the threshold 0.5, "
            f"**{100 * (free.max() - free.min()):.1f} points** at the best threshold of each pair.",
            f"- {above} of {grid.size} pairs are above the floor, the F2 of calling everything "
            "cloud.",
        ]
    )
