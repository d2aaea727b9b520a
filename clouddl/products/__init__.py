"""Products: what agencies deliver, opened by path as the scene Dataset the study uses.

A product is a folder, a zip or a tar. Its metadata say how its numbers become reflectance, so no
option is needed. Each reader names its specification. The layouts were checked against public code
that reads the real products (EOReader, SNAP, OTB, acolite, Start-MAJA), not against real products:
none was at hand. "Unchecked" marks what even that did not settle.
"""

import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

import numpy as np
import xarray as xr
from affine import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from rasterio.windows import Window

from clouddl.errors import InputError
from clouddl.labels import NODATA, dilate, read_mask
from clouddl.products.archives import Fields, Files, list_files
from clouddl.products.grids import weighted_mean, weights
from clouddl.products.raster import open_raster, read_image
from clouddl.sensors import Sensor, get_sensor, middle

STRIP = 1 << 24  # pixels of a band in memory at once


SURFACE = (
    "surface reflectance, and the models learnt from top-of-atmosphere. The correction takes part "
    "of thin cloud and haze away, so expect more of it missed: a lower recall, and with it a lower "
    "F2, than published; by how much was not measured. Prefer the level 1 of the same date"
)


# Masks that may lie in a product, the ones to prefer first: people's, then the processors'.
MASKS = {
    r"(^|/)classification_map\.tif$": "alcd",
    r"(^|/)labels/manual_hq\.tif$": "cloudsen12",
    r"_CLM_(R1|XS)\.tif$": "maja-clm-muscate",
    r"_MG2_(R1|XS)\.tif$": "maja-mg2",
    r"_NUA\.tif$": "maja-nua",
    r"_SCL_20m\.jp2$": "scl",
    r"fmask4[^/]*\.(tif|img)$": "fmask4",
    r"fmask\.(tif|img)$": "fmask",
    r"_QA_PIXEL\.tif$": "qa-pixel",
}


class Grid(NamedTuple):
    """Where the pixels of a file lie; without a CRS the transform is in metres from its corner."""

    shape: tuple[int, int]
    transform: Affine
    resolution: float  # metres
    crs: CRS | None

    def corners(self) -> np.ndarray:
        return np.array([self.transform @ (0, 0), self.transform @ self.shape[::-1]])


@dataclass(frozen=True)
class Layer:
    """A band in a file: reflectance = number * scale + offset."""

    path: str  # what GDAL opens
    member: str
    layout: list[str | None]  # of the file, all but this band None
    scale: float
    offset: float


