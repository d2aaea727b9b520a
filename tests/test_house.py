"""The house files agree with each other, and the committed pages are whole."""

import re
import tomllib
from pathlib import Path

import jupytext
import nbformat
import pytest
import yaml

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
PAIRED = sorted((ROOT / "notebooks").glob("*.py"))
TEXTS = sorted((ROOT / "book").glob("*.md"))
PAGES = sorted((ROOT / "book" / "notebooks").glob("*.ipynb"))


def canonical(requirement: str) -> str:
    """Name of a requirement as pip compares it: ``ukis-csmask[cpu]`` is ``ukis-csmask``."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name, f"not a requirement: {requirement!r}"
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonical(name): version for name, version in pairs}


def direct() -> set[str]:
    extras = PROJECT["optional-dependencies"]
    listed = [*PROJECT["dependencies"], *(r for rs in extras.values() for r in rs)]
    return {canonical(requirement) for requirement in listed} - {PROJECT["name"]}


def test_every_direct_dependency_is_pinned() -> None:
    assert direct() - pins().keys() == set()


def test_dependencies_are_listed_without_versions() -> None:
    assert [r for r in PROJECT["dependencies"] if re.search(r"[<>=~!]", r)] == []


def test_pins_are_plain_versions() -> None:
    # A local version such as 2.13.0+cpu exists on one index only.
    assert {n: v for n, v in pins().items() if not re.fullmatch(r"[0-9][0-9a-z.]*", v)} == {}


def test_extra_all_is_the_union_of_the_others() -> None:
    extras = PROJECT["optional-dependencies"]
    (union,) = extras["all"]
    named = re.fullmatch(r"clouddl\[(.+)\]", union)
    assert named and set(named[1].split(",")) == extras.keys() - {"all"}


def test_conda_installs_this_project_with_the_constraints() -> None:
    packages = yaml.safe_load((ROOT / "environment.yml").read_text("utf-8"))["dependencies"]
    (python,) = (p for p in packages if isinstance(p, str) and p.startswith("python="))
    (pip,) = (p["pip"] for p in packages if isinstance(p, dict))
    assert f">={python.removeprefix('python=')}" == PROJECT["requires-python"]
    assert pip == ["-c constraints.txt", "-e .[all]"]


def test_versions_agree() -> None:
    version = PROJECT["version"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == version
    assert f"## {version} " in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_makefile_has_the_targets_that_are_written_about() -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^([a-z]+):", makefile, re.M))
    assert {"help", "env", "study", "test", "book", "notebooks", "lint", "clean"} <= targets
    written = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "book").glob("*.md")]
    for page in written:
        commands = re.findall(r"(?:^\$ |`)make ([a-z]+)", page.read_text("utf-8"), re.M)
        assert set(commands) <= targets, page


def test_readme_opens_with_the_two_commands() -> None:
    readme = (ROOT / "README.md").read_text("utf-8")
    section = readme.split("## Two commands", 1)[1].split("\n## ", 1)[0]
    assert re.findall(r"^\$ (.+)$", section, re.M) == ["make study", "make test"]


def test_book_lists_every_page_once() -> None:
    toc = (ROOT / "book" / "_toc.yml").read_text("utf-8")
    listed = re.findall(r"(?:root|file): (\S+)", toc)
    assert len(listed) == len(set(listed))
    assert {p.stem for p in (ROOT / "book").glob("*.md")} == {f for f in listed if "/" not in f}
    notebooks = {Path(f).name for f in listed if "/" in f}
    assert {p.stem for p in PAIRED} in (set(), notebooks)


@pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.stem)
def test_no_directive_is_printed_raw(page: Path) -> None:
    # With a backtick in its first line a backtick fence is no fence: use ::: there.
    broken = re.findall(r"^```\{[^`\n]*`.*$", page.read_text("utf-8"), re.MULTILINE)
    assert not broken


@pytest.mark.parametrize("script", PAIRED, ids=lambda p: p.stem)
def test_notebook_and_script_say_the_same(script: Path) -> None:
    text = jupytext.read(script)
    pair = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    assert [(c.cell_type, c.source) for c in pair.cells] == [
        (c.cell_type, c.source) for c in text.cells
    ], f"run `make notebooks`: {script.name} and its .ipynb differ"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.stem)
def test_executed_page_is_whole(page: Path) -> None:
    notebook = nbformat.read(page, as_version=4)
    code = [c for c in notebook.cells if c.cell_type == "code"]
    failed = [o for c in code for o in c.outputs if o.output_type == "error"]
    assert not failed, f"{page.name} carries an error: run `make study` again"
    tags = [t for c in code for t in c.metadata.get("tags", [])]
    assert tags.count("parameters") == 1, f"{page.name} wants one cell tagged parameters"
    assert "papermill" not in notebook.metadata, f"times of one run in {page.name}"
