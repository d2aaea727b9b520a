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
# # 6. Fewer bands
#
# **What you will see.** Which bands each sensor has in common with Sentinel-2, and how much bands of one
# name differ. Then the question that Pléiades, Venµs and PlanetScope ask: what is a cloud mask worth
# without short-wave infrared? Scores on real and on simulated images answer part of it; pictures of
# PlanetScope, without scores, end the page.
#
# **Why it matters.** A model can only use bands that both its training sensor and the new sensor have.
# Snow is the usual casualty: it is as bright as cloud in the visible and near infrared, and dark in the
# short-wave infrared. Without that band, a network has to tell them apart by shape and texture.
#
# **Prerequisites.** Models of {doc}`03_hyperopt_search` (else those that ship). **Time.** Minutes.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
seed: int = 0  # of the bootstrap and the simulated places
draws: int = 2000  # of the bootstrap
tested: int = 20  # simulated places to score on
size: int = 128  # pixels of 30 m, of one simulated place

# %% tags=["hide-input"]
import pandas as pd

from clouddl import figures
from clouddl.score import pooled
from clouddl.sensors import BAND_SETS, get_sensor
from clouddl.simulate import simulate_set
from clouddl.transfer import evaluate, model_method, open_scenes
from clouddl_study.corpora import open_corpus
from clouddl_study.pages import bands, panels
from clouddl_study.pages.methods import all_cloud, peer_method
from clouddl_study.tables import enough_units, show
from clouddl_study.workspace import results_folder, trained_model, write_table

figures.style()

# %% [markdown]
# ## What the sensors share
#
# Every sensor is described by a card: its bands under their STAC common names, with centre, width and
# ground sampling. From the cards alone we can list what a sensor shares with Sentinel-2. A model works
# only from the bands it was made for, so the last column gives the largest band set of the study that the
# sensor can fill. `five` is blue, green, red, near infrared (`nir`) and short-wave infrared at 1.6 µm
# (`swir16`); `spot` is these without blue, `pleiades` without short-wave infrared. These are also the names
# that commands and files use.

# %%
show(write_table(work, "sensors_shared", bands.sensor_table()))

# %% [markdown]
# *Table 6.1. What each sensor shares with Sentinel-2. Most that lack a band of the study lack blue or the short-wave
# infrared.*
#
# Read a row from right to left: the last column is the model to use, the column before it is what that
# model goes without. A sensor with "none" in the last column cannot fill any of the three sets, and no
# model of these sets can be used on it.
#
# ## Bands of one name differ
#
# Bands of one name differ between instruments in the centre and the width of their filters, so they measure
# different reflectances over the same ground. We plot the response curves of seven sensors. Where no
# published curve comes with the package, a Gaussian or a box with the centre and width of the card stands in
# for it; the line style says which. Where the specification leaves a range open, the curve is drawn in its
# middle, and a bar above it spans the possible centres.

# %% tags=["wide"]
chosen = ("sentinel-2", "spot-4", "spot-5", "landsat-8", "pleiades", "venus", "co3d")
responses = figures.sensor_responses([get_sensor(name) for name in chosen])
figures.save(responses, results_folder(work) / "sensor_responses.png")
responses

# %% [markdown]
# *Figure 6.1. Spectral responses of seven sensors, one a row, each scaled to a peak of 1. Compare one
# colour down the rows: where its peaks do not line up, or one is much wider, two sensors report different
# reflectances for the same ground. A row with a colour missing is a sensor without that band.
# {doc}`08_band_adjustment` computes what these differences amount to in reflectance.*
#
# ## Without short-wave infrared
#
# Blue, green, red and near infrared are the bands of Pléiades. We could not obtain Pléiades images with
# reference masks. Two substitutes each answer part of the question:
#
# - **Real images of another sensor.** The On Cloud N patches are Sentinel-2 images with these bands and
#   hand-labelled masks. They look like surface reflectance ({doc}`/data`), while the models learnt from
#   reflectance at the top of the atmosphere. Their cloud outlines are generous, so a tight mask loses recall there.
# - **Simulated images of the sensor itself.** Venµs and Pléiades are simulated over the same places, with
#   their own responses, blur and noise, and scored against the simulated truth. The simulator is the one that made
#   the training scenes, so these scores are no forecast for real images.

# %%
catalogue, store = open_corpus(corpus, mirror or None)
models = {name: trained_model(work, name) for name in ("pleiades", "any")}
use = BAND_SETS["pleiades"]
sets = {}
if catalogue.name == "simulated":
    print("The corpus is simulated: the On Cloud N patches are left out.")
else:
    patches = [s for s in catalogue.select("reference") if s.collection == "oncloudn"]
    sets["oncloudn"] = open_scenes(patches, store, models["pleiades"].card.resolution)
