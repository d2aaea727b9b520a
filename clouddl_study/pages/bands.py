"""Pages 6 to 8: fewer bands, classical tests, and reflectances brought to another sensor."""

from collections.abc import Mapping, Sequence
from datetime import date

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import Markdown
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score

from clouddl.files import Store
from clouddl.labels import CLEAR, CLOUD, to_mask
from clouddl.model import CloudModel
from clouddl.predict import predict_array
from clouddl.scenes import Catalogue, open_scene
from clouddl.score import paired
from clouddl.sensors import Sensor, get_sensor, sensors, shared_bands
from clouddl.simulate.spectra import adjustment, band_average, surfaces
from clouddl.transfer import Evaluation, Scenes, pixels, predictions
from clouddl_study.pages import panels
from clouddl_study.pages.cards import fitting_sets
from clouddl_study.tables import enough_units, percent, points, title_of

# Columns of a table of scores, after that which says on which images.
SHOWN = ["run", "scenes", "f2", "f2_low", "f2_high", "f1", "mcc", "precision", "recall"]

# Zhu and Woodcock (2012), as in `labels.spectral_tests`: reflectance that a bright pixel exceeds.
HAZE = 0.08


def sensor_table() -> pd.DataFrame:
    """List for every sensor card what it has in common with Sentinel-2 and with the study.

    Returns:
        A row for each sensor: its title, the bands it shares, the bands it lacks, and the largest
        of `BAND_SETS` that it can fill.
    """
    sentinel = get_sensor("sentinel-2")
    rows = []
    for card in sensors().values():
        fitting = fitting_sets(band.common for band in card.bands)
        rows.append(
            {
                "sensor": card.title,
                "bands shared with Sentinel-2": ", ".join(shared_bands(sentinel, card)),
                "of the five of the study it lacks": ", ".join(card.missing) or "none",
                "largest set of the study": next(iter(fitting), "none"),
            }
        )
    return pd.DataFrame(rows)


def f2_beside(scores: pd.DataFrame, by: str, run: str, other: str) -> Markdown:
    """Say in words what F2 two methods have on the same images.

    Args:
        scores: As `score.pooled` returns it, with the column `run`.
        by: Column that says which images a row is of.
        run: One method.
        other: The method to compare it with.

    Returns:
        A line for each set of images that both methods were scored on.
    """
    lines = []
    for images, part in scores.groupby(by, sort=False):
        f2 = part.set_index("run").f2
        if {run, other} <= set(f2.index):
            lines.append(
                f"- {title_of(images)}: F2 **{percent(f2[run])}** with {title_of(run)}; "
                f"{percent(f2[other])} with {title_of(other)} "
                f"({points(f2[run] - f2[other])} points)"
            )
    return Markdown("\n".join(lines))


def numbers_of_scenes(sets: Mapping[str, Scenes]) -> Markdown:
    """Say how many scenes each set has.

    Args:
        sets: Scenes by sensor or set of images.

    Returns:
        A sentence.
    """
    numbers = ", ".join(f"{title_of(name)} {len(scenes)}" for name, scenes in sets.items())
    return Markdown(f"Scenes: {numbers}.")


def planetscope_pictures(
    catalogue: Catalogue, store: Store, model: CloudModel
) -> list[tuple[str, xr.Dataset]]:
    """Find the clouds of the PlanetScope patches of a corpus.

    Args:
        catalogue: The corpus; its scenes of the role "extra" are looked through.
        store: Where their files are.
        model: Works from the four bands of PlanetScope.

    Returns:
        Title and scene of each patch, for `panels.gallery`. The title gives the fraction of cloud,
        and `mask` (y, x) is that of the model.
    """
    pictures = []
    for record in catalogue.select("extra"):
        if record.sensor == "planetscope":
            patch = open_scene(record, store)
            resolution = patch.attrs["resolution"]
            probability = predict_array(model, patch.reflectance, resolution=resolution)
            mask = to_mask(probability, model.card.threshold)
            _, kind, season, number, *_ = record.id.split("_")
            title = f"{season} {number}, {kind}: {100 * (mask == CLOUD).mean():.0f} %"
            pictures.append((title, patch.assign(mask=(("y", "x"), mask))))
    return pictures


