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
# A network learns from pairs: an image, and a mask that says which of its pixels are cloud. This
# page makes those pairs. The images are real and simulated Sentinel-2 images. Nobody has labelled
# the real ones by hand, so their masks come from existing cloud processors. The simulated ones have
# an exact mask of their own. Which of the two the final models learn from is settled on the next
# page; both take part in validation.
#
# **What you will see.** The scenes and their roles; how images, masks and heights are resampled to
# one grid; what three existing processors call cloud, where they disagree, and what dilation
# changes; the chips that later pages train and validate on.
#
# **Prerequisites.** None. **Time.** A few minutes, most of it spent by the processors.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
fraction: float = 1.0  # of the scenes to train and validate on
seed: int = 0  # of everything random
scenes_shown: int = 8  # scenes in the gallery
dilations: list[float] = [0.0, 20.0, 40.0, 80.0]  # metres, for the look at dilation

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown

from clouddl import figures
from clouddl.chips import SOFT, Chips
from clouddl.labels import LABEL_SOURCES, PROCESSORS
from clouddl.scenes import open_scene, resample
from clouddl_study import tables
from clouddl_study.corpora import open_corpus, study_chips
from clouddl_study.pages import data, panels
from clouddl_study.workspace import results_folder, write_corpus_note

figures.style()

# %% [markdown]
# ## Scenes and roles
#
# Three words are kept apart. A **patch** is one small image of the corpus, a few kilometres wide. A
# **scene** is any image as the code reads it, with all its bands: every patch becomes a scene, and so
# does a whole product. A **chip** is one of the squares that scenes are cut into for training.
#
# A **region** is the place a scene shows. The catalogue lists for each scene its files, sensor,
# region and **role**. There are four roles.
#
# - *train*: the weights of the network are fitted to these. Sentinel-2 only.
# - *validation*: everything that has to be chosen is chosen on these. No region is in both roles: scenes
#   of one region show the same ground, and a network that has seen the ground would look better than it is.
# - *reference*: images with hand-labelled masks. They score the finished model and decide nothing.
# - *extra*: images for single pages, with heights or from other sensors.

# %%
catalogue, store = open_corpus(corpus, mirror or None)
tables.show(data.roles_table(catalogue))

# %% [markdown]
# *Table 1.1. The collections of images, by role. "Metres" is the size of a pixel as delivered. A
# region may have many scenes: look at the number of regions to see how varied a collection is.*
#
# What ground do they show? There is no map: many scenes, those of Landsat among them, come without
# coordinates. The next table lists surfaces instead.

# %%
tables.show(data.places_table(catalogue))

# %% [markdown]
# *Table 1.2. The surfaces, with the number of places of each; every simulated scene counts as a
# place, and "of each" means that all surfaces of the row have as many. Look for surfaces of the reference that the
# training rows lack. "Not recorded" means that the publisher does not state the surface. The simulated scenes show
# each surface equally often, by rule.*
#
# Not every copy of this page is made from the same images. The next lines state what this one
# shows.

# %%
Markdown(write_corpus_note(catalogue, results_folder(work) / "corpus.md"))

# %% [markdown]
# Here are some of the training scenes, taken at equal distances from the list:

# %% tags=["wide"]
train = catalogue.select("train")
some = data.some_of(train, scenes_shown)
shown = [(tables.title_of(record.id), open_scene(record, store)) for record in some]
panels.grid(panels.gallery(shown))

# %% [markdown]
# *Figure 1.1. Training scenes. An orange line follows the edge of the cloud in simulated scenes,
# which have an exact mask; a simulated scene without a line is wholly clear or wholly cloud. The
# masks of real training scenes are made below.*
#
# ## One grid for all sensors
#
# The network works on coarser pixels than most sensors deliver. Two sensors of different sharpness
# look more alike on the same, coarser grid, and clouds are large enough to remain visible there.
# `resample` averages reflectance and heights by area. A pixel of the resampled mask is cloud where
# at least half of its labelled area is cloud. Training keeps the fraction itself
# ({doc}`02_training`).

# %% tags=["wide"]
name, scene = data.half_cloudy(shown)
coarser = [metres for metres in (20.0, 30.0, 60.0) if metres > scene.attrs["resolution"]]
coarse = [resample(scene, metres) for metres in coarser]
panels.grid(data.resolutions_figure([scene, *coarse]))

