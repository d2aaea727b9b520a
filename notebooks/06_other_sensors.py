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
# # 6. Other sensors
#
# **What you will see.** Which bands twelve sensors share with Sentinel-2; the models on sensors
# without short-wave infrared; two classical tests on the same references; three ways to bring a
# model to another sensor's bands; and small models trained on each of four sensors, scored on the
# other three.
#
# **Prerequisites.** Models of {doc}`03_hyperopt_search` (else those that ship). **Time.** Minutes.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
seed: int = 0  # of the small models, the bootstrap and the drawn places
draws: int = 2000  # of the bootstrap
places: int = 40  # drawn places to train each small model on
tested: int = 20  # drawn places to score on, other ones
size: int = 128  # pixels of 30 m, of one drawn place
epochs: int = 40  # passes of each small fit

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from clouddl import figures
from clouddl.chips import Chips, cut_chips
from clouddl.labels import spectral_tests, to_mask
from clouddl.mission.classical import multi_temporal_test, spectral_method
from clouddl.network import ModelCard
from clouddl.predict import predict_array
from clouddl.scenes import open_scene
from clouddl.score import paired, pooled
from clouddl.sensors import BAND_SETS, STUDY_BANDS, get_sensor, sensors, shared_bands
from clouddl.simulate import simulate_set
from clouddl.simulate.spectra import adjustment, band_average, surfaces
from clouddl.train import Schedule, fit
from clouddl.transfer import evaluate, model_method, open_scenes, processor_method
from clouddl_study import tables
from clouddl_study.corpora import open_corpus
from clouddl_study.workspace import results_folder, trained_model, work_folder, write_table

figures.style()

# %% [markdown]
# ## What the sensors share
#
# From the sensor cards. A model works from the bands it was made for, so the last column is the
# largest set of the study that a sensor can fill: `five` is all, `spot` is without blue, `pleiades`
# without short-wave infrared.

# %% tags=["hide-input"]
sentinel = get_sensor("sentinel-2")
rows = []
for card in sensors().values():
    own = {band.common for band in card.bands}
    fitting = [name for name, bands in BAND_SETS.items() if set(bands) <= own]
    rows.append(
        {
            "sensor": card.title,
            "bands shared with Sentinel-2": ", ".join(shared_bands(sentinel, card)),
            "of the five of the study it lacks": ", ".join(card.missing) or "none",
            "largest set of the study": fitting[0] if fitting else "none",
        }
    )
tables.show(write_table(work, "sensors_shared", pd.DataFrame(rows)))

# %% [markdown]
# A band of the same name is not the same band: responses differ in place and width. Where no curve
# comes with the package, a Gaussian or a box of the card's centre and width stands in.

# %% tags=["hide-input", "wide"]
chosen = ("sentinel-2", "spot-4", "spot-5", "landsat-8", "pleiades", "venus", "co3d")
responses = figures.sensor_responses([get_sensor(name) for name in chosen])
figures.save(responses, results_folder(work) / "sensor_responses.png")
responses

# %% [markdown]
# ## Without short-wave infrared
#
# Blue, green, red and near infrared are what Pléiades has. Real images with these bands and masks
# made by people are the On Cloud N chips of Sentinel-2, not Pléiades: surface reflectance, with
# generous outlines. Venµs and Pléiades themselves are **drawn**, the same places for both.

# %%
catalogue, store = open_corpus(corpus, mirror or None)
models = {name: trained_model(work, name) for name in (*BAND_SETS, "any")}
resolution = models["spot"].card.resolution
scenes = open_scenes(catalogue.select("reference"), store, resolution)
is_real = catalogue.name != "simulated"

# %%
short = BAND_SETS["pleiades"]
parts = {
    f"{get_sensor(name).title}, drawn": simulate_set(name, tested, seed=40_000 + seed, size=size)
    for name in ("venus", "pleiades")
}
if is_real:
    chips = {n: s for n, s in scenes.items() if s.attrs["collection"] == "oncloudn"}
    parts = {"oncloudn": chips, **parts}
else:
    print("The corpus is drawn: On Cloud N chips are left out.")
