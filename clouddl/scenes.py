"""Catalogues: which scenes there are, what their files hold, and how to get those files.

A catalogue is a YAML file of collections; a registry is a CSV file with the size, SHA-256 and
address of every data file. Data files are never part of the project: `Store` takes them from a
mirror folder, or downloads them once into a cache, and checks each against the registry.
"""

import os
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pooch
import xarray as xr
from pydantic import BaseModel, ConfigDict, Field, model_validator

from clouddl.errors import InputError, did_you_mean, read_yaml, validated
from clouddl.files import Store, row_of, write_registry
from clouddl.labels import NODATA, read_mask
from clouddl.products.dem import read_dem
from clouddl.products.grids import weighted_mean, weights
from clouddl.products.image import Reading, check_reflectance, read_image
from clouddl.sensors import Sensor, get_sensor

DATA = Path(os.environ.get("CLOUDDL_DATA", Path(__file__).parent.parent / "data"))


pooch.get_logger().setLevel("ERROR")  # the progress bar says what is going on


class Scene(BaseModel):
    """One scene. reflectance = DN * scale + offset; `None` in `bands` skips that layer."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    collection: str
    sensor: str
    bands: list[str | None] = []
    image: list[str] = []  # one file with all layers, one file per band, or "file.npz#member"
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    resolution: float = Field(gt=0)  # metres
    level: Literal["toa", "surface"] = "toa"
    label: str | None = None
    label_codes: str | None = None  # a table of clouddl.labels.CODES
    label_kind: Literal["people", "processor"] | None = None
    role: Literal["train", "validation", "reference", "extra"]
    group: str  # scenes of one group are never split between training and validation
    biome: str | None = None
    dem: str | None = None
    licence: str = ""
    note: str = ""
    simulated: dict[str, Any] | None = None  # arguments of clouddl.simulate.simulate_scene

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.simulated is None) == (not self.image):
            raise ValueError("give either `image` (a list of files) or `simulated`, not both")
        if self.label and not self.label_codes:
            raise ValueError("a scene with a label needs label_codes")
        if len(self.image) > 1 and len(self.image) != len(self.bands):
            raise ValueError(f"{len(self.image)} image files for {len(self.bands)} bands")
        return self

    def files(self) -> list[str]:
        """Registry paths this scene needs: image, label and DEM, without repeats."""
        paths = [*self.image, self.label, self.dem]
        return list(dict.fromkeys(path.partition("#")[0] for path in paths if path))


class Catalogue(BaseModel):
    """Scenes that are studied together; `registry` is the CSV file of their data files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    registry: Path | None = None
    scenes: list[Scene]

    @model_validator(mode="after")
    def _unique(self) -> Self:
        ids = [scene.id for scene in self.scenes]
        if twice := sorted({name for name in ids if ids.count(name) > 1}):
            raise ValueError(f"scene id {twice[0]!r} is used twice")
        sides: dict[str, str] = {}
        for scene in self.scenes:  # a leak between the two would flatter every validation score
            pair = scene.role in ("train", "validation")
            if pair and sides.setdefault(scene.group, scene.role) != scene.role:
                raise ValueError(f"group {scene.group!r} is both in train and in validation")
        return self

    def scene(self, scene_id: str) -> Scene:
        """The scene of that id; InputError when there is none."""
        known = {scene.id: scene for scene in self.scenes}
        if scene_id not in known:
            near = did_you_mean(scene_id, known)
            raise InputError(f"scene {scene_id!r} is not in catalogue {self.name}{near}")
        return known[scene_id]

    def select(self, role: str | None = None, collection: str | None = None) -> list[Scene]:
        """Scenes of a role and of a collection, in the catalogue's order."""
        return [
            scene for scene in self.scenes
            if role in (None, scene.role) and collection in (None, scene.collection)
        ]  # fmt: skip


