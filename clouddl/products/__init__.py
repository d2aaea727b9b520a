"""Images and products: the one door through which every image comes in.

A product (folder, zip or tar, as an agency delivers it) says itself how its numbers become
reflectance, so it needs no option. The layouts were checked against public code that reads the
real products (EOReader, SNAP, OTB, acolite, Start-MAJA), and those of Landsat and Sentinel-2
against real files too (tests/test_real_products.py). "Unchecked" marks what that did not settle.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from rasterio.windows import Window

from clouddl.errors import InputError
from clouddl.files import is_local
from clouddl.labels import dilate
from clouddl.products.image import Image, open_array, open_file
from clouddl.products.place import Grid
from clouddl.products.product import Product
from clouddl.products.raster import check_name
from clouddl.products.reading import AS_STORED, Reading, check_numbers
from clouddl.products.stac import is_item, limit_waiting, read_item
from clouddl.sensors import Sensor, get_sensor

if TYPE_CHECKING:
    import xarray as xr

FINEST = 8  # times finer than its coarsest band a product is read; more shows nothing new
DATASETS = (".nc", ".nc4", ".zarr")  # how the names of files of several arrays end
Source: TypeAlias = "Path | str | np.ndarray | xr.DataArray | xr.Dataset"


@dataclass(frozen=True, eq=False)
class ProductImage(Image):
    """A product: `select` reads some bands of it on one grid, into memory."""

    product: Product

    @cached_property
    def _all(self) -> Image:
        return self.select(self.bands)

    @property
    def grid(self) -> Grid:
        """The grid of all bands, at the resolution of the coarsest if none is given."""
        return self._all.grid

    @property
    def resolution(self) -> float:
        """Metres per pixel of that grid."""
        return self._all.resolution

    @property
    def overview(self) -> np.ndarray:
        """Every so many pixels of all bands."""
        return self._all.overview

    def read(self, window: Window | None = None) -> np.ndarray:
        """Read a window of all bands, which are all read into memory."""
        return self._all.read(window)

    def coarsest(self, bands: Sequence[str]) -> float:
        """Metres per pixel of the coarsest of some bands; InputError if one is missing."""
        return self.product.coarsest(self.product.pick(bands))

    def select(self, bands: Sequence[str], resolution: float | None = None) -> Image:
        """Read some bands on one grid; see `Image.select`."""
        resolution = resolution or self.reading.resolution
        if resolution and resolution * FINEST < self.coarsest(bands):
            raise InputError(
                f"{self.name}: a resolution of {resolution:g} m is far finer than its bands of "
                f"{self.coarsest(bands):g} m, and would only fill the memory; give a coarser one"
            )
        return replace(self.product.read(bands, resolution), name=self.name)


def open_image(
    source: Source, sensor: Sensor | str | None = None, reading: Reading = AS_STORED
) -> Image:
    """Open an image, wherever it comes from.

    Args:
        source: A file that GDAL opens, a .npy, a .npz or "file.npz#member" (with `sensor`); a
            product: folder, zip, tar or file of its metadata; a STAC item: file or address; or an
            image in memory: array (band, y, x), DataArray, scene Dataset, or Dataset of one
            variable a band.
        sensor: The sensor, its name or the path of its card. Products and most STAC items say it
            themselves.
        reading: How the numbers are read. Products say this themselves, and of a STAC item it
            stands in where the item is silent; only `resolution` is free.

    Returns:
        The image; of a file or product no pixel is read yet. The `bands` of a product are those it
        should have: to select one of which the file is missing is an InputError.

    Raises:
        InputError: Whatever cannot be opened; the message names it and what to do.
    """
    if sensor is not None and not isinstance(sensor, Sensor):
        sensor = get_sensor(sensor)
    check_numbers(str(source) if isinstance(source, Path | str) else "image", reading)
    if isinstance(source, Path | str):
        check_name(source)
        if is_local(source):
            source = Path(source)  # without a slash at its end
        name = str(source).lower().rstrip("/")
        if sensor and name.endswith(DATASETS) and is_local(source):
            from clouddl.products.arrays import open_dataset  # late: it brings xarray

            source = open_dataset(source, reading)
    if not isinstance(source, Path | str):
        from clouddl.products.arrays import as_array  # late, too

        return open_array(as_array(source, sensor), reading, sensor)
    limit_waiting()  # also of a VRT whose sources are elsewhere
    allowed = Reading(resolution=reading.resolution)
    if is_item(source):
        product = read_item(source, sensor, reading)
        allowed = replace(reading, bands=None)
    elif sensor is None:
        if not is_local(source):
            raise InputError(
                f"{source}: an image at an address says no sensor; give --sensor, or download a "
                "product first"
            )
        from clouddl.products.readers import find_product  # late: it brings all readers

        product = find_product(source)
    else:
        return open_file(source, reading, sensor)
    if reading != allowed:
        raise InputError(
            f"{source}: a product says its own scale, offset, nodata and bands; leave them out "
            "(--use takes some of its bands), or say --sensor for a plain image"
        )
    bands = *product.layers, *product.missing
    return ProductImage(str(source), product.sensor, product.level, bands, reading, product)


def open_product(
    path: Path | str,
    resolution: float | None = None,
    bands: Sequence[str] | None = None,
    mask_codes: str | None = None,
    dilation_m: float = 0.0,
    elevation: bool = False,
) -> "xr.Dataset":
    """Open a product as the scene Dataset, with the mask it carries.

    Args:
        path: Folder, zip, tar, file of its metadata, or STAC item.
        resolution: Metres per pixel; default that of the coarsest band.
        bands: Names in any usual spelling; default all that reflect.
        mask_codes: A table of `labels.CODES`, to choose among several masks.
        dilation_m: Metres to grow the clouds of the mask by.
        elevation: Whether to fetch heights of the Copernicus DEM too (see `copernicus_dem`).

    Returns:
        What `open_scene` does: `reflectance` (band, y, x) float32, nodata NaN; `mask` (y, x) if
        the product carries one, by majority where its grid is finer; `elevation` if asked for.
        The attribute `product` is the name of its format. Surface reflectance is read with a
        warning.

    Raises:
        InputError: An unknown format, an incomplete or damaged product, an archive that is not
            safe, a wrong scale.
    """
    from clouddl.products.readers import find_product  # late: it brings all readers

    check_name(path)
    product = find_product(path)
    image = product.read(bands, resolution)
    dataset = image.dataset().assign_attrs(group=image.name, role="extra", product=product.format)
    mask = product.mask(dataset, mask_codes)
    if mask is not None:
        grown = dilate(mask.values, dilation_m, dataset.attrs["resolution"])
        dataset["mask"] = mask.copy(data=grown)
    if elevation:
        from clouddl.products.dem import copernicus_dem  # late: it brings rioxarray

        dataset["elevation"] = copernicus_dem(dataset)
    return dataset