@dataclass
class Product:
    """What a reader found: the layers by common name. The images themselves are not read yet.

    `missing` are bands the product should have: asking for one is an InputError.
    """

    files: Files
    sensor: Sensor
    level: Literal["toa", "surface"]
    nodata: float | None  # None: the files' own
    kind: str = ""
    layers: dict[str, Layer] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)

    def add(
        self, band: str, member: str | None, scale: float, offset: float = 0.0,
        native: str = "", layout: Sequence[str] = ("",),
    ) -> None:  # fmt: skip
        """Note a band; `layout` names the layers of its file, and `native` is its name there."""
        if member is None:
            self.missing.append(band)
        else:
            own = [band if name == native else None for name in layout]
            self.layers[band] = Layer(self.files.image(member), member, own, scale, offset)

    def pick(self, bands: Sequence[str] | None = None) -> list[str]:
        """The bands asked for, by default all; InputError for one that is not there."""
        wanted = [*self.layers, *self.missing] if bands is None else list(bands)
        for band in wanted:
            if band in self.missing:
                told = "is missing; the product is incomplete: download it again"
                raise InputError(f"{self.files.name}: the file of its band {band} {told}")
            if band not in self.layers:
                have = ", ".join(self.layers)
                raise InputError(f"{self.files.name}: has no reflective band {band}; it has {have}")
        return wanted

    def coarsest(self, bands: Sequence[str]) -> float:
        """Metres per pixel of the coarsest of these bands."""
        return max(self._grid(self.layers[band]).resolution for band in bands)

    def open(
        self, bands: Sequence[str] | None = None, resolution: float | None = None
    ) -> xr.Dataset:
        """Read `bands` on one grid of `resolution` metres: see `open_product`, but for the mask."""
        wanted = self.pick(bands)
        grids = [self._grid(self.layers[band]) for band in wanted]
        target = max(grid.resolution for grid in grids) if resolution is None else resolution
        if not target > 0:
            raise InputError(f"resolution {resolution}: must be above 0 metres")
        (height, width), transform, own, crs = first = grids[0]
        for band, grid in zip(wanted, grids, strict=True):
            pixel = max(abs(first.transform.e), abs(grid.transform.e))
            if grid.crs != crs or np.abs(grid.corners() - first.corners()).max() > pixel / 2:
                member, other = self.layers[band].member, self.layers[wanted[0]].member
                raise InputError(f"{self.files.name}: {member}: its grid is not that of {other}")
        size = max(1, round(height * own / target)), max(1, round(width * own / target))
        pairs = zip(wanted, grids, strict=True)
        image = np.stack([self._read(self.layers[band], grid, size) for band, grid in pairs])
        self._check(image)
        if self.level == "surface":
            warnings.warn(f"{self.files.name}: is {SURFACE}", stacklevel=3)
        affine = transform * Affine.scale(width / size[1], height / size[0])
        name = re.split(r"\.(SAFE|zip|tar|tgz|tif|json)", Path(self.files.name).resolve().name)[0]
        dataset = xr.Dataset(
            {"reflectance": (("band", "y", "x"), image)},
            {"band": wanted, "y": affine.f + affine.e * (np.arange(size[0]) + 0.5),
             "x": affine.c + affine.a * (np.arange(size[1]) + 0.5)},
            {"scene": name, "sensor": self.sensor.id, "resolution": float(target),
             "level": self.level, "group": name, "role": "extra", "product": self.kind},
        )  # fmt: skip
        return dataset.rio.write_crs(crs).rio.write_transform(affine) if crs else dataset

    def mask(self, like: xr.Dataset, codes: str | None = None) -> xr.DataArray | None:
        """The mask the product carries, on the grid of `like`; `codes` chooses among several."""
        for pattern, table in MASKS.items():
            if table == "maja-clm-muscate" and self.sensor.id == "venus":
                table = "maja-clm-native"  # whose order of bits Venµs keeps
            if codes in (None, table) and (found := self.files.only(pattern)):
                path = self.files.image(found)
                with self._named(path, found):
                    mask = read_mask(path, table, like=like)
                seen = np.isfinite(like.reflectance.values).any(axis=0)  # some call the rest clear
                return mask.where(seen, NODATA).assign_attrs(source=PurePosixPath(found).name)
        if codes:
            raise InputError(f"{self.files.name}: carries no mask with the codes {codes!r}")
        return None

    @contextmanager
    def _named(self, path: str, member: str) -> Iterator[None]:
        """Errors name the file in the product, not what GDAL was given."""
        try:
            yield
        except InputError as error:
            told = str(error).replace(path, f"{self.files.name}: {member}")
            raise InputError(told) from error

    def _grid(self, layer: Layer) -> Grid:
        with self._named(layer.path, layer.member):
            try:
                with open_raster(layer.path) as file:
                    shape, transform, crs = file.shape, file.transform, file.crs
            except RasterioError as error:
                told = f"cannot be read ({error}); it may be truncated: download it again"
                raise InputError(f"{layer.path}: {told}") from error
        own = float(self._part(layer, Window(0, 0, 1, 1), crs).attrs["resolution"])
        return Grid(shape, transform if crs else Affine.scale(own), own, crs)

    def _part(self, layer: Layer, window: Window, crs: CRS | None) -> xr.DataArray:
        nominal = min(middle(band.gsd_m) for band in self.sensor.bands)
        with self._named(layer.path, layer.member):
            return read_image(
                layer.path, layer.layout, scale=layer.scale, offset=layer.offset,
                nodata=self.nodata, resolution=None if crs else nominal, window=window,
            )  # fmt: skip

    def _read(self, layer: Layer, grid: Grid, size: tuple[int, int]) -> np.ndarray:
        """A band (y, x) float32 of that size: area means, or bilinear if finer, NaN left out.

        As `resample`, but strip by strip: a band of any size needs little memory.
        """
        (height, width), out = grid.shape, np.empty(size, np.float32)
        down, across = weights(height, size[0]), weights(width, size[1])
        step = max(1, int(STRIP / width * size[0] / height))
        for top in range(0, size[0], step):
            rows = down[top : top + step]
            first, last = int(rows.indices.min()), int(rows.indices.max()) + 1
            part = self._part(layer, Window(0, first, width, last - first), grid.crs).values[0]
            means = weighted_mean(part, np.isfinite(part), rows[:, first:last], across)
            out[top : top + step] = means[0]
        return out

    def _check(self, values: np.ndarray) -> None:
        """Raise InputError if these cannot be reflectance, saying which scale they look like."""
        every = -(-max(values.shape) // 1024)
        values = values[:, ::every, ::every]
        values = values[np.isfinite(values)]
        if not values.size:
            raise InputError(f"{self.files.name}: every pixel is nodata; download it again")
        low, high = np.percentile(values, [1, 99])
        told = ""
        if high > 2:
            factor = 10 ** max(1, round(math.log10(high / 0.5)))
            told = f"go up to {high:.4g}: they look like reflectance × {factor}, not yet divided"
        elif high < 0.02:
            told = f"only go up to {high:.2g}: divided by too much, or stretched to 8 bits"
        elif low < -0.05:
            told = f"go down to {low:.2g}: an offset seems to have been taken off twice"
        if told:
            raise InputError(
                f"{self.files.name}: wrong scale: by the metadata its values {told}. Take the "
                "product as delivered, or give its bands with --sensor, --scale and --offset"
            )


def _reflective(card: Sensor, lacking: Sequence[str] = ()) -> dict[str, str]:
    """Native to common name of the bands that hold reflectance, but for those `lacking`."""
    bands = [band for band in card.bands if not band.common.startswith("lwir")]
    return {band.native: band.common for band in bands if band.common not in lacking}


def _sine(elevation: float, name: str) -> float:
    if not 0 < elevation <= 90:
        raise InputError(f"{name}: the sun's elevation is {elevation}°; no reflectance by night")
    return math.sin(math.radians(elevation))


def _sun(fields: Fields, elevation: float) -> float:
    """π d² / sin(elevation), d being the distance of the sun in astronomical units on IMAGING_DATE.

    Reflectance is this times radiance over the irradiance of the sun at 1 AU. d is that of 6S, as
    in OTB's VarSol: 1 - 0.01673 cos(0.9856° (day of the year - 4)).
    """
    day = fields.text("IMAGING_DATE")
    try:
        since = date.fromisoformat(day[:10]).timetuple().tm_yday - 4
    except ValueError:
        raise InputError(f"{fields.name}: IMAGING_DATE {day!r} is not YYYY-MM-DD") from None
    distance = 1 - 0.01673 * math.cos(math.radians(0.9856 * since))
    return math.pi * distance**2 / _sine(elevation, fields.name)


def _sentinel2(files: Files, member: str) -> Product:
    """Sentinel-2 L1C and L2A SAFE: ESA's Products Specification Document, S2-PDGS-TAS-DI-PSD.

    (DN + RADIO_ADD_OFFSET) / QUANTIFICATION_VALUE, for L2A BOA_ADD_OFFSET and
    BOA_QUANTIFICATION_VALUE. The offsets exist from processing baseline 04.00 on. Of the files of
    a band at several resolutions the one at its own is read. Compact naming (December 2016 on).
    """
    fields = files.xml(member)
    level1 = "MSIL1C" in member.upper()
    offset = "RADIO_ADD_OFFSET" if level1 else "BOA_ADD_OFFSET"
    scale = 1 / fields.number("QUANTIFICATION_VALUE" if level1 else "BOA_QUANTIFICATION_VALUE")
    card = get_sensor("sentinel-2")
    # The offsets go by band_id, which counts the 13 bands from 0; the metadata say which is which.
    ids = {node.root.get("bandId"): node.root.get("physicalBand")
           for node in fields.each("Spectral_Information")}  # fmt: skip
    order = {str(index): band.native for index, band in enumerate(card.bands)} | ids
    added = {order.get(node.root.get("band_id")): fields.parse(node.root.text, offset)
             for node in fields.each(offset)}  # fmt: skip
    if not added and fields.number("PROCESSING_BASELINE") >= 4:
        told = f"baseline {fields.text('PROCESSING_BASELINE')} without {offset}"
        raise InputError(
            f"{fields.name}: wrong scale: {told}: all would be 0.1 too bright; take the metadata "
            "as delivered"
        )
    product = Product(files, card, "toa" if level1 else "surface", nodata=0)
    folder = re.escape(member.rpartition("MTD_")[0]) + "GRANULE/[^/]+/IMG_DATA/"
    for native, band in _reflective(card, () if level1 else ("cirrus",)).items():
        name = f"B0{native[1:]}" if len(native) == 2 else native
        found = files.find(rf"^{folder}.*_{name}(_\d\dm)?\.jp2$")
        if not level1:  # sorted, so the first is the finest
            own = f"_{middle(card.band(band).gsd_m):.0f}m."
            found = [file for file in found if own in file] or found[:1]
        if len(found) > 1:
            raise InputError(f"{files.name}: holds several tiles ({found[0]}, …); give one")
        product.add(band, found[0] if found else None, scale, added.get(native, 0.0) * scale)
    return product


PLATFORMS = {"SENTINEL2": "sentinel-2", "VENUS": "venus", "SPOT4": "spot-4", "SPOT5": "spot-5"}


SPOT = {"B1": "XS1", "B2": "XS2", "B3": "XS3", "B4": "SWIR"}  # the card's names to the products'


def _muscate(files: Files, member: str) -> Product:
    """MUSCATE products of Theia: Sentinel-2 and Venµs (MAJA), SPOT World Heritage level 1C.

    https://labo.obs-mip.fr/multitemp/sentinel-2/theias-sentinel-2-l2a-product-format/ and, for
    Venµs, https://www.cesbio.cnrs.fr/multitemp/format-of-venµs-l2a-produced-by-muscate/ : a TIFF
    per band, DN / REFLECTANCE_QUANTIFICATION_VALUE. SRE is read before FRE, which has the relief
    flattened and so is further from what was seen. Unchecked: the names of SPOT World Heritage's
    files, known from Start-MAJA's patterns only (*XS1*.tif, *SWIR*.tif, nodata 0).
    """
    fields = files.xml(member)
    platform = fields.text("PLATFORM").upper().replace("-", "")
    known = [card for name, card in PLATFORMS.items() if platform.startswith(name)]
    if not known:
        raise InputError(f"{fields.name}: no reader for {platform}; for {', '.join(PLATFORMS)}")
    card, surface = get_sensor(known[0]), not fields.text("PRODUCT_LEVEL").startswith("L1")
    nodata = fields.number("SPECIAL_VALUE[@name='nodata']", -10000 if surface else 0)
    product = Product(files, card, "surface" if surface else "toa", nodata)
    scale = 1 / fields.number("REFLECTANCE_QUANTIFICATION_VALUE")
    folder = "^" + re.escape(member[: member.rfind("/") + 1])
    lacking = ("coastal", "nir09", "cirrus") if card.id == "sentinel-2" else ()
    for native, band in _reflective(card, lacking).items():
        name = SPOT[native] if card.id.startswith("spot") else native
        marks = ("REF_", "SRE_", "FRE_", "")  # REF: level 1
        each = (files.only(rf"{folder}[^/]*_{mark}{name}\.tif$") for mark in marks)
        product.add(band, next(filter(None, each), None), scale)
    return product


def _take5(files: Files, member: str) -> Product:
    """SPOT-4 and -5 Take5 of Theia, levels 1C (N1, top-of-atmosphere) and 2A (N2A, surface).

    One TIFF of XS1, XS2, XS3, SWIR; the metadata name it, its bands and the QUANTIFICATION (1000).
    https://www.theia-land.fr/en/product/spot-4-take-5/ and SNAP's reader. ENV is read before PENTE,
    which has the relief flattened. Unchecked: nodata -10000.
    """
    fields = files.xml(member)
    platform = fields.text("PLATEFORM").upper()
    if platform not in ("SPOT4", "SPOT5"):
        raise InputError(f"{fields.name}: PLATEFORM is {platform}, not SPOT4 or SPOT5")
    level1 = fields.text("LEVEL").upper().startswith("N1")
    tags = ("GEOTIFF",) if level1 else ("ORTHO_SURF_CORR_ENV", "ORTHO_SURF_CORR_PENTE")
    names = [fields.text(f"FILES/{tag}", "") for tag in tags]
    file = next((found for name in names if name and (found := files.beside(member, name))), None)
    quantity = fields.number("QUANTIFICATION/VALUE", 0) or fields.number("QUANTIFICATION", 1000)
    card = get_sensor(PLATFORMS[platform])
    product = Product(files, card, "toa" if level1 else "surface", nodata=-10000)
    for native, band in _reflective(card).items():
        layout = fields.text("BANDS").upper().split(";")
        product.add(band, file, 1 / quantity, 0, SPOT[native], layout)
    return product


def _basic(fields: Fields, *also: str) -> None:
    """Raise InputError unless the numbers of a DIMAP product are radiance (or `also`)."""
    kind = fields.text("RADIOMETRIC_PROCESSING", "BASIC").upper()
    if kind not in ("BASIC", "SYSTEM", *also):
        told = "so its numbers hold no radiance; order it with basic radiometry"
        raise InputError(f"{fields.name}: wrong scale: RADIOMETRIC_PROCESSING is {kind}, {told}")


def _spot(files: Files, member: str) -> Product:
    """SPOT-4/5 scene in DIMAP 1: SPOT product format, S5-ST-73-1-CN.

    L = DN / PHYSICAL_GAIN + PHYSICAL_BIAS; SOLAR_IRRADIANCE_VALUE goes with it by BAND_INDEX. The
    metadata list XS1, XS2, XS3, SWIR, while the file holds XS3, XS2, XS1, SWIR (so EOReader and
    others). DN 0 is nodata. Without a CRS (level 1A) the pixel is the card's.
    """
    fields = files.xml(member)
    _basic(fields)
    mission = fields.text("MISSION").upper() + fields.text("MISSION_INDEX", "")
    if mission not in ("SPOT4", "SPOT5"):
        raise InputError(f"{fields.name}: is of {mission}; of DIMAP 1, SPOT4 and SPOT5 are read")
    sun = _sun(fields, fields.number("SUN_ELEVATION"))
    irradiance = {node.text("BAND_INDEX"): node.number("SOLAR_IRRADIANCE_VALUE")
                  for node in fields.each("Band_Solar_Irradiance")}  # fmt: skip
    physical = {node.text("BAND_DESCRIPTION").replace("XS4", "SWIR"): node
                for node in fields.each("Spectral_Band_Info")}  # fmt: skip
    link = fields.root.find(".//DATA_FILE_PATH")
    file = files.beside(member, "IMAGERY.TIF" if link is None else str(link.get("href")))
    product = Product(files, get_sensor(PLATFORMS[mission]), "toa", nodata=0)
    for native, band in _reflective(product.sensor).items():
        name = SPOT[native]
        if name == "SWIR" and name not in physical:  # the modes of three bands
            continue
        node = physical.get(name)
        if node is None or node.text("BAND_INDEX") not in irradiance:
            raise InputError(f"{fields.name} has no gain or no irradiance of {name}")
        unit = sun / irradiance[node.text("BAND_INDEX")]
        scale, offset = unit / node.number("PHYSICAL_GAIN"), unit * node.number("PHYSICAL_BIAS")
        layout = ["XS3", "XS2", "XS1", "SWIR"][: len(physical)]
        product.add(band, file, scale, offset, name, layout)
    return product


# W/m²/µm at 1 AU, where a product says 999 for "not known": acolite's figures.
PLEIADES_IRRADIANCE = {"B0": 1915.0, "B1": 1830.0, "B2": 1594.0, "B3": 1060.0}


def _pleiades(files: Files, member: str) -> Product:
    """Pléiades 1A/1B in DIMAP 2: Airbus, Pléiades Imagery User Guide, appendix D.

    L = DN / GAIN + BIAS (Band_Radiance), E0 is Band_Solar_Irradiance, the sun that of the centre.
    Raster_Index orders the layers, by default B2, B1, B0, B3. DN 0 is nodata. Without a CRS (SENSOR
    level) the pixel is the card's. Unchecked: that radiometry REFLECTANCE is surface × 10000.
    """
    fields = files.xml(member)
    _basic(fields, "REFLECTANCE")
    surface = fields.text("RADIOMETRIC_PROCESSING", "").upper() == "REFLECTANCE"
    places = fields.each("Located_Geometric_Values") or [fields]
    centre = [place for place in places if place.text("LOCATION_TYPE", "").upper() == "CENTER"]
    sun = _sun(fields, (centre or places)[0].number("SUN_ELEVATION"))
    radiance, irradiance = (
        {node.text("BAND_ID"): node for node in fields.each(name)}
        for name in ("Band_Radiance", "Band_Solar_Irradiance")
    )
    index = sorted(fields.each("Raster_Index"), key=lambda node: node.number("BAND_INDEX"))
    layout = [node.text("BAND_ID") for node in index] or ["B2", "B1", "B0", "B3"]
    links = [str(node.root.get("href")) for node in fields.each("DATA_FILE_PATH")]
    if len(links) != 1:
        told = "join them (gdalbuildvrt, gdal_translate), and name the result in the metadata"
        raise InputError(f"{fields.name}: the image is cut into {len(links)} tiles; {told}")
    product = Product(files, get_sensor("pleiades"), "surface" if surface else "toa", nodata=0)
    for native, band in _reflective(product.sensor).items():
        scale, offset = 1e-4, 0.0
        if not surface:
            if native not in radiance or native not in irradiance:
                raise InputError(f"{fields.name} has no gain or no irradiance of {native}")
            sunlight = irradiance[native].number("VALUE")
            unit = sun / (PLEIADES_IRRADIANCE[native] if sunlight == 999 else sunlight)
            scale = unit / radiance[native].number("GAIN")
            offset = unit * radiance[native].number("BIAS")
        product.add(band, files.beside(member, links[0]), scale, offset, native, layout)
    return product


def _landsat(files: Files, member: str) -> Product:
    """Landsat 5 TM, 7 ETM+, 8 and 9 OLI, Collection 2 Level 1: USGS LSDS-1337 and LSDS-1822.

    (REFLECTANCE_MULT_BAND_n · DN + REFLECTANCE_ADD_BAND_n) / sin(SUN_ELEVATION); DN 0 is fill.
    """
    name = f"{files.name}: {member}"
    told: dict[str, str] = {}
    for line in files.text(member).decode("utf-8", "replace").splitlines():
        key, _, value = (part.strip().strip('"') for part in line.partition("="))
        told.setdefault(key, value)
    is_a = [told.get(key) for key in ("SPACECRAFT_ID", "PROCESSING_LEVEL", "COLLECTION_NUMBER")]
    read = re.fullmatch(r"LANDSAT_([5789]) L1\w+ 02", " ".join(map(str, is_a)))
    if not read or told.get("SENSOR_ID", "")[:2] not in ("TM", "ET", "OL"):
        what = f"{' '.join(map(str, is_a))} {told.get('SENSOR_ID')}"
        raise InputError(f"{name}: is {what}; TM, ETM+, OLI at level 1 of Collection 02 are read")
    product = Product(files, get_sensor(f"landsat-{read[1]}"), "toa", nodata=0)
    try:
        sine = _sine(float(told["SUN_ELEVATION"]), name)
        for native, band in _reflective(product.sensor).items():
            number = native[1:]
            file = files.beside(member, told[f"FILE_NAME_BAND_{number}"])
            scale = float(told[f"REFLECTANCE_MULT_BAND_{number}"]) / sine
            offset = float(told[f"REFLECTANCE_ADD_BAND_{number}"]) / sine
            product.add(band, file, scale, offset)
    except KeyError as error:
        raise InputError(f"{name} has no {error.args[0]}; the metadata are incomplete") from error
    except ValueError as error:
        raise error if isinstance(error, InputError) else InputError(f"{name}: {error}") from error
    return product


PLANET = {
    4: ["blue", "green", "red", "nir"],
    8: ["coastal", "blue", "green_i", "green", "yellow", "red", "rededge", "nir"],
}


def _planetscope(files: Files, member: str) -> Product:
    """PlanetScope scenes, analytic: Planet Imagery Product Specification.

    `_AnalyticMS.tif`: DN × reflectanceCoefficient of the band's metadata; `_AnalyticMS_SR.tif`:
    surface reflectance × 10000. Of SuperDove's eight bands the four of the card are read.
    """
    fields = files.xml(member)
    factors = {node.number("bandNumber"): node for node in fields.each("bandSpecificMetadata")}
    if len(factors) not in PLANET:
        raise InputError(f"{fields.name}: has {len(factors)} bands; products of 4 or 8 are read")
    layout = PLANET[len(factors)]
    start = "^" + re.escape(member[: member.lower().rfind("_metadata")])
    toa = files.only(start + r"(_harmonized)?(_clip)?\.tif$")
    file = toa or files.only(start + r"_SR(_harmonized)?(_clip)?\.tif$")
    product = Product(files, get_sensor("planetscope"), "toa" if toa else "surface", nodata=0)
    for native, band in _reflective(product.sensor).items():
        node = factors.get(layout.index(native) + 1, fields)
        scale = node.number("reflectanceCoefficient") if toa else 1e-4
        product.add(band, file, scale, 0, native, layout)
    return product


def _cloudsen12(files: Files, member: str) -> Product:
    """A patch of CloudSEN12: S2L1C.tif, 13 bands in ESA's order × 10000, and labels/.

    Aybar et al. 2022, doi:10.1038/s41597-022-01878-2.
    """
    product = Product(files, get_sensor("sentinel-2"), "toa", nodata=0)
    layout = [band.common for band in product.sensor.bands]
    for band in layout:
        product.add(band, member, 1e-4, 0, band, layout)
    return product


def _geotiff(files: Files, member: str) -> Product:
    """Any GeoTIFF with a card of the same name beside it: image.tif and image.yaml.

    Its layers are known by their descriptions (common or native names), else they are the card's in
    its order. GDAL's scale and offset of a layer are used; without them it holds reflectance.
    """
    card = get_sensor(Path(files.name).with_suffix(".yaml"))
    try:
        with open_raster(files.image(member)) as file:
            count, told, nodata = file.count, file.descriptions, file.nodata
            scaling = list(zip(file.scales, file.offsets, strict=True))
    except RasterioError as error:
        raise InputError(f"{files.name}: cannot be read ({error}); copy it again") from error
    names = {band.native: band.common for band in card.bands}
    layout = [names.get(str(name), str(name)) for name in told]
    if not set(layout) & set(names.values()):
        layout = list(names.values())
    if len(layout) != count:
        few = f"has {count} layers, its card {len(layout)} bands"
        raise InputError(f"{files.name}: {few}; describe the layers by their common names")
    product = Product(files, card, "toa", math.nan if nodata is None else nodata)
    for band in _reflective(card).values():
        if band in layout:
            product.add(band, member, *scaling[layout.index(band)], band, layout)
    return product


@dataclass(frozen=True)
class Kind:
    """A kind of product: the file it is known by, and what reads it from there."""

    name: str
    pattern: str
    read: Callable[[Files, str], Product]


KINDS = (
    Kind("Sentinel-2 L1C SAFE", r"(^|/)MTD_MSIL1C\.xml$", _sentinel2),
    Kind("Sentinel-2 L2A SAFE", r"(^|/)MTD_MSIL2A\.xml$", _sentinel2),
    Kind("MUSCATE (Theia)", r"_MTD_ALL\.xml$", _muscate),
    Kind("SPOT Take5", r"(^|/)SPOT\d_\w+_XS_\d{8}_N[^/]*\.xml$", _take5),
    Kind("SPOT DIMAP", r"(^|/)METADATA\.DIM$", _spot),
    Kind("Pléiades DIMAP", r"(^|/)DIM_PHR1[AB]_P?MS_[^/]*\.xml$", _pleiades),
    Kind("Landsat Collection 2", r"_MTL\.txt$", _landsat),
    Kind("PlanetScope", r"_AnalyticMS(_8b)?_metadata[^/]*\.xml$", _planetscope),
    Kind("CloudSEN12", r"(^|/)S2L1C\.tif$", _cloudsen12),
    Kind("GeoTIFF with a card beside it (image.yaml)", r"\.tiff?$", _geotiff),
)


def open_product(
    path: Path | str, resolution: float | None = None, bands: Sequence[str] | None = None,
    mask_codes: str | None = None, dilation_m: float = 0.0, elevation: bool = False,
) -> xr.Dataset:  # fmt: skip
    """Open a product (folder, zip, tar, file of its metadata, STAC item) as the scene Dataset.

    Returns what `open_scene` does: `reflectance` (band, y, x) float32, NaN for nodata; `mask` (y,
    x) if the product carries one, by majority where its grid is finer; and `product`, its kind,
    among the attrs. `bands`: common names, default all that reflect. `resolution` in metres:
    default that of the coarsest of them. `mask_codes`: a table of labels.CODES, to choose among
    several masks. `dilation_m`: metres to grow the clouds of the mask by. `elevation`: heights of
    the Copernicus DEM too, which are fetched (see `copernicus_dem`: NaN where there are none).
    Surface reflectance is read with a warning. InputError: a kind that is not known, an incomplete
    or damaged product, an archive that is not safe, a wrong scale.
    """
    product = find_product(path)
    dataset = product.open(bands, resolution)
    if (mask := product.mask(dataset, mask_codes)) is not None:
        grown = dilate(mask.values, dilation_m, dataset.attrs["resolution"])
        dataset["mask"] = mask.copy(data=grown)
    if elevation:
        from clouddl.products.dem import (
            copernicus_dem,  # late: few ask for it, and it wants the network
        )

        dataset["elevation"] = copernicus_dem(dataset)
    return dataset


def find_product(path: Path | str) -> Product:
    """Recognise a product and read its metadata. InputError lists the kinds that are known."""
    from clouddl.products.stac import is_item, read_item  # late: it builds on this module

    if is_item(path):
        return read_item(path)
    files = list_files(Path(path))
    file = Path(path).name if Path(path).is_file() else ""
    *kinds, geotiff = KINDS
    if file in files.paths:  # one file of a folder
        found = [(kind, file) for kind in kinds if re.search(kind.pattern, file, re.IGNORECASE)]
        if not found and re.search(geotiff.pattern, file, re.IGNORECASE):
            if f"{Path(file).stem}.yaml" not in files.paths:
                told = f"has no card {Path(file).stem}.yaml beside it: write one"
                raise InputError(f"{path}: {told}, or give the --sensor")
            found = [(geotiff, file)]
    else:
        found = [(kind, name) for kind in kinds for name in files.find(kind.pattern)]
    if len(found) > 1:
        told = ", ".join(name for _, name in found[:3])
        raise InputError(f"{path}: holds {len(found)} products ({told}); give one of these files")
    if not found:
        known = ", ".join(kind.name for kind in KINDS)
        raise InputError(f"{path}: is no product known. Known: {known}. For an image, say --sensor")
    (kind, member), *_ = found
    product = kind.read(files, member)
    product.kind = kind.name
    return product
