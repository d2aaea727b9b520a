"""Products: what agencies deliver, opened by path as the scene Dataset the study uses.

A product is a folder, a zip or a tar. Its metadata say how its numbers become reflectance, so no
option is needed. Each reader names its specification. The layouts were checked against public code
that reads the real products (EOReader, SNAP, OTB, acolite, Start-MAJA), not against real products:
none was at hand. "Unchecked" marks what even that did not settle.
"""

from collections.abc import Sequence
from pathlib import Path

import xarray as xr

from clouddl.labels import dilate
from clouddl.products.dem import copernicus_dem
from clouddl.products.readers import find_product


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
        dataset["elevation"] = copernicus_dem(dataset)
    return dataset
