"""Scenes: the records of a catalogue, opened as reflectance with mask and elevation on one grid.

A catalogue is a YAML file of collections of scenes; its registry is a CSV file with the size,
SHA-256 and address of every data file (see `files.Store`). Data files are not part of the project.
"""

import os
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import pooch
import xarray as xr
from pydantic import Field, model_validator

from clouddl.errors import InputError, did_you_mean, read_yaml, validated
from clouddl.files import Store, row_of, write_registry
from clouddl.labels import CLOUD, NODATA, read_mask
from clouddl.products.dem import read_dem
from clouddl.products.grids import weighted_mean, weights
from clouddl.products.image import open_file
from clouddl.products.reading import Reading, check_reflectance
from clouddl.sensors import Record, Sensor, get_sensor
from clouddl.simulate import places, simulate_scene

DATA = Path(os.environ.get("CLOUDDL_DATA", Path(__file__).parent.parent / "data"))
SIMULATED = "simulated"  # stands for the SHA-256 of the image of a simulated scene
OLD_NAME = "drawn"  # of simulated scenes, in catalogues and commands

pooch.get_logger().setLevel("ERROR")  # the progress bar says what is going on


class Scene(Record):
    """The record of one scene. Reflectance = number * scale + offset.

    Attributes:
        bands: Common names of the layers in file order, None to skip one.
        image: One file with all layers, one file per band, or "file.npz#member".
        resolution: Metres per pixel.
        label: File of a mask; its codes are the table `label_codes` of `labels.CODES`.
        group: Scenes of one group are never split between training and validation.
        simulated: Arguments of `simulate_scene`, instead of `image`.
    """

    id: str
    collection: str
    sensor: str
    bands: list[str | None] = Field([])
    image: list[str] = Field([])
    scale: float = 1.0
    offset: float = 0.0
    nodata: float | None = None
    resolution: float = Field(gt=0)
    level: Literal["toa", "surface"] = "toa"
    label: str | None = None
    label_codes: str | None = None
    label_kind: Literal["people", "processor"] | None = None
    role: Literal["train", "validation", "reference", "extra"]
    group: str
    biome: str | None = None
    dem: str | None = None
    licence: str = ""
    note: str = ""
    simulated: dict[str, Any] | None = None

    @model_validator(mode="before")
    @classmethod
    def _rename_old_key(cls, fields: Any) -> Any:
        if not isinstance(fields, dict) or OLD_NAME not in fields:
            return fields
        message = f"key `{OLD_NAME}` of a scene is now called `{SIMULATED}`; rename it"
        warnings.warn(message, FutureWarning, stacklevel=2)
        renamed = {key: value for key, value in fields.items() if key != OLD_NAME}
        return {**renamed, SIMULATED: fields[OLD_NAME]}

    @model_validator(mode="after")
    def _check_files(self) -> Self:
        if (self.simulated is None) == (not self.image):
            raise ValueError("give either `image` (a list of files) or `simulated`, not both")
        if self.label and not self.label_codes:
            raise ValueError("a scene with a label needs label_codes")
        if len(self.image) > 1 and len(self.image) != len(self.bands):
            raise ValueError(f"{len(self.image)} image files for {len(self.bands)} bands")
        return self

    def files(self) -> list[str]:
        """List the files this scene needs.

        Returns:
            Paths in the registry: image, label and DEM, without repeats.
        """
        paths = [*self.image, self.label, self.dem]
        return list(dict.fromkeys(path.partition("#")[0] for path in paths if path))


class Catalogue(Record):
    """Scenes that are studied together; `registry` is the CSV file of their data files."""

    name: str
    title: str
    registry: Path | None = None
    scenes: list[Scene]

    @model_validator(mode="after")
    def _check_scenes(self) -> Self:
        repeated = [name for name, n in Counter(s.id for s in self.scenes).items() if n > 1]
        if repeated:
            raise ValueError(f"scene id {min(repeated)!r} is used twice")
        roles: dict[str, str] = {}
        for scene in self.scenes:  # a leak between the two would flatter every validation score
            learnt = scene.role in ("train", "validation")
            if learnt and roles.setdefault(scene.group, scene.role) != scene.role:
                raise ValueError(f"group {scene.group!r} is both in train and in validation")
        return self

    def scene(self, scene_id: str) -> Scene:
        """Find a scene by its id.

        Args:
            scene_id: The id.

        Returns:
            Its record.

        Raises:
            InputError: There is no such scene.
        """
        for scene in self.scenes:
            if scene.id == scene_id:
                return scene
        similar = did_you_mean(scene_id, [scene.id for scene in self.scenes])
        raise InputError(f"scene {scene_id!r} is not in catalogue {self.name}{similar}")

    def select(self, role: str | None = None) -> list[Scene]:
        """Select scenes by role.

        Args:
            role: The role; None for all.

        Returns:
            Their records, in the order of the catalogue.
        """
        return [scene for scene in self.scenes if role in (None, scene.role)]


