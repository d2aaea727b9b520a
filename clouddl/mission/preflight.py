"""Before launch: a coarse model for a sensor from its card and the archive, and what to expect.

The idea of 2020: bands that the new sensor shares with Sentinel-2, resolution lowered, Sentinel-2's
archive to train on. What the model will be worth is predicted on scenes simulated as the sensor
would see them; while its specification is open, with several samples of it.
"""

from pathlib import Path

import pandas as pd

from clouddl.chips import Chips
from clouddl.errors import InputError
from clouddl.model import CloudModel
from clouddl.network import ModelCard
from clouddl.score import pooled
from clouddl.sensors import STUDY_BANDS, Sensor, get_sensor, middle, shared_bands
from clouddl.simulate import simulate_set
from clouddl.train import Schedule, fit
from clouddl.transfer import evaluate, model_method

FINEST_M, COARSEST_M = 30.0, 120.0  # working resolutions that the archive's 2.5 km chips allow

SEED = 100  # of the scenes to expect scores on, and of samples of a specification


def working_bands(card: Sensor) -> list[str]:
    """The bands of the study that a sensor shares with Sentinel-2, fine enough to make a mask from.

    Those over 4 times coarser than the finest shared one are left out (a spectrometer's footprint
    next to an imager's pixels).

    Args:
        card: Card of the sensor.

    Returns:
        Common names in the order of the study.

    Raises:
        InputError: The sensor shares none.
    """
    names = shared_bands(get_sensor("sentinel-2"), card)
    metres = {name: middle(card.band(name).gsd_m) for name in STUDY_BANDS if name in names}
    if not metres:
        raise InputError(
            f"sensor {card.id}: shares none of {', '.join(STUDY_BANDS)} with Sentinel-2, it has "
            f"{', '.join(card.commons)}; name the nearest as `common` in its card"
        )
    finest = min(metres.values())
    return [name for name in metres if metres[name] <= 4 * finest]


def working_resolution(card: Sensor) -> float:
    """The resolution to work at: that of the coarsest band used, within FINEST_M to COARSEST_M.

    Args:
        card: Card of the sensor.

    Returns:
        Metres per pixel.
    """
    metres = max(middle(card.band(name).gsd_m) for name in working_bands(card))
    return min(max(metres, FINEST_M), COARSEST_M)


def coarse_model(
    card: Sensor,
    archive: Path | str,
    labels: str,
    folder: Path | str,
    *,
    scenes: str = "all",
    epochs: int = 40,
    seed: int = 0,
) -> CloudModel:
    """Train a model on an archive of Sentinel-2 with the sensor's bands alone.

    Args:
        card: Card of the sensor.
        archive: A Zarr of `chips.make_chips`; the threshold is chosen on its validation scenes.
        labels: A source of labels in it.
        folder: Folder of the training run.
        scenes: To train on: "all", "real" or "simulated" ones. Validation always has all.
        epochs: Passes over the archive.
        seed: Seed of the training.
    """
    bands = working_bands(card)
    train, validation = (
        Chips.open(archive, bands, labels, role) for role in ("train", "validation")
    )
    untrained = ModelCard(
        name=f"{card.id}-preflight",
        bands=bands,
        resolution=working_resolution(card),
        normalisation="log",
        labels=labels,
        seed=seed,
    )
    train = train.only(scenes)
    return fit(untrained, train, validation, folder, Schedule(epochs, 8, patience=epochs))


def expected(model: CloudModel, card: Sensor, *, draws: int = 5, places: int = 20) -> pd.DataFrame:
    """Score a model on scenes simulated as a sensor would see them.

    Landscapes are the same for each sample of the specification, so that rows differ by it alone.
    Simulated, not real: the differences mean more than the level.

    Args:
        model: The model.
        card: Card of the sensor.
        draws: Samples of the specification, where it is open.
        places: Simulated scenes for each.

    Returns:
        A row a sample (one if the specification is closed): scores (`score.pooled`), and the
        figures sampled.
    """
    tables = []
    method = model_method(model, model.card.bands)
    for draw in range(draws if card.has_open_figures else 1):
        sample = card.sample(SEED + draw)
        figures = {
            f"{band.common} {field}": getattr(sample.band(band.common), field)
            for band in card.bands
            if band.common in model.card.bands
            for field in band.ranges
        }
        scenes = simulate_set(sample, places, seed=SEED, resolution=model.card.resolution)
        scored = evaluate({model.card.name: method}, scenes)
        tables.append(pooled(scored.counts).assign(draw=draw, **figures))
    return pd.concat(tables, ignore_index=True)
