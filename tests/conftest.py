"""Chips of drawn scenes and cards of tiny networks, shared by the tests."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from clouddl.catalogue import Scene, Store
from clouddl.chips import Chips, make_chips
from clouddl.model import ModelCard

# Tests compare to the last digit; what other backends may differ by, test_fast.py says.
os.environ["CLOUDDL_BACKEND"] = "float32"
torch.set_num_threads(1)  # networks this small only wait for threads
BANDS = ["green", "red", "nir", "swir16"]


@pytest.fixture(scope="session")
def drawn() -> Callable[..., Scene]:
    """Makes the record of a drawn scene of 64 × 64 pixels of 30 m."""

    def make(seed: int, role: str = "train", size: int = 64, **fields: Any) -> Scene:
        surface = ("mixed", "crops", "barren")[seed % 3]
        record = {
            "id": f"drawn-{seed}", "collection": "drawn", "sensor": "sentinel-2", "role": role,
            "resolution": 30.0, "group": f"group-{seed}",
            "drawn": {"seed": seed, "size": size, "surface": surface, "cloud_fraction": 0.35},
        }  # fmt: skip
        return Scene.model_validate(record | fields)

    return make


@pytest.fixture(scope="session")
def zarr(tmp_path_factory: pytest.TempPathFactory, drawn: Callable[..., Scene]) -> Path:
    """Six training chips and two of validation, 64 × 64 pixels, labelled with the truth."""
    path = tmp_path_factory.mktemp("chips") / "drawn.zarr"
    scenes = [drawn(seed) for seed in range(6)] + [drawn(seed, "validation") for seed in (6, 7)]
    make_chips(scenes, Store(None), path, bands=BANDS, sources=["truth"], size=64, progress=False)
    return path


@pytest.fixture(scope="session")
def train_chips(zarr: Path) -> Chips:
    return Chips.open(zarr, BANDS, "truth", "train")


@pytest.fixture(scope="session")
def validation_chips(zarr: Path) -> Chips:
    return Chips.open(zarr, BANDS, "truth", "validation")


@pytest.fixture(scope="session")
def tiny() -> Callable[..., ModelCard]:
    """Makes the card of a tiny network."""

    def make(**fields: Any) -> ModelCard:
        bands = fields.setdefault("bands", list(BANDS))
        shape = {"name": "tiny", "resolution": 30.0, "base_filters": 4, "depth": 2}
        numbers = {"mean": [0.2] * len(bands), "std": [0.1] * len(bands)}
        return ModelCard.model_validate(shape | numbers | fields)

    return make
