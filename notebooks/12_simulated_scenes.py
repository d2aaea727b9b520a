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
# # 12. Simulated scenes
#
# **What you will see.** How a simulated scene is built up in layers, from terrain to instrument; which landscapes
# there are; and what a network that never saw a simulated scene makes of them. Then simulated scenes stand beside
# real ones, and we measure how far their bands agree. Then comes the question behind the models that ship: do
# simulated scenes help a model that is used on real images? Last, the tables of 2020 are rebuilt on simulated
# Sentinel-2, SPOT-4 and SPOT-5 scenes, with and without elevation.
#
# **Prerequisites.** Chips of {doc}`01_data_preparation` (made if missing), and for the comparison of
# training sets the models of {doc}`03_hyperopt_search`. **Time.** Some minutes.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
fraction: float = 1.0  # of the scenes to train and validate on
seed: int = 0  # of the models, the bootstrap and the simulated places
places: int = 60  # simulated places to train on, for the comparison with and without elevation
tested: int = 30  # simulated places to score on, other ones
outside: int = 68  # places shown to ukis-csmask
days: int = 3  # dates of each place scored, which the multi-temporal test needs
size: int = 128  # pixels of 30 m, of one simulated place
epochs: int = 60  # passes of the fits to the tables of 2020
simulated_epochs: int = 8  # passes of the fit to simulated chips alone
draws: int = 2000  # of the bootstrap

# %% tags=["hide-input"]
import numpy as np
import pandas as pd
from IPython.display import Markdown

from clouddl import figures, simulate, transfer
from clouddl.chips import Chips, cut_chips
from clouddl.labels import CLEAR, CLOUD, spectral_tests, to_mask
from clouddl.network import ELEVATION, ModelCard
from clouddl.score import paired, pooled
from clouddl.sensors import BAND_SETS, STUDY_BANDS, get_sensor

# %% tags=["hide-input"]
from clouddl.simulate import clouds
from clouddl.simulate.landscape import simulate_ground
from clouddl.train import Schedule, fit
from clouddl_study.corpora import open_corpus, study_chips, training_labels
from clouddl_study.experiments import models_by_training
from clouddl_study.pages import panels
from clouddl_study.pages import simulated as steps
from clouddl_study.tables import enough_units, show
from clouddl_study.workspace import (
    read_choices,
    results_folder,
    trained_model,
    work_folder,
    write_table,
)

figures.style()

# %% [markdown]
# ## How a scene is simulated
#
# A real image has no exact mask: people label it, and disagree at the edges of clouds. A simulated scene has
# one, because we put the clouds there. Everything follows from a seed, in layers:
#
# 1. **Terrain.** Fractal noise, scaled to the relief of a landscape. The lowest ground becomes water.
# 2. **Land cover.** More noise divides the land between kinds of cover, in patches or in fields; snow lies
#    above a ragged line.
# 3. **Spectra.** Each kind has measured spectra, which give the reflectance of every pixel.
# 4. **Sun and air.** Slopes, shadows of terrain, then a layer of air that scatters and absorbs.
# 5. **Clouds.** A field of optical depth for drops, and one for ice crystals above it. Optical depth $\tau$ says how
#    thick a cloud is for light: a fraction $e^{-\tau}$ of a vertical beam passes straight through.
# 6. **Scene with cloud.** Each layer of air or cloud is put on what lies below it by the adding method,
#    $R = R_l + T_l R_b / (1 - S_l R_b)$. $R_b$ is the reflectance of what lies below, $R$ that of both together.
#    The layer itself has the reflectance $R_l$, the transmission $T_l$ down and up, and $S_l$, its reflectance for
#    light from below. Shadows of the clouds fall on the ground.
# 7. **Instrument.** Blur, misregistration, calibration errors, noise and quantisation of each band.
#
# Spectra of surfaces, air and clouds are kept on a fine grid of wavelengths. Averaged over the spectral responses
# of a sensor, they let any sensor see the same place. Below, `simulate_scene` makes one place
# of the mountain landscape three times: without cloud, with cloud, and with cloud seen by an instrument
# without blur and noise. `simulate_ground` gives its ground, from the same seed.

