"""Where the time of the study goes: its stages, as its own manifests have them."""

import shutil
import time
from collections.abc import Sequence
from typing import Any

from clouddl_study.book import build_book
from clouddl_study.manifest import Manifest
from clouddl_study.run import run_study
from clouddl_study.workspace import ROOT


def rows() -> list[dict[str, Any]]:
    """Run the study with the profile `quick`, anew, and build its book; its stages."""
    folder = ROOT / "build" / "quick"
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    book = run_study("quick", build=False)
    ran = time.perf_counter()
    build_book(book)
    built = time.perf_counter()
    records = sorted((folder / "work" / "manifests").glob("*.json"))
    made = {one.stem: Manifest.model_validate_json(one.read_text("utf-8")) for one in records}
    return stages([(name, one.seconds) for name, one in made.items()], ran - start, built - ran)


def stages(pages: Sequence[tuple[str, float]], run: float, book: float) -> list[dict[str, Any]]:
    """A row for each stage: what `run` took beside the pages is the set-up (checks, copies)."""
    parts = [("set-up", run - sum(took for _, took in pages)), *pages, ("the book", book)]
    whole = run + book
    return [
        {"Stage": name, "Seconds": f"{took:.1f}", "Share %": f"{100 * took / whole:.0f}"}
        for name, took in [*parts, ("together", whole)]
    ]
