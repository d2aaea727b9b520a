"""The study as one run: notebooks with checked parameters, a manifest for each, and the book.

A profile (`notebooks/profiles/<name>.yaml`) gives parameters to the notebooks. A page comes with a
manifest of what it was made from; while that still holds, the page is not made again.
"""

import csv
import difflib
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import jupytext
import nbformat
import papermill
from filelock import AcquireReturnProxy, FileLock, Timeout
from ipykernel.kernelspec import get_kernel_dict
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import DeadKernelError
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from clouddl.errors import InputError, read_yaml, validated
from clouddl.files import Store
from clouddl.model import WEIGHTS
from clouddl.scenes import DATA
from clouddl.sensors import BAND_SETS, CARDS
from clouddl_study.corpora import choose_corpus

ROOT = Path(__file__).resolve().parents[1]


TYPES: dict[str, Any] = {
    "int": int, "float": float, "bool": bool, "str": str, "list[int]": list[int],
    "list[float]": list[float], "list[bool]": list[bool], "list[str]": list[str],
}  # fmt: skip


PACKAGES = ("clouddl", "torch", "numpy", "xarray", "lightning", "hyperopt")


PUBLISHED = "published_2020.csv"  # the one table in book/results that no run makes


BAR = re.compile(r"\d+%\||\b(?:it|s|[kMG]?B)/(?:s|it)\b|TqdmWarning|import tqdm")  # of tqdm


SCORES = re.compile(r"(?<=<!-- scores -->\n).*?(?=<!-- /scores -->)", re.DOTALL)  # in README.md


METER = "import re\nprint(*re.findall(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read()))"


class Profile(BaseModel):
    """Parameters of the notebooks: `common` for all, `notebooks` by the name of one."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    common: dict[str, Any] = {}
    notebooks: dict[str, dict[str, Any]] = {}


class Manifest(BaseModel):
    """What one page was made from, by what, and what it took."""

    parameters: dict[str, Any]
    seed: int
    versions: dict[str, str]
    data: dict[str, str]  # sha256 of the registry and of the catalogue
    code: str  # sha256 of the package, the sensor cards and the notebook
    commit: str | None
    after: str  # `finished` of the notebook before, whose results this one read
    seconds: float
    peak_mib: float | None  # peak resident memory of the kernel; None where /proc is missing
    hardware: dict[str, str]
    finished: str  # UTC, ISO 8601

    def holds(self, source: Path, parameters: Mapping[str, Any], after: str) -> bool:
        """Whether a run of `source` now would start from the same things."""
        now = (parameters, _data(parameters), _code_hash(source), after)
        return now == (self.parameters, self.data, self.code, self.after)


class ThisPython(AsyncKernelManager):
    """A kernel in the interpreter that runs the study, whatever kernels the user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(resource_dir="", **get_kernel_dict())


def load_profile(name: str) -> Profile:
    """Read `notebooks/profiles/<name>.yaml`; InputError names the file and the field."""
    path = ROOT / "notebooks" / "profiles" / f"{name}.yaml"
    if not path.is_file():
        raise _unknown("profile", name, [p.stem for p in path.parent.glob("*.yaml")], path.parent)
    return validated(Profile, read_yaml(path, "profile") or {}, path)


