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
# # 2. Training
#
# **What you will see.** The network and its loss; how training images are changed so that they stand
# for other sensors; which labels and which normalisation serve best, decided on validation scenes.
#
# **Prerequisites.** The chips of {doc}`01_data_preparation` (made here if they are missing).
# **Time.** Minutes for each of the short fits, on two cores.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
simulated: int = 816  # scenes simulated to train on, beside the real ones
seed: int = 0  # of weights, order and augmentation
bands: list[str] = ["green", "red", "nir", "swir16"]  # inputs; SPOT's four
labels: str = "auto"  # one of LABEL_SOURCES, soft, or truth (simulated scenes); auto: see below
resolution: float = 30.0  # metres at which the model works
epochs: int = 6  # passes over the training chips, for each fit
batch_size: int = 8  # chips per step
learning_rate: float = 3e-3  # of Adam, at its highest
at_once: int = 1  # fits at the same time, each on one core

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from clouddl import figures
from clouddl.augment import Augmentation
from clouddl.chips import SOFT, Chips
from clouddl.labels import LABEL_SOURCES
from clouddl.network import ModelCard, build
from clouddl.score import best_threshold
from clouddl.train import Schedule, labelled, on_validation
from clouddl_study import tables
from clouddl_study.corpora import open_corpus, study_chips, training_labels, yardsticks
from clouddl_study.experiments import Fit, fit_all
from clouddl_study.workspace import work_folder, write_choices, write_table

figures.style()

# %%
catalogue, store = open_corpus(corpus, mirror or None)
path = study_chips(catalogue, store, work, simulated)
chosen = training_labels(labels, catalogue)
train = Chips.open(path, bands, chosen, "train")
validation = Chips.open(path, bands, chosen, "validation")

# %% [markdown]
# ## How much cloud there is

# %% tags=["hide-input"]
rows = []
for role, chips in {"train": train, "validation": validation}.items():
    mask = chips.dataset.mask.values.astype(np.float32)
    mask[mask == 255] = np.nan
    regions = len(set(chips.dataset.group.values.tolist()))
    wholly_clear = int((np.nanmax(mask, (1, 2)) < 0.5).sum())
    row = {"role": role, "chips": len(mask), "regions": regions, "cloud": np.nanmean(mask)}
    rows.append({**row, "chips without cloud": wholly_clear})
tables.show(pd.DataFrame(rows))

# %% [markdown]
# ## The network
#
# A U-Net with batch normalisation and dropout. The number of base filters, the kernel size, the depth
# and the dropout are parameters; {doc}`03_hyperopt_search` looks for good ones.

# %%
card = ModelCard(name="example", bands=bands, resolution=resolution, seed=seed)
net = build(card)
print(f"{sum(p.numel() for p in net.parameters()):,} parameters")

# %% [markdown]
# Beside the real images the training set has simulated ones, with their exact truth, since the archive
# holds few bare soils, sands and snow fields. {doc}`12_simulated_scenes` shows them, and what they add.
#
# The loss is binary cross-entropy plus soft Dice, and ignores unlabelled pixels. Adam minimises it.
#
# ## Making Sentinel-2 stand for other sensors
#
# Each time a chip is shown it is brought to another resolution, turned, and changed in gain and
# offset, per band, by as much as sensors differ. Clouds are laid over the ground of other chips.

# %% tags=["hide-input"]
x, y = labelled([t[:8] for t in train.tensors()])
augment = Augmentation()
figure, axes = plt.subplots(2, 4, figsize=(9, 4.8))
for number, axis in enumerate(axes.flat):
    image, _ = augment(x, y, train.resolution, torch.Generator().manual_seed(number))
    chip = image[number % len(image)]
    rgb = chip[[min(i, len(bands) - 1) for i in (2, 1, 0)]].permute(1, 2, 0).numpy()
    axis.imshow(np.clip(rgb / 0.6, 0, 1) ** 0.6)
    axis.set_title(f"{image.shape[-1]} pixels", fontsize=9)
    axis.axis("off")

# %% [markdown]
# ## Short fits: which labels, which normalisation
#
# Each setting is trained for as many steps. Validation scenes are those of regions never trained on,
# with labels by processors: no mask drawn by people plays a part in any choice. `fit_all` fits to the
# last epoch, calibrates on validation, and saves the model.
#
# The candidates are the three processors, their votes, and **soft labels**: the fraction of the three
# that say cloud, so that the network learns to be unsure where they differ.

