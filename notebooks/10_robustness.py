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
# # 10. Robustness to image degradation
#
# **What you will see.** The model of SPOT's bands is scored on references (images with hand-labelled masks) that
# are degraded by known amounts: badly calibrated, noisy, striped, saturated, hazy, blurred, coarser, misregistered,
# rotated. We ask how F2 changes, at which level it has dropped, and where the model does no better than
# calling everything cloud.
#
# **Why.** A new sensor is never quite what its specification says, and it ages. The study of 2020
# claimed that such a model bears radiometric and geometric errors. Here that is measured, one error at
# a time, without any new training.
#
# **Prerequisites.** Models of {doc}`03_hyperopt_search` (else those that ship). **Time.** Minutes.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
seed: int = 0  # of noise, stripes and shifts, and of the simulated places
most: int = 20  # references of one sensor, at the most
places: int = 20  # simulated places
size: int = 128  # pixels of 30 m, of one simulated place
every: int = 1  # of the levels below, counted from the worst, each n-th is run
drop: float = 0.02  # loss of F2, as a fraction, from which on a model counts as broken

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown

from clouddl import figures
from clouddl.sensors import BAND_SETS
from clouddl.transfer import open_scenes
from clouddl_study import tables
from clouddl_study.corpora import open_corpus
from clouddl_study.pages import panels
from clouddl_study.pages import robustness as page
from clouddl_study.workspace import results_folder, trained_model, write_table

figures.style()

# %% [markdown]
# ## The degradations
#
# Each degradation has a harmless level, at which the image stays as it is, and levels on one or both
# sides of it. Gain and offset are errors of the absolute calibration: the signal is multiplied by one plus the gain,
# or the offset is added to it. Noise is white. Striping gives each detector column a gain of its own. Saturation
# cuts off all reflectance above its level, so that thick cloud and bright ground become alike. Haze adds scattered
# light, more in short wavelengths than in long ones. Misregistration shifts the bands against each other, each in
# another direction.
#
# Levels of noise, striping and blur are standard deviations. Blur and misregistration are in pixels of the scene,
# 30 m. When a scene is rotated by other than a multiple of 90 degrees, its corners are lost and are not scored, so
# a little of that curve is due to other ground. Weak forms of some of these errors were among the training effects
# ({doc}`02_training`).

# %%
LEVELS = {  # name: (unit of the level, the harmless one, all of them)
    "gain": ("fraction", 0, [-0.4, -0.2, -0.1, 0, 0.1, 0.2, 0.4]),
    "offset": ("reflectance", 0, [-0.1, -0.05, -0.02, 0, 0.02, 0.05, 0.1]),
    "noise": ("reflectance", 0, [0, 0.01, 0.02, 0.05, 0.1, 0.2]),
    "striping": ("fraction", 0, [0, 0.02, 0.05, 0.1, 0.2, 0.4]),
    "saturation": ("reflectance", 2.0, [2.0, 0.8, 0.6, 0.4, 0.3, 0.2]),
    "haze": ("reflectance at 0.49 µm", 0, [0, 0.02, 0.05, 0.1, 0.2, 0.4]),
    "blur": ("pixels", 0, [0, 0.5, 1, 2, 4]),
    "resolution": ("m", 30, [5, 10, 20, 30, 60, 90, 120]),
    "misregistration": ("pixels", 0, [0, 0.5, 1, 2, 4]),
    "rotation": ("degrees", 0, [0, 15, 30, 45, 90, 180]),
}

# %% [markdown]
# ## The scenes
#
# The references that have SPOT's bands make a set for each sensor. Where a sensor has many, they are
# taken at equal steps through the list, which is ordered by surface.

# %%
catalogue, store = open_corpus(corpus, mirror or None)
model, spot = trained_model(work, "spot"), BAND_SETS["spot"]
scenes = open_scenes(catalogue.select("reference"), store, model.card.resolution)
sets = page.reference_sets(scenes, spot, catalogue.name, most)
if catalogue.name == "simulated":
    print("The corpus is simulated: there are no real references below.")

# %% [markdown]
# To these come **simulated** SPOT-5 scenes, whose mask is exact. The references have pixels of 30 m and
# cannot be made finer. Scenes simulated at 5 m, half as wide, stand for finer pixels: as in
# `clouddl predict`, they are brought to 30 m for the network, and its mask is brought back to theirs.

