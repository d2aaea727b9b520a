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
seed: int = 0  # of weights, order and augmentation
bands: list[str] = ["green", "red", "nir", "swir16"]  # inputs; SPOT's four
labels: str = "auto"  # s2cloudless, ukis-csmask, consensus, truth (drawn scenes); auto: see below
grounds: bool = True  # train on drawn scenes too, where the catalogue has them
resolution: float = 30.0  # metres at which the model works
epochs: int = 40  # passes over the training chips, for each fit
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
from clouddl_study.corpora import open_corpus, study_chips, training_labels
from clouddl_study.workspace import work_folder, write_choices, write_table

figures.style()

# %%
catalogue, store = open_corpus(corpus, mirror or None)
path = study_chips(catalogue, store, work)
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
# Beside the real images the training set has drawn ones, with their exact truth, since the archive
# holds few bare soils, sands and snow fields. {doc}`09_drawn_scenes` shows them, and what they add.
#
# The loss is binary cross-entropy plus soft Dice, and ignores unlabelled pixels. Adam minimises it.
#
# ## Making Sentinel-2 stand for other sensors
#
# Each time a chip is shown it is brought to another resolution, turned, and changed in gain and
# offset, per band. Ground without cloud is changed more, to stand for soils and sands the archive
# lacks, and clouds are laid over the ground of other chips.

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
def short_fit(name, source, normalisation):
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
        chips if grounds else chips.without_simulated(),
        Chips.open(path, bands, source, "validation"),
        work_folder(work) / "runs" / name,
        Schedule(epochs, batch_size, learning_rate, patience=epochs),
    )
    save_model(model, work_folder(work) / "models" / name)
    return model


# %% [markdown]
# Scores on one's own labels cannot be compared between sources, so there is a yardstick: F2 on the
# validation pixels where both processors agree (on drawn scenes: the truth), at the threshold that
# suits best there. It cannot see what a source does where they differ, so it does not decide: we train
# on the consensus, since a mistake that only one processor makes is left out of it.

# %%
drawn = catalogue.name == "simulated"
yardstick = Chips.open(path, bands, "truth" if drawn else "consensus", "validation")
sources = list(dict.fromkeys([chosen, *LABEL_SOURCES]))
models, rows = {}, []
for source in sources:
    models[source] = model = short_fit(f"labels-{source}", source, "fixed")
    rows.append(
        {
            "labels": source,
            "cloud in labels": balance(Chips.open(path, bands, source, "train"))["cloud"],
            "F2, own labels": model.card.scores["validation_f2"],
            "F2, yardstick": best_threshold(*on_validation(model, yardstick))[1],
        }
    )

# %% tags=["hide-input"]
by_labels = pd.DataFrame(rows).round(4)
tables.show(write_table(work, "label_sources", by_labels))

# %%
print(f"labels used from here on: {chosen}")

# %% [markdown]
# Now the normalisation: fixed statistics of the training chips, each chip by its own statistics, or
# the logarithm of reflectance, which turns band ratios into differences.

# %%
norms = {"fixed": models[chosen]}
for normalisation in ("chip", "log"):
    norms[normalisation] = short_fit(f"normalisation-{normalisation}", chosen, normalisation)
by_norm = pd.DataFrame(
    [
        {
            "normalisation": name,
            "validation F2": model.card.scores["validation_f2"],
            "threshold": model.card.threshold,
        }
        for name, model in norms.items()
    ]
).round(4)
best = by_norm.normalisation[by_norm["validation F2"].idxmax()]

# %% tags=["hide-input"]
write_choices(work, labels=chosen, normalisation=best, resolution=resolution, grounds=grounds)
tables.show(write_table(work, "normalisation", by_norm))

# %% tags=["hide-input"]
runs = [f"labels-{source}" for source in sources] + ["normalisation-chip", "normalisation-log"]
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