def check_parameters(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """`given`, checked against names and types of the notebook's `parameters` cell.

    An int is taken for a float. Raises InputError that names notebook, parameter, type and value.
    """
    script = _read(notebook)
    if sum("parameters" in cell.metadata.get("tags", []) for cell in script.cells) != 1:
        raise InputError(f"{notebook}: tag one cell `parameters`, neither none nor more")
    known = papermill.inspect_notebook(script)
    checked = {}
    for name, value in given.items():
        if name not in known:
            raise _unknown("parameter", name, known, notebook)
        kind = known[name]["inferred_type_name"].replace(" ", "")
        if kind not in TYPES:
            raise InputError(f"{notebook}: parameter {name} has no type, or one unknown: {kind!r}")
        try:
            checked[name] = TypeAdapter(TYPES[kind]).validate_python(value, strict=True)
        except ValidationError as error:
            hint = " (in YAML write 1.0e-3, for 1e-3 is text)" if "float" in kind else ""
            told = f"parameter {name} wants {kind}, not {value!r}{hint}"
            raise InputError(f"{notebook}: {told}") from error
    return checked


def run_notebook(
    source: Path, page: Path, parameters: Mapping[str, Any], *, after: str = ""
) -> Manifest:
    """Run a py:percent notebook in ROOT with checked `parameters`; write `page` and its manifest.

    The manifest goes to `<work>/manifests/`. When a cell fails, the old page stays, what was run
    is kept as `<work>/<name>.failed.ipynb`, and an InputError gives the cell and the reason.
    """
    given = check_parameters(source, parameters)
    code, begun = _code_hash(source), time.monotonic()
    record = _record(source, given)
    record.parent.mkdir(parents=True, exist_ok=True)
    page.parent.mkdir(parents=True, exist_ok=True)
    # From here on results may change under the old page: it no longer counts as finished.
    record.unlink(missing_ok=True)
    notebook = _read(source)
    notebook.cells.append(nbformat.v4.new_code_cell(METER if Path("/proc/self").exists() else ""))
    running = page.with_name(f".{page.stem}.running.ipynb")
    try:
        run = papermill.execute_notebook(
            notebook, running, parameters=given, cwd=ROOT, kernel_manager_class=ThisPython,
            # A kernel that is told to end reports an interrupt as an error: that is none of ours.
            extra_arguments=["--IPKernelApp.log_level=50"], progress_bar=sys.stderr.isatty(),
        )  # fmt: skip
        meter = "".join(output.get("text", "") for output in run.cells.pop().outputs).strip()
        nbformat.write(_strip(run, record.parents[2]), running)
        running.replace(page)
    except papermill.PapermillExecutionError as error:
        failed = shutil.move(running, record.parents[1] / f"{source.stem}.failed.ipynb")
        if error.ename == "InputError":
            raise InputError(error.evalue) from error
        last = ([line for line in str(error.evalue).splitlines() if line.strip()] or [""])[-1]
        where = f"{source.name}, cell [{error.exec_count}]"
        raise InputError(f"{where}: {error.ename}: {last.strip()}; see {failed}") from error
    except DeadKernelError as error:
        raise InputError(f"{source.name}: Python ended early; is there enough memory?") from error
    finally:
        running.unlink(missing_ok=True)
    made = Manifest(
        parameters=given, seed=given.get("seed", 0), versions=_versions(), data=_data(given),
        code=code, commit=_commit(), after=after, seconds=round(time.monotonic() - begun, 1),
        peak_mib=round(int(meter) / 1024) if meter.isdecimal() else None, hardware=_hardware(),
        finished=datetime.now(UTC).isoformat(timespec="milliseconds"),
    )  # fmt: skip
    record.write_text(made.model_dump_json(indent=2) + "\n", "utf-8")
    return made


def run_study(
    profile: str, *, corpus: str = "auto", mirror: str | Path | None = None,
    only: list[str] | None = None, force: bool = False, publish: bool = False, build: bool = True,
) -> Path:  # fmt: skip
    """Run the notebooks of a profile in build/<profile> and build its book.

    `only`: names of the notebooks to run; `force`: run them although their pages are up to date;
    `publish`: replace the committed pages, results and the table in the README when all went well.
    Returns the book's index.html, or its folder when it was not built. Raises InputError.
    """
    asked = load_profile(profile)  # before anything asks the network
    if publish and not SCORES.search((ROOT / "README.md").read_text("utf-8")):
        raise InputError(f"{ROOT / 'README.md'}: put back <!-- scores --> and <!-- /scores -->")
    folder = ROOT / "build" / profile
    work, book = folder / "work", folder / "book"
    store = Store(DATA / "registry" / "real.csv", mirror=mirror)
    if store.mirror:  # by the environment, so that no page shows a path of this machine
        os.environ["CLOUDDL_MIRROR"] = str(store.mirror.resolve())
    place = work.relative_to(ROOT).as_posix()
    plan = _plan(profile, asked, corpus=choose_corpus(corpus, store), work=place)
    for name in set(only or []) - {source.stem for source in plan}:
        raise _unknown("notebook", name, [source.stem for source in plan], "--only")
    with _locked(folder):
        skip = shutil.ignore_patterns("_build", "__pycache__", "*.ipynb", "results")
        shutil.copytree(ROOT / "book", book, ignore=skip, dirs_exist_ok=True)
        # A page shows a card by its path beside the book.
        shutil.copytree(CARDS, folder / "clouddl" / "cards", dirs_exist_ok=True)
        made: dict[str, Manifest] = {}
        after = ""
        for source, given in plan.items():
            page = book / "notebooks" / f"{source.stem}.ipynb"
            old = _made(source, page, given)
            if only and source.stem not in only:
                print(f"{source.stem}: left as it is" if old else f"{source.stem}: no page yet")
            elif old and not force and old.holds(source, given, after):
                print(f"{source.stem}: up to date, made {old.finished[:16]} UTC")
            else:
                print(f"{source.stem}: running")
                old = run_notebook(source, page, given, after=after)
            if old:
                made[source.stem] = old
            after = old.finished if old else ""
        if lacking := [source.stem for source in plan if source.stem not in made]:
            if publish:
                raise InputError(f"nothing published: no page of {lacking[0]}; run without --only")
            return book
        if len({m.parameters.get("corpus") for m in made.values()}) > 1:
            raise InputError(f"{folder}: pages of simulated and of real images; run without --only")
        for page in set((book / "notebooks").glob("*.ipynb")):
            if page.stem not in made:  # of a notebook that was renamed
                page.unlink()
        _gather(ROOT / "book" / "results", work / "results", book / "results")
        (book / "results" / "run_card.md").write_text(_run_card(profile, made), "utf-8")
        index = build_book(book) if build else book
        if publish:
            _publish(book, profile, made)
    print("\n".join(f"{name:26} {m.seconds:9.1f} s" for name, m in made.items()), index, sep="\n")
    return index


def build_book(source: Path) -> Path:
    """Build a Jupyter Book in its own folder, with warnings as errors; its index.html."""
    # jupyter_book has no __main__, and its script need not be on the PATH.
    start = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "build", str(source)]
    options = ["--all", "-W", "-n", "--keep-going"]
    plain = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=plain)
    if done.returncode:
        said = (done.stdout + done.stderr).splitlines()
        lines = [line for line in said if re.search("WARNING|ERROR|Error:", line)] or said[-1:]
        raise InputError(f"{source}: the book does not build:\n" + "\n".join(lines[:20]))
    return source / "_build" / "html" / "index.html"


