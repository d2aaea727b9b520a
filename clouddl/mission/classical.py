"""Two classical ways to find clouds, with their published equations, to compare models with.

"Spectral tests" looks at one date, in the manner of the first pass of Zhu and Woodcock (2012,
doi 10.1016/j.rse.2011.10.028). "Multi-temporal test" looks for a rise of reflectance since the last
clear date, in the manner of Hagolle et al. (2010, doi 10.1016/j.rse.2010.03.002). They are not the
operational processors, which also use temperature, cirrus, shadows, snow, parallax, coarse
resolution and atmospheric correction. Constants are the published ones; nothing is tuned here.
"""

from collections.abc import Callable, Sequence
from datetime import date

import numpy as np
import xarray as xr

from clouddl.errors import InputError
from clouddl.labels import CLEAR, NODATA, dilate, on_grid
from clouddl.transfer import Method

# Hagolle 2010: the rise of reflectance that is a cloud, and the days in which it doubles.
RISE, RISE_DAYS = 0.03, 30.0
RED_OVER_BLUE = 1.5  # ploughed soil turns redder; a cloud does not

Test = tuple[list[str], Callable[..., np.ndarray]]  # bands, and the formula that takes them


def available_tests(bands: Sequence[str]) -> dict[str, list[str]]:
    """The single-date tests that some bands allow.

    Args:
        bands: Common names of the bands at hand.

    Returns:
        Name of a test → the bands it reads.
    """
    return {name: needs for name, (needs, _) in _tests(bands).items()}


def _tests(bands: Sequence[str]) -> dict[str, Test]:
    """Bands and formula of the tests (Zhu and Woodcock 2012, eq. 1 to 4); cloud passes them all.

    Without blue, green stands in for it in the haze test: it sees less haze, so the same threshold
    is stricter: on the Sentinel-2 training scenes 99 % of what it finds is found with blue too.
    """
    blue = "blue" if "blue" in bands else "green"
    visible = [band for band in ("blue", "green", "red") if band in bands]
    if len(visible) < 2:
        visible = ["green", "red"]
    tests: dict[str, Test] = {
        "snow index": (["green", "swir16"], lambda green, swir16: _index(green, swir16) < 0.8),
        "vegetation index": (["nir", "red"], lambda nir, red: _index(nir, red) < 0.8),
        "dark in swir22": (["swir22"], lambda swir22: swir22 > 0.03),
        "whiteness": (visible, lambda *bright: _colourfulness(*bright) < 0.7),
        "haze": ([blue, "red"], lambda blue, red: blue - 0.5 * red > 0.08),
        # Rock is brighter in the short-wave infrared.
        "rock": (["nir", "swir16"], lambda nir, swir16: nir / swir16 > 0.75),
    }
    return {name: test for name, test in tests.items() if set(test[0]) <= set(bands)}


def _index(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a - b) / (a + b)


def _colourfulness(*visible: np.ndarray) -> np.ndarray:
    """Sum of |band / mean - 1| as of three bands, so that two meet the same threshold."""
    stack = np.stack(visible)
    return 3 * np.abs(stack / stack.mean(0) - 1).mean(0)


def spectral_tests(reflectance: xr.DataArray, dilation_m: float = 0.0) -> np.ndarray:
    """Find cloud where a pixel passes every test its bands allow (`available_tests`).

    The probabilities that follow in the paper are left out: they rest on temperature.

    Args:
        reflectance: Reflectance (band, y, x) at the top of the atmosphere; for a dilation with the
            attribute `resolution`.
        dilation_m: Metres to grow clouds by.

    Returns:
        Mask (y, x) uint8, 255 where a band it reads is NaN.

    Raises:
        InputError: Without red and one of blue or green no test of brightness is left.
    """
    names = reflectance.band.values.tolist()
    tests = _tests(names)
    if "haze" not in tests:
        raise InputError(
            f"spectral tests: need red and blue or green, this image has {', '.join(names)}"
        )
    used = {band for needs, _ in tests.values() for band in needs}
    values = {band: reflectance.sel(band=band).values.astype(float) for band in used}
    with np.errstate(divide="ignore", invalid="ignore"):  # 0 / 0: a black pixel passes no test
        passed = [test(*(values[band] for band in needs)) for needs, test in tests.values()]
    nodata = np.any([np.isnan(value) for value in values.values()], axis=0)
    mask = np.where(nodata, NODATA, np.all(passed, axis=0)).astype(np.uint8)
    return _dilated(mask, reflectance, dilation_m)


