"""Tables and figures of the page on the preparation of the data."""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from clouddl.chips import Chips
from clouddl.files import Store
from clouddl.labels import NODATA, dilate
from clouddl.scenes import SIMULATED, Catalogue, Scene, open_scene
from clouddl.score import MEASURES, counts, measures
from clouddl_study.pages import panels
from clouddl_study.tables import title_of

ROLES = ["train", "validation", "reference", "extra"]  # in the order of the table
MASK = {"clear": "#5F6B6B", "cloud": "#F2F2F2", "no label": "#D55E00"}  # colours of a mask
FRAME = "#444444"  # around a picture, so that white cloud does not vanish in the page
THIN = 0.05  # reflectance at which the picture of the cirrus band is white


def roles_table(catalogue: Catalogue) -> pd.DataFrame:
    """Count the scenes of a catalogue by role, sensor and collection.

    Args:
        catalogue: The corpus.

    Returns:
        A row a group: role, sensor, collection, scenes, regions, metres (of a pixel).
    """
    scenes = pd.DataFrame([scene.model_dump() for scene in catalogue.scenes])
    scenes["role"] = pd.Categorical(scenes.role, ROLES)
    groups = scenes.sort_values("role", kind="stable").groupby(
        ["role", "sensor", "collection"], sort=False, observed=True, as_index=False
    )
    return groups.agg(
        scenes=("id", "size"), regions=("group", "nunique"), metres=("resolution", "first")
    )


def places_table(catalogue: Catalogue) -> pd.DataFrame:
    """Tell what ground the scenes of a catalogue show, by role, sensor and origin.

    Patches of one region are one place. Every simulated scene is a place of its own.

    Args:
        catalogue: The corpus.

    Returns:
        A row a group: role, sensor, images (real or simulated), places, and surfaces, each with its
        number of places.
    """
    rows = []
    for scene in catalogue.scenes:
        images, place = ("simulated", scene.id) if scene.simulated else ("real", scene.group)
        row = {"role": scene.role, "sensor": scene.sensor, "images": images}
        rows.append({**row, "place": place, "surface": _surface_name(scene.biome)})
    places = pd.DataFrame(rows).drop_duplicates()
    places["role"] = pd.Categorical(places.role, ROLES)
    groups = places.groupby(["role", "sensor", "images"], observed=True, as_index=False)
    return groups.agg(places=("place", "nunique"), surfaces=("surface", _tally))


def _surface_name(biome: str | None) -> str:
    """Surface in words: "GrassCrops" is "grass and crops"."""
    words = re.sub("(?<=[a-z])(?=[A-Z])", " and ", biome or "not recorded")
    return words.replace("_", " ").lower()


def _tally(names: pd.Series) -> str:
    """Names with how often they occur; where that is the same for many, it is said once."""
    numbers = names.value_counts(sort=False)
    if len(numbers) > 1 and numbers.nunique() == 1:
        return f"{numbers.iloc[0]} of each: {', '.join(numbers.index)}"
    return ", ".join(f"{name} {number}" for name, number in numbers.items())


