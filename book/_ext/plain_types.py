"""Show the fields of a pydantic class by their types, without the functions that check them."""

import inspect
from typing import Any, get_type_hints

from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature


def plain_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, signature: str, returned: str
) -> tuple[str, str] | None:
    """Signature of a pydantic class with ``Annotated[X, …]`` as X; None leaves it as it is."""
    if what != "class" or not issubclass(thing, BaseModel):
        return None
    plain = get_type_hints(thing)
    parameters = [
        parameter.replace(annotation=plain.get(parameter.name, parameter.annotation))
        for parameter in inspect.signature(thing).parameters.values()
    ]
    return stringify_signature(inspect.Signature(parameters), unqualified_typehints=True), returned


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("autodoc-process-signature", plain_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
