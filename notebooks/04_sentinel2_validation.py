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
# # 4. Validation on Sentinel-2
#
# This page scores the models against references of the sensor that they were trained for. Nothing is chosen
# here.
#
# **What you will see.** The models on Sentinel-2 images with hand-labelled masks: scores, with intervals
# where there are enough places, beside three methods that need no training here; the errors on the images;
# what the threshold of validation costs; whether the probabilities are calibrated; and what a dilation of
# the mask does.
#
# **Prerequisites.** Models of {doc}`03_hyperopt_search` (else those that ship). **Time.** A minute.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
seed: int = 0  # of the bootstrap
draws: int = 2000  # of the bootstrap
dilations: list[float] = [0.0, 30.0, 60.0, 120.0]  # metres, for the look at dilation

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display
from myst_nb import glue

from clouddl import figures, transfer
from clouddl.score import MEASURES, pooled, precision_recall, reliability
from clouddl.sensors import BAND_SETS
from clouddl.transfer import evaluate, model_method
from clouddl_study import tables
from clouddl_study.corpora import open_corpus
from clouddl_study.pages import validation as page
from clouddl_study.pages.curves import precision_recall_curves, reliability_diagram
from clouddl_study.pages.methods import all_cloud, peer_method, spectral_method
from clouddl_study.pages.transfer import ablation_methods, other_trainings
from clouddl_study.workspace import results_folder, trained_model, write_table

figures.style()

# %% [markdown]
# ## The references
#
# These images take no part in the training, the search or the threshold of this run. Earlier versions of
# the study were scored on them too, so they are not unseen by its authors. Images and masks are brought to
# the working resolution of the models.
#
# With real images, three more things limit what they can show.
#
# - The ukis-csmask set is a test image of that package, and ukis-csmask is also one of the processors that
#   label our real training and validation images.
# - The On Cloud N images have no SWIR band, so the headline model (`spot` of {doc}`03_hyperopt_search`), which
#   needs one, cannot run on them. The model for the bands of Pléiades (blue, green, red, NIR) stands in,
#   and every result says so.
# - The On Cloud N images look like surface reflectance, while the models learnt from reflectance at the top
#   of the atmosphere ({doc}`/data`). The catalogue declares it, so the package does not warn of it here; of an
#   image that looks so and is not declared it does. All methods get the same images, so methods can be compared on them, but a score there may be
#   lower than on images of the level that a model knows.

# %%
catalogue, store = open_corpus(corpus, mirror or None)
references = [s for s in catalogue.select("reference") if s.sensor == "sentinel-2"]
models = {name: trained_model(work, name) for name in (*BAND_SETS, "any")}
resolution = models["spot"].card.resolution
scenes = transfer.open_scenes(references, store, resolution)
sets = page.by_collection(scenes)
first = next(iter(sets))
tables.show(page.scene_table(scenes))

# %% [markdown]
# *Table 4.1. The reference scenes, with the fraction of pixels labelled cloud and the bands of each. Look at
# the number of scenes of a set before reading its scores.*
#
# ## The methods
#
# Each model runs with its own bands and the threshold in its card; *one model for any bands* runs with each
# set of bands in turn. Beside them run others, on the same pixels:
#
# - two models with SPOT's bands that were trained on other scenes; the one of *real scenes alone*, with masks
#   of processors, is the method of 2020 (real images only);
# - *spectral tests*, fixed thresholds on reflectances and their ratios, with the same bands;
# - *ukis-csmask*, a network trained by others with hand-labelled masks (real images only);
# - *everything is cloud*, the floor. F2 rewards recall so much that on a cloudy image this mask scores
#   well. A method below it is, by this measure, worse than none.

# %%
methods = {}
for name, use in BAND_SETS.items():
    bands = ", ".join(use)
    methods[f"CloudDL: {bands}"] = model_method(models[name], use)
    methods[f"CloudDL, one model for any bands: {bands}"] = model_method(models["any"], use)
    methods[f"spectral tests: {bands}"] = spectral_method(use)
methods |= ablation_methods(work, other_trainings(work))
methods["everything is cloud"] = all_cloud()
if catalogue.name != "simulated":
    methods["ukis-csmask: blue, green, red, nir"] = peer_method()

# %% [markdown]
# ## Scores
#
# True and false positives and negatives are summed over all pixels of a set before anything is divided
# (*pooled*): a clear scene, which has no F2 of its own, still counts with its false alarms. The 95 %
# intervals come from drawing places at random with replacement (*bootstrap*), each with all its scenes. They
# are wide where places are few.
#
# F2 weights recall four times as much as precision, F1 both alike. Neither counts the clear pixels that are
# right, so two measures that do stand beside them. *Balanced accuracy* is the mean of the fractions of cloud
# and of clear ground that are right: 50 % for everything is cloud. *MCC*, the correlation of Matthews, is 1
# for a perfect mask and 0 for a mask that tells nothing of the reference. It is undefined (–) for a mask of
# one class.

