"""Training a model on chips.

Lightning runs the loop (early stopping, resume, mixed precision, progress bar). Here are the task,
the sampler of regions, and checkpoints that are no pickles.
"""

import copy
import ctypes
import json
import logging
import shutil
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from safetensors.torch import save
from scipy.special import expit
from torch import Tensor
from torch.utils.data import DataLoader, Sampler, TensorDataset

from clouddl.augment import Augmentation, Batch, average
from clouddl.chips import Chips
from clouddl.errors import InputError
from clouddl.files import write_whole
from clouddl.labels import NODATA
from clouddl.model import CloudModel
from clouddl.network import ModelCard, build, cloud_loss, fill_gaps, logarithm, normalise
from clouddl.score import Pixels, best_threshold, calibration, common_threshold, logits

M_MMAP_MAX, M_TRIM_THRESHOLD = -4, -1  # of mallopt (malloc.h of glibc)

TENSOR = "name of a tensor in this file"  # marks in a checkpoint's JSON where a tensor stands


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        epochs: At most so many.
        batch_size: Chips in a step.
        learning_rate: The highest one of the one-cycle schedule (Smith 2018).
        patience: Epochs without a better validation F2 after which training stops.
    """

    epochs: int = 60
    batch_size: int = 16
    learning_rate: float = 2e-3
    patience: int = 15


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
    """Train a model, or go on with a training that was killed.

    Args:
        card: What to build and train; it is left as it is.
        train: Chips to train on.
        validation: Chips on whose F2 training is stopped early and the threshold is chosen. None:
            train to the last epoch, and keep the card's threshold.
        folder: Gets `checkpoints/last.ckpt`, from which a killed training goes on when it is
            called again, `checkpoints/best.ckpt`, and the curves, `curves/metrics.csv`.
        schedule: How long and how fast to train.
        augmentation: The training effects; default all of them.
        start: A model to begin from (adaptation); `card` then keeps its mean, std and trained_on.
        progress: Whether to show a progress bar; default: on a terminal.

    Returns:
        The best model (without `validation`: the last), its card filled in: mean, std, trained_on,
        threshold and scores.

    Raises:
        InputError: A checkpoint in `folder` is broken.
    """
    _keep_memory()
    folder = Path(folder)
    augmentation = augmentation or Augmentation()
    card = card.model_copy(deep=True)
    if start is None:
        log = card.normalisation == "log"
        card.mean, card.std = train.statistics(lambda x: logarithm(x, card.bands) if log else x)
        card.trained_on = train.sources
    settings = [card.model_dump(), repr(schedule), repr(augmentation)]
    _start_anew_if_changed(folder, [*settings, start and start.card.model_dump()])
    L.seed_everything(card.seed, verbose=False)
    task = CloudTask(card, train.resolution, augmentation, schedule.learning_rate)
    if start is not None:
        task.net.load_state_dict(start.net.state_dict())
    sampler = RegionSampler(train.dataset.group.values.tolist(), card.seed)
    train_loader = _loader(train, schedule.batch_size, sampler)
    validation_loader = _loader(validation, schedule.batch_size) if validation else None
    best, last = (folder / "checkpoints" / name for name in ("best.ckpt", "last.ckpt"))
    progress = sys.stderr.isatty() if progress is None else progress
    with _quiet():
        trainer = _trainer(folder, schedule, len(train_loader), bool(validation), progress)
        resume = str(last) if last.exists() else None
        trainer.fit(task, train_loader, validation_loader, ckpt_path=resume)
    checkpoint = PlainCheckpoints().load_checkpoint(best if validation else last)
    task.load_state_dict(checkpoint["state_dict"])
    model = CloudModel(card, task.net)
    card.scores = {"epochs": trainer.current_epoch}
    if validation:
        return calibrated(model, validation)
    return model


def calibrated(model: CloudModel, validation: Chips) -> CloudModel:
    """Calibrate a model, and choose its threshold on validation: see `score.common_threshold`.

    Real and simulated chips count alike, however many they are: the real ones hold little snow,
    sand and bare soil, the simulated ones are not real. The calibration goes into the last
    convolution, so it costs no time.

    Args:
        model: Left as it is.
        validation: Labelled chips.

    Returns:
        The calibrated model; its card has the threshold and the score `validation_f2`.
    """
    parts = [part for part in validation.real_and_simulated() if len(part)]
    pixels = [on_validation(model, part) for part in parts]
    scale, shift = calibration(pixels)
    net = copy.deepcopy(model.net)
    with torch.no_grad():
        net.last.weight.mul_(scale)
        assert net.last.bias is not None
        net.last.bias.mul_(scale).add_(shift)
    card = model.card.model_copy(deep=True)
    after = [(expit(scale * logits(values) + shift), cloud) for values, cloud in pixels]
    card.threshold, card.scores["validation_f2"] = common_threshold(after)
    return CloudModel(card, net)


def fit_to_end(
    card: ModelCard,
    chips: Path | str,
    folder: Path | str,
    schedule: Schedule,
    *,
    of: str = "all",
    augmentation: Augmentation | None = None,
    progress: bool | None = None,
) -> CloudModel:
    """Train a model to the last epoch, without looking at validation, then calibrate it there.

    Args:
        card: What to build and train; its labels say with which.
        chips: A Zarr of `make_chips`.
        folder: As for `fit`.
        schedule: Its epochs are passes over all training chips, however few are trained on: fits
            of one schedule take as many steps.
        of: Which chips to train on: "all", "real" or "simulated" ones.
        augmentation: The training effects; default all of them.
        progress: As for `fit`.

    Returns:
        The model, calibrated and with its threshold.
    """
    every, validation = (
        Chips.open(chips, card.bands, card.labels, role) for role in ("train", "validation")
    )
    train = every.only(of)
    epochs = round(schedule.epochs * len(every) / len(train))
    schedule = replace(schedule, epochs=epochs)
    model = fit(card, train, None, folder, schedule, augmentation=augmentation, progress=progress)
    return calibrated(model, validation)


def fit_trial(
    point: dict[str, Any],
    *,
    chips: str,
    card: dict[str, Any],
    folder: str,
    epochs: int,
    batch_size: int,
    of: str = "all",
) -> float:
    """Train at a point of `search.SPACE`; takes plain data, so that any process can run it.

    Args:
        point: dropout, base_filters, kernel_size and learning_rate.
        chips: A Zarr of `make_chips`.
        card: Fields of a ModelCard, to which those of the point are added.
        folder: Gets a folder for each point, from which a killed trial goes on.
        epochs: Of the trial.
        batch_size: Chips in a step.
        of: As for `fit_to_end`.

    Returns:
        The validation F2.
    """
    shape = {name: value for name, value in point.items() if name != "learning_rate"}
    own = Path(folder, "-".join(f"{value:.6g}" for value in point.values()))
    schedule = Schedule(epochs, batch_size, point["learning_rate"])
    model = fit_to_end(ModelCard.model_validate(card | shape), chips, own, schedule, of=of)
    return model.card.scores["validation_f2"]


def on_validation(model: CloudModel, chips: Chips) -> Pixels:
    """Predict labelled chips at the working resolution of the model.

    Args:
        model: The model.
        chips: The chips.

    Returns:
        Probability of cloud and whether it is cloud, of all labelled pixels (pixel,).
    """
    probabilities, truths = [], []
    for batch in _loader(chips, 16):
        x, y = at_resolution(*labelled(batch), model.card.resolution / chips.resolution, 1)
        probability = np.stack([model.probability(image) for image in x.numpy()])
        valid = torch.isfinite(y).numpy()
        probabilities.append(probability[valid])
        truths.append(y.numpy()[valid] >= 0.5)
    return np.concatenate(probabilities), np.concatenate(truths)


class CloudTask(L.LightningModule):
    """The network in training; validation F2 is the highest over all thresholds.

    Args:
        card: What to build.
        resolution: Of the chips, in metres.
        augmentation: The training effects.
        learning_rate: The highest one.
    """

    def __init__(
        self, card: ModelCard, resolution: float, augmentation: Augmentation, learning_rate: float
    ) -> None:
        super().__init__()
        self.card = card
        self.resolution = resolution
        self.augmentation = augmentation
        self.learning_rate = learning_rate
        self.net = build(card)
        self.pixels: list[Pixels] = []  # of the validation: as on_validation
        in_sets = [[band in bands for band in card.bands] for bands in card.band_sets]
        self.band_sets = torch.tensor(in_sets)  # (set, band)

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        """Loss of a batch, after all training effects, each image with one of the band sets."""
        # Seeded by the step, not by a running state: a resumed run repeats the same numbers.
        rng = torch.Generator().manual_seed(self.card.seed * 1_000_003 + self.global_step)
        torch.manual_seed(rng.initial_seed())  # dropout uses the global state
        x, y = self.augmentation(
            *labelled(batch), self.resolution, rng, self.card.bands, self.net.multiple
        )
        x = filled(x)  # the gaps that were cut
        choice = torch.randint(0, len(self.band_sets), (len(x),), generator=rng)
        available = self.band_sets[choice].to(x.device)
        x = torch.where(available[:, :, None, None], x, torch.nan)
        loss = cloud_loss(self.net(normalise(x, self.card)), y)
        self.log("loss", loss, on_step=False, on_epoch=True, batch_size=len(x))
        return loss

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        """Keep the probabilities of a batch for `on_validation_epoch_end`."""
        factor = self.card.resolution / self.resolution
        x, y = at_resolution(*labelled(batch), factor, self.net.multiple)
        with torch.autocast(x.device.type, enabled=False):  # scored as it will be used
            probability = self.net(normalise(x, self.card)).sigmoid()
        valid = torch.isfinite(y)
        self.pixels.append((probability[valid].cpu().numpy(), (y[valid] >= 0.5).cpu().numpy()))
        loss = cloud_loss(torch.logit(probability, 1e-6), y)
        self.log("val_loss", loss, batch_size=len(x))

    def on_validation_epoch_end(self) -> None:
        """Log F2 and its threshold."""
        probability, truth = (np.concatenate(parts) for parts in zip(*self.pixels, strict=True))
        self.pixels.clear()
        threshold, f2 = best_threshold(probability, truth)
        self.log_dict({"val_f2": f2, "val_threshold": threshold}, prog_bar=True)

    def configure_optimizers(self) -> Any:
        """Adam with a one-cycle schedule."""
        optimiser = torch.optim.Adam(self.parameters(), self.learning_rate)
        steps = max(1, int(self.trainer.estimated_stepping_batches))
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, self.learning_rate, steps)
        return [optimiser], [{"scheduler": schedule, "interval": "step"}]


def labelled(batch: Sequence[Tensor]) -> Batch:
    """Turn masks into fractions of cloud, and fill gaps of images as prediction does.

    Args:
        batch: Images (n, bands, y, x) and masks (n, y, x): 0 to 1, 255 or NaN where unlabelled.

    Returns:
        Images and fractions of cloud (n, y, x), float32, NaN where unlabelled.
    """
    x, mask = batch
    return filled(x.float()), torch.where(mask == NODATA, torch.nan, mask.float())


def filled(x: Tensor) -> Tensor:
    """Fill gaps as prediction does, see `fill_gaps`.

    Args:
        x: Images (n, bands, y, x), NaN for nodata.

    Returns:
        Images without NaN, but for bands without any value.
    """
    if not x.isnan().any():
        return x
    images = [fill_gaps(image) for image in x.cpu().numpy()]
    return torch.from_numpy(np.stack(images)).to(x.device)


def at_resolution(x: Tensor, y: Tensor, factor: float, multiple: int) -> Batch:
    """Average whole chips to another resolution.

    Args:
        x: Images (n, bands, y, x).
        y: Fraction of cloud (n, y, x).
        factor: Side of a pixel of the result, in pixels of x.
        multiple: The sides of the result are multiples of this.

    Returns:
        The averages of x and y.
    """
    size = max(multiple, int(x.shape[-1] / factor) // multiple * multiple)
    return average(x, y, size)


class RegionSampler(Sampler[int]):
    """Samples chips so that all regions count alike: ten patches of one sea are one sea.

    The sample depends on seed and epoch only, so that a resumed run repeats it; torch's
    WeightedRandomSampler has a running state.

    Args:
        groups: The region of each chip.
        seed: Of the training.
    """

    def __init__(self, groups: list[str], seed: int) -> None:
        weights = np.array([1 / groups.count(group) for group in groups])
        self.probabilities = weights / weights.sum()
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.probabilities)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        return iter(rng.choice(len(self), len(self), p=self.probabilities).tolist())


class PlainCheckpoints(CheckpointIO):
    """Lightning's checkpoints as safetensors, since its own are pickles and pickles run code.

    Tensors go into the file as they are; everything else is JSON in the file's metadata, with
    `{TENSOR: name}` in the place of a tensor.
    """

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        """Write a checkpoint; what JSON does not know becomes text."""
        tensors: dict[str, Tensor] = {}

        def plain(value: Any) -> Any:
            if isinstance(value, Tensor):
                name = str(len(tensors))
                tensors[name] = value.detach().clone().contiguous()
                return {TENSOR: name}
            return value.item() if isinstance(value, np.generic) else str(value)

        structure = json.dumps(checkpoint, default=plain)
        write_whole(Path(path), save(tensors, {"structure": structure}))

    def load_checkpoint(self, path: Any, *_: Any, **__: Any) -> dict[str, Any]:
        """Read a checkpoint; tuples come back as lists."""
        try:
            with safe_open(path, "pt") as stream:

                def rich(fields: dict[str, Any]) -> Any:
                    if TENSOR in fields:
                        return stream.get_tensor(fields[TENSOR])
                    # The state of an optimiser has numbers for keys, which JSON makes texts.
                    return {int(k) if k.isdecimal() else k: v for k, v in fields.items()}

                return json.loads(stream.metadata()["structure"], object_hook=rich)
        except Exception as error:  # safetensors raises a bare Exception subclass for each fault
            raise InputError(
                f"{path}: broken checkpoint ({error}); delete it to start anew"
            ) from error

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint, if it is there."""
        Path(path).unlink(missing_ok=True)


