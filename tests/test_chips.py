"""Chips: what is cut from scenes, and that a failure leaves what was there."""

import csv
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from clouddl.chips import SOFT, Chips, make_chips
from clouddl.errors import InputError
from clouddl.files import Store
from clouddl.labels import PROCESSORS
from clouddl.scenes import Scene
from clouddl.simulate import simulate_scene

MakeScene = Callable[..., Scene]
BANDS = ["green", "red", "nir", "swir16"]


def make(scenes: list[Scene], path: Path, **options: Any) -> xr.Dataset:
    store = options.pop("store", None) or Store(None)
    options = {"bands": BANDS, "sources": ["truth"], "size": 32} | options
    return make_chips(scenes, store, path, **options)


def test_chips_are_the_scene_cut_to_pieces(simulated: MakeScene, tmp_path: Path) -> None:
    make(
        [simulated(1), simulated(2, "validation")], tmp_path / "a.zarr", bands=["nir", "elevation"]
    )
    stored = xr.open_zarr(tmp_path / "a.zarr", chunks=None)
    assert stored.image.dims == ("chip", "band", "y", "x")
    assert stored.image.shape == (8, 2, 32, 32)
    assert stored.image.dtype == np.float16
    assert stored.mask.dims == ("source", "chip", "y", "x")
    assert stored.mask.shape == (1, 8, 32, 32)
    assert stored.mask.dtype == np.uint8
    assert stored.band.values.tolist() == ["nir", "elevation"]
    assert stored.source.values.tolist() == ["truth"]
    assert stored.scene.values.tolist() == ["simulated-1"] * 4 + ["simulated-2"] * 4
    assert stored.group.values.tolist() == ["group-1"] * 4 + ["group-2"] * 4
    assert stored.role.values.tolist() == ["train"] * 4 + ["validation"] * 4
    assert set(stored.sha256.values) == {"simulated"}
    assert stored.attrs["resolution"] == 30
    whole = simulate_scene("sentinel-2", **simulated(1).simulated)
    quarters = stored.isel(chip=slice(4))
    for name, values, extra in (
        ("mask", whole.mask.values, {"source": 0}),
        ("image", whole.reflectance.sel(band="nir").values, {"band": 0}),
        ("image", whole.elevation.values, {"band": 1}),
    ):
        tiles = quarters[name].isel(extra).values.reshape(2, 2, 32, 32)
        expected = values.astype(tiles.dtype)  # float16 holds reflectance to 0.0005
        np.testing.assert_array_equal(tiles.swapaxes(1, 2).reshape(64, 64), expected)


def test_edges_are_filled_with_nodata(simulated: MakeScene, tmp_path: Path) -> None:
    chips = make([simulated(1, size=40)], tmp_path / "a.zarr")
    assert chips.sizes["chip"] == 4
    corner = chips.isel(chip=3)
    assert np.isfinite(corner.image.values[:, :8, :8]).all()
    assert np.isnan(corner.image.values[:, 8:]).all()
    assert np.isnan(corner.image.values[:, :, 8:]).all()
    assert (corner.mask.values[:, 8:] == 255).all()
    whole = simulate_scene("sentinel-2", **simulated(1, size=40).simulated).mask
    np.testing.assert_array_equal(corner.mask.values[0, :8, :8], whole[32:, 32:])