def haze_test(sets: Mapping[str, Scenes]) -> pd.DataFrame:
    """Count the pixels that pass the haze test with blue, and with green in its place.

    Args:
        sets: Scenes with `mask` and the bands blue, green and red, by sensor.

    Returns:
        A row for each sensor and band: per cent of cloud pixels and of clear pixels that pass.
    """
    rows = []
    for sensor, scenes in sets.items():
        for band in ("blue", "green"):
            passed: dict[int, list[np.ndarray]] = {CLEAR: [], CLOUD: []}
            for scene in scenes.values():
                haze = scene.reflectance.sel(band=band) - 0.5 * scene.reflectance.sel(band="red")
                for value, parts in passed.items():
                    parts.append((haze > HAZE).values[scene.mask.values == value])
            cloud, clear = (np.concatenate(passed[value]) for value in (CLOUD, CLEAR))
            rows.append(
                {
                    "sensor": sensor,
                    "band of the haze test": band,
                    "cloud pixels that pass %": 100 * cloud.mean() if cloud.size else np.nan,
                    "clear pixels that pass %": 100 * clear.mean() if clear.size else np.nan,
                }
            )
    return pd.DataFrame(rows)


def example(scenes: Scenes) -> str:
    """Choose the scene whose reference is nearest to half cloud, half clear.

    Args:
        scenes: Scenes with `mask`, by id.

    Returns:
        Its id.
    """
    return min(scenes, key=lambda name: panels.far_from_half(scenes[name].mask.values))


def example_rows(
    sets: Mapping[str, Scenes], evaluations: Mapping[str, Evaluation], runs: Mapping[str, str]
) -> list[tuple[str, xr.Dataset, dict[str, np.ndarray]]]:
    """Collect one example of each sensor, with the masks of some methods.

    Args:
        sets: Scenes with `mask`, by sensor.
        evaluations: What `evaluate` gave for each sensor.
        runs: Name of a method in the evaluations, by its title in the figure.

    Returns:
        Rows for `panels.panel`.
    """
    rows = []
    for sensor, scenes in sets.items():
        name = example(scenes)
        masks = evaluations[sensor].masks
        row = {title: masks[run][name] for title, run in runs.items()}
        rows.append((get_sensor(sensor).title, scenes[name], row))
    return rows


def agreement_table(
    dates: Sequence[str], masks: Mapping[str, Sequence[np.ndarray]], without: Sequence[float]
) -> pd.DataFrame:
    """Tabulate how far three methods agree on each date of a series.

    Args:
        dates: One for each image.
        masks: Masks (y, x) for each date, of "multi-temporal test", "spectral tests" and "CloudDL".
        without: For each date the fraction of pixels that were not clear on any date before.

    Returns:
        A row for each date, all in per cent of the pixels.
    """
    rows = []
    for index, day in enumerate(dates):
        network = masks["CloudDL"][index]
        temporal = masks["multi-temporal test"][index]
        spectral = masks["spectral tests"][index]
        cloud = {f"cloud %, {run}": 100 * (m[index] == CLOUD).mean() for run, m in masks.items()}
        rows.append(
            {
                "date": day,
                **cloud,
                "multi-temporal as CloudDL %": 100 * (temporal == network).mean(),
                "spectral as CloudDL %": 100 * (spectral == network).mean(),
                "without clear predecessor %": 100 * without[index],
            }
        )
    return pd.DataFrame(rows).round(1)


def plot_series(agreement: pd.DataFrame) -> Figure:
    """Plot the cloud cover that each method gives against the date.

    Args:
        agreement: As `agreement_table` returns it.

    Returns:
        The figure. Grey bars are the pixels without a clear date before them.
    """
    table = agreement.assign(day=agreement.date.map(date.fromisoformat)).sort_values("day")
    figure, axis = plt.subplots(figsize=(6.5, 4.4))
    axis.bar(
        table.day,
        table["without clear predecessor %"],
        width=3,
        color="lightgrey",
        label="without clear predecessor",
    )
    for name, marker in (
        ("multi-temporal test", "o-"),
        ("spectral tests", "s--"),
        ("CloudDL", "^:"),
    ):
        axis.plot(table.day, table[f"cloud %, {name}"], marker, label=name)
    axis.set(ylabel="cloud, or pixels without\npredecessor (%)", ylim=(0, 103))
    axis.tick_params("x", rotation=30)
    panels.legend_below(axis, 2)
    plt.close(figure)
    return figure


def band_distance(sensor: Sensor, target: Sensor, bands: Sequence[str]) -> np.ndarray:
    """Compute how far the bands of two sensors are apart over spectra of ground.

    Args:
        sensor: One sensor.
        target: The other one.
        bands: Common names of bands that both have.

    Returns:
        Root mean square difference of reflectance (band); every kind of surface counts alike.
    """
    squares = []
    for spectra in surfaces().values():
        difference = band_average(sensor, spectra, bands) - band_average(target, spectra, bands)
        squares.append((difference**2).mean(0))
    return np.sqrt(np.mean(squares, axis=0))


