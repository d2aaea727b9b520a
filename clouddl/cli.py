"""The command line. Heavy imports are late, so that --help answers at once."""

import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from inspect import Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer

from clouddl.errors import InputError, absent

if TYPE_CHECKING:
    import pandas as pd

    from clouddl.products.image import Reading
    from clouddl.scenes import Catalogue, Scene
    from clouddl.sensors import Range, Sensor

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="""Cloud masks for optical satellites, from a network trained on Sentinel-2 alone.

    First steps:

      clouddl sensors                                  which sensors are known

      clouddl predict image.tif --sensor landsat-8 --out masks

      clouddl score masks/image_cloud.tif --reference truth.tif

    Settings: CLOUDDL_MIRROR (a folder that already holds the study's images), CLOUDDL_CACHE
    (where downloads go), CLOUDDL_BACKEND (how the network is run: float32, mixed, openvino; else
    the fastest that is there).""",
)


Mirror = Annotated[
    Path | None,
    typer.Option(
        help="Folder that holds the images in the registry's layout, instead of the network.",
        envvar="CLOUDDL_MIRROR",
        show_envvar=True,
    ),
]


Corpus = Annotated[
    str,
    typer.Option(
        help="real, simulated (by the package, needs nothing), alcd (after `clouddl fetch alcd`), or auto: real if it can be had."
    ),
]


Bands = Annotated[
    str | None,
    typer.Option(
        help="Common names of the layers in file order, comma separated, - to skip one; default: the card's."
    ),
]


Scale = Annotated[
    float | None,
    typer.Option(
        help="reflectance = number * SCALE + OFFSET; default: the file's own, else 1 and 0. "
        "Sentinel-2 L1C: 0.0001"
    ),
]


Offset = Annotated[
    float | None, typer.Option(help="In reflectance. Sentinel-2 from baseline 04.00: -0.1")
]


Nodata = Annotated[
    float | None, typer.Option(help="Number that means nodata; default: the file's own.")
]


SENSOR = "Name of a sensor (see `clouddl sensors`) or path of a card."


Results = Annotated[Path, typer.Option(help="Folder for the results.")]


Model = Annotated[str, typer.Argument(help="A model card (.json), or the name of a shipped model.")]


def _names(text: str | None) -> tuple | None:
    """Comma-separated names; "-" stands for a layer to skip."""
    if not text:
        return None
    return tuple(None if n.strip() == "-" else n.strip() for n in text.split(","))


