"""What became of each claim of 2020, worded from the tables of a run."""

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pandas as pd

from clouddl_study.tables import (
    ALL_CLOUD,
    FEWEST_UNITS,
    NOISE,
    markdown,
    percent,
    points,
    title_of,
)

Verdict = tuple[str, str]  # in a word or two, and what it rests on
ABSENT: Verdict = ("not in this build", "the tables it rests on are missing")
METHOD_2020 = "CloudDL, real scenes alone"  # real scenes with masks of processors
RADIOMETRIC = ("gain", "offset", "noise", "striping", "saturation", "haze")
GEOMETRIC = ("blur", "resolution", "misregistration", "rotation")
FEWEST_TRIALS = 10  # of a search from which a verdict is drawn


def claims_map(results: Path) -> str:
    """Word the map of claims from the tables of a run.

    Args:
        results: Folder of its tables; a claim whose tables it lacks is marked so.

    Returns:
        A table in Markdown. Its links lead from a page of text of the book.
    """
    rows = [("claim of 2020", "where it is tried", "on", "verdict of this run", "it rests on")]
    for claim, where, images, judge in CLAIMS:
        try:
            verdict, reason = judge(results)
        except (FileNotFoundError, KeyError, IndexError):
            verdict, reason = ABSENT
        rows.append((claim, where, images, f"**{verdict}**", reason))
    return markdown(rows)


def _graded(flags: Iterable[bool], if_all: str, if_some: str, if_none: str) -> str:
    """The verdict on several cases."""
    flags = list(flags)
    if all(flags):
        return if_all
    return if_some if any(flags) else if_none


def _f2(results: Path, table: str, images: str) -> pd.Series:
    """F2 of each method with SPOT's bands, or of those without any, on a set of images."""
    scores = pd.read_csv(results / f"{table}.csv")
    scores = scores[scores.iloc[:, 0] == images]
    method, _, bands = scores.run.str.partition(": ").to_numpy().T
    ours = pd.Series(bands, scores.index).isin(["", "green, red, nir, swir16"])
    ours |= scores.run.str.startswith("ukis-csmask")
    return scores.f2.set_axis(method)[ours.to_numpy()]


def _labels_of_processors(results: Path) -> Verdict:
    f2 = _f2(results, "scores_sentinel2", "ukis_sentinel2")
    ours = f2[METHOD_2020]
    others = [ALL_CLOUD, "spectral tests", "ukis-csmask"]
    beaten = [name for name in others if ours > f2[name]]
    verdict = "holds on one patch" if "spectral tests" in beaten else "not shown, on one patch"
    said = ", ".join(f"{name} {percent(f2[name])}" for name in others)
    return verdict, (
        f"{{numref}}`tab-sentinel2`: F2 of real scenes alone {percent(ours)}; {said}. One of our "
        "processors had itself learnt from hand-labelled masks"
    )


def _transfer(results: Path) -> Verdict:
    sensors = ("landsat-5", "landsat-8")
    seeds = pd.read_csv(results / "seeds_transfer.csv").groupby("sensor").f2.std()
    above_floor, above_tests, said = [], [], []
    for sensor in sensors:
        f2 = _f2(results, "scores_transfer", sensor)
        least = f2[METHOD_2020] - 2 * seeds[sensor]  # one fit, against methods without seeds
        above_floor.append(least > f2[ALL_CLOUD])
        above_tests.append(least > f2["spectral tests"])
        said.append(
            f"{title_of(sensor)} {percent(f2[METHOD_2020])}, everything is cloud "
            f"{percent(f2[ALL_CLOUD])}, spectral tests {percent(f2['spectral tests'])}"
        )
    verdict = "not shown"
    if all(above_floor):
        verdict = "holds" if all(above_tests) else "in part"
    return verdict, (
        f"{{numref}}`tab-transfer`: F2 of real scenes alone on {'; on '.join(said)}. A lead counts "
        "if it is more than two standard deviations of the seeds ({numref}`tab-seeds`)"
    )


def _elevation(results: Path) -> Verdict:
    table = pd.read_csv(results / "drawn_dem.csv").set_index("terrain")
    row = table.loc["all"]
    interval = f"{points(row.low)} to {points(row.high)}"
    verdict = "not shown"
    if row.units >= FEWEST_UNITS and row.low > 0:
        verdict = "holds, in simulation"
    elif row.units >= FEWEST_UNITS and row.high < 0:
        verdict = "not so, in simulation"
    return verdict, (
        f"{{numref}}`tab-drawn-dem`: {points(row.difference)} points of F2 with elevation, "
        f"interval over places {interval}"
    )