# %%
sensor = get_sensor("sentinel-2")
surface = "mountain"
place = {"seed": seed, "size": size, "surface": surface}
cloudy = {"cloud_fraction": 0.3, "clouds": "cumulus", **place}
rng = np.random.default_rng([seed, 0])
ground = simulate_ground(rng, simulate.LANDSCAPES[surface], size, 30.0)
clear_scene = simulate.simulate_scene(sensor, cloud_fraction=0, **place)
scene = simulate.simulate_scene(sensor, **cloudy)
ideal = simulate.simulate_scene(steps.without_blur_and_noise(sensor), **cloudy)

# %% tags=["wide"]
panels.grid(steps.plot_layers(ground, surface, sensor, clear_scene, scene, ideal))

# %% [markdown]
# *Figure 12.1. A simulated scene in layers, in the order of their numbers. 1 to 3 do not depend on the day. 4 is the
# ground under sun and air. 5 is the optical depth at 0.55 µm (its colours are logarithmic), 6 the scene with it, without blur and noise, and 7
# what the instrument's blur and noise then change. 8 is the label that follows from 5. Ground and sun are the
# same in 4 and 6; the air is another sample of the day's weather. Look for thin cloud that shows in 6 and is not
# labelled in 8.*
#
# The label is a rule on the optical depth of water and ice cloud together. Between its two limits people would
# label either way, so nothing is scored there, and soft labels to train on count it as one half.

# %%
Markdown(
    f"A pixel is **cloud** above an optical depth of {clouds.CLOUD_OPTICAL_DEPTH}, **clear** below "
    f"{clouds.CLEAR_OPTICAL_DEPTH}, and not labelled between. Types of cloud, with how often each is "
    f"simulated: {', '.join(f'{name} {100 * part:.0f} %' for name, part in clouds.CLOUDS.items())}. "
    f"Where more than {clouds.SCATTERED_FRACTION} of the sky is cloudy, {' and '.join(clouds.SCATTERED)}, "
    "which leave gaps, are stratus instead."
)

# %% [markdown]
# Two ingredients follow measurements. The first is the size of the particles of a cloud, its **effective radius** (the
# mean radius, weighted by area): for ice crystals, satellite maps of it {cite:p}`nasa2013`. The second is how fast the
# scattering by dust, smoke and haze falls with wavelength. The power of the fall is the **Ångström exponent**
# {cite:p}`angstrom1929`: near zero for the coarse dust over a desert {cite:p}`che2013`, larger for fine smoke.
# {ref}`measured-air` has the measured values. Scenes to train on depart from them in one thing, on purpose: 30 % of
# their ice clouds are given large crystals, since a network hardly learns what it is shown a dozen times
# ({ref}`rare`).

# %% tags=["hide-input"]
Markdown(steps.particles_in_words())

# %% [markdown]
# ## The landscapes
#
# A landscape is an entry of a table: relief, fractions of water and snow, and kinds of cover with their
# weights. Sets of simulated scenes take the landscapes in turn, and with them the fraction of cloud, from
# wholly clear to wholly cloudy.

# %%
show(steps.landscape_table())

# %% [markdown]
# *Table 12.1. The landscapes. Snow that has a column of its own lies above a line; in tundra and sea ice snow is one of
# the covers instead. Covers are named after their spectra: litter is dry plants, char is burnt, and road and
# roof stand for bare rock where there is no canopy.*
#
# One place of each, without cloud, as Sentinel-2 would see it:

# %%
landscapes = {}
for number, name in enumerate(simulate.LANDSCAPES):
    landscapes[name] = simulate.simulate_scene(
        sensor, seed=seed + number, size=96, surface=name, cloud_fraction=0
    )

# %% tags=["wide"]
panels.grid(steps.plot_landscapes(landscapes))

# %% [markdown]
# *Figure 12.2. One clear place of each landscape, red, green and blue with the same stretch. Bright landscapes
# without any cloud (snow, glacier, sea ice, salt) are the ones that a brightness test would call cloud.*
#
# ## What an outside network says of them
#
# Would a network that knows only real images recognise our clouds? We ask **ukis-csmask**, with its six bands:
# it learnt from hand-labelled images of Landsat 8 and Sentinel-2, and never saw a simulated one. If it takes our
# ground for ground and our clouds for clouds, they share with real ones what it looks at. No reference of this study
# is needed for that.

