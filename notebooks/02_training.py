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
# This page is the method itself: the network, what it minimises, what it is shown, and how its
# weights are found. Then it compares short fits, to choose the labels, the scenes to train on and
# the normalisation.
#
# **What you will see.** A drawing of the U-Net and its code; the loss on a toy mask; how training
# images are changed so that they stand for other sensors; the learning rate and the averaging of
# the weights; short fits with different labels, training effects, scenes and normalisations, scored
# on validation scenes; how a probability becomes a mask.
#
# **Prerequisites.** The chips of {doc}`01_data_preparation` (made here if they are missing).
# **Time.** Minutes for each of the short fits, on two cores.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
fraction: float = 1.0  # of the scenes to train and validate on
seed: int = 0  # of weights, order and augmentation
bands: list[str] = ["green", "red", "nir", "swir16"]  # inputs; SPOT's four
labels: str = "auto"  # one of LABEL_SOURCES, soft, or truth (simulated scenes); auto: see below
scenes: str = "auto"  # what the final models train on: all, real or simulated; auto: see below
normalisation: str = "auto"  # what the final models have: log, fixed or chip; auto: see below
resolution: float = 30.0  # metres at which the model works
epochs: int = 6  # passes over the training chips, for each fit
batch_size: int = 8  # chips per step
learning_rate: float = 3e-3  # of Adam, at its highest
at_once: int = 1  # fits at the same time, each on one core

# %% tags=["hide-input"]
from IPython.display import Markdown

from clouddl import figures
from clouddl.augment import CROP, Augmentation
from clouddl.chips import SOFT, Chips
from clouddl.labels import LABEL_SOURCES
from clouddl.network import ModelCard, UNet, build, cloud_loss
from clouddl.scale.tiles import receptive_field
from clouddl.sensors import get_sensor
from clouddl.train import Schedule
from clouddl_study import tables
from clouddl_study.corpora import open_corpus, study_chips, training_labels, yardsticks
from clouddl_study.experiments import LEARNT_FROM, Fit, fit_all
from clouddl_study.pages import panels, training
from clouddl_study.workspace import work_folder, write_choices, write_table

# %% [markdown]
# ## The training and the validation chips
#
# The weights are fitted to the training chips. Validation chips come from regions never trained on.
# They decide whatever has to be chosen and was not fixed beforehand: the labels, the scenes to train
# on, the normalisation, the threshold.

# %%
figures.style()
catalogue, store = open_corpus(corpus, mirror or None)
path = study_chips(catalogue, store, work, fraction)
chosen = training_labels(labels, catalogue)
train = Chips.open(path, bands, chosen, "train")
validation = Chips.open(path, bands, chosen, "validation")
tables.show(training.cloud_table({"train": train, "validation": validation}))

# %% [markdown]
# *Table 2.1. The chips by role. "Cloud" is the mean of the labels. The smaller it is, the more often
# a network that never finds any cloud is right, so the loss has to prevent that answer.*
#
# The simulated chips have an exact mask. They are there because our real images hold few bare soils,
# sands and snow fields; {doc}`12_simulated_scenes` shows them, and what they add.
#
# **Soft labels.** Three processors label the real chips, and they disagree
# ({doc}`01_data_preparation`). A soft label is the fraction of the three that say cloud: none, one,
# two or three thirds. A network trained on it learns a middle probability where processors differ,
# instead of being forced to one side. Simulated cloud that is too thin to be labelled cloud gets
# one half. Validation needs a yes or no, so there only the real pixels on which all three agree are
# labelled. Their majority would not do: two of the three call uniform thin haze cloud, and a
# threshold chosen by the majority would follow them.
#
# ## The network
#
# The network is a U-Net {cite:p}`ronneberger2015` with batch normalisation and dropout, as in 2020. On the
# way down, each level halves the side of the maps and doubles their number of channels: the network
# sees more ground and less detail. On the way up, detail comes back through the skip connections.
# The depth, the number of filters of the first level ("base filters"), the kernel size and the
# dropout are parameters; {doc}`03_hyperopt_search` searches the last three.
#
# Two things are not in the U-Net of 2015. The first is **folding pixels**. Before the first level
# every square of 2 × 2 pixels (the `stem`) becomes one pixel with four times as many channels
# (`pixel_unshuffle`). After the last level each such pixel becomes a square again (`pixel_shuffle`).
# No value is lost, the convolutions run over a quarter of the pixels, and each of them reaches twice
# as far.
#
# The second is **smoothing**, and folding is the reason for it. The four pixels of a square come from
# four different filters. In thin cloud, where probabilities lie near the threshold, one of the four
# may be above it in square after square: a grid of dots in the mask. So at the end each output is
# averaged with its eight neighbours (3 × 3 pixels, the middle one weighted most). This removes any
# pattern that repeats from square to square {cite:p}`sugawara2019`.

