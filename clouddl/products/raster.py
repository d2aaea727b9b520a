"""A file that GDAL opens: its errors, and which of its layers is which band and how it is read."""

import os
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rasterio
from rasterio.enums import ColorInterp
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.io import DatasetReader

from clouddl.errors import DAMAGED, InputError, check_path, read_yaml, warn
from clouddl.files import is_local, masks_of, split_member
from clouddl.products.reading import Layers, Reading, check_scaling
from clouddl.sensors import STUDY_BANDS, Sensor, band_name

OVERVIEW = 1024  # pixels a side of the decimated image that checks and statistics are made from
NOT_UTF_8 = "a name in this path is not UTF-8, as GDAL wants it; rename it (convmv)"

# GDAL places a netCDF file by x and y also where these have no attributes of CF; else it turns it
# upside down.
BY_COORDINATES: dict[str, Any] = {"IGNORE_XY_AXIS_NAME_CHECKS": "YES"}

#: What people give in place of an image or a product, and what to do then.
HINTS = read_yaml(Path(__file__).with_name("hints.yaml"), "table of hints")

# Colours of layers that say what they are; the others (grey, palette, ...) do not.
COLOURS = ("coastal", "blue", "green", "red", "nir", "alpha")


def open_raster(path: Path | str) -> DatasetReader:
    """Open a file with GDAL, without its warning that the file has no CRS.

    Args:
        path: What GDAL opens.

    Returns:
        The open file, for a `with` statement.
    """
    netcdf = re.search(r"^netcdf:|\.nc4?$", str(path), re.IGNORECASE)
    options = BY_COORDINATES if netcdf else {}
    with warnings.catch_warnings(action="ignore", category=NotGeoreferencedWarning):
        return rasterio.open(path, **options)


def files_of(file: DatasetReader) -> list[str]:
    """Name all files that a file is read from.

    Args:
        file: The open file.

    Returns:
        Its own name first; of a VRT also the files of this machine that its sources are made of.
    """
    files = list(file.files)
    for source in _sources(file, os.path.isfile):
        files += source.files
    return list(dict.fromkeys(files))


def _sources(
    file: DatasetReader, wanted: Callable[[str], object] = bool
) -> Iterator[DatasetReader]:
    """Open the sources of a VRT whose names are wanted, and theirs, each once.

    GDAL itself reads a band whose file is missing as nodata.
    """
    waiting = list(file.files)[1:] if file.driver == "VRT" else []
    opened: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name not in opened and wanted(name):
            opened.add(name)
            if is_local(name) and not os.path.exists(name):
                raise InputError(f"{file.name}: its source {name} is missing; put it back")
            with suppress(RasterioError), open_raster(name) as source:
                waiting += source.files[1:] if source.driver == "VRT" else []
                yield source


def check_name(path: Path | str) -> None:
    """Check that GDAL can open what has this name, and that reading it comes to an end.

    Args:
        path: A path, or another name that GDAL knows.

    Raises:
        InputError: It is no name, not UTF-8, or of what is neither a file nor a folder.
    """
    if not isinstance(path, Path | str) or not str(path).strip():
        raise InputError(f"{path!r} is no path; give that of an image or a product as text")
    if re.search("[\\ud800-\\udfff]", str(path)):  # as Python keeps other bytes than UTF-8
        raise InputError(f"{path}: {NOT_UTF_8}")
    special = os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path))
    if special and is_local(path):
        raise InputError(f"{path}: is a pipe or a device; write it to a file first")


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
        advice = DAMAGED
        if not is_local(name):
            advice = "check the address and the connection, and whether it wants credentials"
        elif ":" not in name[2:]:  # else a file in a product
            check_path(split_member(name)[0], "an image", ", or a product without --sensor")
            advice = HINTS["image"].get(Path(name).suffix.lower(), DAMAGED)
            if name.lower().endswith((".zip", ".tar", ".gz", ".tgz")):
                advice = "leave --sensor out if it is a product; else unpack it, and give its image"
        fault = error
        while fault.__cause__ is not None:  # rasterio's own words are "see previous exception"
            fault = fault.__cause__
        raise InputError(f"{name}: cannot be read as an image ({fault}); {advice}") from error


