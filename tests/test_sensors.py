"""Sensor cards: complete, consistent, and clear about what is wrong in a user's card."""

from pathlib import Path

import numpy as np
import pytest

from clouddl.errors import InputError
from clouddl.figures import sensor_responses
from clouddl.sensors import CARDS, STUDY_BANDS, get_sensor, middle, sensors, shared_bands
from clouddl.simulate.spectra import GRID, response

CARD = """
id: mine
title: My sensor
operator: me
launched: "2030"
bands:
  - {common: green, native: G, centre_um: 0.56, width_um: 0.1, gsd_m: 5}
  - {common: red, native: R, centre_um: 0.66, width_um: 0.1, gsd_m: 5}
missing: [blue, nir, swir16]
note: test
sources: [made up]
"""


def test_every_card_is_read_under_its_file_name():
    assert set(sensors()) == {path.stem for path in CARDS.glob("*.yaml")}
    for name, card in sensors().items():
        assert card.id == name and card.sources
        assert set(card.missing) == set(STUDY_BANDS) - {band.common for band in card.bands}


def test_cards_cover_the_sensors_of_the_study():
    named = {"sentinel-2", "spot-4", "spot-5", "pleiades", "venus", "co3d", "microcarb"}
    others = {"landsat-5", "landsat-7", "landsat-8", "landsat-9", "planetscope"}
    others |= {"pleiades-neo", "spot-6", "spot-7"}
    assert set(sensors()) == named | others
    assert {name for name, card in sensors().items() if card.has_open_figures} == {
        "co3d",
        "microcarb",
    }
    assert all(card.local_time for card in sensors().values())


@pytest.mark.parametrize("name", [path.stem for path in CARDS.glob("*.yaml")])
def test_every_reflective_band_has_the_response_its_card_promises(name):
    for band in get_sensor(name).middle().bands:
        if band.common.startswith("lwir"):
            assert band.response != "published"
            continue
        weights = response(band, name)
        assert weights.sum() == pytest.approx(1) and (weights >= 0).all()
        # Published curves lie where the nominal figures say; SPOT's SWIR 35 nm below its edges'.
        assert weights @ GRID == pytest.approx(middle(band.centre_um), abs=0.04)


def test_an_open_card_is_closed_by_a_seed_or_by_its_middle():
    card = get_sensor("microcarb")
    simulated = [card.sample(seed) for seed in (1, 1, 2)]
    assert simulated[0] == simulated[1] != simulated[2]
    for one in simulated:
        assert not one.has_open_figures
        for band, given in zip(one.bands, card.bands, strict=True):
            for field, (low, high) in given.ranges.items():
                assert low < getattr(band, field) < high
    assert card.middle().band("red").centre_um == pytest.approx(0.635)
    assert card.middle().band("swir16") == card.band("swir16")


def test_a_closed_card_stays_itself():
    card = get_sensor("spot-4")
    assert card.sample(1) is card and card.middle() is card and not card.has_open_figures


def test_open_cards_share_bands_in_order():
    assert shared_bands(get_sensor("co3d"), get_sensor("sentinel-2")) == ["blue", "green", "red",
                                                                         "nir"]  # fmt: skip


def test_responses_of_one_sensor_are_drawn_in_one_row():
    (axis,) = sensor_responses([get_sensor("co3d")]).axes
    # Four bands, and above each a bar for the range of its centre.
    bars = [line.get_xdata() for line in axis.lines if len(line.get_xdata()) == 2]
    np.testing.assert_allclose(bars[0], (0.46, 0.50))
    assert len(bars) == 4 and len(axis.lines) == 8
    assert axis.get_title(loc="left").endswith("specification open")


def test_sentinel_2_has_its_13_bands_in_order():
    bands = get_sensor("sentinel-2").bands
    assert [band.native for band in bands[:5] + bands[8:10]] == ["B1", "B2", "B3", "B4", "B5",
                                                                "B8A", "B9"]  # fmt: skip
    assert len(bands) == 13


