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
# # 7. Classical tests
#
# **What you will see.** Two classical ways to find clouds, beside the network on the same images. Spectral
# tests apply published thresholds to one date, and are scored against references. A multi-temporal test
# looks for a rise of reflectance since the last clear date. Its images have no reference, so it can only
# be compared.
#
# **Why it matters.** These rules learn nothing, need no labelled image and can be read in a minute. A network
# has to do better than they do to be worth its trouble. They follow the first pass of Fmask and the
# multi-temporal test of MAJA, with the published constants. They are **not** those processors, which also
# use temperature, cirrus, shadows, parallax and atmospheric correction.
#
# **Prerequisites.** Models of {doc}`03_hyperopt_search` (else those that ship). **Time.** Minutes.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
seed: int = 0  # of the bootstrap
draws: int = 2000  # of the bootstrap

# %% tags=["hide-input"]
import pandas as pd
from IPython.display import Markdown, display

from clouddl import figures
from clouddl.labels import available_tests, spectral_tests
from clouddl.mission.classical import multi_temporal_test
from clouddl.score import pooled
from clouddl.sensors import BAND_SETS, STUDY_BANDS
from clouddl.transfer import evaluate, model_method, open_scenes
from clouddl_study.corpora import open_corpus
from clouddl_study.pages import bands, panels, transfer
from clouddl_study.pages.methods import all_cloud, peer_method, spectral_method
from clouddl_study.tables import enough_units, show
from clouddl_study.workspace import trained_model, write_table

figures.style()

# %% [markdown]
# ## The spectral tests
#
# A pixel is cloud if it passes every test that its bands allow (the first pass of {cite:t}`zhu2012`). With
# $\rho$ the reflectance at the top of the atmosphere, the tests that the five bands of the study allow are:
#
# | test | a cloud has | because |
# |---|---|---|
# | snow index | $(\rho_\mathrm{green} - \rho_\mathrm{swir}) / (\rho_\mathrm{green} + \rho_\mathrm{swir}) < 0.8$ | snow is dark in the short-wave infrared |
# | vegetation index | $(\rho_\mathrm{nir} - \rho_\mathrm{red}) / (\rho_\mathrm{nir} + \rho_\mathrm{red}) < 0.8$ | dense vegetation is dark in red |
# | whiteness | $\sum \lvert \rho_\mathrm{visible} / \bar\rho - 1 \rvert < 0.7$ | a cloud has no colour |
# | haze | $\rho_\mathrm{blue} - 0.5\,\rho_\mathrm{red} > 0.08$ | a cloud is bright, and thin cloud raises blue most |
# | rock | $\rho_\mathrm{nir} / \rho_\mathrm{swir} > 0.75$ | rock is brighter in the short-wave infrared |
#
# In the test of whiteness $\bar\rho$ is the mean of the visible bands, over which the sum runs. A sixth test
# reads a band at 2.2 µm, which the study does not use.
#
# SPOT has no blue. We ask the package which tests remain and which bands they read.

# %%
five, spot = list(STUDY_BANDS), BAND_SETS["spot"]
with_blue, without_blue = available_tests(five), available_tests(spot)
rows = [
    {
        "test": name,
        "with five bands it reads": ", ".join(with_blue[name]),
        "without blue it reads": ", ".join(without_blue[name]),
    }
    for name in with_blue
]
show(pd.DataFrame(rows))

# %% [markdown]
# *Table 7.1. The tests, and the bands each reads with and without blue.*
#
# Without blue, **green stands in for blue in the haze test**, and the threshold stays 0.08. This is our choice,
# not a published one, and it changes what the test does. Air scatters blue light most, so at the top
# of the atmosphere blue is raised even over clear ground, and some clear ground passes the test with blue.
# Green is raised less, so the same threshold should be stricter on green: fewer clear pixels pass, and fewer
# thin clouds too. Where ground is brighter in green than in red and blue, such as vegetation, it may be less
# strict. Whiteness changes as well, because it then rests on two visible bands instead of three.
#
# ## Scores on the references
#
# We score the tests and the network on every reference that has all five bands, with and without blue. So
# a row with five bands and a row with four are of the same scenes. The next line says how many each sensor has.

