# ---
# jupyter:
#   jupytext:
#     cell_metadata_filter: tags,-all
#     formats: py:percent,ipynb
#     notebook_metadata_filter: kernelspec,-jupytext.text_representation.jupytext_version
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 11. The life of a new sensor
#
# **What you will see.** A sensor from its card to retirement: a coarse model before launch and what to
# expect of it; a first reference set, labelled with few clicks; a refined model, and how many labelled
# scenes it takes, on a drawn sensor and on Landsat 8 as the real newcomer; and the quality gate that
# the ageing sensor fails, until the model is trained again.
#
# **Prerequisites.** Chips of {doc}`01_data_preparation` and models of {doc}`03_hyperopt_search` (else
# those that ship). **Time.** Some minutes. `card` may be a name or the path of a card of your own.

# %% tags=["parameters"]
card: str = "co3d"  # name of a sensor, or path of a card
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
simulated: int = 816  # scenes simulated to train on, beside the real ones
seed: int = 0  # of fits, drawn scenes and the bootstrap
epochs: int = 8  # of the coarse model
draws: int = 6  # samples of an open specification
places: int = 20  # drawn places that each is scored on
shots: list[int] = [0, 1, 2, 4, 8]  # labelled scenes of the new sensor to refine with
refine_epochs: int = 60  # of each refinement
years: list[int] = [0, 1, 2, 3, 4, 5, 6, 7]  # of service, for the gate
gain_loss: float = 0.06  # of the signal, a year
noise_rise: float = 0.004  # reflectance, a year

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from clouddl import figures
from clouddl.chips import Chips, cut_chips
from clouddl.mission.degrade import degrade
from clouddl.mission.gate import Spec, run_gate
from clouddl.mission.preflight import coarse_model, expected, working_bands, working_resolution
from clouddl.score import pooled
from clouddl.sensors import get_sensor
from clouddl.simulate import simulate_set
from clouddl.train import Schedule, fit
from clouddl.transfer import (  # fmt: skip
    adapt,
    evaluate,
    left_out,
    model_method,
    open_scenes,
    teaching_order,
)
from clouddl_study import tables
from clouddl_study.corpora import open_corpus, study_chips, training_labels
from clouddl_study.experiments import simulated_person
from clouddl_study.workspace import results_folder, trained_model, work_folder, write_table

figures.style()

# %% [markdown]
# ## 1. Before launch
#
# Bands shared with Sentinel-2, lowered resolution, the archive to train on. Scores are on drawn scenes;
# while figures of the card are ranges, each row is another sample of them.

# %%
sensor = get_sensor(card)
catalogue, store = open_corpus(corpus, mirror or None)
path = study_chips(catalogue, store, work, simulated)
labels = training_labels("auto", catalogue)
runs = work_folder(work) / "runs"
resolution = working_resolution(sensor)
coarse = coarse_model(
    sensor, path, labels, runs / f"{sensor.id}-preflight", epochs=epochs, seed=seed
)
before = expected(coarse, sensor, draws=draws, places=places)
print(f"{sensor.title}: {', '.join(working_bands(sensor))} at {resolution:g} m")

# %% tags=["hide-input"]
shown = ["scenes", "f2", "f2_low", "f2_high", "f1", "precision", "recall"]
tables.show(write_table(work, "life_preflight", before[["draw", *shown]].round(3)))

# %% [markdown]
# ## 2. First images
#
# After launch the specification is one sample, which the study does not know: it draws the "real"
# instrument from a seed of its own. A drawn person labels points of one scene, as with `clouddl label`,
# from the truth; a random forest fills in the rest, and proposes where to click next.

# %%
flying = sensor.sample(7_777 + seed)
first = simulate_set(flying, 12, seed=40_000 + seed, resolution=resolution, role="train")
cloudy = {n: s for n, s in first.items() if 0.05 < float((s.mask == 1).mean()) < 0.7}
clicks = pd.concat(
    [
        simulated_person(s, s.mask.values, rounds=6, per_round=10, seed=seed).assign(scene=n)
        for n, s in list(cloudy.items())[:5]
    ]
)
by_round = clicks.groupby("round")[["points", "minutes", "f2", "accuracy"]].mean().reset_index()

# %% tags=["hide-input"]
tables.show(
    write_table(work, "life_labels", by_round.round({"minutes": 1, "f2": 3, "accuracy": 3}))
)

# %% [markdown]
# Minutes are points times an assumed time for each; looking at the image and correcting is not in it.
#
# ## 3. Refinement
#
# The coarse model goes on training with the labelled scenes, or a new one is trained with them alone.
# Scores are on other scenes. The same with Landsat 8, which is real: its newcomer's model is SPOT's,
# trained on Sentinel-2 and drawn scenes; the scenes to learn from are named, the others score.


