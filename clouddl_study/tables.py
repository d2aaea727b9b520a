"""Tables of results as the pages and the README show them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from IPython.display import HTML

# Columns that hold fractions and are shown in per cent, with their heads.
PERCENT = {
    "f2": "F2 %",
    "f1": "F1 %",
    "precision": "Precision %",
    "recall": "Recall %",
    "iou": "IoU %",
    "accuracy": "Accuracy %",
    "balanced_accuracy": "Balanced accuracy %",
    "cloud": "Cloud %",
    "floor": "F2 of everything is cloud, %",
    "labelled": "Labelled %",
    "cloud in labels": "Cloud in labels %",
    "F2, own labels": "F2 %, own labels",
    "F2, yardstick": "F2 %, yardstick",
    "real, agreed": "F2 %, real, agreed",
    "real, majority": "F2 %, real, majority",
    "simulated": "F2 %, simulated",
    "mean": "F2 %, mean",
    "val_f2": "Validation F2 %",
    "validation F2": "Validation F2 %",
    "F2": "F2 %",
    "F2 of best": "F2 of best, %",
    "F2 of worst": "F2 of worst, %",
    "clear called cloud": "Clear called cloud, %",
    "overcast missed": "Overcast missed, %",
    "demanded": "Demanded %",
    "F2 at the best threshold": "F2 at the best threshold, %",
}

# Columns of a table of differences between fractions, shown in points (hundredths).
POINTS = {"difference", "low", "high", "within from", "within to"}

# Columns of a table of scores. IoU follows from F1, and accuracy gives way to the balanced one.
SCORE_COLUMNS = ["f2", "f2_low", "f2_high", "f1", "balanced_accuracy", "mcc", "precision", "recall"]

# Heads that are not simply the name of the column with a capital.
HEADS = {
    "set": "Images",
    "biome": "Surface",
    "mcc": "MCC",
    "millions": "Million parameters",
    "low": "95 % from",
    "high": "to",
    "difference": "Difference, points",
    "units": "Scenes or places",
    "within from": "Within this patch, from",
    "within to": "within this patch, to",
    "1 - mean error on extremes": "1 − mean error on extremes",
}

# Regular expressions that turn names of sensors, images, collections, surfaces and bands into text.
NAMES = {
    r"^ukis_sentinel2": "Sentinel-2, ukis-csmask set",
    r"^ukis_landsat5": "Landsat 5, ukis-csmask set",
    r"^oncloudn_(?=\d)": "Sentinel-2, On Cloud N ",
    r"^oncloudn": "Sentinel-2, On Cloud N set",
    r"^(drawn|simulated)_sentinel2_reference": "Sentinel-2, simulated",
    r"^simulated_grounds": "simulated scenes",
    r"^(simulated_.*)_(train|validation)$": r"\1",
    r"^l8biome": "Landsat 8 Biome",
    r"^l8_(?=[A-Z])": "Landsat 8 ",
    r"^sen12mscrts_italy": "SEN12MS-CR-TS, Italy",
    r"^sen12mscr_": "SEN12MS-CR, ",
    r"^sen1floods11": "Sen1Floods11",
    r"^italy_": "Italy ",
    r"^aberystwyth": "Aberystwyth",
    r"^planetscope": "PlanetScope",
    r"^co3d\b": "CO3D",
    r"^landsat-": "Landsat ",
    r"^sentinel-": "Sentinel-",
    r"^spot-": "SPOT-",
    r"_p(?=\d+$)": ", patch ",
    r"^spectral-tests$": "spectral tests",
    r"\bnir\b": "NIR",
    r"\bswir16\b": "SWIR",
    r"\bswir22\b": "SWIR at 2.2 µm",
    r"(Grass|Snow)(?=[A-Z])": r"\1, ",
    r"_": " ",
}

NEGATIVE = r"(?<![\w.])-(?=\d)"  # the hyphen before a number, but not in a date or a name
DIGITS = {"mcc": ".3f"}  # of columns whose numbers stand below each other
ALL_CLOUD = "everything is cloud"  # the method that every other must be better than
FEWEST_UNITS = 5  # places from which on a bootstrap interval is shown
# Two fits that differ in their seed alone: their difference varies √2 times as much as one of them.
NOISE = 2 * 2**0.5  # standard deviations of the seeds; a smaller difference of two fits is none
# Columns in which NAMES are replaced.
NAMED = {"set", "images", "sensor", "biome", "collection", "region", "scene", "of", "labels"}
NAMED |= {"band", "bands", "works from", "lacks", "landscape", "parameter"}
NAMED |= {"CloudDL minus", "CloudDL with"}


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """Format a table for readers: per cent and points, intervals in one column, plain heads.

    A column `run` of the form "method: bands" becomes two columns. Undefined values become "–", and
    negative ones have a minus sign: such a table is to be read, not to be computed with.

    Args:
        table: Results; `<measure>_low` and `<measure>_high` are the ends of an interval.

    Returns:
        The same rows as text.
    """
    shown: dict[str, pd.Series] = {}
    for name, column in table.items():
        if name == "run":
            shown |= _method_and_bands(column)
        elif name in PERCENT:
            head, text = _percent(table, name)
            shown[head] = text
        elif not name.endswith(("_low", "_high")):
            head = HEADS.get(name, (name[:1].upper() + name[1:]).replace("_", " "))
            in_points = name in POINTS and "difference" in table
            shown[head] = column.map(points) if in_points else _text(column)
    return pd.DataFrame(shown).replace(NEGATIVE, "\N{MINUS SIGN}", regex=True)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Write a table in Markdown.

    Args:
        rows: The text of its cells; the first row has the heads.

    Returns:
        The table, a line a row.
    """
    head, *lines = [f"| {' | '.join(row)} |\n" for row in rows]
    rule = "|---" * len(rows[0]) + "|\n"
    return head + rule + "".join(lines)