def _read(source: Path) -> nbformat.NotebookNode:
    """A py:percent script as a notebook; cell ids are by position, so that no run changes them."""
    try:
        notebook = jupytext.read(source, fmt="py:percent")
    except OSError as error:
        raise InputError(f"{source}: no such notebook") from error
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
    named = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata = nbformat.from_dict({"kernelspec": named})
    return notebook


def _unknown(what: str, name: str, known: Iterable[str], where: Path | str) -> InputError:
    near = difflib.get_close_matches(name, known := sorted(known), n=1)
    mean = f"did you mean {near[0]!r}? " if near else ""
    return InputError(f"{where}: unknown {what} {name!r}; {mean}there is: {', '.join(known)}")


def _plan(profile: str, asked: Profile, **shared: str) -> dict[Path, dict[str, Any]]:
    """Each notebook with its parameters, all of them checked before the first one runs."""
    sources = sorted((ROOT / "notebooks").glob("*.py"))
    if not sources:
        raise InputError(f"{ROOT / 'notebooks'}: no notebooks; run from a checkout of the project")
    for name in asked.notebooks.keys() - {source.stem for source in sources}:
        raise _unknown("notebook", name, [source.stem for source in sources], f"{profile}.yaml")
    own = asked.notebooks
    return {
        each: check_parameters(each, {**asked.common, **own.get(each.stem, {}), **shared})
        for each in sources
    }


def _record(source: Path, given: Mapping[str, Any]) -> Path:
    return ROOT / given.get("work", "build/work") / "manifests" / f"{source.stem}.json"


def _made(source: Path, page: Path, given: Mapping[str, Any]) -> Manifest | None:
    try:
        made = Manifest.model_validate_json(_record(source, given).read_text("utf-8"))
    except (OSError, ValueError):  # none, or of another version: make the page again
        return None
    return made if page.exists() else None


def _code_hash(source: Path) -> str:
    package = WEIGHTS.parent
    files = sorted(
        [*package.rglob("*.py"), *package.glob("cards/*.yaml"), *package.rglob("tables/**/*.csv")]
    )
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in [*files, source])).hexdigest()


def _data(given: Mapping[str, Any]) -> dict[str, str]:
    files = [DATA / "registry/real.csv", DATA / f"catalogue/{given.get('corpus')}.yaml"]
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.exists()}


@cache
def _versions() -> dict[str, str]:
    return {"python": platform.python_version(), **{p: metadata.version(p) for p in PACKAGES}}


def _commit() -> str | None:
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        return None
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--exclude=*"]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


