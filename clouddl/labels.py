"""Labels: the masks of existing processors and of people, brought to one convention.

A mask is uint8 (y, x): 0 clear (shadow, snow and water too), 1 cloud, 255 nodata or unlabelled.
It is read through a table of the product's codes, or made here by a processor.
"""

import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import rioxarray
import xarray as xr
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
from scipy import ndimage

from clouddl.errors import InputError

CLEAR, CLOUD, NODATA = 0, 1, 255


@dataclass(frozen=True)
class CodeTable:
    """The codes of one product that are clear, cloud and nodata, and where they are written."""

    source: str
    clear: Sequence[int]
    cloud: Sequence[int]
    nodata: Sequence[int] = ()


def _bits(source: str, *cloud_bits: int, fill: int | None = None, size: int = 8) -> CodeTable:
    """A table of all numbers of `size` bits: cloud where any of the bits (0 is the lowest) is set.

    Where the bit `fill` is set it is nodata, whatever the others.
    """
    codes = range(1 << size)
    empty = [code for code in codes if fill is not None and code >> fill & 1]
    seen = sorted(set(codes) - set(empty))
    cloud = [code for code in seen if any(code >> bit & 1 for bit in cloud_bits)]
    return CodeTable(source, sorted(set(seen) - set(cloud)), cloud, empty)


# MAJA: bit 1 (all clouds but the thinnest) or the thinnest or the high clouds. People outline thin
# cloud too, and F2 holds an omission worse than a false alarm, so the thin ones count. Bit 0 holds
# the shadows. A CLM of 0 is clear *or* outside the image: only the EDG mask tells them apart,
# which `decode` takes as `nodata`.
CODES: dict[str, CodeTable] = {
    # Shadow (4) is clear: ALCD's own comparison counts it invalid (2, 3, 4 against 1, 5, 6, 7), so
    # a score through this table differs from theirs. 1 is unused.
    "alcd": CodeTable("ALCD classification_map, Zenodo 1460960", [4, 5, 6, 7], [2, 3], [0, 1]),
    "maja-clm-muscate": _bits("MAJA CLM, Theia/MUSCATE: thinnest 4, high cloud 7", 1, 4, 7),
    "maja-clm-native": _bits("MAJA CLM, native and Venus: thinnest 6, high cloud 7", 1, 6, 7),
    "maja-mg2": _bits("MAJA MG2, Theia/MUSCATE: all clouds 1; as majamask reads it", 1),
    "maja-nua": _bits("MACCS NUA, Take5: thinnest 4, high cloud 5", 1, 4, 5),
    # The dilated cloud (bit 1) is a margin put around cloud, so it stays clear: see `dilate`.
    "qa-pixel": _bits("Landsat QA_PIXEL, USGS LSDS-1822: cirrus 2, cloud 3", 2, 3, fill=0, size=16),
    "fmask": CodeTable("python-fmask output classes", [1, 3, 4, 5], [2], [0]),
    "fmask4": CodeTable("Fmask 4, Qiu et al. 2019", [0, 1, 2, 3], [4], [255]),
    # 7 is "unclassified or low probability of cloud"; 1 is saturated or defective.
    "scl": CodeTable("Sen2Cor SCL", [2, 3, 4, 5, 6, 7, 11], [8, 9, 10], [0, 1]),
    # 255 is thick cloud here, and 192 thin: not nodata.
    "l8biome": CodeTable("Landsat 8 Biome, Foga et al. 2017", [64, 128], [192, 255], [0]),
    "ukis": CodeTable("DLR: shadow, water, snow, land, cloud", [0, 1, 2, 3], [4]),
    "cloudsen12": CodeTable("CloudSEN12: clear, thick, thin, shadow", [0, 3], [1, 2]),
    "binary": CodeTable("CloudDL's own masks", [CLEAR], [CLOUD], [NODATA]),
}


