"""The quality gate, for all of a mission's life: is a model still good enough on its scenes?

A demand that cannot be measured (a surface without scenes, an interval of one group) is not met.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import xarray as xr
import yaml
from pydantic import BaseModel, ConfigDict, Field

from clouddl.errors import InputError, validated
from clouddl.files import write_whole
from clouddl.labels import NODATA, to_mask
from clouddl.model import CloudModel
from clouddl.network import ModelCard, logarithm
from clouddl.score import pooled, reliability
from clouddl.transfer import pixels, predictions, score_masks

Share = Annotated[float, Field(ge=0, le=1)]


ALL = "all"  # the surface of the scores of all scenes


SHOWN = ["surface", "scenes", "units", "cloud", "f2", "f2_low", "f2_high", "precision", "recall"]


class Spec(BaseModel):
    """What is demanded; what is left out is not asked for."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    f2_min: Share | None = None  # of all pixels, pooled
    f2_lower_min: Share | None = None  # lower end of its 95 % interval
    surface_f2_min: Share | dict[str, Share] | None = None  # every surface with cloud, or by name
    calibration_max: Share | None = None  # expected calibration error
    drift_max: Annotated[float, Field(gt=0)] | None = None  # of band means, in training deviations


def read_spec(path: Path | str) -> Spec:
    """Read a YAML file of demands; InputError names the file and the field."""
    try:
        fields = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: not a readable gate specification ({error})") from error
    spec: Spec = validated(Spec, fields or {}, path)
    if not spec.model_dump(exclude_none=True):
        raise InputError(f"{path}: demands nothing; give one of {', '.join(Spec.model_fields)}")
    return spec


@dataclass(frozen=True)
class Verdict:
    """What was found, against what was demanded."""

    card: ModelCard
    rows: pd.DataFrame  # criterion, surface, found, demanded, passed
    scores: pd.DataFrame  # `score.pooled` of all scenes and of each surface
    scenes: pd.DataFrame  # those scored: scene, sensor, biome, sha256, pixel counts
    left_out: dict[str, str]  # scene: why it is not scored

    @property
    def passed(self) -> bool:
        return len(self.rows) > 0 and bool(self.rows.passed.all())

    def markdown(self, title: str = "scenes as given") -> str:
        """The report: verdict, demands, scores with their intervals, scenes."""
        card, left = self.card, pd.DataFrame(self.left_out.items(), columns=["scene", "reason"])
        return f"""# Quality gate: {"passed" if self.passed else "FAILED"}

- written: {datetime.now(UTC):%Y-%m-%d %H:%M} UTC
- scenes: {title}; {len(self.scenes)} scored, {len(left)} left out
- model: {card.name}, CloudDL {card.version}, threshold {card.threshold:g}, {card.resolution:g} m
- sha256 of the weights: {card.weights_sha256 or "not saved"}
{_table("Demands", self.rows.replace({"passed": {True: "yes", False: "**no**"}}))}
Pixels are pooled over scenes. f2_low to f2_high is the 95 % interval of a bootstrap over groups of
scenes (units). A dash stands for what is undefined.
{_table("Scores", self.scores[SHOWN])}
{_table("Scenes", self.scenes[["scene", "sensor", "biome", "sha256"]])}
{_table("Left out", left)}"""

    def write(self, folder: Path | str, title: str = "scenes as given") -> Path:
        """Write gate.csv and gate.md into `folder`, each whole or not at all; returns gate.md."""
        texts = {"gate.csv": self.rows.to_csv(index=False), "gate.md": self.markdown(title)}
        for name, text in texts.items():
            write_whole(Path(folder, name), text.encode())
        return Path(folder, "gate.md")


def _table(title: str, table: pd.DataFrame) -> str:
    """A section of Markdown; numbers with three decimals, NaN as a dash."""
    text = table.map(lambda v: f"{v:.3f}" if isinstance(v, float) else str(v)).replace("nan", "–")
    lines = [[*text.columns], ["---"] * text.shape[1], *text.to_numpy().tolist()]
    rows = "\n".join(f"| {' | '.join(line)} |" for line in lines) if len(text) else "None."
    return f"\n## {title}\n\n{rows}\n"


