"""Classical ways to find clouds, with their published equations, to compare models with.

"Spectral tests" (`labels.spectral_tests`) looks at one date. "Multi-temporal test" looks for a rise
of reflectance since the last clear date, in the manner of Hagolle et al. (2010,
doi 10.1016/j.rse.2010.03.002). They are not the operational processors, which also use temperature,
cirrus, shadows, snow, parallax, coarse resolution and atmospheric correction. Constants are the
published ones; nothing is tuned here.
"""

from collections.abc import Sequence
from datetime import date

import numpy as np
import xarray as xr

from clouddl.errors import InputError
from clouddl.labels import CLEAR, NODATA, on_grid, spectral_tests

# Hagolle 2010: the rise of reflectance that is a cloud, and the days in which it doubles.
RISE, RISE_DAYS = 0.03, 30.0
RED_OVER_BLUE = 1.5  # ploughed soil turns redder; a cloud does not


def multi_temporal_test(
    series: Sequence[xr.DataArray], dates: Sequence[date | str]
) -> list[xr.DataArray]:
    """Find cloud in each date of one place by the rise of reflectance since it was last clear.

    A pixel is cloud where blue (red, where there is no blue) rose by more than 0.03 (1 + days / 30)
    since the pixel was last clear, unless red rose over 1.5 times more. A pixel without a clear
    date before it, so all of the first date, is left to `spectral_tests`. The optional test of
    correlation is left out. Snow and sun glint rise too.

    Args:
        series: Reflectances (band, y, x) at the top of the atmosphere on one grid, in any order.
        dates: Their dates, or text such as "2018-01-06".

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
        masks[index] = on_grid(mask, image).assign_attrs(
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