# %%
def learn(start, scenes, name, anew):
    if not anew:
        return adapt(start, scenes, runs / name, epochs=refine_epochs)
    size = max(next(iter(scenes.values())).sizes["y"], 64)
    bands = start.card.bands
    chips = Chips(
        cut_chips(scenes.values(), bands=bands, sources=["truth"], size=size).isel(source=0)
    )
    blank = start.card.model_copy(update={"name": name, "trained_on": {}, "mean": [], "std": []})
    model = fit(blank, chips, None, runs / name, Schedule(3 * refine_epochs, batch_size=4))
    model.card.threshold = 0.5
    return model


def curve(start, taught, left, name):
    rows, refined = [], start
    for count in shots:
        for way in ("refined", "trained anew"):
            if count == 0 and way != "refined":
                continue
            some = dict(list(taught.items())[:count])
            label = f"{name}-{count}-{way.split()[0]}"
            model = learn(start, some, label, way != "refined") if count else start
            table = evaluate({way: model_method(model)}, left).counts
            rows.append(table.assign(**{"of": name, "way": way, "labelled scenes": count}))
            refined = model if way == "refined" else refined
    return pd.concat(rows), refined


rng = np.random.default_rng(seed)
left = simulate_set(flying, places, seed=50_000 + seed, resolution=resolution)
drawn_rows, refined = curve(coarse, first, left, sensor.id)

# %% [markdown]
# Landsat 8's scenes to learn from are one of each biome, as a team would spread its first labels: the
# first by name that holds both cloud and clear ground, else the first. Biomes with both come first.

# %%
references = [s for s in catalogue.select("reference") if s.sensor == "landsat-8"]
start = trained_model(work, "spot")
opened = open_scenes(references, store, start.card.resolution)
taught = {n: opened[n] for n in teaching_order(opened)[: max(shots)]}
others = left_out(opened, taught)
real_rows, _ = curve(start, taught, others, "landsat-8")
print(f"learnt from, in this order: {', '.join(taught)}; scored on {len(others)} others")

# %% tags=["hide-input"]
both = pd.concat([drawn_rows, real_rows])
refinement = pooled(both, by=["of", "way", "labelled scenes"], seed=seed)
tables.show(
    write_table(
        work, "life_refinement", refinement[["of", "way", "labelled scenes", *shown]].round(3)
    )
)

# %% tags=["hide-input"]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), sharey=True)
for axis, (name, part) in zip(axes, refinement.groupby("of", sort=False), strict=True):
    for way, line in part.groupby("way", sort=False):
        axis.errorbar(
            line["labelled scenes"], line.f2, yerr=[line.f2 - line.f2_low, line.f2_high - line.f2],
            fmt="o-", capsize=3, label=way,
        )  # fmt: skip
    real = "real" if catalogue.name != "simulated" and name == "landsat-8" else "simulated"
    axis.set(title=f"{name} ({real})", xlabel="labelled scenes")
axes[0].set_ylabel("F2 (95 % interval)")
axes[0].legend()
figures.save(figure, results_folder(work) / "life_refinement.png")
plt.close(figure)
figure

# %% [markdown]
# ## 4. The gate, for life
#
# The sensor ages: year by year it loses signal and its noise rises. Each year the gate scores the
# refined model on that year's reference scenes. Its demands were written at acceptance, from what the
# model showed then. In the year it fails, the model learns from eight labelled scenes of that year.


# %%
def aged(scenes, year):
    lost = {n: degrade(s, "gain", -gain_loss * year, seed) for n, s in scenes.items()}
    return {n: degrade(s, "noise", noise_rise * year, seed) for n, s in lost.items()}


# As the gate is handed them: each place of one scene, and none of those the model learnt from.
first_year = run_gate(refined, left, Spec(f2_min=0.0))
accepted = float(first_year.scores.f2.iloc[0])
spec = Spec(f2_min=round(accepted - 0.02, 3), drift_max=1.5)
rows, serving, retrained = [], refined, False
for year in years:
    verdict = run_gate(serving, aged(left, year), spec)
    passed, again = verdict.passed, ""
    failed = ", ".join(verdict.rows.criterion[~verdict.rows.passed])
    if not passed:
        serving = adapt(
            serving, dict(list(aged(first, year).items())[:8]), runs / f"{sensor.id}-year-{year}",
            epochs=refine_epochs,
        )  # fmt: skip
        after = run_gate(serving, aged(left, year), spec)
        again = f"{after.scores.f2.iloc[0]:.3f}, {'passed' if after.passed else 'failed'}"
    rows.append(
        {
            "year": year,
            "F2": round(float(verdict.scores.f2.iloc[0]), 3),
            "demanded": spec.f2_min,
            "gate": "passed" if passed else "FAILED",
            "not met": failed or "–",
            "F2 after training again": again or "–",
        }
    )

# %% tags=["hide-input"]
tables.show(write_table(work, "life_gate", pd.DataFrame(rows)))

# %% [markdown]
# **What we learnt.** The order of things is what carries over to a mission: an expectation with its
# spread before launch, hours of labelling after it, a curve that says when more labels stop paying, and
# a gate that notices ageing before its users do. The levels are of drawn scenes, but for Landsat 8.
