"""The verdicts on the claims of 2020 follow the tables of a run."""

from pathlib import Path

import pandas as pd
import pytest

from clouddl_study import claims

RESULTS = Path(__file__).parents[1] / "book" / "results"


def verdicts(results: Path) -> dict[str, str]:
    rows = [line.split(" | ") for line in claims.claims_map(results).splitlines()[2:]]
    return {row[0].removeprefix("| "): row[3].strip("*") for row in rows}


def test_every_claim_has_a_verdict_in_the_committed_results() -> None:
    found = verdicts(RESULTS)
    assert len(found) == len(claims.CLAIMS) and claims.ABSENT[0] not in found.values()
    # Written whenever the tables are, and shown on a page.
    assert (RESULTS / "claims.md").read_text("utf-8") == claims.claims_map(RESULTS)


def test_a_build_without_the_tables_says_so(tmp_path: Path) -> None:
    assert set(verdicts(tmp_path).values()) == {claims.ABSENT[0]}


@pytest.mark.parametrize(
    ("low", "high", "units", "verdict"),
    [
        (0.01, 0.02, 30, "holds, in simulation"),
        (-0.01, 0.02, 30, "not shown"),
        (-0.02, -0.01, 30, "not so, in simulation"),
        (0.01, 0.02, 4, "not shown"),
    ],
)
def test_the_interval_decides_on_elevation(
    low: float, high: float, units: int, verdict: str, tmp_path: Path
) -> None:
    row = {"terrain": "all", "difference": 0.01, "low": low, "high": high, "units": units}
    pd.DataFrame([row]).to_csv(tmp_path / "drawn_dem.csv", index=False)
    assert verdicts(tmp_path)["a DEM helps"] == verdict


@pytest.mark.parametrize(
    ("ours", "tests", "verdict"),
    [
        (0.9, 0.8, "holds"),
        (0.9, 0.895, "in part"),  # ahead by less than the seeds
        (0.9, 0.95, "in part"),
        (0.6, 0.5, "not shown"),
    ],
)
def test_transfer_is_held_against_the_floor_and_the_tests(
    ours: float, tests: float, verdict: str, tmp_path: Path
) -> None:
    bands = "green, red, nir, swir16"
    f2 = {"CloudDL, real scenes alone": ours, "spectral tests": tests}
    rows = [
        {"sensor": sensor, "run": run, "f2": value}
        for sensor in ("landsat-5", "landsat-8")
        for run, value in [
            *((f"{run}: {bands}", value) for run, value in f2.items()),
            ("spectral tests: blue, green, red, nir", 0.99),
            ("everything is cloud", 0.7),
            ("ukis-csmask: blue, green, red, nir", 0.95),
        ]
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "scores_transfer.csv", index=False)
    seeds = [
        {"sensor": sensor, "f2": f2} for sensor in ("landsat-5", "landsat-8") for f2 in (0.9, 0.91)
    ]
    pd.DataFrame(seeds).to_csv(tmp_path / "seeds_transfer.csv", index=False)
    found = verdicts(tmp_path)
    assert (
        found["what is learnt on Sentinel-2 serves a sensor never seen, by shared bands"] == verdict
    )