# %%
candidates = ["truth"] if chosen == "truth" else [*LABEL_SOURCES, SOFT]
short = ModelCard(
    name="short",
    bands=bands,
    resolution=resolution,
    seed=seed,
    base_filters=12,
    normalisation="log",
)
schedule = Schedule(epochs, batch_size, learning_rate)
fits = [
    Fit(short.model_copy(update={"name": f"labels-{source}", "labels": source}))
    for source in candidates
]
by_source = fit_all(fits, path, work_folder(work), schedule, at_once)

# %% [markdown]
# Scores on one's own labels cannot be compared between sources, so there are three yardsticks, which
# count alike: F2 on the real validation pixels where all three processors agree, on the real
# validation pixels as two of three label them, and on simulated validation scenes, whose truth is exact;
# each at the threshold that suits best there. The source with the highest mean is used from here on,
# unless it was fixed beforehand, by the longer trials of {doc}`../protocol`.

# %%
yards = yardsticks(path, bands)


def score(model):
    f2 = {name: best_threshold(*on_validation(model, chips))[1] for name, chips in yards.items()}
    return {**f2, "mean": np.mean(list(f2.values()))}


# %%
rows = []
for source, name in zip(candidates, by_source, strict=True):
    own = by_source[name].card.scores["validation_f2"]
    rows.append({"labels": source, "F2, own labels": own, **score(by_source[name])})
by_labels = pd.DataFrame(rows).round(4)
if labels == "auto":
    chosen = by_labels.labels[by_labels["mean"].idxmax()]

# %% tags=["hide-input"]
tables.show(write_table(work, "label_sources", by_labels))

# %%
beforehand = "" if labels == "auto" else ", fixed beforehand"
print(f"labels used from here on: {chosen}{beforehand}")

# %% [markdown]
# ## What the training effects and the simulated scenes are worth
#
# The same fit without any change of reflectance, with changes of the strength used before (a
# spread of .3 in the colour of the ground, offsets of .015), and from real or simulated scenes alone.

# %%
used = short.model_copy(update={"labels": chosen})
none = Augmentation(gain=0, offset=0, brightness=0, ground=0, haze=0, paste=0)
strong = Augmentation(gain=0.08, offset=0.015, brightness=0.15, ground=0.3, haze=0.03)
variants = {
    "effects-none": Fit(used.model_copy(update={"name": "effects-none"}), augmentation=none),
    "effects-strong": Fit(used.model_copy(update={"name": "effects-strong"}), augmentation=strong),
}
if chosen != "truth":
    for part in ("real", "simulated"):
        variants[f"{part} alone"] = Fit(used.model_copy(update={"name": f"{part}-alone"}), part)
for normalisation in ("fixed", "chip"):
    update = {"name": f"normalisation-{normalisation}", "normalisation": normalisation}
    variants[normalisation] = Fit(used.model_copy(update=update))
fitted = fit_all(list(variants.values()), path, work_folder(work), schedule, at_once)
as_used = by_source[f"labels-{chosen}"]

# %% tags=["hide-input"]
texts = {
    "as used": as_used,
    "no change of reflectance": fitted["effects-none"],
    "strong changes": fitted["effects-strong"],
}
if chosen != "truth":
    texts["real images alone"] = fitted["real-alone"]
    texts["simulated images alone"] = fitted["simulated-alone"]
by_effect = [{"training": name, **score(model)} for name, model in texts.items()]
tables.show(write_table(work, "training_effects", pd.DataFrame(by_effect).round(4)))

# %% [markdown]
# Now the normalisation: fixed statistics of the training chips, each chip by its own statistics, or
# the logarithm of reflectance, which turns band ratios into differences.

# %%
norms = {"log": as_used} | {n: fitted[f"normalisation-{n}"] for n in ("fixed", "chip")}
rows = [{"normalisation": name, **score(model)} for name, model in norms.items()]
by_norm = pd.DataFrame(rows).round(4)
best = by_norm.normalisation[by_norm["mean"].idxmax()]

# %% tags=["hide-input"]
write_choices(work, labels=chosen, normalisation=best, resolution=resolution)
tables.show(write_table(work, "normalisation", by_norm))

# %% tags=["hide-input"]
curves = {
    name: pd.read_csv(work_folder(work) / "runs" / name / "curves" / "metrics.csv")
    for name in [*by_source, *fitted]
}
figures.learning_curves(curves)
# %%
print(f"chosen on validation scenes: {best} normalisation")

# %% [markdown]
# **What we learnt.** The choices above were made without a single mask drawn by people, and go on to
# {doc}`03_hyperopt_search`. What each source of labels is worth on references, and on another
# sensor, is told in {doc}`05_spot_transfer`.