# %%
from clouddl.simulate import simulate_set

sets["SPOT-5, simulated"] = simulate_set("spot-5", places, seed=70_000 + seed, size=size)
fine = simulate_set("spot-5", places, seed=70_000 + seed, size=3 * size, resolution=5.0)
finer = {"SPOT-5, simulated": fine}
about = page.describe_sets({**sets, "SPOT-5, simulated at 5 m": fine})
write_table(work, "robustness_scenes", about)
tables.show(page.with_floor(about))

# %% [markdown]
# *Table 10.1. The sets of images. The last column is the floor: F2 of a mask that calls every pixel cloud.*
#
# The floor depends on the fraction $p$ of cloud alone, $F_2 = 5p / (4p + 1)$, and it is high: F2 weights recall four
# times as much as precision, and such a mask misses nothing. Where the model falls to this floor its mask is
# worth nothing, however good the F2 may sound.
#
# ## Curves
#
# We degrade every scene of a set to each level, predict with the unchanged model, and pool the pixels.
# The threshold stays that of undegraded validation scenes: a mission that does not know of the error
# could not choose another one. Noise, stripes and shifts depend on the seed and on the scene, so a scene
# gets the same pattern at all levels. Where an offset or haze lifts even the darkest pixels, `predict` warns of a
# forgotten offset; these warnings are left out here.

# %% tags=["remove-stderr"]
counted = []
for degradation, (_, harmless, levels) in LEVELS.items():
    chosen = page.every_nth(levels, harmless, every)
    for images, part in sets.items():
        use = chosen
        if degradation == "resolution":
            part = finer.get(images, part)
            use = page.not_finer(chosen, part)
        table = page.robustness(model, part, spot, degradation, use, seed=seed)
        counted.append(table.assign(images=images))
curves = write_table(work, "robustness", pd.concat(counted).round(4))

# %% tags=["wide"]
figure = page.robustness_curves(curves, LEVELS)
figures.save(figure, results_folder(work) / "robustness.png")
panels.plots(figure)

# %% [markdown]
# *Figure 10.1. F2 against the level of each degradation, a line for each set of images. Bars: the 95 %
# interval over places, where there are at least five; the sets are moved a little sideways, so that bars can be
# told apart. Dashed: the level at which nothing is changed. Saturation
# grows to the right as its level falls; the axis of resolution is logarithmic.
# Dotted, in the colour of the set: F2 of calling everything cloud. Read a panel from the dashed line
# outwards. A flat line is a model that bears the error; where a line meets its dotted one, the model is no
# better by F2 than a mask without any information.*
#
# Three traps. A curve may rise: an error that makes a model call more cloud raises recall, and F2 rewards
# that until the false alarms outweigh it. The sets hold different ground, so a gap between two lines
# at the dashed level says how hard the images are, not how robust the model is: compare the slopes. And in the
# panel of resolution the simulated line is of the scenes simulated at 5 m, and its value at the dashed level is
# not that of the other panels.
#
# ## Where it breaks
#
# The rule: going away from the harmless level, the model is broken at the first level at which F2 is lower by more
# than `drop` than without degradation. The rule looks at the curve alone. With few scenes a curve crosses it by
# chance, and the steps between levels are wide, so take an entry as "between this level and the one before".

# %%
broken = page.break_table(curves, LEVELS, drop)
tables.show(write_table(work, "robustness_breaks", broken))

# %% [markdown]
# *Table 10.2. The level at which each degradation breaks the model. "Not by" names the farthest level that was run,
# where F2 has not dropped so far; a dash stands for levels that the images do not allow.*
#
# Read a row as a requirement, by its entry that is nearest to the harmless level: a sensor whose error stays at the
# level before that one loses no more than `drop` on any of these sets. "Not by" in all columns means that we have
# not found the limit.
#
# The numbers of this run, and the degradations of which some level leaves the model less than `drop` above
# the floor:

# %% tags=["hide-input"]
Markdown(page.findings(curves, broken, drop))

# %% [markdown]
# **What we learnt.** The table of breaks says what calibration, noise and registration a sensor must keep
# for the model to do as well as on undegraded images. The floor says when a score is worth nothing.
# Three cautions: one error is applied at a time, to images that already have their own; simulated scenes and
# real ones need not be equally hard (compare the first row of Table 10.2); and a set of one patch describes that
# patch only.