# %% tags=["wide"]
card = ModelCard(name="example", bands=bands, resolution=resolution, seed=seed)
net = build(card)
training.unet_figure(card, CROP)

# %% [markdown]
# *Figure 2.1. The U-Net for a window of a training chip. The labels read "channels × side²". Follow
# the data from the left: folded, down (blue), up (orange), unfolded. Each box is two convolutions,
# each with batch normalisation and ReLU, then dropout of whole channels. Grey arrows hand maps over
# unchanged. The smoothing at the end is not drawn.*
#
# The network drawn has the default shape. The short fits below use fewer base filters.

# %%
reach = receptive_field(card)
Markdown(
    f"This network has {training.parameters(net):,} parameters. A pixel's answer depends on at "
    f"most {reach} pixels in each direction: {reach * resolution / 1000:.1f} km at {resolution:g} m."
)

# %% [markdown]
# That reach is the **field of view**. It has to cover the edge of a cloud and what lies beside it,
# so that the network can tell a cloud from a bright roof by its surroundings; it need not be as
# large as the cloud. The way down and up again is this method of `clouddl.network.UNet`:

# %%
training.source(UNet.squares)

# %% [markdown]
# `first`, `down` and `join` are blocks of two convolutions, `up` are the transposed convolutions,
# `last` turns the channels into one number for each pixel of a folded square, the **logit**, and
# `smooth` averages it with those of its neighbours. The logit $z$ becomes the probability of cloud,
# $p = 1 / (1 + e^{-z})$.
#
# ## The loss
#
# The loss is a number that is small when the answer fits the label. Training follows its slope.
# Here it has two terms, over the $N$ labelled pixels of a batch, with the probability $p_i$ and the
# label $t_i$ between 0 and 1:
#
# $$L = \mathrm{BCE} + (1 - \mathrm{Dice})$$
#
# $$\mathrm{BCE} = -\frac{1}{N}\sum_i \left[\, t_i \ln p_i + (1 - t_i) \ln(1 - p_i) \,\right]$$
#
# $$\mathrm{Dice} = \frac{2 \sum_i p_i t_i + 1}{\sum_i p_i + \sum_i t_i + 1}$$
#
# Binary cross-entropy (BCE) judges every pixel for itself; it is lowest when the probability is the
# frequency of cloud. Soft Dice judges the overlap of the predicted and the labelled cloud; clear
# pixels that are called clear do not enter it. In code:

# %%
training.source(cloud_loss)

# %% [markdown]
# Pixels without a label (`NaN`) count in neither term. What each term does can be seen on a toy
# mask: a round cloud, and predictions that are round as well but too small or too large.

# %% tags=["wide"]
panels.plots(training.loss_figure())

# %% [markdown]
# *Figure 2.2. Two toy clouds (white) and the loss of a predicted disc, by its radius. The dashed
# and the dotted circle are two such predictions, at the radii of the dashed and dotted lines. Grey:
# the true radius. Compare both terms at radius 0, where no cloud is predicted at all.*

# %%
nothing = training.toy_losses(radius=0, true_radius=5)
Markdown(
    f"Predicting no cloud where there is a small one costs {nothing['BCE']:.2f} by BCE and "
    f"{nothing['1 - Dice']:.2f} by Dice."
)

# %% [markdown]
# This is why both are there. With BCE alone a small cloud is hardly worth finding. With Dice alone
# nothing would tie probabilities to frequencies, and a batch without cloud would teach little. Dice
# is computed over the whole batch, so that one clear chip does not swing it.
#
# ## What the sensors see
#
# The models on this page read the bands in the parameter `bands`. Which bands a sensor has decides
# which model it can use. SPOT has no blue; Pléiades has no short-wave infrared (SWIR), the band in
# which snow is dark and most cloud bright.