def reads_images(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say how an image is read; it gets one `reading` of them."""

    def with_options(
        bands: Bands = None,
        scale: Scale = None,
        offset: Offset = None,
        nodata: Nodata = None,
        **others: Any,
    ) -> None:
        from clouddl.products.image import Reading

        command(reading=Reading(_names(bands), scale, offset, nodata), **others)

    shared = signature(with_options).parameters
    given = signature(command).parameters
    options = [shared[name] for name in ("bands", "scale", "offset", "nodata")]
    kept = [given[name] for name in given if name != "reading"]
    with_options.__signature__ = Signature(kept + options)  # type: ignore[attr-defined]
    with_options.__name__, with_options.__doc__ = command.__name__, command.__doc__
    return with_options


@app.command()
def study(
    profile: Annotated[
        str, typer.Option(help="quick (minutes) or full (what the book shows).")
    ] = "quick",
    corpus: Corpus = "auto",
    mirror: Mirror = None,
    only: Annotated[
        list[str] | None, typer.Option(help="Run only these notebooks, e.g. 02_training.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Run again what is already up to date.")
    ] = False,
    publish: Annotated[
        bool,
        typer.Option("--publish", help="Put the pages and models into book/ and clouddl/weights."),
    ] = False,
) -> None:
    """Run the study: data, training, search, scores, transfer, and the book of it.

    Pages, models and tables go to build/<profile>. A run that was stopped goes on where it was.
    """
    from clouddl_study.run import run_study

    run_study(profile, corpus=corpus, mirror=mirror, only=only, force=force, publish=publish)


@app.command()
def fetch(
    corpus: Annotated[
        str | None,
        typer.Argument(
            help="alcd: the reference masks of the study of 2020, their images and heights; default: the images of a catalogue."
        ),
    ] = None,
    mirror: Mirror = None,
    catalogue: Annotated[
        str, typer.Option(help="A name in data/catalogue, or a .yaml file.")
    ] = "real",
    role: Annotated[
        str | None,
        typer.Option(help="Only scenes of this role: train, validation, reference, extra."),
    ] = None,
) -> None:
    """Download the study's images into the cache, verified; what is there is not fetched again.

    `clouddl fetch alcd` gathers what is public of the data of 2020 (some 20 GB) and writes
    data/catalogue/alcd.yaml, for `clouddl study --corpus alcd`. It names what wants an account, and
    where to put it. Run again, it does what is missing.
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


@app.command()
@reads_images
def predict(
    reading: "Reading",
    images: Annotated[
        list[str],
        typer.Argument(
            help="Products (folder, .zip, .tar), STAC items (.json file or address), or with --sensor: GeoTIFF, .npy or .npz (y, x, band); file.npz#member names a member."
        ),
    ],
    out: Results,
    sensor: Annotated[
        str | None,
        typer.Option(help=f"{SENSOR[:-1]}; not for products, which say it themselves."),
    ] = None,
    use: Annotated[
        str | None,
        typer.Option(help="Bands to predict from; default: all that a shipped model takes."),
    ] = None,
    resolution: Annotated[
        float | None,
        typer.Option(
            help="Metres per pixel, where the file does not say; default: the card's, and taken as it is from 20 to 60 m."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="A model card (.json) of your own; default: the shipped model that fits the bands."
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Probability from which a pixel is cloud; default: the model's."
        ),
    ] = None,
    dilation: Annotated[
        float, typer.Option(min=0, help="Grow the clouds by this many metres.")
    ] = 0.0,
    tile: Annotated[
        int | None,
        typer.Option(
            min=64,
            help="Pixels a side predicted at a time; less needs less memory. Default: 2048, and 1024 for models without a stem.",
        ),
    ] = None,
    stac: Annotated[
        bool,
        typer.Option(
            "--stac",
            help="Write a STAC item beside each mask, <stem>_cloud.json; its date is that in the name. Done for STAC items always.",
        ),
    ] = False,
    scheduler: Annotated[
        str | None,
        typer.Option(
            help="Spread the scenes, or the tiles of a large one, over processes: local, or the address of a Dask scheduler (tcp://HOST:8786) whose workers see the same paths; default: one after another."
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --scheduler local: how many processes; default: one per core."
        ),
    ] = None,
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
    """
    from clouddl.predict import Options, results_of
    from clouddl.scale.batch import REPORT, predict_batch
    from clouddl.scale.cluster import Processes

    try:
        outcomes = predict_batch(
            images,
            sensor,
            out,
            model=model,
            reading=replace(reading, resolution=resolution),
            options=Options(_names(use), threshold, dilation, tile),
            processes=Processes(scheduler, workers),
            stac=stac,
        )
    except KeyboardInterrupt:
        print("clouddl: stopped; the same command does what is missing", file=sys.stderr)
        raise typer.Exit(130) from None
    failed = [outcome for outcome in outcomes if outcome.status == "failed"]
    if failed and len(outcomes) == 1:
        raise InputError(failed[0].error)
    count = Counter(outcome.status for outcome in outcomes)
    for outcome in outcomes:
        if outcome.status in ("done", "left"):
            print(results_of(outcome.scene, out)[0])
    for outcome in failed:
        print("clouddl:", outcome.error, file=sys.stderr)
    if len(outcomes) > 1 or count["left"]:
        summary = f"{count['done']} done, {count['left']} left as they were, {len(failed)} failed"
        where = f"; see {out / REPORT}" if failed else ""
        print(f"clouddl: {summary}{where}", file=sys.stderr)
    if failed:
        raise typer.Exit(1)


@app.command()
def score(
    masks: Annotated[list[str], typer.Argument(help="Masks: 0 clear, 1 cloud, 255 nodata.")],
    reference: Annotated[
        list[str],
        typer.Option(help="A reference for each mask, in the same order; repeat the option."),
    ],
    codes: Annotated[
        str,
        typer.Option(
            help="Class codes of the references: binary, l8biome, ukis, alcd, scl, fmask, cloudsen12, …"
        ),
    ] = "binary",
    csv: Annotated[Path | None, typer.Option(help="Write the table here too.")] = None,
) -> None:
    """Score masks against references, each and pooled.

    The measures are F2, F1, balanced accuracy, MCC, precision, recall, IoU and accuracy. The
    intervals of the pooled row are 95 %, from a bootstrap over images.
    """
    import pandas as pd

    from clouddl.labels import read_mask
    from clouddl.score import MEASURES, counts, pooled

    if len(masks) != len(reference):
        raise InputError(
            f"{len(masks)} masks but {len(reference)} references: give one --reference each"
        )
    rows = []
    for name, truth in zip(masks, reference, strict=True):
        mask = read_mask(name, "binary")
        decoded = read_mask(truth, codes, like=mask)
        rows.append({"scene": name, **counts(mask.values, decoded.values)})
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


@app.command()
@reads_images
def label(
    reading: "Reading",
    image: Annotated[str, typer.Argument(help="GeoTIFF of reflectance, with a CRS.")],
    sensor: Annotated[str, typer.Option(help=SENSOR)],
    out: Results,
    labels: Annotated[
        list[str] | None,
        typer.Option(
            help="Points and polygons with an attribute `class`: GeoJSON or GeoPackage; repeat the option for the files of several rounds."
        ),
    ] = None,
    points: Annotated[int, typer.Option(min=2, help="How many places to put to you next.")] = 10,
) -> None:
    """Make a reference mask by labelling a few places, the least certain ones first, as ALCD does.

    Without --labels it puts the first places to you: <stem>_next.geojson. Open it over the image
    in QGIS, fill the attribute `class` (cloud or clear; or low cloud, high cloud, shadow, land,
    water, snow), leave empty what you cannot tell, and save it under another name. With --labels
    a random forest writes <stem>_reference.tif (0 clear, 1 cloud, 255 nodata) and
    <stem>_confidence.tif (0.5 to 1), and the next places. Polygons of your own are welcome.

      clouddl label image.tif --sensor landsat-8 --out work --labels round1.geojson
    """
    from clouddl.mission.labelling import label_image
    from clouddl.sensors import get_sensor

    written = label_image(image, get_sensor(sensor), out, labels or (), points, reading)
    for path in written:
        print(path)


@app.command()
def gate(
    model: Model,
    catalogue: Annotated[
        str,
        typer.Argument(
            help="A name in data/catalogue, or a .yaml file; its scenes of role reference are scored."
        ),
    ],
    spec: Annotated[Path, typer.Option(help="What is demanded, e.g. data/gate.yml.")],
    report: Annotated[Path | None, typer.Option(help="Folder for gate.csv and gate.md.")] = None,
    mirror: Mirror = None,
) -> None:
    """Judge a model by a mission's scenes: exit code 0 if every demand is met, 1 if not.

    Demands (all optional): F2 and the lower end of its interval, F2 of each surface, calibration,
    drift of the band means from what the model was trained on. Example:

      clouddl gate spot real --spec data/gate.yml --report gate
    """
    from clouddl.mission.gate import read_spec, run_gate
    from clouddl.model import load_model
    from clouddl.scenes import load_catalogue, store_of
    from clouddl.transfer import open_scenes

    demands = read_spec(spec)
    loaded = load_model(model)
    records = load_catalogue(catalogue)
    scenes = _scenes_of_role(records, "reference")
    opened = open_scenes(scenes, store_of(records, mirror), loaded.card.resolution)
    verdict = run_gate(loaded, opened, demands)
    print(_table(verdict.rows))
    if report:
        print(verdict.write(report, f"reference scenes of {catalogue}"))
    print("passed" if verdict.passed else "FAILED")
    raise typer.Exit(0 if verdict.passed else 1)


@app.command()
def preflight(
    card: Annotated[str, typer.Argument(help=SENSOR)],
    out: Annotated[Path, typer.Option(help="Folder for the model and the table.")],
    corpus: Corpus = "auto",
    mirror: Mirror = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the archive.")] = 40,
    simulated: Annotated[
        int, typer.Option(min=0, help="Simulated scenes beside the real images of the archive.")
    ] = 272,
    draws: Annotated[int, typer.Option(min=1, help="Samples of an open specification.")] = 5,
    seed: Annotated[int, typer.Option(help="Of training and of simulated scenes.")] = 0,
) -> None:
    """Make a coarse model for a sensor that has not flown, and say what to expect of it.

    Trains on the archive with the bands the card shares with Sentinel-2, and scores the model on
    scenes simulated as the sensor would see them. Writes <id>.safetensors, <id>.json and expected.csv.

      clouddl preflight my_sensor.yaml --out preflight
    """
    from clouddl.mission.preflight import coarse_model, expected
    from clouddl.model import save_model
    from clouddl.sensors import get_sensor
    from clouddl_study.corpora import open_corpus, study_chips, training_labels

    sensor = get_sensor(card)
    catalogue, store = open_corpus(corpus, mirror)
    chips = study_chips(catalogue, store, out.resolve(), simulated)
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


@app.command()
def register(
    catalogue: Annotated[
        str,
        typer.Argument(help="A catalogue (.yaml) of your own; the files it names lie beside it."),
    ],
) -> None:
    """Write the registry of a catalogue of your own: size and SHA-256 of each file it names.

    Images and masks are used only while they are what was registered. Register again on purpose.
    """
    from clouddl.scenes import register

    print(register(catalogue))


@app.command()
def refine(
    model: Model,
    catalogue: Annotated[
        str, typer.Argument(help="Catalogue (.yaml) whose train scenes have reference masks.")
    ],
    out: Annotated[
        Path, typer.Option(help="Stem of the refined model: OUT.safetensors and OUT.json.")
    ],
    mirror: Mirror = None,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the labelled scenes.")] = 30,
) -> None:
    """Refine a model with the first labelled images of its sensor.

    Goes on training with the scenes of role train; those of role reference are left for
    `clouddl gate`. Example:

      clouddl refine preflight/my_sensor.json my_scenes.yaml --out refined/my_sensor
    """
    from clouddl.model import load_model, save_model
    from clouddl.scenes import load_catalogue, store_of
    from clouddl.transfer import adapt, open_scenes

    start = load_model(model)
    records = load_catalogue(catalogue)
    scenes = _scenes_of_role(records, "train")
    opened = open_scenes(scenes, store_of(records, mirror), start.card.resolution)
    folder = out.with_name(f"{out.name}-run").resolve()
    print(save_model(adapt(start, opened, folder, epochs=epochs), out))


@app.command()
def sensors(
    cards: Annotated[
        list[str] | None,
        typer.Argument(
            help="Names or paths of cards; none: all that ship. The word plot before them draws their responses."
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="With plot: the file to draw to (.png, .svg, .pdf); default: sensors.png."
        ),
    ] = None,
) -> None:
    """List sensors and their bands; with several, the bands they share.

    A path to a card of your own checks it, and says which shipped models its bands can use. Where
    a specification is still open, figures are ranges. To draw the spectral responses:

      clouddl sensors plot sentinel-2 spot-4 --out responses.png
    """
    from clouddl.sensors import get_sensor
    from clouddl.sensors import sensors as shipped

    names = cards or []
    plot = names[:1] == ["plot"]
    if plot:
        names = names[1:]
    elif out:
        raise InputError("--out goes with plot: clouddl sensors plot [CARDS] --out FILE.png")
    chosen = [get_sensor(name) for name in names] or list(shipped().values())
    if plot:
        _plot_responses(chosen, out or Path("sensors.png"))
        return
    for sensor in chosen:
        print(_describe(sensor))
    if names:
        _print_shared(chosen)


def _plot_responses(chosen: "list[Sensor]", out: Path) -> None:
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

    available = [band.common for band in chosen[0].bands]
    if len(chosen) > 1:
        available = shared_bands(*chosen)
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


def _write_table(path: Path, table: "pd.DataFrame") -> None:
    from clouddl.files import write_whole, writing

    with writing(path.parent):
        write_whole(path, table.to_csv(index=False).encode())


def _table(table: "pd.DataFrame") -> str:
    return table.to_string(index=False, float_format="%.3f", na_rep="–")


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Say it to those who want a mask: to them the place in our code says nothing."""
    print("clouddl: warning:", " ".join(str(message).split()), file=file or sys.stderr)


def main() -> None:
    """Entry point: a bad input is one line on standard error and exit code 2; a warning is a line."""
    warnings.showwarning = _warn
    try:
        app(standalone_mode=True)
    except (InputError, OSError) as error:
        print("clouddl:", " ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