def test_a_layer_for_each_source_of_labels(simulated: MakeScene, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make([simulated(1)], path, sources=["truth", "s2cloudless"], size=64)
    truth, labels = (Chips.open(path, BANDS, s, "train") for s in ("truth", "s2cloudless"))
    assert (truth.tensors()[0] == labels.tensors()[0]).all()
    masks = truth.tensors()[1], labels.tensors()[1]
    assert masks[0].shape == masks[1].shape == (1, 64, 64)
    assert not (masks[0] == masks[1]).all()
    assert (masks[0] == masks[1])[masks[0] != 255].float().mean() > 0.6


def test_soft_labels_are_the_fraction_of_processors(tmp_path: Path) -> None:
    masks = np.zeros((3, 2, 1, 6), np.uint8)  # three processors; a real and a simulated chip
    masks[:, 0, 0] = np.array([[0, 1, 1, 1, 0, 255], [0, 0, 1, 1, 0, 255], [0, 0, 0, 1, 0, 255]])
    masks[:, 1, 0] = [0, 0, 255, 1, 1, 1]  # between clear and cloud: thin
    image = np.full((2, 1, 1, 6), 0.2, np.float16)
    image[0, ..., 5] = np.nan
    about = {name: ("chip", ["a", "b"]) for name in ("scene", "group")}
    coordinates = {"band": ["red"], "source": PROCESSORS, "role": ("chip", ["train"] * 2), **about}
    variables = {"image": (("chip", "band", "y", "x"), image)}
    variables["mask"] = (("source", "chip", "y", "x"), masks)
    coordinates["sha256"] = ("chip", ["0f" * 32, "simulated"])
    chips = xr.Dataset(variables, coordinates, {"resolution": 10.0})
    chips.to_zarr(tmp_path / "soft.zarr", zarr_format=2)
    labels = Chips.open(tmp_path / "soft.zarr", ["red"], SOFT, "train").tensors()[1]
    expected = np.array([[0, 1 / 3, 2 / 3, 1, 0, np.nan], [0, 0, 0.5, 1, 1, 1]])
    np.testing.assert_allclose(labels[:, 0].float().numpy(), expected, atol=1e-3)


def test_validation_has_no_soft_labels(zarr: Path) -> None:
    with pytest.raises(InputError, match="no source 'consensus'"):
        Chips.open(zarr, BANDS, SOFT, "validation")


def test_open_chooses_role_and_bands(zarr: Path) -> None:
    train = Chips.open(zarr, ["swir16", "green"], "truth", "train")
    image, mask = train.tensors()
    assert image.shape == (6, 2, 64, 64)
    assert image.dtype == torch.float16
    assert mask.shape == (6, 64, 64)
    assert mask.dtype == torch.uint8
    both = Chips.open(zarr, ["green", "swir16"], "truth", "train").tensors()[0]
    assert (both.flip(1) == image).all()
    assert train.resolution == 30
    assert train.sources == {f"simulated-{seed}": "simulated" for seed in range(6)}
    validation = Chips.open(zarr, ["green"], "truth", "validation")
    assert list(validation.sources) == ["simulated-6", "simulated-7"]


@pytest.mark.parametrize(
    ("bands", "source", "role", "told"),
    [
        (["green", "pan"], "truth", "train", "has no band 'pan'; it has green, red, nir, swir16"),
        (["green"], "consensus", "train", "has no source 'consensus'; it has truth"),
        (["green"], "truth", "reference", "no chips of role 'reference'"),
    ],
)
def test_open_names_what_lacks(
    zarr: Path, bands: list[str], source: str, role: str, told: str
) -> None:
    with pytest.raises(InputError, match=f"simulated.zarr: {told}"):
        Chips.open(zarr, bands, source, role)


def test_open_without_chips(tmp_path: Path) -> None:
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "file.zarr").write_text("not chips")
    xr.Dataset({"else": ("t", [1.0])}).to_zarr(tmp_path / "other.zarr", zarr_format=2)
    for name in ("absent.zarr", "empty.zarr", "file.zarr", "other.zarr"):
        with pytest.raises(InputError, match=f"{name}: the store of chips cannot be read"):
            Chips.open(tmp_path / name, BANDS, "truth", "train")


