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
# # 3. HyperOpt search and the final models
#
# **What you will see.** A search over dropout, number of filters, kernel size and learning rate, each
# trial a short fit scored on validation F2; what each parameter was worth; the models that are
# trained with the best trial and that ship with the package.
#
# **Prerequisites.** {doc}`02_training` (its choices are used; without them, the defaults).
# **Time.** Tens of minutes in the `full` profile. A search that was stopped goes on where it was.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
simulated: int = 816  # scenes simulated to train on, beside the real ones
seed: int = 0  # of the search and of each fit
labels: str = "auto"  # one of LABEL_SOURCES, soft or truth; auto: those of 02_training
trials: int = 10  # in all, those of an earlier call counted
minutes: float = 15.0  # of fitting, after which no trial is begun
trial_epochs: int = 4  # passes over the training chips in each trial
epochs: int = 50  # of the long fits, which make the final models
batch_size: int = 8  # chips per step
depth: int = 3  # poolings of the network
largest: float = 0.35  # million parameters that a model may have, to stay small and fast
at_once: int = 1  # trials proposed together, and long fits side by side, each on one core
scheduler: str = ""  # fits them together: local, or the address of a Dask scheduler

# %% tags=["hide-input"]
from functools import partial

import pandas as pd

from clouddl import figures
from clouddl.network import ModelCard, build
from clouddl.search import best_trial, search
from clouddl.sensors import BAND_SETS
from clouddl.train import Schedule, fit_trial
from clouddl_study import tables
from clouddl_study.corpora import open_corpus, study_chips, training_labels
from clouddl_study.experiments import Fit, fit_all, worth
from clouddl_study.workspace import read_choices, results_folder, work_folder, write_table

figures.style()

# %%
catalogue, store = open_corpus(corpus, mirror or None)
path = study_chips(catalogue, store, work, simulated)
choices = read_choices(work)
chosen = training_labels(choices["labels"] if labels == "auto" else labels, catalogue)
choices

# %% [markdown]
# ## The search
#
# "Filter size" in the abstract of 2020 can mean how many filters or how large their kernel, so both
# are searched. TPE proposes a configuration; we train it for a few epochs, calibrate it, and return
# validation F2. Several can be fitted at once, by the processes of this machine or of a cluster.


# %%
def card(name, band_sets, **fields):
    bands = list(dict.fromkeys(b for s in band_sets for b in s))
    defaults = {"seed": seed, "labels": chosen, "depth": depth}
    of_page_2 = {key: choices[key] for key in ("normalisation", "resolution")}
    return ModelCard(
        name=name, bands=bands, band_sets=band_sets, **{**defaults, **of_page_2, **fields}
    )


# %%
objective = partial(
    fit_trial,
    chips=str(path),
    card=card("trial", [BAND_SETS["spot"]]).model_dump(),
    folder=str(work_folder(work) / "trials"),
    epochs=trial_epochs,
    batch_size=batch_size,
)

# %%
table = search(
    objective,
    results_folder(work) / "all_trials.csv",
    trials=trials,
    minutes=minutes,
    seed=seed,
    at_once=at_once,
    scheduler=scheduler or None,
    progress=False,
)

# %% [markdown]
# The models ship inside the package, so they must be small: the best of the trials that are.


# %%
def millions(trial):
    shape = {k: trial[k] for k in ("base_filters", "kernel_size")}
    net = build(card("size", [BAND_SETS["spot"]], **shape))
    return sum(p.numel() for p in net.parameters()) / 1e6


sizes = pd.Series([millions(trial) for trial in table.to_dict("records")])
best = best_trial(table[sizes <= largest] if (sizes <= largest).any() else table)
best

# %% tags=["hide-input"]
ranked = table.assign(millions=sizes).sort_values("val_f2", ascending=False).round(4)
tables.show(write_table(work, "trials", ranked))

# %% tags=["hide-input"]
figures.trial_losses(table)
# %% tags=["hide-input"]
figures.parameter_slices(table)
# %% [markdown]
# What each parameter was worth: mean F2 of its better and its worse setting, and the share of the
# variance between trials that it explains alone. So few trials give an indication, not a test.

# %%
worth(table).round(3)

# %% [markdown]
# ## The final models, and their thresholds
#
# The best trial is trained at length and to the end: once for each set of bands, and once for any of
# them, by leaving out bands at random. The threshold of each is chosen here, once, and used everywhere
# from now on: probabilities are calibrated on the validation scenes (a scale and a shift of the
# logits), and the threshold is that of the highest F2, averaged over real and simulated validation scenes
# so that both count alike. Thresholds whose mean F2 is within 0.01 of the highest are taken as equal, and
# the middle one is used. No model is trained on the validation scenes afterwards: retraining would shift
# the probabilities and invalidate the threshold.
#
# With SPOT's bands there are five more fits, of as many steps: two with other seeds, to tell the noise;
# one of real and one of simulated images alone; one with labels of the spectral tests alone, which
# descend from no mask drawn by people. The shipped model is the first, fixed beforehand.

# %%
shape = {k: v for k, v in best.items() if k != "learning_rate"}
sets = {name: [bands] for name, bands in BAND_SETS.items()} | {"any": list(BAND_SETS.values())}
fits = [Fit(card(name, band_sets, **shape)) for name, band_sets in sets.items()]
spot = [BAND_SETS["spot"]]
for number in (1, 2):
    fits.append(Fit(card(f"spot-seed-{number}", spot, **{**shape, "seed": seed + number})))
if chosen != "truth":
    fits += [Fit(card(f"spot-{of}", spot, **shape), of) for of in ("real", "simulated")]
    tests = {**shape, "labels": "spectral-tests"}
    fits.append(Fit(card("spot-spectral-tests", spot, **tests)))

# %%
schedule = Schedule(epochs, batch_size, best["learning_rate"])
finals = fit_all(fits, path, work_folder(work), schedule, at_once)

# %% tags=["hide-input"]
rows = []
for name, model in finals.items():
    weights = work_folder(work) / "models" / f"{name}.safetensors"
    row = {"model": name, "bands": ", ".join(model.card.bands), "threshold": model.card.threshold}
    row["validation F2"] = round(model.card.scores["validation_f2"], 4)
    rows.append({**row, "MB": round(weights.stat().st_size / 1e6, 2)})
tables.show(write_table(work, "final_models", pd.DataFrame(rows)))

# %% [markdown]
# **What we learnt.** The search says which settings matter at this budget. The threshold stands in
# each model's card and is used on every page that follows: {doc}`04_sentinel2_validation` scores these
# models on Sentinel-2 against masks drawn by people, {doc}`05_spot_transfer` on sensors never seen.
