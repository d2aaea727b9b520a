"""Chips: labelled scenes cut to one size and kept in Zarr, as training wants them."""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.labels import LABEL_SOURCES, NODATA, consensus, label_scene
from clouddl.scenes import Scene, open_scene


def cut_chips(
    datasets: Iterable[xr.Dataset], *, bands: Sequence[str], sources: Sequence[str], size: int = 256
) -> xr.Dataset:
    """Cut opened scenes of one resolution into labelled chips of `size` × `size` pixels.

    Returns `image` (chip, band, y, x) float32 reflectance, NaN for nodata; `mask` (source, chip, y,
    x) uint8 (0, 1, 255), one layer for each of `sources` (names of `labels.LABEL_SOURCES`, or
    "truth" for the scene's own mask); `chip` coordinates scene, group, role and sha256 of image.
    `bands` may hold "elevation". Edges that fill less than a chip are padded with nodata.
    """
    images, masks, about, resolutions = [], [], [], set()
    for dataset in datasets:
        layers = [_band(dataset, band) for band in bands]
        labels = _labels(dataset, sources)
        told = [str(dataset.attrs.get(key, "")) for key in ("scene", "group", "role", "sha256")]
        resolutions.add(float(dataset.attrs["resolution"]))
        for top in range(0, dataset.sizes["y"], size):
            for left in range(0, dataset.sizes["x"], size):
                window = np.s_[top : top + size, left : left + size]
                images.append(_fill(np.stack([layer[window] for layer in layers]), size, np.nan))
                masks.append(_fill(np.stack([label[window] for label in labels]), size, NODATA))
                about.append(told)
    if not images:
        raise InputError("no scenes to cut chips from: check the role and the catalogue")
    if len(resolutions) > 1:
        raise InputError(f"scenes of several resolutions {sorted(resolutions)}: make chips of each")
    ids, groups, roles, shas = (np.array(column) for column in zip(*about, strict=True))
    return xr.Dataset(
        {
            "image": (("chip", "band", "y", "x"), np.stack(images).astype(np.float32)),
            "mask": (("source", "chip", "y", "x"), np.stack(masks, axis=1).astype(np.uint8)),
        },
        coords={
            "band": list(bands), "source": list(sources), "scene": ("chip", ids),
            "group": ("chip", groups), "role": ("chip", roles), "sha256": ("chip", shas),
        },
        attrs={"resolution": resolutions.pop()},
    )  # fmt: skip


def make_chips(
    scenes: Sequence[Scene], store: Store, path: Path | str, *, bands: Sequence[str],
    sources: Sequence[str], size: int = 256, progress: bool = True,
) -> xr.Dataset:  # fmt: skip
    """Open scenes, cut and label them (`cut_chips`), and write the chips to Zarr at `path`."""

    def opened() -> Iterator[xr.Dataset]:
        for scene in tqdm(scenes, desc="chips", unit="scene", disable=not progress):
            sha = store.sha256(scene.image[0].partition("#")[0]) if scene.image else "simulated"
            yield open_scene(scene, store).assign_attrs(sha256=sha)

    chips = cut_chips(opened(), bands=bands, sources=sources, size=size)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    whole = {"image": (1, len(bands), size, size), "mask": (1, 1, size, size)}
    chunks = {name: {"chunks": each} for name, each in whole.items()}
    chips.to_zarr(temporary, mode="w", zarr_format=2, consolidated=True, encoding=chunks)
    shutil.rmtree(path, ignore_errors=True)
    temporary.rename(path)
    return chips


def _band(dataset: xr.Dataset, band: str) -> np.ndarray:
    if band == "elevation":
        if "elevation" not in dataset:
            told = "has no DEM; leave 'elevation' out of the bands"
            raise InputError(f"{dataset.attrs['scene']}: {told}")
        return dataset.elevation.values
    if band not in dataset.band.values:
        have = ", ".join(dataset.band.values)
        raise InputError(f"{dataset.attrs['scene']}: has no band {band!r}; it has {have}")
    return dataset.reflectance.sel(band=band).values