def distance_table(uses: Mapping[str, Sequence[str]], target: Sensor) -> pd.DataFrame:
    """Tabulate how far bands are from those of a target, as they are and adjusted.

    Args:
        uses: Common names of the bands to compare, by sensor.
        target: The sensor to compare with.

    Returns:
        A row for each sensor and band, root mean square differences of reflectance.
    """
    rows = []
    for name, bands in uses.items():
        card = get_sensor(name)
        before = band_distance(card, target, bands)
        after = adjustment(card, target, list(bands))[2]
        for index, band in enumerate(bands):
            rows.append(
                {
                    "sensor": card.title,
                    "band": band,
                    "as it is": before[index],
                    "moved": after[index],
                }
            )
    return pd.DataFrame(rows)


def plot_distances(table: pd.DataFrame) -> Figure:
    """Plot the distance of bands before and after the adjustment.

    Args:
        table: As `distance_table` returns it.

    Returns:
        The figure, one sensor a panel, two panels a row.
    """
    titles = list(dict.fromkeys(table.sensor))
    widest = 1.08 * table[["as it is", "moved"]].to_numpy().max()
    rows = -(-len(titles) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(8.4, 3 * rows), squeeze=False)
    for axis in axes.flat[len(titles) :]:
        axis.axis("off")
    for axis, title in zip(axes.flat, titles, strict=False):
        part = table[table.sensor == title]
        lines = np.arange(len(part))[::-1]
        axis.hlines(lines, part.moved, part["as it is"], color="grey", lw=1)
        axis.plot(part["as it is"], lines, "o", color="C1", label="as it is")
        axis.plot(part.moved, lines, "s", color="C0", label="moved")
        axis.set_yticks(lines, [title_of(band) for band in part.band])
        axis.set(title=title, xlabel="difference of reflectance", xlim=(0, widest))
        axis.legend(fontsize=9)
    plt.close(figure)
    return figure


def adjusted(scene: xr.Dataset, target: Sensor, bands: Sequence[str]) -> xr.Dataset:
    """Bring the reflectances of a scene to the bands of another sensor, by `spectra.adjustment`.

    Args:
        scene: With `reflectance` (band, y, x) and the attribute `sensor`.
        target: The sensor to bring it to.
        bands: Common names of bands that both have.

    Returns:
        The scene with these bands alone, reflectances float32.
    """
    matrix, offset, _ = adjustment(get_sensor(scene.attrs["sensor"]), target, list(bands))
    image = scene.reflectance.sel(band=list(bands))
    values = np.tensordot(matrix, image.values, 1) + offset[:, None, None]
    cut = scene.sel(band=list(bands))
    return cut.assign(reflectance=image.copy(data=values.astype(np.float32)))


def average_precision(
    model: CloudModel, scenes: Scenes, bands: Sequence[str] | None = None
) -> float:
    """Compute the average precision of a model: how well it orders pixels, at no threshold.

    Args:
        model: The model.
        scenes: With `mask`.
        bands: As for `transfer.probability`.

    Returns:
        The area under the curve of precision against recall; the fraction of cloud is what chance
        gives. NaN where the reference has no cloud.
    """
    probability, truth = pixels(predictions(model, scenes, bands), scenes)
    return float(average_precision_score(truth, probability)) if truth.any() else float("nan")


def differences_to_plain(
    counts: pd.DataFrame, titles: Mapping[str, str], draws: int, seed: int
) -> pd.DataFrame:
    """Compute differences in F2 to the bands as they are, paired over the same scenes.

    Args:
        counts: A row for each scene with the columns of `score.paired`, sensor, bands and way ("as
            it is", "moved" or "any").
        titles: What a way is called, by way.
        draws: Of the bootstrap.
        seed: Of the bootstrap.

    Returns:
        A row for each sensor, band set and way, its interval by the rule of `enough_units`.
        A sensor with a single group is left out.
    """
    columns = ["sensor", "run", "difference", "low", "high", "units"]
    rows = []
    for (sensor, bands), part in counts.groupby(["sensor", "bands"], sort=False):
        base = part[part.way == "as it is"]
        if base.group.nunique() > 1:
            for way in ("moved", "any"):
                difference = paired(part[part.way == way], base, draws=draws, seed=seed)
                rows.append({"sensor": sensor, "run": f"{titles[way]}: {bands}", **difference})
    return enough_units(pd.DataFrame(rows, columns=columns))


def differences_in_words(differences: pd.DataFrame) -> Markdown:
    """Say of each difference whether its interval excludes zero.

    Args:
        differences: As `differences_to_plain` returns them.

    Returns:
        A line for each row.
    """
    lines = []
    for row in differences.itertuples():
        words = "too few places for an interval"
        if not np.isnan(row.low):
            verdict = "no difference shown" if row.low <= 0 <= row.high else "a difference"
            words = f"{points(row.low)} to {points(row.high)}: {verdict}"
        gain = f"**{points(row.difference)} points** of F2 ({words})"
        lines.append(f"- {get_sensor(row.sensor).title}, {title_of(row.run)}: {gain}")
    return Markdown("\n".join(lines))
