"""Put MathJax into the site, so that a page asks no other server for anything.

Sphinx's default is a script on a content network. The package ``sphinx-mathjax-offline`` carries
all of MathJax (24 MB); a book of formulas needs one script and its fonts (1.5 MB), which is what
is copied here.
"""

import shutil
from importlib.metadata import distribution
from pathlib import Path

from sphinx.application import Sphinx

SCRIPT = "tex-chtml.js"
# The script looks for its fonts here, relative to itself.
FONTS = "output/chtml/fonts/woff-v2"


def copy_mathjax(app: Sphinx, error: Exception | None) -> None:
    """Copy the script and its fonts to ``_static/mathjax`` once the pages are written."""
    if error is not None or app.builder.format != "html":
        return
    package = distribution("sphinx-mathjax-offline")
    source = Path(str(package.locate_file("sphinx-mathjax-offline/static/mathjax")))
    target = Path(app.outdir) / "_static" / "mathjax"
    target.mkdir(parents=True, exist_ok=True)
    shutil.copy2(source / SCRIPT, target / SCRIPT)
    shutil.copytree(source / FONTS, target / FONTS, dirs_exist_ok=True)


def use_local_mathjax(app: Sphinx, config: object) -> None:
    """Point Sphinx at the local script, and switch off what would load more of MathJax."""
    app.config.mathjax_path = f"mathjax/{SCRIPT}"
    settings = dict(app.config.mathjax3_config or {})
    # The accessibility explorer and its speech rules are loaded on demand from beside the script;
    # they are not copied, so the menu must not offer them.
    settings["options"] = {**settings.get("options", {}), "enableMenu": False}
    app.config.mathjax3_config = settings


def setup(app: Sphinx) -> dict[str, bool | str]:
    """Register with Sphinx."""
    # After myst-nb and MyST have written their own MathJax options.
    app.connect("config-inited", use_local_mathjax, priority=900)
    app.connect("build-finished", copy_mathjax)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