# %% tags=["wide"]
sensors = [get_sensor(name) for name in ("sentinel-2", "spot-5", "pleiades")]
figures.sensor_responses(sensors)

# %% [markdown]
# *Figure 2.3. Bands of the sensor trained on (top) and of two it stands for. Look for bands that lie
# above each other: they measure nearly the same. A band of Sentinel-2 with nothing below it is one
# that the other sensor lacks.*
#
# ## Making Sentinel-2 stand for other sensors
#
# The network is trained on Sentinel-2 and used on other sensors. So each time a chip is shown, it is
# changed by about as much as sensors differ. First a window of it is resampled to another
# **resolution** and turned. Then four effects change its reflectance, and gaps are cut. `Augmentation`
# holds the strengths of these **training effects**; the changes are sampled anew at each step.

# %%
augmentation = Augmentation()
tables.show(training.effects_table(augmentation, train.resolution))

# %% [markdown]
# *Table 2.2. The training effects, in the order in which they are applied. ± and "of standard
# deviation" give the typical size of a normally distributed random number.*
#
# The strengths are kept small: two sensors differ by some per cent, and stronger changes would blur
# the differences between bands by which snow, water and soil are told from cloud. **Haze** brightens
# short wavelengths most {cite:p}`angstrom1929`, as real dust and smoke do, and leaves the label as it is:
# the network is taught that haze is no cloud. **Gaps** are filled from the nearest valid pixel, in training
# as in use; a network that never met such ground may find clouds along the edge of a swath. What was cut
# has no label.

# %% tags=["wide"]
panels.grid(training.effects_figure(train, bands))

# %% [markdown]
# *Figure 2.4. One chip without cloud: as it is, and after each effect alone. All pictures have one
# stretch, so brightness can be compared; the longest of the first three bands is shown as red. Last come
# three effects four times as strong as in training, to make them visible. "paste" lays clouds of
# another chip over this one, and their labels with them.*
#
# ## Which chips are shown
#
# Some regions have many chips, most have few. Shown as they come, an epoch would consist mainly of
# a few places. `RegionSampler` therefore samples chips at random with a probability of one over the
# number of chips of their region: **every region is shown equally often**, and ten chips of one sea
# count as one sea.

# %%
tables.show(training.sampling_table(train, seed))

# %% [markdown]
# *Table 2.3. The largest and the smallest regions, of real and simulated chips together. An **epoch**
# is one pass: as many draws as there are chips. Compare the last column with the number of chips: all
# regions get the same. A chip of a large region may be missed in an epoch; one of a small region is
# seen often, but each time changed.*
#
# ## The schedule
#
# Adam minimises the loss, with two devices that make short trainings reliable.
#
# - **One-cycle learning rate** {cite:p}`smith2018`. The length of a step rises to its maximum and falls to nearly
#   zero. Small steps at first protect the random first weights from large jumps; large ones cover the
#   distance; small ones at the end settle.
# - **Weight averaging.** The model that is kept does not have the last weights but a moving average, in which
#   later steps weigh more. Single batches pull the weights to and fro; the average hardly follows them.

# %%
schedule = Schedule(epochs, batch_size, learning_rate)
training.schedule_figure(schedule, training.steps_of(train, schedule))

# %% [markdown]
# *Figure 2.5. Above: the learning rate of each step. Below: how much the weights after each step
# count in the model that is kept. They count most where the learning rate is nearly zero.*
#
# ## Short fits: which labels
#
# Now we train. All fits on this page take the same number of steps. `fit_all` fits a model to the
# last epoch without looking at validation, calibrates it on validation, chooses its threshold there,
# and saves it. No reference takes part in any choice on this page (but one of the processors learnt from
# hand-labelled masks: {doc}`01_data_preparation`).
#
# The candidates are the three processors, their votes, and soft labels. Each fit sees the real and
# the simulated chips together; only the labels of the real ones differ.

