"""The one error a bad input raises, the one a full disk does, and how records raise the first."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line starts sooner without it
    from pydantic import BaseModel, ValidationError


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


def read_yaml(path: Path, what: str) -> Any:
    """What a YAML file holds; InputError if it cannot be read as `what` it should be."""
    import yaml  # late, for the same reason

    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: the {what} cannot be read ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: the {what} is not YAML: {error}") from error


def validated(kind: "type[BaseModel]", fields: Any, source: Path | str) -> Any:
    """`fields` as a record of that kind; InputError names the source and the field."""
    from pydantic import ValidationError

    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise invalid(source, error) from error
