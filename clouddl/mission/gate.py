"""The quality gate, for all of a mission's life: is a model still good enough on its scenes?

A demand that cannot be measured (a surface without scenes, an interval of one group) is not met.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import xarray as xr
from pydantic import BaseModel, ConfigDict, Field

from clouddl.errors import InputError, read_yaml, validated
from clouddl.files import write_whole, writing
from clouddl.labels import NODATA, to_mask
from clouddl.model import CloudModel
from clouddl.network import ModelCard, logarithm
from clouddl.score import pooled, reliability
from clouddl.transfer import Scenes, pixels, predictions, score_masks

Fraction = Annotated[float, Field(ge=0, le=1)]

ALL = "all"  # the surface of the scores of all scenes
SHOWN = ["surface", "scenes", "units", "cloud", "f2", "f2_low", "f2_high", "precision", "recall"]


class Spec(BaseModel):
    """What is demanded; what is left out is not asked for.

    Attributes:
        f2_min: F2 of all pixels, pooled.
        f2_lower_min: Lower end of its 95 % interval.
        surface_f2_min: F2 of every surface with cloud, or of surfaces by name.
        calibration_max: Expected calibration error.
        drift_max: Distance of the band means from those of training, in standard deviations.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    f2_min: Fraction | None = None
    f2_lower_min: Fraction | None = None
    surface_f2_min: Fraction | dict[str, Fraction] | None = None
    calibration_max: Fraction | None = None
    drift_max: Annotated[float, Field(gt=0)] | None = None


def read_spec(path: Path | str) -> Spec:
    """Read a YAML file of demands.

    Args:
        path: The file.

    Raises:
        InputError: The message names the file and the field.
    """
    spec: Spec = validated(Spec, read_yaml(path, "gate specification") or {}, path)
    if not spec.model_dump(exclude_none=True):
        raise InputError(f"{path}: demands nothing; give one of {', '.join(Spec.model_fields)}")
    return spec


@dataclass(frozen=True)
class Verdict:
    """What was found, against what was demanded.

    Attributes:
        card: Card of the model.
        rows: A row a demand: criterion, surface, found, demanded, passed.
        scores: `score.pooled` of all scenes and of each surface.
        scenes: A row a scene that was scored: scene, sensor, biome, sha256, pixel counts.
        left_out: Scene → why it was not scored.
    """

    card: ModelCard
    rows: pd.DataFrame
    scores: pd.DataFrame
    scenes: pd.DataFrame
    left_out: dict[str, str]

    @property
    def passed(self) -> bool:
        """Whether there are demands, and all are met."""
        return len(self.rows) > 0 and bool(self.rows.passed.all())

    def markdown(self, title: str) -> str:
        """The report: verdict, demands, scores with their intervals, scenes.

        Args:
            title: What the scenes are called.
        """
        card = self.card
        left_out = pd.DataFrame(self.left_out.items(), columns=["scene", "reason"])
        return f"""# Quality gate: {"passed" if self.passed else "FAILED"}

- written: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC
- scenes: {title}; {len(self.scenes)} scored, {len(left_out)} left out
- model: {card.name}, CloudDL {card.version}, threshold {card.threshold:g}, {card.resolution:g} m
- sha256 of the weights: {card.weights_sha256 or "not saved"}
{_table("Demands", self.rows.replace({"passed": {True: "yes", False: "**no**"}}))}
Pixels are pooled over scenes. f2_low to f2_high is the 95 % interval of a bootstrap over groups of
scenes (units). A dash stands for what is undefined.
{_table("Scores", self.scores[SHOWN])}
{_table("Scenes", self.scenes[["scene", "sensor", "biome", "sha256"]])}
{_table("Left out", left_out)}"""

    def write(self, folder: Path | str, title: str) -> Path:
        """Write gate.csv and gate.md, each whole or not at all.

        Args:
            folder: Where to write.
            title: What the scenes are called.

        Returns:
            The path of gate.md.
        """
        texts = {"gate.csv": self.rows.to_csv(index=False), "gate.md": self.markdown(title)}
        with writing(folder):
            for name, text in texts.items():
                write_whole(Path(folder, name), text.encode())
        return Path(folder, "gate.md")


def _table(title: str, table: pd.DataFrame) -> str:
    """A section of Markdown; numbers with three decimals, NaN as a dash."""
    text = table.map(lambda v: f"{v:.3f}" if isinstance(v, float) else str(v)).replace("nan", "–")
    lines = [[*text.columns], ["---"] * text.shape[1], *text.to_numpy().tolist()]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(text) else "None."
    return f"\n## {title}\n\n{rows}\n"