def decode(array: np.ndarray, codes: str, nodata: np.ndarray | None = None) -> np.ndarray:
    """Map the codes of a table of `CODES` to 0 clear, 1 cloud, 255 nodata (uint8, same shape).

    `nodata`, same shape, is non-zero where nothing was observed (MAJA's EDG); NaN is nodata too.
    Raises InputError for a table or a code that does not exist, and for shapes that differ.
    """
    if codes not in CODES:
        raise InputError(f"label codes {codes!r} are unknown; choose one of {', '.join(CODES)}")
    array = np.asarray(array)
    outside = np.isnan(array)
    if nodata is not None:
        if np.shape(nodata) != array.shape:
            raise InputError(f"nodata has shape {np.shape(nodata)}, the mask {array.shape}")
        outside |= np.asarray(nodata) != 0
    table = CODES[codes]
    known = sorted([*table.clear, *table.cloud, *table.nodata])
    if unknown := np.setdiff1d(array[~outside], known).tolist():
        told = known if len(known) < 32 else f"{known[0]} to {known[-1]}"
        message = f"{codes}: code(s) {unknown[:8]} are not in its table, which has {told}; is it"
        raise InputError(f"{message} another product? Choose one of {', '.join(CODES)}")
    lookup = np.full(known[-1] + 1, NODATA, np.uint8)
    lookup[list(table.clear)], lookup[list(table.cloud)] = CLEAR, CLOUD
    decoded = lookup[np.where(outside, known[0], array).astype(np.uint16)]
    decoded[outside] = NODATA
    return decoded


def _select(
    reflectance: np.ndarray, bands: Sequence[str], wanted: Sequence[str], processor: str
) -> tuple[np.ndarray, np.ndarray]:
    """A copy of the wanted bands (y, x, band), NaN made 0, and where (y, x) any of them was NaN."""
    missing = ", ".join(name for name in wanted if name not in bands)
    if missing:
        raise InputError(f"{processor} needs band(s) {missing}; this image has {', '.join(bands)}")
    rows = [list(bands).index(name) for name in wanted]
    image = np.moveaxis(np.asarray(reflectance, np.float32)[rows], 0, -1)
    return np.nan_to_num(image), np.any(np.isnan(image), axis=2)


# Sentinel-2 B1, B2, B4, B5, B8, B8A, B9, B10, B11, B12, the order the classifier was trained in.
_VISIBLE_TO_NIR = ("coastal", "blue", "red", "rededge071", "nir", "nir08", "nir09")


S2CLOUDLESS_BANDS = (*_VISIBLE_TO_NIR, "cirrus", "swir16", "swir22")


UKIS_BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")


_UKIS_TILE = 256  # pixels


def s2cloudless(
    reflectance: np.ndarray, bands: Sequence[str], resolution: float,
    threshold: float = 0.4, average_m: float = 40, dilation_m: float = 20,
) -> np.ndarray:  # fmt: skip
    """Sentinel Hub's pixel classifier for Sentinel-2 (package s2cloudless): a mask (y, x).

    `reflectance` is top-of-atmosphere (band, y, x), `resolution` in metres. The probability is
    averaged and the mask dilated over discs whose radii, in metres, are rounded to whole pixels
    (4 and 2 at 10 m). NaN in a band it needs gives 255. A band that is missing: InputError.
    """
    image, hole = _select(reflectance, bands, S2CLOUDLESS_BANDS, "s2cloudless")
    from s2cloudless import S2PixelCloudDetector  # late: it brings sentinelhub and LightGBM

    average, dilation = round(average_m / resolution), round(dilation_m / resolution)
    detector = S2PixelCloudDetector(threshold, average_over=average, dilation_size=dilation)
    probability = detector.get_cloud_probability_maps(image[np.newaxis])
    probability[0, hole] = 0.0  # a hole must not become a cloud that grows into its neighbours
    return np.where(hole, NODATA, detector.get_mask_from_prob(probability)[0]).astype(np.uint8)


