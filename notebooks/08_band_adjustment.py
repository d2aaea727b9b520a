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
# # 8. Three ways to another sensor's bands
#
# **What you will see.** A model was trained on Sentinel-2, and the image comes from a sensor whose
# bands have the same names but other filters. Three ways to use the model are compared on the same images:
#
# 1. **As it is.** Use the shared bands and ignore that they differ.
# 2. **Adjust the image.** Bring its reflectances to Sentinel-2's bands before prediction. Tables call this
#    "moved".
# 3. **Change the model.** Use the one model that was trained with each of the three sets of bands, called
#    *one model for any bands*.
#
# **Why it matters.** The second way costs a few lines and no label. If it helps, the images of a new sensor
# should always be adjusted; if it does not, that is one step less to go wrong.
#
# **Prerequisites.** Models of {doc}`03_hyperopt_search` (else those that ship); response curves are
# shown in {doc}`06_fewer_bands`. **Time.** Minutes.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
seed: int = 0  # of the bootstrap
draws: int = 2000  # of the bootstrap

# %% tags=["hide-input"]
import numpy as np
import pandas as pd

from clouddl import figures
from clouddl.score import pooled
from clouddl.sensors import BAND_SETS, STUDY_BANDS, get_sensor
from clouddl.simulate.spectra import adjustment
from clouddl.transfer import evaluate, model_method, open_scenes
from clouddl_study.corpora import open_corpus
from clouddl_study.pages import bands, panels, transfer
from clouddl_study.pages.methods import all_cloud
from clouddl_study.tables import enough_units, show, title_of
from clouddl_study.workspace import trained_model, write_table

figures.style()

# %% [markdown]
# ## How an adjustment is fitted
#
# We have spectra of many kinds of ground: soils, plants, water, snow, roofs. Each spectrum, seen through the
# responses of two sensors, gives a pair of reflectances. A linear regression over all pairs predicts
# Sentinel-2's band $b$ from all shared bands of the other sensor,
#
# $$ \rho^\mathrm{S2}_b \approx c_b + \sum_k M_{bk}\, \rho^\mathrm{sensor}_k , $$
#
# The coefficients $M_{bk}$ and the offset $c_b$ are fitted by least squares, every kind of surface with the
# same weight. No image and no label is used. The spectra are of ground: there is no air and no cloud in them.
# Here is the fit for Landsat 8 with SPOT's bands.

# %%
five, spot = list(STUDY_BANDS), BAND_SETS["spot"]
sentinel = get_sensor("sentinel-2")
matrix, offset, remaining = adjustment(get_sensor("landsat-8"), sentinel, spot)
fitted = pd.DataFrame(matrix, columns=[f"Landsat 8 {title_of(band)}" for band in spot])
fitted.insert(0, "Sentinel-2", [title_of(band) for band in spot])
fitted["offset"] = offset
fitted["white of 0.8 becomes"] = matrix @ np.full(len(spot), 0.8) + offset
show(fitted.round(3))

# %% [markdown]
# *Table 8.1. The adjustment of Landsat 8.*
#
# Each row makes one band of Sentinel-2. The larger a number off the diagonal, the more the adjustment borrows
# from another band. The last column tests the fit on what it never saw. An ideal white target has the same
# reflectance in every band of every sensor, so nothing should change and the column should read 0.8. A thick
# cloud is near to that in the visible and near infrared. A departure from 0.8 is an error that the adjustment
# would add there.
#
# ## How far bands are apart
#
# The distance between a band and Sentinel-2's band of that name is the root mean square difference
# of reflectance over the same spectra. The table gives it before the adjustment ("as it is") and after it
# ("moved"), for the two Landsat sensors that stand in for SPOT, and for SPOT itself.

# %%
uses = {"landsat-5": five, "landsat-8": five, "spot-4": spot, "spot-5": spot}
distances = bands.distance_table(uses, sentinel)
show(write_table(work, "band_adjustment", distances.round(4)))

# %% [markdown]
# *Table 8.2. Root mean square difference of reflectance to Sentinel-2's band of the same name.*
#
# As a picture:

# %% tags=["wide"]
panels.plots(bands.plot_distances(distances))

# %% [markdown]
# *Figure 8.1. Root mean square difference of reflectance to the band of the same name of Sentinel-2, over
# spectra of ground, before (circle) and after the adjustment (square). The adjustment was fitted on these
# very spectra, so a square can only lie to the left of its circle: its distance from zero is what a linear
# adjustment cannot remove. To judge the size, compare with the training effects of {doc}`02_training`,
# which change the calibration of a band by some per cent of its reflectance.*
#
# ## Three ways on the same images
#
# The references are images of other sensors that have all five bands; they are real ones, unless the whole
# corpus is simulated. We use each with all five bands and with SPOT's four.