def spectral_method(bands: Sequence[str]) -> Method:
    """Make a method of the spectral tests, for `transfer.evaluate`.

    Args:
        bands: Common names of the bands to use.

    Returns:
        The method.
    """
    names = list(bands)
    return Method(tuple(names), lambda scene: spectral_tests(scene.reflectance.sel(band=names)))


def _dilated(mask: np.ndarray, image: xr.DataArray, metres: float) -> np.ndarray:
    return dilate(mask, metres, image.attrs["resolution"]) if metres else mask


def multi_temporal_test(
    series: Sequence[xr.DataArray], dates: Sequence[date | str], dilation_m: float = 0.0
) -> list[xr.DataArray]:
    """Find cloud in each date of one place by the rise of reflectance since it was last clear.

    A pixel is cloud where blue (red, where there is no blue) rose by more than 0.03 (1 + days / 30)
    since the pixel was last clear, unless red rose over 1.5 times more. A pixel without a clear
    date before it, so all of the first date, is left to `spectral_tests`. The optional test of
    correlation is left out. Snow and sun glint rise too.

    Args:
        series: Reflectances (band, y, x) at the top of the atmosphere on one grid, in any order.
        dates: Their dates, or text such as "2018-01-06".
        dilation_m: Metres to grow clouds by.

    Returns:
        A mask (y, x) uint8 for each date, in the order given. Attributes: `date`; `test`, which of
        the two a mask comes from; `without_predecessor`, the fraction of pixels left to
        `spectral_tests`.

    Raises:
        InputError: Grids or bands differ, or a date is missing, repeated or not a date.
    """
    days = _check_series(series, dates)
    names = series[0].band.values.tolist()
    watched = "blue" if "blue" in names else "red"
    last = np.full((2, *series[0].shape[1:]), np.nan)  # the watched band and red when last clear
    last_day = np.zeros(last.shape[1:])
    masks: dict[int, xr.DataArray] = {}
    for index in np.argsort(days):
        image, day = series[index], days[index]
        now = image.sel(band=[watched, "red"]).values.astype(float)
        rise, red_rise = now - last
        with np.errstate(invalid="ignore"):
            cloud = rise > RISE * (1 + (day - last_day) / RISE_DAYS)
            cloud &= ~(red_rise > RED_OVER_BLUE * rise)  # never so where red itself is watched
        single_date = spectral_tests(image)  # also says where the image is nodata
        first = np.isnan(last).any(0)
        mask = np.where(first | (single_date == NODATA), single_date, cloud).astype(np.uint8)
        clear = mask == CLEAR
        last[:, clear], last_day[clear] = now[:, clear], day
        valid = mask != NODATA
        without = float(first[valid].mean()) if valid.any() else 1.0
        test = "spectral tests" if without == 1 else "multi-temporal test"
        if 0 < without < 1:
            test += ", spectral tests where no predecessor is clear"
        masks[index] = on_grid(_dilated(mask, image, dilation_m), image).assign_attrs(
            test=test, date=str(np.datetime64(int(day), "D")), without_predecessor=without
        )
    return [masks[index] for index in range(len(series))]


def _check_series(series: Sequence[xr.DataArray], dates: Sequence[date | str]) -> np.ndarray:
    """The dates as numbers of days, if the series can be compared."""
    try:
        days = np.array(dates, dtype="datetime64[D]").astype(int)
    except ValueError as error:
        raise InputError(f"multi-temporal test: dates {list(dates)}: {error}") from error
    grids = {(image.shape, *image.band.values.tolist()) for image in series}
    if len(grids) != 1 or len(days) != len(series) or len(np.unique(days)) != len(days):
        raise InputError(
            "multi-temporal test: needs images of one grid and the same bands, each with another "
            f"date; got {len(series)} images, {len(grids)} different grids, {len(days)} dates"
        )
    return days
