"""The gallery of patches: what it shows, in which order, and that it asks for nothing outside."""

import base64
import json
from html.parser import HTMLParser
from io import BytesIO

import matplotlib.image
import numpy as np
import pytest
import xarray as xr

from clouddl_study.pages.panels import ERRORS
from clouddl_study.pages.patches import STEPS, gallery, patches_of, thresholds

BANDS = ["green", "red", "nir"]
THRESHOLD = 0.16
WHOLE = "F2 100.0\N{NO-BREAK SPACE}%, accuracy 100.0\N{NO-BREAK SPACE}%"
HALF = "F2 0.0\N{NO-BREAK SPACE}%, accuracy 50.0\N{NO-BREAK SPACE}%"


class Tags(HTMLParser):
    """Collects the start tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def named(self, name: str) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.tags if tag == name]


@pytest.fixture
def page() -> Tags:
    """Two patches of 8 x 12 pixels with the left half cloud: one found, one called clear."""
    truth = np.zeros((8, 12), np.uint8)
    truth[:, :6] = 1
    scene = xr.Dataset(
        {
            "reflectance": (("band", "y", "x"), np.full((4, 8, 12), 0.2, np.float32)),
            "mask": (("y", "x"), truth),
        },
        {"band": [*BANDS, "swir16"]},
        {"resolution": 30.0},
    )
    probabilities = {"found": np.where(truth, 0.55, 0.02), "<missed>": np.full((8, 12), 0.02)}
    scenes = dict.fromkeys(probabilities, scene)
    return Tags(gallery(patches_of(scenes, probabilities, BANDS, THRESHOLD)).data)


def test_failures_come_first(page: Tags) -> None:
    images = [image["alt"] for image in page.named("img")]
    assert images == [
        "<missed>: image, NIR, red, green",
        f"<missed>: mask of CloudDL and its errors, {HALF} at threshold 0.16",
        "found: image, NIR, red, green",
        f"found: mask of CloudDL and its errors, {WHOLE} at threshold 0.16",
    ]


def test_sliders_begin_at_the_threshold_in_use(page: Tags) -> None:
    steps = thresholds(THRESHOLD)
    assert steps == pytest.approx([0.05, 0.1, 0.16, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9])
    assert len(steps) == len(STEPS)
    _, threshold = page.named("input")[:2]
    assert (threshold["type"], threshold["value"], threshold["max"]) == ("range", "2", "9")
    verdicts = json.loads(page.named("figure")[1]["data-verdicts"] or "")
    assert verdicts[5] == f"{WHOLE} at threshold 0.50"
    assert verdicts[6] == f"{HALF} at threshold 0.60"


def test_masks_lie_one_below_the_other(page: Tags) -> None:
    data = (page.named("img")[3]["src"] or "").partition("base64,")[2]
    masks = matplotlib.image.imread(BytesIO(base64.b64decode(data)))[..., :3]
    assert masks.shape == (len(STEPS) * 8, 12, 3)
    corners = [matplotlib.colors.to_hex(colour).upper() for colour in masks[::8, 0]]
    assert corners == [ERRORS["cloud"]] * 6 + [ERRORS["missed"]] * 4


def test_nothing_is_asked_of_another_place_and_no_slider_waits_without_script(page: Tags) -> None:
    assert all((image["src"] or "").startswith("data:image/") for image in page.named("img"))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "link", "iframe"})
    assert all("hidden" in label for label in page.named("label"))
