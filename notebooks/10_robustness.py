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
# # 10. How much harm a model bears
#
# **What you will see.** The model of SPOT's bands on references that are harmed by known amounts: badly
# calibrated, noisy, striped, saturated, hazy, blurred, coarser, misregistered, turned. Where F2 breaks.
#
# **Prerequisites.** Models of {doc}`03_hyperopt_search` (else those that ship). **Time.** Minutes.

# %% tags=["parameters"]
corpus: str = "auto"  # real, simulated, or auto: real where it can be had
mirror: str = ""  # folder that holds the real images, instead of the network
work: str = "build/work"  # where chips, models and tables go
seed: int = 0  # of noise, stripes and shifts, and of the drawn places
most: int = 20  # references of one sensor, at the most
places: int = 20  # drawn places
size: int = 128  # pixels of 30 m, of one drawn place
every: int = 1  # of the levels below, counted from the worst, each n-th is run
drop: float = 0.02  # loss of F2 from which on a model counts as broken

# %% tags=["hide-input"]
import matplotlib.pyplot as plt
import pandas as pd

from clouddl import figures
from clouddl.mission.degrade import robustness
from clouddl.sensors import BAND_SETS
from clouddl.simulate import simulate_set
from clouddl.transfer import open_scenes
from clouddl_study import tables
from clouddl_study.corpora import open_corpus
from clouddl_study.workspace import results_folder, trained_model, write_table

figures.style()

# %% [markdown]
# ## The harm
#
# Each degradation has a level that does no harm, and others on one or both sides of it. Pixels are
# those of the scene, 30 m. Turned by other than quarters, a scene loses its corners: they are not
# scored, so a little of that curve is other ground.

# %%
LEVELS = {  # name: (what a level is, the harmless one, all of them)
    "gain": ("share", 0, [-0.4, -0.2, -0.1, 0, 0.1, 0.2, 0.4]),
    "offset": ("reflectance", 0, [-0.1, -0.05, -0.02, 0, 0.02, 0.05, 0.1]),
    "noise": ("reflectance", 0, [0, 0.01, 0.02, 0.05, 0.1, 0.2]),
    "striping": ("share", 0, [0, 0.02, 0.05, 0.1, 0.2, 0.4]),
    "saturation": ("reflectance", 2.0, [2.0, 0.8, 0.6, 0.4, 0.3, 0.2]),
    "haze": ("reflectance at 0.49 µm", 0, [0, 0.02, 0.05, 0.1, 0.2, 0.4]),
    "blur": ("pixels", 0, [0, 0.5, 1, 2, 4]),
    "resolution": ("m", 30, [5, 10, 20, 30, 60, 90, 120]),
    "misregistration": ("pixels", 0, [0, 0.5, 1, 2, 4]),
    "rotation": ("degrees", 0, [0, 15, 30, 45, 90, 180]),
}

# %% [markdown]
# ## The scenes
#
# References that have SPOT's bands, a set for each sensor, and **drawn** SPOT-5 scenes. The references
# have pixels of 30 m and cannot be made finer. Scenes drawn at 5 m, half as wide, stand for finer
# pixels: `clouddl predict` brings them to 30 m for the network, and its mask back to theirs.

# %%
catalogue, store = open_corpus(corpus, mirror or None)
model, spot = trained_model(work, "spot"), BAND_SETS["spot"]
scenes = open_scenes(catalogue.select("reference"), store, model.card.resolution)
usable = {n: s for n, s in scenes.items() if set(spot) <= set(s.band.values.tolist())}
if catalogue.name == "simulated":
    print("The corpus is drawn: there are no real references below.")
