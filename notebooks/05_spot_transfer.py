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
# # 5. Transfer to a sensor never seen
#
# **What you will see.** Models that were trained on Sentinel-2, real or simulated, are scored on
# Landsat 5 and Landsat 8, cut to the bands of SPOT and of Pléiades. At first no image of these sensors is
# in training: the page gives scores, their differences, what the threshold does, and every mask with its
# errors. Then the model goes on training with a handful of labelled patches, and is scored again.
#
# **Landsat is a stand-in.** SPOT images with reference masks could not be had. Landsat 5 has nearly
# SPOT-4's bands, at 30 m where SPOT-4 has 20 m. Landsat 8 has narrower bands and far less noise.
# Neither is SPOT.
#
# **The real references are not unseen by us.** Earlier versions of the study were scored on the same
# patches, and choices were made after looking at the errors ({doc}`/protocol`). Read each score as an
# optimistic one.
#
# **Prerequisites.** Models of {doc}`03_hyperopt_search` (else those that ship). **Time.** Minutes.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
seed: int = 0  # of the bootstrap
draws: int = 2000  # of the bootstrap
adaptation_scenes: int = 8  # labelled scenes to adapt with, which are not scored
adaptation_epochs: int = 30  # passes over them

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown
from myst_nb import glue

from clouddl import figures
from clouddl.sensors import BAND_SETS, get_sensor

# %% tags=["hide-input"]
from clouddl_study import tables
from clouddl_study.corpora import open_corpus
from clouddl_study.pages import panels
from clouddl_study.pages import transfer as page
from clouddl_study.workspace import (
    results_folder,
    trained_model,
    work_folder,
    write_table,
)

figures.style()

# %% [markdown]
# ## What the sensors share
#
# A model carries over only what both sensors measure. Bands are matched by their common names: the
# green of SPOT and the green of Sentinel-2 are not the same filter, but near enough to be given to the
# same input of the network. A band that the other sensor lacks is not filled in: a model with fewer
# bands is used.

# %%
others = [get_sensor(n) for n in ("spot-4", "spot-5", "pleiades", "landsat-5", "landsat-8")]
tables.show(page.bands_shared(get_sensor("sentinel-2"), others))

# %% [markdown]
# *Table 5.1. The bands of each sensor that Sentinel-2 has too. `nir` is the near infrared, `swir16` and `swir22`
# are the short-wave infrared at 1.6 and 2.2 µm. Look for blue and for the short-wave infrared: SPOT lacks one,
# Pléiades the other.*
#
# ## The patches
#
# Every reference that is not of Sentinel-2 is a test patch. All are brought to the resolution of the
# models, so that a cloud covers as many pixels as it did in training. They are sorted into one set for
# each sensor; the cell prints how many each has. Tables count them as scenes. A set of a single patch
# describes that patch; it says little about its sensor.

# %%
from clouddl.transfer import open_scenes

catalogue, store = open_corpus(corpus, mirror or None)
models = {name: trained_model(work, name) for name in (*BAND_SETS, "any")}
references = [s for s in catalogue.select("reference") if s.sensor != "sentinel-2"]
scenes = open_scenes(references, store, models["spot"].card.resolution)
sets = page.by_sensor(scenes)
{tables.title_of(sensor): len(part) for sensor, part in sets.items()}

# %% [markdown]
# ## No image of the sensor in training
#
# The headline method is the model with SPOT's bands: green, red, near and short-wave infrared. It learnt
# from the scenes that {doc}`/protocol` names, in the published run from simulated ones alone. Its
# threshold was chosen on validation scenes, Sentinel-2 and simulated, and is not touched here. Beside it
# are scored:
#
# - the models of the other band sets, and one model that takes any bands;
# - the same network trained on other scenes: real and simulated ones, or one of the two alone. *Real
#   scenes alone*, with masks of processors, is the method of 2020;
# - the same network trained on real scenes with labels of the spectral tests. These labels descend from
#   published thresholds, and from no hand-labelled mask;
# - the floor of F2, a mask that calls everything cloud;
# - spectral tests, a classical rule with published thresholds ({doc}`07_classical_tests`);
# - ukis-csmask, a network of DLR. It was trained on hand-labelled images, those of Landsat 8 among
#   them, and the Landsat 5 patch is from the reference set that comes with it. For it these sensors
#   are not new.
#
# ukis-csmask is also one of the processors whose masks label our real images. Through it our models owe
# something to hand-labelled masks at second hand: in any case their threshold and calibration, and their
# weights too if they were trained on real scenes.

