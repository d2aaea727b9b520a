"""The command line: help that teaches, results that are written, and errors of one line."""

import re
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import rasterio
from conftest import MASK, Run, write_tiff

from clouddl.score import MEASURES
from clouddl.sensors import sensors

PREDICT = "predict --sensor spot-5 --out out --model tiny.json"


def read(path: Path) -> np.ndarray:
    with rasterio.open(path) as file:
        return file.read(1)


def test_heavy_imports_are_late() -> None:
    light = "import clouddl.cli, sys; assert not {'torch', 'rasterio', 'pandas'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", light], check=True)


def test_a_bad_input_as_the_shell_sees_it() -> None:
    line = [sys.executable, "-m", "clouddl.cli", "sensors", "spot-9"]
    found = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (2, "")
    assert found.stderr.startswith("clouddl: sensor 'spot-9' is unknown; choose co3d, landsat-5, ")
    assert found.stderr.count("\n") == 1


def test_a_warning_is_one_line(run: Run, place: Path) -> None:
    """Surface reflectance of PlanetScope is read, but the models did not learn from it."""
    start = place / "planet" / "20220401_084707_12_2420_3B_AnalyticMS"
    start.parent.mkdir()
    values = np.random.default_rng(2).integers(200, 6000, (4, 40, 48)).astype(np.uint16)
    write_tiff(Path(f"{start}_SR.tif"), values)
    tag = "bandSpecificMetadata"
    bands = "".join(f"<{tag}><bandNumber>{n}</bandNumber></{tag}>" for n in range(1, 5))
    Path(f"{start}_metadata.xml").write_text(f"<a>{bands}</a>")
    code, out, err = run("predict planet --out out --model blue.json")
    assert (code, out) == (0, "out/planet_cloud.tif\n")
    (said,) = re.findall(r"^clouddl: warning: (.*)$", err, re.M)
    assert said.startswith("planet: is surface reflectance, ")
    assert "UserWarning" not in err and ".py" not in err


HELP = {
    "": ["study", "fetch", "predict", "score", "label", "gate", "preflight", "register",
         "refine", "sensors",
         "First steps", "clouddl predict image", "CLOUDDL_MIRROR", "CLOUDDL_CACHE"],
    "study": ["--profile", "quick", "full", "--corpus", "simulated", "--mirror", "--only",
              "--force",
              "--publish", "build/<profile>"],
    "fetch": ["--mirror", "CLOUDDL_MIRROR", "--catalogue", "--role", "verified", "alcd",
              "account"],
    "predict": ["--sensor", "--out", "--bands", "--use", "--scale", "--offset", "--nodata",
                "--resolution", "--model", "--threshold", "--dilation", "--tile", "--scheduler",
                "--probability-type",
                "--stac", "--workers", "tcp://HOST:8786", "report.csv", "exit code is 1",
                "<stem>_cloud.tif", "0 clear, 1 cloud, 255 nodata", "Example", "0.0001"],
    "score": ["--reference", "--codes", "l8biome", "--csv", "F2", "95 %"],
    "label": ["--sensor", "--out", "--labels", "--points", "--bands", "--scale", "--offset",
              "--nodata", "<stem>_next.geojson", "<stem>_reference.tif", "<stem>_confidence.tif",
              "0 clear, 1 cloud, 255 nodata", "QGIS", "low cloud", "clouddl label image.tif"],
    "gate": ["--spec", "--report", "--mirror", "CLOUDDL_MIRROR", "exit code", "calibration",
             "clouddl gate spot real"],
    "preflight": ["--out", "--corpus", "--epochs", "--draws", "expected.csv", "simulated",
                  "clouddl preflight my_sensor.yaml"],
    "register": ["catalogue", "SHA-256", "registered"],
    "refine": ["--out", "--epochs", "role train", "clouddl refine"],
    "sensors": ["card of your own", "share", "plot", "--out", "ranges"],
}  # fmt: skip


@pytest.mark.parametrize("command", HELP)
@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_teaches(run: Run, command: str, option: str) -> None:
    code, out, err = run(f"{command} {option}")
    assert (code, err) == (0, "")
    assert [words for words in HELP[command] if words not in out] == []