# %%
catalogue, store = open_corpus(corpus, mirror or None)
models = {name: trained_model(work, name) for name in ("five", "spot", "any")}
scenes = open_scenes(catalogue.select("reference"), store, models["spot"].card.resolution)
sets = transfer.by_sensor(scenes, five)
sets.pop("sentinel-2", None)  # it is the target
bands.numbers_of_scenes(sets)

# %% [markdown]
# For each sensor and each set of bands we predict three times. The first two use the same model on two
# versions of the image; the third uses another model on the image as it is.

# %%
ways = {
    "as it is": "CloudDL",
    "moved": "CloudDL, reflectances moved",
    "any": "CloudDL, one model for any bands",
}

# %%
counted, ranked = [], []
for sensor, part in sets.items():
    for name, use in (("five", five), ("spot", spot)):
        moved = {key: bands.adjusted(scene, sentinel, use) for key, scene in part.items()}
        plan = {"as it is": (name, part), "moved": (name, moved), "any": ("any", part)}
        for way, (model_name, images) in plan.items():
            model = models[model_name]
            run = f"{ways[way]}: {', '.join(use)}"
            counts = evaluate({run: model_method(model, use)}, images).counts
            counted.append(counts.assign(way=way, bands=", ".join(use)))
            precision = bands.average_precision(model, images, use)
            ranked.append({"sensor": sensor, "run": run, "average precision": precision})

# %% [markdown]
# Scores are pooled over the scenes of a sensor. The last rows are the floor: the F2 of calling every pixel
# cloud, which each of the three ways has to beat.

# %%
three = pd.concat(counted)
baseline = pd.concat(
    [evaluate({"everything is cloud": all_cloud()}, part).counts for part in sets.values()]
)
both = pd.concat([three, baseline])
scores = enough_units(pooled(both, by=["sensor", "run"], draws=draws, seed=seed))
show(write_table(work, "scores_band_adaptation", scores[["sensor", *bands.SHOWN]].round(3)))

# %% [markdown]
# *Table 8.3. The three ways, and the floor. Below five places no interval is given.*
#
# Compare the three ways within one sensor and one set of bands. The intervals of the rows may overlap even if one
# way is better on every scene, because all three find the same scenes hard. The paired differences below remove
# that: the bootstrap resamples the scenes of both ways together.

# %%
differences = bands.differences_to_plain(three, ways, draws, seed)
show(write_table(work, "difference_band_adaptation", differences.round(4)))

# %% [markdown]
# *Table 8.4. F2 minus the F2 of the bands as they are, in points, that is in hundredths. Below five places no
# interval is given. A bound of +0.0 is rounded; the words below go by the exact one.*
#
# An interval that contains zero means that no difference is shown. One that does not may still show a difference
# too small to matter. A sensor with a single place cannot be resampled and is left out: its
# rows of Table 8.3 may lie farther apart than those here, and decide nothing.
#
# The model for any bands was trained separately, so its difference also holds the chance of training: compare
# it with the noise of a difference in {doc}`05_spot_transfer`. It has its own threshold too, and its F2 may
# differ for that reason alone. Average precision has no threshold: it says how well a model orders pixels
# from clear to cloud.

# %%
show(pd.DataFrame(ranked).round(3))

# %% [markdown]
# *Table 8.5. Average precision of each way, from 0 to 1.*
#
# If two ways are equal in average precision and differ in F2, the threshold is what differs, and it could be
# set anew on a few labelled pixels. If they differ in both, the ordering itself is better or worse.
#
# There are two reasons to expect little of an adjustment. A cloud is nearly white in the visible and near
# infrared, and differences between filters act on colour, so they act on ground more than on cloud. And the
# models were trained with changes of gain, so that they should tolerate small ones. The lines below put the
# differences into words; "a difference" means that the interval excludes zero, and where there are fewer than five
# places, nothing is decided.

# %%
bands.differences_in_words(differences)

# %% [markdown]
# **What we learnt.** The lines above are the answer: what adjusting the image, and what a model for any
# bands, is worth in F2 against using the bands as they are. The distances of Figure 8.1 say how much there
# was to correct on ground. If the second way shortens these distances and F2 hardly changes, the distances
# matter little to the mask. That would hold for filters as alike as these, and for models trained with
# changes of calibration; a sensor whose bands lie further off should be put through this page
# first. {doc}`11_new_sensor` tells what else to try on it.
