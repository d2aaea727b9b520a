"""Steps, tables and figures of the page on simulated scenes."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap, LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.stats import wasserstein_distance

from clouddl.chips import Chips
from clouddl.labels import CLOUD, NODATA, ukis_csmask
from clouddl.mission.classical import multi_temporal_test
from clouddl.scenes import SIMULATED
from clouddl.score import COUNTS, f_beta
from clouddl.sensors import STUDY_BANDS, Sensor
from clouddl.simulate.atmosphere import ANGSTROM
from clouddl.simulate.clouds import CLEAR_OPTICAL_DEPTH, CLOUD_OPTICAL_DEPTH, RADIUS_UM
from clouddl.simulate.landscape import LANDSCAPES, Ground
from clouddl.transfer import Scenes
from clouddl_study.pages import panels
from clouddl_study.tables import points, title_of

COVERS = {
    "canopy": "#009E73",
    "litter": "#E69F00",
    "soil": "#A0522D",
    "sand": "#F0E442",
    "road": "#5F6B6B",
    "roof": "#CC79A7",
    "char": "#202020",
    "water": "#0072B2",
    "snow": "#D9F0FF",
}  # kinds of cover, as landscapes.yaml names them
CLASSES = {"clear": "#5F6B6B", "cloud": "#F2F2F2", "not labelled": "#000000"}
PAIRS = [("red", "nir"), ("red", "swir16"), ("blue", "red")]  # bands plotted against each other
PIXELS = {0: "clear", 1: "cloud"}
DEPTHS = np.geomspace(0.1, 30, 16)  # ends of the classes of optical depth
BRIGHTEST = 0.6  # reflectance that is white in all pictures
OVERCAST = 0.9  # a scene is overcast if more than this fraction of it is cloud


def without_blur_and_noise(sensor: Sensor) -> Sensor:
    """Make a sensor so fine that its pixels, averaged to those of a scene, have no blur or noise.

    Args:
        sensor: Its card.

    Returns:
        The card with bands of 1 cm. Calibration and registration stay as they were.
    """
    bands = tuple(band.model_copy(update={"gsd_m": 0.01}) for band in sensor.bands)
    return sensor.model_copy(update={"bands": bands})


def land_cover(ground: Ground, surface: str) -> tuple[np.ndarray, list[str]]:
    """Find the kind of cover that fills most of each pixel.

    Args:
        ground: The ground of a scene.
        surface: A key of `LANDSCAPES`, of which it is made.

    Returns:
        Numbers (y, x) of kinds, and the names of the kinds.
    """
    # Three spectra of each kind of cover, then water and snow; `abundance` holds tints after them.
    kinds = [*np.repeat(list(LANDSCAPES[surface].covers), 3), "water", "snow"]
    fractions: dict[str, np.ndarray] = {}
    for kind, fraction in zip(kinds, ground.abundance, strict=False):
        fractions[str(kind)] = fractions.get(str(kind), 0) + fraction
    return np.argmax(list(fractions.values()), axis=0), list(fractions)


def landscape_table() -> pd.DataFrame:
    """Tabulate what the landscapes are made of.

    Returns:
        A row a landscape: relief in metres, per cent of water and snow, covers by weight.
    """
    rows = []
    for name, landscape in LANDSCAPES.items():
        covers = sorted(landscape.covers, key=lambda kind: -landscape.covers[kind])
        rows.append(
            {
                "landscape": name,
                "relief, m": landscape.relief_m,
                "water, %": 100 * landscape.water,
                "snow, %": 100 * landscape.snow,
                "other covers, the largest first": ", ".join(covers),
            }
        )
    return pd.DataFrame(rows)


def plot_layers(
    ground: Ground,
    surface: str,
    sensor: Sensor,
    clear: xr.Dataset,
    cloudy: xr.Dataset,
    ideal: xr.Dataset,
) -> Figure:
    """Show the layers that a simulated scene is built of.

    Args:
        ground: Terrain and land cover.
        surface: A key of `LANDSCAPES`, of which the ground is made.
        sensor: The sensor, with red, green and blue.
        clear: The scene without cloud.
        cloudy: The scene with cloud.
        ideal: The same, seen without blur and noise.

    Returns:
        The figure: two rows of four pictures.
    """
    figure, axes = plt.subplots(2, 4, figsize=(panels.WIDTH * 4, (panels.WIDTH + 0.3) * 2 + 0.3))
    flat = axes.flat
    _values(flat[0], cloudy.elevation.values, "1. terrain", "{:.0f} m", cmap="cividis")
    codes, kinds = land_cover(ground, surface)
    covers = {kind: COVERS[kind] for kind in kinds}
    _classes(flat[1], codes, covers, "2. land cover")
    level = xr.DataArray(ground.reflectance(sensor), clear.reflectance.coords)
    _picture(flat[2], level, "3. spectra of the ground")
    _picture(flat[3], clear.reflectance, "4. sun and air: clear scene")
    depth = np.maximum(cloudy.optical_depth.values, 0.01)
    _values(flat[4], depth, "5. optical depth", "{:.2g}", cmap="cividis", norm=LogNorm())
    _picture(flat[5], ideal.reflectance, "6. scene with cloud")
    effect = (cloudy.reflectance - ideal.reflectance).sel(band="red").values
    limit = float(np.percentile(np.abs(effect), 99))
    flat[6].imshow(effect, cmap="RdBu", vmin=-limit, vmax=limit)
    _frame(flat[6], f"7. instrument: change of red,\n−{limit:.2g} (red) to +{limit:.2g} (blue)")
    codes = np.where(cloudy.mask == NODATA, 2, cloudy.mask)
    _classes(flat[7], codes, CLASSES, "8. label")
    handles = [
        Patch(facecolor=colour, edgecolor="grey", label=f"{picture} {name}")
        for picture, colours in (("2:", covers), ("8:", CLASSES))
        for name, colour in colours.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=4)
    plt.close(figure)
    return figure


def plot_landscapes(scenes: Scenes) -> Figure:
    """Show one small picture of each landscape, all with the same stretch.

    Args:
        scenes: Clear scenes by landscape.

    Returns:
        The figure, six pictures a row.
    """
    rows = -(-len(scenes) // 6)
    figure, axes = plt.subplots(rows, 6, figsize=(11, 2.05 * rows))
    for axis, (name, scene) in zip(axes.flat, scenes.items(), strict=False):
        _picture(axis, scene.reflectance, title_of(name))
    for axis in axes.flat[len(scenes) :]:
        axis.axis("off")
    plt.close(figure)
    return figure


def outside_masks(scenes: Scenes, n_bands: int = 6) -> dict[str, np.ndarray]:
    """Label simulated scenes with ukis-csmask, which never saw a simulated image.

    Args:
        scenes: Scenes of a sensor with blue, green, red, nir, swir16 and swir22.
        n_bands: 4 (without the last two) or 6.

    Returns:
        Masks (y, x) by the names of the scenes.
    """
    return {
        name: ukis_csmask(scene.reflectance.values, scene.band.values.tolist(), n_bands=n_bands)
        for name, scene in scenes.items()
    }


def outside_errors(scenes: Scenes, masks: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Compare masks with the truth of clear and of overcast scenes.

    Args:
        scenes: Simulated scenes with the attribute `biome`.
        masks: A mask (y, x) of each.

    Returns:
        A row a landscape: fraction of clear pixels called cloud, in scenes without cloud, and
        fraction of cloudy pixels missed, in scenes under cloud throughout.
    """
    rows = []
    for name, scene in scenes.items():
        labelled = scene.mask.values != NODATA
        cloud = scene.mask.values[labelled] == CLOUD
        called = masks[name][labelled] == CLOUD
        row = {"landscape": scene.attrs["biome"], "clear": np.nan, "overcast": np.nan}
        if not cloud.any():
            row["clear"] = called.mean()
        elif cloud.mean() > OVERCAST:
            row["overcast"] = 1 - called[cloud].mean()
        rows.append(row)
    table = pd.DataFrame(rows).groupby("landscape", sort=False).mean()
    table.loc["all"] = table.mean()
    names = {"clear": "clear called cloud", "overcast": "overcast missed"}
    return table.rename(columns=names).reset_index()


