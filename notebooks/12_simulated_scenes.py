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
# # 12. Simulated scenes
#
# **What you will see.** Scenes drawn from spectra and optics beside real ones, and how far their bands
# agree; what a model trained on drawn scenes alone is worth on real references; and the tables of
# 2020 rebuilt on drawn Sentinel-2, SPOT-4 and SPOT-5 scenes, with and without elevation.
#
# **Prerequisites.** Chips of {doc}`01_data_preparation` (made if missing). **Time.** Some minutes.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
simulated: int = 816  # scenes simulated to train on, beside the real ones
seed: int = 0  # of the models, the bootstrap and the drawn places
places: int = 60  # drawn places to train on, for the comparison with and without elevation
tested: int = 30  # drawn places to score on, other ones
days: int = 3  # dates of each place scored, which the multi-temporal test needs
size: int = 128  # pixels of 30 m, of one drawn place
epochs: int = 60  # passes of the fits to the tables of 2020
simulated_epochs: int = 8  # passes of the fit to simulated chips alone
draws: int = 2000  # of the bootstrap

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy.stats import wasserstein_distance

from clouddl import figures
from clouddl.chips import Chips, cut_chips
from clouddl.labels import spectral_tests, to_mask
from clouddl.mission.classical import multi_temporal_test
from clouddl.network import ELEVATION, ModelCard
from clouddl.score import paired, pooled
from clouddl.sensors import BAND_SETS, STUDY_BANDS
from clouddl.simulate import simulate_set
from clouddl.train import Schedule, fit
from clouddl.transfer import evaluate, model_method, open_scenes, predictions, score_masks
from clouddl_study import tables
from clouddl_study.corpora import open_corpus, study_chips, training_labels
from clouddl_study.workspace import results_folder, trained_model, work_folder, write_table

figures.style()

# %%
catalogue, store = open_corpus(corpus, mirror or None)
path = study_chips(catalogue, store, work, simulated)
chosen = training_labels("auto", catalogue)
train = Chips.open(path, STUDY_BANDS, chosen, "train")
is_drawn = train.dataset.sha256.values == "simulated"
if is_drawn.all():  # without the real corpus there is nothing to compare with: compare halves
    is_drawn = np.arange(len(is_drawn)) % 2 == 0
images, masks = train.dataset.image.values, train.dataset.mask.values
real, drawn = (np.flatnonzero(which) for which in (~is_drawn, is_drawn))
print(f"{catalogue.name} corpus: {len(real)} chips compared with {len(drawn)} drawn ones")

# %% [markdown]
# ## Side by side
#
# Above the corpus, below drawn: the same bands (red, green, blue), the same stretch, 10 m pixels.

# %% tags=["hide-input", "wide"]
rng = np.random.default_rng(seed)
figure, axes = plt.subplots(2, 6, figsize=(12, 4.3))
for row, which in zip(axes, (real, drawn), strict=True):
    for axis, chip in zip(row, np.sort(rng.choice(which, 6, replace=False)), strict=True):
        rgb = np.nan_to_num(images[chip, [2, 1, 0]]).transpose(1, 2, 0)
        axis.imshow(np.clip(rgb / 0.6, 0, 1) ** 0.6)
        axis.axis("off")
axes[0, 0].set_title("corpus", loc="left")
axes[1, 0].set_title("simulated", loc="left")
figures.save(figure, results_folder(work) / "drawn_beside_real.png")
plt.close(figure)
figure

# %% [markdown]
# ## Band by band
#
# Histograms of reflectance, cloudy and clear pixels apart (cloud in the corpus is what both
# processors call so). The table gives medians, and the distance between the two distributions: the
# reflectance by which pixels would have to be moved, on average, to make one out of the other.


# %% tags=["hide-input"]
def values(which, band, cloud):
    found = images[which, band][masks[which] == cloud]
    return found[np.isfinite(found)][::7]


