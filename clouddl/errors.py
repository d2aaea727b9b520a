"""The one error a bad input raises, and the one a full disk does."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line starts sooner without it
    from pydantic import ValidationError


class InputError(ValueError):
    """A file, field or option is not usable.

    Its one message names the file or field and says what to do. The command line prints it as
    `clouddl: <message>` and exits with status 2.
    """


class WriteError(InputError):
    """Results cannot be written: a full disk, or no such folder. The next would fail too."""


def invalid(source: Path | str, error: "ValidationError") -> InputError:
    """Turn the first problem pydantic found in `source` into an InputError naming the field."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"]) or "the whole record"
    more = error.error_count() - 1
    rest = f" (and {more} more)" if more else ""
    return InputError(f"{source}: {field}: {first['msg']}; mend this field{rest}")
