"""Patches to look at: image against mask, and the mask at several thresholds.

The pictures are part of the page, which asks for no further file. `book/_static/patches.js` moves
the sliders; without it image and mask stand one above the other.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd
import xarray as xr
from IPython.display import HTML
from matplotlib.colors import to_rgb

from clouddl.labels import to_mask
from clouddl.score import COUNTS, counts, measures
from clouddl.transfer import Scenes
from clouddl_study.pages import panels
from clouddl_study.pages.transfer import patches_worst_first
from clouddl_study.tables import percent, title_of

STEPS = np.array([5, *range(10, 100, 10)]) / 100  # thresholds of the slider


@dataclass(frozen=True)
class Patch:
    """A patch of the gallery.

    Attributes:
        name: What stands above it.
        scene: With `mask`, its reference, and the bands of the picture alone.
        probability: Of cloud (y, x), NaN for nodata.
        threshold: The one in use.
    """

    name: str
    scene: xr.Dataset
    probability: np.ndarray
    threshold: float

    def mask(self, threshold: float) -> np.ndarray:
        """The mask (y, x) at a threshold."""
        return to_mask(self.probability, threshold, 0.0, self.scene.attrs["resolution"])


def patches_of(
    scenes: Scenes,
    probabilities: Mapping[str, np.ndarray],
    bands: Sequence[str],
    threshold: float,
) -> list[Patch]:
    """Collect the patches of one model.

    Args:
        scenes: By id, with `mask`.
        probabilities: Of cloud (y, x), by the same ids.
        bands: Common names of the bands of the picture.
        threshold: Of the model.

    Returns:
        A patch for each scene.
    """
    return [
        Patch(name, scene.sel(band=list(bands)), probabilities[name], threshold)
        for name, scene in scenes.items()
    ]


def gallery(patches: Sequence[Patch]) -> HTML:
    """Show patches, failures first, each with a slider from image to mask and one of the threshold.

    A patch with cloud is ranked by its F2 at the threshold in use, one without by its accuracy.

    Args:
        patches: What to show.

    Returns:
        The gallery, for a page of the book.
    """
    rows = [counts(p.mask(p.threshold), p.scene.mask.values) for p in patches]
    order = patches_worst_first(pd.DataFrame(rows).assign(patch=range(len(patches)))).patch
    shown = "\n".join(_figure(patches[number]) for number in order)
    return HTML(f'<div class="patches">\n{shown}\n</div>')


def thresholds(in_use: float) -> list[float]:
    """The thresholds of the slider: `STEPS`, the nearest one in place of which is that in use.

    Args:
        in_use: The threshold of the model.

    Returns:
        As many as `STEPS`, ascending.
    """
    steps = STEPS.copy()
    steps[np.abs(STEPS - in_use).argmin()] = in_use
    return steps.tolist()


def _figure(patch: Patch) -> str:
    """One patch: name and verdict, image and masks, the two sliders."""
    steps = thresholds(patch.threshold)
    masks = [patch.mask(step) for step in steps]
    verdicts = [_verdict(*pair, patch.scene) for pair in zip(steps, masks, strict=True)]
    first, last = steps.index(patch.threshold), len(steps) - 1
    rgb, content = panels.picture(patch.scene)
    photograph = panels.address(rgb, "jpeg", pil_kwargs={"quality": 85})
    drawing = panels.address(_coloured(masks, patch.scene), "png")
    height, width = masks[0].shape
    name = escape(title_of(patch.name))
    # The masks are one picture, one below the other; the style shows one of them.
    crop = f"aspect-ratio:{width}/{height};object-fit:cover"
    place = f"object-position:0 calc(100% * var(--step) / {last})"
    spoken = escape(json.dumps(verdicts))
    return f"""<figure style="--step:{first};--cut:50%" data-verdicts="{spoken}">
<figcaption>{name}<br><output>{verdicts[first]}</output></figcaption>
<div class="pair">
<img width="{width}" alt="{name}: image, {content}" src="{photograph}">
<img width="{width}" alt="{name}: mask of CloudDL and its errors, {verdicts[first]}"
 style="{crop};{place}" src="{drawing}">
</div>
<label hidden>Image or mask <input type="range" min="0" max="100" value="50"></label>
<label hidden>Threshold <input type="range" min="0" max="{last}" value="{first}"></label>
</figure>"""


def _verdict(threshold: float, mask: np.ndarray, scene: xr.Dataset) -> str:
    """F2 and accuracy of a mask in words."""
    row = counts(mask, scene.mask.values)
    scores = measures(np.array([row[name] for name in COUNTS]))
    f2 = "no cloud"
    if row["tp"] + row["fn"]:
        f2 = f"F2 {percent(float(scores['f2']))}"
    return f"{f2}, accuracy {percent(float(scores['accuracy']))} at threshold {threshold:.2f}"


def _coloured(masks: Sequence[np.ndarray], scene: xr.Dataset) -> np.ndarray:
    """Masks with their errors in colour (masks * y, x, 3), one below the other."""
    colours = np.array([to_rgb(colour) for colour in panels.ERRORS.values()])
    return np.concatenate([colours[panels.errors(mask, scene.mask.values)] for mask in masks])