def called_by_depth(
    scenes: Scenes, methods: Mapping[str, Mapping[str, np.ndarray]]
) -> pd.DataFrame:
    """Tell how often methods call cloud of each optical depth cloud.

    Args:
        scenes: Simulated scenes.
        methods: Masks (y, x) of each scene by its name, for each method by name.

    Returns:
        A row a class of `DEPTHS`: its middle, number of pixels, fraction each method calls cloud.
    """
    depths = np.concatenate([scene.optical_depth.values.ravel() for scene in scenes.values()])
    called = {
        method: np.concatenate([masks[name].ravel() == CLOUD for name in scenes])
        for method, masks in methods.items()
    }
    rows = []
    for low, high in pairwise(DEPTHS):
        chosen = (depths >= low) & (depths < high)
        if chosen.any():
            row = {"optical depth": float(np.sqrt(low * high)), "pixels": chosen.sum()}
            rows.append(row | {method: flags[chosen].mean() for method, flags in called.items()})
    return pd.DataFrame(rows)


def plot_called_by_depth(table: pd.DataFrame) -> Figure:
    """Draw `called_by_depth`, with the two limits of the label.

    Args:
        table: Of `called_by_depth`.

    Returns:
        The figure.
    """
    figure, axis = plt.subplots(figsize=(7, 3.4))
    curves = table.set_index("optical depth").drop(columns="pixels")
    for (method, fraction), style in zip(curves.items(), ("o-", "s--"), strict=False):
        axis.plot(fraction.index, fraction, style, label=method)
    for depth, name in ((CLEAR_OPTICAL_DEPTH, "clear below"), (CLOUD_OPTICAL_DEPTH, "cloud above")):
        axis.axvline(depth, color="0.5", ls=":")
        axis.annotate(f"{name} {depth:g}", (depth, 0.97), ha="right", va="top", rotation=90)
    axis.set(xscale="log", ylim=(0, 1), xlabel="optical depth of cloud at 0.55 µm")
    axis.set_ylabel("fraction called cloud")
    axis.legend(loc="lower right")
    plt.close(figure)
    return figure


