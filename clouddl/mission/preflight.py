"""Before launch: a coarse model for a sensor from its card and the archive, and what to expect.

The idea of 2020: bands that the new sensor shares with Sentinel-2, resolution lowered, Sentinel-2's
archive to train on. What the model will be worth is predicted on scenes simulated as the sensor would
see them; while its specification is open, each is simulated through another sample of it.
"""

from pathlib import Path

import pandas as pd

from clouddl.chips import Chips
from clouddl.errors import InputError
from clouddl.labels import to_mask
from clouddl.model import CloudModel
from clouddl.network import ModelCard
from clouddl.score import pooled
from clouddl.sensors import STUDY_BANDS, Sensor, get_sensor, middle, shared_bands
from clouddl.simulate import simulate_set
from clouddl.train import Schedule, fit
from clouddl.transfer import predictions, score_masks

FINEST_M, COARSEST_M = 30.0, 120.0  # working resolutions that the archive's 2.5 km chips allow


def working_bands(card: Sensor) -> list[str]:
    """Bands of the study that the sensor shares with Sentinel-2, fine enough to make a mask from.

    Those over 4 times coarser than the finest shared one are left out (a spectrometer's footprint
    beside an imager's pixels). InputError when none is left.
    """
    names = shared_bands(get_sensor("sentinel-2"), card)
    metres = {name: middle(card.band(name).gsd_m) for name in names if name in STUDY_BANDS}
    fine = [n for n in STUDY_BANDS if n in metres and metres[n] <= 4 * min(metres.values())]
    if not fine:
        have = ", ".join(band.common for band in card.bands)
        told = f"shares none of {', '.join(STUDY_BANDS)} with Sentinel-2, it has {have}"
        raise InputError(f"sensor {card.id}: {told}; name the nearest as `common` in its card")
    return fine


def working_resolution(card: Sensor) -> float:
    """Metres at which to work: the coarsest band used, within FINEST_M to COARSEST_M."""
    metres = max(middle(card.band(name).gsd_m) for name in working_bands(card))
    return min(max(metres, FINEST_M), COARSEST_M)


def coarse_model(
    card: Sensor, archive: Path | str, labels: str, folder: Path | str, *, epochs: int = 40,
    seed: int = 0,
) -> CloudModel:  # fmt: skip
    """Train on the `archive` (a Zarr of `chips.make_chips`) with the sensor's bands alone.

    `labels`: a source of labels in it. The threshold is chosen on its validation scenes.
    """
    bands, metres = working_bands(card), working_resolution(card)
    train, validation = (Chips.open(archive, bands, labels, r) for r in ("train", "validation"))
    blank = ModelCard(
        name=f"{card.id}-preflight", bands=bands, resolution=metres, normalisation="log",
        labels=labels, seed=seed,
    )  # fmt: skip
    return fit(blank, train, validation, folder, Schedule(epochs, 8, patience=epochs))


def expected(
    model: CloudModel, card: Sensor, *, draws: int = 5, places: int = 20, seed: int = 100
) -> pd.DataFrame:
    """Scores on simulated scenes, a row for each draw of the specification (one if it is closed).

    Columns of `score.pooled`, and the figures simulated. Landscapes are the same in each draw, so that
    rows differ by the specification alone. Simulated, not real: the spread tells more than the level.
    """
    tables = []
    for draw in range(draws if card.open else 1):
        sample = card.sample(seed + draw)
        figures = {
            f"{band.common} {field}": getattr(sample.band(band.common), field)
            for band in card.bands if band.common in model.card.bands for field in band.ranges
        }  # fmt: skip
        scenes = simulate_set(sample, places, seed=seed, resolution=model.card.resolution)
        found = predictions(model, scenes, model.card.bands)
        masks = {name: to_mask(p, model.card.threshold) for name, p in found.items()}
        tables.append(pooled(score_masks(masks, scenes)).assign(draw=draw, **figures))
    return pd.concat(tables, ignore_index=True)
