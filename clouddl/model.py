"""The network and its file: a U-Net, and the card that says what it was trained on.

A model is two files of one stem: `<stem>.safetensors` (weights, no code) and `<stem>.json` (the
card: bands, normalisation, resolution, threshold, training scenes, scores, SHA-256 of the weights).
"""

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from clouddl.errors import InputError, invalid
from clouddl.network import ModelCard, UNet, build, chip_statistics
from clouddl.scale.backends import Network

WEIGHTS = Path(__file__).parent / "weights"


class CloudModel:
    """A network with its card, ready to give cloud probabilities.

    `net` is PyTorch's, in float32; `fast` runs it the way `backend` says (see `clouddl.scale.backends`).
    """

    def __init__(
        self, card: ModelCard, net: UNet, device: str | torch.device | None = None,
        backend: str | None = None,
    ) -> None:  # fmt: skip
        self.card = card
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.net = net.to(self.device).eval()
        self.fast = Network(self.net, card, self.device, backend)

    @torch.inference_mode()
    def probability(
        self, reflectance: np.ndarray, statistics: tuple[Tensor, Tensor] | None = None
    ) -> np.ndarray:
        """Probability of cloud (y, x) float32, NaN where every band is nodata.

        `reflectance` (bands, y, x) float32 in the card's order and at its resolution; a band the
        sensor lacks is all NaN. `statistics`: `chip_statistics` of the whole scene, for tiles.
        """
        if len(reflectance) != len(self.card.bands):
            told = ", ".join(self.card.bands)
            raise InputError(f"model {self.card.name} wants {len(self.card.bands)} bands: {told}")
        values = np.asarray(reflectance, np.float32)
        if self.card.normalisation == "chip":
            statistics = statistics or chip_statistics(torch.from_numpy(values)[None])
        return self.fast(values, *(statistics or ()))


def _file(path: str | Path, suffix: str) -> Path:
    """The file of a model with that suffix; only the two known suffixes are cut off a name."""
    path = Path(path)
    stem = path.stem if path.suffix in (".json", ".safetensors") else path.name
    return path.with_name(stem + suffix)


def save_model(model: CloudModel, stem: str | Path) -> Path:
    """Write `<stem>.safetensors` and `<stem>.json`; returns the path of the card.

    Weights are stored as float16: half the bytes, and the masks stay the same (tested).
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    state = {
        key: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for key, value in model.net.state_dict().items()
    }
    data = save(state)
    model.card.weights_sha256 = hashlib.sha256(data).hexdigest()
    for path, content in (
        (_file(stem, ".safetensors"), data),
        (_file(stem, ".json"), model.card.model_dump_json(indent=1).encode() + b"\n"),
    ):
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_bytes(content)
        temporary.replace(path)
    return _file(stem, ".json")


def read_card(path: str | Path) -> ModelCard:
    """Read a model's card; InputError names the file and what is wrong with it."""
    path = _file(path, ".json")
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return ModelCard.model_validate(fields)
    except FileNotFoundError as error:
        known = ", ".join(card.name for card in shipped_models()) or "none"
        raise InputError(
            f"{path}: there is no such model card. A model is a .json card beside a .safetensors "
            f"file; the shipped ones are: {known}"
        ) from error
    except ValidationError as error:
        raise invalid(path, error) from error
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not a readable model card ({error})") from error


def load_model(
    path: str | Path, device: str | torch.device | None = None, backend: str | None = None
) -> CloudModel:
    """Load a model by path (card or weights), or a shipped one by name.

    The weights must have the SHA-256 that the card gives. `backend`: how to run it, one of
    `clouddl.scale.backends.BACKENDS`, by default the fastest. Raises InputError otherwise.
    """
    if str(path) in {card.name for card in shipped_models()}:
        path = WEIGHTS / str(path)
    path = _file(path, ".safetensors")
    card = read_card(path)
    mend = "fetch or train the model again; card and weights belong together"
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
        if found != card.weights_sha256:
            told = f"its sha256 is {found}, the card says {card.weights_sha256}"
            raise InputError(f"{path}: the weights are broken or of another model ({told}); {mend}")
        net = build(card)
        state = load_file(path)
        net.load_state_dict(
            {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
        )
    except (OSError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{path}: the weights cannot be loaded ({error}); {mend}") from error
    return CloudModel(card, net, device, backend)


def shipped_models() -> list[ModelCard]:
    """The cards of the models inside the package."""
    return [
        ModelCard.model_validate_json(path.read_text()) for path in sorted(WEIGHTS.glob("*.json"))
    ]


def pick_model(available: Sequence[str]) -> str:
    """Name of the shipped model that makes the most of the `available` bands."""
    fitting = [
        (len(found), card.name) for card in shipped_models() if (found := card.best_set(available))
    ]
    if not fitting:
        sets = sorted({", ".join(s) for card in shipped_models() for s in card.band_sets})
        raise InputError(
            f"no shipped model works from the bands {', '.join(available)}; "
            f"they want one of: {'; '.join(sets)}. Name your own with --model"
        )
    return max(fitting)[1]
