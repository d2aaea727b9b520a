"""Catalogues: which scenes there are, what their files hold, and how to get those files.

A catalogue is a YAML file of collections; a registry is a CSV file with the size, SHA-256 and
address of every data file. Data files are never part of the project: `Store` takes them from a
mirror folder, or downloads them once into a cache, and checks each against the registry.
"""

import csv
import difflib
import io
import os
import re
from collections.abc import Iterable
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal, Self

import pooch
import requests
from pydantic import BaseModel, ConfigDict, Field, model_validator
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm
from urllib3.util import Retry

from clouddl.errors import InputError, read_yaml, validated

DATA = Path(os.environ.get("CLOUDDL_DATA", Path(__file__).parent.parent / "data"))
pooch.get_logger().setLevel("ERROR")  # the progress bar says what is going on
NO_NETWORK = (
    "no network: name a folder that holds the files with --mirror or CLOUDDL_MIRROR, "
    "or use `--corpus drawn`"
)


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
    drawn: dict[str, Any] | None = None  # arguments of clouddl.drawn.draw_scene

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.drawn is None) == (not self.image):
            raise ValueError("give either `image` (a list of files) or `drawn`, not both")
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
            near = _closest(scene_id, known)
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


def row_of(name: str, file: Path) -> dict[str, str]:
    """The row of a registry for a file that is here: its bytes and SHA-256, and no address."""
    size = str(file.stat().st_size)
    return {"path": name, "bytes": size, "sha256": pooch.file_hash(file), "url": ""}


def write_registry(target: Path, rows: Iterable[dict[str, str]]) -> None:
    """Write a registry: path, bytes, sha256 and address of each file."""
    text = io.StringIO()
    columns = ["path", "bytes", "sha256", "url"]
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_whole(target, text.getvalue().encode())


