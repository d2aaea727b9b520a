"""The command line. Heavy imports are late, so that --help answers at once."""

import gc
import os
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from inspect import Parameter, Signature, getdoc, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from clouddl.errors import InputError, absent

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

    from clouddl.products.reading import Reading
    from clouddl.scale.batch import Outcome
    from clouddl.scenes import Catalogue, Scene
    from clouddl.sensors import Range, Sensor

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Cloud masks for optical satellites, from a network trained on simulated Sentinel-2 scenes.

    First steps:

      clouddl sensors                                  which sensors are known

      clouddl predict image.tif --sensor landsat-8 --out masks

      clouddl score masks/image_cloud.tif --reference truth.tif

    Settings: CLOUDDL_MIRROR (a folder that already holds the study's images), CLOUDDL_CACHE
    (where downloads go), CLOUDDL_BACKEND (how the network is run: float32, mixed, openvino; else
    the fastest that is there).""",
)


# Help of what several commands have.
HELP = {
    "mirror": "Folder that holds the images in the registry's layout, instead of the network.",
    "corpus": "real, simulated (by the package, needs nothing), alcd (after `clouddl fetch alcd`), "
    "or auto: real if it can be had.",
    "sensor": "Name of a sensor (see `clouddl sensors`) or path of a card.",
    "out": "Folder for the results.",
    "model": "A model card (.json), or the name of a shipped model.",
}

# What Typer is to know of an option beside its help.
SETTINGS: dict[str, dict[str, Any]] = {
    "mirror": {"envvar": "CLOUDDL_MIRROR"},
    "threshold": {"min": 0, "max": 1},
    "dilation": {"min": 0},
    "tile": {"min": 64},
    "workers": {"min": 1},
    "points": {"min": 2},
    "epochs": {"min": 1},
    "simulated": {"min": 0},
    "draws": {"min": 1},
}


def command(function: Callable[..., None]) -> Callable[..., None]:
    """Make a command of a function: positional parameters are arguments, keyword-only ones options.

    Help is the docstring: of the command what stands before Args, of an option its line there, or
    that in `HELP`. For a parameter `reading` the command has the options of `_reading`.
    """
    about, options = _documented(function)
    given = [option for option in options if option.name != "reading"]
    how = _documented(_reading)[1] if len(given) < len(options) else []

    def run(**values: Any) -> None:
        if how:
            values["reading"] = _reading(**{option.name: values.pop(option.name) for option in how})
        function(**values)

    run.__signature__ = Signature(given + how)  # type: ignore[attr-defined]
    app.command(function.__name__, help=about)(run)
    return function


def _documented(function: Callable[..., Any]) -> tuple[str, list[Parameter]]:
    """The docstring of a function up to Args, and its parameters with their help for Typer."""
    about, _, described = (getdoc(function) or "").partition("\n\nArgs:\n")
    helps = HELP | dict(re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", described, re.MULTILINE))
    options = []
    for option in signature(function).parameters.values():
        declare: Any = typer.Option if option.kind is Parameter.KEYWORD_ONLY else typer.Argument
        default = ... if option.default is Parameter.empty else option.default
        names = [f"--{option.name}"] if option.annotation is bool else []
        text = " ".join(helps.get(option.name, "").split())
        described_by = declare(default, *names, help=text, **SETTINGS.get(option.name, {}))
        options.append(option.replace(default=described_by))
    return about, options


def _reading(
    *,
    bands: str | None = None,
    scale: float | None = None,
    offset: float | None = None,
    nodata: float | None = None,
) -> "Reading":
    """How an image is read.

    Args:
        bands: Common names of the layers in file order, comma separated, - to skip one; default:
            the card's.
        scale: reflectance = number * SCALE + OFFSET; default: the file's own, else 1 and 0.
            Sentinel-2 L1C: 0.0001
        offset: In reflectance. Sentinel-2 from baseline 04.00: -0.1
        nodata: Number that means nodata; default: the file's own.
    """
    from clouddl.products.reading import Reading

    return Reading(_names(bands), scale, offset, nodata)


def _names(text: str | None) -> tuple | None:
    """Comma-separated names; "-" stands for a layer to skip."""
    if not text:
        return None
    names = re.split(r"\s*[,;]\s*", text.strip(" ,;"))
    return tuple(None if name == "-" else name for name in names)


@command
def study(
    *,
    profile: str = "quick",
    corpus: str = "auto",
    mirror: Path | None = None,
    only: list[str] | None = None,
    force: bool = False,
    publish: bool = False,
) -> None:
    """Run the study: data, training, search, scores, transfer, and the book of it.

    Pages, models and tables go to build/<profile>. A run that was stopped goes on where it was.

    Args:
        profile: quick (minutes) or full (what the book shows).
        only: Run only these notebooks, e.g. 02_training.
        force: Run again what is already up to date.
        publish: Put the pages and models into book/ and clouddl/weights.
    """
    from clouddl_study.run import run_study

    run_study(profile, corpus=corpus, mirror=mirror, only=only, force=force, publish=publish)


@command
def fetch(
    corpus: str | None = None,
    *,
    mirror: Path | None = None,
    catalogue: str = "real",
    role: str | None = None,
) -> None:
    """Download the study's images into the cache, verified; what is there is not fetched again.

    `clouddl fetch alcd` gathers what is public of the data of 2020 (some 20 GB) and writes
    data/catalogue/alcd.yaml, for `clouddl study --corpus alcd`. It names what wants an account, and
    where to put it. Run again, it does what is missing.

    Args:
        corpus: alcd: the reference masks of the study of 2020, their images and heights; default:
            the images of a catalogue.
        catalogue: A name in data/catalogue, or a .yaml file.
        role: Only scenes of this role: train, validation, reference, extra.
    """
    from clouddl.scenes import load_catalogue, store_of

    if corpus == "alcd":
        from clouddl_study.alcd import gather

        print("\n".join(gather()))
        return
    if corpus:
        raise InputError(f"fetch {corpus}: only alcd is gathered by name; for others --catalogue")
    records = load_catalogue(catalogue)
    scenes = _scenes_of_role(records, role)
    store = store_of(records, mirror)
    files = list(dict.fromkeys(name for scene in scenes for name in scene.files()))
    if not files:
        print(f"nothing to fetch: the scenes of {catalogue} are simulated")
        return
    paths = store.fetch_all(files)
    size = sum(path.stat().st_size for path in paths) / 2**20
    where = store.mirror or store.cache
    print(f"{len(paths)} files, {size:.0f} MiB, checked against {records.registry}: in {where}")


@command
def predict(
    images: list[str],
    *,
    reading: "Reading",
    out: Path,
    sensor: str | None = None,
    use: str | None = None,
    resolution: float | None = None,
    model: str | None = None,
    threshold: float | None = None,
    dilation: float = 0.0,
    tile: int | None = None,
    probability_type: str = "float32",
    stac: bool = False,
    scheduler: str | None = None,
    workers: int | None = None,
) -> None:
    """Predict cloud masks of images: <stem>_cloud.tif and <stem>_probability.tif.

    The mask is 0 clear, 1 cloud, 255 nodata, on the image's own grid, as cloud-optimised GeoTIFF.
    Images hold top-of-atmosphere reflectance (about 0 to 1); if yours hold digital numbers, say
    how to scale them. Example: a Sentinel-2 L1C stack of four bands, read as SPOT would see it:

      clouddl predict s2.tif --sensor sentinel-2 --bands green,red,nir,swir16 --scale 0.0001 --out masks

    A product as delivered (Sentinel-2, Theia, SPOT, Pléiades, Landsat, PlanetScope) needs no
    options; its mask is on its ground, at the model's resolution or its own if coarser:

      clouddl predict S2A_MSIL1C_20220301T105021_N0500_R051_T31TCJ_20220301T112233.SAFE.zip --out masks

    A STAC item gives its bands by their common names, and its mask gets an item too:

      clouddl predict https://HOST/collections/sentinel-2-l1c/items/ID --out masks

    Of many, each good one is done and each bad one is named: in the folder, report.csv says what
    became of each, and the exit code is 1 if any failed. The same command again does only what is
    missing. On all cores of this machine:

      clouddl predict monday.zip tuesday.zip --out masks --scheduler local

    Args:
        images: Products (folder, .zip, .tar), STAC items (.json file or address), or with --sensor:
            GeoTIFF, .npy or .npz (y, x, band); file.npz#member names a member.
        sensor: Name of a sensor (see `clouddl sensors`) or path of a card; not for products, which
            say it themselves.
        use: Bands to predict from; default: all that a shipped model takes.
        resolution: Metres per pixel, where the file does not say; default: the card's, and taken as
            it is from 20 to 60 m.
        model: A model card (.json) of your own; default: the shipped model that fits the bands.
        threshold: Probability from which a pixel is cloud; default: the model's.
        dilation: Grow the clouds by this many metres.
        tile: Pixels a side predicted at a time; less needs less memory. Default: 1616, and 1024 for
            models without a stem.
        probability_type: float32, in thousandths, or uint8, in steps of 0.004, which the file says,
            and 255 nodata: a smaller file.
        stac: Write a STAC item beside each mask, <stem>_cloud.json; its date is that in the name.
            Done for STAC items always.
        scheduler: Spread the scenes, or the tiles of a large one, over processes: local, or the
            address of a Dask scheduler (tcp://HOST:8786) whose workers see the same paths; default:
            one after another.
        workers: With --scheduler local: how many processes; default: one per core.
    """
    gc.disable()  # else garbage is looked for in all of PyTorch, again and again and at the end
    from clouddl.predict import Options
    from clouddl.scale.batch import predict_batch
    from clouddl.scale.cluster import Processes

    gc.freeze()
    gc.enable()
    try:
        outcomes = predict_batch(
            images,
            sensor,
            out,
            model=model,
            reading=replace(reading, resolution=resolution),
            options=Options(_names(use), threshold, dilation, tile, probability_type),
            processes=Processes(scheduler, workers),
            stac=stac,
        )
    except KeyboardInterrupt:
        print("clouddl: stopped; the same command does what is missing", file=sys.stderr)
        raise typer.Exit(130) from None
    _print_outcomes(outcomes, out)


def _print_outcomes(outcomes: "list[Outcome]", out: Path) -> None:
    """Name the masks that are there and the images that failed; exit code 1 if any did."""
    from clouddl.predict import results_of
    from clouddl.scale.batch import REPORT

    count = Counter(outcome.status for outcome in outcomes)
    failed = count["failed"]
    if failed == len(outcomes) == 1:
        raise InputError(outcomes[0].error)
    for outcome in outcomes:
        if outcome.status == "failed":
            print("clouddl:", outcome.error, file=sys.stderr)
        else:
            print(results_of(outcome.scene, out)[0])
    if len(outcomes) > 1 or count["left"]:
        summary = f"{count['done']} done, {count['left']} left as they were, {failed} failed"
        where = f"; see {out / REPORT}" if failed else ""
        print(f"clouddl: {summary}{where}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


@command
def score(
    masks: list[str],
    *,
    reference: list[str],
    codes: str = "binary",
    csv: Path | None = None,
) -> None:
    """Score masks against references, each and pooled.

    The measures are F2, F1, balanced accuracy, MCC, precision, recall, IoU and accuracy. The
    intervals of the pooled row are 95 %, from a bootstrap over images.

    Args:
        masks: Masks: 0 clear, 1 cloud, 255 nodata.
        reference: A reference for each mask, in the same order; repeat the option.
        codes: Class codes of the references: binary, l8biome, ukis, alcd, scl, fmask, cloudsen12,
            …
        csv: Write the table here too.
    """
    import pandas as pd

    from clouddl.score import MEASURES, pooled

    if len(masks) != len(reference):
        raise InputError(
            f"{len(masks)} masks but {len(reference)} references: give one --reference each"
        )
    rows = [
        {"scene": name, **_counts(name, truth, codes)}
        for name, truth in zip(masks, reference, strict=True)
    ]
    table = pd.DataFrame(rows)
    total = pooled(table, unit="scene")
    single = pooled(table, by=["scene"], unit="scene")
    scores = pd.concat([single, total.assign(scene="all, pooled")], ignore_index=True)
    if csv:
        _write_table(csv, scores)
    print(_table(scores[["scene", *MEASURES, "cloud"]]))
    if len(rows) > 1:
        interval = f"{total.f2_low[0]:.3f} to {total.f2_high[0]:.3f}"
        print(f"F2 {total.f2[0]:.3f}, 95 % interval {interval}")


def _counts(name: str, truth: str, codes: str) -> dict[str, int]:
    """Pixels of a mask against its reference; a warning where the two hardly go together."""
    from clouddl.labels import read_mask
    from clouddl.score import counts

    if os.path.abspath(name) == os.path.abspath(truth):
        raise InputError(f"{name}: is given as the mask and as its reference; give two files")
    day, other = _day_of(name), _day_of(truth)
    if day and other and day != other:
        _warn(f"{name}: is of {day} and its reference {truth} of {other}, by their names")
    mask = read_mask(name, "binary")
    decoded = read_mask(truth, codes, like=mask)
    counted = counts(mask.values, decoded.values)
    if not any(counted.values()):
        _warn(f"{name}: nowhere do both it and {truth} say cloud or clear; check --codes")
    return counted


def _day_of(path: str) -> str | None:
    """The day in the name of a file, None if there is none."""
    from clouddl.products.stac import date_of

    with suppress(InputError):
        return date_of(path)[:10]
    return None


@command
def label(
    image: str,
    *,
    reading: "Reading",
    sensor: str,
    out: Path,
    labels: list[str] | None = None,
    points: int = 10,
) -> None:
    """Make a reference mask by labelling a few places, the least certain ones first, as ALCD does.

    Without --labels it puts the first places to you: <stem>_next.geojson. Open it over the image
    in QGIS, fill the attribute `class` (cloud or clear; or low cloud, high cloud, shadow, land,
    water, snow), leave empty what you cannot tell, and save it under another name. With --labels
    a random forest writes <stem>_reference.tif (0 clear, 1 cloud, 255 nodata) and
    <stem>_confidence.tif (0.5 to 1), and the next places. Polygons of your own are welcome.

      clouddl label image.tif --sensor landsat-8 --out work --labels round1.geojson

    Args:
        image: GeoTIFF of reflectance, with a CRS.
        labels: Points and polygons with an attribute `class`: GeoJSON or GeoPackage; repeat the
            option for the files of several rounds.
        points: How many places to put to you next.
    """
    from clouddl.mission.labelling import label_image

    for path in label_image(image, sensor, out, labels or (), points, reading):
        print(path)


@command
def gate(
    model: str,
    catalogue: str,
    *,
    spec: Path,
    report: Path | None = None,
    mirror: Path | None = None,
) -> None:
    """Judge a model by a mission's scenes: exit code 0 if every demand is met, 1 if not.

    Demands (all optional): F2 and the lower end of its interval, F2 of each surface, calibration,
    drift of the band means from what the model was trained on. Example:

      clouddl gate spot real --spec data/gate.yml --report gate

    Args:
        catalogue: A name in data/catalogue, or a .yaml file; its scenes of role reference are
            scored.
        spec: What is demanded, e.g. data/gate.yml.
        report: Folder for gate.csv and gate.md.
    """
    from clouddl.mission.gate import read_spec, run_gate
    from clouddl.model import load_model

    demands = read_spec(spec)
    loaded = load_model(model)
    scenes = _open_scenes(catalogue, "reference", mirror, loaded.card.resolution)
    verdict = run_gate(loaded, scenes, demands)
    print(_table(verdict.rows))
    if report:
        print(verdict.write(report, f"reference scenes of {catalogue}"))
    if not verdict.passed:
        print("FAILED")
        raise typer.Exit(1)
    print("passed")


@command
def preflight(
    card: str,
    *,
    out: Path,
    corpus: str = "auto",
    mirror: Path | None = None,
    epochs: int = 40,
    simulated: int = 272,
    draws: int = 5,
    seed: int = 0,
) -> None:
    """Make a coarse model for a sensor that has not flown, and say what to expect of it.

    Trains on the archive with the bands the card shares with Sentinel-2, and scores the model on
    scenes simulated as the sensor would see them. Writes <id>.safetensors, <id>.json and expected.csv.

      clouddl preflight my_sensor.yaml --out preflight

    Args:
        card: Name of a sensor (see `clouddl sensors`) or path of a card.
        out: Folder for the model and the table.
        epochs: Passes over the archive.
        simulated: Simulated scenes beside the real images of the archive.
        draws: Samples of an open specification.
        seed: Of training and of simulated scenes.
    """
    from clouddl.mission.preflight import coarse_model, expected
    from clouddl.model import save_model
    from clouddl.sensors import get_sensor
    from clouddl_study.corpora import open_corpus, study_chips, training_labels

    sensor = get_sensor(card)
    catalogue, store = open_corpus(corpus, mirror)
    chips = study_chips(catalogue, store, out.resolve(), simulated=simulated)
    labels = training_labels("auto", catalogue)
    run = out.resolve() / f"run-{sensor.id}"
    model = coarse_model(sensor, chips, labels, run, epochs=epochs, seed=seed)
    table = expected(model, sensor, draws=draws)
    print(save_model(model, out / sensor.id))
    _write_table(out / "expected.csv", table)
    spread = ""
    if len(table) > 1:
        spread = f", from {table.f2.min():.3f} to {table.f2.max():.3f} over {len(table)} draws"
    bands = ", ".join(model.card.bands)
    print(f"trained on {bands} at {model.card.resolution:g} m ({catalogue.name})")
    print(f"F2 expected on simulated scenes: {table.f2.mean():.3f}{spread}")


@command
def register(catalogue: str) -> None:
    """Write the registry of a catalogue of your own: size and SHA-256 of each file it names.

    Images and masks are used only while they are what was registered. Register again on purpose.

    Args:
        catalogue: A catalogue (.yaml) of your own; the files it names lie beside it.
    """
    from clouddl.scenes import register

    print(register(catalogue))


@command
def refine(
    model: str,
    catalogue: str,
    *,
    out: Path,
    mirror: Path | None = None,
    epochs: int = 30,
) -> None:
    """Refine a model with the first labelled images of its sensor.

    Goes on training with the scenes of role train; those of role reference are left for
    `clouddl gate`. Example:

      clouddl refine preflight/my_sensor.json my_scenes.yaml --out refined/my_sensor

    Args:
        catalogue: Catalogue (.yaml) whose train scenes have reference masks.
        out: Stem of the refined model: OUT.safetensors and OUT.json.
        epochs: Passes over the labelled scenes.
    """
    from clouddl.model import load_model, save_model
    from clouddl.transfer import adapt

    start = load_model(model)
    scenes = _open_scenes(catalogue, "train", mirror, start.card.resolution)
    folder = out.with_name(f"{out.name}-run").resolve()
    print(save_model(adapt(start, scenes, folder, epochs=epochs), out))


@command
def sensors(
    cards: list[str] | None = None,
    *,
    out: Path | None = None,
) -> None:
    """List sensors and their bands; with several, the bands they share.

    A path to a card of your own checks it, and says which shipped models its bands can use. Where
    a specification is still open, figures are ranges. To draw the spectral responses:

      clouddl sensors plot sentinel-2 spot-4 --out responses.png

    Args:
        cards: Names or paths of cards; none: all that ship. The word plot before them draws their
            responses.
        out: With plot: the file to draw to (.png, .svg, .pdf); default: sensors.png.
    """
    from clouddl.sensors import get_sensor
    from clouddl.sensors import sensors as shipped

    names = cards or []
    plot = names[:1] == ["plot"]
    if out and not plot:
        raise InputError("--out goes with plot: clouddl sensors plot [CARDS] --out FILE.png")
    names = names[plot:]
    chosen = [get_sensor(name) for name in names or shipped()]
    if plot:
        _plot_responses(chosen, out or Path("sensors.png"))
        return
    for sensor in chosen:
        print(_describe(sensor))
    if names:
        _print_shared(chosen)


def _plot_responses(chosen: "list[Sensor]", out: Path) -> None:
    """Draw the spectral responses of sensors to a file."""
    from clouddl.figures import save, sensor_responses, style

    if out.suffix not in (".png", ".svg", ".pdf"):
        raise InputError(f"{out}: cannot be drawn to; give a file ending in .png, .svg or .pdf")
    style()
    save(sensor_responses(chosen), out)
    print(out)


def _describe(sensor: "Sensor") -> str:
    """A sensor and its bands in two lines."""

    def text(figure: "Range", digits: str) -> str:
        ends = figure if isinstance(figure, tuple) else (figure,)
        return "–".join(format(end, digits) for end in ends)

    bands = "  ".join(
        f"{band.common} {text(band.centre_um, '.3f')} µm {text(band.gsd_m, 'g')} m"
        for band in sensor.bands
    )
    line = f"{sensor.id:<12} {sensor.title}"
    if sensor.has_open_figures:
        line += "   specification open"
    if sensor.missing:
        line += f"   lacks {', '.join(sensor.missing)}"
    return f"{line}\n{'':<12} {bands}"


def _print_shared(chosen: "list[Sensor]") -> None:
    """The bands that sensors share, and which shipped models fit them."""
    from clouddl.model import shipped_models
    from clouddl.sensors import shared_bands

    available = shared_bands(*chosen)
    if len(chosen) > 1:
        print("shared:", ", ".join(available) or "none")
    for card in shipped_models():
        for bands in card.band_sets:
            verdict = "fits" if set(bands) <= set(available) else "does not fit"
            print(f"model {card.name} ({', '.join(bands)}): {verdict}")


def _scenes_of_role(catalogue: "Catalogue", role: str | None) -> "list[Scene]":
    scenes = catalogue.select(role)
    if not scenes:
        known = sorted({scene.role for scene in catalogue.scenes})
        raise absent(f"catalogue {catalogue.name}", "scenes of role", str(role), known)
    return scenes


def _open_scenes(
    catalogue: str, role: str, mirror: Path | None, resolution: float
) -> "dict[str, xr.Dataset]":
    """The scenes of a catalogue that have a role, at a resolution in metres."""
    from clouddl.scenes import load_catalogue, store_of
    from clouddl.transfer import open_scenes

    records = load_catalogue(catalogue)
    return open_scenes(_scenes_of_role(records, role), store_of(records, mirror), resolution)


def _write_table(path: Path, table: "pd.DataFrame") -> None:
    from clouddl.files import write_whole, writing

    if path.exists() and path.suffix.lower() not in (".csv", ".tsv", ".txt"):
        raise InputError(f"{path}: is there, and no table by its name; give one that ends in .csv")
    with writing(path.parent):
        write_whole(path, table.to_csv(index=False).encode())


def _table(table: "pd.DataFrame") -> str:
    return table.to_string(index=False, float_format="%.3f", na_rep="–")


def _warn(message: Warning | str, *_: Any, **__: Any) -> None:
    """Say it to those who want a mask: to them the place in our code says nothing."""
    print("clouddl: warning:", " ".join(str(message).split()), file=sys.stderr)


def main() -> None:
    """Entry point: a bad input is a line on standard error and exit code 2; a warning a line."""
    warnings.showwarning = _warn
    try:
        app()
    except (InputError, OSError) as error:
        print("clouddl:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