def infrared_to_red(scenes: Scenes, label: int, bright: float = 0.6) -> np.ndarray:
    """Divide the reflectance in the short-wave infrared by that in red, where red is bright.

    Args:
        scenes: By id.
        label: CLEAR or CLOUD: which pixels.
        bright: Least reflectance in red.

    Returns:
        Ratios (pixel,).
    """
    ratios = []
    for scene in scenes.values():
        red, infrared = (scene.reflectance.sel(band=name).values for name in ("red", "swir16"))
        chosen = (scene.mask.values == label) & (red > bright)
        ratios.append(infrared[chosen] / red[chosen])
    return np.concatenate(ratios)


def plot_ice_and_snow(ratios: Mapping[str, np.ndarray]) -> Figure:
    """Plot histograms of `infrared_to_red`, each of area 1.

    Args:
        ratios: By what they are of.

    Returns:
        The figure.
    """
    figure, axis = plt.subplots(figsize=(7, 3))
    bins = np.linspace(0, 1, 81).tolist()
    for (name, values), style in zip(ratios.items(), ("-", "--"), strict=False):
        axis.hist(values, bins, density=True, histtype="step", lw=1.8, ls=style, label=name)
    axis.set(xlabel="reflectance at 1.6 µm divided by red", ylabel="density", yticks=[])
    axis.legend()
    plt.close(figure)
    return figure


