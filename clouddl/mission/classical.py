"""Comparators by principle: two classical ways to find clouds, with their published equations.

"Spectral tests" looks at one date, in the manner of the first pass of Zhu & Woodcock (2012,
doi 10.1016/j.rse.2011.10.028). "Multi-temporal test" looks for a rise of reflectance since the last
clear date, in the manner of Hagolle et al. (2010, doi 10.1016/j.rse.2010.03.002). They are not the
operational processors, which know much more: temperature, cirrus, shadows, snow, parallax, coarse
resolution, atmospheric correction. Constants are the published ones; nothing is tuned here.
"""

from collections.abc import Sequence
from datetime import date

import numpy as np
import xarray as xr

from clouddl.errors import InputError
from clouddl.labels import CLOUD, NODATA, dilate, on_grid

# Zhu & Woodcock 2012, eq. 1 to 4; reflectances as shares.
NDSI_BELOW, NDVI_BELOW, SWIR22_ABOVE = 0.8, 0.8, 0.03


WHITENESS_BELOW = 0.7  # sum of |band / mean - 1| over blue, green and red


HOT_ABOVE = 0.08  # blue - 0.5 red


NIR_OVER_SWIR_ABOVE = 0.75  # rock is brighter in the short-wave infrared


# Hagolle 2010: the rise that is a cloud, growing with the days the ground had to change in.
RISE, RISE_DAYS = 0.03, 30.0


RED_OVER_BLUE = 1.5  # ploughed soil turns redder; a cloud does not


def available_tests(bands: Sequence[str]) -> dict[str, list[str]]:
    """The single-date tests that `bands` (common names) allow, and the bands each of them reads.

    Without blue, green stands in for it in the haze test: it sees less haze, so the same threshold
    is stricter. On the Sentinel-2 training scenes 99 % of what it finds is found with blue too.
    """
    have = set(bands)
    visible: list[str] = [band for band in ("blue", "green", "red") if band in have]
    wanted = {
        "snow index": ["green", "swir16"],
        "vegetation index": ["nir", "red"],
        "dark in swir22": ["swir22"],
        "whiteness": visible if len(visible) > 1 else ["red", "green"],
        "haze": ["blue" if "blue" in have else "green", "red"],
        "rock": ["nir", "swir16"],
    }
    return {name: needs for name, needs in wanted.items() if set(needs) <= have}


def spectral_tests(reflectance: xr.DataArray, dilation_m: float = 0.0) -> np.ndarray:
    """Cloud (y, x) uint8 where a pixel passes every test its bands allow (`available_tests`).

    `reflectance` (band, y, x) at the top of the atmosphere. The probabilities that follow in the
    paper are left out: they rest on temperature. Whiteness is a mean over the visible bands at
    hand, so that two of them meet the same threshold. 255 where a band it reads is NaN.
    `dilation_m`: metres to grow clouds by; needs the attribute `resolution`. InputError without
    red and one of blue or green, without which no test of brightness is left.
    """
    names = [str(band) for band in reflectance.band.values]
    tests = available_tests(names)
    if "haze" not in tests:
        raise InputError(
            f"spectral tests: want red and blue or green, this image has {', '.join(names)}"
        )
    used = [band for band in names if any(band in needs for needs in tests.values())]
    band = {name: reflectance.sel(band=name).values.astype(float) for name in used}
    visible = np.stack([band[name] for name in tests["whiteness"]])
    formulas = {
        "snow index": lambda: _index(band["green"], band["swir16"]) < NDSI_BELOW,
        "vegetation index": lambda: _index(band["nir"], band["red"]) < NDVI_BELOW,
        "dark in swir22": lambda: band["swir22"] > SWIR22_ABOVE,
        "whiteness": lambda: 3 * np.abs(visible / visible.mean(0) - 1).mean(0) < WHITENESS_BELOW,
        "haze": lambda: band[tests["haze"][0]] - 0.5 * band["red"] > HOT_ABOVE,
        "rock": lambda: band["nir"] / band["swir16"] > NIR_OVER_SWIR_ABOVE,
    }
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0: a black pixel passes no test
        cloud = np.all([formulas[name]() for name in tests], axis=0)
    hole = np.any([np.isnan(values) for values in band.values()], axis=0)
    mask = np.where(hole, NODATA, cloud).astype(np.uint8)
    return dilate(mask, dilation_m, reflectance.attrs["resolution"]) if dilation_m else mask


def _index(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a - b) / (a + b)


def multi_temporal_test(
    series: Sequence[xr.DataArray], dates: Sequence[date | str], dilation_m: float = 0.0
) -> list[xr.DataArray]:
    """Cloud (y, x) uint8 of each date of one place, in the order given (which may be any).

    `series`: reflectance (band, y, x) at the top of the atmosphere, all on one grid; `dates` as
    dates or "2018-01-06". A pixel is cloud where blue (red, where there is no blue) rose by more
    than 0.03 (1 + days / 30) since the pixel was last clear, unless red rose over 1.5 times more.
    A pixel without a clear predecessor, so all of the first date, is left to `spectral_tests`:
    attrs `test` says which of the two a mask comes from, `without_predecessor` for what share of
    the pixels. The optional test of correlation is left out. Snow and sun glint rise too.
    """
    try:
        days = np.array(dates, dtype="datetime64[D]").astype(int)
    except ValueError as error:
        raise InputError(f"multi-temporal test: dates {list(dates)}: {error}") from error
    shapes = {(image.shape, tuple(image.band.values.tolist())) for image in series}
    if len(shapes) != 1 or len(days) != len(series) or len(set(days.tolist())) != len(days):
        raise InputError(
            "multi-temporal test: want images of one grid and the same bands, and for each a date "
            f"of its own; got {len(series)} images, {len(shapes)} kinds of grid, {len(days)} dates"
        )
    names = series[0].band.values.tolist()
    watched = "blue" if "blue" in names else "red"
    last = np.full((2, *series[0].shape[1:]), np.nan)  # the watched band and red, when last clear
    seen = np.zeros(last.shape[1:])  # the day of that
    masks: dict[int, xr.DataArray] = {}
    for index in np.argsort(days):
        image, day = series[index], days[index]
        now = image.sel(band=[watched, "red"]).values.astype(float)
        rise, red_rise = now - last
        with np.errstate(invalid="ignore"):
            cloud = rise > RISE * (1 + (day - seen) / RISE_DAYS)
            cloud &= ~(red_rise > RED_OVER_BLUE * rise)  # never so where red itself is watched
        alone = spectral_tests(image)  # also says where the image holds nothing
        new = np.isnan(last).any(0)
        mask = np.where(new | (alone == NODATA), alone, cloud).astype(np.uint8)
        clear = (mask != CLOUD) & (mask != NODATA)
        last[:, clear], seen[clear] = now[:, clear], day
        without = float(new[mask != NODATA].mean()) if (mask != NODATA).any() else 1.0
        test = "spectral tests" if without == 1 else "multi-temporal test"
        if 0 < without < 1:
            test += ", spectral tests where no predecessor is clear"
        mask = dilate(mask, dilation_m, image.attrs["resolution"]) if dilation_m else mask
        masks[index] = on_grid(mask, image, test=test).assign_attrs(
            date=str(np.datetime64(int(day), "D")), without_predecessor=without
        )
    return [masks[index] for index in range(len(series))]
