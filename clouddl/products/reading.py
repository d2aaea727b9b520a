"""How the numbers of an image become reflectance, and whether they can be it."""

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from clouddl.errors import InputError

BLOCK = 8  # pixels a side of the smallest gap of a band that is looked for
LINE = 64  # pixels of the shortest lost line of a band that is looked for
LIT = 0.2  # reflectance in another band that no water has
APART = 0.02  # from 0 to the next reflectance: what is clipped at 0 has neighbours nearer than this
SATURATED = 0.85  # of the highest level: more is around what is saturated
FEW = 1e-3  # of the pixels: fewer of 0 in all bands may be dark ground
LARGEST = float(np.finfo(np.float32).max)
# Usual nodata numbers, the last one of netCDF.
FILLS: tuple[float, ...] = (0, -9999, -999, -10000, -32768, 65535, -(2**31), 2**31 - 1, 2**32 - 1)
FILLS += (-LARGEST, LARGEST, 15 * 2.0**119)
OFFSET = 0.1  # that Sentinel-2's numbers hold since baseline 04.00, as reflectance
HIGHEST_OFFSET = 5.0  # at level 1 of Landsat it is 0.1 over the sine of the sun's elevation
OVERCAST = 0.5  # an image of a higher median is cloud or snow, of which an offset changes nothing
HIGHEST = 4.0  # reflectance that is taken for one where the elevation of the sun is not known
BRIGHTEST = 1.3  # of snow or cloud that is lit from straight above, times the sine of the sun
LOWEST = -0.3  # what no offset explains
DIVISOR = 10.0  # a scale from here on is one
# What the air alone reflects, less some room for mountains; 1 in 100 pixels may be darker. Of 1,151
# images from above the atmosphere none is, of 23 of the surface 21 are.
DARKEST = {"blue": 0.045, "green": 0.02}
SURFACE = (
    "surface reflectance, and the models learnt from top-of-atmosphere. The correction takes part "
    "of thin cloud and haze away, so expect more of it missed: a lower recall, and with it a lower "
    "F2, than published; by how much was not measured. Prefer the level 1 of the same date"
)

Level = Literal["toa", "surface"]
Layers = tuple[str | None, ...]  # common names in file order, None where there is none


@dataclass(frozen=True)
class Reading:
    """How the numbers of an image are to be read: reflectance = number * scale + offset.

    Attributes:
        bands: Common names of the layers in file order, None to skip one; default the sensor's.
        scale: Factor from number to reflectance; default the file's own, else 1.
        offset: Reflectance of the number 0; default the file's own, else 0.
        nodata: Number that means nodata; default the file's own.
        resolution: Metres per pixel, needed where the file has no CRS; of a product, the
            resolution to read it at.
    """

    bands: Layers | None = None
    scale: float | None = None
    offset: float | None = None
    nodata: float | None = None
    resolution: float | None = None

    @property
    def named(self) -> tuple[str, ...]:
        """The layers that are bands, in file order."""
        return tuple(band for band in self.bands or () if band is not None)

    def reflectance(self, numbers: np.ndarray) -> np.ndarray:
        """Turn stored numbers into float32 reflectance, nodata and what is infinite as NaN.

        Args:
            numbers: Array of any shape.

        Returns:
            A new array of the same shape, or `numbers` itself where nothing is to be done.
        """
        scale = 1.0 if self.scale is None else self.scale
        offset = self.offset or 0.0
        values = numbers
        if numbers.dtype != np.float32 or (scale, offset, self.nodata) != (1, 0, None):
            with np.errstate(over="ignore"):
                values = numbers.astype(np.float32)  # and then in place, where NaN stays NaN
                values *= np.float32(scale)
                values += np.float32(offset)
                if self.nodata is not None:  # which may be more than float32 holds
                    values[numbers == self.nodata] = np.nan
        infinite = np.isinf(values)
        return np.where(infinite, np.float32(np.nan), values) if infinite.any() else values

    def completed(
        self, scale: float | None, offset: float | None, nodata: float | None
    ) -> "Reading":
        """Take what this leaves open from what a file says of itself.

        Args:
            scale: As the file states it; None where it does not.
            offset: Likewise.
            nodata: Likewise; NaN is nodata anyway, and so never needs to be said.

        Returns:
            How the file is read.
        """
        nodata = nodata if self.nodata is None else self.nodata
        return replace(
            self,
            scale=scale if self.scale is None else self.scale,
            offset=offset if self.offset is None else self.offset,
            nodata=None if nodata is None or math.isnan(nodata) else nodata,
        )


AS_STORED = Reading()