counted = []
for images, part in parts.items():
    methods = {
        f"CloudDL: {', '.join(short)}": model_method(models["pleiades"], short),
        f"CloudDL, one model for any bands: {', '.join(short)}": model_method(models["any"], short),
    }
    if images == "oncloudn":  # a processor made for real images has no say on simulated ones
        methods[f"ukis-csmask: {', '.join(short)}"] = processor_method(4)
    counted.append(evaluate(methods, part).counts.assign(images=images))
without_swir = pooled(pd.concat(counted), by=["images", "run"], draws=draws, seed=seed)

# %% tags=["hide-input"]
shown = ["run", "scenes", "f2", "f2_low", "f2_high", "f1", "precision", "recall"]
tables.show(write_table(work, "scores_without_swir", without_swir[["images", *shown]].round(3)))

# %% [markdown]
# PlanetScope has the same four bands. The labels that come with its chips are blocks of unknown
# origin, so nothing is scored: below are the pictures, with the mask of the model outlined and its
# share of cloud. A chip of 300 pixels of 3 m is no more than 30 pixels of the network's 30 m.

# %% tags=["hide-input", "wide"]
pictures = []
for record in catalogue.select("extra"):
    if record.sensor == "planetscope":
        chip, model = open_scene(record, store), models["pleiades"]
        found = predict_array(model, chip.reflectance, resolution=chip.attrs["resolution"])
        mask = to_mask(found, model.card.threshold)
        _, kind, season, number, *_ = record.id.split("_")
        title = f"{season} {number}, {kind}: {(mask == 1).mean():.0%}"
        pictures.append((title, chip.assign(mask=(("y", "x"), mask))))
if pictures:
    gallery = figures.gallery(pictures)
    figures.save(gallery, results_folder(work) / "planetscope.png")
else:
    print("The corpus is drawn: PlanetScope chips are left out.")
gallery if pictures else None

# %% [markdown]
# ## Two classical tests
#
# Spectral tests look at one date, a multi-temporal test at the rise since the last clear one: in the
# manner of the first pass of Fmask and of MAJA, with the published constants. They are not those
# processors. First the spectral tests, on every reference that has all five bands.

# %%
five, spot = list(STUDY_BANDS), BAND_SETS["spot"]
full = {n: s for n, s in scenes.items() if set(five) <= set(s.band.values.tolist())}
sets = {
    sensor: {n: s for n, s in full.items() if s.attrs["sensor"] == sensor}
    for sensor in dict.fromkeys(s.attrs["sensor"] for s in full.values())
}
methods = {}
for name, use in (("five", five), ("spot", spot)):
    methods[f"CloudDL: {', '.join(use)}"] = model_method(models[name], use)
    methods[f"spectral tests: {', '.join(use)}"] = spectral_method(use)
if is_real:
    methods["ukis-csmask: blue, green, red, nir"] = processor_method(4)
counts = pd.concat([evaluate(methods, part).counts for part in sets.values()])
tests = pooled(counts, by=["sensor", "run"], draws=draws, seed=seed)

# %% tags=["hide-input"]
tables.show(write_table(work, "scores_spectral_tests", tests[["sensor", *shown]].round(3)))

# %% [markdown]
# The multi-temporal test wants a series. The one series among the real images, dates of 2018 over
# one place in Italy, has no labels, so the table gives how far methods **agree**, not which is right.
# Several dates are overcast, most of them before May, which leaves little clear ground to compare
# with until then; and CloudDL was trained on this place.

# %% tags=["hide-input"]
italy = [s for s in catalogue.select("train") if s.collection == "sen12mscrts_italy"]
series = open_scenes(italy, store, resolution)
rows = []
if series:
    dates = [name.rpartition("_")[2] for name in series]
    cut = [s.reflectance.sel(band=five) for s in series.values()]
    network = {name: model_method(models["five"], five).mask(s) for name, s in series.items()}
    for name, date, image, mask in zip(
        series, dates, cut, multi_temporal_test(cut, dates), strict=True
    ):
        rise, alone, net = mask.values, spectral_tests(image), network[name]
        cloud = {"multi-temporal test": rise, "spectral tests": alone, "CloudDL": net}
        rows.append(
            {
                "date": date,
                **{f"cloud %, {method}": 100 * (m == 1).mean() for method, m in cloud.items()},
                "multi-temporal as CloudDL %": 100 * (rise == net).mean(),
                "spectral as CloudDL %": 100 * (alone == net).mean(),
                "without clear predecessor %": 100 * mask.attrs["without_predecessor"],
            }
        )
    agreement = pd.DataFrame(rows).round(1)
