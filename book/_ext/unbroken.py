"""Keep together what no line may break: a number and its per cent sign, options of a command."""

import re
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

AS_WRITTEN = (nodes.literal, nodes.literal_block, nodes.math, nodes.math_block, nodes.raw)
COMMANDS = re.compile(r'<div class="highlight-console.*?</pre>', re.DOTALL)
HYPHENATED = re.compile(r"(?<=>)[^<>\s]*-[^<>\s]*(?=<)")  # a word of a command, between two tags


def join(app: Sphinx, doctree: nodes.document) -> None:
    """Put a space that does not break before each per cent sign in the prose of a page."""
    for text in list(doctree.findall(nodes.Text)):
        joined = re.sub(r"(?<=\d) (?=%)", "\N{NO-BREAK SPACE}", text)
        if joined != text and not isinstance(text.parent, AS_WRITTEN):
            text.parent.replace(text, nodes.Text(joined))


def mark_words(app: Sphinx, page: str, template: str, context: dict[str, Any], tree: Any) -> None:
    """Mark the words of commands that have hyphens, after which a phone would break them."""
    if "body" in context:
        context["body"] = COMMANDS.sub(_marked, context["body"])


def _marked(block: re.Match[str]) -> str:
    return HYPHENATED.sub(r'<span class="word">\g<0></span>', block[0])


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("doctree-read", join)
    app.connect("html-page-context", mark_words)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