def test_all_cards_are_listed(run: Run) -> None:
    code, out, err = run("sensors")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()[::2]] == list(sensors())
    assert re.search(r"^spot-4 +SPOT-4 HRVIR +lacks blue\n +green 0\.545 µm 20 m ", out, re.M)
    assert re.search(
        r"^co3d .* specification open +lacks swir16\n +blue 0\.460–0\.500 µm ", out, re.M
    )
    assert "shared" not in out


@pytest.mark.parametrize(
    "line", ["plot spot-4 co3d --out new/simulated.png", "plot --out new/simulated.png"]
)
def test_responses_are_drawn(run: Run, place: Path, line: str) -> None:
    code, out, err = run(f"sensors {line}")
    assert (code, out, err) == (0, "new/simulated.png\n", "")
    image = plt.imread(place / "new" / "simulated.png")
    assert image.shape[1] > 800 and image[..., :3].std() > 0.02


def test_shared_bands(run: Run) -> None:
    code, out, _ = run("sensors sentinel-2 spot-4")
    assert code == 0
    assert "shared: green, red, nir, swir16\n" in out


def test_a_card_of_ones_own(run: Run, place: Path) -> None:
    card = """
      id: mine
      title: My camera
      operator: I
      launched: "2026-01-01"
      bands: [{common: green, native: G, centre_um: 0.55, width_um: 0.05, gsd_m: 5}]
      missing: [blue, red, nir, swir16]
      sources: [myself]
    """
    (place / "mine.yaml").write_text(card)
    code, out, _ = run("sensors mine.yaml")
    assert code == 0
    assert "My camera   lacks blue, red, nir, swir16\n" in out
    assert "green 0.550 µm 5 m" in out


@pytest.mark.parametrize(("image", "options"), [("good.tif", ""), ("array.npz", "--resolution 30")])
def test_predict_writes_two_files(run: Run, place: Path, image: str, options: str) -> None:
    code, out, _ = run(f"{PREDICT} {image} {options} --threshold 0.5")
    stem = Path(image).stem
    assert (code, out) == (0, f"out/{stem}_cloud.tif\n")
    names = [f"{stem}_cloud.tif", f"{stem}_probability.tif"]
    assert sorted(path.name for path in (place / "out").iterdir()) == names
    mask, probability = (read(place / "out" / name) for name in names)
    hole = np.zeros((40, 48), bool)
    hole[:5, :6] = True
    np.testing.assert_array_equal(np.isnan(probability), hole)
    np.testing.assert_array_equal(mask, np.where(hole, 255, probability >= 0.5))
    with rasterio.open(place / "out" / names[0]) as file:
        assert file.tags()["model"] == "tiny"


def test_of_many_scenes_the_bad_ones_are_named(run: Run, place: Path) -> None:
    line = f"{PREDICT} good.tif cut.tif gone.tif array.npz"
    code, out, err = run(line)
    assert (code, out) == (1, "out/good_cloud.tif\nout/array_cloud.tif\n")
    told = [text for text in err.splitlines() if text.startswith("clouddl: ")]
    assert [text.split()[1] for text in told] == ["cut.tif:", "gone.tif:", "2"]
    assert told[-1] == "clouddl: 2 done, 0 left as they were, 2 failed; see out/report.csv"
    code, _, err = run(f"{PREDICT} good.tif array.npz")
    assert code == 0 and "clouddl: 0 done, 2 left as they were, 0 failed" in err


def test_predict_takes_every_option(run: Run, place: Path) -> None:
    plain = f"{PREDICT} numbers.tif --scale 0.0001"
    assert run(plain)[0] == 0
    before = read(place / "out" / "numbers_probability.tif")
    with rasterio.open(place / "numbers.tif") as file:
        layers = file.read()
    shuffled = layers[[3, 0, 0, 2, 1]] + np.uint16(1000)
    write_tiff(place / "numbers.tif", np.where(layers[:1] == 0, 9, shuffled).astype(np.uint16))
    code, _, _ = run(
        f"{plain} --offset -0.1 --nodata 9 --bands swir16,green,-,nir,red --resolution 30 "
        "--use green,red,nir,swir16 --threshold 0.4 --dilation 30 --tile 64"
    )
    assert code == 0
    after = read(place / "out" / "numbers_probability.tif")
    np.testing.assert_allclose(after, before, atol=1e-3)
    with rasterio.open(place / "out" / "numbers_cloud.tif") as file:
        assert file.tags()["threshold"] == "0.4"