def averaging_decay(steps: int) -> float:
    """Compute the decay that averages weights over about the last tenth of a run.

    So the first ones are forgotten.

    Args:
        steps: Of the whole run.

    Returns:
        The fraction of the average that a step keeps.
    """
    return max(0.5, 1 - 10 / steps)


def _loader(chips: Chips, batch_size: int, sampler: RegionSampler | None = None) -> DataLoader:
    return DataLoader(TensorDataset(*chips.tensors()), batch_size, sampler=sampler)


def _trainer(
    folder: Path, schedule: Schedule, epoch_steps: int, validated: bool, progress: bool
) -> L.Trainer:
    """Lightning's loop, with checkpoints, early stopping, averaging of weights and a bar."""
    checkpoints = folder / "checkpoints"
    callbacks: list[Any] = []
    if validated:
        callbacks += [
            ModelCheckpoint(
                checkpoints, "best", "val_f2", mode="max", enable_version_counter=False
            ),
            EarlyStopping("val_f2", mode="max", patience=schedule.patience),
        ]
    # Each epoch; `save_last` of the first would save only when the best changes.
    callbacks.append(ModelCheckpoint(checkpoints, "last", enable_version_counter=False))
    decay = averaging_decay(schedule.epochs * epoch_steps)
    callbacks.append(EMAWeightAveraging(decay=decay))
    if progress:
        callbacks.append(TQDMProgressBar(refresh_rate=5))
    return L.Trainer(
        max_epochs=schedule.epochs,
        precision=_precision(),
        callbacks=callbacks,
        plugins=[PlainCheckpoints()],
        logger=_curves(folder),
        enable_progress_bar=progress,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        deterministic=True,
        use_distributed_sampler=False,
    )


def _start_anew_if_changed(folder: Path, settings: list[Any]) -> None:
    """Drop the checkpoints of a run with other settings: going on from them would mix the two."""
    record, text = folder / "settings.json", json.dumps(settings, indent=1)
    if record.exists() and record.read_text() != text:
        for stale in ("checkpoints", "curves"):
            shutil.rmtree(folder / stale, ignore_errors=True)
    write_whole(record, text.encode())


def _curves(folder: Path) -> CSVLogger:
    """A logger that adds to the curves of a killed run; CSVLogger deletes what it finds."""
    path = folder / "curves" / "metrics.csv"
    earlier = path.read_text() if path.exists() else ""
    logger = CSVLogger(folder, name="", version="curves", flush_logs_every_n_steps=1)
    writer = logger.experiment
    if earlier:
        path.write_text(earlier)
        writer.metrics_keys = earlier.partition("\n")[0].strip().split(",")
    return logger


def _keep_memory() -> None:
    """Have glibc keep the memory of freed tensors for the next step, as GPU allocators do.

    By default it gives large blocks back to the system and asks for them again, zeroed, which took
    a third of the time of a fit on two cores. Another C library has no `mallopt`: nothing happens.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


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
