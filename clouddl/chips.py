"""Chips: labelled scenes cut to one size and kept in Zarr, as training wants them."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from clouddl.errors import InputError, absent, readable
from clouddl.files import Store, replacing
from clouddl.labels import LABEL_SOURCES, NODATA, PROCESSORS, label_scene
from clouddl.scenes import SIMULATED, Scene, open_scene, source_sha256

ABOUT = ("scene", "group", "role", "sha256")  # coordinates of a chip
SOFT = "soft"  # labels of `Chips.open`: the fraction of the processors that say cloud
STORED = np.float16  # of reflectance: its steps, 0.0005 below 1, are under the noise of a sensor
SCENES_A_PROCESS = 16  # fewer do not pay for the start of another process


def cut_chips(
    datasets: Iterable[xr.Dataset], *, bands: Sequence[str], sources: Sequence[str], size: int = 256
) -> xr.Dataset:
    """Cut opened scenes of one resolution into labelled chips.

    Args:
        datasets: Scenes, as `open_scene` gives them.
        bands: Common names; "elevation" may be one of them.
        sources: Sources of labels: names of `labels.LABEL_SOURCES`, or "truth" for the mask of the
            scene.
        size: Pixels a side. Edges that fill less than a chip are padded with nodata.

    Returns:
        `image` (chip, band, y, x) reflectance of type `STORED`, NaN for nodata; `mask` (source,
        chip, y, x) uint8 (0, 1, 255); by `chip` the coordinates of `ABOUT`.

    Raises:
        InputError: No scenes, several resolutions, a band or a label that a scene lacks.
    """
    return _joined([_cut(dataset, bands, sources, size) for dataset in datasets])


def make_chips(
    scenes: Sequence[Scene],
    store: Store,
    path: Path | str,
    *,
    bands: Sequence[str],
    sources: Sequence[str],
    size: int = 256,
) -> xr.Dataset:
    """Open scenes, cut and label them, and write the chips.

    Args:
        scenes: Records of a catalogue.
        store: Where their files are.
        path: Zarr store to write, as a whole or not at all.
        bands: As for `cut_chips`.
        sources: As for `cut_chips`.
        size: As for `cut_chips`.

    Returns:
        The chips, as `cut_chips` gives them.
    """
    cut = partial(_cut, bands=bands, sources=sources, size=size)
    work = partial(_open_and_cut, store=store, cut=cut)
    workers = min(os.cpu_count() or 1, len(scenes) // SCENES_A_PROCESS)
    bar = tqdm(_map(work, scenes, workers), "chips", len(scenes), unit="scene")
    chips = _joined(list(bar))
    encoding = {
        "image": {"chunks": (1, len(bands), size, size)},
        "mask": {"chunks": (1, 1, size, size)},
    }
    with replacing(Path(path)) as temporary:
        chips.to_zarr(temporary, mode="w", zarr_format=2, consolidated=True, encoding=encoding)
    return chips


def _map(
    work: Callable[[Scene], xr.Dataset], scenes: Sequence[Scene], workers: int
) -> Iterator[xr.Dataset]:
    """`map` over processes, or the built-in one where there are fewer than two."""
    if workers < 2:
        yield from map(work, scenes)
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(work, scenes, chunksize=4)


def _open_and_cut(
    scene: Scene, store: Store, cut: Callable[[xr.Dataset], xr.Dataset]
) -> xr.Dataset:
    return cut(open_scene(scene, store).assign_attrs(sha256=source_sha256(scene, store)))


def _cut(
    dataset: xr.Dataset, bands: Sequence[str], sources: Sequence[str], size: int
) -> xr.Dataset:
    """Cut and label one scene."""
    image = np.stack([_band(dataset, band) for band in bands]).astype(STORED)
    labels = np.stack(_labels(dataset, sources)).astype(np.uint8)
    images, masks = _squares(image, size, np.nan), _squares(labels, size, NODATA)
    about = {n: ("chip", [str(dataset.attrs.get(n, ""))] * len(images)) for n in ABOUT}
    return xr.Dataset(
        {
            "image": (("chip", "band", "y", "x"), images),
            "mask": (("source", "chip", "y", "x"), masks.swapaxes(0, 1)),
        },
        {"band": list(bands), "source": list(sources), **about},
        {"resolution": float(dataset.attrs["resolution"])},
    )


def _squares(layers: np.ndarray, size: int, value: float) -> np.ndarray:
    """Cut layers (layer, y, x) into (chip, layer, size, size), padded with a value at the edges."""
    margins = [(0, 0), *((0, -length % size) for length in layers.shape[1:])]
    padded = np.pad(layers, margins, constant_values=value)
    count, height, width = padded.shape
    grid = padded.reshape(count, height // size, size, width // size, size)
    return grid.transpose(1, 3, 0, 2, 4).reshape(-1, count, size, size)


def _joined(cut: Sequence[xr.Dataset]) -> xr.Dataset:
    """The chips of all scenes, as `cut_chips` gives them."""
    if not cut:
        raise InputError("no scenes to cut chips from: check the role and the catalogue")
    resolutions = {scene.attrs["resolution"] for scene in cut}
    if len(resolutions) > 1:
        raise InputError(f"scenes of several resolutions {sorted(resolutions)}: make chips of each")
    return xr.concat(cut, "chip", join="exact")


def _band(dataset: xr.Dataset, band: str) -> np.ndarray:
    scene = dataset.attrs["scene"]
    if band == "elevation":
        if "elevation" not in dataset:
            raise InputError(f"{scene}: has no DEM; leave 'elevation' out of the bands")
        return dataset.elevation.values
    if band not in dataset.band.values:
        raise absent(scene, "band", band, dataset.band.values)
    return dataset.reflectance.sel(band=band).values


def _labels(dataset: xr.Dataset, sources: Sequence[str]) -> list[np.ndarray]:
    """A mask (y, x) from each source.

    A simulated scene among real ones is labelled with its truth, whatever the source: processors
    are made for real images. With "truth" among the sources they label it all the same.
    """
    if dataset.attrs.get(SIMULATED) and "truth" not in sources:
        return [dataset.mask.values] * len(sources)
    masks: dict[str, np.ndarray] = {}
    for source in sources:
        if source != "truth":
            masks[source] = label_scene(dataset, source, masks)
        elif "mask" in dataset:
            masks[source] = dataset.mask.values
        else:
            raise InputError(
                f"{dataset.attrs['scene']}: has no mask of its own; label it with "
                f"{', '.join(LABEL_SOURCES)}"
            )
    return list(masks.values())


def _soft(dataset: xr.Dataset) -> xr.DataArray:
    """Soft labels (chip, y, x) float16 from the masks of all processors; NaN for nodata."""
    fraction = (
        sum(xr.where(mask == NODATA, 0.5, mask).astype(np.float16) for mask in dataset.mask)
        / dataset.sizes["source"]
    )
    return fraction.where(dataset.image.notnull().all("band"))


@dataclass(frozen=True)
class Chips:
    """Chips of one role, with one source of labels, for the bands of a model."""

    dataset: xr.Dataset

    @classmethod
    def open(cls, path: Path | str, bands: Sequence[str], source: str, role: str) -> "Chips":
        """Open the chips that `make_chips` has written.

        Args:
            path: The Zarr store.
            bands: Common names, in the order wanted.
            source: Source of the labels, or `SOFT`: the fraction of the processors that say cloud,
                one half for simulated cloud too thin to be labelled. Soft labels are to train
                with; another role gets the pixels where all processors agree.
            role: "train" or "validation".

        Returns:
            The chips, in memory.

        Raises:
            InputError: The message names what is missing.
        """
        with readable(path, "store of chips", "run 01_data_preparation"):
            dataset = xr.open_zarr(path, chunks=None)
            missing = {"image", "mask", "band", "source", "role"} - set(dataset.variables)
            if missing:
                raise ValueError(f"no {min(missing)!r}")
        if source == SOFT and role != "train":
            source = "consensus"
        sources = PROCESSORS if source == SOFT else [source]
        for axis, wanted in (("band", bands), ("source", sources)):
            present = dataset[axis].values.tolist()
            for name in wanted:
                if name not in present:
                    raise absent(path, axis, name, present)
        chosen = dataset.sel(band=list(bands), source=sources)
        chosen = chosen.isel(chip=dataset.role.values == role).load()
        if not chosen.sizes["chip"]:
            raise InputError(f"{path}: no chips of role {role!r}")
        mask = _soft(chosen) if source == SOFT else chosen.mask.isel(source=0)
        return cls(chosen.assign(mask=mask))

    @property
    def resolution(self) -> float:
        """Metres per pixel."""
        return float(self.dataset.attrs["resolution"])

    @property
    def sources(self) -> dict[str, str]:
        """SHA-256 of the image, by scene id."""
        ids = self.dataset.scene.values.tolist()
        return dict(zip(ids, self.dataset.sha256.values.tolist(), strict=True))

    def statistics(
        self, of: Callable[[Tensor], Tensor] = lambda x: x
    ) -> tuple[list[float], list[float]]:
        """Compute the mean and the standard deviation of each band, without nodata.

        Args:
            of: Applied first to the image (chip, band, y, x): `network.logarithm`, say.

        Returns:
            Means and standard deviations, in the order of the bands.

        Raises:
            InputError: A band is nodata everywhere.
        """
        count = total = squares = torch.zeros(1)
        for images in self.tensors()[0].split(64):  # all at once would fill the memory
            x = of(images.float()).double()
            count = count + x.isfinite().sum((0, 2, 3))
            total = total + x.nansum((0, 2, 3))
            squares = squares + (x**2).nansum((0, 2, 3))
        mean = (total / count).numpy()
        std = (squares / count - (total / count) ** 2).clamp_min(0).sqrt().numpy()
        if not np.isfinite(mean).all():
            band = self.dataset.band.values[~np.isfinite(mean)][0]
            raise InputError(f"chips: band {band} is nodata everywhere; leave it out of the bands")
        std = np.maximum(std, 1e-3)  # a band that does not vary must not be divided by zero
        return mean.round(5).tolist(), std.round(5).tolist()

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Give the images (chip, band, y, x) of type `STORED` and the masks (chip, y, x).

        Masks are uint8, soft ones float16: 0 clear to 1 cloud, NaN where there is nodata.
        """
        image, mask = self.dataset.image.values, self.dataset.mask.values
        return torch.from_numpy(image), torch.from_numpy(mask)

    def __len__(self) -> int:
        return self.dataset.sizes["chip"]

    def only(self, of: str) -> "Chips":
        """Select chips.

        Args:
            of: "all", or those of "real" or of "simulated" images.
        """
        if of == "all":
            return self
        simulated = self.dataset.sha256.values == SIMULATED
        return Chips(self.dataset.isel(chip=simulated == (of == "simulated")))

    def real_and_simulated(self) -> tuple["Chips", "Chips"]:
        """Select the chips of real images, and those of simulated ones; either may be empty."""
        return self.only("real"), self.only("simulated")