def ice_finding(tops: np.ndarray, snow: np.ndarray) -> str:
    """Tell in words how far the colours of ice clouds and of snow overlap.

    Args:
        tops: Of `infrared_to_red`, of clouds.
        snow: The same of snow.

    Returns:
        A sentence.
    """
    limit = np.quantile(snow, 0.9)
    return (
        f"Nine tenths of the bright pixels of snow and ice are below a ratio of {limit:.2f}, and "
        f"so are {100 * (tops < limit).mean():.0f} % of the pixels of cloud. The median of snow is "
        f"{np.median(snow):.2f}, that of cloud {np.median(tops):.2f}."
    )


def corpus_and_simulated(chips: Chips) -> tuple[np.ndarray, np.ndarray]:
    """Tell the chips of the corpus from the simulated ones that are mixed in.

    Args:
        chips: Of a role.

    Returns:
        Indices of the two. Without any real image there is nothing to compare with, and every
        other simulated chip stands for the corpus.
    """
    simulated = chips.dataset.sha256.values == SIMULATED
    if simulated.all():
        simulated = np.arange(len(simulated)) % 2 == 0
    return np.flatnonzero(~simulated), np.flatnonzero(simulated)


def plot_side_by_side(
    images: np.ndarray, real: np.ndarray, simulated: np.ndarray, seed: int
) -> Figure:
    """Show six chips of the corpus above six simulated ones.

    Args:
        images: Reflectance (chip, band, y, x) in the bands of the study.
        real: Indices of the corpus.
        simulated: Indices of the simulated ones.
        seed: Seed of the choice.

    Returns:
        The figure.
    """
    rng = np.random.default_rng(seed)
    figure, axes = plt.subplots(2, 6, figsize=(12, 4.6))
    titles = ("corpus", "simulated")
    for row, which, title in zip(axes, (real, simulated), titles, strict=True):
        for axis, chip in zip(row, np.sort(rng.choice(which, 6, replace=False)), strict=True):
            rgb = images[chip, [2, 1, 0]].transpose(1, 2, 0)
            axis.imshow(panels.stretched(rgb, BRIGHTEST))
            axis.set_title(title)
            axis.axis("off")
    plt.close(figure)
    return figure


def band_values(
    images: np.ndarray, masks: np.ndarray, which: np.ndarray
) -> dict[tuple[str, str], np.ndarray]:
    """Collect the reflectances of clear and of cloudy pixels; one pixel in seven.

    Args:
        images: Reflectance (chip, band, y, x) in the bands of the study.
        masks: Labels (chip, y, x), 0 clear and 1 cloud.
        which: Indices of the chips.

    Returns:
        Values (pixel,) by kind of pixel and band.
    """
    values = {}
    for code, name in PIXELS.items():
        for band, common in enumerate(STUDY_BANDS):
            labelled = images[which, band][masks[which] == code]
            values[name, common] = labelled[np.isfinite(labelled)][::7]
    return values


def compare_bands(
    corpus: Mapping[tuple[str, str], np.ndarray], simulated: Mapping[tuple[str, str], np.ndarray]
) -> pd.DataFrame:
    """Compare the distributions of reflectance of two sets of pixels.

    Args:
        corpus: As from `band_values`.
        simulated: The same for the simulated chips.

    Returns:
        A row a kind of pixel and band: medians, and the Wasserstein distance, all reflectances.
    """
    rows = []
    for (name, band), theirs in corpus.items():
        ours = simulated[name, band]
        rows.append(
            {
                "pixels": name,
                "band": band,
                "median, corpus": float(np.median(theirs)),
                "median, drawn": float(np.median(ours)),
                "distance": wasserstein_distance(ours, theirs),
            }
        )
    return pd.DataFrame(rows).round(3)