# %%
asked = simulate.simulate_set("sentinel-2", outside, seed=40_000 + seed, size=256)
opinion = steps.outside_masks(asked)
errors = write_table(work, "simulated_outside", steps.outside_errors(asked, opinion))
show(errors.round(3))

# %% [markdown]
# *Table 12.2. The fraction of clear pixels that ukis-csmask calls cloud in scenes without cloud, and the fraction of
# cloudy pixels that it misses in overcast scenes. A landscape with a high number is one whose simulation is doubtful,
# or hard. A dash: no such scene among those asked. The last row is the mean of the landscapes.*
#
# This check changed the simulator ({ref}`simulator-trial`). Its clouds used to be flat inside, of one optical depth,
# and ukis-csmask missed most overcast pixels. Real clouds vary inside, log-normally {cite:p}`cahalan1994`, but
# smoothly: light wanders sideways before it leaves a cloud, which wipes out what is finer than a hundred metres or
# so {cite:p}`marshak1995`. Since both are simulated, ukis-csmask recognises most overcast pixels.
#
# The same masks say where people would draw the line, as far as ukis-csmask has learnt it from them. We count how
# often it calls a pixel cloud, by the optical depth of the cloud there.

# %%
opinions = {"six bands": opinion, "four bands": steps.outside_masks(asked, n_bands=4)}
by_depth = write_table(work, "simulated_by_depth", steps.called_by_depth(asked, opinions))
steps.plot_called_by_depth(by_depth)

# %% [markdown]
# *Figure 12.3. The fraction of pixels that ukis-csmask calls cloud, by their true optical depth, with its six and its
# four bands. The dotted lines are the two limits of our label. The upper one is set a little below the depth at which
# half of the pixels are called cloud, because F2 punishes a missed cloud more than a false alarm.*
#
# ## Ice clouds and snow
#
# Snow and the tops of deep clouds are both ice, bright in red and dark in the short-wave infrared
# {cite:p}`pilewskie1987`. How dark a top is depends on its crystals and on the sun: large crystals absorb more and
# scatter forward what they leave {cite:p}`vandiedenhoven2014`, and light that comes in steeply goes deeper before it
# turns back {cite:p}`hapke1981`. We simulate overcast of deep clouds, and clear scenes
# of snow and ice, and divide one band by the other.

# %%
tops, white = {}, {}
for number in range(48):
    place = {"seed": 50_000 + seed + number, "size": 64}
    snowy = ("snow", "glacier", "sea_ice", "tundra")[number % 4]
    tops[number] = simulate.simulate_scene(sensor, clouds="deep", cloud_fraction=1, **place)
    white[number] = simulate.simulate_scene(sensor, surface=snowy, cloud_fraction=0, **place)
ratios = {
    "tops of deep clouds": steps.infrared_to_red(tops, CLOUD),
    "snow and ice without cloud": steps.infrared_to_red(white, CLEAR),
}

# %%
steps.plot_ice_and_snow(ratios)

# %% tags=["hide-input"]
Markdown(steps.ice_finding(*ratios.values()))

# %% [markdown]
# *Figure 12.4. Pixels above 0.6 in red: reflectance in the short-wave infrared divided by red, of tops of deep clouds
# and of clear snow and ice. Where the two overlap, no rule on these two bands can tell cloud from snow; what is left
# is texture and surroundings.*
#
# Scenes of snow and ice are many here because the real archive has few. Some of these landscapes were added after
# errors on Landsat 8 had been seen, so its scores are not those of a wholly unseen test; see {doc}`/protocol`.
#
# ## Side by side
#
# Now simulated chips (squares cut from scenes to train on) beside those of the corpus, the real images: the same
# bands, the same contrast, the same resolution. First the chips are opened, and the two kinds are separated. (In a
# build without real images one half of the simulated chips stands for the corpus, and nothing below says anything
# about real images.)