sets = {}
for sensor in dict.fromkeys(s.attrs["sensor"] for s in usable.values()):
    ids = [n for n, s in usable.items() if s.attrs["sensor"] == sensor]
    spread = ids[:: -(-len(ids) // most)]  # over all surfaces, which are in order
    name = tables.readable(pd.DataFrame({"sensor": [sensor]})).iloc[0, 0]
    sets[f"{name}, {catalogue.name}"] = {n: usable[n] for n in spread}
sets["SPOT-5, drawn"] = simulate_set("spot-5", places, seed=70_000 + seed, size=size)
fine = simulate_set("spot-5", places, seed=70_000 + seed, size=3 * size, resolution=5.0)
about = [
    {
        "images": images,
        "scenes": len(part),
        "cloud": sum(int((s.mask == 1).sum()) for s in part.values())
        / sum(int((s.mask != 255).sum()) for s in part.values()),
    }
    for images, part in {**sets, "SPOT-5, drawn at 5 m": fine}.items()
]
tables.show(write_table(work, "robustness_scenes", pd.DataFrame(about)))

# %% [markdown]
# ## Curves
#
# F2 at the threshold chosen on undamaged Sentinel-2 validation scenes; shaded, the 95 % interval over
# scenes. A set of one scene has none.

# %%
counted = []
for degradation, (_, harmless, levels) in LEVELS.items():
    worst_first = enumerate(reversed(levels))
    chosen = [level for i, level in worst_first if i % every == 0 or level == harmless]
    for images, part in sets.items():
        if degradation == "resolution":
            part = fine if images == "SPOT-5, drawn" else part
            own = next(iter(part.values())).attrs["resolution"]
            use = [level for level in chosen if level >= own]
        else:
            use = chosen
        table = robustness(model, part, spot, degradation, sorted(use), seed=seed)
        counted.append(table.assign(images=images))
curves = write_table(work, "robustness", pd.concat(counted).round(4))

# %% tags=["hide-input", "wide"]
figure, axes = plt.subplots(4, 3, figsize=(10, 11), sharey=True)
for axis in axes.flat[len(LEVELS) :]:
    axis.axis("off")
for axis, (degradation, (unit, harmless, _)) in zip(axes.flat, LEVELS.items(), strict=False):
    found = curves[curves.degradation == degradation]
    for number, (images, table) in enumerate(found.groupby("images", sort=False)):
        colour, mark = f"C{number}", "osD^v"[number]
        axis.plot(table.level, table.f2, f"{mark}-", ms=4, color=colour, label=images)
        axis.fill_between(table.level, table.f2_low, table.f2_high, color=colour, alpha=0.15, lw=0)
    axis.axvline(harmless, color="grey", lw=1, ls="--")
    axis.set(title=degradation, xlabel=unit)
    if degradation == "saturation":  # the lower, the worse; no scene here holds more than 2
        axis.set_xscale("log")
        axis.set_xticks([0.2, 0.4, 0.8, 2.0], ["0.2", "0.4", "0.8", "none"])
        axis.minorticks_off()
        axis.invert_xaxis()
    if degradation == "resolution":
        axis.set_xscale("log")
        axis.set_xticks([5, 10, 30, 60, 120], ["5", "10", "30", "60", "120"])
        axis.minorticks_off()
for axis in axes[:, 0]:
    axis.set_ylabel("F2")
axes.flat[len(LEVELS)].legend(
    *axes.flat[0].get_legend_handles_labels(), loc="upper left", title="dashed: no harm"
)
figures.save(figure, results_folder(work) / "robustness.png")
plt.close(figure)
figure

# %% [markdown]
# ## Where it breaks
#
# The first level, going away from the harmless one, at which F2 is lower by more than 0.02 (`drop`)
# than without harm; "not by" names the farthest level, where there is none. The rule looks at the
# curve alone: with few scenes a curve crosses it by chance, and steps between levels are wide.


# %% tags=["hide-input"]
def breaks_at(side, before):
    lost = side[side.f2 < before - drop]
    return f"{lost.level.iloc[0]:g}" if len(lost) else f"not by {side.level.iloc[-1]:g}"


rows = {}
for (degradation, images), table in curves.groupby(["degradation", "images"], sort=False):
    unit, harmless, _ = LEVELS[degradation]
    before = table[table.level == harmless].f2.iloc[0]
    if degradation != "resolution":
        rows.setdefault("F2 without harm, %", {})[images] = f"{100 * before:.1f}"
    higher, lower = table[table.level > harmless], table[table.level < harmless][::-1]
    two_sided = degradation in ("gain", "offset", "resolution")
    for word, side in (("higher", higher), ("lower", lower)):
        if len(side):
            name = f"{degradation}, {word} ({unit})" if two_sided else f"{degradation} ({unit})"
            rows.setdefault(name, {})[images] = breaks_at(side, before)
broken = pd.DataFrame(rows).T.fillna("–").rename_axis("degradation").reset_index()
tables.show(write_table(work, "robustness_breaks", broken))

# %% [markdown]
# **What we learnt.** The last table says what calibration, noise and registration a sensor must keep for
# the model to do as well as on the images it is scored on. Harm is done here one kind at a time, to
# images that already have their own; and the drawn scenes are easier or harder than real ones by as
# much as the first row of the table tells.