# %%
evaluations = {collection: evaluate(methods, part) for collection, part in sets.items()}
counted = pd.concat([e.counts.assign(set=name) for name, e in evaluations.items()])
scores = tables.enough_units(pooled(counted, by=["set", "run"], draws=draws, seed=seed))
tables.show(write_table(work, "scores_sentinel2", scores[list(page.SCORES)].round(3)))

# %% [markdown]
# *Table 4.2. All methods on all sets. Compare rows of one set with the same bands. Below five places no
# interval is given. The headline model is the best of four seeds on validation; every other model is a single
# fit.*
#
# A difference smaller than the noise of a difference shows nothing: {doc}`03_hyperopt_search` measures that
# noise on validation, {doc}`05_spot_transfer` on other references. Since intervals may be missing, the figure
# shows the scenes themselves.

# %% tags=["wide"]
others = ["ukis-csmask: blue, green, red, nir", "everything is cloud"]
ours = [f"CloudDL: {', '.join(BAND_SETS[name])}" for name in ("spot", "pleiades")]
tests = [f"spectral tests: {', '.join(BAND_SETS[name])}" for name in ("spot", "pleiades")]
page.scene_points(counted, [*ours, *tests, *others])

# %% [markdown]
# *Figure 4.1. F2 of each scene (dots) and of the pooled pixels of a set (vertical bars). Look at how far the
# dots of a method spread: the farther, the more the choice of scenes decides the score. A scene without
# cloud has no F2 and no dot.*
#
# Next, the difference of CloudDL to each other method on the same pixels. It is *paired*: each draw of the
# bootstrap takes the same places for both methods, so what is hard for both cancels. An interval that
# contains 0 shows no difference. Below five places no interval is given.
#
# A set of one patch has another interval, *within this patch*: the patch is divided into blocks of 64 × 64
# pixels, and blocks are drawn instead of places. It tells whether a difference holds over the whole patch or
# comes from a corner of it. It says nothing of other patches, and since clouds are often larger than a block,
# it is rather too narrow.

# %%
ahead = page.differences(evaluations, sets, ours, draws, seed)
tables.show(write_table(work, "differences_sentinel2", ahead.round(3)))

# %% [markdown]
# *Table 4.3. How far CloudDL is ahead (positive) or behind (negative), in points of F2. Look at the sign of
# each row, and at the number of places it rests on. The headline model is the best of four seeds on
# validation; the models of other scenes are single fits.*
#
# ## Where the errors are
#
# The next figure shows the headline model where the images have its bands, and the model for the bands of
# Pléiades where they have no SWIR. The title of each row names the bands. The last column is ukis-csmask on
# real images, and the model for any bands on simulated ones. The scenes are the first of each set, not a
# selection.

# %% tags=["wide"]
from clouddl_study.pages import panels

peer = ("ukis-csmask", others[0])
if catalogue.name == "simulated":
    peer = ("any bands", f"CloudDL, one model for any bands: {', '.join(BAND_SETS['pleiades'])}")
panel = panels.panel(page.panel_rows(sets, evaluations, ours, peer))
panels.save(panel, results_folder(work) / "panel_sentinel2.png")

# %% [markdown]
# *Figure 4.2. Image, reference, and two masks. White is cloud in both mask and reference, grey is clear in
# both, orange is missed cloud, blue is a false alarm. Compare where the two masks of a row err: errors in
# the same place may come from the reference.*
#
# ## The threshold
#
# The threshold was chosen on validation ({doc}`03_hyperopt_search`), whose labels come from processors and
# from simulation. Is it a good one against hand-labelled masks? For each model and set we compute F2 at
# the thresholds 0.01 to 0.99, and mark the one in use. A model is left out where a set lacks its bands.

# %%
curves, calibration = {}, {}
for collection, part in sets.items():
    curves[collection], calibration[collection] = {}, {}
    for name, use in page.usable(part).items():
        probability, truth = transfer.pixels(transfer.predictions(models[name], part, use), part)
        curves[collection][name] = precision_recall(probability, truth)
        calibration[collection][name] = reliability(probability, truth)

# %% tags=["wide"]
panels.plots(page.threshold_curves(curves, models, sets))

# %% [markdown]
# *Figure 4.3. F2 against the threshold on each set. The dot is the threshold that validation chose. A dot on
# the flat top means that the choice carries over. A dot on a slope means that this set would want another
# threshold. Below the dashed line a mask is worse than calling everything cloud. The model `spot` is the
# headline model.*
#
# The table gives the cost: the highest F2 of the curve minus F2 at the threshold in use. The highest F2 is
# known in hindsight only. Nobody could have chosen its threshold without the reference, so the cost is an
# upper bound of what a better rule could gain. We do not change the threshold.

