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
# # 5. Transfer to a sensor never seen
#
# **What you will see.** The models on Landsat 5 and 8, cut to the bands of SPOT and of Pléiades: first
# with no image of those sensors in training, then after adapting with a handful of named scenes.
#
# **Landsat is a stand-in.** SPOT images with reference masks could not be had. Landsat 5 has nearly
# SPOT-4's bands, at 30 m for 20 m; Landsat 8 is narrower and far less noisy. Neither is SPOT.
#
# **Prerequisites.** Models of {doc}`03_hyperopt_search` (else those that ship). **Time.** Minutes.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
seed: int = 0  # of the bootstrap
draws: int = 2000  # of the bootstrap
adaptation_scenes: int = 8  # labelled scenes to adapt with, which are not scored
adaptation_epochs: int = 30  # passes over them

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from myst_nb import glue

from clouddl import figures
from clouddl.chips import SOFT
from clouddl.labels import LABEL_SOURCES
from clouddl.mission.classical import spectral_method
from clouddl.score import f_beta, paired, pooled
from clouddl.sensors import BAND_SETS, get_sensor, shared_bands
from clouddl.transfer import (
    adapt,
    all_cloud,
    evaluate,
    left_out,
    model_method,
    open_scenes,
    processor_method,
    teaching_order,
)
from clouddl_study import tables
from clouddl_study.corpora import open_corpus
from clouddl_study.workspace import results_folder, trained_model, work_folder, write_table

figures.style()

# %% [markdown]
# ## What the sensors share

# %%
others = [get_sensor(n) for n in ("spot-4", "spot-5", "pleiades", "landsat-5", "landsat-8")]
shared = {s.title: ", ".join(shared_bands(get_sensor("sentinel-2"), s)) for s in others}
tables.show(pd.DataFrame(shared.items(), columns=["sensor", "bands shared with Sentinel-2"]))

# %%
catalogue, store = open_corpus(corpus, mirror or None)
models = {name: trained_model(work, name) for name in (*BAND_SETS, "any")}
resolution = models["spot"].card.resolution
references = [s for s in catalogue.select("reference") if s.sensor != "sentinel-2"]
scenes = open_scenes(references, store, resolution)
sets = {
    sensor: {n: s for n, s in scenes.items() if s.attrs["sensor"] == sensor}
    for sensor in dict.fromkeys(s.attrs["sensor"] for s in scenes.values())
}
{sensor: len(part) for sensor, part in sets.items()}

# %% [markdown]
# ## No image of the sensor in training
#
# Thresholds are those chosen on validation scenes, Sentinel-2 and simulated. Beside the network stand a
# trivial baseline, a classical rule of published thresholds, and ukis-csmask, a network of DLR which was
# trained on hand-labelled Landsat 8 and Sentinel-2 images.


# %%
methods = {}
for name, use in BAND_SETS.items():
    methods[f"CloudDL: {', '.join(use)}"] = model_method(models[name], use)
    methods[f"CloudDL, one model for any bands: {', '.join(use)}"] = model_method(
        models["any"], use
    )
ours = f"CloudDL: {', '.join(BAND_SETS['spot'])}"
tests = f"spectral tests: {', '.join(BAND_SETS['spot'])}"
shelf = work_folder(work) / "models"
others = {"real images alone": "spot-real", "simulated images alone": "spot-simulated"}
others["labels of the spectral tests alone"] = "spot-spectral-tests"
for trained, name in others.items():
    if (shelf / f"{name}.json").exists():
        methods[f"CloudDL, {trained}: {', '.join(BAND_SETS['spot'])}"] = model_method(
            trained_model(work, name)
        )
methods |= {"everything is cloud": all_cloud(), tests: spectral_method(BAND_SETS["spot"])}
if catalogue.name != "simulated":
    methods["ukis-csmask: blue, green, red, nir"] = processor_method(4)

