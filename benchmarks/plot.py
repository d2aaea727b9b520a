"""The plot of book/speed.md."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure


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
