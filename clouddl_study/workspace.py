"""The work folder: where notebooks leave what later notebooks and the book take up."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from clouddl.model import WEIGHTS, CloudModel, load_model
from clouddl.scenes import Catalogue

ROOT = Path(__file__).parent.parent


# Used where 02_training has not run: what it chose for the published pages.
DEFAULT_CHOICES = {"labels": "auto", "normalisation": "log", "resolution": 30.0, "grounds": True}


def work_folder(work: Path | str) -> Path:
    """The work folder, made if need be; a relative path starts at the project's root."""
    path = ROOT / work
    path.mkdir(parents=True, exist_ok=True)
    return path


def results_folder(work: Path | str) -> Path:
    """Where tables and figures of the book go: `results` in the work folder."""
    return work_folder(work_folder(work) / "results")


def write_choices(work: Path | str, **choices: Any) -> None:
    """Keep what a notebook decided on validation scenes."""
    (work_folder(work) / "choices.json").write_text(json.dumps(choices, indent=1) + "\n")


def read_choices(work: Path | str) -> dict[str, Any]:
    """What 02_training decided, or the defaults."""
    path = work_folder(work) / "choices.json"
    return json.loads(path.read_text()) if path.exists() else dict(DEFAULT_CHOICES)


def trained_model(work: Path | str, name: str) -> CloudModel:
    """A model of this work folder, else the shipped one of that name."""
    path = work_folder(work) / "models" / f"{name}.json"
    return load_model(path if path.exists() else WEIGHTS / name)


def write_table(work: Path | str, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Write a table for the book, `results/<name>.csv`, and return it."""
    table.to_csv(results_folder(work) / f"{name}.csv", index=False)
    return table


def write_corpus_note(catalogue: Catalogue, path: Path) -> str:
    """Say in plain words which images a build of the book shows, from the catalogue itself."""
    count = {role: len(catalogue.select(role)) for role in ("train", "validation", "reference")}
    numbers = (
        f"{count['train']} scenes to train on, {count['validation']} to choose on and "
        f"{count['reference']} to score on"
    )
    if all(scene.simulated for scene in catalogue.scenes):
        text = (
            "**Every image in this build is simulated by the package from a seed; none is real.** "
            "The real images could not be had, or were not asked for, when it was made. There are "
            f"{numbers}. The numbers show that the study runs. They say nothing about clouds, "
            "sensors or how good the method is."
        )
    else:
        train, validation = (
            sum(scene.simulated is not None for scene in catalogue.select(role))
            for role in ("train", "validation")
        )
        sensors = ", ".join(sorted({scene.sensor for scene in catalogue.select("reference")}))
        sensors = sensors.replace("landsat-", "Landsat ").replace("sentinel-", "Sentinel-")
        text = (
            f"**This build shows real images**: {numbers} ({sensors}). Training and "
            "validation are Sentinel-2 with labels made by a processor; the masks scored against "
            f"were made by people. {train} of the training scenes and {validation} of those to "
            "choose on are not real but simulated, to show grounds and clouds of which the archive "
            "has little. There are no SPOT images among them: Landsat 5 and 8, cut to SPOT's "
            "bands, stand in."
        )
    path.write_text(text + "\n", encoding="utf-8")
    return text
