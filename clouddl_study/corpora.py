"""The corpora of the study: which images it shows, and their chips."""

import hashlib
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import requests

from clouddl import simulate
from clouddl.chips import SOFT, Chips, make_chips
from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.labels import LABEL_SOURCES
from clouddl.scenes import DATA, OLD_NAME, SIMULATED, Catalogue, Scene, load_catalogue, store_of
from clouddl.sensors import STUDY_BANDS
from clouddl_study.workspace import work_folder


def choose_corpus(requested: str, store: Store) -> str:
    """Choose the corpus to study.

    Args:
        requested: real, simulated, alcd (after `clouddl fetch alcd`), or auto: real where it can be
            had, else simulated.
        store: Of the real images.

    Returns:
        The name of its catalogue.

    Raises:
        InputError: An unknown corpus, or alcd before it is gathered.
    """
    if requested == "auto":
        return "real" if _within_reach(store) else SIMULATED
    if requested == OLD_NAME:
        message = f"corpus {OLD_NAME} is now called {SIMULATED}"
        warnings.warn(message, FutureWarning, stacklevel=2)
        return SIMULATED
    if requested == "alcd" and not (DATA / "catalogue" / "alcd.yaml").exists():
        raise InputError("corpus alcd: is not here; gather it with `clouddl fetch alcd`")
    if requested not in ("real", SIMULATED, "alcd"):
        raise InputError(
            f"corpus {requested!r} is unknown; choose auto, real or simulated (or alcd)"
        )
    return requested


def _within_reach(store: Store) -> bool:
    """Whether the first file is on this machine, or its server answers in 3 seconds."""
    try:
        return any(
            store.local(path) or requests.head(row["url"], timeout=3, allow_redirects=True).ok
            for path, row in list(store.rows.items())[:1]
        )
    except requests.RequestException:
        return False


def open_corpus(
    requested: str = "auto", mirror: Path | str | None = None
) -> tuple[Catalogue, Store]:
    """Open a corpus: what every notebook begins with.

    Args:
        requested: As for `choose_corpus`.
        mirror: Folder that holds the images, instead of the network.

    Returns:
        The catalogue, and the store of its files.
    """
    store = Store(DATA / "registry" / "real.csv", mirror=mirror)
    catalogue = load_catalogue(choose_corpus(requested, store))
    if catalogue.name == "alcd":
        store = store_of(catalogue, mirror)
    return catalogue, store


def study_chips(
    catalogue: Catalogue,
    store: Store,
    work: Path | str,
    fraction: float = 1.0,
    *,
    simulated: int | None = None,
) -> Path:
    """Make the chips of a corpus, unless those of the same scenes and labels exist.

    Args:
        catalogue: Its scenes of the roles train and validation are cut.
        store: Where their files are.
        work: The work folder.
        fraction: Of these scenes, above 0 to 1, for a quick look: every so many of the real and of
            the simulated ones. Scenes of a corpus that is simulated alone are few, and all taken.
        simulated: How many simulated training scenes are taken at most beside real ones, and a
            sixth as many to validate on; default all.

    Returns:
        The Zarr store of the chips.

    Raises:
        InputError: Another fraction.
    """
    if not 0 < fraction <= 1:
        raise InputError(f"fraction {fraction}: give a part of the scenes, above 0 to 1")
    step = round(1 / fraction)
    scenes = [
        *_some(catalogue.select("train"), step, simulated),
        *_some(catalogue.select("validation"), step, simulated and simulated // 6),
    ]
    chips = work_folder(work) / f"chips-{catalogue.name}-{_digest(scenes)[:12]}.zarr"
    if not chips.exists():
        truth = ["truth"] if all(scene.simulated for scene in scenes) else []
        make_chips(scenes, store, chips, bands=STUDY_BANDS, sources=[*truth, *LABEL_SOURCES])
    return chips


def _some(scenes: list[Scene], step: int, most: int | None) -> list[Scene]:
    """Every so many of the real scenes, and of at most so many simulated ones beside them."""
    real = [scene for scene in scenes if not scene.simulated]
    simulated = [scene for scene in scenes if scene.simulated]
    return real[::step] + simulated[:most:step] if real else scenes


def _digest(scenes: list[Scene]) -> str:
    """SHA-256 of what the chips of scenes are made from."""
    records = [scene.model_dump() for scene in scenes]
    digest = hashlib.sha256(json.dumps([STUDY_BANDS, LABEL_SOURCES, records]).encode())
    # Simulated scenes change with the code that makes them, without a file that says so.
    folder = Path(simulate.__file__).parent
    for path in sorted(path for end in ("py", "csv", "yaml") for path in folder.rglob(f"*.{end}")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def training_labels(requested: str, catalogue: Catalogue) -> str:
    """Choose the source of labels to train with.

    Args:
        requested: One of `LABEL_SOURCES`, soft, truth, or auto: soft labels for real images, and
            for simulated ones alone their truth, since processors are made for real images.
        catalogue: The corpus.
    """
    if requested != "auto":
        return requested
    return "truth" if all(scene.simulated for scene in catalogue.select("train")) else SOFT


def by_origin(chips: Chips) -> dict[str, Chips]:
    """Divide chips into those of real and those of simulated images.

    Args:
        chips: Of one role.

    Returns:
        Chips by "real" and "simulated"; a part without chips is left out.
    """
    parts = dict(zip(("real", "simulated"), chips.real_and_simulated(), strict=True))
    return {name: part for name, part in parts.items() if part.dataset.sizes["chip"]}


def yardsticks(chips: Path, bands: Sequence[str]) -> dict[str, Chips]:
    """Open the validation chips on which sources of labels are compared.

    Args:
        chips: The Zarr store of `study_chips`.
        bands: Common names.

    Returns:
        By name: real chips where all processors agree, real chips by their majority, and simulated
        chips by their truth; those that the corpus lacks are left out.
    """
    agreed, majority = (
        Chips.open(chips, bands, source, "validation").real_and_simulated()
        for source in ("consensus", "majority")
    )
    named = {"real, agreed": agreed[0], "real, majority": majority[0], "simulated": agreed[1]}
    if not agreed[0].dataset.sizes["chip"]:
        named["simulated"] = Chips.open(chips, bands, "truth", "validation")
    return {name: part for name, part in named.items() if part.dataset.sizes["chip"]}