def check_numbers(name: str, reading: Reading) -> None:
    """Check that what numbers are read with are numbers themselves.

    Args:
        name: What the message calls the image.
        reading: How its numbers are read.

    Raises:
        InputError: A scale or a resolution that is not above 0, an offset that is not finite, or no
            number at all.
    """
    if not isinstance(reading, Reading):
        raise InputError(f"{name}: is to be read by {reading!r}; give a Reading(scale=…, …)")
    for what, least, want in (
        ("scale", 0.0, "a number above 0"),
        ("offset", -math.inf, "a finite number"),
        ("resolution", 0.0, "it in metres, above 0"),
        ("nodata", None, "a number"),
    ):
        value = getattr(reading, what)
        number = isinstance(value, int | float | np.number)
        within = number and (least is None or least < value < math.inf)
        if value is not None and not within:
            raise InputError(f"{name}: its {what} is {value!r}; give {want} (--{what})")


def check_scaling(name: str, band: str | None, reading: Reading) -> None:
    """Check what a band is read with: numbers, and an offset in reflectance.

    Args:
        name: What the message calls the image.
        band: Common name; None for a layer that is not read, "lwir…" is no reflectance.
        reading: How its numbers are read.

    Raises:
        InputError: The offset is in digital numbers, the scale is a divisor, or what
            `check_numbers` says.
    """
    if band is None:
        return
    check_numbers(name, reading)
    if band.startswith("lwir"):
        return
    offset = reading.offset or 0.0
    scale = 1.0 if reading.scale is None else reading.scale
    if scale >= DIVISOR:
        raise InputError(
            f"{name}: scale {scale:g} is no factor: reflectance = number * scale + offset; if "
            f"numbers are to be divided by it, the scale is {1 / scale:g} (--scale)"
        )
    if abs(offset) > HIGHEST_OFFSET:
        raise InputError(
            f"{name}: offset {offset:g} is no reflectance: it is in digital numbers, and "
            f"reflectance = number * scale + offset; the offset should be {offset * scale:g} "
            "(--offset, or in the file that says it)"
        )


def check_reflectance(
    values: np.ndarray,
    bands: Sequence[str],
    name: str,
    readings: Sequence[Reading] = (),
    product: bool = False,
    sun: float | None = None,
    level: Level = "toa",
) -> None:
    """Check that values can be reflectance; thermal bands are skipped.

    Warns of what may be right: an undeclared nodata number, an offset that seems forgotten, values
    darker than the air, and reflectance above 2, which a low sun explains.

    Args:
        values: Reflectance (band, y, x), nodata NaN.
        bands: Common names of its bands.
        name: What the message calls it.
        readings: How the numbers of every band were read; by default they were reflectance.
        product: Whether its metadata say how, so that no option of the user's does.
        sun: Elevation of the sun, degrees; None where it is not known. A slope that faces a low sun
            shows up to 1 / sin(elevation) times its reflectance.
        level: Whether it is said to be surface reflectance.

    Raises:
        InputError: Every pixel is nodata or the same, or the values cannot be reflectance.
    """
    reflective = [not band.startswith("lwir") for band in bands]
    values = values[reflective]
    bands = [band for band in bands if not band.startswith("lwir")]
    if values.shape[-1] * values.shape[-2] > 1 << 20:
        values = values[:, ::4, ::4]
    stated = [reading for reading, used in zip(readings, reflective, strict=False) if used]
    if not np.isfinite(values).any():
        mend = "download it again" if product else "check the file and --nodata"
        raise InputError(f"{name}: every pixel is nodata; {mend}")
    valid = _without_fills(values, bands, name, stated or [AS_STORED] * len(values), product)
    _check_level(valid[np.isfinite(valid)], name, stated, product, sun)
    _check_variety(values, bands, name)
    _warn_of_stretch(valid, name)
    if not product and level == "toa":
        _warn_of_darkness(valid, bands, name)


def _without_fills(
    values: np.ndarray, bands: Sequence[str], name: str, readings: Sequence[Reading], product: bool
) -> np.ndarray:
    """Values (band, y, x) with undeclared nodata numbers as NaN, of which it warns."""
    mend = "predict its bands with --sensor and" if product else "say"
    for number, filled in _fills(values, bands, readings):
        where = ", ".join(bands[int(index)] for index in np.flatnonzero(filled.any(axis=(1, 2))))
        percent, text = 100 * filled.any(axis=0).mean(), f"{number:.10g}"
        warnings.warn(
            f"{name}: {text} fills {percent:.3g}% of the pixels, in {where}, and is not declared "
            f"as nodata; if it means nodata, {mend} --nodata {text}",
            stacklevel=4,
        )
        values = np.where(filled, np.nan, values)
    return values


