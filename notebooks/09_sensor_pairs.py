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
# # 9. Trained on one sensor, scored on another
#
# **What you will see.** A small model is trained on each of four simulated sensors and scored on all four: a
# matrix of sixteen scores. On its diagonal a model meets the sensor it was trained on; everywhere else it is
# transferred. Then we ask why one model may be ahead even on sensors that are not its own.
#
# **Why it matters.** The study of 2020 trains on Sentinel-2 and applies to SPOT. That is one cell of the
# matrix. With real images only a few cells can be filled: Sentinel-2 to train on, and the **references** (images
# with hand-labelled masks) to score on.
# **Simulated** scenes fill all of them, because a simulator can show the same ground, the same sun and the same
# clouds to four instruments. Such a matrix holds the effects of spectral response, blur, calibration and noise. It
# holds nothing of what else a real sensor does.
#
# **Prerequisites.** The simulated scenes of {doc}`12_simulated_scenes`, and a model of
# {doc}`03_hyperopt_search` (else the one that ships). **Time.** Minutes: four short fits.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
seed: int = 0  # of the small models, the bootstrap and the simulated places
draws: int = 2000  # of the bootstrap
places: int = 40  # simulated places to train each small model on
tested: int = 20  # simulated places to score on, other ones
size: int = 128  # pixels of 30 m, of one simulated place
epochs: int = 40  # passes of each small fit

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown

from clouddl import figures
from clouddl.chips import Chips, cut_chips
from clouddl.network import ModelCard
from clouddl.score import pooled
from clouddl.sensors import BAND_SETS, STUDY_BANDS
from clouddl.simulate import simulate_set
from clouddl.train import Schedule, fit
from clouddl.transfer import evaluate, model_method, open_scenes

# %% tags=["hide-input"]
from clouddl_study.corpora import open_corpus
from clouddl_study.pages import bands, pairs, panels, transfer
from clouddl_study.pages.methods import all_cloud
from clouddl_study.tables import ALL_CLOUD, enough_units, show
from clouddl_study.workspace import results_folder, trained_model, work_folder, write_table

figures.style()

# %% [markdown]
# ## Four small models
#
# Each model sees the same places through another sensor, with SPOT's four bands (green, red, near and short-wave
# infrared). Network, seed, number of steps and training effects (the augmentation of {doc}`02_training`) are the
# same, so models differ in nothing but the images. There is no validation set: a fit runs to its last epoch and
# keeps the threshold 0.5. That makes the fits simple and the comparison harder to read, as we shall see.

# %%
spot = BAND_SETS["spot"]
names = ("sentinel-2", "landsat-8", "spot-4", "spot-5")
schedule = Schedule(epochs, batch_size=8)

# %%
small = {}
for sensor in names:
    scenes = simulate_set(sensor, places, seed=50_000 + seed, size=size, role="train")
    chips = cut_chips(scenes.values(), bands=spot, sources=["truth"], size=size)
    card = ModelCard(
        name=f"{sensor}-drawn",
        bands=spot,
        resolution=30.0,
        normalisation="log",
        seed=seed,
    )
    folder = work_folder(work) / "runs" / card.name
    small[sensor] = fit(card, Chips(chips.isel(source=0)), None, folder, schedule)

# %% [markdown]
# ## All pairs
#
# Other places, again the same for all sensors, are scored against the simulated truth: a mask that follows from
# the optical depth of the simulated clouds ({doc}`12_simulated_scenes`). The score is F2, which weights recall
# four times as much as precision. The **floor**, the mask that calls every pixel cloud, is scored too. A good
# part of the simulated places is overcast, so the floor of F2 is high here, and small models may not pass it.

# %%
sets = {name: simulate_set(name, tested, seed=60_000 + seed, size=size) for name in names}
methods = {train: model_method(model, spot) for train, model in small.items()}
methods[ALL_CLOUD] = all_cloud()
counted = [evaluate(methods, part).counts.assign(test=test) for test, part in sets.items()]
counts = pd.concat(counted).rename(columns={"run": "train"})
matrix = enough_units(pooled(counts, by=["train", "test"], draws=draws, seed=seed))

# %% [markdown]
# Beside this square we put the one row that can be had with the corpus of the study: its model with SPOT's
# bands, trained on Sentinel-2 scenes (real or simulated, as {doc}`02_training` settles). It is scored on every
# reference that has all five bands of the study.

# %%
catalogue, store = open_corpus(corpus, mirror or None)
model = trained_model(work, "spot")
references = open_scenes(catalogue.select("reference"), store, model.card.resolution)
rows = {"sentinel-2": model_method(model, spot), ALL_CLOUD: all_cloud()}
by_sensor = transfer.by_sensor(references, STUDY_BANDS)
scored = [evaluate(rows, part).counts for part in by_sensor.values()]
study = pooled(pd.concat(scored), by=["sensor", "run"], draws=draws, seed=seed)
study = enough_units(study).rename(columns={"run": "train", "sensor": "test"})

# %%
blocks = {
    "small models, simulated scenes": matrix,
    f"model of the study, {catalogue.name} references": study,
}
joined = pairs.matrix_table(blocks)
columns = ["images", "trained on", "scored on", *bands.SHOWN[1:]]
show(write_table(work, "sensor_matrix", joined[columns].round(3)))

