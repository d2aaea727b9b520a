"""The corpora of the study: which images it shows, and their chips."""

import hashlib
import json
from pathlib import Path

from clouddl import simulate
from clouddl.chips import make_chips
from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.labels import LABEL_SOURCES
from clouddl.scenes import DATA, Catalogue, load_catalogue, store_of
from clouddl.sensors import STUDY_BANDS
from clouddl_study.workspace import work_folder


def choose_corpus(requested: str, store: Store) -> str:
    """The corpus to study: real, simulated or alcd as asked, or for "auto" real where it can be had."""
    if requested == "auto":
        return "real" if store.available() else "simulated"
    if requested == "alcd" and not (DATA / "catalogue" / "alcd.yaml").exists():
        raise InputError("corpus alcd: is not here; gather it with `clouddl fetch alcd`")
    if requested not in ("real", "simulated", "alcd"):
        raise InputError(
            f"corpus {requested!r} is unknown; choose auto, real or simulated (or alcd)"
        )
    return requested


def open_corpus(
    requested: str = "auto", mirror: Path | str | None = None
) -> tuple[Catalogue, Store]:
    """The catalogue to study and the store of its files: what every notebook begins with."""
    store = Store(DATA / "registry" / "real.csv", mirror=mirror)
    catalogue = load_catalogue(choose_corpus(requested, store))
    return catalogue, store_of(catalogue, mirror) if catalogue.name == "alcd" else store


def study_chips(catalogue: Catalogue, store: Store, work: Path | str) -> Path:
    """The study's chips in a work folder: made unless those of the same scenes and labels exist."""
    scenes = [*catalogue.select("train"), *catalogue.select("validation")]
    told = json.dumps([STUDY_BANDS, LABEL_SOURCES, [scene.model_dump() for scene in scenes]])
    # Scenes that are simulated change with the code that draws them, without a file to tell.
    folder = Path(simulate.__file__).parent
    code = sorted(path for end in ("py", "csv", "yaml") for path in folder.rglob(f"*.{end}"))
    told += "".join(hashlib.sha256(part.read_bytes()).hexdigest() for part in code)
    made_from = hashlib.sha256(told.encode()).hexdigest()[:12]
    path = work_folder(work) / f"chips-{catalogue.name}-{made_from}.zarr"
    if not path.exists():
        truth = ["truth"] if all(scene.simulated for scene in scenes) else []
        make_chips(scenes, store, path, bands=STUDY_BANDS, sources=[*truth, *LABEL_SOURCES])
    return path


def training_labels(requested: str, catalogue: Catalogue) -> str:
    """The source of labels to train with; "auto" is the consensus for real images.

    Simulated scenes are trained on their own truth: a processor made for real images has no say there.
    """
    if requested != "auto":
        return requested
    return "truth" if all(scene.simulated for scene in catalogue.select("train")) else "consensus"