def test_score_by_hand(run: Run, place: Path) -> None:
    code, out, err = run("score mask.tif --reference truth.tif --csv new/table.csv")
    assert (code, err) == (0, "")
    head, each, total = (line.split() for line in out.splitlines())
    # F2 = 5 tp / (5 tp + 4 fn + fp) = 15 / 21; F1 = 6 / 9; then
    # (3 / 4 + 1 / 3) / 2, (3 - 2) / √120, 3 / 5, 3 / 4, 3 / 6, 4 / 7, and 4 / 7 of cloud.
    numbers = ["0.714", "0.667", "0.542", "0.091", "0.600", "0.750", "0.500", "0.571", "0.571"]
    assert head == ["scene", *MEASURES, "cloud"]
    assert each == ["mask.tif", *numbers]
    assert total == ["all,", "pooled", *numbers]
    table = pd.read_csv(place / "new" / "table.csv")
    assert table.f2.tolist() == pytest.approx([5 / 7, 5 / 7])


def test_score_pools_pixels(run: Run, place: Path) -> None:
    np.save(place / "other.npy", np.array([[255, 192], [128, 64]], np.uint8))
    np.save(place / "clear.npy", np.zeros((2, 2), np.uint8))
    write_tiff(place / "biome.tif", np.array([[[255, 192, 192, 255], [128, 64, 128, 0]]], np.uint8))
    line = "score mask.tif clear.npy --reference biome.tif --reference other.npy --codes l8biome"
    code, out, _ = run(line)
    assert code == 0
    # 3 found, 1 and 2 missed, 2 false alarms: 15 / (15 + 12 + 2).
    assert re.search(r"all, pooled +0\.517 ", out)
    assert re.search(r"clear\.npy +0\.000 .*–", out)
    low, high = map(float, re.findall(r"F2 0\.517, .* (0\.\d+) to (0\.\d+)$", out.strip())[0])
    assert (low, high) == (0.0, 0.714)


def test_score_keeps_masks_of_one_name_apart(run: Run, place: Path) -> None:
    (place / "b").mkdir()
    write_tiff(place / "b" / "mask.tif", 1 - MASK)
    _, out, _ = run("score mask.tif b/mask.tif --reference truth.tif --reference truth.tif")
    assert re.search(r"^ *mask\.tif +0\.714 ", out, re.M)
    assert re.search(r"^ *b/mask\.tif +0\.", out, re.M)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("predict good.tif --out out", "--sensor"),
        ("predict good.tif --sensor spot-5 --out out --threshold 50", "for '--threshold'"),
        ("predict good.tif --sensor spot-5 --out out --scale much", "for '--scale'"),
        ("predikt good.tif", "predict"),
    ],
)
def test_a_wrong_option_is_named(run: Run, place: Path, line: str, said: str) -> None:
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert said in err
    assert "Traceback" not in err


@pytest.mark.parametrize("line", ["--help", "predict --help", "sensors"])
def test_what_only_tells_loads_nothing_heavy(line: str) -> None:
    heavy = {"torch", "lightning", "hyperopt", "matplotlib", "xarray", "rasterio", "scipy"}
    code = (
        "import sys\nfrom clouddl.cli import main\n"
        f"sys.argv = ['clouddl', *{line.split()}]\n"
        f"try: main()\nexcept SystemExit: print('heavy:', {heavy} & sys.modules.keys())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1] == "heavy: set()"


def test_a_mask_of_a_file_needs_no_pandas(place: Path) -> None:
    heavy = {"pandas", "xarray", "dask", "matplotlib", "lightning", "hyperopt", "sklearn", "zarr"}
    code = (
        "import sys\nfrom clouddl.cli import main\n"
        f"sys.argv = ['clouddl', *{PREDICT.split()}, 'good.tif']\n"
        f"try: main()\nexcept SystemExit: print('heavy:', {heavy} & sys.modules.keys())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["out/good_cloud.tif", "heavy: set()"]