# %% [markdown]
# *Table 9.1. Scores of all pairs: first the small models on simulated scenes, then the model of the study.
# Compare a row with the floor of the same scored sensor. Below five places no interval is given. MCC
# ({doc}`04_sentinel2_validation`) gives the floor no credit, and is undefined there.*
#
# The same F2 as a picture:

# %% tags=["wide"]
figure = pairs.matrix_figure(blocks)
figures.save(figure, results_folder(work) / "sensor_matrix.png")
panels.plots(figure)

# %% [markdown]
# *Figure 9.1. F2 of each pair of training sensor (row) and scored sensor (column), at one colour scale, brighter for higher.
# First four small models on simulated scenes; the diagonal is training on the right sensor. Then the model of the
# study on the references. The last row is the floor, everything called cloud: a cell that is no better than the
# floor of its column shows no skill by F2. If matching sensors mattered most, the diagonal would hold the brightest
# cell of each column. If a whole row is bright, the model of that row is better, or calls more cloud, everywhere.
# The two halves must not be compared with each other: models, images and cloud cover differ.*
#
# Now each column against its diagonal: F2 of each model minus F2 of the model trained on the sensor that is
# scored, on the same places.

# %%
differences = pairs.differences_to_own(counts, names, draws, seed)
show(write_table(work, "difference_sensor_matrix", differences.round(4)))

# %% [markdown]
# *Table 9.2. Differences in F2 to the native model, the one trained on the sensor that is scored, in points. Look for
# intervals that exclude zero.*
#
# A positive difference means that a model of another sensor is **ahead of the native one**. The intervals hold the
# choice of places. They do not hold the seed: there is one fit for each sensor, and fits that differ in nothing
# but their seed can be points of F2 apart ({doc}`05_spot_transfer`). An interval that excludes zero says that
# *these two fits* differ on such places, not that the two *sensors* do.
#
# ## Why could a foreign model be ahead?
#
# There are at least four candidates, and the matrix can tell some of them apart.
#
# 1. **The model, not the match.** One fit may simply be better than another, by its images or by chance.
# 2. **The threshold.** At 0.5 one model may call more cloud than another. F2 weights recall four times as
#    much as precision, so the model that calls more cloud gains even if it orders pixels no better.
# 3. **The images.** A sharper, less noisy sensor may make better training images: edges of cloud agree with their
#    labels.
# 4. **Calibration.** Each simulated instrument is off by a little, always in the same way. A model that was
#    trained on slightly darker images sees the others as brighter, and may call more of them cloud.
#
# First candidate: we split each F2 into the mean of all, an effect of the model (its row), an effect of
# the images (its column) and a rest. The rest on the diagonal is what the match brings beyond both: training on the
# sensor that is scored.

# %%
show(pairs.model_or_match(matrix).round(1))

# %% [markdown]
# *Table 9.3. Effects of model, images and match, in points of F2. Compare the spread of the first column of
# numbers with that of the last.*
#
# If the first spreads more widely, the choice of model decides and not the match of sensors. Values near zero in
# the last mean that training on the scored sensor brought nothing of its own.
#
# Second candidate: we leave the threshold out. Average precision, the area under the curve of precision against
# recall, measures how well a model orders pixels. F2 at the best threshold of each pair reads the truth, so
# nobody could have it in practice; it is the score with the threshold's part removed.

# %%
ranking = pairs.without_threshold(small, sets, spot)
show(pairs.threshold_table(ranking))

# %% [markdown]
# *Table 9.4. The small models without a threshold of their own, means over the four scored sensors. Compare "called
# cloud" with "cloud".*
#
# A model that calls less cloud than there is, is too cautious for F2 at 0.5, and a best threshold below 0.5 says
# the same. If the models are much closer in the first two columns of numbers than in the matrix, the threshold explains
# most of the advantage, and choosing it on validation scenes would remove most of it. If they stay as far apart, one
# model orders pixels better. Two floors belong to the table. An average precision near the fraction of cloud is that
# of chance. F2 at the best threshold cannot fall far below that of "everything is cloud", because a very low
# threshold gives that mask. Models that all lie on these floors have no skill, and comparing them says nothing.
#
# Third and fourth candidate: what the four instruments make of the same scored places.

# %%
show(pairs.image_table(sets, spot))

# %% [markdown]
# *Table 9.5. The scored places as each sensor sees them. "Neighbours differ by" is the mean difference in
# reflectance of neighbouring clear pixels; sharpness and noise both raise it.*
#
# Ground sampling is that of the bands used. All images are at 30 m, so a finer sensor is averaged, which lowers
# its noise and sharpens it at that scale. If the model that is ahead belongs to the darkest row, calibration
# could be the reason; if to the row with the finest sampling, sharpness could. One fit for each sensor can
# make either plausible and prove neither: that would take several seeds, and instruments that differ in one
# property at a time. The numbers of this run:

# %%
Markdown(pairs.explanation(matrix, ranking))

# %% [markdown]
# **What we learnt.** The lines above say which model is ahead and how often, what the match of sensors is
# worth beyond that, how much of the spread is left once every pair may have its best threshold, and how
# many pairs show skill at all by F2. If the match is worth little, that supports the idea of 2020: a model needs
# the right bands rather than the right sensor. But the scenes are simulated: they hold what spectral response, blur,
# calibration and noise do, and not saturation, compression, stray light or a real atmosphere. A sensor of your
# own goes the same way in {doc}`11_new_sensor`.
