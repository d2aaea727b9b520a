"""Training and data preparation through the project's own code, timed."""

import os
import tempfile
import time
from dataclasses import asdict
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch.utils.data import DataLoader, TensorDataset

from clouddl import train
from clouddl.augment import CROP, Augmentation
from clouddl.chips import Chips, cut_chips
from clouddl.files import Store
from clouddl.model import load_model
from clouddl.network import ModelCard, logarithm, normalise
from clouddl.scale.backends import has_half
from clouddl.scenes import Scene, load_catalogue, open_scene, store_of

BANDS = ["blue", "green", "red", "nir", "swir16", "swir22"]
SIZE, BATCH = 256, 8


def _chips(count: int) -> Chips:
    """Chips of noise with clouds of 32 pixels; what they show does not change what they cost."""
    rng = np.random.default_rng(0)
    shape = count, len(BANDS), SIZE, SIZE
    about = {"scene": [f"s{n}" for n in range(count)], "group": [f"g{n}" for n in range(count)]}
    mask = rng.integers(0, 2, (count, SIZE // 32, SIZE // 32)).repeat(32, 1).repeat(32, 2)
    return Chips(xr.Dataset(
        {"image": (("chip", "band", "y", "x"), rng.uniform(0, 0.6, shape).astype(np.float32)),
         "mask": (("chip", "y", "x"), mask.astype(np.uint8))},
        {"band": BANDS, **{key: ("chip", values) for key, values in about.items()},
         "sha256": ("chip", ["0"] * count), "role": ("chip", ["train"] * count)},
        {"resolution": 30.0},
    ))  # fmt: skip


def rows(quick: bool) -> list[dict[str, Any]]:
    """Patches a second of 256 × 256 × 6 by the plain U-Net and ours, and as the study trains."""
    chips = _chips(BATCH * (4 if quick else 20))
    ours = load_model("any").card
    own = {"base_filters": ours.base_filters, "depth": ours.depth, "stem": ours.stem}
    plain = {"base_filters": 16, "depth": 4, "stem": 1}
    whole = Augmentation(resolution=(30.0, 30.0), crop=SIZE)
    table = []
    for name, shape, side, augmentation in (
        ("plain U-Net", plain, SIZE, whole), ("CloudDL", own, SIZE, whole),
        ("CloudDL, as the study trains", own, CROP, Augmentation()),
    ):  # fmt: skip
        card = ModelCard.model_validate(
            {"name": "speed", "bands": BANDS, "resolution": 30.0, "normalisation": "log", **shape}
        )
        seconds, waiting = _fit(card, chips, augmentation), _waiting(card, chips, augmentation)
        table.append({
            "Training": f"{name}, {side} × {side} × {len(BANDS)}, batch {BATCH}",
            "Filters, depth, stem": ", ".join(str(each) for each in shape.values()),
            "Patches/s": f"{len(chips.dataset.chip) / seconds:.1f}",
            "Waiting for data %": f"{100 * waiting:.2f}",
        })  # fmt: skip
    return table


class _Clock(Augmentation):
    """Augmentation that notes when each step begins."""

    steps: ClassVar[list[float]] = []

    def __call__(self, *arguments: Any) -> tuple[torch.Tensor, torch.Tensor]:
        self.steps.append(time.perf_counter())
        return super().__call__(*arguments)


def _fit(card: ModelCard, chips: Chips, augmentation: Augmentation) -> float:
    """Seconds of an epoch of `train.fit` once it is warm, with what stands between two epochs."""
    _Clock.steps.clear()
    with tempfile.TemporaryDirectory() as folder:
        train.fit(card, chips, None, folder, train.Schedule(3, BATCH), progress=False,
                  augmentation=_Clock(**asdict(augmentation)))  # fmt: skip
    epoch = len(_Clock.steps) // 3
    return _Clock.steps[2 * epoch] - _Clock.steps[epoch]


def _waiting(card: ModelCard, chips: Chips, augmentation: Augmentation) -> float:
    """Share of an epoch spent on getting batches, with the same steps but without Lightning."""
    card = card.model_copy(deep=True)
    card.mean, card.std = chips.statistics(lambda x: logarithm(x, card.bands))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.float16 if device.type == "cuda" else torch.bfloat16
    task = train.CloudTask(card, chips.resolution, augmentation, 1e-3).to(device)
    optimiser = torch.optim.Adam(task.parameters())
    rng = torch.Generator().manual_seed(0)
    waited, start = 0.0, time.perf_counter()
    shown = iter(DataLoader(TensorDataset(*chips.tensors()), BATCH, shuffle=True))
    while True:
        asked = time.perf_counter()
        batch = next(shown, None)
        waited += time.perf_counter() - asked
        if batch is None:
            return waited / (time.perf_counter() - start)
        x, y = train.labelled([part.to(device) for part in batch])
        x, y = augmentation(x, y, chips.resolution, rng, BANDS, task.net.multiple)
        with torch.autocast(device.type, dtype, enabled=has_half(device)):
            loss = train.cloud_loss(task.net(normalise(x, card)), y)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()


def preparation_rows(quick: bool) -> list[dict[str, Any]]:
    """Seconds a scene, from its file (or from nothing, if it is simulated) to labelled chips."""
    simulated = [
        Scene.model_validate({
            "id": f"simulated-{seed}", "collection": "simulated", "sensor": "sentinel-2",
            "role": "train",
            "resolution": 30.0, "group": "g", "bands": BANDS,
            "simulated": {"seed": seed, "size": 512, "surface": "mixed"},
        }) for seed in range(2)
    ]  # fmt: skip
    some = {"simulated, 512 × 512": (simulated, Store(None))}
    if "CLOUDDL_MIRROR" in os.environ:
        real = load_catalogue("real")
        some["real, of the archive"] = (
            real.select("train")[: 3 if quick else 12],
            store_of(real, None),
        )
    table = []
    for name, (scenes, store) in some.items():
        start = time.perf_counter()
        opened = [open_scene(scene, store) for scene in scenes]
        opening = time.perf_counter()
        for scene in opened:
            bands = [band for band in BANDS if band in scene.band.values]
            cut_chips(
                [scene], bands=bands, sources=["s2cloudless" if "mask" not in scene else "truth"]
            )
        cut = time.perf_counter()
        table.append({
            "Scenes": f"{name} ({len(scenes)})",
            "Opening, s a scene": f"{(opening - start) / len(scenes):.2f}",
            "Labels and chips, s a scene": f"{(cut - opening) / len(scenes):.2f}",
        })  # fmt: skip
    return table