# %%
evaluations = {sensor: evaluate(methods, part) for sensor, part in sets.items()}
masks = {sensor: evaluation.masks for sensor, evaluation in evaluations.items()}
per_scene = pd.concat([evaluation.counts for evaluation in evaluations.values()])
scores = pooled(per_scene, by=["sensor", "run"], draws=draws, seed=seed)

# %% tags=["hide-input"]
shown = ["run", "scenes", "f2", "f2_low", "f2_high", "f1", "precision", "recall", "iou", "accuracy"]
tables.show(write_table(work, "scores_transfer", scores[["sensor", *shown]].round(3)))

# %% [markdown]
# ## Differences, and the noise of a seed
#
# F2 of the network with SPOT's bands minus that of another method on the same scenes, with 95 %
# intervals over places drawn with replacement (none with fewer than two places).

# %% tags=["hide-input"]
rivals = ["everything is cloud", tests, "ukis-csmask: blue, green, red, nir"]
rows = []
for sensor, part in per_scene.groupby("sensor", sort=False):
    for rival in rivals:
        if (part.run == rival).any():
            pair = [part[part.run == run] for run in (ours, rival)]
            rows.append({"sensor": sensor, "CloudDL minus": rival, **paired(*pair, seed=seed)})
tables.show(write_table(work, "differences_transfer", pd.DataFrame(rows).round(3)))

# %% [markdown]
# The same fit with three seeds, on the same scenes:

# %% tags=["hide-input"]
names = ["spot", *sorted(p.stem for p in (work_folder(work) / "models").glob("spot-seed-*.json"))]
rows = []
for name in names:
    counted = evaluate({name: model_method(trained_model(work, name))}, scenes).counts
    rows.append(pooled(counted, by=["sensor", "run"], draws=1))
seeds = pd.concat(rows)[["sensor", "run", "f2", "f1", "precision", "recall"]].round(3)
tables.show(write_table(work, "seeds_transfer", seeds.sort_values("sensor", kind="stable")))

# %% [markdown]
# ## By surface
#
# A biome without cloud has no F-score; its accuracy tells of false alarms.

# %% tags=["hide-input"]
new = list(sets)[-1] if "landsat-8" not in sets else "landsat-8"
spot = f"CloudDL: {', '.join(BAND_SETS['spot'])}"
rows = per_scene[(per_scene.sensor == new) & (per_scene.run == spot)]
by_biome = pooled(rows, by=["biome"], draws=draws, seed=seed)
tables.show(write_table(work, "scores_biome", by_biome[["biome", *shown[1:], "cloud"]].round(3)))

# %% tags=["hide-input"]
figure, axis = plt.subplots(figsize=(6.5, 3.6))
told = tables.readable(by_biome[["biome", "scenes"]])
figures.intervals(axis, by_biome, [f"{b} ({n})" for b, n in told.itertuples(index=False)])

# %% [markdown]
# ## Where the errors are
#
# The three scenes of lowest, middling and highest F2 among those with both cloud and clear ground.
# Missed cloud is orange, false alarm blue.


# %% tags=["hide-input"]
def panel_of(sensor, count):
    table = per_scene[(per_scene.sensor == sensor) & (per_scene.run == spot)].copy()
    table["f2"] = f_beta(table.tp, table.fp, table.fn, 2)
    mixed = table[(table.tp + table.fn > 0) & (table.tn + table.fp > 0)].sort_values("f2")
    places = np.linspace(0, 1, count) if count > 1 else [0.5]  # one alone is the middling one
    names = mixed.scene.iloc[[round(place * (len(mixed) - 1)) for place in places]]
    rows = []
    for name in dict.fromkeys(names):
        columns = {"CloudDL": masks[sensor][spot][name]}
        peer = "ukis-csmask: blue, green, red, nir"
        if peer in masks[sensor]:
            columns["ukis-csmask"] = masks[sensor][peer][name]
        rows.append((name, scenes[name].sel(band=BAND_SETS["spot"]), columns))
    return figures.panel(rows)


# %% tags=["hide-input", "wide"]
panel = panel_of(new, 3)
figures.save(panel, results_folder(work) / "panel_l8biome.png")
panel