names = {0: "clear", 1: "cloud"}
figure, axes = plt.subplots(2, 5, figsize=(9, 4.6), sharex=True)
bins = np.linspace(0, 1.1, 56)
rows = []
for row, (code, name) in zip(axes, names.items(), strict=True):
    for band, axis in enumerate(row):
        ours, theirs = values(drawn, band, code), values(real, band, code)
        for label, v in (("corpus", theirs), ("simulated", ours)):
            axis.hist(v, bins, density=True, histtype="step", lw=1.6, label=label)
        axis.set_title(f"{STUDY_BANDS[band]}, {name}", fontsize=10)
        axis.set(xticks=[0, 0.5, 1], yticks=[])
        rows.append(
            {
                "pixels": name,
                "band": STUDY_BANDS[band],
                "median, corpus": np.median(theirs),
                "median, drawn": np.median(ours),
                "distance": wasserstein_distance(ours, theirs),
            }
        )
axes[0, 0].legend(fontsize=9)
figure.supxlabel("reflectance", fontsize=11)
figures.save(figure, results_folder(work) / "drawn_histograms.png")
plt.close(figure)
figure

# %% tags=["hide-input"]
tables.show(write_table(work, "drawn_bands", pd.DataFrame(rows).round(3)))

# %% [markdown]
# ## Band against band
#
# Density of pixels, the logarithm of their number: what a network can use to tell surfaces apart.

# %% tags=["hide-input"]
pairs = [("red", "nir"), ("red", "swir16"), ("blue", "red")]
figure, axes = plt.subplots(2, 3, figsize=(9.5, 6), sharex=True, sharey=True)
for row, which, name in zip(axes, (real, drawn), ("corpus", "simulated"), strict=True):
    for axis, (a, b) in zip(row, pairs, strict=True):
        x, y = (images[which, STUDY_BANDS.index(band)].ravel()[::11] for band in (a, b))
        axis.hexbin(
            x, y, gridsize=60, bins="log", extent=(0, 1.1, 0, 1.1), cmap="cividis", mincnt=1
        )
        axis.set(xlabel=a, ylabel=b, title=name)
plt.close(figure)
figure

# %% [markdown]
# ## A model that never saw a real image
#
# Trained on the drawn chips alone, its threshold from the validation scenes (real ones with labels by
# processors, and drawn ones), scored on the references drawn by people.


# %%
def blank(name, bands):
    return ModelCard(
        name=name,
        bands=bands,
        resolution=30.0,
        normalisation="log",
        seed=seed,
    )


spot = BAND_SETS["spot"]
short = Chips.open(path, spot, chosen, "train")
validation = Chips.open(path, spot, chosen, "validation")
only_drawn = fit(
    blank("drawn-only", spot),
    Chips(short.dataset.isel(chip=drawn)),
    validation,
    work_folder(work) / "runs" / "drawn-only",
    Schedule(simulated_epochs, batch_size=8, patience=simulated_epochs),
)
references = catalogue.select("reference")
opened = {
    n: s
    for n, s in open_scenes(references, store, 30.0).items()
    if set(spot) <= set(s.band.values.tolist())
}
run = "trained on drawn scenes alone: " + ", ".join(spot)
table = evaluate({run: model_method(only_drawn, spot)}, opened).counts

# %% tags=["hide-input"]
columns = ["run", "scenes", "f2", "f2_low", "f2_high", "f1", "precision", "recall"]
alone = pooled(table, by=["sensor", "run"], draws=draws, seed=seed)
tables.show(write_table(work, "scores_drawn_only", alone[["sensor", *columns]].round(3)))

# %% [markdown]
# ## Drawn scenes beside real ones
#
# The question for every other page: do drawn scenes help a model that has real images too? Two long
# fits of {doc}`03_hyperopt_search`, of one shape and as many steps, on the same references, each at
# the threshold that its validation scenes gave.