# %%
candidates = ["truth"] if chosen == "truth" else [*LABEL_SOURCES, SOFT]
settings = {"base_filters": 12, "normalisation": "log"}
short = ModelCard(name="short", bands=bands, resolution=resolution, seed=seed, **settings)
fits = []
for source in candidates:
    update = {"name": f"labels-{source}", "labels": source}
    fits.append(Fit(short.model_copy(update=update)))
by_source = fit_all(fits, path, work_folder(work), schedule, at_once)

# %% [markdown]
# A score on one's own labels says how easy they are to learn, not how good they are, so it cannot
# compare sources. Three **yardsticks** can. All are validation scenes, and all count alike in the
# mean:
#
# 1. *agreed*: real pixels on which all three processors agree;
# 2. *majority*: all real pixels, labelled as at least two of the three say;
# 3. *simulated*: simulated scenes, whose mask is exact.
#
# F2 weights recall four times as much as precision. Each F2 is taken at the threshold that is best on
# that yardstick, so that no source is punished for its threshold.

# %%
yards = yardsticks(path, bands)
models = dict(zip(candidates, by_source.values(), strict=True))
by_labels = training.label_scores(models, yards)
tables.show(write_table(work, "label_sources", by_labels))

# %% [markdown]
# *Table 2.4. One short fit for each source of labels. Read a row from left to right: a source may win
# one yardstick and lose another. The first two yardsticks are made of the processors' own masks, and
# favour sources that are made of the same.*
#
# Small differences in the mean may be no more than another seed would change;
# {doc}`03_hyperopt_search` repeats a fit with other seeds.
#
# The source with the highest mean is used from here on, unless it was fixed beforehand, by the
# longer trials of {doc}`../protocol`. Where the final models learn from simulated scenes alone, the
# labels of real chips still set their calibration and threshold.

# %%
if labels == "auto":
    chosen = by_labels.labels[by_labels["mean"].idxmax()]
beforehand = "" if labels == "auto" else ", fixed beforehand"
print(f"labels used from here on: {chosen}{beforehand}")

# %% [markdown]
# ## What the training effects and the simulated scenes are worth
#
# The model with those labels is the point of comparison. We repeat its fit with one thing changed
# at a time: without any change of reflectance; with changes about three times as strong or more;
# from real or from simulated chips alone.

# %%
as_used = by_source[f"labels-{chosen}"]
used = short.model_copy(update={"labels": chosen})
none = Augmentation(gain=0, offset=0, brightness=0, ground=0, haze=0, paste=0)
strong = Augmentation(gain=0.08, offset=0.015, brightness=0.15, ground=0.3, haze=0.03)
variants = [
    Fit(used.model_copy(update={"name": "effects-none"}), augmentation=none),
    Fit(used.model_copy(update={"name": "effects-strong"}), augmentation=strong),
]
if catalogue.name != "simulated":
    variants.append(Fit(used.model_copy(update={"name": "real-alone"}), "real"))
    variants.append(Fit(used.model_copy(update={"name": "simulated-alone"}), "simulated"))

# %% [markdown]
# To these we add the **normalisation**, that is how reflectance is brought to mean 0 and standard
# deviation 1 before it enters the network. There are three ways: with statistics of all training chips
# (`fixed`); with each chip's own statistics (`chip`); or after the logarithm, which turns ratios of
# bands into differences (`log`). `log` is the setting of all fits above.

# %%
for name in ("fixed", "chip"):
    update = {"name": f"normalisation-{name}", "normalisation": name}
    variants.append(Fit(used.model_copy(update=update)))
fitted = fit_all(variants, path, work_folder(work), schedule, at_once)

# %% tags=["hide-input"]
named = {
    "as used": as_used,
    "no change of reflectance": fitted["effects-none"],
    "strong changes": fitted["effects-strong"],
}
rows = {"all": "as used"}  # of the table, by what the model learnt from
if catalogue.name != "simulated":
    for of in ("real", "simulated"):
        rows[of] = LEARNT_FROM[of]
        named[rows[of]] = fitted[f"{of}-alone"]

# %%
by_effect = training.scored(named, yards, "training")
mean_f2 = by_effect.set_index("training")["mean"]
best_mean = max(rows, key=lambda of: mean_f2[rows[of]])
tables.show(write_table(work, "training_effects", by_effect))