# %% tags=["hide-input", "wide"]
panel = panel_of("landsat-5", 1)
figures.save(panel, results_folder(work) / "panel_landsat5.png")
panel

# %% [markdown]
# ## What the labels were worth
#
# The short fits of {doc}`02_training`, which differ in their training labels only, on the same
# references. Nothing is chosen from this table; it tells how much the labels decide.

# %% tags=["hide-input"]
rows = []
for source in [*LABEL_SOURCES, SOFT]:
    if (work_folder(work) / "models" / f"labels-{source}.json").exists():
        model = trained_model(work, f"labels-{source}")
        for sensor, part in sets.items():
            table = evaluate({source: model_method(model)}, part).counts
            rows.append({"labels": source, "sensor": sensor, **pooled(table, draws=1).iloc[0]})
labels = pd.DataFrame(rows, columns=["labels", "sensor", "f2", "f1", "precision", "recall"])
tables.show(labels)

# %% [markdown]
# ## After adaptation
#
# Some scenes with labels drawn by people are taken from the new sensor, one of each surface, as a team
# would spread its first labels; the model goes on training with them, and keeps its threshold. They are
# named here, and everything below is scored on the other scenes, before and after.

# %%
part = sets[new]
taken = teaching_order(part)[:adaptation_scenes]
left = left_out(part, taken)
taken

# %%
adapted = adapt(
    models["spot"],
    {n: part[n] for n in taken},
    work_folder(work) / "runs" / "adapted",
    epochs=adaptation_epochs,
)
adaptations = {
    f"CloudDL, {when} adaptation: {', '.join(BAND_SETS['spot'])}": model_method(model)
    for when, model in (("before", models["spot"]), ("after", adapted))
}

# %% tags=["hide-input"]
table = evaluate(adaptations, left).counts
adaptation = pooled(table, by=["sensor", "run"], draws=draws, seed=seed)
tables.show(write_table(work, "scores_adaptation", adaptation[["sensor", *shown]].round(3)))

# %% tags=["hide-input"]
sentinel = results_folder(work) / "scores_sentinel2.csv"  # there once 04 has run
s2 = pd.read_csv(sentinel) if sentinel.exists() else pd.DataFrame(columns=["set", "run"])
rows = [{"images": r["set"], **r} for _, r in s2[s2.run.str.startswith("CloudDL: ")].iterrows()]
rows += [{"images": r["sensor"], **r} for _, r in scores[scores.run == spot].iterrows()]
rows += [{"images": f"{new}, not seen in adapting", **r} for _, r in adaptation.iterrows()]
columns = ["images", "run", "scenes", "f2", "f2_low", "f2_high", "f1", "precision", "recall"]
tables.show(write_table(work, "headline", pd.DataFrame(rows)[columns].round(3)))


# %% tags=["remove-cell"]
def told(sensor, measure):
    return f"{scores[(scores.sensor == sensor) & (scores.run == spot)].iloc[0][measure]:.1%}"


for key, sensor in (("l8", "landsat-8"), ("l5", "landsat-5")):
    glue(f"{key}_f2", told(sensor, "f2"))
    glue(f"{key}_f1", told(sensor, "f1"))
glue("l8_scenes", f"{len(sets['landsat-8'])}")
glue("adapted_f2", f"{adaptation.iloc[-1].f2:.1%}")
glue("adapted_before", f"{adaptation.iloc[0].f2:.1%}")
glue("adapted_scenes", f"{len(left)}")

# %% tags=["remove-cell"]
hero = panel_of("landsat-8", 1)
figures.save(hero, results_folder(work) / "hero.png")

# %% [markdown]
# **What we learnt.** Bands shared and resolution lowered, a network carries over to sensors it never
# saw. What it loses it loses on surfaces that its archive lacks, snow above all. Whether a handful of
# labelled scenes of the new sensor helps beyond that, the table before and after tells: look at its
# intervals before its differences.
