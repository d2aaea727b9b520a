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
simulated: int = 1280  # scenes simulated to train on, beside the real ones
seed: int = 0  # of weights, order and augmentation
bands: list[str] = ["green", "red", "nir", "swir16"]  # inputs; SPOT's four
labels: str = "auto"  # one of LABEL_SOURCES, or truth (simulated scenes); auto: see below
grounds: bool = True  # train on drawn scenes too, where the catalogue has them
resolution: float = 30.0  # metres at which the model works
epochs: int = 6  # passes over the training chips, for each fit
batch_size: int = 8  # chips per step
learning_rate: float = 3e-3  # of Adam, at its highest

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch

from clouddl import figures
from clouddl.augment import Augmentation
from clouddl.chips import Chips
from clouddl.labels import LABEL_SOURCES
from clouddl.model import save_model
from clouddl.network import ModelCard, build
from clouddl.score import best_threshold
from clouddl.train import Schedule, fit, labelled, on_validation
from clouddl_study import tables
from clouddl_study.corpora import open_corpus, study_chips, training_labels, yardsticks
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
def balance(chips):
    mask = chips.dataset.mask.values
    known = mask[mask != 255]
    clear = (mask == 1).mean((1, 2)) < 0.01
    return {
        "chips": len(mask),
        "regions": len(set(chips.dataset.group.values.tolist())),
        "cloud": (known == 1).mean(),
        "chips without cloud": int(clear.sum()),
    }


roles = {"train": train, "validation": validation}
tables.show(pd.DataFrame([{"role": role, **balance(chips)} for role, chips in roles.items()]))

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
# holds few bare soils, sands and snow fields. {doc}`09_drawn_scenes` shows them, and what they add.
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
# Each setting is trained for the same number of epochs. Validation scenes are those of regions never
# trained on, with labels by processors: no mask drawn by people plays a part in any choice.


# %%
def short_fit(name, source, normalisation, augmentation=None, simulated=grounds):
    card = ModelCard(
        name=name,
        bands=bands,
        resolution=resolution,
        seed=seed,
        labels=source,
        normalisation=normalisation,
    )
    chips = Chips.open(path, bands, source, "train")
    model = fit(
        card,
        chips if simulated else chips.without_simulated(),
        Chips.open(path, bands, source, "validation"),
        work_folder(work) / "runs" / name,
        Schedule(epochs, batch_size, learning_rate, patience=epochs),
        augmentation=augmentation,
    )
    save_model(model, work_folder(work) / "models" / name)
    return model


# %% [markdown]
# Scores on one's own labels cannot be compared between sources, so there are three yardsticks, which
# count alike: F2 on the real validation pixels where all three processors agree, on the real
# validation pixels as two of three label them, and on simulated validation scenes, whose truth is exact;
# each at the threshold that suits best there. The source with the highest mean is used from here on.

# %%
yards = yardsticks(path, bands)


def score(model):
    f2 = {name: best_threshold(*on_validation(model, chips))[1] for name, chips in yards.items()}
    return {**f2, "mean": np.mean(list(f2.values()))}


# %%
sources = list(dict.fromkeys([*LABEL_SOURCES, *([chosen] if chosen == "truth" else [])]))
models, rows = {}, []
for source in sources:
    models[source] = short_fit(f"labels-{source}", source, "log")
    own = models[source].card.scores["validation_f2"]
    rows.append({"labels": source, "F2, own labels": own, **score(models[source])})
by_labels = pd.DataFrame(rows).round(4)
if labels == "auto" and chosen != "truth":
    chosen = by_labels.labels[by_labels["mean"].idxmax()]

# %% tags=["hide-input"]
tables.show(write_table(work, "label_sources", by_labels))

# %%
print(f"labels used from here on: {chosen}")

# %% [markdown]
# ## What the training effects and the simulated scenes are worth
#
# The same fit without any change of reflectance, with changes of the strength used before (a
# spread of .3 in the colour of the ground, offsets of .015), and without simulated scenes.

# %%
none = Augmentation(gain=0, offset=0, brightness=0, ground=0, haze=0, paste=0)
strong = Augmentation(gain=0.08, offset=0.015, brightness=0.15, ground=0.3, haze=0.03)
variants = {
    "as used": models[chosen],
    "no change of reflectance": short_fit("effects-none", chosen, "log", none),
    "strong changes": short_fit("effects-strong", chosen, "log", strong),
}
if len(train.without_simulated().dataset.chip) not in (0, len(train.dataset.chip)):
    variants["real images alone"] = short_fit("effects-real", chosen, "log", simulated=False)
by_effect = [{"training": name, **score(model)} for name, model in variants.items()]
tables.show(write_table(work, "training_effects", pd.DataFrame(by_effect).round(4)))

# %% [markdown]
# Now the normalisation: fixed statistics of the training chips, each chip by its own statistics, or
# the logarithm of reflectance, which turns band ratios into differences.

# %%
norms = {"log": models[chosen]}
for normalisation in ("fixed", "chip"):
    norms[normalisation] = short_fit(f"normalisation-{normalisation}", chosen, normalisation)
by_norm = pd.DataFrame(
    [
        {"normalisation": name, **score(model), "threshold": model.card.threshold}
        for name, model in norms.items()
    ]
).round(4)
best = by_norm.normalisation[by_norm["mean"].idxmax()]

# %% tags=["hide-input"]
write_choices(work, labels=chosen, normalisation=best, resolution=resolution, grounds=grounds)
tables.show(write_table(work, "normalisation", by_norm))

# %% tags=["hide-input"]
runs = [f"labels-{source}" for source in sources] + ["normalisation-fixed", "normalisation-chip"]
curves = {
    name: pd.read_csv(work_folder(work) / "runs" / name / "curves" / "metrics.csv") for name in runs
}
figures.learning_curves(curves)
# %%
print(f"chosen on validation scenes: {best} normalisation")

# %% [markdown]
# **What we learnt.** The choices above were made without a single mask drawn by people, and go on to
# {doc}`03_hyperopt_search`. What each source of labels is worth on references, and on another
# sensor, is told in {doc}`05_spot_transfer`.