else:
    print("The corpus is drawn: the Italian series is left out.")
tables.show(write_table(work, "agreement_italy", agreement)) if series else None

# %% [markdown]
# ## Three ways to another sensor's bands
#
# Shared bands as they are; reflectances moved to Sentinel-2's bands before prediction; or one model
# for any subset of bands. Reflectances are moved by a linear regression per band, fitted on spectra of
# ground seen through both responses, without air or clouds. How far bands are apart, in reflectance
# (root mean square over those spectra), before and after:


# %% tags=["hide-input"]
def apart(sensor, use):
    """Root mean square (band) of the difference to Sentinel-2, every kind of surface alike."""
    kinds = surfaces().values()
    pairs = [(band_average(sensor, kind, use), band_average(sentinel, kind, use)) for kind in kinds]
    return np.sqrt(np.mean([((a - b) ** 2).mean(0) for a, b in pairs], axis=0))


rows = []
for name, use in (("landsat-5", five), ("landsat-8", five), ("spot-4", spot), ("spot-5", spot)):
    card = get_sensor(name)
    left = adjustment(card, sentinel, use)[2]
    rows += [
        {"sensor": card.title, "band": band, "as it is": before, "moved": after}
        for band, before, after in zip(use, apart(card, use), left, strict=True)
    ]
tables.show(write_table(work, "band_adjustment", pd.DataFrame(rows).round(4)))


# %%
def moved(scene, use):
    """The scene with the bands `use` of its sensor moved to Sentinel-2's."""
    matrix, offset, _ = adjustment(get_sensor(scene.attrs["sensor"]), sentinel, use)
    image = scene.reflectance.sel(band=use)
    values = np.tensordot(matrix, image.values, 1) + offset[:, None, None]
    cut = scene.sel(band=use)
    return cut.assign(reflectance=image.copy(data=values.astype(np.float32)))


ways = {"as it is": "CloudDL", "moved": "CloudDL, reflectances moved"}
ways["any"] = "CloudDL, one model for any bands"
counted = []
for sensor, part in sets.items():
    if sensor != "sentinel-2":
        for name, use in (("five", five), ("spot", spot)):
            plain, any_bands = model_method(models[name], use), model_method(models["any"], use)
            to_sentinel = {n: moved(s, use) for n, s in part.items()}
            tables_of = {
                "as it is": evaluate({"as it is": plain}, part).counts,
                "moved": evaluate({"moved": plain}, to_sentinel).counts,
                "any": evaluate({"any": any_bands}, part).counts,
            }
            counted += [
                table.assign(way=way, bands=", ".join(use), run=f"{ways[way]}: {', '.join(use)}")
                for way, table in tables_of.items()
            ]
three = pd.concat(counted)
adaptation = pooled(three, by=["sensor", "run"], draws=draws, seed=seed)

# %% tags=["hide-input"]
tables.show(write_table(work, "scores_band_adaptation", adaptation[["sensor", *shown]].round(3)))

# %% [markdown]
# Differences in F2 to the shared bands as they are, on the same scenes, drawn with replacement. An
# interval that holds zero is no difference shown; a sensor with one scene has none and is left out.

# %% tags=["hide-input"]
rows = []
for (sensor, use), part in three.groupby(["sensor", "bands"], sort=False):
    base = part[part.way == "as it is"]
    if base.group.nunique() > 1:
        for way in ("moved", "any"):
            found = paired(part[part.way == way], base, draws=draws, seed=seed)
            rows.append({"sensor": sensor, "run": f"{ways[way]}: {use}", **found})
tables.show(write_table(work, "difference_band_adaptation", pd.DataFrame(rows).round(4)))

