"""The work folder: where notebooks leave what later notebooks and the book take up."""

import json
from pathlib import Path
from typing import Any

import pandas as pd

from clouddl.files import write_whole
from clouddl.model import WEIGHTS, CloudModel, load_model
from clouddl.scenes import Catalogue

ROOT = Path(__file__).resolve().parents[1]

# Used where 02_training has not run: what it chose for the published pages.
DEFAULT_CHOICES = {
    "labels": "auto",
    "normalisation": "log",
    "resolution": 30.0,
    "scenes": "all",  # to train on: all, real or simulated ones
}


def work_folder(work: Path | str) -> Path:
    """Find the work folder, and make it if need be.

    Args:
        work: Its path; a relative one starts at the project's root.
    """
    path = ROOT / work
    path.mkdir(parents=True, exist_ok=True)
    return path


def results_folder(work: Path | str) -> Path:
    """Find the folder of the tables and figures of the book, and make it if need be.

    Args:
        work: The work folder.

    Returns:
        `results` in the work folder.
    """
    return work_folder(work_folder(work) / "results")


def write_choices(work: Path | str, **choices: Any) -> None:
    """Keep what a notebook decided on validation scenes.

    Args:
        work: The work folder.
        **choices: Names as in `DEFAULT_CHOICES`, and values that JSON has.
    """
    text = json.dumps(choices, indent=1) + "\n"
    write_whole(work_folder(work) / "choices.json", text.encode())


def read_choices(work: Path | str) -> dict[str, Any]:
    """Read what 02_training decided.

    Args:
        work: The work folder.

    Returns:
        Its choices; `DEFAULT_CHOICES` where it has not run.
    """
    path = work_folder(work) / "choices.json"
    return json.loads(path.read_text()) if path.exists() else dict(DEFAULT_CHOICES)


def trained_model(work: Path | str, name: str) -> CloudModel:
    """Load a model of this study.

    Args:
        work: The work folder.
        name: Of its set of bands, or "any".

    Returns:
        The model that the work folder has, else the shipped one of that name.
    """
    path = work_folder(work) / "models" / f"{name}.json"
    return load_model(path if path.exists() else WEIGHTS / name)


def write_table(work: Path | str, name: str, table: pd.DataFrame) -> pd.DataFrame:
    """Write a table for the book.

    Args:
        work: The work folder.
        name: Of its file, `results/<name>.csv`.
        table: The table, written without its index.

    Returns:
        The same table.
    """
    write_whole(results_folder(work) / f"{name}.csv", table.to_csv(index=False).encode())
    return table


def write_corpus_note(catalogue: Catalogue, path: Path) -> str:
    """Write in plain words which images a build of the book shows, from the catalogue itself.

    Args:
        catalogue: The corpus.
        path: Markdown file to write.
    """
    roles = {"training": "train", "validation": "validation", "test": "reference"}
    numbers = ", ".join(f"{title} {_patches(catalogue, role)}" for title, role in roles.items())
    if all(scene.simulated for scene in catalogue.scenes):
        text = (
            "**Every image in this build is simulated by the package from a seed; none is real.** "
            "The real images could not be had, or were not asked for, when it was made. Patches: "
            f"{numbers}. The numbers show that the study runs. They say nothing about clouds, "
            "sensors or how good the method is."
        )
    else:
        text = (
            f"**This build shows real images.** Patches: {numbers} "
            f"({_reference_sensors(catalogue)}). Real training and validation patches are of "
            "Sentinel-2, with labels by processors; test masks are hand-labelled. Simulated "
            "patches show grounds and clouds of which the archive has little. There are no SPOT "
            "images: Landsat 5 and 8, cut to SPOT's bands, stand in."
        )
    write_whole(path, f"{text}\n".encode())
    return text


def _patches(catalogue: Catalogue, role: str) -> str:
    """The number of patches of a role, real and simulated ones apart."""
    scenes = catalogue.select(role)
    simulated = sum(scene.simulated is not None for scene in scenes)
    numbers = {"real": len(scenes) - simulated, "simulated": simulated}
    return " and ".join(f"{number} {name}" for name, number in numbers.items() if number)


def _reference_sensors(catalogue: Catalogue) -> str:
    sensors = ", ".join(sorted({scene.sensor for scene in catalogue.select("reference")}))
    return sensors.replace("landsat-", "Landsat ").replace("sentinel-", "Sentinel-")
