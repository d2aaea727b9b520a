"""Training: augmentation that makes transfer plausible, the loss of 2020, and fitting.

Lightning runs the loop (early stopping, checkpoints, resume, mixed precision, progress bar);
what is here is what is special to clouds seen by more than one sensor.
"""

import json
import logging
import math
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.fabric.plugins.io import CheckpointIO
from lightning.pytorch.callbacks import (
    EarlyStopping,
    EMAWeightAveraging,
    ModelCheckpoint,
    TQDMProgressBar,
)
from lightning.pytorch.loggers import CSVLogger
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler, TensorDataset

from clouddl.augment import Augmentation
from clouddl.chips import Chips
from clouddl.errors import InputError
from clouddl.labels import NODATA
from clouddl.model import CloudModel
from clouddl.network import ModelCard, build, cloud_loss, logarithm, normalise
from clouddl.score import best_threshold


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: At most.
        batch_size: Chips in a step.
        learning_rate: The highest of the one-cycle schedule.
        patience: Epochs without a better validation F2 after which training stops.
    """

    epochs: int = 60
    batch_size: int = 16
    learning_rate: float = 2e-3
    patience: int = 15


class CloudTask(L.LightningModule):
    """The network in training; validation F2 is pooled, at its best threshold on validation."""

    def __init__(
        self,
        card: ModelCard,
        chips_resolution: float,
        augmentation: Augmentation,
        learning_rate: float,
    ) -> None:
        super().__init__()
        self.card, self.own, self.augmentation = card, chips_resolution, augmentation
        self.learning_rate = learning_rate
        self.net = build(card)
        self.seen: list[tuple[np.ndarray, np.ndarray]] = []
        keep = [[band in bands for band in card.bands] for bands in card.band_sets]
        self.keep: Tensor
        self.register_buffer("keep", torch.tensor(keep), persistent=False)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        # Seeded by the step, not by a running state: a resumed run sees what it would have seen.
        rng = torch.Generator().manual_seed(self.card.seed * 1_000_003 + self.global_step)
        torch.manual_seed(rng.initial_seed())  # dropout draws from the global state
        names, multiple = self.card.bands, self.net.multiple
        x, y = self.augmentation(*labelled(batch), self.own, rng, names, multiple)
        choice = torch.randint(0, len(self.keep), (len(x),), generator=rng)
        x = torch.where(self.keep[choice][:, :, None, None], x, torch.nan)
        loss = cloud_loss(self.net(normalise(x, self.card)), y)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        x, y = at_resolution(*labelled(batch), self.card.resolution / self.own, self.net.multiple)
        with torch.autocast(x.device.type, enabled=False):  # scored as it will be used
            probability = self.net(normalise(x, self.card)).sigmoid()
        valid = torch.isfinite(y)
        self.seen.append((probability[valid].cpu().numpy(), (y[valid] >= 0.5).cpu().numpy()))
        loss = cloud_loss(torch.logit(probability, 1e-6), y)
        self.log("val_loss", loss, batch_size=len(x))

    def on_validation_epoch_end(self) -> None:
        probability, truth = (np.concatenate(parts) for parts in zip(*self.seen, strict=True))
        self.seen.clear()
        threshold, f2 = best_threshold(probability, truth)
        self.log_dict({"val_f2": f2, "val_threshold": threshold}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        optimiser = torch.optim.Adam(self.parameters(), self.learning_rate)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.learning_rate, steps)
        return [optimiser], [{"scheduler": schedule, "interval": "step"}]


def labelled(batch: list[Tensor]) -> tuple[Tensor, Tensor]:
    """(x, y) with y as float fractions, NaN where unlabelled."""
    x, mask = batch
    return x.float(), torch.where(mask == NODATA, torch.nan, mask.float())


def at_resolution(x: Tensor, y: Tensor, factor: float, multiple: int) -> tuple[Tensor, Tensor]:
    """Whole chips at the working resolution, trimmed to what the network takes."""
    size = max(multiple, int(x.shape[-1] / factor) // multiple * multiple)
    x = nn.functional.interpolate(x, (size, size), mode="area")
    return x, nn.functional.interpolate(y[:, None], (size, size), mode="area")[:, 0]


class RegionSampler(Sampler[int]):
    """Draws chips so that each region counts alike: ten patches of one sea are one sea.

    The draw depends on (seed, epoch) only, so that a resumed run repeats it.
    """

    def __init__(self, groups: list[str], seed: int) -> None:
        self.share = np.array([1 / groups.count(group) for group in groups])
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.share)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        share = self.share / self.share.sum()
        return iter(rng.choice(len(share), len(share), p=share).tolist())


class PlainCheckpoints(CheckpointIO):
    """Lightning's checkpoints as safetensors, since its own are pickles and pickles run code.

    Tensors go into the file as they are; everything else is JSON in the file's metadata.
    """

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        tensors: dict[str, Tensor] = {}

        def plain(value: Any) -> Any:
            if isinstance(value, Tensor):
                tensors[key := f"t{len(tensors)}"] = value.detach().clone().contiguous()
                return {"tensor": key}
            if isinstance(value, dict):
                return {"items": [[key, plain(item)] for key, item in value.items()]}
            if isinstance(value, list | tuple):
                return {"list": [plain(item) for item in value]}
            if isinstance(value, np.generic):
                return value.item()
            return value if isinstance(value, str | int | float | bool | None) else str(value)

        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}")
        structure = json.dumps(plain(checkpoint))
        save_file(tensors or {"none": torch.zeros(1)}, temporary, {"structure": structure})
        temporary.replace(path)

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        try:
            with safe_open(path, "pt") as stream:
                structure = json.loads(stream.metadata()["structure"])
                tensors = {key: stream.get_tensor(key) for key in stream.keys()}  # noqa: SIM118
        except Exception as error:  # safetensors raises a bare Exception subclass for each fault
            raise InputError(
                f"{path}: broken checkpoint ({error}); delete it to start anew"
            ) from error

        def rich(value: Any) -> Any:
            if not isinstance(value, dict):
                return value
            if "tensor" in value:
                return tensors[value["tensor"]]
            if "items" in value:
                return {key: rich(item) for key, item in value["items"]}
            return [rich(item) for item in value["list"]]

        return rich(structure)

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def fit(
    card: ModelCard,
    train: Chips,
    validation: Chips | None,
    folder: Path | str,
    schedule: Schedule = Schedule(),
    *,
    augmentation: Augmentation | None = None,
    start: CloudModel | None = None,
    progress: bool | None = None,
) -> CloudModel:
    """Train a model; with `validation`, stop early on its F2 and choose the threshold on it.

    Without, the run goes to its last epoch, and the threshold is the caller's to choose.
    `card` says what to build; its mean, std, trained_on, threshold and scores are filled in here.
    `folder` keeps `checkpoints/last.ckpt` (a run that was killed goes on from it when called
    again), `checkpoints/best.ckpt` and the learning curves, `curves/metrics.csv`. `start`
    gives weights to begin from (adaptation). `progress` defaults to whether a terminal watches.
    """
    folder = Path(folder)
    progress = sys.stderr.isatty() if progress is None else progress
    augmentation = augmentation or Augmentation()
    card = card.model_copy(deep=True)
    if start is None:
        log = card.normalisation == "log"
        card.mean, card.std = train.statistics(lambda x: logarithm(x, card.bands) if log else x)
        card.trained_on = train.sources
    settings = [card.model_dump(), repr(schedule), repr(augmentation)]
    _start_anew_if_changed(folder, [*settings, start.card.model_dump() if start else None])
    L.seed_everything(card.seed, verbose=False)
    task = CloudTask(card, train.resolution, augmentation, schedule.learning_rate)
    if start is not None:
        task.net.load_state_dict(start.net.state_dict())
    shelf = folder / "checkpoints"
    best = ModelCheckpoint(shelf, "best", "val_f2", mode="max", enable_version_counter=False)
    # Every epoch, and after `best`, whose state it holds: save_last follows the best alone.
    last = ModelCheckpoint(shelf, "last", enable_version_counter=False)
    stop = EarlyStopping("val_f2", mode="max", patience=schedule.patience)
    callbacks: list[Any] = [best, last, stop] if validation else [last]
    # Weights are averaged over about the last tenth of a run, so that the first ones are forgotten.
    steps = schedule.epochs * math.ceil(len(train.dataset.chip) / schedule.batch_size)
    callbacks.append(EMAWeightAveraging(decay=max(0.5, 1 - 10 / steps)))
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=5))
    sampler = RegionSampler(train.dataset.group.values.tolist(), card.seed)
    shown = DataLoader(TensorDataset(*train.tensors()), schedule.batch_size, sampler=sampler)
    held = DataLoader(TensorDataset(*validation.tensors()), schedule.batch_size) if validation else None
    resume = folder / "checkpoints" / "last.ckpt"
    with _quiet():
        trainer = L.Trainer(
            max_epochs=schedule.epochs,
            precision=_precision(),
            callbacks=callbacks,
            plugins=[PlainCheckpoints()],
            logger=_curves(folder),
            enable_progress_bar=progress,
            enable_model_summary=False,
            log_every_n_steps=1,
            num_sanity_val_steps=0,
            deterministic=True,
            use_distributed_sampler=False,
        )
        trainer.fit(task, shown, held, ckpt_path=str(resume) if resume.exists() else None)
    kept = best.best_model_path if validation else folder / "checkpoints" / "last.ckpt"
    task.load_state_dict(PlainCheckpoints().load_checkpoint(kept)["state_dict"])
    model = CloudModel(card, task.net)
    card.scores = {"epochs": trainer.current_epoch}
    if validation:
        found = on_validation(model, validation)
        card.threshold, card.scores["validation_f2"] = best_threshold(*found)
    return model


def fit_trial(
    point: dict[str, Any], *, chips: str, grounds: bool, card: dict[str, Any], folder: str,
    epochs: int, batch_size: int,
) -> float:  # fmt: skip
    """The validation F2 of a short fit at a point of `search.SPACE`: plain data in and out.

    Any process that sees `chips` (a Zarr of `make_chips`) and `folder` can run it. `card`: fields
    of a ModelCard, to which the point adds its own; `grounds`: train on simulated scenes too. A trial
    that was killed goes on from its checkpoint, which lies in `folder` by the point's values.
    """
    shape = {k: v for k, v in point.items() if k != "learning_rate"}
    whole = ModelCard.model_validate(card | shape)
    train, validation = (
        Chips.open(chips, whole.bands, whole.labels, role) for role in ("train", "validation")
    )
    model = fit(
        whole,
        train if grounds else train.without_simulated(),
        validation,
        Path(folder, "-".join(f"{v:.6g}" for v in point.values())),
        Schedule(epochs, batch_size, point["learning_rate"], patience=epochs),
    )
    return model.card.scores["validation_f2"]


def _start_anew_if_changed(folder: Path, settings: list[Any]) -> None:
    """Drop the checkpoints of a run with other settings: going on from them would mix the two."""
    record, told = folder / "settings.json", json.dumps(settings, indent=1)
    if record.exists() and record.read_text() != told:
        for stale in ("checkpoints", "curves"):
            shutil.rmtree(folder / stale, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    record.write_text(told)


def _curves(folder: Path) -> CSVLogger:
    """A logger that adds to the curves of a killed run; CSVLogger deletes what it finds."""
    path = folder / "curves" / "metrics.csv"
    kept = path.read_text() if path.exists() else ""
    logger = CSVLogger(folder, name="", version="curves", flush_logs_every_n_steps=1)
    writer = logger.experiment
    if kept:
        path.write_text(kept)
        writer.metrics_keys = kept.partition("\n")[0].strip().split(",")
    return logger


def on_validation(model: CloudModel, chips: Chips) -> tuple[np.ndarray, np.ndarray]:
    """Probability and truth of every labelled pixel of `chips`, at the working resolution."""
    found = []
    for batch in DataLoader(TensorDataset(*chips.tensors()), 16):
        x, y = at_resolution(*labelled(batch), model.card.resolution / chips.resolution, 1)
        for image, truth in zip(x.numpy(), y.numpy(), strict=True):
            valid = np.isfinite(truth)
            found.append((model.probability(image)[valid], truth[valid] >= 0.5))
    return np.concatenate([p for p, _ in found]), np.concatenate([t for _, t in found])


def _precision() -> Any:
    """Mixed precision where the hardware gains by it: CUDA, or a CPU that multiplies bfloat16."""
    if torch.cuda.is_available():
        return "16-mixed"
    return "bf16-mixed" if torch.cpu._is_avx512_bf16_supported() else "32-true"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's advice on workers and hardware out of pages and terminals."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning.*")
        try:
            yield
        finally:
            logger.setLevel(level)