@cache
def _hardware() -> dict[str, str]:
    import torch  # here, since it takes seconds

    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    have = {"cpu": model[1] if model else platform.processor() or platform.machine()}
    have["cores"] = str(os.cpu_count())
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        have["memory"] = f"{memory / 2**30:.0f} GiB"
    have["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return have


def _strip(notebook: nbformat.NotebookNode, folder: Path) -> nbformat.NotebookNode:
    """Take out what belongs to one run: times, widgets, progress bars, this machine's paths."""
    mirror = Path(os.environ.get("CLOUDDL_MIRROR") or ROOT).resolve()
    places = {folder: "", ROOT: "", Path(sys.prefix): "", Path.home(): "~/"} | (
        {mirror: "mirror/"} if mirror != ROOT else {}
    )

    def clean(text: str) -> str:
        text = re.sub(r"\S*ipykernel_\d+/\d+\.py", "cell", text)
        for place in sorted(places, key=lambda p: -len(p.parts)):
            if len(place.parts) > 1:  # never "/"
                text = re.sub(re.escape(str(place)) + r"(?:/|\b)", places[place], text)
        return text

    notebook.metadata.pop("papermill", None)
    notebook.metadata.pop("widgets", None)
    for cell in notebook.cells:
        cell.metadata = {"tags": tags} if (tags := cell.metadata.get("tags")) else {}
        if "injected-parameters" in (tags or []):
            cell.id, cell.source = "injected-parameters", clean(cell.source)
        kept = []
        for output in cell.get("outputs", []):
            if output.output_type == "stream":
                lines = [x.rstrip("\r").rsplit("\r", 1)[-1] for x in output.text.split("\n")]
                output.text = clean("\n".join(x for x in lines if not BAR.search(x)))
            for kind in output.get("data", {}):
                if "text/" in kind and isinstance(output.data[kind], str):
                    output.data[kind] = clean(output.data[kind])
            widget = any("jupyter.widget" in kind for kind in output.get("data", {}))
            if not widget and output.get("text", "-").strip():
                kept.append(output)
        if cell.cell_type == "code":
            cell.outputs = kept
    return notebook


def _gather(first: Path, second: Path, target: Path) -> None:
    """Fill `target` with the published table and with what the notebooks wrote, nothing older.

    A table is there twice: as it was written, and in `shown` as pages and the README show it.
    """
    import pandas as pd  # here, since these two take seconds

    from clouddl_study.tables import readable

    shutil.rmtree(target, ignore_errors=True)
    (target / "shown").mkdir(parents=True)
    for file in second.glob("*.csv"):
        readable(pd.read_csv(file)).to_csv(target / "shown" / file.name, index=False)
    for file in [first / PUBLISHED, *sorted(second.glob("*"))]:
        if file.suffix in (".csv", ".md", ".png") and file.exists():
            shutil.copy(file, target)


def _run_card(profile: str, made: Mapping[str, Manifest]) -> str:
    last = list(made.values())[-1]
    commit = f", commit {last.commit}" if last.commit else ""
    rows = {
        "Profile": profile, "Images": last.parameters.get("corpus"), "Seed": last.seed,
        **{f"`{n}`": f"{m.seconds:.0f} s, {m.peak_mib or '?'} MiB" for n, m in made.items()},
        "Together": f"{sum(m.seconds for m in made.values()) / 60:.1f} minutes",
        "Hardware": ", ".join(f"{key}: {value}" for key, value in last.hardware.items()),
        "Code": f"clouddl {last.versions['clouddl']}{commit}",
        "Versions": ", ".join(f"{k} {v}" for k, v in last.versions.items() if k != "clouddl"),
    }  # fmt: skip
    return "| | |\n|---|---|\n" + "".join(f"| {k} | {v} |\n" for k, v in rows.items())


def _score_table(headline: Path, corpus: str, profile: str) -> str:
    """The scores as README.md shows them."""
    with headline.open(newline="", encoding="utf-8") as stream:
        head, *rows = [f"| {' | '.join(row)} |\n" for row in csv.reader(stream)]
    said = (
        f"Measured on {corpus} images, with the profile `{profile}`. F2 holds a missed cloud to be "
        "worse than a\nfalse alarm. Its interval is over scenes, so a single scene has none. NIR "
        "and SWIR are near and\nshort-wave infrared.\n\n"
    )
    return said + head + "|---" * (head.count(" | ") + 1) + "|\n" + "".join(rows)


def _publish(book: Path, profile: str, made: Mapping[str, Manifest]) -> None:
    """Replace the committed pages, results and shipped models, and the table in README.md."""
    readme, headline = ROOT / "README.md", book / "results" / "shown" / "headline.csv"
    if not headline.exists():
        raise InputError(f"{headline}: the last notebook must write it; nothing published")
    corpus = next(iter(made.values())).parameters["corpus"]
    table = _score_table(headline, corpus, profile)
    for name in ("notebooks", "results"):
        shutil.rmtree(ROOT / "book" / name, ignore_errors=True)
        shutil.copytree(book / name, ROOT / "book" / name, ignore=shutil.ignore_patterns(".*"))
    WEIGHTS.mkdir(exist_ok=True)
    for name in (*BAND_SETS, "any"):
        for file in (book.parent / "work" / "models").glob(f"{name}.*"):
            shutil.copy(file, WEIGHTS)
    readme.write_text(SCORES.sub(lambda _: table, readme.read_text("utf-8"), count=1), "utf-8")


def _locked(folder: Path) -> AcquireReturnProxy:
    """One run at a time in a folder; the lock goes with its process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{folder}: another run works here; wait, or give another one") from error
