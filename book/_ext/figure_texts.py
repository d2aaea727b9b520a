"""Give each picture the words for those who do not see it, and mark the broad ones.

A figure of a notebook has no text of its own, so a page would offer the name of its file. The words
are there: the caption that follows the cell. A phone shows a broad picture (`custom.css`) at a size
at which its labels can be read, and lets it scroll. A PNG beside an HTML file of the same name is
shown as that: the same pictures in a grid, which wraps.
"""

import re
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

BROAD = 800  # pixels; from here a phone's width leaves letters of less than 8 pixels
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def width_of(file: Path) -> int:
    """The width of a PNG in pixels; 0 for another file, or none."""
    if not file.is_file():
        return 0
    with file.open("rb") as stream:
        head = stream.read(24)
    return int.from_bytes(head[16:20]) if head.startswith(SIGNATURE) else 0


def first_sentence(caption: str) -> str:
    """The number of a figure, if it has one, and the sentence that says what it shows."""
    found = re.match(r"(?:Figure [\d.]+\s+)?.+?[.?](?=\s|$)", caption, re.DOTALL)
    return " ".join((found[0] if found else caption).split())


def words_for(image: nodes.image) -> str:
    """What a picture shows: from its caption, from the one below its cell, or from the heading."""
    if isinstance(image.parent, nodes.figure):
        for caption in image.parent.findall(nodes.caption):
            return first_sentence(caption.astext())
    child: nodes.Node = image
    while child.parent is not None and not isinstance(child.parent, nodes.section):
        child = child.parent
    if child.parent is None:
        return ""
    for below in child.findall(nodes.paragraph, include_self=False, descend=False, siblings=True):
        if below.astext().startswith("Figure "):
            return _named(image, first_sentence(below.astext()))
    return _named(image, next(child.parent.findall(nodes.title)).astext())


def _named(image: nodes.image, words: str) -> str:
    """The words, after the line above a picture if its cell shows several."""
    place = image.parent.index(image)
    above = image.parent[place - 1] if place else None
    return f"{above.astext()}: {words}" if isinstance(above, nodes.paragraph) else words


def as_grid(words: str, grid: str) -> nodes.raw:
    """A figure as the grid of its pictures (clouddl_study/pages/panels.py)."""
    text = f'<div role="group" aria-label="{escape(words)}">\n{grid}\n</div>'
    return nodes.raw("", text, format="html")


def complete(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """Complete the pictures of a page."""
    for image in list(doctree.findall(nodes.image)):
        if not image.get("alt"):
            image["alt"] = words_for(image)
        file = Path(app.srcdir) / image["uri"].lstrip("/")
        grid = file.with_suffix(".html")
        if app.builder.format == "html" and grid.is_file():
            image.replace_self(as_grid(image["alt"], grid.read_text("utf-8")))
        elif width_of(file) >= BROAD:
            image["classes"].append("broad")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-resolved", complete)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