# %%
from clouddl.transfer import evaluate, model_method
from clouddl_study.pages.methods import all_cloud, peer_method, spectral_method

spot, bands = BAND_SETS["spot"], ", ".join(BAND_SETS["spot"])
ours, tests = f"CloudDL: {bands}", f"spectral tests: {bands}"
controls = page.other_trainings(work)
controls["labels of the spectral tests alone"] = "spot-spectral-tests"
methods = page.transfer_methods(models) | page.ablation_methods(work, controls)
methods["everything is cloud"] = all_cloud()
methods[tests] = spectral_method(spot)
if catalogue.name != "simulated":
    methods["ukis-csmask: blue, green, red, nir"] = peer_method()

# %% [markdown]
# Each method makes a mask of each patch, and the mask is compared with the reference pixel by pixel.
# Pixels are pooled over the patches of a sensor before a score is computed, so a patch with little
# cloud weighs little. F2 is the score of the study: it weights recall four times as much as precision.
# The 95 % interval comes from a bootstrap: places are resampled with replacement, because patches of one
# place are not independent, and the score is computed each time.

# %% tags=["wide"]
from clouddl.score import paired, pooled

evaluations = {sensor: evaluate(methods, part) for sensor, part in sets.items()}
per_scene = pd.concat([evaluation.counts for evaluation in evaluations.values()])
pooled_scores = pooled(per_scene, by=["sensor", "run"], draws=draws, seed=seed)
scores = tables.enough_units(pooled_scores)
panels.plots(page.forest_plot(scores, ours))

# %% [markdown]
# *Figure 5.1. F2 of each method (rows) on each sensor (panels): the dot is the score, the bar its 95 % interval,
# where there are at least five places. The headline method is orange; it is the best of four seeds on validation,
# every other model is a single fit. The dashed line is the floor, everything is cloud: by F2, a method left of it
# is no better than no method. Compare methods of like bands. Rows with SWIR and without it tell, roughly, what
# that band is worth on the same patches. Do not read an order into bars that overlap: the paired differences
# below decide that.*
#
# The same numbers, with the other measures, are in the folded table. Read precision and recall together: a low
# precision at a high recall is a model that calls too much cloud. Balanced accuracy and MCC
# ({doc}`04_sentinel2_validation`) count clear ground too, and give the floor no credit.

# %% tags=["hide-output"]
tables.show(write_table(work, "scores_transfer", scores[["sensor", "run", *page.SCORES]].round(3)))

# %% [markdown]
# *Table 5.2 (folded). Scores of all methods on each sensor. The headline model is the best of four seeds on
# validation, its controls are single fits.*
#
# ## Differences, and their noise
#
# Two methods that are scored on the same patches find the same patches hard. Their difference is therefore
# known better than either score. In each draw of the bootstrap both are scored on the same resampled
# places, and the difference is taken: these are *paired* differences.

# %%
rivals = ["everything is cloud", tests, "ukis-csmask: blue, green, red, nir"]
without_swir = f"CloudDL: {', '.join(BAND_SETS['pleiades'])}"
rivals += [run for run in methods if run == without_swir or run.startswith("CloudDL, real")]
ahead = page.differences(evaluations, sets, ours, rivals, draws, seed)
tables.show(write_table(work, "differences_transfer", ahead.round(3)))

# %% [markdown]
# *Table 5.3. F2 of the headline model minus F2 of another method, in points (per cent). Above zero the
# headline model is ahead; it is the best of four seeds on validation, its controls are single fits. An
# interval that includes zero leaves open which of the two is better. Below five places none is shown.*
#
# For a set of one patch there is an interval *within this patch*: its blocks of 64 × 64 pixels are drawn, as if
# they were places. It says whether the difference holds all over the patch, and nothing of other patches
# ({doc}`04_sentinel2_validation`). The row of blue, green, red and NIR tells what a sensor gains that has the
# short-wave infrared in place of blue.
#
# An interval over places leaves out the chance in training itself. The same fit with other seeds shows
# that part: these fits differ only in the first weights and in the order of the images.