def _labels(dataset: xr.Dataset, sources: Sequence[str]) -> list[np.ndarray]:
    """A mask (y, x) from each source; a consensus is made of masks already at hand.

    A simulated scene among real ones has its truth for a label, whatever the source: processors made
    for real images have no say there. Ask for "truth" as well to hear them all the same.
    """
    if dataset.attrs.get("simulated") and "truth" not in sources:
        return [dataset.mask.values] * len(sources)
    found: dict[str, np.ndarray] = {}
    for source in sources:
        parts = LABEL_SOURCES.get(source, {}).get("of", [])
        if source == "truth":
            if "mask" not in dataset:
                known = ", ".join(LABEL_SOURCES)
                told = f"{dataset.attrs['scene']}: has no mask of its own"
                raise InputError(f"{told}; label it with {known}")
            found[source] = dataset.mask.values
        elif parts and all(part in found for part in parts):  # processors are slow
            found[source] = consensus(*(found[part] for part in parts))
        else:
            found[source] = label_scene(dataset, source).values
    return list(found.values())


def _fill(array: np.ndarray, size: int, value: float) -> np.ndarray:
    spare = [(0, 0), *((0, size - extent) for extent in array.shape[-2:])]
    return np.pad(array, spare, constant_values=value)


@dataclass(frozen=True)
class Chips:
    """Chips of one role, with one source of labels, for the bands of a model."""

    dataset: xr.Dataset

    @classmethod
    def open(cls, path: Path | str, bands: Sequence[str], source: str, role: str) -> "Chips":
        """Open the chips of one role in a Zarr of `make_chips`; InputError names what it lacks."""
        try:
            dataset = xr.open_zarr(path, chunks=None)
        except (OSError, ValueError, KeyError) as error:
            told = f"no chips there ({error}); run 01_data_preparation"
            raise InputError(f"{path}: {told}") from error
        if lost := {"image", "mask", "band", "source", "role"} - set(dataset.variables):
            raise InputError(f"{path}: no chips there (no {min(lost)!r}); run 01_data_preparation")
        for axis, wanted in (("band", list(bands)), ("source", [source])):
            if lacking := [name for name in wanted if name not in dataset[axis].values]:
                have = ", ".join(dataset[axis].values)
                told = f"no {axis} {lacking[0]!r} in these chips"
                raise InputError(f"{path}: {told}; they have {have}")
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
        """Scene id: SHA-256 of its image."""
        ids, shas = self.dataset.scene.values.tolist(), self.dataset.sha256.values.tolist()
        return dict(zip(ids, shas, strict=True))

    def statistics(
        self, of: Callable[[Tensor], Tensor] = lambda x: x
    ) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each band over all chips, nodata left out.

        `of` is applied first to the image (chip, band, y, x): `model.logarithm`, say.
        """
        x = of(self.tensors()[0]).numpy()
        mean = np.asarray(np.nanmean(x, axis=(0, 2, 3), dtype=np.float64))
        std = np.asarray(np.nanstd(x, axis=(0, 2, 3), dtype=np.float64))
        if not np.isfinite(mean).all():
            bands = self.dataset.band.values[~np.isfinite(mean)]
            told = "is nodata everywhere; leave it out of the bands"
            raise InputError(f"chips: band {bands[0]} {told}")
        # A band that does not vary carries nothing, and must not be divided by zero.
        std = np.maximum(std, 1e-3)
        return [round(float(v), 5) for v in mean], [round(float(v), 5) for v in std]

    def tensors(self) -> tuple[Tensor, Tensor]:
        """image (chip, band, y, x) float32 and mask (chip, y, x) uint8."""
        image, mask = self.dataset.image.values, self.dataset.mask.values
        return torch.from_numpy(image), torch.from_numpy(mask)

    def without_simulated(self) -> "Chips":
        """The chips of real images alone."""
        real = np.flatnonzero(self.dataset.sha256.values != "simulated")
        return Chips(self.dataset.isel(chip=real))
