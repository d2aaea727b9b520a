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
# # 3. HyperOpt search and the final models
#
# This page searches for the shape of the network, then trains the models that the rest of the book scores. Their
# shape need not be the one found: it may have been fixed beforehand, by longer fits. The lines below the search say
# which of the two it was in this run, and how much of a search it was.
#
# **What you will see.** A search over dropout, number of filters, kernel size and learning rate. Each
# trial is a short fit, scored by F2 on the validation chips. Then: what each parameter explains, the
# final models trained at length, how far the seed alone moves their score,
# and the rule that sets the threshold of each model.
#
# **Prerequisites.** {doc}`02_training` (its choices are used; without them, the defaults).
# **Time.** More than an hour in the `full` profile on two cores, most of it for the final models. A search
# that was stopped goes on where it was.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
fraction: float = 1.0  # of the scenes to train and validate on
seed: int = 0  # of the search and of each fit
labels: str = "auto"  # one of LABEL_SOURCES, soft or truth; auto: those of 02_training
trials: int = 10  # in all, those of an earlier call counted
minutes: float = 15.0  # of fitting, after which no trial is begun
trial_epochs: int = 4  # passes over the training chips in each trial
epochs: int = 70  # of the long fits, which make the final models
batch_size: int = 8  # chips per step
beforehand: list[float] = []  # settings of the final models, as in Table 3.1; none: the winner's
extremes: int = 20  # scenes of each landscape, clear and overcast, on which seeds are told apart
at_once: int = 1  # trials proposed together, and long fits side by side, each on one core
scheduler: str = ""  # fits them together: local, or the address of a Dask scheduler

# %% tags=["hide-input"]
from functools import partial

from IPython.display import Markdown

from clouddl import figures
from clouddl.score import plateau, precision_recall
from clouddl.search import best_trial, search
from clouddl.sensors import BAND_SETS
from clouddl.train import Schedule, fit_trial, on_validation
from clouddl_study import tables
from clouddl_study.corpora import open_corpus, study_chips, training_labels
from clouddl_study.experiments import CONTROLS, Fit, fit_all
from clouddl_study.pages import panels
from clouddl_study.pages import search as page
from clouddl_study.workspace import read_choices, results_folder, work_folder, write_table

figures.style()

# %% [markdown]
# ## What is already settled
#
# The chips are those of {doc}`01_data_preparation`: squares of 256 pixels with a mask for each source of
# labels. {doc}`02_training` settled four things: the source of the labels, the normalisation, the working
# resolution, and whether the models train on real scenes, simulated ones or both. The search takes these as
# they are; only the parameter `labels` can overrule the first.

# %%
catalogue, store = open_corpus(corpus, mirror or None)
path = study_chips(catalogue, store, work, fraction)
choices = read_choices(work)
scenes = choices["scenes"]
chosen = training_labels(choices["labels"] if labels == "auto" else labels, catalogue)
choices

# %% [markdown]
# ## The space of the search
#
# The abstract of 2020 names dropout and "filter size". Filter size can mean how many filters a layer has
# or how large their kernel is, so both are searched. The learning rate is added, since no other setting
# means much at a wrong one. The table is read from `clouddl.search.SPACE`, the object that HyperOpt
# itself is given.
#
# Dropout starts at 0.1 and not at 0. Short fits hardly over-fit, so they tend to favour no dropout at all,
# and the long fits that follow could then over-fit.

# %%
tables.show(page.space())

# %% [markdown]
# *Table 3.1. The space of the search. The learning rate is sampled uniformly in its logarithm, so that each
# doubling is as likely as any other.*
#
# ## One trial
#
# A trial turns a point of this space into one number. It makes a network of that shape, trains it for
# `trial_epochs` passes, calibrates its probabilities and returns F2 on the validation chips. F2 weights
# recall four times as much as precision. **Validation F2** is the mean of two F2, one over real and one over
# simulated chips, so that both count alike. The labels of the real chips come from processors; with soft
# labels, only the pixels on which all of them agree count. So on real chips validation F2 measures
# agreement with processors. Agreement with hand-labelled masks is measured in
# {doc}`04_sentinel2_validation`.
#
# Every model on this page has a *card*: its bands, its shape, its labels, its seed. The trials use the
# bands of SPOT (green, red, NIR, SWIR), the set that the study is about.