# %%
fits = {name: name for name in page.seed_models(work)}
seeds = page.score_fits(work, fits, scenes).sort_values("sensor", kind="stable")
write_table(work, "seeds_transfer", seeds)
tables.show(page.seed_spread(seeds))

# %% [markdown]
# *Table 5.4. F2 of fits with SPOT's bands that differ in the seed alone, on each sensor. Look at the last
# column.*
#
# The **noise of a difference** is $2 \sqrt{2} \approx 2.8$ standard deviations, since a difference holds the
# chance of two fits ({doc}`03_hyperopt_search`). A difference between two trained models that is smaller is not
# a finding, even where its interval excludes zero. With few fits the deviation is itself uncertain, and with
# one there is none. Spectral tests, ukis-csmask and everything is cloud are not fitted here: their differences
# hold the chance of one fit, so two standard deviations are enough.
#
# ## What the threshold does
#
# The network gives a probability; a pixel is cloud where it exceeds the threshold. The rule that chose the
# threshold: of those at which F2 on validation is within 0.01 of its best, take the middle one. A sensor
# that was never seen may shift the probabilities, and then that threshold is off. We compute the
# probabilities of the headline model once and look at all thresholds. **Nothing is chosen from these
# curves**: a threshold picked here would be picked on the test.

# %%
from clouddl.score import precision_recall, reliability
from clouddl.transfer import pixels, predictions
from clouddl_study.pages.curves import reliability_diagram

threshold = models["spot"].card.threshold
probabilities = predictions(models["spot"], scenes, spot)
labelled = {}
for sensor, part in sets.items():
    of_sensor = {name: probabilities[name] for name in part}
    labelled[tables.title_of(sensor)] = pixels(of_sensor, part)
curves = {name: precision_recall(*values) for name, values in labelled.items()}
cloud = {name: truth.mean() for name, (_, truth) in labelled.items()}
page.threshold_curves(curves, threshold, cloud)

# %% [markdown]
# *Figure 5.2. F2 of the headline model against the threshold, a line for each sensor. Dashed: the
# threshold in use, chosen on validation. Dotted: everything is cloud. Where a line is flat around the
# dashed one, the choice hardly matters. The height of its peak above its value at the dashed line is what
# this threshold costs on that sensor.*
#
# A threshold trades precision for recall. The next figure shows the whole trade, and where our masks
# stand on it.

# %%
page.precision_recall_figure(curves, scores[scores.run == ours], threshold)

# %% [markdown]
# *Figure 5.3. Precision against recall for all thresholds, a line for each sensor; the markers are the
# masks in use. Up and to the right is better. A marker towards the right end of its line gives up precision
# for recall, as F2 asks for.*
#
# Some users need the probability itself. It is of use as a frequency only if, of the pixels that are given
# 70 %, seven in ten are cloud.

# %%
reliability_diagram({name: reliability(*values) for name, values in labelled.items()})

# %% [markdown]
# *Figure 5.4. Reliability: among pixels of like probability, the fraction that the reference calls
# cloud. Above the diagonal the probability of cloud is too low, below it is too high. On a sensor whose
# line leaves the diagonal, do not use the probabilities as frequencies.*
#
# ## By surface
#
# The Landsat 8 patches come with the name of their surface, a few patches of each. So few support no
# interval: look at the single ones. A surface without cloud has no F2; its accuracy is the fraction of
# pixels without a false alarm.

# %%
from clouddl_study.pages.robustness import with_floor

new = "landsat-8"
rows = per_scene[(per_scene.sensor == new) & (per_scene.run == ours)]
by_biome = tables.enough_units(pooled(rows, by=["biome"], draws=draws, seed=seed))
write_table(work, "scores_biome", by_biome[["biome", *page.SCORES, "accuracy", "cloud"]].round(3))
shown = with_floor(by_biome[["biome", "scenes", "cloud", "f2"]])
tables.show(shown.join(by_biome[["precision", "recall", "accuracy"]]))