def write_whole(target: Path, data: bytes) -> None:
    """Write a file so that it is there whole, or as it was before."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        part.write_bytes(data)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def ask(url: str, method: str = "GET", **options: Any) -> requests.Response:
    """What a server answers, tried again, later each time, while it is busy or does not answer.

    404 is an answer; InputError for any other refusal, and for no answer.
    """
    busy = Retry(Store.retries, backoff_factor=1, status_forcelist=[429, 500, 502, 503, 504],
                 allowed_methods=None)  # fmt: skip
    try:
        with requests.Session() as session:
            for scheme in ("http://", "https://"):
                session.mount(scheme, HTTPAdapter(max_retries=busy))
            answer = session.request(method, url, timeout=30, allow_redirects=True, **options)
            if answer.status_code != 404:
                answer.raise_for_status()
            return answer
    except requests.RequestException as error:
        raise InputError(f"{url}: does not answer ({error}); try again later") from error


def store_of(catalogue: Catalogue, mirror: Path | str | None = None) -> "Store":
    """The store of a catalogue's files.

    Those of one's own (`register`) lie beside their registry: a mirror holds the study's alone.
    """
    own = catalogue.registry is not None and catalogue.registry.parent != DATA / "registry"
    beside = catalogue.registry.parent if own and catalogue.registry else None
    return Store(catalogue.registry, mirror=beside or mirror)


class Store:
    """The data files of one registry, from a mirror, a cache, or the network.

    `mirror`: a folder of the registry's layout (or CLOUDDL_MIRROR); its files are used in place.
    `cache`: where downloads go (or CLOUDDL_CACHE; default: the user's cache folder).
    """

    retries = 2  # further attempts after a download that broke off or came out wrong

    def __init__(
        self, registry_csv: Path | str | None, cache: Path | str | None = None,
        mirror: Path | str | None = None, progress: bool = True,
    ) -> None:  # fmt: skip
        self.progress = progress
        self.cache = Path(cache or os.environ.get("CLOUDDL_CACHE") or pooch.os_cache("clouddl"))
        mirror = mirror or os.environ.get("CLOUDDL_MIRROR")
        self.mirror = Path(mirror) if mirror else None
        if self.mirror and not self.mirror.is_dir():
            raise InputError(f"mirror {mirror}: no such folder; mend --mirror or CLOUDDL_MIRROR")
        self.rows: dict[str, dict[str, str]] = {}
        if registry_csv is not None:
            try:
                with open(registry_csv, newline="", encoding="utf-8") as stream:
                    self.rows = {row["path"]: row for row in csv.DictReader(stream)}
            except (OSError, KeyError) as error:
                raise InputError(f"{registry_csv}: not a readable registry: {error}") from error

    def sha256(self, path: str) -> str:
        """The SHA-256 the registry gives for a file."""
        if path not in self.rows:
            raise InputError(f"{path}: not in the registry" + _closest(path, self.rows))
        return self.rows[path]["sha256"]

    def fetch(self, path: str) -> Path:
        """Where a registry's file lies on this machine: downloaded if need be, verified always."""
        return self.fetch_all([path])[0]

    def fetch_all(self, paths: Iterable[str]) -> list[Path]:
        """Fetch many files under one progress bar (bytes); in the order given."""
        wanted = list(paths)
        absent = [path for path in dict.fromkeys(wanted) if self._local(path) is None]
        total = sum(int(self.rows[path]["bytes"]) for path in absent)
        name = Path(absent[0]).name if len(absent) == 1 else f"{len(absent)} files"
        hide = not (absent and self.progress)
        with tqdm(total=total, desc=name, unit="B", unit_scale=True, disable=hide) as bar:
            return [self._fetch(path, bar) for path in wanted]

    def learn(self, path: str, url: str) -> bool:
        """Make a row for a file by what its server tells; False if the server has none.

        MD5 where the server's ETag is one, else the size alone. A file that is there is not asked
        for again: it was checked when it came.
        """
        if (local := self.cache / path).is_file():
            self.rows[path] = row_of(path, local)
            return True
        answer = ask(url, "HEAD")
        if answer.status_code == 404:
            return False
        told = answer.headers.get("ETag", "").strip('"').lower()
        md5 = f"md5:{told}" if re.fullmatch("[0-9a-f]{32}", told) else ""
        size = answer.headers.get("Content-Length", "")
        if not size.isdigit():
            raise InputError(f"{url}: its server tells no size; it cannot be checked")
        self.rows[path] = {"path": path, "bytes": size, "sha256": md5, "url": url}
        return True

    def available(self) -> bool:
        """Whether the first file is at hand, or its server answers within 3 seconds."""
        first = next(iter(self.rows), None)
        if first is None or self._local(first):
            return first is not None
        try:
            return requests.head(self.rows[first]["url"], timeout=3, allow_redirects=True).ok
        except requests.RequestException:
            return False

    def _local(self, path: str) -> Path | None:
        self.sha256(path)  # an unknown path must not reach the file system
        folders = (self.mirror, self.cache) if self.mirror else (self.cache,)
        return next((folder / path for folder in folders if (folder / path).is_file()), None)

    def _fetch(self, path: str, bar: tqdm) -> Path:
        local, row = self._local(path), self.rows[path]
        if local and self.mirror and local == self.mirror / path:
            return _check(local, row)
        url, size, part = row["url"], int(row["bytes"]), self.cache / f"{path}.part"
        if not url and not local:
            told = "was made here and is gone; make it again: clouddl fetch alcd"
            raise InputError(f"{path}: {told}")
        # The column may name another algorithm; a file whose server tells none has only its size.
        known = row["sha256"] if ":" in row["sha256"] else f"sha256:{row['sha256']}"
        shelf = pooch.create(self.cache, "", registry={path: known if row["sha256"] else None},
                             urls={path: url}, retry_if_failed=self.retries)  # fmt: skip
        try:
            get = partial(_resume, part=part, size=size, bar=bar)
            return Path(shelf.fetch(path, downloader=get))
        except requests.RequestException as error:
            answered = isinstance(error, requests.HTTPError | _Truncated)
            reason = error if answered else f"{NO_NETWORK} ({type(error).__name__})"
            raise InputError(f"{path}: {reason}") from error
        except ValueError as error:  # pooch's word for a SHA-256 that differs
            raise InputError(f"{path}: {url} sent another file; use a mirror ({error})") from error
        except OSError as error:
            raise InputError(f"{error}; set CLOUDDL_CACHE to a folder with room") from error


class _Truncated(requests.ConnectionError):
    """The stream ended early; what came is kept in the .part file."""


def _resume(url: str, output: str, _: object, *, part: Path, size: int, bar: tqdm) -> None:
    """Download `url` to `output`, going on from `part` if an earlier attempt left one."""
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() else 0
    if have < size:
        rest = {"Range": f"bytes={have}-"} if have else {}
        with requests.get(url, headers=rest, stream=True, timeout=30) as answer:
            answer.raise_for_status()
            # Without a 206 the server sends the whole file, whatever was asked.
            with part.open("ab" if answer.status_code == 206 else "wb") as stream:
                bar.update(stream.tell())
                for chunk in answer.iter_content(1 << 16):
                    bar.update(stream.write(chunk))
        have = part.stat().st_size
    if have < size:
        bar.update(-have)  # the next attempt counts them again
        raise _Truncated(f"truncated: {have} of {size} bytes arrived; run again to go on")
    part.replace(output)  # pooch verifies it there, and only then moves it into place


def _check(path: Path, row: dict[str, str]) -> Path:
    """A mirror's file, if it is as its row in the registry says."""
    state = path.stat()
    mend = f"copy it again from {row['url']}" if row["url"] else "put it back, or register it anew"
    if state.st_size != int(row["bytes"]):
        told = f"{row['bytes']} bytes expected, {state.st_size} found"
        raise InputError(f"{path}: truncated or changed: {told}; {mend}")
    if (found := _sha256(path.resolve(), state.st_size, state.st_mtime_ns)) != row["sha256"]:
        raise InputError(f"{path}: sha256 {row['sha256']} expected, {found} found; {mend}")
    return path


@cache
def _sha256(path: Path, size: int, changed: int) -> str:
    """SHA-256 of a file, computed once in a process while the file's size and time stay."""
    return pooch.file_hash(path)


def _closest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def choose_corpus(requested: str, store: Store) -> str:
    """The corpus to study: real, drawn or alcd as asked, or for "auto" real where it can be had."""
    if requested == "auto":
        return "real" if store.available() else "drawn"
    if requested == "alcd" and not (DATA / "catalogue" / "alcd.yaml").exists():
        raise InputError("corpus alcd: is not here; gather it with `clouddl fetch alcd`")
    if requested not in ("real", "drawn", "alcd"):
        raise InputError(f"corpus {requested!r} is unknown; choose auto, real or drawn (or alcd)")
    return requested


def open_corpus(
    requested: str = "auto", mirror: Path | str | None = None
) -> tuple[Catalogue, Store]:
    """The catalogue to study and the store of its files: what every notebook begins with."""
    store = Store(DATA / "registry" / "real.csv", mirror=mirror)
    catalogue = load_catalogue(choose_corpus(requested, store))
    return catalogue, store_of(catalogue, mirror) if catalogue.name == "alcd" else store
