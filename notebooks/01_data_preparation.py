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
# # 1. Preparing the data
#
# **What you will see.** The scenes and their roles; how images, masks and heights come to one grid;
# what two existing processors call cloud, and what dilation does to that; the chips the network is
# trained on.
#
# **Prerequisites.** None. **Time.** A few minutes, most of it spent by the two processors.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
simulated: int = 816  # scenes simulated to train on, beside the real ones
seed: int = 0  # of everything random
scenes_shown: int = 8  # scenes in the gallery
dilations: list[float] = [0.0, 20.0, 40.0, 80.0]  # metres, for the look at dilation

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown

from clouddl import figures
from clouddl.chips import Chips
from clouddl.labels import LABEL_SOURCES, dilate
from clouddl.scenes import open_scene, resample
from clouddl.score import MEASURES, counts, measures
from clouddl_study import tables
from clouddl_study.corpora import open_corpus, study_chips
from clouddl_study.workspace import results_folder, write_corpus_note

figures.style()

# %% [markdown]
# ## Scenes and roles
#
# The catalogue gives each scene a role. Training and validation are Sentinel-2, labelled by
# processors, and no region is on both sides. References only score.

# %%
catalogue, store = open_corpus(corpus, mirror or None)
scenes = pd.DataFrame([scene.model_dump() for scene in catalogue.scenes])
scenes["role"] = pd.Categorical(scenes.role, ["train", "validation", "reference", "extra"])
roles = scenes.sort_values("role", kind="stable").groupby(
    ["role", "sensor", "collection"], sort=False, observed=True, as_index=False
)
tables.show(
    roles.agg(scenes=("id", "size"), regions=("group", "nunique"), metres=("resolution", "first"))
)

# %% tags=["hide-input"]
results = results_folder(work)
Markdown(write_corpus_note(catalogue, results / "corpus.md"))

# %% [markdown]
# A few of the training scenes:

# %% tags=["wide"]
train = catalogue.select("train")
step = max(1, len(train) // scenes_shown)
shown = [(s.id, open_scene(s, store)) for s in train[::step][:scenes_shown]]
figures.gallery(shown)
# %% [markdown]
# ## One grid for all sensors
#
# The method works at lowered resolution, where sensors of different sharpness resemble each other.
# Reflectance is averaged by area, masks become fractions of cloud, heights are reprojected.

# %% tags=["hide-input", "wide"]
name, scene = shown[-1]
own = scene.attrs["resolution"]
coarse = [resample(scene, r) for r in (20.0, 30.0, 60.0) if r > own]
figures.gallery([(f"{s.attrs['resolution']:.0f} m", s) for s in (scene, *coarse)])
# %% [markdown]
# The terrain model is an input that can be switched on (`elevation` among the bands). Few open
# images come with one; here is what there is, on the grid of its image.

# %% tags=["hide-input"]
with_dem = next(s for s in catalogue.scenes if s.dem or s.simulated)
terrain = open_scene(with_dem, store)
figure, axes = plt.subplots(1, 2, figsize=(8, 3.6))
axes[0].imshow(figures.picture(terrain)[0])
axes[0].set_title(with_dem.id)
image = axes[1].imshow(terrain.elevation, cmap="terrain")
axes[1].set_title("elevation")
figure.colorbar(image, label="metres")
for axis in axes:
    axis.axis("off")

# %% [markdown]
# ## What existing processors call cloud
#
# In 2020 the labels came from MAJA and Fmask. Neither can run here, so three others play that part:
#
# | processor | how it decides | what it learnt from |
# |---|---|---|
# | s2cloudless | a classifier of single pixels, ten bands, the cirrus band among them | its package does not say |
# | ukis-csmask | a U-Net of DLR, four bands | hand-labelled masks: SPARCS (Landsat 8), CloudSEN12+ (Sentinel-2) and others, by its README |
# | spectral tests | published thresholds of Zhu and Woodcock (2012), six bands | nothing |
#
# So a model trained on ukis-csmask, or on a vote it takes part in, descends at second hand from masks
# that people labelled; one trained on the spectral tests descends from no mask. Votes join the three:
# `consensus` keeps what all say and leaves the rest out of the loss, `majority` is what two of three say,
# `union` what ukis-csmask or the spectral tests call cloud. The parameters are written down in the
# package:

# %%
LABEL_SOURCES

# %%
path = study_chips(catalogue, store, work, simulated)
bands = ["blue", "green", "red", "nir", "swir16"]
real = catalogue.name != "simulated"  # simulated scenes among real ones have their truth
layers = {}
for name in LABEL_SOURCES:
    chips = Chips.open(path, bands, name, "train")
    layers[name] = chips.without_simulated() if real else chips
masks = {name: chips.dataset.mask.values for name, chips in layers.items()}

# %% tags=["hide-input"]
labels = pd.DataFrame(
    {
        "labelled": {name: (mask != 255).mean() for name, mask in masks.items()},
        "cloud": {name: (mask == 1).sum() / (mask != 255).sum() for name, mask in masks.items()},
    }
).rename_axis("labels")
tables.show(labels.reset_index())

# %% [markdown]
# Cloud is the minority, as in 2020 (about 20 % there): the reason for a Dice term in the loss.
# Where the two disagree is where the decision is hard:

# %% tags=["hide-input", "wide"]
a, b = masks["s2cloudless"], masks["ukis-csmask"]
apart = (a != b).mean((1, 2))
agreement = 1 - apart.mean()
worst = np.argsort(apart)[::-1][:4]
rows = []
for index in worst:
    chip = layers["ukis-csmask"].dataset.isel(chip=index)
    scene = chip.rename(image="reflectance")[["reflectance", "mask"]]
    rows.append((str(chip.scene.values), scene, {"s2cloudless": a[index]}))
figures.panel(rows)
# %% [markdown]
# Here the column "reference" is ukis-csmask, only to have something to compare with: orange is what
# s2cloudless leaves out of it, blue what it adds.

# %%
print(f"the two agree on {agreement:.1%} of {a.size:,} pixels of {len(a)} chips")

# %% [markdown]
# ## Dilation
#
# Processors draw their outlines at different distances from the cloud. Growing a mask by some metres
# raises its recall and lowers its precision against any other:

# %% tags=["hide-input"]
pixel = layers["ukis-csmask"].resolution
rows = []
for metres in dilations:
    total = np.zeros(4)
    for mask, other in zip(a, b, strict=True):
        total += list(counts(dilate(mask, metres, pixel), other).values())
    rows.append({"dilation (m)": metres, **{k: float(v) for k, v in measures(total).items()}})
tables.show(pd.DataFrame(rows)[["dilation (m)", *MEASURES]])

# %% [markdown]
# ## Chips
#
# All of this is stored as Zarr: images, one mask for each source of labels, and for each chip the
# scene, its region, its role and the checksum of its image.

# %%
validation = Chips.open(path, bands, "ukis-csmask", "validation")
stored = {"train": layers["ukis-csmask"], "validation": validation}
tables.show(pd.DataFrame([{"role": r, **c.dataset.sizes} for r, c in stored.items()]))

# %% [markdown]
# **What we learnt.** The two processors agree on most pixels and differ on thin cloud, on bright
# ground, and on where a cloud ends. What the labels call cloud will decide much of the score.