# %%
settled = {key: choices[key] for key in ("normalisation", "resolution")}
card = partial(page.model_card, seed=seed, labels=chosen, **settled)

# %%
objective = partial(
    fit_trial,
    chips=str(path),
    card=card("trial", [BAND_SETS["spot"]]).model_dump(),
    folder=str(work_folder(work) / "trials"),
    epochs=trial_epochs,
    batch_size=batch_size,
    of=scenes,
)

# %% [markdown]
# ## The loop
#
# HyperOpt's `fmin(objective, SPACE, algo=tpe.suggest)` would run the whole search. `clouddl.search` runs
# the same loop with the table of trials as its only state, so that a search may be stopped, resumed or
# spread over several machines:
#
# ```python
# while len(table) < trials:
#     point = tpe.suggest(...)  # HyperOpt proposes, from the rows of the table so far
#     score = objective(point)  # train, calibrate, F2 on validation
#     table = table + [point, score]  # written to disk at once
# ```
#
# TPE stands for tree-structured Parzen estimator {cite:p}`bergstra2013`. It divides the trials so far into good
# and poor ones, and estimates for each parameter how its values are distributed among either. Then it
# proposes a value that is frequent among the good trials and rare among the poor ones. It needs some
# trials to divide, so the first third of the budget, and at least three trials, are sampled at random
# from the space. Trials that run side by side are proposed together, so the random part may be a little longer.

# %%
table = search(
    objective,
    results_folder(work) / "all_trials.csv",
    trials=trials,
    minutes=minutes,
    seed=seed,
    at_once=at_once,
    scheduler=scheduler or None,
    progress=False,
)

# %% [markdown]
# The search ends at the number of trials or at the limit of time, whichever comes first. The next lines
# say which of the two it was, how many trials TPE proposed, and whether the final models depend on it.

# %%
page.search_in_words(table, trials, minutes, at_once, beforehand)

# %% [markdown]
# The models ship inside the package, so they must be small. The winner is the best of the trials with at
# most `page.LARGEST` million parameters; if none is that small, it is the best of all.

# %%
sizes = page.millions(table, card("size", [BAND_SETS["spot"]]))
small = table[sizes <= page.LARGEST]
best = best_trial(table if small.empty else small)
best

# %%
tables.show(write_table(work, "trials", page.ranked(table, sizes)))

# %% [markdown]
# *Table 3.2. All trials, best first. Look in the last column for the first row whose network is small
# enough: that is the winner, and it need not be the first row.*
#
# Two figures show the same trials: the first in the order of time, the second by parameter.

# %%
page.trial_losses(table)

# %% [markdown]
# *Figure 3.1. Validation F2 of each trial, in the order in which they were proposed. The line is the best so
# far. Where TPE proposed trials and learns, the later dots lie higher than the early ones, which are random. A line that
# still rises at the end means that more trials might have found better ones.*

# %% tags=["wide"]
panels.plots(page.parameter_slices(table))

# %% [markdown]
# *Figure 3.2. The same trials against each parameter; the colour goes from dark (early) to light (late). A
# parameter matters where the dots form a slope or a peak. Where the dots of one value spread as far as
# those of all values, something else decides.*
#
# ## What each parameter explains
#
# For each parameter the trials are divided into groups: at the median for dropout and learning rate, by
# value for filters and kernel. The table gives the mean F2 of the best and of the worst group, and the
# fraction of the variance of F2 that lies between the groups ("variance explained alone").
#
# These fractions are not parts of one whole, and **their sum may exceed 1**. Each parameter is looked at alone,
# without holding the others fixed. TPE, where it proposes trials, proposes good values together, so the parameters of
# the trials are correlated: if the trials with a low learning rate are also those with a small kernel, both are
# credited with the same difference in F2. With few trials this happens by chance alone. The last column says what
# a parameter without any effect would explain on average, (groups − 1) / (trials − 1). A value near it, or below,
# is no evidence of an effect.

# %%
tables.show(page.parameter_worth(table).round(3))