for name in ("venus", "pleiades"):
    title = f"{get_sensor(name).title}, simulated"
    sets[title] = simulate_set(name, tested, seed=40_000 + seed, size=size)

# %% [markdown]
# We compare two models of ours with a floor and with a network of others. The first model was trained with
# these four bands alone. The second was trained with each of the three sets of bands, and is given these four. The
# floor is the method that calls every pixel cloud. F2 weights recall four times as much as precision, so
# this floor is high wherever there is much cloud, and an F2 below it recommends no mask. ukis-csmask, a
# network of DLR trained on hand-labelled masks, is scored on the real images alone: it was made for real
# images, and a failure on simulated ones would say nothing about it.

# %%
names = ", ".join(use)
ours, floor = f"CloudDL: {names}", "everything is cloud"
any_bands = f"CloudDL, one model for any bands: {names}"
methods = {
    ours: model_method(models["pleiades"], use),
    any_bands: model_method(models["any"], use),
    floor: all_cloud(),
}
processor = {f"ukis-csmask: {names}": peer_method()}

counted = []
for images, scenes in sets.items():
    applied = methods | processor if images == "oncloudn" else methods
    counted.append(evaluate(applied, scenes).counts.assign(images=images))
scores = pooled(pd.concat(counted), by=["images", "run"], draws=draws, seed=seed)

# %% [markdown]
# Pixels are pooled over the scenes of a set; the intervals resample scenes (places, where several scenes
# show one place). Below five places no interval is given.
#
# The two models have thresholds of their own, and F2 depends on them. The *average precision* does not: it is
# the area under the curve of precision against recall over all thresholds, 1 for a perfect order of the
# pixels. Chance gives the fraction of cloud in the set. Methods that give a mask and no probability
# have none.

# %%
shown = enough_units(scores)[["images", *bands.SHOWN]].round(3)
for images, scenes in sets.items():
    for run, model in zip((ours, any_bands), models.values(), strict=True):
        row = (shown.images == images) & (shown.run == run)
        shown.loc[row, "average precision"] = bands.average_precision(model, scenes, use)
show(write_table(work, "scores_without_swir", shown.round(3)))

# %% [markdown]
# *Table 6.2. Scores without short-wave infrared. Look whether a method is above the floor, everything is cloud, of
# its own set. The models of ours are single fits.*
#
# Compare a method with the floor of its own set first, then with the other methods of that set. Do not
# compare the real set with the simulated ones: they differ in cloud cover, and so in their floor. The
# simulated Venµs and Pléiades show the same places, so what differs between these two is the instrument
# alone. Then look at precision and recall. Precision is low if bright ground such as snow or sand is taken
# for cloud; recall is low if thin cloud or the rim of generous outlines is missed. F1, which weighs both
# mistakes alike, tells a method that F2 puts below the floor from one that is of no use. MCC
# ({doc}`04_sentinel2_validation`) counts clear ground too, and gives the floor no credit; it is undefined there.
# If a model has the higher average precision but the lower F2, its probabilities order the pixels better and
# its threshold does not suit the set.
#
# This table does not tell what leaving out the short-wave infrared costs, since no row has it. That is a
# paired difference in {doc}`05_spot_transfer`.
#
# ## Pictures of PlanetScope
#
# PlanetScope has the same four bands. The labels that come with its patches are blocks of unknown origin, so
# we compute no score. We show the pictures instead, with the mask of the model outlined. A patch of 300
# pixels of 3 m is no more than 30 pixels of the network's 30 m, so the model sees very little context.

# %% tags=["wide", "remove-stderr"]
pictures = bands.planetscope_pictures(catalogue, store, models["pleiades"])
if pictures:
    gallery = panels.gallery(pictures)
    figures.save(gallery, results_folder(work) / "planetscope.png")
else:
    print("The corpus is simulated: the PlanetScope patches are left out.")
panels.grid(gallery) if pictures else None

# %% [markdown]
# *Figure 6.2. PlanetScope patches in true colour, with the outline of the model's mask; there is no outline
# where all or nothing is called cloud. The title gives the season and number of the patch, whether its
# source calls it cloudy or clear, and the fraction that the model calls cloud. Check two things by eye: do the
# outlines follow the clouds, and is the fraction near zero on the patches called clear? (Shown with real
# images only.)*
#
# Back to the scores: the lines below repeat F2 of the four-band model beside the floor of each set. The
# differences have no interval here, so a small one shows nothing.

# %%
bands.f2_beside(scores, "images", ours, floor)

# %% [markdown]
# **What we learnt.** The card of a sensor tells before launch which model can be used. What that model is
# worth without short-wave infrared is the difference in the lines above, in points of F2 over calling
# everything cloud. Where it is small or negative, F2 alone does not recommend the mask: look at
# precision, at recall and at the pictures. The next page asks how far rules without any training get
# ({doc}`07_classical_tests`).