# %%
catalogue, store = open_corpus(corpus, mirror or None)
models = {name: trained_model(work, name) for name in ("five", "spot")}
scenes = open_scenes(catalogue.select("reference"), store, models["spot"].card.resolution)
sets = transfer.by_sensor(scenes, five)
bands.numbers_of_scenes(sets)

# %% [markdown]
# Next to them stand the floor, which calls every pixel cloud, and on real images ukis-csmask, a network
# of DLR which was trained on hand-labelled images of Landsat 8 and Sentinel-2.

# %%
methods = {}
for name, use in (("five", five), ("spot", spot)):
    methods[f"CloudDL: {', '.join(use)}"] = model_method(models[name], use)
    methods[f"spectral tests: {', '.join(use)}"] = spectral_method(use)
methods["everything is cloud"] = all_cloud()
if catalogue.name != "simulated":
    methods["ukis-csmask: blue, green, red, nir"] = peer_method()

evaluations = {sensor: evaluate(methods, part) for sensor, part in sets.items()}
counts = pd.concat([evaluation.counts for evaluation in evaluations.values()])
scores = enough_units(pooled(counts, by=["sensor", "run"], draws=draws, seed=seed))

# %%
show(write_table(work, "scores_spectral_tests", scores[["sensor", *bands.SHOWN]].round(3)))

# %% [markdown]
# *Table 7.2. Tests, network and floor on the references. Look how far the tests change when blue is left out. Below
# five places no interval is given. The network with four bands is the best of four seeds on validation, that with
# five a single fit.*
#
# Read the rows of one sensor together, starting with the floor. A difference on a single scene is an anecdote.
# Whether the network and the tests truly differ is for the paired
# differences of {doc}`05_spot_transfer` to say, not for two intervals that overlap. Precision and recall
# tell how a rule fails: low precision is clear ground called cloud, low recall is missed cloud. The pictures
# show which ground and which cloud.

# %% tags=["wide"]
columns = {
    "network, four bands": f"CloudDL: {', '.join(spot)}",
    "tests, with blue": f"spectral tests: {', '.join(five)}",
    "tests, green for blue": f"spectral tests: {', '.join(spot)}",
}
panels.grid(panels.panel(bands.example_rows(sets, evaluations, columns)))

# %% [markdown]
# *Figure 7.1. For each sensor the reference scene nearest to half cloud, half clear: image, reference, and
# three masks with their errors. Compare the two masks of the tests. Where the haze test with green is the
# stricter one, false alarms of "tests, with blue" are gone in "tests, green for blue"; where it is not, as it may
# be over vegetation, new ones appear. On Landsat 5 clouds look yellow: blue is lower there than green and red.
# Most of its clear ground passes the haze test on blue (Table 7.3), so look at the false alarms of the tests with blue.*
#
# ## Green in place of blue, measured
#
# Here is the haze test alone, on all labelled pixels of the same scenes: how many cloud pixels and how many
# clear pixels pass it, with blue and with green. A test is useful if nearly all cloud passes and little clear
# ground does.

# %%
show(bands.haze_test(sets).round(1))

# %% [markdown]
# *Table 7.3. The haze test with blue and with green. On both Landsat sets green keeps out much clear ground that
# passes with blue; on Sentinel-2 it does not.*
#
# Where green lets far fewer clear pixels pass and nearly as many cloud pixels, it makes the better test on
# these images, and that would explain a higher F2 of the tests *without* blue. It does not make green
# the better band in general. The threshold was published for Landsat images of other
# places, and a higher threshold on blue might do the same; we did not tune one, because the references
# are not for tuning. The lines below set all tests with green beside all tests with blue, one line a sensor, without an
# interval.

