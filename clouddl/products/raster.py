"""A file that GDAL opens: its errors, and which of its layers is which band and how it is read."""

import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import rasterio
from rasterio.enums import ColorInterp, MaskFlags
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from clouddl.errors import InputError
from clouddl.files import is_local
from clouddl.products.reading import Layers, Reading, check_scaling
from clouddl.sensors import Sensor, band_name

OVERVIEW = 1024  # pixels a side of the decimated image that checks and statistics are made from
NOT_UTF_8 = "a name in this path is not UTF-8, as GDAL wants it; rename it (convmv)"

# Colours of layers that say what they are; the others (grey, palette, ...) do not.
COLOURS = ("coastal", "blue", "green", "red", "nir", "alpha")


def open_raster(path: Path | str) -> DatasetReader:
    """Open a file with GDAL, without its warning that the file has no CRS.

    Args:
        path: What GDAL opens.

    Returns:
        The open file, for a `with` statement.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path)


@contextmanager
def readable_raster(name: str) -> Iterator[None]:
    """Turn whatever goes wrong with a file into an InputError that names it.

    Args:
        name: Its path, or what GDAL opens.

    Raises:
        InputError: The file cannot be read.
    """
    try:
        yield
    except InputError:
        raise
    except UnicodeEncodeError as error:
        raise InputError(f"{name}: {NOT_UTF_8}") from error
    except (OSError, RasterioError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        path = Path(name.partition("#")[0])
        advice = "it may be truncated: copy it again"
        if not is_local(name):
            advice = "check the address, and whether it wants credentials"
        elif ":" not in name[2:]:  # else a file in a product
            if not path.exists():
                raise InputError(f"{name}: does not exist; check the path") from error
            if path.is_dir():
                raise InputError(
                    f"{name}: is a folder, not an image; give a file of it, or a product without "
                    "--sensor"
                ) from error
            if path.suffix.lower() in (".zip", ".tar", ".gz", ".tgz"):
                advice = (
                    "leave --sensor out if it is a product; an image in an archive is named as "
                    f"/vsizip/{name}/IMAGE.tif"
                )
        raise InputError(f"{name}: cannot be read as an image ({error}); {advice}") from error


def card_bands(sensor: Sensor | None) -> tuple[str, ...]:
    """Common names of all bands of a card, in order.

    Args:
        sensor: The card, if there is one.
    """
    return tuple(band.common for band in sensor.bands) if sensor else ()


def find_layers(
    name: str, file: DatasetReader, given: Layers | None, sensor: Sensor | None
) -> tuple[Layers, int | None]:
    """Find out which layer of a file is which band.

    Args:
        name: What messages call the file.
        file: The open file.
        given: Common names in file order; by default as the file says, or the sensor's card.
        sensor: Its card.

    Returns:
        Common names in file order; and the number of the layer of transparency, from 1, or None.

    Raises:
        InputError: They do not fit the file or the sensor.
    """
    described = _described_layers(file, sensor)
    layers = given
    if layers is None:
        layers = _layers_in_order(name, described, card_bands(sensor))
    alpha = _alpha(name, file, layers)
    if alpha and len(layers) == file.count - 1:
        layers = (*layers[: alpha - 1], None, *layers[alpha - 1 :])
    check_layers(name, layers, file.dtypes, sensor)
    if sensor:  # of a product the metadata say the order, and colours are for display
        _warn_of_other_order(name, layers, described)
    return layers, alpha


def check_layers(name: str, layers: Layers, dtypes: Sequence[str], sensor: Sensor | None) -> None:
    """Check that names of layers fit an image and its sensor.

    Args:
        name: What the message calls the image.
        layers: Common names in file order.
        dtypes: Types of the numbers of every layer.
        sensor: Its card.

    Raises:
        InputError: They do not fit.
    """
    if len(dtypes) != len(layers):
        names = ", ".join(map(str, layers))
        raise InputError(f"{name}: has {len(dtypes)} bands, but {len(layers)} are named: {names}")
    if any(dtype.startswith("complex") for dtype in dtypes):
        raise InputError(f"{name}: holds complex numbers, as radar does; reflectance is wanted")
    if sensor is None:
        return
    bands = [band for band in layers if band is not None]
    known = card_bands(sensor)
    wrong = [band for band in bands if band not in known or bands.count(band) > 1]
    if wrong:
        names = ", ".join(known)
        raise InputError(
            f"{name}: {', '.join(wrong)}: not a band of {sensor.id}, or named twice; "
            f"choose of {names}"
        )


class _Described(NamedTuple):
    """What a file says of one of its layers."""

    text: str  # its description, or the colour it is shown in
    band: str | None  # the common name this means, None if it is not clear


def _described_layers(file: DatasetReader, sensor: Sensor | None) -> list[_Described]:
    """What a file says of its layers, by their descriptions, else by their colours."""
    layers = []
    for text, colour, dtype in zip(file.descriptions, file.colorinterp, file.dtypes, strict=True):
        # GDAL itself calls any three layers of bytes red, green, blue.
        if not text and colour.name in COLOURS and (dtype != "uint8" or colour.name == "alpha"):
            text = colour.name
        layers.append(_Described(text or "", band_name(text, sensor) if text else None))
    return layers


def _layers_in_order(name: str, described: Sequence[_Described], card: Sequence[str]) -> Layers:
    """The bands in the order the file says, else in that of the sensor's card."""
    named = {layer.band for layer in described if layer.band}
    unnamed = [layer for layer in described if not layer.text]
    if not named:
        return tuple(card)
    missing = [band for band in card if band not in named]
    if len(unnamed) > 1 or (unnamed and len(missing) != 1):
        places = ", ".join(layer.text or "no name" for layer in described)
        raise InputError(
            f"{name}: only some of its layers are named ({places}); name all of them by --bands"
        )
    return tuple(layer.band if layer.text else missing[0] for layer in described)