# %% [markdown]
# *Figure 1.2. One scene as delivered, and resampled to coarser pixels: of the simulated scenes of
# Figure 1.1, the one nearest to half cloud, half clear. Look for the smallest detail that can still be
# recognised at each size of pixel.*
#
# A terrain model is an optional input: `elevation` counts as one more band. Few open images come
# with one. Of those that do, and have no height of zero (the sea, or a gap), this is the scene whose
# heights differ most, on the grid of its image. The real images with heights are surface reflectance, and
# their catalogue says so: it gives the level of every image. Where blue is darker than the air alone looks from
# above, the package warns of surface reflectance, unless that level is declared. Here it does not matter, since
# no model sees these images.

# %%
panels.grid(data.terrain_figure(*data.hilliest(catalogue, store)))

# %% [markdown]
# *Figure 1.3. A scene, and the height of its ground, pixel for pixel. What heights
# are worth is measured in {doc}`12_simulated_scenes`.*
#
# ## What existing processors call cloud
#
# A **processor** is a program that makes a mask from an image. In 2020 the labels came from the
# processors MAJA and Fmask. Neither can run here, so three others play that part:
#
# | processor | how it decides | what it learnt from |
# |---|---|---|
# | s2cloudless | a classifier of single pixels, ten bands, the cirrus band among them | its package does not say |
# | ukis-csmask | a U-Net of DLR, four bands | hand-labelled masks: SPARCS (Landsat 8), CloudSEN12+ (Sentinel-2) and others, by its README |
# | spectral tests | published thresholds {cite:p}`zhu2012`, six bands | nothing |
#
# So a model trained on the masks of ukis-csmask, or on a vote it takes part in, has learnt from
# hand-labelled masks at second hand; one trained on the spectral tests has not. This matters for
# every claim that no hand-labelled mask was used, and later pages repeat it.
#
# Three votes combine the processors, pixel by pixel:
#
# - `consensus` labels a pixel only if all three agree. The rest stays unlabelled and is left out of the loss.
# - `majority` is what at least two of the three say.
# - `union` is cloud where ukis-csmask or the spectral tests say cloud.
#
# A fourth combination, **soft labels**, keeps the disagreement: the label is the fraction of the
# three that say cloud. The settings of all sources are fixed in the package:

# %%
LABEL_SOURCES

# %% [markdown]
# Each line is a source. s2cloudless gives a probability: it is averaged over a disc of a radius of `average_m` metres,
# becomes cloud from `threshold` on, and the cloud is grown by `dilation_m` metres. So masks of s2cloudless are dilated
# already before the last section of this page dilates them further. `n_bands` says which of the two networks of
# ukis-csmask is used. `of` names the processors of a vote, and `rule` how many must agree. The spectral tests have no
# settings, and soft labels are not listed: they follow from the three processors.
#
# `study_chips` cuts the scenes into chips, all of one size, and labels each chip with every source. A simulated scene
# needs no processor: its exact mask stands in place of each. So it tells nothing of how processors differ, and
# simulated chips are left out of the comparison that follows.

# %%
path = study_chips(catalogue, store, work, fraction)
bands = ["blue", "green", "red", "nir", "swir16"]
sources = [*LABEL_SOURCES, SOFT]
layers = {}
for source in sources:
    chips = Chips.open(path, bands, source, "train")
    layers[source] = data.labelled_by_processors(chips, catalogue)
masks = {source: layers[source].dataset.mask.values for source in LABEL_SOURCES}
tables.show(data.labels_table(masks))

# %% [markdown]
# *Table 1.3. The sources of labels on the real training chips. "Labelled" is the part of all pixels
# that a source labels; only `consensus` leaves pixels out on purpose. "Cloud" is the part of the
# labelled pixels that it calls cloud: compare it from row to row.*
#
# Where the last column differs, networks trained on two sources learn two different targets, and
# longer training does not bring them together. In 2020 about 20 % of the pixels were cloud. Such a
# minority is the reason for the Dice term in the loss ({doc}`02_training`).
#
# The next figure shows one chip with all its labels. It is chosen because it has many pixels of all
# three kinds: cloud for all processors, clear for all, and divided.

# %% tags=["wide"]
index = data.most_divided(masks, PROCESSORS)
chip = layers[SOFT].dataset.isel(chip=index)
labels = {source: mask[index] for source, mask in masks.items()}
panels.grid(data.sources_figure(chip, labels, chip.mask.values))

# %% [markdown]
# *Figure 1.4. One chip and its labels. First the three processors, then their votes; orange has no
# label. In the soft labels, yellow means that all three say cloud, dark blue that none does, and
# the shades between that they are divided: look for these along the edges of clouds.*
#
# ## Where they disagree
#
# Next we compare two processors on all real training chips. Of each region we take the chip in
# which they differ most, and show the four worst. Beside the image is Sentinel-2's **cirrus band**
# at 1.38 µm. Water vapour absorbs that light, so the ground stays dark there and only what is high
# in the air is bright. Of the three processors, only s2cloudless reads this band. SPOT and Pléiades
# do not have it, so our network does not read it either.

