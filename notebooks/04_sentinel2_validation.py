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
# # 4. Validation on Sentinel-2
#
# **What you will see.** The models on Sentinel-2 images whose clouds people marked: scores with
# intervals, beside a processor on the same pixels; where the errors lie; how the threshold, the
# calibration and a dilation bear on them.
#
# **Prerequisites.** Models of {doc}`03_hyperopt_search` (else those that ship). **Time.** A minute.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
seed: int = 0  # of the bootstrap
draws: int = 2000  # of the bootstrap
dilations: list[float] = [0.0, 30.0, 60.0, 120.0]  # metres, for the look at dilation

# %% tags=["hide-input"]
import pandas as pd
from myst_nb import glue

from clouddl import figures
from clouddl.labels import to_mask
from clouddl.mission.classical import spectral_method
from clouddl.score import MEASURES, pooled, precision_recall, reliability
from clouddl.sensors import BAND_SETS
from clouddl.transfer import (
    all_cloud,
    evaluate,
    model_method,
    open_scenes,
    pixels,
    predictions,
    processor_method,
    score_masks,
)
from clouddl_study import tables
from clouddl_study.corpora import open_corpus
from clouddl_study.workspace import results_folder, trained_model, write_table

figures.style()

# %%
catalogue, store = open_corpus(corpus, mirror or None)
references = [s for s in catalogue.select("reference") if s.sensor == "sentinel-2"]
models = {name: trained_model(work, name) for name in (*BAND_SETS, "any")}
resolution = models["spot"].card.resolution
scenes = open_scenes(references, store, resolution)
about = [
    {
        "scene": n,
        "set": s.attrs["collection"],
        "pixels": s.mask.size,
        "cloud": float((s.mask == 1).mean()),
    }
    for n, s in scenes.items()
]
tables.show(pd.DataFrame(about))

# %% [markdown]
# ## Scores
#
# Counts are pooled over the pixels of a set before anything is divided. Thresholds are those chosen on
# validation scenes. Intervals (95 %) are from drawing scenes with replacement; a set of one scene has
# none.


# %%
methods = {}
for name, use in BAND_SETS.items():
    methods[f"CloudDL: {', '.join(use)}"] = model_method(models[name], use)
    methods[f"CloudDL, one model for any bands: {', '.join(use)}"] = model_method(
        models["any"], use
    )
    methods[f"spectral tests: {', '.join(use)}"] = spectral_method(use)
methods["everything is cloud"] = all_cloud()
if catalogue.name != "simulated":
    methods["ukis-csmask: blue, green, red, nir"] = processor_method(4)

# %%
sets = {
    c: {n: s for n, s in scenes.items() if s.attrs["collection"] == c}
    for c in dict.fromkeys(s.attrs["collection"] for s in scenes.values())
}
evaluations = {collection: evaluate(methods, part) for collection, part in sets.items()}
counted = pd.concat([e.counts.assign(set=name) for name, e in evaluations.items()])
scores = pooled(counted, by=["set", "run"], draws=draws, seed=seed)

# %% tags=["hide-input"]
shown = [
    "set",
    "run",
    "scenes",
    "f2",
    "f2_low",
    "f2_high",
    "f1",
    "precision",
    "recall",
    "iou",
    "accuracy",
]
tables.show(write_table(work, "scores_sentinel2", scores[shown].round(3)))

# %% [markdown]
# ## Where the errors are
#
# Missed cloud is orange, false alarm blue; white is cloud found, grey is clear.

# %% tags=["hide-input", "wide"]
first = next(iter(sets))
other = "any bands" if catalogue.name == "simulated" else "ukis-csmask"
picked = [(n, c) for c, part in sets.items() for n in list(part)[:2]][:3]
rows = []
for name, collection in picked:
    runs = {run: masks for run, masks in evaluations[collection].masks.items() if masks}
    ours = [run for run in runs if run.startswith("CloudDL: ")][-1]
    peers = [run for run in runs if run.startswith("ukis") or "any" in run]
    columns = {"CloudDL": runs[ours][name], other: runs[peers[-1]][name]}
    rows.append((name, scenes[name], columns))
panel = figures.panel(rows)
figures.save(panel, results_folder(work) / "panel_sentinel2.png")
panel

# %% [markdown]
# The last column is ukis-csmask on real images, and the model for any bands on drawn ones.
#
# ## Threshold
#
# The curve of each model over all thresholds, and the point where its threshold, chosen on validation
# scenes, has put it.

# %%
part = sets[first]
curves, points, calibration = {}, {}, {}
for name, use in BAND_SETS.items():
    found, truth = pixels(predictions(models[name], part, use), part)
    curves[name], calibration[name] = precision_recall(found, truth), reliability(found, truth)
    at = curves[name].iloc[(curves[name].threshold - models[name].card.threshold).abs().argmin()]
    points[f"{name}, threshold {at.threshold:.2f}"] = (at.recall, at.precision)

# %% tags=["hide-input"]
figures.precision_recall_curves(curves, points)
# %% [markdown]
# ## Calibration
#
# Of the pixels given a probability of 0.3, are 30 % cloud? Above the diagonal the model is too shy.

# %% tags=["hide-input"]
figures.reliability_diagram(calibration)
# %% [markdown]
# ## Dilation
#
# What growing the mask does here; none is applied in the scores above.

# %% tags=["hide-input"]
model = models["spot"]
probabilities = predictions(model, part, BAND_SETS["spot"])
rows = []
for metres in dilations:
    grown = {
        n: to_mask(p, model.card.threshold, metres, resolution) for n, p in probabilities.items()
    }
    rows.append(
        {"dilation (m)": metres, **pooled(score_masks(grown, part)).iloc[0][list(MEASURES)]}
    )
tables.show(pd.DataFrame(rows))

# %% tags=["remove-cell"]
headline = scores[
    (scores.set == first) & (scores.run == f"CloudDL: {', '.join(BAND_SETS['five'])}")
].iloc[0]
glue("s2_f2", f"{headline.f2:.1%}")
glue("s2_f1", f"{headline.f1:.1%}")
glue("s2_scenes", "1 scene" if headline.scenes == 1 else f"{headline.scenes} scenes")

# %% [markdown]
# **What we learnt.** The table says how far labels by processors carry on the sensor they were made
# for. One scene of 512 × 512 pixels is little: the interval over few scenes is wide or missing, and
# the other set shows how much depends on who drew the reference.