# %%
catalogue, store = open_corpus(corpus, mirror or None)
path = study_chips(catalogue, store, work, fraction)
chosen = training_labels("auto", catalogue)
train = Chips.open(path, STUDY_BANDS, chosen, "train")
real, drawn = steps.corpus_and_simulated(train)
images, masks = train.dataset.image.values, train.dataset.mask.values
print(f"{catalogue.name} corpus: {len(real)} chips compared with {len(drawn)} simulated ones")

# %% tags=["wide"]
figure = steps.plot_side_by_side(images, real, drawn, seed)
figures.save(figure, results_folder(work) / "drawn_beside_real.png")
panels.grid(figure)

# %% [markdown]
# *Figure 12.5. Six chips of the corpus above six simulated ones, chosen at random. Look for what gives a simulated
# chip away: straight borders, clouds without sides, water without waves, strong colours of the ground.*
#
# ## Band by band
#
# A network cares less for looks than for numbers. Here are the distributions of reflectance, cloudy and clear pixels
# apart (cloud in the corpus is what all processors call so). The table gives medians, and the Wasserstein distance
# between the two distributions: the change of reflectance, averaged over pixels, that would turn one distribution
# into the other.

# %%
of_corpus = steps.band_values(images, masks, real)
of_simulated = steps.band_values(images, masks, drawn)
bands = write_table(work, "drawn_bands", steps.compare_bands(of_corpus, of_simulated))
show(bands.rename(columns={"median, drawn": "median, simulated"}))

# %% [markdown]
# *Table 12.3. Reflectance of the corpus and of simulated chips. A distance is small when it is small beside the
# difference between the medians of cloud and of clear ground in that band: this is the contrast that a network
# works with.*

# %% tags=["hide-input", "wide"]
figure = steps.plot_histograms(of_corpus, of_simulated)
figures.save(figure, results_folder(work) / "drawn_histograms.png")
panels.plots(figure, on_phone=2)

# %% [markdown]
# *Figure 12.6. Histograms of reflectance by band, clear pixels above and cloudy ones below, for the corpus and
# for simulated chips. Where one curve has a hump that the other lacks, one of the two has a surface or a cloud
# that the other does not.*
#
# The two sets do not show the same places, so part of each distance in Table 12.3 is geography and not an error of
# the simulation.
#
# ## Band against band
#
# What tells surfaces apart is not one band but how bands go together: snow is bright in red and dark in
# short-wave infrared, vegetation is dark in red and bright in near infrared, cloud is bright in all.

# %% tags=["hide-input", "wide"]
panels.plots(steps.plot_band_pairs(images, real, drawn), on_phone=2)

# %% [markdown]
# *Figure 12.7. Density of pixels, one band against another (the logarithm of their number), the corpus above and
# simulated below. Where both hold the same surfaces the same branches should be there: the diagonal of cloud, the
# vegetation, the snow.*
#
# ## Do simulated scenes help?
#
# Three models of the same shape, with SPOT's bands and as many training steps each, differ only in what they learn
# from: real and simulated scenes, real scenes alone, simulated scenes alone. They were made by
# {doc}`03_hyperopt_search`. Each is used at the threshold that the validation scenes gave, real ones and simulated
# ones, and is scored on the hand-labelled references. If that page has not run, a short fit stands in for the model
# of simulated scenes alone, and the two others are missing.

# %%
spot = BAND_SETS["spot"]
models = {}
training_sets = models_by_training(read_choices(work)["scenes"])
shelf = work_folder(work) / "models"
if (shelf / "spot-spectral-tests.json").exists():  # so page 3 had real scenes
    for learnt_from, file in training_sets.items():
        if (shelf / f"{file}.json").exists():
            models[learnt_from] = trained_model(work, file)
print(f"made by page 3: {', '.join(models) or 'none of the three'}")

# %%
if "simulated scenes alone" not in models:
    short = Chips.open(path, spot, chosen, "train")
    models["simulated scenes alone"] = fit(
        ModelCard(name="drawn-only", bands=spot, resolution=30.0, normalisation="log", seed=seed),
        Chips(short.dataset.isel(chip=drawn)),
        Chips.open(path, spot, chosen, "validation"),
        work_folder(work) / "runs" / "drawn-only",
        Schedule(simulated_epochs, batch_size=8, patience=simulated_epochs),
    )

