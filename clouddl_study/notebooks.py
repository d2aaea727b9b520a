"""Notebooks run to pages: parameters checked first, and nothing of one run left in the page."""

import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from nbformat import NotebookNode
from papermill.exceptions import PapermillExecutionError
from pydantic import TypeAdapter, ValidationError

from clouddl.errors import InputError, did_you_mean
from clouddl.files import write_whole
from clouddl_study import manifest, workspace
from clouddl_study.manifest import Manifest

TYPES: dict[str, Any] = {
    "int": int,
    "float": float,
    "bool": bool,
    "str": str,
    "list[int]": list[int],
    "list[float]": list[float],
    "list[bool]": list[bool],
    "list[str]": list[str],
}

PROGRESS = re.compile(r"\d+%\||\b(?:it|s|[kMG]?B)/(?:s|it)\b|TqdmWarning|import tqdm")  # of tqdm
KERNEL_FILE = re.compile(r"\S*ipykernel_\d+/\d+\.py")

# A last cell, which prints the peak resident memory in KiB and is taken out again.
MEMORY_CELL = "import re\nprint(*re.findall(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read()))"


class ThisPython(AsyncKernelManager):
    """A kernel in the interpreter that runs the study, whatever kernels the user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        """The interpreter's own kernel."""
        return KernelSpec(resource_dir="", **get_kernel_dict())


def unknown_name(what: str, name: str, known: Iterable[str], where: Path | str) -> InputError:
    """Make the error for a name that is not known.

    Args:
        what: What it should name, such as "notebook".
        name: The name.
        known: The names there are.
        where: The file or option that gives it.
    """
    known = sorted(known)
    suggestion = did_you_mean(name, known) or ";"
    return InputError(f"{where}: unknown {what} {name!r}{suggestion} there is: {', '.join(known)}")


def read_notebook(script: Path) -> NotebookNode:
    """Read a script in the percent format as a notebook.

    Args:
        script: The script.

    Returns:
        The notebook. Its cells are numbered, so that every run gives them the same ids.

    Raises:
        InputError: There is no such file.
    """
    try:
        notebook = jupytext.read(script, fmt="py:percent")
    except OSError as error:
        raise InputError(f"{script}: no such notebook") from error
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = nbformat.from_dict({"kernelspec": kernel})
    return notebook