def load_catalogue(name_or_path: str | Path) -> Catalogue:
    """Read a catalogue; a scene inherits the fields of its collection.

    Args:
        name_or_path: A name in `data/catalogue`, or a path ending in .yaml.

    Returns:
        The catalogue.

    Raises:
        InputError: The message names the file and the field.
    """
    if name_or_path == OLD_NAME:
        message = f"catalogue {OLD_NAME} is now called {SIMULATED}"
        warnings.warn(message, FutureWarning, stacklevel=2)
        name_or_path = SIMULATED
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        path = DATA / "catalogue" / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in (DATA / "catalogue").glob("*.yaml"))) or "none"
        raise InputError(f"{path}: no such catalogue; in {DATA} (CLOUDDL_DATA) there is: {known}")
    fields = read_yaml(path, "catalogue")
    try:
        fields["scenes"] = _scenes_of(fields.pop("collections"))
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: collections: each wants a list `scenes`, or `places` to simulate ({error})"
        ) from error
    for scene in fields["scenes"]:  # a user's card lies in the folder of the catalogue
        card = path.parent / str(scene.get("sensor"))
        if card.suffix == ".yaml" and card.is_file():
            scene["sensor"] = str(card)
    registry = fields.get("registry")
    if isinstance(registry, str):
        local = path.parent / registry
        fields["registry"] = local if local.exists() else DATA / "registry" / registry
    return validated(Catalogue, fields, path)