# %% [markdown]
# All references that have SPOT's bands are scored, and beside the models the mask that calls everything cloud.

# %%
from clouddl_study.pages.methods import all_cloud

opened = transfer.open_scenes(catalogue.select("reference"), store, 30.0)
opened = {n: s for n, s in opened.items() if set(spot) <= set(s.band.values.tolist())}
methods = {}
for learnt_from, model in models.items():
    methods[f"{learnt_from}: {', '.join(spot)}"] = transfer.model_method(model, spot)
methods["everything is cloud"] = all_cloud()
counts = transfer.evaluate(methods, opened).counts
by_training = enough_units(pooled(counts, by=["sensor", "run"], draws=draws, seed=seed))

# %% tags=["hide-input"]
measures = ["f2", "f2_low", "f2_high", "f1", "precision", "recall"]
columns = ["sensor", "run", "scenes", *measures]
by_training = by_training[columns].sort_values("sensor", kind="stable").round(3)
alone = by_training[by_training.run.str.startswith("simulated scenes alone")]
write_table(work, "scores_drawn_only", alone)
show(write_table(work, "scores_with_drawn", by_training))

# %% [markdown]
# *Table 12.4. Models with SPOT's bands by what they learnt from, on the references of each sensor. Compare the three
# models of one sensor with each other and with the floor, everything is cloud. The headline model is the best of four
# seeds on validation; the two others are single fits. Below five places no interval is given.*
#
# *Simulated scenes alone* is a model that never saw a real image in training. Where it is below *real scenes alone*,
# the simulation may lack something that matters; where it is above, real scenes may be too few, or the labels that
# processors gave them too poor. *Real and simulated scenes* above *real scenes alone* means that simulation adds
# what the real scenes lack. A model near *everything is cloud* shows no skill by F2.
#
# Intervals of single scores hold the difficulty of the places, which all models meet alike. The difference on the
# same places is the sharper comparison, so it decides. With fewer than five places there is no interval, and nothing
# is decided.

# %%
rows = []
headline, *rivals = models  # page 2 chose what the first one learns from
for sensor_id, part in counts.groupby("sensor", sort=False):
    part = part.assign(learnt_from=part.run.str.partition(": ")[0])
    for rival in rivals:
        pair = [part[part.learnt_from == name] for name in (headline, rival)]
        difference = paired(*pair, draws=draws, seed=seed)
        rows.append({"sensor": sensor_id, "minus": rival, **difference})

# %%
answer = "The models to compare are missing in this build: run page 3 first."
if rows:
    answer = steps.help_findings(enough_units(pd.DataFrame(rows)))
Markdown(answer)

# %% [markdown]
# Each line is F2 of the headline model minus F2 of the model of other scenes, on the same places. A positive
# difference speaks for what the headline model learnt from, a negative one for the other scenes. This is
# the best of four seeds on validation against single fits ({doc}`03_hyperopt_search`), and a difference that is
# smaller than the noise of a difference ({doc}`05_spot_transfer`) shows nothing.
#
# ## The tables of 2020, simulated
#
# The abstract of 2020 compares the network with Fmask and MAJA on Sentinel-2 and on SPOT. Neither processor runs on
# these images, so here is the same table on simulated scenes: Sentinel-2 scenes to train on, other places to score
# on, each seen by Sentinel-2, SPOT-4 and SPOT-5 on several dates, with SPOT's four bands everywhere. The methods are
# spectral tests and a multi-temporal test (they work on the principles of Fmask and of MAJA, and are not those
# processors), and the network without and with elevation. Elevation comes from a DEM, a digital elevation model, as
# one more input beside the bands. **Every number below is of simulated scenes.**