def _robust(results: Path, degradations: tuple[str, ...]) -> Verdict:
    table = pd.read_csv(results / "robustness_breaks.csv", dtype=str).set_index("degradation")
    cells = table[table.index.str.startswith(degradations)].stack()
    cells = cells[cells != "–"]
    borne = cells.str.startswith("not by")
    verdict = _graded(borne, "holds", "in part", "not so")
    unbroken = borne.groupby(level=0).all()
    names = "; ".join(name.partition(" (")[0] for name in unbroken.index[unbroken])
    return verdict, (
        f"Table 10.2 of the page: in {borne.sum()} of {len(cells)} cases, each a degradation on a "
        f"set, no level breaks it. On all sets alike it bears: {names or 'none of them'}"
    )


def _search(results: Path) -> Verdict:
    trials = pd.read_csv(results / "all_trials.csv").val_f2
    fits = pd.read_csv(results / "final_models.csv").set_index("model")["validation F2"]
    seeds = fits[fits.index.str.startswith("spot-seed-")]
    alike = int((trials >= trials.max() - NOISE * seeds.std()).sum())
    verdict = "not shown" if alike > 1 else "a best one was found"
    if len(trials) < FEWEST_TRIALS:
        verdict = "open: too few trials"
    return verdict, (
        f"{{numref}}`tab-trials`: {alike} of {len(trials)} trials lie within the noise of "
        f"a difference ({NOISE:.1f} standard deviations of the seeds) of the best one, itself "
        "counted. The settings of the final models are those {doc}`protocol` tells of"
    )


def _refined(results: Path) -> Verdict:
    scores = pd.read_csv(results / "scores_adaptation.csv").f2
    life = pd.read_csv(results / "life_refinement.csv")
    life = life[life.way == "refined"].sort_values("labelled scenes")
    gains = {"Landsat 8 (page 5)": scores.iloc[-1] - scores.iloc[0]}
    for newcomer, rows in life.groupby("of", sort=False):
        gains[f"{title_of(newcomer)} (page 11)"] = rows.f2.iloc[-1] - rows.f2.iloc[0]
    up = [gain > 0 for gain in gains.values()]
    verdict = _graded(up, "more F2 each time, by single fits", "open", "not shown")
    said = ", ".join(f"{where} {points(gain)}" for where, gain in gains.items())
    return verdict, (
        f"points of F2 gained with the most labels tried, one seed each: {said}; "
        "{numref}`tab-adaptation`, Figure 11.1; page 5 has the interval of the first"
    )


def _gate(results: Path) -> Verdict:
    table = pd.read_csv(results / "life_gate.csv", dtype=str)
    failed = table[table.gate == "FAILED"]
    mended = failed["F2 after training again"].str.endswith("passed").sum()
    verdict = "as meant, in simulation" if len(failed) and mended == len(failed) else "open"
    return verdict, (
        f"Table 11.4 of the page: of {len(table)} years the test fails {len(failed)}, and passes "
        f"after training again in {mended} of these"
    )


CLAIMS: list[tuple[str, str, str, Callable[[Path], Verdict]]] = [
    (
        "masks of processors are enough to learn from",
        "{doc}`notebooks/02_training`, {doc}`notebooks/04_sentinel2_validation`",
        "real images",
        _labels_of_processors,
    ),
    (
        "what is learnt on Sentinel-2 serves a sensor never seen, by shared bands",
        "{doc}`notebooks/05_spot_transfer`",
        "real Landsat 5 and 8, which stand in for SPOT",
        _transfer,
    ),
    (
        "a DEM helps",
        "{doc}`notebooks/12_simulated_scenes`",
        "simulated scenes alone",
        _elevation,
    ),
    (
        "robust to radiometric quality",
        "{doc}`notebooks/10_robustness`",
        "real Sentinel-2, Landsat 5 and 8, simulated SPOT-5",
        partial(_robust, degradations=RADIOMETRIC),
    ),
    (
        "robust to geometric quality",
        "{doc}`notebooks/10_robustness`",
        "as above",
        partial(_robust, degradations=GEOMETRIC),
    ),
    (
        "HyperOpt finds the network",
        "{doc}`notebooks/03_hyperopt_search`",
        "validation",
        _search,
    ),
    (
        "a coarse model before flight, refined with the first images",
        "{doc}`notebooks/05_spot_transfer`, {doc}`notebooks/11_new_sensor`",
        "a simulated sensor, and Landsat 8",
        _refined,
    ),
    (
        "regular quality tests keep it honest",
        "{doc}`notebooks/11_new_sensor`",
        "a simulated sensor that ages",
        _gate,
    ),
]
