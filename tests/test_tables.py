"""Tables as readers see them."""

import numpy as np
import pandas as pd
import pytest

from clouddl_study import tables

NAN = float("nan")


def scores() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "set": ["ukis_sentinel2", "landsat-8, not seen in adapting"],
            "run": ["CloudDL: green, nir, swir16", "ukis-csmask: blue"],
            "scenes": [1, 14],
            "f2": [0.9444, 0.9],
            "f2_low": [NAN, 0.717],
            "f2_high": [NAN, 1.0],
            "recall": [0.5, 1.0],
        }
    )


def test_scores_are_shown_in_per_cent_with_their_interval_in_one_column() -> None:
    shown = tables.readable(scores()).to_dict("list")
    assert shown == {
        "Images": ["Sentinel-2, ukis-csmask set", "Landsat 8, not seen in adapting"],
        "Bands": ["green, NIR, SWIR", "blue"],
        "Method": ["CloudDL", "ukis-csmask"],
        "Scenes": ["1", "14"],
        "F2 % [95 % interval]": ["94.4", "90.0 [71.7–100.0]"],
        "Recall %": ["50.0", "100.0"],
    }


def test_a_score_without_cloud_to_find_is_not_shown_as_zero() -> None:
    table = scores().assign(recall=[NAN, 0.0], biome=["GrassCrops", "Water"])
    shown = tables.readable(table)
    assert shown["F2 % [95 % interval]"].tolist() == ["–", "90.0 [71.7–100.0]"]
    assert shown["Recall %"].tolist() == ["–", "0.0"]
    assert shown["Surface"].tolist() == ["Grass, Crops", "Water"]


def test_the_name_of_an_instrument_stays_whole() -> None:
    shown = tables.readable(pd.DataFrame({"sensor": ["Pléiades HiRI"]}))
    assert shown.Sensor.tolist() == ["Pléiades HiRI"]


def test_other_tables_keep_their_numbers() -> None:
    table = pd.DataFrame({"trial": [3.0, 0.0], "learning_rate": [0.0067, NAN], "val_f2": [1, 0.5]})
    assert tables.readable(table).to_dict("list") == {
        "Trial": ["3", "0"],
        "Learning rate": ["0.0067", "–"],
        "Validation F2 %": ["100.0", "50.0"],
    }


def test_a_notebook_shows_every_word_and_no_row_numbers() -> None:
    long = "CloudDL, one model for any bands: " + "blue, green, red, nir, swir16"
    html = tables.show(scores().assign(run=long)).data
    assert "blue, green, red, NIR, SWIR</td>" in html
    assert "<th>0</th>" not in html


def test_differences_are_shown_in_points_and_only_they() -> None:
    row = {
        "sensor": ["landsat-8"],
        "difference": [-0.0708],
        "low": [NAN],
        "high": [0.0],
        "units": [3],
    }
    assert tables.readable(pd.DataFrame(row)).to_dict("list") == {
        "Sensor": ["Landsat 8"],
        "Difference, points": ["−7.1"],
        "95 % from": ["–"],
        "to": ["+0.0"],
        "Scenes or places": ["3"],
    }
    other = pd.DataFrame({"low": [0.5]})
    assert tables.readable(other).to_dict("list") == {"95 % from": ["0.5"]}


def test_images_are_named_as_people_do() -> None:
    names = ["l8_SnowIce_11_1123", "italy_2018-11-12_p162", "oncloudn_4", "simulated_sea_ice_train"]
    assert [tables.title_of(name) for name in names] == [
        "Landsat 8 Snow, Ice 11 1123",
        "Italy 2018-11-12, patch 162",
        "Sentinel-2, On Cloud N 4",
        "simulated sea ice",
    ]


def test_numbers_have_a_minus_sign_and_names_and_dates_keep_their_hyphen() -> None:
    table = pd.DataFrame(
        {
            "offset": [-0.5, 2.0],
            "within": ["[-3.1 to +2.0]", "(-1.0 to -0.5)"],
            "seed": ["spot-seed-0", "2018-11-12"],
            "val_f2": [-0.1, 0.5],
        }
    )
    assert tables.readable(table).to_dict("list") == {
        "Offset": ["−0.5", "2"],
        "Within": ["[−3.1 to +2.0]", "(−1.0 to −0.5)"],
        "Seed": ["spot-seed-0", "2018-11-12"],
        "Validation F2 %": ["−10.0", "50.0"],
    }


def test_a_table_of_differences_is_marked_so_that_its_methods_have_room() -> None:
    table = pd.DataFrame({"images": ["landsat-8"], "CloudDL minus": ["spectral tests: red"]})
    assert 'class="dataframe scores minus"' in tables.show(table).data
    more = table.assign(**{"CloudDL with": "red"})
    assert 'class="dataframe scores runs minus"' in tables.show(more).data


@pytest.mark.parametrize("difference", [-0.0005, np.float64(-0.0005)])
def test_half_a_tenth_of_a_point_is_rounded_in_one_way(difference: float) -> None:
    assert tables.points(difference) == "\N{MINUS SIGN}0.1"