def find_layers(
    file: DatasetReader, given: Layers | None, sensor: Sensor | None
) -> tuple[Layers, int | None]:
    """Find out which layer of a file is which band.

    Args:
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
        layers = _layers_in_order(file.name, described, sensor.commons if sensor else ())
    alpha = _alpha(file, layers)
    if alpha and len(layers) == file.count - 1:
        layers = (*layers[: alpha - 1], None, *layers[alpha - 1 :])
    check_layers(file.name, layers, file.dtypes, sensor)
    pairs = [(band, layer) for band, layer in zip(layers, described, strict=True) if band]
    wrong = [f"{band} ({layer.text})" for band, layer in pairs if layer.band not in (None, band)]
    # PNG calls all layers red, green, blue and alpha, whatever they are.
    if wrong and file.driver != "PNG":
        used = "--bands" if sensor else "the metadata or catalogue"
        warn(
            f"{file.name}: {used} contradicts what the file says of its layers: "
            f"{', '.join(wrong)}; {used} is used: leave it out, or correct it, if the file is right"
        )
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
        names = ", ".join("-" if band is None else band for band in layers)
        raise InputError(
            f"{name}: has {len(dtypes)} bands, but {len(layers)} are named: {names}; name those of "
            "the file, in its order (--bands; - skips one)"
        )
    for dtype in dtypes:
        if not dtype.startswith(("int", "uint", "float")):
            kind = "complex numbers, as radar does" if dtype.startswith("complex") else dtype
            raise InputError(f"{name}: holds {kind}; reflectance is wanted, as floats or integers")
    if sensor and {"int8", "uint8"} & set(dtypes):
        warn(
            f"{name}: holds 8-bit numbers, as pictures do that are stretched for display; its mask "
            "is wrong unless one scale makes reflectance of all bands; take the file before it"
        )
    bands = [band for band in layers if band is not None]
    known = sensor.commons if sensor else bands
    wrong = [band for band in bands if band not in known or bands.count(band) > 1]
    if wrong:
        of = f"not a band of {sensor.id}, or " if sensor else ""
        raise InputError(
            f"{name}: {', '.join(wrong)}: {of}named twice; name the layers by --bands, of "
            f"{', '.join(dict.fromkeys(known))} (- skips one)"
        )


class _Described(NamedTuple):
    """What a file says of one of its layers."""

    text: str  # its description, or the colour it is shown in
    band: str | None  # the common name this means, None if it is not clear


def _described_layers(file: DatasetReader, sensor: Sensor | None) -> list[_Described]:
    """What a file says of its layers, by their descriptions, else by their colours.

    Of a product, which has no sensor yet, colours are for display.
    """
    layers = []
    for text, colour, dtype in zip(file.descriptions, file.colorinterp, file.dtypes, strict=True):
        # GDAL itself calls any three layers of bytes red, green, blue.
        seen = colour.name in COLOURS and (dtype != "uint8" or colour.name == "alpha")
        if sensor and seen and not text:
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
    unknown = [layer.text for layer in described if layer.text and not layer.band]
    wanted = [band for band in missing if band in STUDY_BANDS]
    if unknown and wanted and not unnamed:
        warn(
            f"{name}: the layers {', '.join(unknown)} are not understood and left out; if one is "
            f"{' or '.join(wanted)}, name all layers by --bands"
        )
    return tuple(layer.band if layer.text else missing[0] for layer in described)


def _alpha(file: DatasetReader, layers: Layers) -> int | None:
    """Number of the layer of transparency; a layer that is named as a band is none."""
    if ColorInterp.alpha not in file.colorinterp:
        return None
    tagged = file.colorinterp.index(ColorInterp.alpha) + 1
    # GDAL tags the first layer that is no colour, which of five bands and alpha is the second.
    guessed = tagged == 2 < file.count and not _is_alpha(file, tagged)
    if len(layers) != file.count:
        return file.count if guessed else tagged
    if layers[tagged - 1] is None and not guessed:
        return tagged
    if layers[-1] is None and (guessed or _is_alpha(file, file.count)):
        return file.count
    return None


def _is_alpha(file: DatasetReader, layer: int) -> bool:
    """Whether a layer holds nothing but 0 and one other number."""
    height, width = (min(side, OVERVIEW) for side in file.shape)
    with readable_raster(file.name):
        return len(np.unique(file.read(layer, out_shape=(height, width)))) <= 2


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
    tags = [*zip(file.scales, file.offsets, file.nodatavals, strict=True)]
    readings = tuple(reading.completed(*tag) for tag in tags)
    contradictions = []
    for band, (scale, offset, _), layer in zip(reading.bands or (), tags, readings, strict=True):
        check_scaling(file.name, (band,), layer)
        used = layer.scale or 0.0, layer.offset or 0.0
        stated = (scale, offset) != (1, 0)
        if band and stated and not np.allclose((scale, offset), used, 1e-4, 1e-9):
            contradictions.append(
                f"{file.name}: its own tags say scale {scale:g} and offset {offset:g}, but scale "
                f"{used[0]:g} and offset {used[1]:g} are given and used; leave them out to use the "
                "tags"
            )
    if contradictions:
        warn(contradictions[0])
    return readings


def warn_of_sources(file: DatasetReader, reading: Reading) -> None:
    """Warn where a source of a VRT says how its numbers are read, but neither VRT nor user does.

    Args:
        file: The open file.
        reading: What is given.

    Raises:
        InputError: A source is missing.
    """
    stated = _tags(file)
    for source in _sources(file):
        tags = _tags(source)
        lost = [what for what in tags if what not in stated and getattr(reading, what) is None]
        if lost:
            listed = ", ".join(f"{what} {tags[what]}" for what in lost)
            options = ", ".join(f"--{what}" for what in lost)
            warn(
                f"{file.name}: its source {source.name} says {listed}, which it leaves out and "
                f"which is not used; make it by gdalbuildvrt, or give {options}"
            )
            return


def _tags(file: DatasetReader) -> dict[str, str]:
    """What a file says of how its numbers are read."""
    scale, offset, nodata = file.scales[0], file.offsets[0], file.nodata
    tags = {}
    if any(masks_of(file)):
        tags["nodata"] = "by a mask"
    elif nodata is not None and not np.isnan(nodata):
        tags["nodata"] = f"{nodata:g}"
    if scale != 1:
        tags["scale"] = f"{scale:g}"
    if offset:
        tags["offset"] = f"{offset:g}"
    return tags