def _check_variety(values: np.ndarray, bands: Sequence[str], name: str) -> None:
    """Raise InputError if every band (band, y, x) holds one value only; warn if some do."""
    if values[0].size < BLOCK**2:
        return
    valid = [layer[np.isfinite(layer)] for layer in values]
    varied = [
        band for band, layer in zip(bands, valid, strict=True) if layer.size and np.ptp(layer)
    ]
    if not varied:
        first = values[np.isfinite(values)][0]
        raise InputError(
            f"{name}: every pixel has the same value (reflectance {first:.4g}), so it shows "
            "nothing; check the file and --nodata"
        )
    if len(varied) < len(bands):
        empty = ", ".join(band for band in bands if band not in varied)
        warnings.warn(
            f"{name}: {empty} has one value or no data throughout, so it shows nothing; if it was "
            f"not recorded, say --use {','.join(varied)}",
            stacklevel=4,
        )


def _warn_of_stretch(values: np.ndarray, name: str) -> None:
    """Warn where every band (band, y, x) goes from 0 to 1."""
    layers = [layer[np.isfinite(layer)] for layer in values]
    ends = [(layer.min(), layer.max()) for layer in layers if layer.size]
    if ends and np.allclose(ends, (0, 1), atol=1e-4):
        warnings.warn(
            f"{name}: every band goes from 0 to 1, as those do that are stretched or normalised; "
            "no scale makes reflectance of such again, and its mask is wrong; take the file before",
            stacklevel=4,
        )


def _warn_of_darkness(values: np.ndarray, bands: Sequence[str], name: str) -> None:
    """Warn of a band (band, y, x) that is darker than the air above the ground."""
    for band, layer in zip(bands, values, strict=True):
        least = DARKEST.get(band, -math.inf)
        if (layer < least).sum() > 0.01 * np.isfinite(layer).sum():
            warnings.warn(
                f"{name}: {band} is below {least:g} in places, which is darker than the air alone "
                f"from above: its scale is too small, or it is {SURFACE}",
                stacklevel=4,
            )
            return


def _fills(
    values: np.ndarray, bands: Sequence[str], readings: Sequence[Reading]
) -> Iterator[tuple[float, np.ndarray]]:
    """Undeclared nodata numbers, and where (band, y, x): in all bands, or in a part of one.

    In short-wave infrared water may be 0, and in the band of cirrus everything.
    """
    least, most = np.nanmin(values), np.nanmax(values)
    swir, cirrus = (
        np.array([band.startswith(name) for band in bands])[:, None, None]
        for name in ("swir", "cirrus")
    )
    lit = np.fmax.reduce(np.where(swir | cirrus, -np.inf, values)) > LIT
    for number in dict.fromkeys((*FILLS, *_constants(values, readings))):
        stored = np.array([number], np.float32)
        levels = np.array([reading.reflectance(stored)[0] for reading in readings], float)
        near = 1e-6 * (1 + np.abs(levels))
        # A number that float32 cannot scale fills nothing.
        if (
            not np.isfinite(levels).all()
            or ((levels + near < least) | (levels - near > most)).all()
        ):
            continue
        distance = np.abs(values - levels[:, None, None])
        filled = distance <= near[:, None, None]
        everywhere = filled.all(0)
        if _is_saturation(everywhere, values, levels):
            continue
        if everywhere.mean() > (0 if number else FEW):
            yield number, filled & everywhere
        filled &= ~everywhere
        part = filled
        lost = np.zeros(len(bands), bool)
        if number == 0:
            part = filled & ~cirrus & (lit | ~swir)
            lines = (part & lit).sum((1, 2))
            lost = (lines >= LINE) & ((distance <= APART).sum((1, 2)) < 1.1 * filled.sum((1, 2)))
        filled[~(lost | np.any(_blocks(part).all((2, 4)), (1, 2)))] = False
        if filled.any():
            yield number, filled


def _is_saturation(where: np.ndarray, values: np.ndarray, levels: np.ndarray) -> bool:
    """Whether pixels (y, x) are at the highest level of all bands, and so is what is around them.

    Of 255 clipped images of Sentinel-2 the median around them was at that level, along a frame of
    such a number at 0.67 of it at most.
    """
    above = np.fmax.reduce(values, (1, 2)) > levels * (1 + 1e-5)
    if not where.any() or above.any() or levels.min() <= 0:
        return False
    from scipy.ndimage import binary_dilation  # late: few images have such pixels

    around = binary_dilation(where, np.ones((3, 3))) & ~where
    nearby = values[:, around] / levels[:, None]
    nearby = nearby[np.isfinite(nearby)]
    return bool(nearby.size and np.median(nearby) > SATURATED)


