"""The page of the package names types and defaults as a reader would, not as Python prints them."""

import html
import io
import re
import shutil
from pathlib import Path

import pytest
import yaml

pytest.importorskip("sphinx")
from sphinx.application import Sphinx

BOOK = Path(__file__).parents[1] / "book"
# An option of the command line, a validator of pydantic, the address of an object, a function.
PRINTED = r"typer\.models|(?:Plain|After|Before)Validator\(|object at 0x|<locals>|<function "


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of the built page, made as the book makes it."""
    folder = tmp_path_factory.mktemp("api")
    shutil.copy(BOOK / "api.md", folder / "index.md")
    settings = yaml.safe_load((BOOK / "_config.yml").read_text("utf-8"))["sphinx"]
    chosen = {k: v for k, v in settings["config"].items() if k.startswith(("autodoc", "napoleon"))}
    local = [
        name for name, path in settings["local_extensions"].items() if name != "offline_mathjax"
    ]
    chosen["extensions"] = ["myst_parser", *settings["extra_extensions"], *local]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BOOK / "_ext"))
        app = Sphinx(
            folder, None, folder / "html", folder / "trees", "html", chosen,
            status=None, warning=io.StringIO(),
        )  # fmt: skip
        app.build()
    text = (folder / "html" / "index.html").read_text("utf-8")
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def test_nothing_is_shown_as_python_prints_it(page: str) -> None:
    assert "Central wavelength, µm" in page and "def predict" not in page
    shown = [page[max(0, m.start() - 60) : m.end() + 60] for m in re.finditer(PRINTED, page)]
    assert not shown


def test_the_fields_of_a_band_keep_their_types(page: str) -> None:
    (signature,) = re.findall(r"class clouddl\.sensors\.Band\((.*?)\)[^,]*?$", page, re.M | re.S)[
        :1
    ]
    assert "centre_um: float | tuple[float, float]" in signature
    assert "snr: float | tuple[float, float] | None = None" in signature
