"""The plots of book/speed.md."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

SCORED = {  # which method of the tables of scores a contender is
    "CloudDL": "CloudDL, one model for any bands: blue, green, red, nir, swir16",
    "ukis-csmask, OpenVINO": "ukis-csmask: blue, green, red, nir",
    "spectral tests": "spectral tests: green, red, nir, swir16",
}


def bars(seconds: Mapping[str, Mapping[str, float]], pixels: int) -> Figure:
    """Mpixel/s of each contender, log-scaled, with a line from its slowest to its fastest run."""
    order = sorted(seconds, key=lambda name: -seconds[name]["seconds"])
    figure, axis = plt.subplots(figsize=(7, 0.4 * len(order) + 1))
    for row, name in enumerate(order):
        middle, low, high = (
            pixels / seconds[name][key] / 1e6 for key in ("seconds", "slowest", "fastest")
        )
        axis.barh(row, middle, color="C0" if name.startswith("CloudDL") else "C7")
        axis.plot([low, high], [row, row], color="black", linewidth=1)
        axis.annotate(f" {middle:.3g}", (high, row), va="center")
    axis.set(xscale="log", yticks=range(len(order)), yticklabels=order,
             xlabel="array to mask, Mpixel/s (log scale)")  # fmt: skip
    axis.margins(x=0.15)
    return figure


def curves(waits: pd.DataFrame) -> Figure:
    """Seconds of whole commands against the size of the file, both log-scaled, from waits.csv."""
    figure, axis = plt.subplots(figsize=(7, 4.5))
    groups = waits.groupby(["System", "Pixels (m)"])
    for number, ((system, metres), runs) in enumerate(groups):
        label = f"{system}, pixels of {metres} m" if system == "CloudDL" else system
        axis.plot(runs["Pixels a side"], runs["Seconds"], f"-{'os^Dv'[number]}", label=label)
    sizes = sorted(set(waits["Pixels a side"]))
    axis.set(xscale="log", yscale="log", xticks=sizes, xticklabels=sizes)
    low, high = axis.get_ylim()
    seconds = [tick for tick in (1, 2, 5, 10, 20, 50, 100) if low < tick < high]
    axis.set(yticks=seconds, yticklabels=seconds)
    axis.set(xlabel="pixels a side of the file", ylabel="seconds until the last file is there")
    axis.minorticks_off()
    axis.legend()
    return figure


def f2_by_speed(speeds: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """F2 on each set of references against speed, from prediction.csv and tables of scores."""
    fast = pd.to_numeric(speeds.set_index("System")["Mpixel/s"], errors="coerce").dropna()
    sets = dict(list(scores.groupby("set")))
    figure, panels = plt.subplots(1, len(sets), figsize=(9, 3.4), sharey=True)
    for panel, (name, rows) in zip(panels, sets.items(), strict=True):
        f2 = 100 * rows.set_index("run").f2
        for number, (system, run) in enumerate(SCORED.items()):
            if run in f2 and system in fast:  # packages may be absent
                label = system.partition(",")[0]
                panel.plot(fast[system], f2[run], "os^"[number], label=label)
        panel.set(xscale="log", title=name, xlabel="array to mask, Mpixel/s")
        panel.margins(0.2)
    panels[0].set_ylabel("F2 %")
    panels[0].legend(fontsize=8)
    return figure