# %% tags=["hide-input"]
pair = {"real and drawn scenes": "spot", "real scenes alone": "spot-real"}
shelf = work_folder(work) / "models"
beside = pd.DataFrame()
if all((shelf / f"{file}.json").exists() for file in pair.values()):
    methods = {}
    for run, file in pair.items():
        model = trained_model(work, file)
        bands = model.card.bands
        methods[f"{run}: {', '.join(bands)}"] = model_method(model, bands)
    beside = pooled(evaluate(methods, opened).counts, by=["sensor", "run"], draws=draws, seed=seed)
    beside = write_table(work, "scores_with_drawn", beside[["sensor", *columns]].round(3))
tables.show(beside) if len(beside) else print("03_hyperopt_search made no such pair in this build")

# %% [markdown]
# ## The tables of 2020, drawn
#
# Sentinel-2 scenes to train on, other places to score on, each seen by Sentinel-2, SPOT-4 and SPOT-5
# in several weathers. Rows: spectral tests and a multi-temporal test (by principle, in the manner of
# Fmask and of MAJA; they are not those processors), the network without and with elevation. SPOT's
# four bands everywhere. **Every number below is of drawn scenes.**

# %%
places_to_train = simulate_set(
    "sentinel-2", places, seed=20_000 + seed, size=size, role="train"
).values()
fits = {}
for name, bands in (("CloudDL", spot), ("CloudDL with a DEM", [*spot, ELEVATION])):
    chips = Chips(
        cut_chips(places_to_train, bands=bands, sources=["truth"], size=size).isel(source=0)
    )
    fits[name] = fit(
        blank(f"drawn-{len(bands)}", bands),
        chips,
        None,
        work_folder(work) / "runs" / f"drawn-{len(bands)}",
        Schedule(epochs, batch_size=8),
    )

# %%
rows = []
for sensor in ("sentinel-2", "spot-4", "spot-5"):
    scenes = simulate_set(sensor, tested, seed=30_000 + seed, size=size, days=days)
    runs = {n: predictions(model, scenes) for n, model in fits.items()}
    runs = {n: {k: to_mask(p, 0.5) for k, p in found.items()} for n, found in runs.items()}
    cut = {k: s.reflectance.sel(band=spot) for k, s in scenes.items()}
    runs["spectral tests"] = {k: spectral_tests(image) for k, image in cut.items()}
    runs["multi-temporal test"] = series = {}
    for place in dict.fromkeys(s.attrs["group"] for s in scenes.values()):
        dates = [k for k, s in scenes.items() if s.attrs["group"] == place]
        days_of = [f"2018-06-{1 + 5 * day:02}" for day in range(len(dates))]
        tests = multi_temporal_test([cut[k] for k in dates], days_of)
        series.update({k: test.values for k, test in zip(dates, tests, strict=True)})
    rows += [score_masks(masks, scenes).assign(run=run) for run, masks in runs.items()]
counts = pd.concat(rows)
kind = {"mountain": "mountain", "snow": "snow"}
counts["terrain"] = counts.biome.map(lambda name: kind.get(name, "plain and hills"))

# %% tags=["hide-input"]
drawn_2020 = pooled(counts, by=["sensor", "run"], draws=draws, seed=seed)
shown = ["sensor", "run", "scenes", "f2", "f2_low", "f2_high", "f1", "precision", "recall"]
tables.show(write_table(work, "drawn_2020", drawn_2020[shown].round(3)))

# %% [markdown]
# ## With minus without elevation
#
# The difference in F2 over the same scenes, places drawn with replacement; an interval that holds
# zero is no difference shown.

# %% tags=["hide-input"]
rows = []
for terrain, part in [("all", counts), *counts.groupby("terrain")]:
    pair = [part[part.run == run] for run in ("CloudDL with a DEM", "CloudDL")]
    rows.append({"terrain": terrain, **paired(*pair, draws=draws, seed=seed)})
difference = pd.DataFrame(rows).round(4)
tables.show(write_table(work, "drawn_dem", difference))

# %% [markdown]
# **What we learnt.** The first table says how far drawn and real bands are apart, the second what that
# distance costs. What is still unlike: drawn clouds have no sides and no parallax, fields and towns
# are squares, seas have no waves, and the air is the same all over a scene. The network with a DEM is
# compared on drawn ground only: no cloudy image with people's masks and elevation could be had.