# %%
a, b = masks["s2cloudless"], masks["ukis-csmask"]
chips = layers["ukis-csmask"]
worst = data.furthest_apart(a, b, chips.dataset.group.values, most=4)
cirrus = [data.cirrus_of(chips, i, catalogue, store, a.shape[-1]) for i in worst]
three = {name: masks[name] for name in PROCESSORS}
tables.show(data.disagreement_table(chips, three, worst, cirrus))

# %% [markdown]
# *Table 1.4. The four chips: the median reflectance in the cirrus band, and how much of the chip each
# processor calls cloud. Look for a processor that stands alone.*
#
# The same four chips, in the same order, as pictures:

# %% tags=["wide"]
panels.grid(data.disagreement_figure(chips, three, worst, cirrus))

# %% [markdown]
# *Figure 1.5. The worst chip of each of four regions. Read each in this order: the image as the
# eye sees it, the cirrus band (white from a reflectance of 0.05), then what each processor calls
# cloud.*
#
# Look for three cases.
#
# - **Thin high veil.** The chip looks clear but is evenly bright in the cirrus band, and s2cloudless
#   calls all of it cloud. Other bands show a faint haze at most, which the spectral tests may call
#   cloud too. Whether it is cloud is a question of definition. A network without the cirrus band can
#   hardly learn this case: its inputs hold little of what decides it.
# - **Bright ground.** The image shows snow, ice, sand or another bright ground, which one of the
#   processors has probably taken for cloud.
# - **Edge of the cloud.** The masks differ along a rim only: the processors draw the edge at
#   different distances.

# %%
agreement = 1 - (a != b).mean()
agreed_by_all = (masks["consensus"] != 255).mean()
Markdown(
    f"s2cloudless and ukis-csmask agree on {tables.percent(agreement)} of {a.size:,} pixels of "
    f"{len(a)} chips; all three processors agree on {tables.percent(agreed_by_all)}."
)

# %% [markdown]
# ## Dilation
#
# **Dilation** grows every cloud of a mask by some metres. Processors draw the edge of a cloud at
# different distances from its core, so part of their disagreement is only a matter of such a
# margin. Here the masks of s2cloudless are dilated further and scored against those of ukis-csmask,
# as if the latter were true. Neither is; the table shows how far a margin alone moves a score.
#
# *Precision* is the fraction of what is called cloud that is cloud, *recall* the fraction of cloud
# that is found. F1 weights both alike, and **F2**, the score of this book, weights recall four times
# as much as precision. The other columns are explained in {doc}`04_sentinel2_validation`.

# %%
dilated = [data.score_dilated(a, b, metres, chips.resolution) for metres in dilations]
tables.show(pd.DataFrame(dilated))

# %% [markdown]
# *Table 1.5. s2cloudless against ukis-csmask, after dilation by some metres more. Compare the
# columns of F1 and F2 from row to row.*
#
# Dilation can only add cloud. So recall cannot fall from row to row, and precision falls when what
# is added is mostly clear in the other mask. F2 may then rise where F1 falls: a gain in F2 after
# dilation need not mean a better mask.
#
# ## Chips
#
# All of this is stored as Zarr: images, one mask for each source of labels, and for each chip the
# scene, its region, its role and the checksum of its image. Later pages open the store with
# `Chips.open`, which picks the bands, the source of labels and the role.

# %%
stored = data.chips_table(path, bands[:1], "majority")
tables.show(stored)

# %% [markdown]
# *Table 1.6. The chips that are stored, real and simulated ones apart. This page compared processors
# on the real ones alone. All scenes of one place make one region, whatever their date, and so do all
# simulated scenes of one landscape.*

# %%
totals = stored.groupby("origin").chips.sum()
Markdown(
    f"In this run: {totals['real']} real and {totals['simulated']} simulated chips; "
    f"s2cloudless calls {tables.percent((a == 1).mean())} of the pixels compared cloud, ukis-csmask "
    f"{tables.percent((b == 1).mean())}; the two agree on {tables.percent(agreement)}."
)

# %% [markdown]
# **What we learnt.** Masks of processors cost nothing, but they are not the truth: each has its own
# idea of thin cloud, bright ground and the edge of a cloud, and one of them learnt from
# hand-labelled masks. The numbers above say how large their disagreement is here; a score against
# such masks has to be read with it in mind. The next page, {doc}`02_training`, compares networks
# trained on each source.