# %% [markdown]
# *Table 3.3. What each parameter explains alone. Compare the last two columns: only a parameter far above
# chance may matter. So few trials give an indication, not a test.*
#
# ## The final models
#
# Trials are short, and what is ahead after a short fit need not be ahead after a long one. So the settings
# of the final models may be fixed beforehand, by longer fits on validation; {doc}`../protocol` says by which.
# Otherwise they are those of the winner.

# %%
settings = best
if beforehand:
    settings = {k: type(v)(b) for (k, v), b in zip(best.items(), beforehand, strict=True)}
words = ", ".join(f"{name.replace('_', ' ')} {value:.3g}" for name, value in settings.items())
Markdown(f"{'Fixed beforehand' if beforehand else 'Of the winner'}: {words}.")

# %% [markdown]
# These settings are trained at length and to the last epoch. There is a model for
# each set of bands: `five` (all that the study uses), `spot` and `pleiades` (those of the sensors). One more,
# `any`, works with each of these sets, because each training image is shown with one of them. Nothing is
# stopped early, so validation does not decide when training ends.
#
# With SPOT's bands there are four fits that differ in their seed alone, `spot-seed-0` to `spot-seed-3`. They
# measure the noise, and the best of them becomes the **headline model** of the study, `spot`, by a score that
# follows below.
#
# Three more fits with SPOT's bands are controls, of as many steps:
#
# - two trained on other scenes than `spot`. Of real and simulated ones (`spot-both`), real ones alone
#   (`spot-real`) and simulated ones alone (`spot-simulated`) they are the two that `spot` is not trained on;
# - one with labels of the spectral tests, which descend from no hand-labelled mask (`spot-spectral-tests`).
#
# These need real chips: a build of simulated chips alone leaves them out. Labels make a difference on
# real chips only, so the last one always sees some.

# %%
shape = {k: v for k, v in settings.items() if k != "learning_rate"}
spot = [BAND_SETS["spot"]]
fits = []
for number in range(4):
    other_seed = {**shape, "seed": seed + number}
    fits.append(Fit(card(f"spot-seed-{number}", spot, **other_seed), scenes))
for name in ("five", "pleiades"):
    fits.append(Fit(card(name, [BAND_SETS[name]], **shape), scenes))
fits.append(Fit(card("any", list(BAND_SETS.values()), **shape), scenes))

# %%
if catalogue.name != "simulated":
    for of, name in CONTROLS.items():
        if of != scenes:
            fits.append(Fit(card(name, spot, **shape), of))
    tests = {**shape, "labels": "spectral-tests"}
    labelled = "real" if scenes == "simulated" else scenes
    fits.append(Fit(card("spot-spectral-tests", spot, **tests), labelled))

# %% [markdown]
# The fits differ in their cards and in the chips they see, and in nothing else. All take as many steps as
# `epochs` passes over all training chips, with their learning rate.

# %%
schedule = Schedule(epochs, batch_size, settings["learning_rate"])
models = fit_all(fits, path, work_folder(work), schedule, at_once)
same_but_seed = {name: fit for name, fit in models.items() if name.startswith("spot-seed-")}

# %% [markdown]
# ### Which seed ships?
#
# Validation holds little of what is rare and decides in use: snow without cloud, and overcast whose top is a cloud of
# large ice crystals, as dark in the short-wave infrared as snow. Fits with the same F2 on validation may differ
# widely there. So these *extremes* are simulated apart, as Landsat 8 sees them, in places of neither training nor
# validation. **The score of choice** is the mean of three numbers: F2 on the real and on the simulated validation
# chips, and one minus the mean of the four errors in Table 3.4. The seed with the highest one ships. That rule was fixed
# beforehand ({ref}`rare`): no image labelled by hand has a say in it.

# %%
compared = page.compare_seeds(same_but_seed, path, extremes)
write_table(work, "seeds_validation", compared.round(4))
tables.show(compared.set_index("model").mul(100).round(1).reset_index())

# %% [markdown]
# *Table 3.4. The fits that differ in their seed alone, each at its own threshold, in per cent. Errors are of the
# pixels: of clear ground called cloud, of overcast missed. Compare the columns: where seeds differ most is what
# decides between them.*

# %%
shelf = work_folder(work) / "models"
finals = {"spot": page.best_of(same_but_seed, compared, "spot", shelf), **models}