# %%
cost = page.cost_of_threshold(curves, models)
tables.show(cost)

# %% [markdown]
# *Table 4.4. What the threshold of validation costs on each set, in points of F2. Compare the two
# thresholds of a row: where the best in hindsight is lower, the mask in use has too little cloud for F2.*
#
# A curve does not say where a mask changes. Here is every scene, lowest F2 first. The upper slider of a
# scene uncovers its image or its mask, the lower one moves the threshold. The colours and the models are
# those of Figure 4.2.

# %%
from clouddl_study.pages.patches import gallery, patches_of

shown = []
for part in sets.values():
    name = "spot" if "spot" in page.usable(part) else "pleiades"
    use, threshold = BAND_SETS[name], models[name].card.threshold
    shown += patches_of(part, transfer.predictions(models[name], part, use), use, threshold)
gallery(shown)

# %% [markdown]
# *Figure 4.4. Every reference scene of this page, worst first: image, and mask with its errors. The sliders
# begin at the threshold in use. Watch where a lower threshold adds cloud: new white is cloud that was missed
# before, new blue a false alarm.*
#
# F2 is one balance of recall and precision. The next curves show all of them: each threshold is one point,
# and the marker is the one in use.

# %%
for collection, of_models in curves.items():
    display(Markdown(f"**{tables.title_of(collection)}**"))
    points = page.operating_points(of_models, models)
    display(precision_recall_curves(of_models, points))

# %% [markdown]
# *Figure 4.5. Precision against recall, one picture for each set. Towards the upper right is better. A marker
# far to the right accepts false alarms so as to miss little, as F2 asks. A curve that ends before a recall
# of 1 belongs to a model that misses some cloud even at the lowest threshold, 0.01.*
#
# ## Calibration
#
# Of the pixels given a probability of 0.3, are 30 % cloud? The probabilities were calibrated on validation.
# Here the question is put to the references.

# %%
for collection, of_models in calibration.items():
    display(Markdown(f"**{tables.title_of(collection)}**"))
    display(reliability_diagram(of_models))

# %% [markdown]
# *Figure 4.6. Observed fraction of cloud against predicted probability, one picture for each set. On the
# dashed diagonal a probability is a frequency. Above it there is more cloud than the model says, below it
# less. Bins with few pixels scatter.*
#
# ## Dilation
#
# Many processing chains dilate the mask by some pixels, to catch thin edges. That raises recall and, as a
# rule, lowers precision. The table shows what it does to the headline model on the first set; no other score
# on this page has any dilation. *IoU* is the overlap of mask and reference: their common cloud, divided by
# all that either calls cloud.

# %%
part = sets[first]
grown = {}
for metres in dilations:
    grown[metres] = model_method(models["spot"], BAND_SETS["spot"], dilation_m=metres)
dilated = pooled(evaluate(grown, part).counts, by=["run"])
tables.show(dilated.rename(columns={"run": "dilation (m)"})[["dilation (m)", *MEASURES]])

# %% [markdown]
# *Table 4.5. Scores of the first set after dilation. Compare each row with the first: dilation pays only
# in a measure that rises.*
#
# Whether to dilate depends on the use: a composite wants no cloud left, a count of clear pixels wants none
# lost.

# %% tags=["remove-cell"]
headline = scores[
    (scores.set == first) & (scores.run == f"CloudDL: {', '.join(BAND_SETS['five'])}")
].iloc[0]
glue("s2_f2", tables.percent(headline.f2))
glue("s2_f1", tables.percent(headline.f1))
glue("s2_scenes", "1 scene" if headline.scenes == 1 else f"{headline.scenes} scenes")

# %% tags=["hide-input"]
at_hand = scores[(scores.set == first) & scores.run.isin([ours[0], "everything is cloud"])]
model_f2, floor_f2 = at_hand.set_index("run").f2[[ours[0], "everything is cloud"]]
lost = cost[(cost.set == first) & (cost.model == "spot")].iloc[0]
Markdown(
    f"On the first set ({tables.title_of(first)}, scenes: {len(sets[first])}) the headline model "
    f"reaches F2 **{tables.percent(model_f2)}**; everything is cloud reaches **{tables.percent(floor_f2)}**. The threshold of "
    f"validation costs **{lost['cost (points)']:.1f} points** against the best in hindsight."
)

# %% [markdown]
# **What we learnt.** The gap between a model and the floor says what the training brings, on the sensor
# it was made for. The difference to the spectral tests and to ukis-csmask says what it adds to methods that
# were there before, or lacks. A set of one or a few small scenes cannot rank methods that lie close together:
# intervals are wide or missing, and the sets differ in who labelled the reference as well as in what they
# show. The front page quotes the model with all five bands on the first set; later pages use the headline
# model unless they name another. {doc}`05_spot_transfer` goes on to sensors that the models never saw.