def _scenes_of(collections: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The fields of every scene, those of its collection included."""
    scenes = []
    for name, fields in collections.items():
        shared = {key: value for key, value in fields.items() if key not in ("scenes", "places")}
        listed = fields["scenes"] if "scenes" in fields else _simulated_places(fields["places"])
        scenes += [{"collection": name, **shared, **scene} for scene in listed]
    return scenes


def _simulated_places(roles: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Scenes of `simulate.places`: for each role its arguments."""
    return [
        {
            "id": f"simulated_{arguments['surface']}_{arguments['seed']}",
            "group": f"simulated_{arguments['surface']}_{role}",
            "role": role,
            "biome": arguments["surface"],
            "simulated": arguments,
        }
        for role, extent in roles.items()
        for arguments in places(**extent)
    ]


def register(name_or_path: str | Path) -> Path:
    """Write the registry that a user's catalogue names: bytes and SHA-256 of each file.

    From then on a file that changes is refused.

    Args:
        name_or_path: The catalogue; its files lie in its folder, by the names it gives them.

    Returns:
        The registry, in the same folder.

    Raises:
        InputError: The catalogue names no registry, or a file that does not exist.
    """
    path = Path(name_or_path)
    catalogue = load_catalogue(path)
    if catalogue.registry is None:
        raise InputError(f"{path}: write a name for its registry, such as `registry: files.csv`")
    rows = []
    for name in dict.fromkeys(file for scene in catalogue.scenes for file in scene.files()):
        file = path.parent / name
        if not file.is_file():
            raise InputError(f"{file}: no such file; {path} names it")
        rows.append(row_of(name, file))
    target = path.parent / catalogue.registry.name
    write_registry(target, rows)
    return target


def store_of(catalogue: Catalogue, mirror: Path | str | None = None) -> Store:
    """Open the store of a catalogue's files.

    Args:
        catalogue: The catalogue. The files of a user's (`register`) lie beside their registry.
        mirror: Folder that holds the files of the study.

    Returns:
        The store.
    """
    registry = catalogue.registry
    if registry:
        if not registry.exists():
            raise InputError(
                f"catalogue {catalogue.name}: its registry {registry.name} is not there; write "
                "it: clouddl register CATALOGUE.yaml"
            )
        if registry.parent != DATA / "registry":
            mirror = registry.parent
    return Store(registry, mirror=mirror)


def source_sha256(scene: Scene, store: Store) -> str:
    """Say what a scene was made from.

    Args:
        scene: The record.
        store: Where its files are.

    Returns:
        SHA-256 of the (first) file of its image, or "simulated".
    """
    if not scene.image:
        return SIMULATED
    return store.sha256(scene.files()[0])


def open_scene(scene: Scene, store: Store) -> xr.Dataset:
    """Open a scene of a catalogue.

    Args:
        scene: The record.
        store: Where its files are.

    Returns:
        `reflectance` (band, y, x) float32, NaN for nodata; `mask` (y, x) uint8 (0 clear, 1 cloud,
        255 nodata) if it has a label; `elevation` (y, x) float32 in metres if it has a DEM. `y`
        and `x` are pixel centres in the CRS, or index * resolution (metres) without one.

    Raises:
        InputError: The message names the file and what cannot be right.
    """
    sensor = get_sensor(scene.sensor)
    if scene.simulated is not None:
        return _simulate(scene, sensor)
    for band in scene.bands:
        if band is not None:
            sensor.band(band)
    image = _read_layers(scene, store)
    bands = image.band.values.tolist()
    check_reflectance(image.values, bands, scene.image[0], level=scene.level)
    dataset = image.to_dataset(name="reflectance")
    dataset.attrs = {
        "scene": scene.id,
        "sensor": sensor.id,
        "resolution": image.attrs["resolution"],
        "level": scene.level,
        "group": scene.group,
        "role": scene.role,
    }
    if scene.label:
        mask = read_mask(_local(scene.label, store), str(scene.label_codes), like=dataset)
        dataset["mask"] = mask.where(np.isfinite(image.values).any(axis=0), NODATA)
    if scene.dem:
        dataset["elevation"] = read_dem(store.fetch(scene.dem), dataset)
    return dataset


def _simulate(scene: Scene, sensor: Sensor) -> xr.Dataset:
    if scene.bands:  # simulate only the bands asked for
        bands = tuple(band for band in sensor.bands if band.common in scene.bands)
        sensor = sensor.model_copy(update={"bands": bands})
    arguments = {"resolution": scene.resolution, **(scene.simulated or {})}
    dataset = simulate_scene(sensor, **arguments)
    return dataset.assign_attrs(scene=scene.id, role=scene.role, group=scene.group, simulated=1)


def _read_layers(scene: Scene, store: Store) -> xr.DataArray:
    """The image of a scene, of one file or of one for each band."""
    bands = [[band] for band in scene.bands]
    if len(scene.image) == 1:
        bands = [scene.bands]
    reading = Reading(None, scene.scale, scene.offset, scene.nodata, scene.resolution)
    layers: list[xr.DataArray] = []
    for name, names in zip(scene.image, bands, strict=True):
        image = open_file(_local(name, store), replace(reading, bands=tuple(names)))
        layer = image.array()
        if layers and not (layer.y.equals(layers[0].y) and layer.x.equals(layers[0].x)):
            raise InputError(f"{name}: its grid differs from that of {scene.image[0]}")
        layers.append(layer)
    return xr.concat(layers, "band") if len(layers) > 1 else layers[0]


def _local(name: str, store: Store) -> str:
    """Where "folder/file.npz#member" lies on this machine, the member kept."""
    path, mark, member = name.partition("#")
    return f"{store.fetch(path)}{mark}{member}"


def resample(dataset: xr.Dataset, resolution: float) -> xr.Dataset:
    """Bring a scene to another resolution: area means when coarser, bilinear when finer.

    Reflectance and elevation leave NaN out of the mean. A pixel of the mask is cloud where at least
    half of what is labelled is cloud, and 255 where less than half of it is labelled. The grid
    keeps its outer edges, so pixels are `resolution` to within the rounding of their number.

    Args:
        dataset: A scene, as `open_scene` gives it.
        resolution: Metres per pixel.

    Returns:
        The scene at that resolution.

    Raises:
        InputError: A resolution that is not above 0.
    """
    if resolution <= 0:
        raise InputError(f"resolution {resolution}: must be above 0 metres")
    present = dataset.attrs["resolution"]
    sizes = {axis: max(1, round(dataset.sizes[axis] * present / resolution)) for axis in ("y", "x")}
    down, across = (weights(dataset.sizes[axis], size) for axis, size in sizes.items())

    def mean(values: np.ndarray) -> np.ndarray:
        return weighted_mean(values, np.isfinite(values), down, across)[0]

    coordinates = {axis: _centres(dataset, axis, size) for axis, size in sizes.items()}
    coordinates["band"] = dataset.band.values
    out = xr.Dataset(coords=coordinates, attrs=dataset.attrs | {"resolution": float(resolution)})
    image = [mean(band) for band in dataset.reflectance.values]
    out["reflectance"] = ("band", "y", "x"), np.stack(image)
    if "mask" in dataset:
        mask = dataset.mask.values
        cloud, labelled = weighted_mean(mask == CLOUD, mask != NODATA, down, across)
        coarse = np.where(labelled < 0.5 - 1e-6, NODATA, cloud >= 0.5 - 1e-6)
        out["mask"] = ("y", "x"), coarse.astype(np.uint8), dataset.mask.attrs
    if "elevation" in dataset:
        out["elevation"] = ("y", "x"), mean(dataset.elevation.values)
    return out.rio.write_crs(dataset.rio.crs) if dataset.rio.crs else out


def _centres(dataset: xr.Dataset, axis: str, size: int) -> np.ndarray:
    """Coordinates of `size` pixels between the same outer edges."""
    old = dataset[axis].values.astype(float)
    step = dataset.attrs["resolution"]
    if len(old) > 1:
        step = (old[-1] - old[0]) / (len(old) - 1)
    return old[0] - step / 2 + (np.arange(size) + 0.5) * step * len(old) / size