# %%
sets = {"CloudDL": spot, "CloudDL with a DEM": [*spot, ELEVATION]}
to_train = simulate.simulate_set("sentinel-2", places, seed=20_000 + seed, size=size, role="train")
fits = {}
for run, bands_used in sets.items():
    name = f"drawn-{len(bands_used)}"
    card = ModelCard(name=name, bands=bands_used, resolution=30.0, normalisation="log", seed=seed)
    cut = cut_chips(to_train.values(), bands=bands_used, sources=["truth"], size=size)
    chips, folder = Chips(cut.isel(source=0)), work_folder(work) / "runs" / name
    fits[run] = fit(card, chips, None, folder, Schedule(epochs, batch_size=8))

# %% [markdown]
# There is no validation set in these fits, so both networks use a threshold of one half.

# %%
rows = []
for sensor_id in ("sentinel-2", "spot-4", "spot-5"):
    scenes = simulate.simulate_set(sensor_id, tested, seed=30_000 + seed, size=size, days=days)
    found = {}
    for run, model in fits.items():
        probabilities = transfer.predictions(model, scenes)
        found[run] = {name: to_mask(p, 0.5) for name, p in probabilities.items()}
    images = {name: scene.reflectance.sel(band=spot) for name, scene in scenes.items()}
    found["spectral tests"] = {name: spectral_tests(image) for name, image in images.items()}
    found["multi-temporal test"] = steps.multi_temporal_masks(scenes, spot)
    found["everything is cloud"] = {n: all_cloud().mask(s) for n, s in scenes.items()}
    rows += [transfer.score_masks(m, scenes).assign(run=run) for run, m in found.items()]

# %% tags=["hide-input"]
counts = pd.concat(rows)
drawn_2020 = enough_units(pooled(counts, by=["sensor", "run"], draws=draws, seed=seed))
show(write_table(work, "drawn_2020", drawn_2020[columns].round(3)))

# %% [markdown]
# *Table 12.5. The methods of 2020 on simulated scenes. Compare the rows of one sensor: how far each method is above
# everything is cloud, and whether the network is ahead of the tests or behind them.*
#
# Then compare one method over the sensors: the network was trained on Sentinel-2 alone, so what it loses on SPOT, if
# anything, is the price of the transfer. The scenes are of the same kind as those trained on, which real images never
# are. So the scores flatter the network, and may be too high or too low for the tests, whose thresholds were made for
# real images.
#
# ## With minus without elevation
#
# Does elevation help? We take the difference in F2 over the same scenes, with an interval over places. An interval
# that holds zero shows no difference. Terrain with fewer than five places has no interval: there the points of
# Figure 12.8 are all that is known.

# %%
terrains = {"mountain": "mountain", "snow": "snow"}
counts["terrain"] = counts.biome.map(lambda biome: terrains.get(biome, "plain and hills"))
one, other = "CloudDL with a DEM", "CloudDL"
rows = []
for terrain, part in [("all", counts), *counts.groupby("terrain")]:
    pair = [part[part.run == run] for run in (one, other)]
    rows.append({"terrain": terrain, **paired(*pair, draws=draws, seed=seed)})
difference = enough_units(pd.DataFrame(rows).round(4))
show(write_table(work, "drawn_dem", difference))

# %% [markdown]
# *Table 12.6. F2 with elevation minus F2 without, by terrain, in points. Look for an interval without zero.*

# %%
steps.plot_place_differences(counts, one, other)

# %% [markdown]
# *Figure 12.8. F2 with elevation minus F2 without, a point for each simulated place that has cloud, by terrain. Points
# on both sides of the line say that elevation helps in some places and harms in others; a mean of two points is
# not evidence.*

# %% tags=["hide-input"]
dem = steps.elevation_finding(difference)
Markdown("\n\n".join([steps.bands_finding(bands), dem]))

# %% [markdown]
# **What we learnt.** These lines answer two questions for this run: how far simulated and real bands are apart, and
# what elevation adds. The list after Table 12.4 says what each kind of scene adds to the other in training. Table 12.2 and Figure 12.3 say
# where a network of others recognises our clouds and ground. What is still unlike: simulated clouds have no sides
# and no parallax, fields and streets are squares, seas have no waves, and the air is the same all over a scene. The
# network with a DEM is compared on simulated ground only, because no cloudy image with both hand-labelled masks and
# elevation could be had.