def check_parameters(script: Path, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Check parameters against names and types of a notebook's cell tagged `parameters`.

    Args:
        script: The notebook.
        parameters: Values by name; an int is taken for a float.

    Returns:
        The values, in their types.

    Raises:
        InputError: The message names notebook, parameter, type and value.
    """
    notebook = read_notebook(script)
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise InputError(f"{script}: tag one cell `parameters`, neither none nor more")
    known = papermill.inspect_notebook(notebook)
    checked = {}
    for name, value in parameters.items():
        if name not in known:
            raise unknown_name("parameter", name, known, script)
        type_name = known[name]["inferred_type_name"].replace(" ", "")
        checked[name] = _checked(f"{script}: parameter {name}", type_name, value)
    return checked


def _checked(parameter: str, type_name: str, value: Any) -> Any:
    if type_name not in TYPES:
        raise InputError(f"{parameter} has no type, or one unknown: {type_name!r}")
    try:
        return TypeAdapter(TYPES[type_name]).validate_python(value, strict=True)
    except ValidationError as error:
        hint = " (in YAML write 1.0e-3, for 1e-3 is text)" if "float" in type_name else ""
        raise InputError(f"{parameter} wants {type_name}, not {value!r}{hint}") from error


def run_notebook(
    script: Path, page: Path, parameters: Mapping[str, Any], *, after: str = ""
) -> Manifest:
    """Run a notebook at the project's root, and write its page and its manifest.

    Args:
        script: The notebook, in the percent format.
        page: The .ipynb to write; it stays as it was when a cell fails.
        parameters: Checked first, by `check_parameters`.
        after: `finished` of the notebook before.

    Returns:
        The manifest, as written to `<work>/manifests/`.

    Raises:
        InputError: A cell failed; the message gives the cell and the reason, and what was run is
            in `<work>/<name>.failed.ipynb`.
    """
    parameters = check_parameters(script, parameters)
    code = manifest.code_hash(script)
    start = time.monotonic()
    record = manifest.manifest_path(script, parameters)
    # From here on results may change under the old page: it no longer counts as finished.
    record.unlink(missing_ok=True)
    executed = _execute(script, parameters, record.parents[1])
    memory = "".join(output.get("text", "") for output in executed.cells.pop().outputs).strip()
    text = nbformat.writes(clean_page(executed, record.parents[2]))
    write_whole(page, f"{text.rstrip()}\n".encode())
    made = Manifest(
        parameters=parameters,
        seed=parameters.get("seed", 0),
        versions=manifest.versions(),
        data=manifest.data_hashes(parameters),
        code=code,
        commit=manifest.commit(),
        after=after,
        seconds=round(time.monotonic() - start, 1),
        peak_mib=round(int(memory) / 1024) if memory.isdecimal() else None,
        hardware=manifest.hardware(),
        finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )
    write_whole(record, f"{made.model_dump_json(indent=2)}\n".encode())
    return made


def _execute(script: Path, parameters: dict[str, Any], work: Path) -> NotebookNode:
    """Run the cells, and the one that measures memory; a failed run stays in `work`."""
    notebook = read_notebook(script)
    measure = MEMORY_CELL if Path("/proc/self").exists() else ""
    notebook.cells.append(nbformat.v4.new_code_cell(measure))
    work.mkdir(parents=True, exist_ok=True)
    failed = work / f"{script.stem}.failed.ipynb"
    try:
        executed = papermill.execute_notebook(
            notebook,
            failed,  # written after every cell
            parameters=parameters,
            cwd=workspace.ROOT,
            kernel_manager_class=ThisPython,
            # A kernel that is ended reports an interrupt as an error, which is none of ours.
            extra_arguments=["--IPKernelApp.log_level=50"],
            progress_bar=sys.stderr.isatty(),
        )
    except PapermillExecutionError as error:
        raise _failure(error, script, failed) from error
    except DeadKernelError as error:
        failed.unlink(missing_ok=True)
        raise InputError(f"{script.name}: Python ended early; is there enough memory?") from error
    failed.unlink(missing_ok=True)
    return executed


def _failure(error: PapermillExecutionError, script: Path, failed: Path) -> InputError:
    if error.ename == "InputError":
        return InputError(error.evalue)
    lines = [line.strip() for line in str(error.evalue).splitlines() if line.strip()]
    reason = lines[-1] if lines else ""
    where = f"{script.name}, cell [{error.exec_count}]"
    return InputError(f"{where}: {error.ename}: {reason}; see {failed}")


def clean_page(notebook: NotebookNode, work_root: Path) -> NotebookNode:
    """Take out what belongs to one run: times, widgets, progress bars, paths of this machine.

    Args:
        notebook: The executed notebook, which is changed.
        work_root: Folder that the work folder lies in, as paths on the page begin with it.

    Returns:
        The same notebook.
    """
    replacements = _replacements(work_root)
    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        tags = cell.metadata.get("tags")
        cell.metadata = {"tags": tags} if tags else {}
        if "injected-parameters" in (tags or []):
            cell.id = "injected-parameters"
            cell.source = _without_places(cell.source, replacements)
        if cell.cell_type == "code":
            cleaned = [_clean_output(output, replacements) for output in cell.outputs]
            cell.outputs = [output for output in cleaned if not _is_empty(output)]
    return notebook


def _replacements(work_root: Path) -> list[tuple[Path, str]]:
    """Folders of this machine and what stands for them on a page, the deepest first."""
    places = {work_root: "", workspace.ROOT: "", Path(sys.prefix): "", Path.home(): "~/"}
    mirror = os.environ.get("CLOUDDL_MIRROR")
    if mirror and Path(mirror).resolve() != workspace.ROOT:
        places[Path(mirror).resolve()] = "mirror/"
    folders = [(folder, text) for folder, text in places.items() if folder != Path("/")]
    return sorted(folders, key=lambda pair: -len(pair[0].parts))


def _without_places(text: str, replacements: list[tuple[Path, str]]) -> str:
    if "ipykernel_" in text:  # the pattern is slow on pictures, which are long and have no spaces
        text = KERNEL_FILE.sub("cell", text)
    for folder, replacement in replacements:
        text = re.sub(re.escape(str(folder)) + r"(?:/|\b)", replacement, text)
    return text


def _clean_output(output: NotebookNode, replacements: list[tuple[Path, str]]) -> NotebookNode:
    if output.output_type == "stream":
        # Of a line that was printed over, the last version counts.
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in output.text.split("\n")]
        text = "\n".join(line for line in lines if not PROGRESS.search(line))
        output.text = _without_places(text, replacements)
    for mime, content in output.get("data", {}).items():
        if "text/" in mime and isinstance(content, str):
            output.data[mime] = _without_places(content, replacements)
    return output


def _is_empty(output: NotebookNode) -> bool:
    if any("jupyter.widget" in mime for mime in output.get("data", {})):
        return True
    return not output.get("text", "-").strip()
