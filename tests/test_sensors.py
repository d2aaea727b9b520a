"""Sensor cards: complete, consistent, and clear about what is wrong with a user's own."""

import pytest

from clouddl.errors import InputError
from clouddl.sensors import CARDS, STUDY_BANDS, get_sensor, sensors, shared_bands

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


def test_a_card_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(CARD)
    assert get_sensor(path).band("red").native == "R"


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("centre_um: 0.56", "centre_um: 560", "bands.0.centre_um"),
        ("gsd_m: 5}", "gsd: 5}", "bands.0.gsd"),
        ("title: My sensor", "colour: red", "title"),
        ("missing: [blue, nir, swir16]", "missing: []", "missing should be"),
        ("common: red", "common: green", "listed twice"),
        ("id: mine", "id: [", "not YAML"),
    ],
)
def test_a_wrong_card_is_named_with_its_field(tmp_path, before, after, said):
    path = tmp_path / "wrong.yaml"
    path.write_text(CARD.replace(before, after))
    with pytest.raises(InputError) as told:
        get_sensor(path)
    assert "wrong.yaml" in str(told.value) and said in str(told.value)


def test_unknown_sensors_and_bands():
    with pytest.raises(InputError, match="spot-4"):
        get_sensor("spot-9")
    with pytest.raises(InputError, match=r"absent\.yaml"):
        get_sensor("absent.yaml")
    with pytest.raises(InputError, match="no band 'blue'"):
        get_sensor("spot-4").band("blue")
