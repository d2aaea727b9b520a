"""Every picture of the book has words, and a phone is told which are broad."""

import re
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

pytest.importorskip("sphinx")
from sphinx.application import Sphinx

EXTENSIONS = Path(__file__).parents[1] / "book" / "_ext"
PAGE = """
# Scores

````{container} cell
```{image} broad.png
```
````

*Figure 4.1. F2 (0.5 to 1) of each scene. Look at the spread.*

## Curves

````{container} cell
**Landsat 5**

```{image} narrow.png
```
````

Between 30 % and `40 %`.

```console
$ clouddl score mask.tif --reference other.tif
```

*Figure 4.2. Precision.* Compare the two.

## Maps

![](narrow.png)

```{figure} narrow.png
What a user waits for: seconds. Lower is faster.
```

```{figure} narrow.png
:alt: Its own words
Another caption.
```

```{figure} panel.png
:alt: Image & mask
Two pictures.
```
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A page as Sphinx writes it."""
    folder = tmp_path_factory.mktemp("figures")
    (folder / "index.md").write_text(PAGE, "utf-8")
    (folder / "panel.html").write_text("<p>the grid</p>", "utf-8")
    for name, width in (("broad", 900), ("narrow", 300), ("panel", 900)):
        matplotlib.image.imsave(folder / f"{name}.png", np.zeros((4, width, 3)))
    settings = {"extensions": ["myst_parser", "figure_texts", "unbroken"]}
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(EXTENSIONS))
        app = Sphinx(
            folder, None, folder / "html", folder / "trees", "html", settings,
            status=None, warning=sys.stderr,
        )  # fmt: skip
        app.build()
    return (folder / "html" / "index.html").read_text("utf-8")


@pytest.fixture
def images(page: str) -> list[dict[str, str]]:
    """The attributes of its pictures."""
    return [dict(re.findall(r'(\w+)="([^"]*)"', tag)) for tag in re.findall(r"<img[^>]*>", page)]


def test_a_picture_has_the_first_sentence_of_its_caption(images: list[dict[str, str]]) -> None:
    assert [image["alt"] for image in images] == [
        "Figure 4.1. F2 (0.5 to 1) of each scene.",
        "Landsat 5: Figure 4.2. Precision.",
        "Maps",
        "What a user waits for: seconds.",
        "Its own words",
    ]


def test_broad_pictures_are_marked(images: list[dict[str, str]]) -> None:
    assert ["broad" in image.get("class", "") for image in images] == [True] + [False] * 4


def test_a_grid_takes_the_place_of_its_picture_and_has_its_words(page: str) -> None:
    assert '<div role="group" aria-label="Image &amp; mask">\n<p>the grid</p>\n</div>' in page
    assert "Two pictures." in page


def test_a_number_stays_with_its_per_cent_sign_and_code_as_it_is(page: str) -> None:
    assert "Between 30\N{NO-BREAK SPACE}%" in page
    assert "40\N{NO-BREAK SPACE}%" not in page


def test_an_option_of_a_command_stays_whole(page: str) -> None:
    assert re.findall(r'<span class="word">([^<]*)<', page) == ["--reference"]