# %% [markdown]
# ## Trained on one sensor, scored on another
#
# With real images only a few pairs can be had: Sentinel-2 to train on, and the references. **Drawn**
# scenes give all of them. Four small models see the same places through four sensors, with SPOT's
# four bands; other places, again the same for all, are scored. Thresholds are 0.5.

# %%
names = {
    "sentinel-2": "Sentinel-2",
    "landsat-8": "Landsat 8",
    "spot-4": "SPOT-4",
    "spot-5": "SPOT-5",
}
small = {}
for sensor in names:
    drawn = simulate_set(sensor, places, seed=50_000 + seed, size=size, role="train").values()
    chips = Chips(cut_chips(drawn, bands=spot, sources=["truth"], size=size).isel(source=0))
    blank = ModelCard(
        name=f"{sensor}-drawn",
        bands=spot,
        resolution=30.0,
        normalisation="log",
        seed=seed,
    )
    folder = work_folder(work) / "runs" / blank.name
    small[sensor] = fit(blank, chips, None, folder, Schedule(epochs, batch_size=8))

# %%
counted = []
for test in names:
    part = simulate_set(test, tested, seed=60_000 + seed, size=size)
    methods = {train: model_method(model, spot) for train, model in small.items()}
    counted.append(evaluate(methods, part).counts.assign(test=test))
pairs = pd.concat(counted).rename(columns={"run": "train"})
matrix = pooled(pairs, by=["train", "test"], draws=draws, seed=seed)
study = tests[tests.run == f"CloudDL: {', '.join(spot)}"]  # of the shipped or trained model
study = study.assign(train="sentinel-2", test=study.sensor)

# %% tags=["hide-input"]
blocks = {
    "small models, drawn scenes": matrix,
    f"model of the study, {catalogue.name} references": study,
}
both = pd.concat([block.assign(images=title) for title, block in blocks.items()])
told = {**names, "landsat-5": "Landsat 5"}
both["trained on"], both["scored on"] = both.train.map(told), both.test.map(told)
columns = ["images", "trained on", "scored on", *shown[1:]]
tables.show(write_table(work, "sensor_matrix", both[columns].round(3)))

# %% tags=["hide-input", "wide"]
figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=[4, 3])
low, high = both.f2.min(), both.f2.max()
for axis, (title, block) in zip(axes, blocks.items(), strict=True):
    grid = block.pivot(index="train", columns="test", values="f2")
    grid = grid.reindex(
        index=[n for n in told if n in grid.index], columns=[n for n in told if n in grid.columns]
    )
    axis.imshow(grid, cmap="cividis", vmin=low, vmax=high)
    for (row, column), value in np.ndenumerate(grid.to_numpy()):
        ink = "black" if value > (low + high) / 2 else "white"
        axis.text(column, row, f"{value:.1%}", ha="center", va="center", color=ink)
    axis.set_xticks(range(len(grid.columns)), [told[n] for n in grid.columns])
    axis.set_yticks(range(len(grid.index)), [told[n] for n in grid.index])
    axis.set(xlabel="scored on", ylabel="trained on", title=f"F2, {title}")
    axis.grid(False)
figures.save(figure, results_folder(work) / "sensor_matrix.png")
plt.close(figure)
figure

# %% [markdown]
# Each column against its diagonal: the difference in F2 to the model trained on the very sensor that
# is scored. The intervals are over places; that another fit of the same kind would differ too is not
# in them.

# %% tags=["hide-input"]
rows = []
for test, part in pairs.groupby("test", sort=False):
    own = part[part.train == test]
    for train in names:
        if train != test:
            found = paired(part[part.train == train], own, draws=draws, seed=seed)
            rows.append({"scored on": names[test], "trained on": names[train], **found})
tables.show(write_table(work, "difference_sensor_matrix", pd.DataFrame(rows).round(4)))

# %% [markdown]
# **What we learnt.** Bands of one name differ by the reflectances of the adjustment table, and the
# tables below it say what moving them is worth in F2 on real references, where clouds, which the
# adjustment never saw, are what counts. The matrix asks the question of 2020 between all pairs, but
# of drawn scenes: it holds what responses, blur and noise do, and not what a real sensor does besides.
# A sensor of your own goes the same way in {doc}`11_new_sensor`.