def test_shared_bands_are_the_ones_of_the_study_in_order_of_wavelength():
    s2 = get_sensor("sentinel-2")
    assert shared_bands(s2, get_sensor("spot-4")) == ["green", "red", "nir", "swir16"]
    assert shared_bands(s2, get_sensor("pleiades")) == ["blue", "green", "red", "nir"]
    assert "lwir11" not in shared_bands(get_sensor("landsat-5"), get_sensor("landsat-8"))


def test_a_card_of_the_user(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(CARD)
    card = get_sensor(path)
    assert card.band("red").native == "R"
    assert card.band("red").response == "gaussian" and card.band("red").snr is None
    path.write_text(CARD.replace("centre_um: 0.56", "centre_um: [0.55, 0.57]"))
    assert get_sensor(path).band("green").ranges == {"centre_um": (0.55, 0.57)}


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("centre_um: 0.56", "centre_um: 560", "bands.0.centre_um"),
        ("centre_um: 0.56", "centre_um: [0.56, 560]", "bands.0.centre_um"),
        ("centre_um: 0.56", "centre_um: [0.57, 0.55]", "bands.0.centre_um: Value error, [0.57, 0"),
        ("centre_um: 0.56", "centre_um: [0.5, 0.6, 0.7]", "is not a number or a range"),
        ("centre_um: 0.56", "centre_um: [0.56]", "is not a number or a range [low, high]; correct"),
        ("centre_um: 0.56", "centre_um: green", "bands.0.centre_um: Value error, 'green' is not"),
        ("centre_um: 0.56", "centre_um: .nan", "bands.0.centre_um"),
        ("width_um: 0.1", "width_um: 0", "bands.0.width_um"),
        ("gsd_m: 5}", "gsd_m: 5, mtf: 1.2}", "bands.0.mtf: Value error, 1.2 should be above 0 and"),
        ("gsd_m: 5}", "gsd_m: 5, snr: [0, 90]}", "bands.0.snr"),
        ("gsd_m: 5}", "gsd_m: 5, response: triangle}", "bands.0.response"),
        ("note: test", "local_time: 10:30", "local_time"),
        ("gsd_m: 5}", "gsd: 5}", "bands.0.gsd"),
        ("title: My sensor", "colour: red", "title"),
        ("missing: [blue, nir, swir16]", "missing: []", "missing should be"),
        ("common: red", "common: green", "listed twice"),
        ("id: mine", "id: [", "is valid YAML"),
    ],
)
def test_a_wrong_card_is_named_with_its_field(tmp_path, before, after, message):
    path = tmp_path / "wrong.yaml"
    path.write_text(CARD.replace(before, after))
    with pytest.raises(InputError) as raised:
        get_sensor(path)
    assert "wrong.yaml" in str(raised.value) and message in str(raised.value)


def test_unknown_sensors_and_bands():
    with pytest.raises(InputError, match="spot-4"):
        get_sensor("spot-9")
    with pytest.raises(InputError, match=r"absent\.yaml"):
        get_sensor("absent.yaml")
    with pytest.raises(InputError, match="no band 'blue'"):
        get_sensor("spot-4").band("blue")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("common: green", "common: blue", "band blue at 0.56 µm"),  # names mixed up
        ("centre_um: 0.66, width_um: 0.1", "centre_um: 0.66, width_um: 2.5", "2.5 µm wide, cannot"),
        ("gsd_m: 5", "gsd_m: 0.005", "should be above 0.05"),  # km
        ("id: mine", "id: ../mine", "id: String should match"),
    ],
)
def test_a_card_in_other_units_or_with_names_mixed_up(
    old: str, new: str, message: str, tmp_path: Path
) -> None:
    (tmp_path / "card.yaml").write_text(CARD.replace(old, new))
    with pytest.raises(InputError, match=message):
        get_sensor(tmp_path / "card.yaml")


def test_a_card_in_another_spelling_or_without_fields(tmp_path: Path) -> None:
    (tmp_path / "CARD.YAML").write_text(CARD.replace("common: red", "common: Red"))
    assert get_sensor(tmp_path / "CARD.YAML").band("red").native == "R"
    for text in ("", "- a"):
        (tmp_path / "card.yaml").write_text(text)
        with pytest.raises(InputError, match=r"card\.yaml: is empty or no list of fields"):
            get_sensor(tmp_path / "card.yaml")
