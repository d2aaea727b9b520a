"""A trained model and its files.

A model is two files: `<name>.safetensors` (weights, no code) and `<name>.json` (the card: bands,
normalisation, resolution, threshold, training scenes, scores, SHA-256 of the weights).
"""

import hashlib
import os
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save

from clouddl.errors import InputError, invalid, readable
from clouddl.files import write_whole
from clouddl.network import ModelCard, Statistics, UNet, build, fill_gaps, statistics_for
from clouddl.scale.backends import Backend

WEIGHTS = Path(__file__).parent / "weights"


class CloudModel:
    """A network with its card, ready to compute probabilities of cloud.

    Args:
        card: What the network was made of and trained on.
        net: The network.
        device: Where it runs; default CUDA if there is one, else the CPU.
        backend: How it runs, see `clouddl.scale.backends`.

    Attributes:
        card: The card.
        device: The device.
        net: PyTorch's network, in float32.
        backend: Runs the network.
    """

    def __init__(
        self,
        card: ModelCard,
        net: UNet,
        device: str | torch.device | None = None,
        backend: str | None = None,
    ) -> None:
        self.card = card
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.net = net.to(self.device).eval()
        self.backend = Backend(self.net, card, self.device, backend)

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the network and its card: how it runs is settled anew where it arrives."""
        return CloudModel, (self.card, self.net)

    @torch.inference_mode()
    def probability(
        self, reflectance: np.ndarray, statistics: Statistics | None = None
    ) -> np.ndarray:
        """Compute the probability of cloud.

        Args:
            reflectance: (bands, y, x) float32 in the card's order and at its resolution; NaN for
                nodata and for bands that the sensor lacks.
            statistics: `chip_statistics` of the whole scene, when this is a tile of it.

        Returns:
            Probability (y, x) float32, NaN where all bands are nodata.

        Raises:
            InputError: The number of bands is not the card's.
        """
        bands = self.card.bands
        if len(reflectance) != len(bands):
            names = ", ".join(bands)
            raise InputError(f"model {self.card.name} wants {len(bands)} bands: {names}")
        image = np.asarray(reflectance, np.float32)
        statistics = statistics or statistics_for(torch.from_numpy(image)[None], self.card)
        filled = fill_gaps(image)
        probability = self.backend(filled, statistics)
        if filled is not image:
            probability[np.isnan(image).all(axis=0)] = np.nan
        return probability


def save_model(model: CloudModel, path: str | Path) -> Path:
    """Write the weights and the card of a model.

    Weights are stored as float16: half the bytes, and the masks stay the same (tested).

    Args:
        model: The model; the SHA-256 of its weights is entered in its card.
        path: Of the files, with or without suffix.

    Returns:
        The path of the card.
    """
    state = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in model.net.state_dict().items()
    }
    weights = save(state)
    model.card.weights_sha256 = hashlib.sha256(weights).hexdigest()
    card = _file(path, ".json")
    write_whole(_file(path, ".safetensors"), weights)
    write_whole(card, model.card.model_dump_json(indent=1).encode() + b"\n")
    return card


def load_model(
    path: str | Path, device: str | torch.device | None = None, backend: str | None = None
) -> CloudModel:
    """Load a model.

    Args:
        path: The card, the weights, or both without suffix; or the name of a shipped model.
        device: Where it runs; default CUDA if there is one, else the CPU.
        backend: How it runs, one of `clouddl.scale.backends.BACKENDS`; default the fastest.

    Raises:
        InputError: The card or the weights cannot be read, or do not belong together.
    """
    path = _find(path)
    card = read_card(path)
    advice = "fetch or train the model again; card and weights belong together"
    with readable(path, "file of weights", advice):
        with path.open("rb") as stream:
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
        if sha256 != card.weights_sha256:
            raise InputError(
                f"{path}: the weights are broken or of another model (their sha256 is {sha256}, "
                f"the card says {card.weights_sha256}); {advice}"
            )
        net = build(card)
        net.load_state_dict(load_file(path))  # copied into float32
    return CloudModel(card, net, device, backend)


def shared_model(path: str | Path) -> CloudModel:
    """Load a model to predict with, once for many files in a row.

    Args:
        path: As for `load_model`.

    Returns:
        The model of the call before, while its card and CLOUDDL_BACKEND are the same; do not
        change it.

    Raises:
        InputError: As `load_model`.
    """
    path = _find(path).absolute()
    card = read_card(path).model_dump_json()
    return _shared_model(path, card, os.environ.get("CLOUDDL_BACKEND"))


@lru_cache(maxsize=1)
def _shared_model(path: Path, card: str, backend: str | None) -> CloudModel:
    return load_model(path, backend=backend)


def read_card(path: str | Path) -> ModelCard:
    """Read the card of a model.

    Args:
        path: The card or the weights.

    Raises:
        InputError: The card cannot be read, or a field is wrong; names file and field.
    """
    path = _file(path, ".json")
    try:
        return ModelCard.model_validate_json(path.read_bytes())
    except FileNotFoundError as error:
        known = ", ".join(card.name for card in shipped_models()) or "none"
        raise InputError(
            f"{path}: there is no such model card. A model is a .json card beside a .safetensors "
            f"file; the shipped ones are: {known}"
        ) from error
    except ValidationError as error:
        raise invalid(path, error) from error
    except OSError as error:
        raise InputError(f"{path}: not a readable model card ({error})") from error


def shipped_models() -> list[ModelCard]:
    """The cards of the models inside the package."""
    return _cards(WEIGHTS)


@cache
def _cards(folder: Path) -> list[ModelCard]:
    return [
        ModelCard.model_validate_json(path.read_text()) for path in sorted(folder.glob("*.json"))
    ]


def pick_model(available: Sequence[str]) -> str:
    """Choose the shipped model that uses the most bands of an image.

    Of two that use as many, the one made for these bands comes before the one for any bands.

    Args:
        available: Common names of the bands of the image.

    Raises:
        InputError: No shipped model works from these bands.
    """
    cards = shipped_models()
    ranks = [
        (len(card.best_set(available) or ()), -len(card.band_sets), card.name) for card in cards
    ]
    size, _, name = max(ranks, default=(0, 0, ""))
    if size == 0:
        sets = sorted({", ".join(bands) for card in cards for bands in card.band_sets})
        raise InputError(
            f"no shipped model works from the bands {', '.join(available)}; "
            f"they want one of: {'; '.join(sets)}. Name your own with --model"
        )
    return name


def _find(path: str | Path) -> Path:
    """The weights of a model, by their path, that of the card, or the name of a shipped model."""
    if str(path) in {card.name for card in shipped_models()}:
        path = WEIGHTS / str(path)
    return _file(path, ".safetensors")


def _file(path: str | Path, suffix: str) -> Path:
    """The file of a model with that suffix; only the two known suffixes are cut off a name."""
    path = Path(path)
    name = path.stem if path.suffix in (".json", ".safetensors") else path.name
    return path.with_name(name + suffix)