def ukis_csmask(
    reflectance: np.ndarray, bands: Sequence[str], level: str = "toa", n_bands: int = 6
) -> np.ndarray:
    """DLR's U-Net for several sensors (package ukis-csmask), its cloud class: a mask (y, x).

    `reflectance` is (band, y, x), `level` "toa" or "surface"; trained near 30 m. `n_bands` is 4
    (blue, green, red, nir) or 6 (swir16 and swir22 too). An image under 256 pixels is mirrored up
    to its tile and cropped back. Threads: OMP_NUM_THREADS, else up to four. NaN gives 255.
    """
    if level not in ("toa", "surface") or n_bands not in (4, 6):
        raise InputError(f"ukis-csmask: level {level!r} (toa, surface), n_bands {n_bands} (4, 6)")
    image, hole = _select(reflectance, bands, UKIS_BANDS[:n_bands], "ukis-csmask")
    try:
        from ukis_csmask.mask import CSmask
    except ImportError as error:
        raise InputError("ukis-csmask is not installed: pip install 'clouddl[ukis]'") from error
    height, width = hole.shape
    margin = [(0, max(0, _UKIS_TILE - size)) for size in (height, width)]
    threads = os.environ.get("OMP_NUM_THREADS", "")  # onnxruntime itself does not read it
    result = CSmask(
        np.pad(image, (*margin, (0, 0)), mode="reflect"),
        UKIS_BANDS[:n_bands],
        product_level="l1c" if level == "toa" else "l2a",
        intra_op_num_threads=int(threads) if threads.isdigit() else min(4, os.cpu_count() or 1),
        providers=["CPUExecutionProvider"],
    )
    cloud = result.csm[:height, :width, 0] == 1  # 2 is shadow
    return np.where(hole, NODATA, cloud).astype(np.uint8)


def consensus(*masks: np.ndarray) -> np.ndarray:
    """What all masks (y, x) say alike, and 255 where they differ, so that training ignores it."""
    if len({mask.shape for mask in masks}) != 1:
        raise InputError(f"consensus wants masks of one shape, not {[m.shape for m in masks]}")
    same = np.all([mask == masks[0] for mask in masks], axis=0)
    return np.where(same, masks[0], NODATA).astype(np.uint8)


def dilate(mask: np.ndarray, metres: float, resolution: float) -> np.ndarray:
    """Grow cloud (y, x) by a disc of `metres` (not only whole pixels of `resolution` metres)."""
    if not (metres >= 0 and resolution > 0):
        raise InputError(f"dilation of {metres} m on a grid of {resolution} m: want >= 0 and > 0")
    if not (mask == CLOUD).any():  # the transform has nothing to measure from
        return mask.copy()
    near = ndimage.distance_transform_edt(mask != CLOUD) <= metres / resolution
    return np.where(near & (mask == CLEAR), CLOUD, mask).astype(np.uint8)


def to_mask(
    probability: np.ndarray, threshold: float, dilation_m: float = 0, resolution: float = 1
) -> np.ndarray:
    """uint8 mask (y, x): 0 clear, 1 cloud, 255 where the probability is NaN."""
    mask = (probability >= np.float32(threshold)).astype(np.uint8)
    mask[np.isnan(probability)] = NODATA
    return dilate(mask, dilation_m, resolution) if dilation_m else mask


# What label_scene can label with, and the parameters it does it with. ukis-csmask with four bands,
# since at 10 m it agrees more with s2cloudless, which knows nothing of it, than with six; and the
# four-band network is the one that sensors without SWIR share.
LABEL_SOURCES: dict[str, dict] = {
    "s2cloudless": {"threshold": 0.4, "average_m": 40, "dilation_m": 20},
    "ukis-csmask": {"n_bands": 4},
    "consensus": {"of": ["s2cloudless", "ukis-csmask"]},
}


