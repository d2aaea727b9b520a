"""The book of a run: its sources, tables and run card gathered, built, and published."""

import csv
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from clouddl.errors import InputError
from clouddl.files import write_whole
from clouddl.model import WEIGHTS
from clouddl.sensors import CARDS
from clouddl_study import workspace
from clouddl_study.claims import claims_map
from clouddl_study.manifest import Manifest
from clouddl_study.pages.cards import SHIPPED, model_table, sensor_table
from clouddl_study.tables import markdown, readable

PUBLISHED = "published_2020.csv"  # the one table in book/results that no run makes
SHOWN = (".csv", ".md", ".png", ".html")  # endings of the results that pages show
SCORES = re.compile(r"(?<=<!-- scores -->\n).*?(?=<!-- /scores -->)", re.DOTALL)  # in README.md


def copy_sources(folder: Path) -> Path:
    """Copy the pages of text into the folder of a run.

    Args:
        folder: Folder of the run.

    Returns:
        The folder of its book.
    """
    book = folder / "book"
    skip = shutil.ignore_patterns("_build", "__pycache__", "*.ipynb", "results")
    shutil.copytree(workspace.ROOT / "book", book, ignore=skip, dirs_exist_ok=True)
    # A page shows a card by its path beside the book.
    shutil.copytree(CARDS, folder / "clouddl" / "cards", dirs_exist_ok=True)
    return book


def gather_results(work: Path, book: Path, profile: str, made: Mapping[str, Manifest]) -> None:
    """Fill `results` of a book with the published table and what the notebooks wrote.

    A table is there twice: as it was written, and in `shown` as pages and the README show it.

    Args:
        work: Work folder of the run.
        book: Folder of its book; results of an earlier run are removed.
        profile: Name of the profile, for the run card.
        made: Manifests by name of the notebook.
    """
    target = book / "results"
    shutil.rmtree(target, ignore_errors=True)
    (target / "shown").mkdir(parents=True)
    models = work / "models"
    cards = {"model_cards": model_table(models)}
    cards["sensor_models"] = sensor_table(models, work / "results")
    for name, table in cards.items():
        if len(table):
            workspace.write_table(work, name, table)
    written = sorted((work / "results").glob("*"))
    for file in written:
        if file.suffix == ".csv":
            readable(pd.read_csv(file)).to_csv(target / "shown" / file.name, index=False)
    for file in [workspace.ROOT / "book" / "results" / PUBLISHED, *written]:
        if file.suffix in SHOWN and file.exists():
            shutil.copy(file, target)
    write_whole(target / "run_card.md", _run_card(profile, made).encode())
    write_whole(target / "claims.md", claims_map(work / "results").encode())


def _run_card(profile: str, made: Mapping[str, Manifest]) -> str:
    """What a run used and took, as a table in Markdown."""
    last = list(made.values())[-1]
    commits = list(dict.fromkeys(m.commit for m in made.values() if m.commit))
    commit = f", commit {', then '.join(commits)}" if commits else ""
    packages = [f"{name} {number}" for name, number in last.versions.items() if name != "clouddl"]
    rows = {"Profile": profile, "Images": last.parameters.get("corpus"), "Seed": last.seed}
    rows["Finished"] = last.finished
    for name, page in made.items():
        memory = "?" if page.peak_mib is None else f"{page.peak_mib:.0f}"
        rows[f"`{name}`"] = f"{page.seconds:.0f} s, {memory} MiB"
    rows |= {
        "Together": f"{sum(m.seconds for m in made.values()) / 60:.1f} minutes",
        "Hardware": ", ".join(f"{part}: {text}" for part, text in last.hardware.items()),
        "Code": f"clouddl {last.versions['clouddl']}{commit}",
        "Versions": ", ".join(packages),
    }
    lines = [f"| {head} | {text} |\n" for head, text in rows.items()]
    return "| | |\n|---|---|\n" + "".join(lines)


def build_book(book: Path) -> Path:
    """Build a Jupyter Book in its own folder, with warnings as errors.

    Args:
        book: Its folder.

    Returns:
        Its index.html.

    Raises:
        InputError: The book does not build; the message has its warnings and errors.
    """
    # jupyter_book has no __main__, and its script need not be on the PATH.
    start = "import sys; from jupyter_book.cli.main import main; sys.exit(main())"
    command = [sys.executable, "-c", start, "build", str(book)]
    options = ["--all", "-W", "-n", "--keep-going"]
    environment = {**os.environ, "NO_COLOR": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, env=environment)
    if done.returncode:
        printed = (done.stdout + done.stderr).splitlines()
        faults = [line for line in printed if re.search("WARNING|ERROR|Error:", line)]
        listed = "\n".join((faults or printed[-1:])[:20])
        raise InputError(f"{book}: the book does not build:\n{listed}")
    return book / "_build" / "html" / "index.html"


def check_readme() -> None:
    """Check that README.md has the place of the scores; InputError if not."""
    readme = workspace.ROOT / "README.md"
    if not SCORES.search(readme.read_text("utf-8")):
        raise InputError(f"{readme}: put back <!-- scores --> and <!-- /scores -->")


def publish_book(book: Path, profile: str, made: Mapping[str, Manifest]) -> None:
    """Replace the committed pages, results and shipped models, and the table in README.md.

    Args:
        book: Folder of the book, with all pages and results.
        profile: Name of the profile.
        made: Manifests by name of the notebook.

    Raises:
        InputError: The table of scores is missing.
    """
    headline = book / "results" / "shown" / "headline.csv"
    if not headline.exists():
        raise InputError(f"{headline}: the last notebook must write it; nothing published")
    corpus = next(iter(made.values())).parameters["corpus"]
    table = _score_table(headline, corpus, profile)
    for name in ("notebooks", "results"):
        target = workspace.ROOT / "book" / name
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(book / name, target, ignore=shutil.ignore_patterns(".*"))
    WEIGHTS.mkdir(exist_ok=True)
    for name in SHIPPED:
        for file in (book.parent / "work" / "models").glob(f"{name}.*"):
            shutil.copy(file, WEIGHTS)
    readme = workspace.ROOT / "README.md"
    text = SCORES.sub(lambda _: table, readme.read_text("utf-8"), count=1)
    write_whole(readme, text.encode())


def _score_table(headline: Path, corpus: str, profile: str) -> str:
    """The scores as README.md shows them."""
    with headline.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.reader(stream))
    introduction = (
        f"Measured on {corpus} images, with the profile `{profile}`. F2 weights recall four "
        "times as much as\nprecision. Its interval is over places; below five there is none. "
        "NIR and SWIR are near and\nshort-wave infrared.\n\n"
    )
    return introduction + markdown(rows)