# %% tags=["hide-input"]
summary = page.final_models(finals, shelf)
tables.show(write_table(work, "final_models", summary))

# %% [markdown]
# *Table 3.5. The final models; `spot` is the best of the four below it that differ in their seed. Compare a row
# only with rows that have the same bands and the same labels: `spot-spectral-tests` is scored against the labels
# of the spectral tests, and so against another target. The controls are single fits: compare them with the mean
# of the four seeds rather than with `spot`.*
#
# ## How much is chance?
#
# The seed sets the first weights, the order of the chips and the random training effects. Fits that
# differ in the seed alone differ in F2 too, and a difference between settings that is no larger shows
# nothing. The difference of two fits varies $\sqrt{2}$ times as much as the F2 of one. So the **noise of a
# difference**, below which it shows nothing, is $2 \sqrt{2} \approx 2.8$ standard deviations of the seeds.
# Four seeds give a rough value of it, and they are long fits: the noise of short trials was not measured,
# and may be larger.

# %%
seeds = [model.card.scores["validation_f2"] for model in same_but_seed.values()]
page.trials_with_noise(table, seeds)

# %% [markdown]
# *Figure 3.3. Left: the trials from best to worst. The shaded range reaches 2.8 standard deviations of the
# seeds below the best trial; trials inside it cannot be told from the best. Right: the four long fits with
# SPOT's bands, which differ in the seed alone. Compare how far the dots on either side spread.*
#
# ## The threshold
#
# The network gives a probability; a mask needs a threshold. It is chosen once, on the validation
# chips, and used on every page that follows, for every sensor. There are three steps.
#
# 1. *Calibrate.* The logits are scaled and shifted so that of the validation pixels given 0.3, about 30 %
#    are cloud.
# 2. *Average.* F2 is computed for the thresholds 0.01 to 0.99 on the real and on the simulated chips,
#    and the two curves are averaged. The real chips hold little snow, sand and bare soil; the simulated
#    ones are not real. Neither should decide alone.
# 3. *Take the middle of the plateau.* Thresholds whose mean F2 is within 0.01 of the highest count as
#    equal, because the validation scenes are too few to tell them apart. The middle one of them is used.
#    The highest point itself could lie anywhere on the plateau, by chance.
#
# Expect a threshold well below 0.5: F2 weights recall more than precision, and the probabilities are
# calibrated.
#
# All three steps were taken for each model when it was fitted. For the headline model, steps 2 and 3 are
# repeated here, so that they can be seen.

# %%
model = finals["spot"]
curves = {}
for name, part in page.validation_parts(path, model.card).items():
    probability, truth = on_validation(model, part)
    curves[name] = precision_recall(probability, truth)
page.threshold_rule(curves, model.card.threshold)

# %% [markdown]
# *Figure 3.4. F2 of the headline model against the threshold, on validation. The shaded plateau holds the
# thresholds whose mean F2 is within 0.01 of the best; the dotted line is the threshold in the card of the
# model. Look at the width of the plateau: the wider, the less the choice matters here. Where the two
# coloured curves peak at different thresholds, the mean is a compromise.*
#
# No model is trained on the validation chips afterwards: retraining would shift the probabilities and
# invalidate the threshold. What the threshold costs on images with hand-labelled masks is shown in
# {doc}`04_sentinel2_validation`.

# %% tags=["hide-input"]
limit = 100 * tables.NOISE * page.spread(seeds)
low, _, high = plateau(page.mean_curve(curves).f2.to_numpy())
best_f2 = (table if small.empty else small).val_f2.max()
Markdown(
    f"The best small trial reached a validation F2 of **{tables.percent(best_f2)}**. The noise of a "
    f"difference is **{limit:.1f} points**. The threshold of the headline model is "
    f"**{model.card.threshold:.2f}**, on a plateau from {low:.2f} to {high:.2f}."
)

# %% [markdown]
# **What we learnt.** Whether one trial is better than another has to be read against the noise of a
# difference; trials inside it cannot be told apart. The threshold is not a free parameter of later pages: it
# follows from a rule on validation, it stands in the card of each model, and it is not changed for any
# sensor. {doc}`04_sentinel2_validation` scores these models on Sentinel-2 against hand-labelled masks,
# {doc}`05_spot_transfer` on sensors they never saw.