def plot_histograms(
    corpus: Mapping[tuple[str, str], np.ndarray], simulated: Mapping[tuple[str, str], np.ndarray]
) -> Figure:
    """Plot histograms of reflectance for each band, clear pixels above and cloudy ones below.

    Args:
        corpus: As from `band_values`.
        simulated: The same for the simulated chips.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(2, len(STUDY_BANDS), figsize=(11, 4.8))
    bins = np.linspace(0, 1.1, 56)
    for axis, (name, band) in zip(axes.flat, corpus, strict=True):
        for label, values in (("corpus", corpus), ("simulated", simulated)):
            axis.hist(values[name, band], bins, density=True, histtype="step", lw=1.6, label=label)
        axis.set(title=f"{title_of(band)}, {name}", xlabel="reflectance")
        axis.set(xticks=[0, 0.5, 1], yticks=[])
        axis.set_ylim(top=1.3 * axis.get_ylim()[1])  # room for the legend
        axis.legend(fontsize=9, loc="upper right")
    plt.close(figure)
    return figure


def plot_band_pairs(images: np.ndarray, real: np.ndarray, simulated: np.ndarray) -> Figure:
    """Plot the density of pixels of one band against another, `PAIRS`, one pixel in eleven.

    Args:
        images: Reflectance (chip, band, y, x) in the bands of the study.
        real: Indices of the corpus.
        simulated: Indices of the simulated chips.

    Returns:
        The figure, the corpus above.
    """
    figure, axes = plt.subplots(2, 3, figsize=(8.4, 6))
    named = {"corpus": real, "simulated": simulated}
    for row, (name, which) in zip(axes, named.items(), strict=True):
        for axis, (first, second) in zip(row, PAIRS, strict=True):
            x = images[which, STUDY_BANDS.index(first)].ravel()[::11]
            y = images[which, STUDY_BANDS.index(second)].ravel()[::11]
            extent = (0, 1.1, 0, 1.1)
            axis.hexbin(x, y, gridsize=60, bins="log", extent=extent, cmap="cividis", mincnt=1)
            axis.set(xlabel=title_of(first), ylabel=title_of(second), title=name)
            axis.set(xlim=extent[:2], ylim=extent[2:])
    plt.close(figure)
    return figure


def multi_temporal_masks(scenes: Scenes, bands: Sequence[str]) -> dict[str, np.ndarray]:
    """Find cloud in time series, one a place, with dates five days apart.

    Args:
        scenes: Scenes by id, those of a place (`group`) in the order of their days.
        bands: Common names of the bands to use.

    Returns:
        Masks (y, x) by scene id.
    """
    masks = {}
    for place in dict.fromkeys(scene.attrs["group"] for scene in scenes.values()):
        names = [name for name, scene in scenes.items() if scene.attrs["group"] == place]
        series = [scenes[name].reflectance.sel(band=list(bands)) for name in names]
        dates = [f"2018-06-{1 + 5 * day:02}" for day in range(len(names))]
        for name, test in zip(names, multi_temporal_test(series, dates), strict=True):
            masks[name] = test.values
    return masks


def plot_place_differences(counts: pd.DataFrame, one: str, other: str) -> Figure:
    """Plot the difference in F2 of two runs for each place, by terrain.

    Args:
        counts: Rows of `transfer.score_masks` with run and terrain.
        one: A run.
        other: The run that is taken away from it.

    Returns:
        The figure; places without any cloud have no F2, and no point.
    """
    kept = counts[counts.run.isin([one, other])]
    sums = kept.groupby(["terrain", "group", "run"])[COUNTS].sum()
    f2 = f_beta(sums.tp.to_numpy(), sums.fp.to_numpy(), sums.fn.to_numpy(), 2)
    table = pd.Series(f2, sums.index).unstack("run")
    difference = (table[one] - table[other]).dropna()
    terrains = list(dict.fromkeys(difference.index.get_level_values("terrain")))
    figure, axis = plt.subplots(figsize=(6.5, 2.6))
    axis.axvline(0, color="grey", lw=1)
    for height, terrain in enumerate(terrains):
        values = difference[terrain]
        axis.plot(values, np.full(len(values), height), "o", alpha=0.6)
    axis.set_yticks(range(len(terrains)), terrains)
    axis.set(ylim=(-0.5, len(terrains) - 0.5), xlabel=f"F2, {one} minus {other}")
    plt.close(figure)
    return figure


def help_findings(differences: pd.DataFrame) -> str:
    """Tell in words what each difference of a table shows.

    Args:
        differences: Rows with sensor, minus (the run taken away), difference, low and high.

    Returns:
        A list in Markdown.
    """
    lines = []
    for row in differences.itertuples():
        ends = f"interval {points(row.low)} to {points(row.high)}"
        if np.isnan(row.low):
            verdict = "too few places for an interval"
        elif row.low > 0 or row.high < 0:
            verdict = ends
        else:
            verdict = f"{ends}, which holds zero: no difference shown"
        compared = f"**{title_of(row.sensor)}**, headline model minus {row.minus}"
        lines.append(f"- {compared}: {points(row.difference)} points of F2 ({verdict})")
    return "\n".join(lines)


def particles_in_words() -> str:
    """Tell the sizes of cloud particles and the spectra of aerosol that the simulator draws from.

    Returns:
        Two sentences.
    """
    drops, crystals = (RADIUS_UM[phase][0] for phase in ("water", "ice"))
    least, most = ANGSTROM
    return (
        f"Effective radii are log-normal, with a median of {drops} µm for drops and {crystals} µm "
        f"for ice crystals. Ångström exponents are uniform between {least:g} and {most:g}."
    )


def elevation_finding(differences: pd.DataFrame) -> str:
    """Tell in a sentence what elevation changes over all simulated places.

    Args:
        differences: Rows with terrain ("all" among them), difference, low and high.

    Returns:
        A line of Markdown.
    """
    row = differences.set_index("terrain").loc["all"]
    interval = "too few places for an interval"
    if not np.isnan(row.low):
        interval = f"{points(row.low)} to {points(row.high)}"
    gain = f"{points(row.difference)} points of F2"
    return f"**Elevation**: {gain} over all simulated places ({interval})."


def bands_finding(table: pd.DataFrame) -> str:
    """Tell in a sentence where the simulated bands are nearest to real ones and where farthest.

    Args:
        table: Of `compare_bands`.

    Returns:
        A line of Markdown.
    """
    near, far = table.loc[table.distance.idxmin()], table.loc[table.distance.idxmax()]
    return (
        f"**Bands**: simulated and real pixels are nearest in {near.band} ({near.pixels}), at a "
        f"distance of {near.distance:.3f} in reflectance, and farthest in {far.band} "
        f"({far.pixels}), at {far.distance:.3f}."
    )


def _picture(axis: Axes, reflectance: xr.DataArray, title: str) -> None:
    """Show reflectance (band, y, x) in true colour."""
    rgb = reflectance.sel(band=["red", "green", "blue"]).transpose("y", "x", "band")
    axis.imshow(panels.stretched(rgb.values, BRIGHTEST))
    _frame(axis, title)


def _values(axis: Axes, values: np.ndarray, title: str, form: str, **look: Any) -> None:
    """Show values (y, x), and in the title the ends of their colours."""
    axis.imshow(values, **look)
    low, high = form.format(values.min()), form.format(values.max())
    _frame(axis, f"{title}: {low} (dark)\nto {high} (yellow)")


def _classes(axis: Axes, codes: np.ndarray, colours: Mapping[str, str], title: str) -> None:
    """Show numbers (y, x) of classes, framed."""
    look = ListedColormap(list(colours.values()))
    axis.imshow(codes, look, vmin=0, vmax=len(colours) - 1)
    _frame(axis, title)


def _frame(axis: Axes, title: str) -> None:
    """Frame a picture, and give it a title."""
    axis.set_title(title, fontsize=10)
    panels.frame(axis, color="grey", linewidth=0.8)