def title_of(name: str) -> str:
    """Name a sensor, an image, a set of images or a run as tables do, such as "Landsat 8".

    Args:
        name: The name in the data.

    Returns:
        The name with `NAMES` replaced.
    """
    return str(pd.Series([name]).replace(NAMES, regex=True).iloc[0])


def percent(fraction: float) -> str:
    """Write a fraction in per cent, such as "86.2 %"; the space does not break.

    Args:
        fraction: From 0 to 1.
    """
    return f"{_per_cent(fraction)}\N{NO-BREAK SPACE}%"


def points(difference: float) -> str:
    """Write a difference between two fractions in points, that is in hundredths, with its sign.

    Args:
        difference: From -1 to 1.

    Returns:
        The text, "–" where it is undefined.
    """
    if pd.isna(difference):
        return "–"
    # NumPy rounds halves in another way than Python; + 0 turns -0 into 0.
    hundredths = round(100 * float(difference), 1) + 0
    return f"{hundredths:+.1f}".replace("-", "\N{MINUS SIGN}")


def enough_units(table: pd.DataFrame) -> pd.DataFrame:
    """Empty the intervals that rest on fewer than `FEWEST_UNITS` places.

    Args:
        table: Has `units`, and intervals in columns that end in "low" and "high".

    Returns:
        The same rows.
    """
    table = table.copy()
    ends = [name for name in table.columns if name.endswith(("low", "high"))]
    table.loc[table.units < FEWEST_UNITS, ends] = np.nan
    return table


def show(table: pd.DataFrame) -> HTML:
    """Show a table on a page, formatted by `readable`, without row numbers or cut text.

    Args:
        table: Results, as for `readable`.

    Returns:
        The table as HTML, in the classes that book/_static/custom.css styles.
    """
    classes = ["scores"]
    if {"run", "CloudDL with"} & set(table):
        classes.append("runs")
    if "CloudDL minus" in table:
        classes.append("minus")
    with pd.option_context("display.max_colwidth", None):
        return HTML(readable(table).to_html(index=False, classes=classes, justify="left"))


def _method_and_bands(runs: pd.Series) -> dict[str, pd.Series]:
    """Split "method: bands"; without any bands there is only the method."""
    parts = runs.str.partition(": ")
    columns = {"Method": parts[0]}
    if (parts[2] != "").any():
        columns = {"Bands": parts[2].replace(NAMES, regex=True), **columns}
    return columns


def _percent(table: pd.DataFrame, name: str) -> tuple[str, pd.Series]:
    """Head and text of a column of fractions, with its interval where the table has one."""
    head, text = PERCENT[name], table[name].map(_per_cent)
    if f"{name}_low" in table:
        ends = zip(table[f"{name}_low"], table[f"{name}_high"], strict=True)
        text += [_interval(low, high) for low, high in ends]
        head += " [95 % interval]"
    if name in ("f2", "f1") and "recall" in table:
        # Without any cloud in the reference recall is undefined, and these say nothing.
        text = text.where(table.recall.notna(), "–")
    return head, text


def _per_cent(fraction: float) -> str:
    return "–" if pd.isna(fraction) else f"{100 * fraction:.1f}"


def _interval(low: float, high: float) -> str:
    if pd.isna(low) or pd.isna(high):
        return ""
    return f" [{_per_cent(low)}–{_per_cent(high)}]"


def _text(column: pd.Series) -> pd.Series:
    """Numbers with as few digits as they need, names as text."""
    if pd.api.types.is_numeric_dtype(column):
        integers = (column.dropna() % 1 == 0).all()
        digits = ".0f" if integers else DIGITS.get(str(column.name), ".4g")
        # + 0 turns -0 into 0.
        return column.map(lambda value: "–" if pd.isna(value) else format(value + 0, digits))
    if column.name in NAMED:
        return column.replace(NAMES, regex=True)
    return column