def load_catalogue(name_or_path: str | Path) -> Catalogue:
    """Read a catalogue: a name in `data/catalogue`, or a path ending in .yaml.

    A scene inherits its collection's fields. Raises InputError naming the file and the field.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = DATA / "catalogue" / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (DATA / "catalogue").glob("*.yaml"))) or "none"
        raise InputError(f"{path}: no such catalogue; in {DATA} (CLOUDDL_DATA) there is: {known}")
    fields = read_yaml(path, "catalogue")
    try:
        collections = fields.pop("collections")
        fields["scenes"] = [
            {"collection": name, **{k: v for k, v in shared.items() if k != "scenes"}, **scene}
            for name, shared in collections.items()
            for scene in shared["scenes"]
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: collections: each wants a list `scenes` ({error})") from error
    for scene in fields["scenes"]:  # a card of one's own lies beside the catalogue that names it
        if (card := path.parent / str(scene.get("sensor"))).suffix == ".yaml" and card.is_file():
            scene["sensor"] = str(card)
    if isinstance(registry := fields.get("registry"), str):
        beside = path.parent / registry
        fields["registry"] = beside if beside.exists() else DATA / "registry" / registry
    return validated(Catalogue, fields, path)


def register(name_or_path: str | Path) -> Path:
    """Write the registry that a catalogue of one's own names: bytes and SHA-256 of each file.

    The files lie in the catalogue's folder, by the names it gives them; so will the registry.
    From then on a file that changes is not taken. InputError for a file that is not there.
    """
    path = Path(name_or_path)
    catalogue = load_catalogue(path)
    if catalogue.registry is None:
        raise InputError(f"{path}: write a name for its registry, such as `registry: files.csv`")
    target = path.parent / catalogue.registry.name
    rows = []
    for name in dict.fromkeys(file for scene in catalogue.scenes for file in scene.files()):
        if not (file := path.parent / name).is_file():
            raise InputError(f"{file}: no such file; {path} names it")
        rows.append(row_of(name, file))
    write_registry(target, rows)
    return target


def store_of(catalogue: Catalogue, mirror: Path | str | None = None) -> "Store":
    """The store of a catalogue's files.

    Those of one's own (`register`) lie beside their registry: a mirror holds the study's alone.
    """
    own = catalogue.registry is not None and catalogue.registry.parent != DATA / "registry"
    beside = catalogue.registry.parent if own and catalogue.registry else None
    return Store(catalogue.registry, mirror=beside or mirror)


def open_scene(scene: Scene, store: Store, card: Sensor | None = None) -> xr.Dataset:
    """Open a scene of a catalogue; `card` stands in for the sensor the record names.

    Returns `reflectance` (band, y, x) float32 with NaN for nodata; `mask` (y, x) uint8 (0 clear,
    1 cloud, 255 nodata) if the scene has a label; `elevation` (y, x) float32 in metres if it has a
    DEM. `y` and `x` are pixel centres in the CRS, or index * resolution (metres) without one.
    Raises InputError naming the file for whatever cannot be right.
    """
    sensor = card or get_sensor(scene.sensor)
    if scene.simulated is not None:
        from clouddl.simulate import simulate_scene  # late: only the simulated corpus needs it

        if scene.bands:  # every band simulated takes its time
            wanted = tuple(band for band in sensor.bands if band.common in scene.bands)
            sensor = sensor.model_copy(update={"bands": wanted})
        simulated = simulate_scene(sensor, **{"resolution": scene.resolution, **scene.simulated})
        return simulated.assign_attrs(
            scene=scene.id, role=scene.role, group=scene.group, simulated=1
        )
    for band in scene.bands:
        if band is not None:
            sensor.band(band)
    each = [scene.bands] if len(scene.image) == 1 else [[band] for band in scene.bands]
    layers = [
        read_image(
            _place(name, store),
            bands,
            Reading(None, scene.scale, scene.offset, scene.nodata, scene.resolution),
        )
        for name, bands in zip(scene.image, each, strict=True)
    ]  # fmt: skip
    for name, layer in zip(scene.image, layers, strict=True):
        if not (layer.y.equals(layers[0].y) and layer.x.equals(layers[0].x)):
            raise InputError(f"{name}: its grid differs from that of {scene.image[0]}")
    image = xr.concat(layers, "band") if len(layers) > 1 else layers[0]
    check_reflectance(image, scene.image[0])
    dataset = image.to_dataset(name="reflectance")
    dataset.attrs = {
        "scene": scene.id, "sensor": sensor.id, "resolution": image.attrs["resolution"],
        "level": scene.level, "group": scene.group, "role": scene.role,
    }  # fmt: skip
    if scene.label:
        mask = read_mask(_place(scene.label, store), str(scene.label_codes), like=dataset)
        dataset["mask"] = mask.where(np.isfinite(image.values).any(axis=0), NODATA)
    if scene.dem:
        dataset["elevation"] = read_dem(store.fetch(scene.dem), dataset)
    return dataset


def _place(name: str, store: Store) -> str:
    """Where "folder/file.npz#member" lies on this machine, the member kept."""
    path, mark, member = name.partition("#")
    return f"{store.fetch(path)}{mark}{member}"


def resample(dataset: xr.Dataset, resolution: float) -> xr.Dataset:
    """Bring a scene to `resolution` metres: area means when coarser, bilinear when finer.

    Reflectance and elevation leave NaN out of the mean. A mask pixel is cloud where at least half
    of what is labelled is cloud, and 255 where less than half of it is labelled. The grid keeps
    its outer edges, so pixels are `resolution` to within the rounding of their number.
    """
    own = float(dataset.attrs["resolution"])
    if resolution <= 0:
        raise InputError(f"resolution {resolution}: must be above 0 metres")
    sizes = {axis: max(1, round(dataset.sizes[axis] * own / resolution)) for axis in ("y", "x")}
    grids = [weights(dataset.sizes[axis], sizes[axis]) for axis in ("y", "x")]
    coords = {"band": dataset.band.values}
    for axis, size in sizes.items():
        old = dataset[axis].values.astype(float)
        step = (old[-1] - old[0]) / (len(old) - 1) if len(old) > 1 else own
        coords[axis] = old[0] - step / 2 + (np.arange(size) + 0.5) * step * len(old) / size
    out = xr.Dataset(coords=coords, attrs={**dataset.attrs, "resolution": float(resolution)})
    image = [weighted_mean(b, np.isfinite(b), *grids)[0] for b in dataset.reflectance.values]
    out["reflectance"] = ("band", "y", "x"), np.stack(image).astype(np.float32)
    if "mask" in dataset:
        mask = dataset.mask.values
        cloud, labelled = weighted_mean(mask == 1, mask != NODATA, *grids)
        found = np.where(labelled < 0.5 - 1e-6, NODATA, cloud >= 0.5 - 1e-6)
        out["mask"] = ("y", "x"), found.astype(np.uint8), dataset.mask.attrs
    if "elevation" in dataset:
        height = dataset.elevation.values
        height, _ = weighted_mean(height, np.isfinite(height), *grids)
        out["elevation"] = ("y", "x"), height.astype(np.float32)
    return out.rio.write_crs(dataset.rio.crs) if dataset.rio.crs else out