def run_gate(model: CloudModel, scenes: Mapping[str, xr.Dataset], spec: Spec) -> Verdict:
    """Score `scenes` (`transfer.open_at`, at the model's resolution) and judge by `spec`.

    Left out, and named: scenes without a reference mask, with bands the model cannot work from, or
    that it was trained on. InputError if none is left.
    """
    left_out = {name: why for name, scene in scenes.items() if (why := _unfit(model.card, scene))}
    scenes = {name: scene for name, scene in scenes.items() if name not in left_out}
    if not scenes:
        told = "; ".join(f"{name} {why}" for name, why in left_out.items()) or "there are none"
        raise InputError(f"gate: none of the scenes can be scored: {told}")
    found = predictions(model, scenes)
    table = score_masks({n: to_mask(p, model.card.threshold) for n, p in found.items()}, scenes)
    table["sha256"] = [scene.attrs["sha256"] for scene in scenes.values()]
    table["biome"] = table.biome.replace("", "not told")
    each = pooled(table, by=["biome"]).rename(columns={"biome": "surface"})
    scores = pd.concat([pooled(table).assign(surface=ALL), each], ignore_index=True)
    f2, low = (scores.set_index("surface")[name].to_dict() for name in ("f2", "f2_low"))
    surfaces = spec.surface_f2_min
    if isinstance(surfaces, float):  # F2 says nothing of a surface without any cloud
        surfaces = dict.fromkeys(each.surface[each.cloud > 0], surfaces)
    bins = reliability(*pixels(found, scenes)).dropna()
    error = float(np.average((bins.predicted - bins.observed).abs(), weights=bins.pixels))
    least = [("f2", ALL, f2[ALL], spec.f2_min)]
    least += [("f2 lower bound", ALL, low[ALL], spec.f2_lower_min)]
    least += [("f2", k, f2.get(k, np.nan), limit) for k, limit in (surfaces or {}).items()]
    most = [("calibration error", ALL, error, spec.calibration_max)]
    most += [(f"drift of {k}", ALL, far, spec.drift_max) for k, far in drift(model.card, scenes)]
    # A NaN found is neither above nor below: it does not pass.
    rows = [(f"{what} at least", k, v, x, v >= x) for what, k, v, x in least if x is not None]
    rows += [(f"{what} at most", k, v, x, v <= x) for what, k, v, x in most if x is not None]
    frame = pd.DataFrame(rows, columns=["criterion", "surface", "found", "demanded", "passed"])
    return Verdict(model.card, frame, scores, table, left_out)


def _unfit(card: ModelCard, scene: xr.Dataset) -> str | None:
    """Why a scene cannot be scored with a model, if so."""
    if "mask" not in scene or (scene.mask == NODATA).all():
        return "has no reference mask"
    if card.best_set(bands := scene.band.values.tolist()) is None:
        return f"has {', '.join(bands)}, which the model cannot work from"
    name, sha = scene.attrs["scene"], scene.attrs["sha256"]
    known = name in card.trained_on if sha == "simulated" else sha in card.trained_on.values()
    return "is one the model was trained on" if known else None


def drift(card: ModelCard, scenes: Mapping[str, xr.Dataset]) -> Iterator[tuple[str, float]]:
    """("band of sensor", distance of its mean from the training mean, in training deviations).

    On the scale the card normalises on (logarithm or not). By sensor, so that two do not cancel.
    """
    for sensor in sorted({str(scene.attrs["sensor"]) for scene in scenes.values()}):
        mine = [scene for scene in scenes.values() if scene.attrs["sensor"] == sensor]
        planes = [scene.reflectance.reindex(band=card.bands).values for scene in mine]
        x = torch.from_numpy(np.hstack([p.reshape(len(p), -1) for p in planes])[..., None])
        x = logarithm(x, card.bands) if card.normalisation == "log" else x
        far = (x.double().nanmean((1, 2)) - torch.tensor(card.mean)) / torch.tensor(card.std)
        for band, value in zip(card.bands, far.abs().tolist(), strict=True):
            if not np.isnan(value):  # a band the sensor lacks
                yield f"{band} of {sensor}", value
