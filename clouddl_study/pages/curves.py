"""Curves that pages 4 and 5 plot: precision against recall, and how far probabilities hold."""

from collections.abc import Mapping

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

Tables = Mapping[str, pd.DataFrame]

MARKERS = "oDs^vPX*"


def precision_recall_curves(curves: Tables, points: Mapping[str, tuple[float, float]]) -> Figure:
    """Plot precision against recall.

    Args:
        curves: Tables of `score.precision_recall`, by name.
        points: Recall and precision of masks in use, by name, in the order of their curves.

    Returns:
        The figure.
    """
    figure, axis = plt.subplots(figsize=(5.2, 4.6))
    for number, (name, table) in enumerate(curves.items()):
        axis.plot(table.recall, table.precision, color=f"C{number}", label=name)
    for number, (name, point) in enumerate(points.items()):
        marker = MARKERS[number % len(MARKERS)]
        axis.plot(*point, marker, ms=8, color=f"C{number}", mec="black", label=name)
    axis.set(xlabel="recall", ylabel="precision", xlim=(0, 1.005), ylim=(0, 1.005))
    axis.legend(fontsize=10)
    plt.close(figure)
    return figure


def reliability_diagram(tables: Tables) -> Figure:
    """Plot observed cloud against predicted probability; the diagonal is perfect calibration.

    Args:
        tables: Tables of `score.reliability`, by name.

    Returns:
        The figure.
    """
    figure, axis = plt.subplots(figsize=(4.8, 4.4))
    axis.plot([0, 1], [0, 1], color="grey", lw=1, ls="--")
    for name, table in tables.items():
        axis.plot(table.predicted, table.observed, "o-", label=name)
    axis.set(
        xlabel="predicted probability of cloud",
        ylabel="observed fraction of cloud",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    axis.legend(fontsize=10)
    plt.close(figure)
    return figure
