"""One peer from file to file, as a command: python -m benchmarks.peer NAME IN.tif OUT.tif."""

import sys

import numpy as np
import rasterio

from clouddl.labels import S2CLOUDLESS_BANDS, UKIS_BANDS, s2cloudless, ukis_csmask

BANDS = {"s2cloudless": S2CLOUDLESS_BANDS, "ukis-csmask": UKIS_BANDS}


def main(name: str, source: str, target: str) -> None:
    """Read 16-bit numbers of the peer's bands, and write its mask as COG."""
    with rasterio.open(source) as file:
        values = file.read(out_dtype=np.float32) * np.float32(1e-4)
        profile = {"crs": file.crs, "transform": file.transform}
        metres = file.res[0]
    bands = list(BANDS[name])
    mask = (
        s2cloudless(values, bands, metres) if name == "s2cloudless" else ukis_csmask(values, bands)
    )
    height, width = mask.shape
    with rasterio.open(
        target, "w", driver="COG", count=1, height=height, width=width, dtype="uint8", nodata=255,
        compress="DEFLATE", num_threads="ALL_CPUS", **profile,
    ) as file:  # fmt: skip
        file.write(mask, 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