def label_scene(dataset: xr.Dataset, source: str, dilation_m: float = 0.0) -> xr.DataArray:
    """Label a scene with a processor of `LABEL_SOURCES`: a mask (y, x).

    `dilation_m` (metres) grows the cloud afterwards; for "consensus", before the comparison.
    attrs: source, parameters (JSON), version (of the packages). Raises InputError.
    """
    if source not in LABEL_SOURCES:
        raise InputError(f"label source {source!r} is unknown; choose {', '.join(LABEL_SOURCES)}")
    if source == "s2cloudless" and dataset.attrs["level"] != "toa":
        raise InputError("s2cloudless wants top-of-atmosphere reflectance; this scene is surface")
    parameters = LABEL_SOURCES[source]
    image, bands = dataset["reflectance"].values, dataset["band"].values.tolist()
    resolution, level = float(dataset.attrs["resolution"]), dataset.attrs["level"]
    if source == "consensus":
        parts = [label_scene(dataset, name, dilation_m) for name in parameters["of"]]
        mask, package = consensus(*(p.values for p in parts)), ", ".join(p.version for p in parts)
    else:
        if source == "s2cloudless":
            mask = s2cloudless(image, bands, resolution, **parameters)
        else:
            mask = ukis_csmask(image, bands, level, **parameters)
        mask, package = dilate(mask, dilation_m, resolution), f"{source} {version(source)}"
    written = json.dumps({**parameters, "label_dilation_m": dilation_m}, sort_keys=True)
    return on_grid(mask, dataset, source=source, parameters=written, version=package)


def on_grid(
    values: np.ndarray, like: xr.Dataset | xr.DataArray, name: str = "mask", **attrs: str
) -> xr.DataArray:
    """Values (y, x) with the coordinates and the CRS of an image."""
    coords = {axis: like[axis] for axis in ("y", "x", "spatial_ref") if axis in like.coords}
    return xr.DataArray(values, coords, ("y", "x"), name, attrs)


def _grid(data: xr.Dataset | xr.DataArray) -> str:
    place = f", {data.rio.crs}, bounds {data.rio.bounds()}" if data.rio.crs else ", no CRS"
    return f"{data.sizes['y']} x {data.sizes['x']} pixels{place}"


def _codes(path: str) -> xr.DataArray:
    name, _, member = path.partition("#")
    if name.endswith((".npy", ".npz")):
        array = np.load(name, allow_pickle=False)  # a pickle could run code
        array = array[member] if name.endswith(".npz") else array
        single = next((axis for axis, n in enumerate(array.shape) if n == 1), None)
        flat = array.squeeze(single) if array.ndim == 3 and single is not None else array
        return xr.DataArray(flat, dims=("y", "x"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        raster = rioxarray.open_rasterio(name)
    if not isinstance(raster, xr.DataArray):
        raise InputError("it holds several datasets; give a file of one layer")
    return raster.load().squeeze("band", drop=True)


def read_mask(
    path: str | Path, codes: str, like: xr.Dataset | xr.DataArray | None = None
) -> xr.DataArray:
    """Read a mask (GeoTIFF, "x.npz#member", .npy) and decode it with table `codes`: (y, x).

    With `like`, on its grid: same CRS and same ground at another resolution, by majority; without
    a CRS on both, only the shapes can be compared. InputError if the grids disagree.
    """
    try:
        raw = _codes(str(path))
        mask = raw.copy(data=decode(raw.values, codes))
    except (RasterioIOError, OSError, BadZipFile, EOFError, LookupError, ValueError) as error:
        raise InputError(f"{path}: cannot be read as a mask: {error}") from error
    attrs = {"source": Path(path).name, "codes": codes}
    mask.attrs, mask.encoding = {}, {}  # GDAL's scale and fill are of no meaning any more
    if like is None:
        return mask.rename("mask").assign_attrs(attrs)
    fits = mask.shape == (like.sizes["y"], like.sizes["x"])
    if mask.rio.crs and like.rio.crs:
        # Grids of the same ground may differ at the edge by a part of the coarser pixel.
        pixel = max(abs(step) for grid in (mask, like) for step in grid.rio.resolution())
        apart = np.abs(np.subtract(mask.rio.bounds(), like.rio.bounds())).max() / pixel
        same_ground = mask.rio.crs == like.rio.crs and apart < (0.01 if fits else 1)
        if same_ground and not fits:
            # The nodata tag keeps GDAL from counting 255 as a class, and writing it as 254.
            tagged = mask.rio.write_nodata(NODATA)
            mask = tagged.rio.reproject_match(like, resampling=Resampling.mode)
        fits = same_ground
    if not fits:
        raise InputError(f"{path}: its grid ({_grid(mask)}) is not the image's ({_grid(like)})")
    return on_grid(mask.values, like, **attrs)