# %% [markdown]
# *Table 5.5. The headline model by surface of the Landsat 8 patches; the column beside F2 is the floor. Look for a low
# accuracy, and for an F2 no higher than the floor; then at how many scenes it rests on.*
#
# The same F2 as a figure, with the single patches:

# %%
page.surface_plot(rows, by_biome)

# %% [markdown]
# *Figure 5.5. F2 of the headline model by surface, number of patches in brackets: the dot for all pixels
# of a surface together, a stroke for each patch that holds cloud, a cross for the floor. A patch without cloud has
# no stroke, but its false alarms lower the dot. A dot on its cross is a surface on which the mask is worth no more
# than calling everything cloud. Where strokes lie far apart, the dot depends on which patches happened to
# be in the set.*
#
# ## Where the errors are
#
# Patches of lowest, middling and highest F2, among those with both cloud and clear ground. The mask of
# ukis-csmask is beside ours where real images are used.

# %% tags=["wide"]
panel = page.error_panel(evaluations[new], scenes, ours, spot, patches=3)
panels.save(panel, results_folder(work) / "panel_l8biome.png")

# %% [markdown]
# *Figure 5.6. Landsat 8: image, reference, and masks with their errors. Missed cloud is orange, a false
# alarm blue. The first patch is the worst of these, the last the best. Look whether an error follows
# the edge of a cloud or takes a whole cloud, and whether both networks make it. Images show near infrared,
# red and green, so that vegetation is red.*

# %% tags=["wide"]
panel = page.error_panel(evaluations["landsat-5"], scenes, ours, spot, patches=1)
panels.save(panel, results_folder(work) / "panel_landsat5.png")

# %% [markdown]
# *Figure 5.7. The same for the one patch of Landsat 5. Its many small clouds have long edges: see how much
# of the error is along them.*
#
# A few patches can flatter. Here are all of them, failures first. A patch with cloud is ranked by its
# F2, a patch without any by its accuracy. The upper slider of a patch uncovers its image or its mask,
# the lower one moves the threshold. White is cloud found, grey is clear ground left clear, orange is
# missed cloud, blue is a false alarm. Look for what the first patches have in common: bright ground, snow,
# thin cloud, or edges that the reference traces in another way. Then ask of each whether another threshold
# would have mended it.

# %%
from clouddl_study.pages.patches import gallery, patches_of

gallery(patches_of(scenes, probabilities, spot, threshold))

# %% [markdown]
# *Figure 5.8. Every test patch of this page, worst first: image, and mask of the headline model with its
# errors. The sliders begin at the threshold in use. A patch that is wrong at every threshold is a failure
# of the probabilities, not of the threshold.*
#
# ## What the labels were worth
#
# The short fits of {doc}`02_training` differ in their training labels only; {doc}`01_data_preparation` says
# what each label is. Here they are scored on the same patches as the methods above.

# %%
from clouddl.chips import SOFT
from clouddl.labels import LABEL_SOURCES

sources = {source: f"labels-{source}" for source in [*LABEL_SOURCES, SOFT]}
made = {source: name for source, name in sources.items() if page.has_model(work, name)}
tables.show(page.score_fits(work, made, scenes).rename(columns={"run": "labels"}))

# %% [markdown]
# *Table 5.6. Short fits with each source of labels, one each, on each sensor. Look whether one source is ahead on
# both sensors. Figure 5.2 has the floors.*
#
# Nothing is chosen from this table. Compare the labels within one sensor, and their differences with the noise
# in Table 5.4: smaller ones show no effect of the labels. The seeds are of long fits, and short ones may
# vary more.
#
# ## After adaptation
#
# Now a team has the first images of the new sensor and labels some of them by hand. The cell prints the
# patches taken: one of each surface, as a team would spread its first labels, and if possible one that has
# both cloud and clear ground. Patches of the same places are taken out of the test too. All scores below,
# before and after, are of the patches that are left.

# %%
from clouddl.transfer import adapt, left_out
from clouddl_study.experiments import teaching_order

part = sets[new]
taken = teaching_order(part)[:adaptation_scenes]
left = left_out(part, taken)
taken

# %% [markdown]
# The model goes on training with these patches, at a low learning rate and with the training effects of
# {doc}`02_training`. Its threshold stays.