def _blocks(layers: np.ndarray) -> np.ndarray:
    """Layers (layer, y, x) cut into blocks (layer, row, y, column, x)."""
    rows, columns = (side // BLOCK for side in layers.shape[1:])
    whole = layers[:, : rows * BLOCK, : columns * BLOCK]
    return whole.reshape(len(layers), rows, BLOCK, columns, BLOCK)


def _constants(values: np.ndarray, readings: Sequence[Reading]) -> list[float]:
    """Numbers that are stored in all bands of a block, as a frame around an image is."""
    blocks = _blocks(values)
    least = blocks.min((2, 4))
    flat = (blocks.max((2, 4)) == least).all(0)
    if flat.all():  # of an image that shows nothing all of it is told
        return []
    scales = np.array([reading.scale or 1 for reading in readings])[:, None]
    offsets = np.array([reading.offset or 0 for reading in readings])[:, None]
    numbers = np.unique((least[:, flat] - offsets) / scales, axis=1)
    numbers = numbers[:, np.isclose(numbers, numbers[:1], 1e-5, 1e-4).all(0)][0]
    return [float(f"{number:.5g}") for number in numbers.tolist()]


def _check_level(
    values: np.ndarray, name: str, readings: Sequence[Reading], product: bool, sun: float | None
) -> None:
    """Raise InputError if valid values (any,) cannot be reflectance; warn if they hardly can."""
    if not values.size:
        return
    low, middle, high = np.percentile(values, [1, 50, 99])
    highest = HIGHEST if sun is None else max(HIGHEST, _brightest(sun))
    if low < LOWEST:
        cause = (
            f"go from {low:.2g} to {high:.2g}: they look standardised, logarithmic, or hold a "
            "nodata number"
        )
    elif high > highest or middle > highest / 4:
        factor = 10 ** max(1, round(math.log10(high / 0.5)))
        cause = f"go up to {high:.4g}: they look like reflectance × {factor}, not yet divided"
    elif high < 0.02:
        cause = f"only go up to {high:.2g}: divided by too much, or stretched to 8 bits"
    elif low < -0.05:
        cause = f"go down to {low:.2g}: an offset seems to have been taken off twice"
    else:
        if high > 2:
            _warn_of_sun(name, high, sun)
        if not product:  # the metadata of a product say the offset
            _warn_of_offset(values, middle, name, readings)
        return
    if product:
        raise InputError(
            f"{name}: wrong scale: by the metadata its values {cause}. Take the "
            "product as delivered, or give its bands with --sensor, --scale and --offset"
        )
    what = "looks like digital numbers" if high > 2 else "wrong scale"
    raise InputError(
        f"{name}: {what}: its values {cause}; give --scale/--offset "
        "(Sentinel-2 L1C: --scale 0.0001, offset -0.1 from baseline 04.00)"
    )


def _brightest(sun: float) -> float:
    """Reflectance of a bright slope that faces a sun of this elevation, degrees."""
    return BRIGHTEST / math.sin(math.radians(sun))


def _warn_of_sun(name: str, high: float, sun: float | None) -> None:
    """Warn of a reflectance above 2, unless the sun is known to be so low."""
    if sun is not None and high <= _brightest(sun):
        return
    if sun is None:
        cause = f"a low sun may explain it (up to {HIGHEST:g}; its elevation is not known)"
    else:
        cause = f"a sun at {sun:.0f}° does not explain it"
    warnings.warn(
        f"{name}: reflectance goes up to {high:.3g}; {cause}; check the scale", stacklevel=5
    )


def _warn_of_offset(
    values: np.ndarray, middle: float, name: str, readings: Sequence[Reading]
) -> None:
    """Warn of values (any,) of which the lowest lie above a usual offset, or far below 0."""
    least = values.min()
    if least < LOWEST:
        warnings.warn(
            f"{name}: a few pixels go down to {least:.3g}: numbers ran over, as above 32767 in "
            "16 bits, or are a nodata number; check the file and --nodata",
            stacklevel=5,
        )
    added = min(
        (reading.offset or 0.0 for reading in readings), default=-1.0
    )  # wrongly, if above 0
    if middle < OVERCAST and added >= 0 and OFFSET <= least < 3 * OFFSET + added:
        warnings.warn(
            f"{name}: no pixel is below {OFFSET} (the lowest reflectance is {least:.3g}): it is "
            "hazy or overcast throughout, or an offset is forgotten; Sentinel-2 from baseline "
            f"04.00 (January 2022) needs --offset -{OFFSET}, Landsat Collection 2 -{OFFSET} at "
            "level 1 and -0.2 at level 2",
            stacklevel=5,
        )