# %% [markdown]
# *Table 2.5. Short fits with one thing changed. Compare each row with the first. Expect a model trained
# on simulated scenes alone to have an advantage on the simulated yardstick, and one trained on real
# scenes alone on the two others.*
#
# A row that is ahead on validation is not yet a better recipe: validation is of the same sensor as
# training, so it cannot show what the effects are for, which is other sensors.
#
# **Which scenes to train on** is decided here all the same: real and simulated ones, or one of the
# two alone, whichever has the highest mean, unless it was fixed beforehand by the longer trials of
# {doc}`../protocol`. In those trials the result depended on the number of steps, so the row that is
# ahead in these short fits need not be the one that is used.

# %%
norms = {"log": as_used}
for name in ("fixed", "chip"):
    norms[name] = fitted[f"normalisation-{name}"]
by_norm = training.scored(norms, yards, "normalisation")
best = by_norm.normalisation[by_norm["mean"].idxmax()]
fixed = "" if normalisation == "auto" else ", fixed beforehand"
normalisation = best if normalisation == "auto" else normalisation
scenes = best_mean if scenes == "auto" else scenes
choices = {"labels": chosen, "normalisation": normalisation, "scenes": scenes}
write_choices(work, resolution=resolution, **choices)
tables.show(write_table(work, "normalisation", by_norm))

# %% [markdown]
# *Table 2.6. Short fits with each normalisation. The row with the highest mean is used on the pages
# that follow, unless it was fixed beforehand ({doc}`../protocol`). These are single short fits: rows that differ by a
# point may change places with another seed.*
#
# The same caution holds. OmniCloudMask, which is made for many sensors, normalises each image by its own
# statistics {cite:p}`wright2025`, as `chip` does. Validation on the training sensor can neither confirm nor refute
# that this helps a transfer.
#
# ## Are the fits long enough?
#
# Validation is not looked at while a fit runs, so only its training loss can tell.

# %%
training.curves_figure(work_folder(work) / "runs", [*by_source, *fitted])

# %% [markdown]
# *Figure 2.6. Training loss of each fit. Look at the right end of a curve: where it still falls, more
# steps would lower it further. A fit on fewer chips takes the same number of steps in more epochs, so its curve
# is longer. Levels can only be compared between fits with the same labels, scenes and training
# effects: soft labels, for one, cannot reach a loss of zero.*
#
# ## From probabilities to a mask
#
# The network answers with a probability; a mask needs a threshold. First the probabilities are
# **calibrated**: a scale and a shift of the logit, fitted on validation, go into the last
# convolution. Then the threshold is chosen by F2, averaged over the real and the simulated
# validation chips. Many thresholds score nearly alike, and which of them is highest is chance. So the
# rule is: take all thresholds within one point (0.01) of the best F2 (the **plateau**), and use the middle of them.

# %%
training.threshold_figure(as_used, validation)

# %% [markdown]
# *Figure 2.7. F2 against the threshold, for the short fit with the labels chosen. Grey: the plateau
# of the mean (black). The dashed line is the threshold that the rule gives; it is written into the
# card of the model. The wider the plateau, the less F2 depends on the threshold.*

# %%
f2 = by_labels.set_index("labels")["mean"]
Markdown(
    f"In this run: {chosen} labels reach a mean F2 of {tables.percent(f2[chosen])} on the yardsticks, "
    f"the sources of labels differ by {100 * (f2.max() - f2.min()):.1f} points, and the normalisations "
    f"by {100 * (by_norm['mean'].max() - by_norm['mean'].min()):.1f}. Normalisation used: {normalisation}{fixed}. "
    f"The final models train on {LEARNT_FROM[scenes]}."
)

# %% [markdown]
# **What we learnt.** A small U-Net, a loss in two parts, and chips that are changed each time they
# are shown: that is the whole method. What was chosen, here or in the trials beforehand, was chosen
# on validation scenes, without a hand-labelled mask of our own. The numbers above say how much each
# choice matters on the sensor of the training, in short fits of one seed. The choices go on to
# {doc}`03_hyperopt_search`; what each source of labels is worth on references of other sensors is
# measured in {doc}`05_spot_transfer`.