def test_statistics_leave_nodata_out(simulated: MakeScene, tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    make([simulated(1, size=40)], path)
    mean, std = Chips.open(path, BANDS, "truth", "train").statistics()
    whole = simulate_scene("sentinel-2", **simulated(1, size=40).simulated).reflectance.sel(
        band=BANDS
    )
    np.testing.assert_allclose(mean, whole.mean(("y", "x")), atol=1e-4)
    np.testing.assert_allclose(std, whole.std(("y", "x")), atol=1e-4)


def test_without_drawn_keeps_real_images_alone(train_chips: Chips) -> None:
    scenes = train_chips.dataset.scene.values
    shas = np.where(np.isin(scenes, ["simulated-1", "simulated-4"]), "0f" * 32, "simulated")
    some = Chips(train_chips.dataset.assign_coords(sha256=("chip", shas))).only("real")
    assert list(some.sources) == ["simulated-1", "simulated-4"]
    assert (some.tensors()[0] == train_chips.tensors()[0][[1, 4]]).all()


@pytest.fixture
def on_disk(tmp_path: Path) -> tuple[Store, dict[str, Any]]:
    """A store of one file of two bands, and the record of the scene in it (without a label)."""
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    image = np.random.default_rng(0).uniform(0, 0.5, (2, 32, 32)).astype(np.float32)
    np.savez(mirror / "scene.npz", img=image)
    data = (mirror / "scene.npz").read_bytes()
    with open(tmp_path / "registry.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "sha256", "bytes", "url"])
        writer.writerow(["scene.npz", hashlib.sha256(data).hexdigest(), len(data), "https://a.b/c"])
    fields = {"simulated": None, "image": ["scene.npz#img"], "bands": ["red", "nir"], "id": "filed"}
    return Store(tmp_path / "registry.csv", mirror=mirror), fields


def test_the_sha256_of_an_image_is_kept(
    simulated: MakeScene, on_disk: tuple[Store, dict[str, Any]], tmp_path: Path
) -> None:
    store, fields = on_disk
    np.savez(tmp_path / "mirror" / "label.npz", m=np.eye(32, dtype=np.uint8))
    data = (tmp_path / "mirror" / "label.npz").read_bytes()
    store.rows["label.npz"] = {
        "path": "label.npz", "sha256": hashlib.sha256(data).hexdigest(), "bytes": str(len(data)),
        "url": "https://a.b/d",
    }  # fmt: skip
    scene = simulated(1, **fields, label="label.npz#m", label_codes="binary")
    make([scene], tmp_path / "a.zarr", store=store, bands=["nir", "red"])
    chips = Chips.open(tmp_path / "a.zarr", ["red"], "truth", "train")
    assert chips.sources == {"filed": store.rows["scene.npz"]["sha256"]}
    assert (chips.tensors()[1][0].numpy() == np.eye(32)).all()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"bands": ["red", "blue"]}, "filed: has no band 'blue'; it has red, nir"),
        ({"bands": ["red", "elevation"]}, "filed: has no DEM"),
        ({"bands": ["red"]}, "filed: has no mask of its own; label it with s2cloudless"),
        ({"bands": ["red"], "sources": ["maja"]}, "label source 'maja' is unknown"),
        ({"bands": ["red"], "sources": ["s2cloudless"]}, "s2cloudless needs band"),
    ],
)
def test_a_scene_that_fails_leaves_the_old_chips(
    simulated: MakeScene, on_disk: tuple[Store, dict[str, Any]], tmp_path: Path,
    options: dict[str, Any], told: str,
) -> None:  # fmt: skip
    path = tmp_path / "chips" / "a.zarr"
    make([simulated(1)], path)
    before = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}
    store, fields = on_disk
    with pytest.raises(InputError, match=told):
        make([simulated(3), simulated(1, **fields)], path, store=store, **options)
    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == before
    assert [p.name for p in path.parent.iterdir()] == ["a.zarr"]


def test_a_broken_image_is_named(
    simulated: MakeScene, on_disk: tuple[Store, dict[str, Any]], tmp_path: Path
) -> None:
    store, fields = on_disk
    file = tmp_path / "mirror" / "scene.npz"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(InputError, match=r"scene\.npz: truncated"):
        make([simulated(1, **fields)], tmp_path / "a.zarr", store=store, bands=["red"])
    assert not (tmp_path / "a.zarr").exists()


def test_writing_that_breaks_off_leaves_the_old_chips(
    simulated: MakeScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.zarr"
    make([simulated(1)], path)
    whole = xr.Dataset.to_zarr

    def full(self: xr.Dataset, store: Path, **options: Any) -> None:
        whole(self.isel(chip=[0]), store, **options)
        raise OSError("No space left on device")

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(xr.Dataset, "to_zarr", full)
        make([simulated(2)], path)
    assert list(Chips.open(path, BANDS, "truth", "train").sources) == ["simulated-1"]
    make([simulated(2)], path)  # what was left behind is in nobody's way
    assert list(Chips.open(path, BANDS, "truth", "train").sources) == ["simulated-2"]
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_no_scenes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no scenes to cut chips from"):
        make([], tmp_path / "a.zarr")


def test_several_resolutions(simulated: MakeScene, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"several resolutions \[10.0, 30.0\]"):
        make([simulated(1), simulated(2, resolution=10.0)], tmp_path / "a.zarr")
    assert not (tmp_path / "a.zarr").exists()