def run_gate(model: CloudModel, scenes: Scenes, spec: Spec) -> Verdict:
    """Score a model on scenes, and judge it.

    Args:
        model: The model.
        scenes: Scenes by id, as `transfer.open_scenes` gives them.
        spec: What is demanded.

    Returns:
        The verdict. Left out, and named in it, are scenes without a reference mask, with bands the
        model cannot work from, or that it was trained on.

    Raises:
        InputError: No scene can be scored.
    """
    reasons = {name: _unfit(model.card, scene) for name, scene in scenes.items()}
    left_out = {name: reason for name, reason in reasons.items() if reason}
    scenes = {name: scene for name, scene in scenes.items() if name not in left_out}
    if not scenes:
        listed = "; ".join(f"{name} {reason}" for name, reason in left_out.items())
        raise InputError(f"gate: none of the scenes can be scored: {listed or 'there are none'}")
    probabilities = predictions(model, scenes)
    masks = {name: to_mask(p, model.card.threshold) for name, p in probabilities.items()}
    table = score_masks(masks, scenes)
    table["sha256"] = [scene.attrs["sha256"] for scene in scenes.values()]
    table["biome"] = table.biome.replace("", "unknown")
    surfaces = pooled(table, by=["biome"]).rename(columns={"biome": "surface"})
    scores = pd.concat([pooled(table).assign(surface=ALL), surfaces], ignore_index=True)
    bins = reliability(*pixels(probabilities, scenes)).dropna()
    error = float(np.average((bins.predicted - bins.observed).abs(), weights=bins.pixels))
    rows = _judge(spec, scores.set_index("surface"), error, drift(model.card, scenes))
    return Verdict(model.card, rows, scores, table, left_out)


def _judge(
    spec: Spec, scores: pd.DataFrame, error: float, drifts: Iterator[tuple[str, float]]
) -> pd.DataFrame:
    """A row a demand: criterion, surface, found, demanded, passed."""
    demanded = spec.surface_f2_min
    if isinstance(demanded, float):  # F2 says nothing of a surface without any cloud
        cloudy = scores.drop(index=ALL).query("cloud > 0").index
        demanded = dict.fromkeys(cloudy, demanded)
    f2 = scores.f2.to_dict()
    rows = [
        ("f2 at least", ALL, f2[ALL], spec.f2_min),
        ("f2 lower bound at least", ALL, scores.f2_low[ALL], spec.f2_lower_min),
    ]
    for surface, limit in (demanded or {}).items():
        rows.append(("f2 at least", surface, f2.get(surface), limit))
    rows.append(("calibration error at most", ALL, error, spec.calibration_max))
    for name, distance in drifts:
        rows.append((f"drift of {name} at most", ALL, distance, spec.drift_max))
    table = pd.DataFrame(rows, columns=["criterion", "surface", "found", "demanded"])
    table = table.astype({"found": float, "demanded": float})
    table = table.dropna(subset="demanded").reset_index(drop=True)
    # NaN is neither above nor below: what could not be measured does not pass.
    least = table.criterion.str.endswith("least")
    table["passed"] = np.where(least, table.found >= table.demanded, table.found <= table.demanded)
    return table


def _unfit(card: ModelCard, scene: xr.Dataset) -> str | None:
    """Why a scene cannot be scored with a model, if so."""
    bands = scene.band.values.tolist()
    if "mask" not in scene:
        return "has no reference mask"
    if (scene.mask == NODATA).all():
        return "has a reference mask of nodata alone: check its file and label_codes"
    if card.best_set(bands) is None:
        return f"has {', '.join(bands)}, which the model cannot work from"
    name, sha = scene.attrs["scene"], scene.attrs["sha256"]
    known = name in card.trained_on if sha == "simulated" else sha in card.trained_on.values()
    return "is one the model was trained on" if known else None


def drift(card: ModelCard, scenes: Scenes) -> Iterator[tuple[str, float]]:
    """Measure how far the bands of each sensor are from those of training.

    By sensor, so that two do not cancel.

    Args:
        card: Card of the model, whose normalisation (logarithm or not) the distance is taken on.
        scenes: Scenes by id.

    Yields:
        "band of sensor", and the distance of its mean from the training mean in standard
        deviations of the training pixels.
    """
    for sensor in sorted({str(scene.attrs["sensor"]) for scene in scenes.values()}):
        images = [
            scene.reflectance.reindex(band=card.bands).values.reshape(len(card.bands), -1)
            for scene in scenes.values()
            if scene.attrs["sensor"] == sensor
        ]
        x = torch.from_numpy(np.hstack(images)[..., None])
        if card.normalisation == "log":
            x = logarithm(x, card.bands)
        mean = x.double().nanmean((1, 2))
        distance = (mean - torch.tensor(card.mean)) / torch.tensor(card.std)
        for band, value in zip(card.bands, distance.abs().tolist(), strict=True):
            if not np.isnan(value):  # a band the sensor lacks
                yield f"{band} of {sensor}", value
