"""Labels: the masks of processors and of people, brought to one convention.

A mask is uint8 (y, x): 0 clear (shadow, snow and water too), 1 cloud, 255 nodata or unlabelled.
It is read with the table of its product's codes, or made here by a processor.

xarray, rioxarray and SciPy are imported late: to threshold a probability needs none of them.
"""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from rasterio.enums import Resampling
from rasterio.errors import NotGeoreferencedWarning

from clouddl.errors import InputError, check_path, read_yaml, readable, validated, warn
from clouddl.files import is_local, load_array, masks_of, split_member

if TYPE_CHECKING:
    import xarray as xr

CLEAR, CLOUD, NODATA = 0, 1, 255
_NO_CODE = 254  # in a lookup table

Gridded: TypeAlias = "xr.Dataset | xr.DataArray"  # with y and x

Code = Annotated[int, Field(ge=0, lt=1 << 16)]
Bit = Annotated[int, Field(ge=0, lt=16)]


class CodeTable(BaseModel):
    """The codes of one product's mask: lists of codes, or the bits that mean cloud and nodata."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str  # where the codes are published
    clear: tuple[Code, ...] = ()
    cloud: tuple[Code, ...] = ()
    nodata: tuple[Code, ...] = ()
    cloud_bits: tuple[Bit, ...] = ()  # any of them means cloud; 0 is the lowest
    fill_bit: Bit | None = None  # means nodata, whatever the others
    size: int = Field(8, ge=1, le=16)  # bits

    @model_validator(mode="after")
    def _check_cloud(self) -> "CodeTable":
        if bool(self.cloud) == bool(self.cloud_bits):
            raise ValueError("give either `cloud` (a list of codes) or `cloud_bits`")
        return self

    def lookup(self) -> np.ndarray:
        """Tabulate the mask value of every code: uint8 (code,), `_NO_CODE` where there is none."""
        if self.cloud_bits:
            codes = np.arange(1 << self.size)
            values = (codes & sum(1 << bit for bit in self.cloud_bits) > 0).astype(np.uint8)
            if self.fill_bit is not None:
                values[codes & (1 << self.fill_bit) > 0] = NODATA
            return values
        values = np.full(1 << 16, _NO_CODE, np.uint8)
        values[list(self.nodata)] = NODATA
        values[list(self.clear)] = CLEAR
        values[list(self.cloud)] = CLOUD
        return values


def read_codes(path: str | Path) -> dict[str, CodeTable]:
    """Read tables of codes from a YAML file such as `clouddl/codes.yaml`.

    Args:
        path: The file.

    Returns:
        The tables by name.

    Raises:
        InputError: The file or a field is wrong.
    """
    tables = read_yaml(path, "table of mask codes")
    return {
        name: validated(CodeTable, fields, f"{path}: {name}") for name, fields in tables.items()
    }


CODES = read_codes(Path(__file__).with_name("codes.yaml"))


def decode(array: np.ndarray, codes: str, nodata: np.ndarray | None = None) -> np.ndarray:
    """Map the codes of a product to 0 clear, 1 cloud, 255 nodata.

    Args:
        array: Codes, of any shape; NaN is nodata.
        codes: Name of a table of `CODES`.
        nodata: Same shape, non-zero where nothing was observed (MAJA's EDG).

    Returns:
        uint8 of the same shape.

    Raises:
        InputError: No such table, a code that the table does not have, or shapes that differ.
    """
    if codes not in CODES:
        raise InputError(f"label codes {codes!r} are unknown; choose one of {', '.join(CODES)}")
    invalid = np.isnan(array)
    if nodata is not None:
        if nodata.shape != array.shape:
            raise InputError(f"nodata has shape {nodata.shape}, the mask {array.shape}")
        invalid |= nodata != 0
    lookup = CODES[codes].lookup()
    known = np.flatnonzero(lookup != _NO_CODE).tolist()
    unknown = np.setdiff1d(array[~invalid], known).tolist()
    if any(code % 1 for code in unknown):
        raise InputError(
            f"{codes}: {unknown[0]:.3g} is no code but a fraction, as of a probability; give a mask"
        )
    if unknown:
        listed = known if len(known) < 32 else f"{known[0]} to {known[-1]}"
        raise InputError(
            f"{codes}: code(s) {unknown[:8]} are not in its table, which has {listed}; if the mask "
            f"is of another product, choose one of {', '.join(CODES)}"
        )
    decoded = lookup[np.where(invalid, known[0], array).astype(np.uint16)]
    decoded[invalid] = NODATA
    return decoded


def vote(masks: Sequence[np.ndarray], rule: str) -> np.ndarray:
    """Join the masks of several processors.

    Args:
        masks: Masks (y, x).
        rule: "all": what all agree on, 255 elsewhere; "majority": what more than half say; "any":
            cloud where any of them says so.

    Returns:
        The mask (y, x) uint8, 255 where any of them is 255.

    Raises:
        InputError: Shapes differ, or no such rule.
    """
    shapes = [mask.shape for mask in masks]
    if len(set(shapes)) != 1:
        raise InputError(f"a vote needs masks of one shape, not {shapes}")
    votes = np.sum([mask == CLOUD for mask in masks], axis=0)
    nodata = np.any([mask == NODATA for mask in masks], axis=0)
    if rule == "all":
        nodata |= (votes > 0) & (votes < len(masks))
    needed = {"all": len(masks), "majority": len(masks) // 2 + 1, "any": 1}
    if rule not in needed:
        raise InputError(f"vote {rule!r} is unknown; choose {', '.join(needed)}")
    return np.where(nodata, NODATA, votes >= needed[rule]).astype(np.uint8)


def dilate(mask: np.ndarray, metres: float, resolution: float) -> np.ndarray:
    """Grow cloud over clear pixels by a disc, whose radius may be a fraction of pixels.

    Args:
        mask: Mask (y, x).
        metres: Radius.
        resolution: Metres per pixel.

    Returns:
        A new mask (y, x) uint8.

    Raises:
        InputError: A negative radius or resolution.
    """
    if not (metres >= 0 and resolution > 0):
        raise InputError(f"dilation of {metres} m at {resolution} m: must be >= 0 and > 0")
    if not (mask == CLOUD).any():  # the distance transform has nothing to measure from
        return mask.copy()
    from scipy import ndimage

    near = ndimage.distance_transform_edt(mask != CLOUD) <= metres / resolution
    return np.where(near & (mask == CLEAR), CLOUD, mask).astype(np.uint8)


def to_mask(
    probability: np.ndarray, threshold: float, dilation_m: float = 0, resolution: float = 1
) -> np.ndarray:
    """Make a mask of cloud probability.

    Args:
        probability: Probability (y, x), nodata NaN.
        threshold: Cloud from this probability on.
        dilation_m: Metres to grow cloud by.
        resolution: Metres per pixel; needed for a dilation.

    Returns:
        The mask (y, x) uint8.
    """
    mask = (probability >= np.float32(threshold)).astype(np.uint8)
    mask[np.isnan(probability)] = NODATA
    return dilate(mask, dilation_m, resolution) if dilation_m else mask


# Sentinel-2 B1, B2, B4, B5, B8, B8A, B9, B10, B11, B12, the order the classifier was trained in.
_VISIBLE_TO_NIR = ("coastal", "blue", "red", "rededge071", "nir", "nir08", "nir09")
S2CLOUDLESS_BANDS = (*_VISIBLE_TO_NIR, "cirrus", "swir16", "swir22")
UKIS_BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
_UKIS_TILE = 256  # pixels

# What `label_scene` can label with: processors with their parameters, and votes of them.
# ukis-csmask has four bands: at 10 m it agrees more with s2cloudless, which is independent of it,
# than with six, and sensors without SWIR can use the four-band network too.
PROCESSORS = ["s2cloudless", "ukis-csmask", "spectral-tests"]
LABEL_SOURCES: dict[str, dict] = {
    "s2cloudless": {"threshold": 0.4, "average_m": 40, "dilation_m": 20},
    "ukis-csmask": {"n_bands": 4},
    "spectral-tests": {},
    "consensus": {"of": PROCESSORS, "rule": "all"},
    "majority": {"of": PROCESSORS, "rule": "majority"},
    "union": {"of": ["ukis-csmask", "spectral-tests"], "rule": "any"},
}


def _select(
    reflectance: np.ndarray, bands: Sequence[str], needed: Sequence[str], processor: str
) -> tuple[np.ndarray, np.ndarray]:
    """A copy of the needed bands (y, x, band), NaN made 0, and where (y, x) any of them was NaN."""
    missing = [name for name in needed if name not in bands]
    if missing:
        raise InputError(
            f"{processor} needs band(s) {', '.join(missing)}; this image has {', '.join(bands)}"
        )
    layers = [list(bands).index(name) for name in needed]
    image = np.moveaxis(np.asarray(reflectance, np.float32)[layers], 0, -1)
    return np.nan_to_num(image), np.any(np.isnan(image), axis=2)


def s2cloudless(
    reflectance: np.ndarray,
    bands: Sequence[str],
    resolution: float,
    threshold: float = 0.4,
    average_m: float = 40,
    dilation_m: float = 20,
) -> np.ndarray:
    """Label with Sentinel Hub's pixel classifier for Sentinel-2 (package s2cloudless).

    Args:
        reflectance: Top-of-atmosphere reflectance (band, y, x), nodata NaN.
        bands: Common names of its bands.
        resolution: Metres per pixel.
        threshold: Cloud from this probability on.
        average_m: Radius in metres of the disc that probability is averaged over; like the next,
            it is rounded to whole pixels (4 and 2 at 10 m).
        dilation_m: Radius in metres of the disc that cloud is grown by.

    Returns:
        The mask (y, x) uint8, 255 where a band of `S2CLOUDLESS_BANDS` is NaN.

    Raises:
        InputError: A band is missing.
    """
    image, invalid = _select(reflectance, bands, S2CLOUDLESS_BANDS, "s2cloudless")
    from s2cloudless import S2PixelCloudDetector  # late: it brings sentinelhub and LightGBM

    detector = S2PixelCloudDetector(
        threshold,
        average_over=round(average_m / resolution),
        dilation_size=round(dilation_m / resolution),
    )
    probability = detector.get_cloud_probability_maps(image[np.newaxis])
    probability[0, invalid] = 0.0  # nodata must not become cloud that grows into its neighbours
    mask = detector.get_mask_from_prob(probability)[0]
    return np.where(invalid, NODATA, mask).astype(np.uint8)


def ukis_csmask(
    reflectance: np.ndarray, bands: Sequence[str], level: str = "toa", n_bands: int = 6
) -> np.ndarray:
    """Label with the cloud class of DLR's U-Net for several sensors (package ukis-csmask).

    It was trained near 30 m. An image under 256 pixels is mirrored up to that and cropped back.
    Threads: OMP_NUM_THREADS, else up to four.

    Args:
        reflectance: Reflectance (band, y, x), nodata NaN.
        bands: Common names of its bands.
        level: "toa" or "surface".
        n_bands: 4 (blue, green, red, nir) or 6 (swir16 and swir22 too).

    Returns:
        The mask (y, x) uint8, 255 where a band it reads is NaN.

    Raises:
        InputError: A band or the package is missing, or an option is wrong.
    """
    if level not in ("toa", "surface") or n_bands not in (4, 6):
        raise InputError(f"ukis-csmask: level {level!r} (toa, surface), n_bands {n_bands} (4, 6)")
    image, invalid = _select(reflectance, bands, UKIS_BANDS[:n_bands], "ukis-csmask")
    try:
        from ukis_csmask.mask import CSmask
    except ImportError as error:
        raise InputError("ukis-csmask is not installed: pip install 'clouddl[ukis]'") from error
    height, width = invalid.shape
    margin = [(0, max(0, _UKIS_TILE - size)) for size in (height, width)]
    padded = np.pad(image, (*margin, (0, 0)), mode="reflect")
    requested = os.environ.get("OMP_NUM_THREADS", "")  # onnxruntime itself does not read it
    threads = int(requested) if requested.isdigit() else min(4, os.cpu_count() or 1)
    result = CSmask(
        padded,
        UKIS_BANDS[:n_bands],
        product_level="l1c" if level == "toa" else "l2a",
        intra_op_num_threads=threads,
        providers=["CPUExecutionProvider"],
    )
    cloud = result.csm[:height, :width, 0] == 1  # 2 is shadow
    return np.where(invalid, NODATA, cloud).astype(np.uint8)


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


def spectral_tests(reflectance: "xr.DataArray") -> np.ndarray:
    """Find cloud where a pixel passes every test its bands allow (`available_tests`).

    The first pass of Zhu and Woodcock (2012, doi 10.1016/j.rse.2011.10.028) with its published
    constants: nothing is tuned here, and nothing was learnt from any mask. The probabilities that
    follow in the paper are left out: they rest on temperature.

    Args:
        reflectance: Reflectance (band, y, x) at the top of the atmosphere.

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
    return np.where(nodata, NODATA, np.all(passed, axis=0)).astype(np.uint8)


def label_scene(
    dataset: "xr.Dataset", source: str, known: Mapping[str, np.ndarray] | None = None
) -> np.ndarray:
    """Label a scene with a processor, or with a vote of several.

    Args:
        dataset: Scene with `reflectance` (band, y, x) and the attributes `level`, `resolution`.
        source: Name in `LABEL_SOURCES`.
        known: Masks of it by processors, which are slow, for a vote.

    Returns:
        The mask (y, x) uint8.

    Raises:
        InputError: No such source, or the scene does not suit it.
    """
    if source not in LABEL_SOURCES:
        raise InputError(f"label source {source!r} is unknown; choose {', '.join(LABEL_SOURCES)}")
    parameters = LABEL_SOURCES[source]
    if "of" in parameters:
        known = known or {}
        masks = [
            known[name] if name in known else label_scene(dataset, name)
            for name in parameters["of"]
        ]
        return vote(masks, parameters["rule"])
    if source == "spectral-tests":
        return spectral_tests(dataset.reflectance)
    image, bands = dataset.reflectance.values, dataset.band.values.tolist()
    level = dataset.attrs["level"]
    if source == "ukis-csmask":
        return ukis_csmask(image, bands, level, **parameters)
    if level != "toa":
        raise InputError("s2cloudless needs top-of-atmosphere reflectance; this scene is surface")
    return s2cloudless(image, bands, dataset.attrs["resolution"], **parameters)


def on_grid(values: np.ndarray, like: Gridded, name: str = "mask", **attrs: str) -> "xr.DataArray":
    """Give values the coordinates and the CRS of an image.

    Args:
        values: Array (y, x).
        like: The image.
        name: Name of the result.
        **attrs: Its attributes.

    Returns:
        The values as a DataArray (y, x).
    """
    import xarray as xr

    coords = {axis: like[axis] for axis in ("y", "x", "spatial_ref") if axis in like.coords}
    return xr.DataArray(values, coords, ("y", "x"), name, attrs)


def read_mask(path: str | Path, codes: str, like: "Gridded | None" = None) -> "xr.DataArray":
    """Read and decode a mask.

    Args:
        path: GeoTIFF, .npy or "file.npz#member".
        codes: Name of a table of `CODES`.
        like: Image whose grid it is brought to, by majority: same CRS and same ground, perhaps at
            another resolution. Without a CRS on both, only the shapes can be compared.

    Returns:
        The mask (y, x), with attributes source and codes.

    Raises:
        InputError: An unreadable file, an unknown code, or a grid of other ground.
    """
    with readable(path, "mask"):
        stored, hidden = _load(str(path))
        declared = stored.rio.nodata
        if codes == "binary":
            _check_binary(stored)
            if declared in (CLEAR, CLOUD):
                warn(
                    f"{path}: its nodata value is {declared:g}, but that is counted as "
                    f"{'cloud' if declared else 'clear'}; if it means nodata, write 255 instead"
                )
        if declared is not None and declared not in range(1 << 8):  # else the table says it
            hidden |= stored.values == declared
        values = decode(stored.values, codes, hidden)
    mask = on_grid(values, stored, source=Path(path).name, codes=codes)
    return mask if like is None else _brought_to(like, mask, path)


def _brought_to(like: Gridded, mask: "xr.DataArray", path: str | Path) -> "xr.DataArray":
    """The mask on the grid of an image, as `read_mask` promises it."""
    systems = mask.rio.crs, like.rio.crs
    same_shape = mask.shape == (like.sizes["y"], like.sizes["x"])
    fits = same_shape
    if all(systems) or (_is_placed(mask) and _is_placed(like)):
        mask = _turned_as(like, mask)
        fits = _same_ground(mask, like) and (systems[0] == systems[1] or None in systems)
    if not fits:
        raise InputError(
            f"{path}: its grid ({_describe_grid(mask)}) is not the image's ({_describe_grid(like)})"
        )
    attributes = mask.attrs
    if not same_shape:
        if not all(systems):
            raise InputError(f"{path}: it or the image has no CRS, so it cannot be resampled")
        # The nodata tag keeps GDAL from counting 255 as a class, and writing it as 254.
        tagged = mask.rio.write_nodata(NODATA)
        mask = tagged.rio.reproject_match(like, resampling=Resampling.mode)
    return on_grid(mask.values, like, **attributes)


def _same_ground(mask: "xr.DataArray", like: Gridded) -> bool:
    """Whether two grids cover the same ground, with an edge apart by less than a pixel.

    Grids of other pixels may differ by a part of the coarser one, those of the same ones hardly.
    """
    pixel = np.abs([mask.rio.resolution(), like.rio.resolution()]).max()
    apart = np.abs(np.subtract(mask.rio.bounds(), like.rio.bounds())).max()
    if mask.shape == (like.sizes["y"], like.sizes["x"]):
        pixel *= 0.01
    return bool(apart < pixel)


def _load(path: str) -> "tuple[xr.DataArray, np.ndarray]":
    """The stored codes (y, x), and where a mask of the file hides them."""
    import rasterio
    import rioxarray
    import xarray as xr

    name, _ = split_member(path)
    if is_local(name):
        check_path(name, "a mask")
    if not name.endswith((".npy", ".npz")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(name) as file:
                if file.count != 1:
                    has = f"{file.count} layers" if file.count else "several datasets"
                    raise InputError(f"it has {has}; give a file of one layer")
                if file.transform.b or file.transform.d:
                    turned = "its grid is turned against its CRS"
                    raise InputError(f"{turned}; bring it north up (gdalwarp)")
                hidden = any(masks_of(file)) & (file.read_masks(1) == 0)
            raster = rioxarray.open_rasterio(name)
        assert isinstance(raster, xr.DataArray)  # as of every file of one layer
        return raster.load().squeeze("band", drop=True), hidden
    array = load_array(path, 1)
    if len(array) != 1:
        raise InputError(f"it has {len(array)} layers; give an array of one layer")
    return xr.DataArray(array[0], dims=("y", "x")), np.zeros(array.shape[1:], bool)


def _check_binary(stored: "xr.DataArray") -> None:
    """Raise InputError if 255 can be cloud as well as nodata: there is no 1, and no tag says it."""
    if stored.rio.nodata == NODATA or stored.attrs.get("_FillValue") == NODATA:
        return
    if set(np.unique(stored.values).tolist()) == {CLEAR, NODATA}:
        raise InputError(
            "it holds 0 and 255 but no 1, so 255 may be cloud or nodata; if it is cloud, say codes "
            "binary-255 (--codes binary-255); if it is nodata, set it as the file's nodata value "
            "(gdal_edit.py -a_nodata 255)"
        )


def _is_placed(data: Gridded) -> bool:
    """Whether the file says where its pixels lie, if not in which CRS."""
    stated = data.rio.transform(recalc=False) if "spatial_ref" in data.coords else None
    return stated is not None and not stated.is_identity


def _turned_as(like: Gridded, mask: "xr.DataArray") -> "xr.DataArray":
    """The mask with its rows and columns in the order of an image: south up, or north up."""
    steps = zip(("x", "y"), mask.rio.resolution(), like.rio.resolution(), strict=True)
    for axis, step, wanted in steps:
        if step * wanted < 0:
            mask = mask.isel({axis: slice(None, None, -1)})
    return mask.rio.write_transform(mask.rio.transform(recalc=True))


def _describe_grid(data: Gridded) -> str:
    place = f"{data.rio.crs}, bounds {data.rio.bounds()}" if data.rio.crs else "no CRS"
    return f"{data.sizes['y']} x {data.sizes['x']} pixels, {place}"
