"""Chips: labelled scenes cut to one size and kept in Zarr, as training wants them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from clouddl.errors import InputError
from clouddl.files import Store, replacing
from clouddl.labels import LABEL_SOURCES, NODATA, label_scene, vote
from clouddl.scenes import SIMULATED, Scene, open_scene, source_sha256

ABOUT = ("scene", "group", "role", "sha256")  # coordinates of a chip


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
        `image` (chip, band, y, x) float32 reflectance, NaN for nodata; `mask` (source, chip, y, x)
        uint8 (0, 1, 255); by `chip` the coordinates of `ABOUT`.

    Raises:
        InputError: No scenes, several resolutions, a band or a label that a scene lacks.
    """
    images, masks, about, resolutions = [], [], [], set()
    for dataset in datasets:
        image = np.stack([_band(dataset, band) for band in bands])
        labels = np.stack(_labels(dataset, sources))
        resolutions.add(float(dataset.attrs["resolution"]))
        for window in _windows(dataset, size):
            images.append(_padded(image[window], size, np.nan))
            masks.append(_padded(labels[window], size, NODATA))
            about.append([str(dataset.attrs.get(name, "")) for name in ABOUT])
    if not images:
        raise InputError("no scenes to cut chips from: check the role and the catalogue")
    if len(resolutions) > 1:
        raise InputError(f"scenes of several resolutions {sorted(resolutions)}: make chips of each")
    columns = zip(ABOUT, np.array(about).T, strict=True)
    return xr.Dataset(
        {
            "image": (("chip", "band", "y", "x"), np.stack(images).astype(np.float32)),
            "mask": (("source", "chip", "y", "x"), np.stack(masks, axis=1).astype(np.uint8)),
        },
        {
            "band": list(bands),
            "source": list(sources),
            **{name: ("chip", column) for name, column in columns},
        },
        {"resolution": resolutions.pop()},
    )


def make_chips(
    scenes: Sequence[Scene],
    store: Store,
    path: Path | str,
    *,
    bands: Sequence[str],
    sources: Sequence[str],
    size: int = 256,
    progress: bool = True,
) -> xr.Dataset:
    """Open scenes, cut and label them, and write the chips.

    Args:
        scenes: Records of a catalogue.
        store: Where their files are.
        path: Zarr store to write, as a whole or not at all.
        bands: As for `cut_chips`.
        sources: As for `cut_chips`.
        size: As for `cut_chips`.
        progress: Whether to show a progress bar.

    Returns:
        The chips, as `cut_chips` gives them.
    """

    def opened() -> Iterator[xr.Dataset]:
        for scene in tqdm(scenes, desc="chips", unit="scene", disable=not progress):
            yield open_scene(scene, store).assign_attrs(sha256=source_sha256(scene, store))

    chips = cut_chips(opened(), bands=bands, sources=sources, size=size)
    chunks = {"image": (1, len(bands), size, size), "mask": (1, 1, size, size)}
    encoding = {name: {"chunks": shape} for name, shape in chunks.items()}
    with replacing(Path(path)) as temporary:
        chips.to_zarr(temporary, mode="w", zarr_format=2, consolidated=True, encoding=encoding)
    return chips


def _windows(dataset: xr.Dataset, size: int) -> Iterator[tuple]:
    for top in range(0, dataset.sizes["y"], size):
        for left in range(0, dataset.sizes["x"], size):
            yield np.s_[:, top : top + size, left : left + size]


def _band(dataset: xr.Dataset, band: str) -> np.ndarray:
    scene = dataset.attrs["scene"]
    if band == "elevation":
        if "elevation" not in dataset:
            raise InputError(f"{scene}: has no DEM; leave 'elevation' out of the bands")
        return dataset.elevation.values
    if band not in dataset.band.values:
        names = ", ".join(dataset.band.values)
        raise InputError(f"{scene}: has no band {band!r}; it has {names}")
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
        parameters = LABEL_SOURCES.get(source, {})
        parts = parameters.get("of", [])
        if source == "truth":
            masks[source] = _truth(dataset)
        elif parts and masks.keys() >= set(parts):  # processors are slow
            masks[source] = vote([masks[part] for part in parts], parameters["rule"])
        else:
            masks[source] = label_scene(dataset, source).values
    return list(masks.values())


def _truth(dataset: xr.Dataset) -> np.ndarray:
    if "mask" not in dataset:
        sources = ", ".join(LABEL_SOURCES)
        raise InputError(
            f"{dataset.attrs['scene']}: has no mask of its own; label it with {sources}"
        )
    return dataset.mask.values


def _padded(array: np.ndarray, size: int, value: float) -> np.ndarray:
    height, width = array.shape[-2:]
    margins = [(0, 0), (0, size - height), (0, size - width)]
    return np.pad(array, margins, constant_values=value)


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
            source: Source of the labels.
            role: "train" or "validation".

        Returns:
            The chips, in memory.

        Raises:
            InputError: The message names what is missing.
        """
        try:
            dataset = xr.open_zarr(path, chunks=None)
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                f"{path}: no chips there ({error}); run 01_data_preparation"
            ) from error
        missing = {"image", "mask", "band", "source", "role"} - set(dataset.variables)
        if missing:
            raise InputError(
                f"{path}: no chips there (no {min(missing)!r}); run 01_data_preparation"
            )
        for axis, wanted in (("band", bands), ("source", [source])):
            present = dataset[axis].values.tolist()
            lacking = [name for name in wanted if name not in present]
            if lacking:
                names = ", ".join(present)
                raise InputError(
                    f"{path}: no {axis} {lacking[0]!r} in these chips; they have {names}"
                )
        dataset = dataset.sel(band=list(bands), source=source)
        chosen = dataset.isel(chip=np.flatnonzero(dataset.role.values == role))
        if not chosen.sizes["chip"]:
            raise InputError(f"{path}: no chips of role {role!r}")
        return cls(chosen.load())

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
        x = of(self.tensors()[0]).numpy()
        mean = np.asarray(np.nanmean(x, axis=(0, 2, 3), dtype=np.float64))
        std = np.asarray(np.nanstd(x, axis=(0, 2, 3), dtype=np.float64))
        if not np.isfinite(mean).all():
            band = self.dataset.band.values[~np.isfinite(mean)][0]
            raise InputError(f"chips: band {band} is nodata everywhere; leave it out of the bands")
        std = np.maximum(std, 1e-3)  # a band that does not vary must not be divided by zero
        return [round(value, 5) for value in mean.tolist()], [round(v, 5) for v in std.tolist()]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """Give the images (chip, band, y, x) float32 and the masks (chip, y, x) uint8."""
        image, mask = self.dataset.image.values, self.dataset.mask.values
        return torch.from_numpy(image), torch.from_numpy(mask)

    def without_simulated(self) -> "Chips":
        """Select the chips of real images."""
        real = np.flatnonzero(self.dataset.sha256.values != SIMULATED)
        return Chips(self.dataset.isel(chip=real))
