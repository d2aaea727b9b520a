"""The errors that bad input and a full disk raise, and how reading a file raises them."""

import difflib
import inspect
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line starts sooner without it
    from pydantic import BaseModel, ValidationError

PACKAGE = os.path.join(os.path.dirname(__file__), "")
DAMAGED = "it may be truncated, or of another format: copy it again, or convert it to GeoTIFF"


class InputError(ValueError):
    """A file, field or option is not usable.

    Its one message names the file or field and says what to do. The command line prints it as
    `clouddl: <message>` and exits with status 2.
    """


class WriteError(InputError):
    """Results cannot be written (a full disk, no such folder), so further ones would fail too."""


def warn(message: str) -> None:
    """Warn of something, at the line outside this package that led to it.

    Args:
        message: What is wrong; it names the file or field and says what to do.
    """
    level = 1
    frame = inspect.currentframe()
    while frame and frame.f_code.co_filename.startswith(PACKAGE):
        frame = frame.f_back
        level += 1
    warnings.warn(message, stacklevel=level)


def check_path(path: Path | str, what: str, advice: str = "") -> None:
    """Say it where a path that could not be read is no file.

    Args:
        path: The path.
        what: What the file should be, such as "an image".
        advice: What else may be given than a file of a folder.

    Raises:
        InputError: There is nothing, or a folder.
    """
    if not Path(path).exists():
        raise InputError(f"{path}: does not exist; check the path")
    if Path(path).is_dir():
        raise InputError(f"{path}: is a folder, not {what}; give a file of it{advice}")


def folder_of(out: Path | str) -> Path:
    """Take what a caller gave as the folder of results.

    Args:
        out: The folder.

    Raises:
        InputError: It is no path, or an address.
    """
    if (
        not isinstance(out, Path | str)
        or not str(out).strip()
        or re.match(r"[a-z]\w+://|/vsi", str(out))
    ):
        raise InputError(f"out is {out!r}: give the folder for the results, on this machine")
    return Path(out)


@contextmanager
def readable(file: Path | str, what: str, advice: str = DAMAGED) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into an InputError that names the file.

    GDAL, NumPy, zipfile and the parsers raise classes with no common base, so every exception is
    taken: keep nothing but the reading inside the `with` block.

    Args:
        file: The file, as the message should name it.
        what: What the file should be, such as "mask".
        advice: What the user can do about it.

    Raises:
        InputError: File, fault and advice; an InputError from within keeps its message.
    """
    try:
        yield
    except InputError as error:
        if str(file) in str(error):
            raise
        raise InputError(f"{file}: {error}") from error
    except Exception as error:
        fault = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise InputError(f"{file}: the {what} cannot be read ({fault}); {advice}") from error


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest a known name at the end of a message about an unknown one.

    Args:
        name: The unknown name.
        known: The names to choose from.

    Returns:
        "; did you mean 'x'?", or nothing where no name is similar.
    """
    similar = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {similar[0]!r}?" if similar else ""


def absent(file: Path | str, what: str, name: str, known: Iterable[str]) -> InputError:
    """Make the error for something that a file does not have.

    Args:
        file: The file, or what else lacks it.
        what: What it lacks, such as "band".
        name: Its name.
        known: The names it has.

    Returns:
        The error to raise.
    """
    return InputError(f"{file}: has no {what} {name!r}; it has {', '.join(known) or 'none'}")


def invalid(path: Path | str, error: "ValidationError") -> InputError:
    """Turn the first problem that pydantic reports into an InputError that names the field.

    Args:
        path: The file of the record.
        error: What pydantic raised.

    Returns:
        The error to raise.
    """
    first = error.errors()[0]
    field = ".".join(str(name) for name in first["loc"]) or "the record"
    others = error.error_count() - 1
    more = f" (and {others} more)" if others else ""
    return InputError(f"{path}: {field}: {first['msg']}; correct this field{more}")


def read_yaml(path: Path | str, what: str) -> Any:
    """Read a YAML file.

    Args:
        path: The file.
        what: What it should be, such as "sensor card", for the message.

    Returns:
        Its content as dicts, lists and scalars.

    Raises:
        InputError: The file cannot be read, or is not YAML.
    """
    import yaml  # late, for the same reason

    with readable(path, what, "check that the file exists and is valid YAML"):
        # libyaml's loader is ten times as fast, where PyYAML was built with it.
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        return yaml.load(Path(path).read_text(encoding="utf-8"), loader)


def validated(model: "type[BaseModel]", fields: Any, path: Path | str) -> Any:
    """Make a record of fields that a user wrote.

    Args:
        model: Class of the record.
        fields: Its fields, as read from a file.
        path: The file, for the message.

    Returns:
        An instance of `model`.

    Raises:
        InputError: A field is wrong, missing or not known.
    """
    from pydantic import ValidationError

    if not isinstance(fields, dict):
        raise InputError(
            f"{path}: is empty or no list of fields (name: value); check that it is the right file"
        )
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise invalid(path, error) from error