def some_of(scenes: Sequence[Scene], count: int) -> list[Scene]:
    """Take scenes at equal distances in a list.

    Args:
        scenes: Records of a catalogue.
        count: How many, at most.

    Returns:
        Some of them, in their order.
    """
    step = max(1, len(scenes) // count)
    return list(scenes[::step][:count])


def half_cloudy(scenes: Sequence[tuple[str, xr.Dataset]]) -> tuple[str, xr.Dataset]:
    """Choose the scene whose mask is nearest to half cloud, half clear.

    Args:
        scenes: Names and scenes, some of them with `mask`.

    Returns:
        Its name and the scene; the last of all where none has a mask with labels.
    """

    def distance(scene: xr.Dataset) -> float:
        return panels.far_from_half(scene.mask.values) if "mask" in scene else np.inf

    # Reversed, so that of equal ones the last is taken.
    return min(reversed(scenes), key=lambda pair: distance(pair[1]))


def hilliest(catalogue: Catalogue, store: Store) -> tuple[str, xr.Dataset]:
    """Find the scene with a terrain model whose heights differ most.

    A height of zero may be the sea or a gap, so scenes that have one come last.

    Args:
        catalogue: Its scenes with a file of heights are looked through; without any, some of the
            simulated ones to train on.
        store: Where their files are.

    Returns:
        The id of the scene, and the scene with `elevation`.
    """
    records = [record for record in catalogue.scenes if record.dem]
    records = records or some_of([r for r in catalogue.select("train") if r.simulated], 8)

    def rank(pair: tuple[str, xr.Dataset]) -> tuple[bool, float]:
        low, high = (float(end) for end in (pair[1].elevation.min(), pair[1].elevation.max()))
        return low > 0, high - low

    return max(((record.id, open_scene(record, store)) for record in records), key=rank)


def resolutions_figure(scenes: Sequence[xr.Dataset]) -> Figure:
    """Show one scene at several resolutions.

    Args:
        scenes: The scene and its coarser versions; the attribute `resolution` is in metres.

    Returns:
        The figure.
    """
    return panels.gallery([(f"{scene.attrs['resolution']:.0f} m", scene) for scene in scenes])


def terrain_figure(name: str, scene: xr.Dataset) -> Figure:
    """Show a scene beside its terrain model.

    Args:
        name: Of the scene.
        scene: Has `reflectance`, and `elevation` (y, x) in metres.

    Returns:
        The figure.
    """
    figure, axes = plt.subplots(1, 2, figsize=(8, 4.2))
    axes[0].imshow(panels.picture(scene)[0])
    axes[0].set_title(title_of(name))
    axes[1].imshow(scene.elevation, cmap="cividis")
    low, high = float(scene.elevation.min()), float(scene.elevation.max())
    axes[1].set_title(f"heights: {low:.0f} m (dark blue) to {high:.0f} m (yellow)")
    for axis in axes:
        axis.axis("off")
    plt.close(figure)
    return figure


def labelled_by_processors(chips: Chips, catalogue: Catalogue) -> Chips:
    """Leave out the chips whose labels are their exact masks, whatever the source.

    Args:
        chips: Of a source of labels.
        catalogue: Where they come from.

    Returns:
        The real chips; all of them if the corpus is simulated as a whole: processors label it.
    """
    if catalogue.name == SIMULATED:
        return chips
    return chips.only("real")


def labels_table(masks: Mapping[str, np.ndarray]) -> pd.DataFrame:
    """Tell for each source of labels how much it labels, and how much of that is cloud.

    Args:
        masks: Masks (chip, y, x) by source: 0 clear, 1 cloud, 255 unlabelled.

    Returns:
        A row a source: labels, labelled and cloud, as fractions.
    """
    rows = []
    for name, mask in masks.items():
        known = mask != NODATA
        cloud = (mask == 1).sum() / known.sum()
        rows.append({"labels": name, "labelled": known.mean(), "cloud": cloud})
    return pd.DataFrame(rows)


def most_divided(masks: Mapping[str, np.ndarray], processors: Sequence[str]) -> int:
    """Find the chip in which the most pixels have votes on both sides.

    Args:
        masks: Masks (chip, y, x) by source.
        processors: The sources that vote.

    Returns:
        The index of the chip.
    """
    votes = sum((masks[name] == 1).astype(np.uint8) for name in processors)
    divided = (votes > 0) & (votes < len(processors))
    clear = votes == 0
    cloud = votes == len(processors)
    # A chip that is divided all over teaches less than one that has all three kinds of pixel.
    kinds = np.stack([kind.mean((1, 2)) for kind in (divided, clear, cloud)])
    return int(kinds.min(0).argmax())


def sources_figure(chip: xr.Dataset, masks: Mapping[str, np.ndarray], soft: np.ndarray) -> Figure:
    """Show one chip, its mask from each source of labels, and its soft labels.

    Args:
        chip: Has `image` (band, y, x) in reflectance.
        masks: Masks (y, x) by source: 0 clear, 1 cloud, 255 unlabelled.
        soft: Fraction of the processors that say cloud (y, x).

    Returns:
        The figure.
    """
    columns = 4
    rows = math.ceil((len(masks) + 2) / columns)
    size = (panels.WIDTH * columns, (panels.WIDTH + 0.35) * rows + 0.3)
    figure, axes = plt.subplots(rows, columns, squeeze=False, figsize=size, layout="compressed")
    image, *rest = axes.flat
    image.imshow(panels.picture(chip.rename(image="reflectance"))[0])
    image.set_title("image")
    for axis, (name, mask) in zip(rest, masks.items(), strict=False):
        _show_mask(axis, mask)
        axis.set_title(name)
    last = rest[len(masks)]
    last.imshow(soft.astype(float), cmap="cividis", vmin=0, vmax=1)
    last.set_title("soft labels")
    for axis in axes.flat:
        panels.frame(axis, color=FRAME)
    for axis in rest[len(masks) + 1 :]:
        axis.set_visible(False)
    figure.legend(handles=_mask_legend(), loc="outside lower center", ncols=3)
    plt.close(figure)
    return figure


def furthest_apart(a: np.ndarray, b: np.ndarray, regions: Sequence[str], most: int) -> list[int]:
    """Find the chips in which two masks differ most, one chip a region.

    Args:
        a: Masks (chip, y, x).
        b: The same from another source.
        regions: The region of each chip.
        most: How many chips at most.

    Returns:
        Indices of chips, the worst first.
    """
    apart = (a != b).mean((1, 2))
    chosen: dict[str, int] = {}
    for index in np.argsort(apart)[::-1]:
        chosen.setdefault(str(regions[index]), int(index))
    return list(chosen.values())[:most]


def cirrus_of(
    chips: Chips, index: int, catalogue: Catalogue, store: Store, size: int
) -> np.ndarray:
    """Read what the cirrus band of a sensor shows where a chip lies; chips do not hold that band.

    Args:
        chips: Chips of one role, in the order in which they were cut.
        index: Of the chip.
        catalogue: Has the scene of the chip.
        store: Where its files are.
        size: Pixels a side of a chip.

    Returns:
        Reflectance (y, x); NaN where the scene has no cirrus band.
    """
    names = chips.dataset.scene.values.tolist()
    number = names[:index].count(names[index])  # of the chip in its scene, row by row
    record = next(scene for scene in catalogue.scenes if scene.id == names[index])
    scene = open_scene(record, store)
    row, column = divmod(number, math.ceil(scene.sizes["x"] / size))
    if "cirrus" not in scene.band.values:
        return np.full((size, size), np.nan)
    band = scene.reflectance.sel(band="cirrus").values
    return band[row * size : (row + 1) * size, column * size : (column + 1) * size]


def disagreement_table(
    chips: Chips, masks: Mapping[str, np.ndarray], chosen: Sequence[int], cirrus: Sequence
) -> pd.DataFrame:
    """Put numbers to chips on which processors differ.

    Args:
        chips: The chips.
        masks: Masks (chip, y, x) of the processors, by name.
        chosen: Indices of the chips.
        cirrus: Reflectance (y, x) of the cirrus band, for each chosen chip.

    Returns:
        A row a chip: scene, the median of cirrus, and per cent of cloud in each mask.
    """
    rows = []
    for index, band in zip(chosen, cirrus, strict=True):
        row = {"scene": str(chips.dataset.scene.values[index]), "cirrus, median": np.median(band)}
        for name, mask in masks.items():
            row[f"cloud %, {title_of(name)}"] = round(100 * float((mask[index] == 1).mean()), 1)
        rows.append(row)
    return pd.DataFrame(rows)


def disagreement_figure(
    chips: Chips, masks: Mapping[str, np.ndarray], chosen: Sequence[int], cirrus: Sequence
) -> Figure:
    """Show chips on which processors differ, one a row: image, cirrus band, and each mask.

    Args:
        chips: The chips, with bands that `panels.picture` can show.
        masks: Masks (chip, y, x) of the processors, by name.
        chosen: Indices of the chips.
        cirrus: Reflectance (y, x) of the cirrus band, for each chosen chip.

    Returns:
        The figure.
    """
    columns = 2 + len(masks)
    size = (panels.WIDTH * columns, (panels.WIDTH + 0.3) * len(chosen) + 0.5)
    figure, axes = plt.subplots(
        len(chosen), columns, squeeze=False, figsize=size, layout="compressed"
    )
    for row, index, band in zip(axes, chosen, cirrus, strict=True):
        chip = chips.dataset.isel(chip=index)
        row[0].imshow(panels.picture(chip.rename(image="reflectance"))[0])
        row[0].set_title(title_of(str(chip.scene.values)), fontsize=9)
        row[1].imshow(band, cmap="gray", vmin=0, vmax=THIN)
        row[1].set_title(f"cirrus band, 0 to {THIN:g}", fontsize=9)
        for axis, (name, mask) in zip(row[2:], masks.items(), strict=True):
            _show_mask(axis, mask[index])
            axis.set_title(name, fontsize=9)
    for axis in axes.flat:
        panels.frame(axis, color=FRAME)
    figure.legend(handles=_mask_legend(), loc="outside lower center", ncols=3)
    plt.close(figure)
    return figure


def score_dilated(
    masks: np.ndarray, others: np.ndarray, metres: float, pixel: float
) -> dict[str, float]:
    """Grow cloud in masks, and score them against other masks.

    Args:
        masks: Masks (chip, y, x).
        others: What they are scored against (chip, y, x).
        metres: How far cloud is grown.
        pixel: Side of a pixel in metres.

    Returns:
        The dilation and `score.MEASURES`, over the pixels of all chips.
    """
    total = np.zeros(4)
    for mask, other in zip(masks, others, strict=True):
        total += list(counts(dilate(mask, metres, pixel), other).values())
    scores = measures(total)
    return {"dilation (m)": metres, **{name: float(scores[name]) for name in MEASURES}}


def chips_table(path: Path, bands: Sequence[str], source: str) -> pd.DataFrame:
    """Count the chips of a store by role, real and simulated ones apart.

    Args:
        path: Zarr store of chips.
        bands: Common names.
        source: Of the labels.

    Returns:
        A row for each role and kind of image: chips, regions, pixels a side.
    """
    rows = []
    for role in ("train", "validation"):
        parts = Chips.open(path, bands, source, role).real_and_simulated()
        for images, part in zip(("real", "simulated"), parts, strict=True):
            regions = len(set(part.dataset.group.values.tolist()))
            sizes = part.dataset.sizes
            row = {"role": role, "origin": images, "chips": sizes["chip"], "regions": regions}
            rows.append({**row, "pixels a side": sizes["x"]})
    return pd.DataFrame(rows)


def _show_mask(axis: Axes, mask: np.ndarray) -> None:
    """Show a mask (y, x) of 0, 1 and 255 in the colours of `MASK`."""
    codes = np.where(mask == NODATA, 2, mask)
    axis.imshow(codes, cmap=ListedColormap(list(MASK.values())), vmin=0, vmax=2)


def _mask_legend() -> list[Patch]:
    """The colours of `MASK`, for a legend."""
    return [Patch(facecolor=colour, edgecolor=FRAME, label=name) for name, colour in MASK.items()]