# %%
bands.f2_beside(scores, "sensor", columns["tests, green for blue"], columns["tests, with blue"])

# %% [markdown]
# ## The multi-temporal test
#
# A cloud is new: it makes a pixel brighter than it was on its last clear date. A pixel is called cloud where
# blue rose by more than
#
# $$ 0.03 \left(1 + \frac{\text{days since it was clear}}{30}\right), $$
#
# unless red rose more than 1.5 times as much as blue, as it does when soil is ploughed {cite:p}`hagolle2010`.
# The longer ago the last clear date, the less the rise says, so the threshold grows. A pixel that has not
# been clear on any date before is left to the spectral tests.
#
# This needs a series. The one series among the real images, dates of 2018 over one place in Italy, has no
# reference. We can only compute how far the methods **agree**, not which is right. Nor is the comparison
# always neutral: a network that learnt from real scenes has seen this place, one that learnt from simulated
# scenes alone has not.

# %%
series = open_scenes(
    [s for s in catalogue.select("train") if s.collection == "sen12mscrts_italy"],
    store,
    models["five"].card.resolution,
)
if not series:
    print("The corpus is simulated: the Italian series is left out.")

# %%
if series:
    dates = [name.rpartition("_")[2] for name in series]
    images = [scene.reflectance.sel(band=five) for scene in series.values()]
    network = model_method(models["five"], five)
    temporal = multi_temporal_test(images, dates)
    masks = {
        "multi-temporal test": [mask.values for mask in temporal],
        "spectral tests": [spectral_tests(image) for image in images],
        "CloudDL": [network.mask(scene) for scene in series.values()],
    }
    without = [mask.attrs["without_predecessor"] for mask in temporal]
    agreement = bands.agreement_table(dates, masks, without)
    write_table(work, "agreement_italy", agreement)

# %%
show(agreement) if series else None

# %% [markdown]
# *Table 7.4. The Italian series, date by date. Compare the methods on dates that are neither wholly cloudy nor
# wholly clear.*
#
# The same as a picture:

# %% tags=["wide"]
bands.plot_series(agreement) if series else None

# %% [markdown]
# *Figure 7.2. Cloud cover that each method gives for each date of the Italian series, and, as grey bars, the
# pixels that were not clear on any date before. Where a bar is high the multi-temporal test has little to compare
# with and is the spectral tests by another name; only dates with a low bar compare three methods. Lines far
# apart on such a date mean that at least one method is wrong there. (Shown with real images only.)*
#
# In Table 7.4, "as CloudDL" is the fraction of pixels on which a test and the network say the same. It has a
# trap: on a date that is wholly overcast all methods tend to agree, and so they do on a clear one. The means
# over all dates, given below, are mostly made of such dates; look at the others in the table. After the
# means, the lines with F2 return to the references: the network beside the spectral tests, with SPOT's bands.
# Intervals of these differences are on {doc}`05_spot_transfer` and {doc}`04_sentinel2_validation`.

# %%
if series:
    means = agreement.mean(numeric_only=True)
    temporal, spectral = means["multi-temporal as CloudDL %"], means["spectral as CloudDL %"]
    text = f"Agreement with CloudDL: multi-temporal test {temporal:.1f} %, spectral tests {spectral:.1f} %."
    display(Markdown(text))
bands.f2_beside(scores, "sensor", columns["network, four bands"], columns["tests, green for blue"])

# %% [markdown]
# **What we learnt.** The lines above set the network beside a rule of published thresholds on each sensor,
# with the same bands. Where the difference is small, or negative, the rule is a serious alternative: it costs
# nothing, and nobody has to trust a training set. What the rule cannot use is shape and texture; there a
# network could be ahead, on snow and on bright ground. The band that a threshold is applied to is part of
# the rule: with green in place of blue the haze test is another test.
