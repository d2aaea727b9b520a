"""The plot of book/speed.md."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
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