# %%
folder = work_folder(work) / "runs" / "adapted"
teaching = {name: part[name] for name in taken}
adapted = adapt(models["spot"], teaching, folder, epochs=adaptation_epochs)
before, after = f"CloudDL, before adaptation: {bands}", f"CloudDL, after adaptation: {bands}"
compared = {before: model_method(models["spot"]), after: model_method(adapted)}
counts = evaluate(compared, left).counts
adaptation = tables.enough_units(pooled(counts, by=["sensor", "run"], draws=draws, seed=seed))
shown = adaptation[["sensor", "run", *page.SCORES]].round(3)
tables.show(write_table(work, "scores_adaptation", shown))

# %% [markdown]
# *Table 5.7. The headline model before and after adaptation (one fit), on the patches that are left. Look whether
# recall is kept where precision changes. Below five places no interval is given.*
#
# Two intervals that overlap do not answer whether adaptation helped; the paired difference does. We
# also print how hard the patches taken were. If they were harder than those left, there was little to
# gain on the rest, and a small difference does not mean that labels are useless.

# %%
change = paired(counts[counts.run == after], counts[counts.run == before], seed=seed)
hard = pooled(rows[rows.scene.isin(taken)], draws=1).iloc[0]
print(f"after minus before: {page.change_text(change)}")
print(
    f"F2 before adaptation: {tables.percent(hard.f2)} taken, {tables.percent(adaptation.f2[0])} left"
)

# %% [markdown]
# **Trap: one labelled patch may do harm.** A model that goes on training on a single patch learns that
# patch. If all of its ground is of one surface, the model may forget what it knew about the others, and
# its old threshold may no longer fit the new probabilities. F2 on other ground may then fall below what
# the model reached without any label; runs of this study have seen a loss as well as a gain.
# {doc}`11_new_sensor` repeats the experiment with different numbers of patches; look at its curve before
# you adapt with few. In practice:
#
# - spread the labels: several surfaces, each patch with both cloud and clear ground;
# - hold back some labelled patches from other places, and compare before and after on those;
# - keep the old model unless the adapted one is better by more than the noise of a difference.
#
# ## The scores in one table
#
# The README and the front page quote this table: the headline method on each sensor, and the effect of
# adaptation. Rows on Sentinel-2 are there once {doc}`04_sentinel2_validation` has run.

# %%
headline = page.headline_table(work, scores, adaptation, ours, new)
tables.show(write_table(work, "headline", headline))

# %% [markdown]
# *Table 5.8. The headline method and its rivals, as the front page shows them. CloudDL with SPOT's bands is the best of
# four seeds on validation, the other models of ours are single fits.*
#
# Its paired differences to the other methods stand beside this table on the front page:

# %%
rivalry = page.headline_differences(work, ahead, ours)
tables.show(write_table(work, "differences_headline", page.rivals_by_images(rivalry)))

# %% [markdown]
# *Table 5.9. F2 of the headline model minus that of each rival, in points. In square brackets the 95 % interval over
# places; in round ones, for a single patch, that within this patch.*
#
# The numbers of this run in a sentence:

# %% tags=["remove-cell"]
(results_folder(work) / "standing.md").write_text(page.standing(rivalry) + "\n", "utf-8")
for key, text in page.front_page_numbers(scores, adaptation, ours).items():
    glue(key, text)
hero = page.error_panel(evaluations["landsat-8"], scenes, ours, spot, patches=1)
panels.save(hero, results_folder(work) / "hero.png")

# %% tags=["hide-input"]
numbers = scores[scores.sensor == new].set_index("run").f2
Markdown(
    f"In this run the model with SPOT's bands reaches F2 {tables.percent(numbers[ours])} on Landsat 8, where "
    f"everything is cloud has {tables.percent(numbers['everything is cloud'])} and the spectral tests have "
    f"{tables.percent(numbers[tests])}. Adaptation changes it by {page.change_text(change)}."
)

# %% [markdown]
# **What we learnt.** With bands shared and resolution matched, a network can be used on a sensor that it
# never saw. Whether it beats a rule of thresholds there is a question for the paired differences, not
# for the score alone. The gallery says where it fails, and the threshold curves say whether the
# threshold or the probabilities are at fault. A handful of labels may help, and may do harm: test the
# adapted model on other places before you use it.
