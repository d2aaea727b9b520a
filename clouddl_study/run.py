"""The study as one run: every notebook of a profile, and the book of their pages.

A profile (`notebooks/profiles/<name>.yaml`) gives parameters to the notebooks. A page comes with a
manifest of what it was made from; while that still holds, the page is not made again.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from filelock import AcquireReturnProxy, FileLock, Timeout
from pydantic import BaseModel, ConfigDict

from clouddl.errors import InputError, read_yaml, validated
from clouddl.files import Store
from clouddl.scenes import DATA
from clouddl_study import workspace
from clouddl_study.book import build_book, check_readme, copy_sources, gather_results, publish_book
from clouddl_study.corpora import choose_corpus
from clouddl_study.manifest import Manifest, read_manifest
from clouddl_study.notebooks import check_parameters, run_notebook, unknown_name

Plan = dict[Path, dict[str, Any]]  # each notebook, with its parameters


class Profile(BaseModel):
    """Parameters of the notebooks.

    Attributes:
        common: Of all notebooks.
        notebooks: Of one notebook, by its name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    common: dict[str, Any] = {}
    notebooks: dict[str, dict[str, Any]] = {}


def load_profile(name: str) -> Profile:
    """Read a profile.

    Args:
        name: Of `notebooks/profiles/<name>.yaml`.

    Raises:
        InputError: There is no such profile, or a field is wrong; the message names it.
    """
    path = workspace.ROOT / "notebooks" / "profiles" / f"{name}.yaml"
    if not path.is_file():
        known = [file.stem for file in path.parent.glob("*.yaml")]
        raise unknown_name("profile", name, known, path.parent)
    return validated(Profile, read_yaml(path, "profile") or {}, path)


def run_study(
    profile: str,
    *,
    corpus: str = "auto",
    mirror: str | Path | None = None,
    only: Sequence[str] | None = None,
    force: bool = False,
    publish: bool = False,
    build: bool = True,
) -> Path:
    """Run the notebooks of a profile in build/<profile>, and build its book.

    Args:
        profile: Name of the profile.
        corpus: As for `corpora.choose_corpus`.
        mirror: Folder that holds the real images, instead of the network.
        only: Names of the notebooks to run; the pages of the others stay as they are.
        force: Whether to run notebooks whose pages are up to date.
        publish: Whether to replace the committed pages, results, models and the table in the
            README; they stay as they were where anything goes wrong before.
        build: Whether to build the book.

    Returns:
        The book's index.html, or its folder when it was not built or lacks pages.

    Raises:
        InputError: Wrong names or parameters, before anything runs; a notebook that fails.
    """
    requested = load_profile(profile)  # before anything asks the network
    if publish:
        check_readme()
    folder = workspace.ROOT / "build" / profile
    plan = _plan(profile, requested, _choose_corpus(corpus, mirror))
    _check_names(only or [], plan, "--only")
    with _locked(folder):
        book = copy_sources(folder)
        made = _make_pages(plan, book / "notebooks", only, force)
        absent = [script.stem for script in plan if script.stem not in made]
        if absent and publish:
            raise InputError(f"nothing published: no page of {absent[0]}; run without --only")
        if absent:
            return book
        if len({manifest.parameters.get("corpus") for manifest in made.values()}) > 1:
            raise InputError(f"{folder}: pages of simulated and of real images; run without --only")
        _remove_others(book / "notebooks", made)
        gather_results(folder / "work", book, profile, made)
        index = build_book(book) if build else book
        if publish:
            publish_book(book, profile, made)
    for name, manifest in made.items():
        print(f"{name:26} {manifest.seconds:9.1f} s")
    print(index)
    return index


def _choose_corpus(requested: str, mirror: str | Path | None) -> str:
    """The corpus to show; its mirror goes to the notebooks by the environment."""
    store = Store(DATA / "registry" / "real.csv", mirror=mirror)
    if store.mirror:  # so that no page shows a path of this machine
        os.environ["CLOUDDL_MIRROR"] = str(store.mirror.resolve())
    return choose_corpus(requested, store)


def _plan(profile: str, requested: Profile, corpus: str) -> Plan:
    """Each notebook with its parameters, all of them checked before the first one runs."""
    folder = workspace.ROOT / "notebooks"
    scripts = sorted(folder.glob("*.py"))
    if not scripts:
        raise InputError(f"{folder}: no notebooks; run from a checkout of the project")
    _check_names(requested.notebooks, scripts, f"{profile}.yaml")
    shared = {"corpus": corpus, "work": f"build/{profile}/work"}
    plan = {}
    for script in scripts:
        special = requested.notebooks.get(script.stem, {})
        plan[script] = check_parameters(script, {**requested.common, **special, **shared})
    return plan


def _check_names(names: Iterable[str], scripts: Iterable[Path], where: str) -> None:
    known = [script.stem for script in scripts]
    for name in names:
        if name not in known:
            raise unknown_name("notebook", name, known, where)


def _make_pages(
    plan: Plan, pages: Path, only: Sequence[str] | None, force: bool
) -> dict[str, Manifest]:
    """Run what has to be run; the manifests of all pages there are, by name of the notebook."""
    made: dict[str, Manifest] = {}
    after = ""
    for script, parameters in plan.items():
        name = script.stem
        page = pages / f"{name}.ipynb"
        manifest = read_manifest(script, page, parameters)
        if only and name not in only:
            print(f"{name}: left as it is" if manifest else f"{name}: no page yet")
        elif manifest and not force and manifest.is_current(script, parameters, after):
            print(f"{name}: up to date, made {manifest.finished[:16]} UTC")
        else:
            print(f"{name}: running")
            manifest = run_notebook(script, page, parameters, after=after)
        if manifest:
            made[name] = manifest
        after = manifest.finished if manifest else ""
    return made


def _remove_others(pages: Path, made: dict[str, Manifest]) -> None:
    """Remove the pages of notebooks that were renamed."""
    for page in set(pages.glob("*.ipynb")):
        if page.stem not in made:
            page.unlink()


def _locked(folder: Path) -> AcquireReturnProxy:
    """One run at a time in a folder; the lock goes with its process, however that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        return FileLock(folder / ".lock").acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{folder}: another run works here; wait, or give another one") from error