def _warn_of_other_order(name: str, layers: Layers, described: Sequence[_Described]) -> None:
    """Warn where the bands that are given are not those the file names."""
    pairs = [(band, layer) for band, layer in zip(layers, described, strict=True) if band]
    wrong = [f"{band} ({layer.text})" for band, layer in pairs if layer.band not in (None, band)]
    if wrong:
        message = (
            f"{name}: --bands contradicts what the file says of its layers: {', '.join(wrong)}; "
            "--bands is used: leave it out if the file is right"
        )
        warnings.warn(message, stacklevel=4)


def _alpha(name: str, file: DatasetReader, layers: Layers) -> int | None:
    """Number of the layer of transparency; a layer that is named as a band is none."""
    if ColorInterp.alpha not in file.colorinterp:
        return None
    tagged = file.colorinterp.index(ColorInterp.alpha) + 1
    if len(layers) != file.count or layers[tagged - 1] is None:
        return tagged
    # GDAL tags the first layer that is no colour, which of five bands and alpha is the second.
    if layers[-1] is None and _is_alpha(name, file, file.count):
        return file.count
    return None


def _is_alpha(name: str, file: DatasetReader, layer: int) -> bool:
    """Whether a layer holds nothing but 0 and one other number."""
    height, width = (min(side, OVERVIEW) for side in file.shape)
    with readable_raster(name):
        return len(np.unique(file.read(layer, out_shape=(height, width)))) <= 2


def masks_of(file: DatasetReader) -> tuple[bool, bool]:
    """Whether a file has a shared mask or such of layers; those of a nodata number do not count.

    Args:
        file: The open file.

    Returns:
        Whether one mask holds for all layers, and whether layers have masks of their own.
    """
    flags = [set(flag) for flag in file.mask_flag_enums]
    shared = any(MaskFlags.per_dataset in flag and MaskFlags.alpha not in flag for flag in flags)
    return shared, any(not flag for flag in flags)


def layer_readings(file: DatasetReader, reading: Reading) -> tuple[Reading, ...]:
    """How each layer of a file is read: as `reading` says, else as the file's tags do.

    Args:
        file: The open file.
        reading: What is given; its `bands` name all layers.

    Returns:
        How each layer is read.

    Raises:
        InputError: An offset is no reflectance.
    """
    tags = zip(file.scales, file.offsets, file.nodatavals, strict=True)
    readings = tuple(reading.completed(*tag) for tag in tags)
    other = []
    for band, scale, offset, layer in zip(
        reading.bands or (), file.scales, file.offsets, readings, strict=True
    ):
        if band is None:
            continue
        check_scaling(file.name, band, layer)
        used = np.array([layer.scale, layer.offset], float)
        if (scale, offset) != (1, 0) and not np.allclose((scale, offset), used, 1e-4, 1e-9):
            other.append(
                f"{file.name}: its own tags say scale {scale:g} and offset {offset:g}, but scale "
                f"{used[0]:g} and offset {used[1]:g} are given and used; leave them out to use the "
                "tags"
            )
    if other:
        warnings.warn(other[0], stacklevel=3)
    return readings
