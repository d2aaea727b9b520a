"""How the numbers of an image become reflectance, and whether they can be it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import compress
from typing import Literal

import numpy as np

from clouddl.errors import InputError, warn

BLOCK = 8  # pixels a side of the smallest gap of a band that is looked for
SAMPLE = 1 << 16  # values that percentiles are taken of
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
        scale = self.scale or 1.0
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


def check_scaling(name: str, bands: Layers, reading: Reading) -> None:
    """Check what bands are read with: numbers, and an offset in reflectance.

    Args:
        name: What the message calls the image.
        bands: Common names; None for a layer that is not read, "lwir…" is no reflectance.
        reading: How their numbers are read.

    Raises:
        InputError: The offset is in digital numbers, the scale is a divisor, or what
            `check_numbers` says.
    """
    if any(bands):
        check_numbers(name, reading)
    if not any(band and not band.startswith("lwir") for band in bands):
        return
    offset = reading.offset or 0.0
    scale = reading.scale or 1.0
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
    if values.shape[-1] * values.shape[-2] > 1 << 20:
        values = values[:, ::4, ::4]
    if not np.isfinite(values).any():
        mend = "download it again" if product else "check the file and --nodata"
        raise InputError(f"{name}: every pixel is nodata; {mend}")
    stated = [*compress(readings, reflective)]
    image = _Checked(name, values, [*compress(bands, reflective)], stated, product, sun)
    valid = image.without_fills()
    image.check_level(valid[np.isfinite(valid)])
    image.check_variety()
    image.warn_of_stretch(valid)
    if not product and level == "toa":
        image.warn_of_darkness(valid)


@dataclass
class _Checked:
    """An image, as `check_reflectance` takes it, without its thermal bands."""

    name: str
    values: np.ndarray
    bands: list[str]
    readings: list[Reading]  # none where it was reflectance
    product: bool
    sun: float | None

    def without_fills(self) -> np.ndarray:
        """Values (band, y, x) with undeclared nodata numbers as NaN, of which it warns."""
        mend = "predict its bands with --sensor and" if self.product else "say"
        values = self.values
        for number, filled in self._fills():
            where = ", ".join(np.array(self.bands)[filled.any(axis=(1, 2))])
            percent, text = 100 * filled.any(axis=0).mean(), f"{number:.10g}"
            warn(
                f"{self.name}: {text} fills {percent:.3g}% of the pixels, in {where}, and is not "
                f"declared as nodata; if it means nodata, {mend} --nodata {text}"
            )
            values = np.where(filled, np.nan, values)
        return values

    def check_variety(self) -> None:
        """Raise InputError if every band holds one value only; warn if some do."""
        if self.values[0].size < BLOCK**2:
            return
        least, most = (end.reduce(self.values, (1, 2)) for end in (np.fmin, np.fmax))
        varied = [*compress(self.bands, most > least)]
        if not varied:
            first = self.values[np.isfinite(self.values)][0]
            raise InputError(
                f"{self.name}: every pixel has the same value (reflectance {first:.4g}), so it "
                "shows nothing; check the file and --nodata"
            )
        if len(varied) < len(self.bands):
            empty = ", ".join(band for band in self.bands if band not in varied)
            warn(
                f"{self.name}: {empty} has one value or no data throughout, so it shows nothing; "
                f"if it was not recorded, say --use {','.join(varied)}"
            )

    def warn_of_stretch(self, values: np.ndarray) -> None:
        """Warn where every band (band, y, x) goes from 0 to 1."""
        layers = [layer[np.isfinite(layer)] for layer in values]
        ends = [(layer.min(), layer.max()) for layer in layers if layer.size]
        if ends and np.allclose(ends, (0, 1), atol=1e-4):
            warn(
                f"{self.name}: every band goes from 0 to 1, as those do that are stretched or "
                "normalised; no scale makes reflectance of such again, and its mask is wrong; "
                "take the file before"
            )

    def warn_of_darkness(self, values: np.ndarray) -> None:
        """Warn of a band (band, y, x) that is darker than the air above the ground."""
        for band, layer in zip(self.bands, values, strict=True):
            least = DARKEST.get(band, -math.inf)
            if (layer < least).sum() > 0.01 * np.isfinite(layer).sum():
                warn(
                    f"{self.name}: {band} is below {least:g} in places, which is darker than the "
                    f"air alone from above: its scale is too small, or it is {SURFACE}"
                )
                return

    def check_level(self, values: np.ndarray) -> None:
        """Raise InputError if valid values (any,) cannot be reflectance; warn if hardly."""
        if not values.size:
            return
        some = values[:: max(1, values.size // SAMPLE)]  # percentiles take most of a check's time
        low, middle, high = np.percentile(some, [1, 50, 99])
        brightest = BRIGHTEST / math.sin(math.radians(self.sun)) if self.sun else 0.0
        if low < LOWEST:
            cause = (
                f"go from {low:.2g} to {high:.2g}: they look standardised, logarithmic, or hold a "
                "nodata number"
            )
        elif high > max(HIGHEST, brightest) or middle > max(HIGHEST, brightest) / 4:
            factor = 10 ** max(1, round(math.log10(high / 0.5)))
            cause = f"go up to {high:.4g}: they look like reflectance × {factor}, not yet divided"
        elif high < 0.02:
            cause = f"only go up to {high:.2g}: divided by too much, or stretched to 8 bits"
        elif low < -0.05:
            cause = f"go down to {low:.2g}: an offset seems to have been taken off twice"
        else:
            if high > max(2, brightest):
                self._warn_of_sun(high)
            if not self.product:  # the metadata of a product say the offset
                self._warn_of_offset(values.min(), middle)
            return
        if self.product:
            raise InputError(
                f"{self.name}: wrong scale: by the metadata its values {cause}. Take the "
                "product as delivered, or give its bands with --sensor, --scale and --offset"
            )
        what = "looks like digital numbers" if high > 2 else "wrong scale"
        raise InputError(
            f"{self.name}: {what}: its values {cause}; give --scale/--offset "
            "(Sentinel-2 L1C: --scale 0.0001, offset -0.1 from baseline 04.00)"
        )

    def _warn_of_sun(self, high: float) -> None:
        """Warn of a reflectance above 2 that the sun does not explain."""
        cause = f"a low sun may explain it (up to {HIGHEST:g}; its elevation is not known)"
        if self.sun is not None:
            cause = f"a sun at {self.sun:.0f}° does not explain it"
        warn(f"{self.name}: reflectance goes up to {high:.3g}; {cause}; check the scale")

    def _warn_of_offset(self, least: float, middle: float) -> None:
        """Warn where the lowest value lies above a usual offset, or far below 0."""
        if least < LOWEST:
            warn(
                f"{self.name}: a few pixels go down to {least:.3g}: numbers ran over, as above "
                "32767 in 16 bits, or are a nodata number; check the file and --nodata"
            )
        offsets = [reading.offset or 0.0 for reading in self.readings]
        added = min(offsets, default=-1.0)  # wrongly, if above 0
        if middle < OVERCAST and added >= 0 and OFFSET <= least < 3 * OFFSET + added:
            warn(
                f"{self.name}: no pixel is below {OFFSET} (the lowest reflectance is {least:.3g}): "
                "it is hazy or overcast throughout, or an offset is forgotten; Sentinel-2 from "
                f"baseline 04.00 (January 2022) needs --offset -{OFFSET}, Landsat Collection 2 "
                f"-{OFFSET} at level 1 and -0.2 at level 2"
            )

    def _fills(self) -> Iterator[tuple[float, np.ndarray]]:
        """Undeclared nodata numbers, and where (band, y, x): in all bands, or in a part of one.

        In short-wave infrared water may be 0, and in the band of cirrus everything.
        """
        values = self.values
        readings = self.readings or [AS_STORED] * len(values)
        least, most = np.nanmin(values), np.nanmax(values)
        swir, cirrus = (
            np.char.startswith(self.bands, name)[:, None, None] for name in ("swir", "cirrus")
        )
        lit = np.fmax.reduce(np.where(swir | cirrus, -np.inf, values)) > LIT
        for number in dict.fromkeys((*FILLS, *_constants(values, readings))):
            stored = np.array([number], np.float32)
            levels = np.array([reading.reflectance(stored)[0] for reading in readings], float)
            near = 1e-6 * (1 + np.abs(levels))
            outside = (levels + near < least) | (levels - near > most)
            if outside.all() or not np.isfinite(levels).all():  # float32 cannot scale the number
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
            lost = np.zeros(len(values), bool)
            if number == 0:
                part = filled & ~cirrus & (lit | ~swir)
                lines = (part & lit).sum((1, 2))
                near_zero = (distance <= APART).sum((1, 2))
                lost = (lines >= LINE) & (near_zero < 1.1 * filled.sum((1, 2)))
            block = np.logical_and.reduce(np.logical_and.reduce(_blocks(part), 2), 3)
            filled[~(lost | block.any((1, 2)))] = False
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
    least = blocks.min(2).min(3)  # one axis after the other takes a fifth of the time
    flat = (blocks.max(2).max(3) == least).all(0)
    if flat.all():  # of an image that shows nothing all of it is told
        return []
    # As `Reading.reflectance` calculates: else 0 would be another number than 0 here.
    scales = np.array([reading.scale or 1 for reading in readings], np.float32)[:, None]
    offsets = np.array([reading.offset or 0 for reading in readings], np.float32)[:, None]
    numbers = np.unique((least[:, flat] - offsets) / scales, axis=1)
    numbers = numbers[:, np.isclose(numbers, numbers[:1], 1e-5, 1e-4).all(0)][0]
    return [float(f"{number:.5g}") for number in numbers.tolist()]
