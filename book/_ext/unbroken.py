"""Keep a number and its per cent sign on one line."""

import re

from docutils import nodes
from sphinx.application import Sphinx

AS_WRITTEN = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)


def join(app: Sphinx, doctree: nodes.document) -> None:
    """Put a space that does not break before each per cent sign in the prose of a page."""
    for text in list(doctree.findall(nodes.Text)):
        joined = re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", text)
        if joined != text and not isinstance(text.parent, AS_WRITTEN):
            text.parent.replace(text, nodes.Text(joined))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-read", join)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
