"""Parameters are checked first, pages are made once, and a failure leaves what was there."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

from clouddl.errors import InputError
from clouddl_study import manifest, workspace
from clouddl_study import run as study
from clouddl_study.book import PUBLISHED
from clouddl_study.notebooks import check_parameters, run_notebook

PAGE = """# %% [markdown]
# # A page

# %% tags=["parameters"]
corpus: str = "auto"  # images
mirror: str = ""  # folder
work: str = "build/work"  # results
seed: int = 0  # of everything
epochs: int = 5  # passes over the training set
rate: float = 0.1  # of learning
bands: list[str] = ["green", "red"]  # in
sizes: list[float] = [1.0]  # metres
quick: bool = False  # or not

# %%
import os
import sys
from pathlib import Path

sys.stderr.write("\\r 50%|#####     | 1/2 [00:01<00:01, 1.0it/s]\\r100%|##| 2/2\\n")
print("here", os.getcwd() + "/data", epochs)

# %%
if epochs == 13:
    raise RuntimeError("first line\\nunlucky")
if epochs == 14:
    from clouddl.errors import InputError
    raise InputError("card.yaml: mend this field")
if epochs == 15:
    os._exit(3)
results = Path(work) / "results"
results.mkdir(parents=True, exist_ok=True)
(results / "headline.csv").write_text("sensor,f2\\nlandsat-8,0.9\\n")
sys.prefix, sys.executable
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project of two tiny notebooks, with profiles `tiny` and `wrong`."""
    monkeypatch.setattr(workspace, "ROOT", tmp_path)
    monkeypatch.delenv("CLOUDDL_MIRROR", raising=False)
    monkeypatch.setattr(manifest, "hardware", lambda: {"cpu": "abacus"})  # torch takes seconds
    (tmp_path / "notebooks" / "profiles").mkdir(parents=True)
    for name in ("01_first", "02_second"):
        (tmp_path / "notebooks" / f"{name}.py").write_text(PAGE)
    profiles = tmp_path / "notebooks" / "profiles"
    (profiles / "tiny.yaml").write_text("notebooks:\n  02_second: {epochs: 2}\n")
    (profiles / "wrong.yaml").write_text("notebooks:\n  02_secnd: {epochs: 2}\n")
    (tmp_path / "book" / "results").mkdir(parents=True)
    (tmp_path / "book" / "results" / PUBLISHED).write_text("a,b\n")
    (tmp_path / "README.md").write_text("# T\n<!-- scores -->\nold\n<!-- /scores -->\nend\n")
    return tmp_path


def first(root: Path) -> Path:
    return root / "notebooks" / "01_first.py"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"epoch": 1}, r"unknown parameter 'epoch'; did you mean 'epochs'\? there is: bands, "),
        ({"epochs": "abc"}, r"01_first.py: parameter epochs wants int, not 'abc'"),
        ({"epochs": 2.5}, "wants int, not 2.5"),
        ({"epochs": True}, "wants int, not True"),
        ({"quick": 1}, "wants bool, not 1"),
        ({"rate": "1e-3"}, "wants float, not '1e-3'"),
        ({"bands": "green"}, r"wants list\[str\], not 'green'"),
        ({"bands": ["green", 3]}, r"wants list\[str\]"),
    ],
)
def test_wrong_parameter_is_named(root: Path, given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        check_parameters(first(root), given)


def test_int_is_taken_for_a_float(root: Path) -> None:
    checked = check_parameters(first(root), {"rate": 1, "sizes": [1, 2.5], "quick": True})
    assert repr(checked) == "{'rate': 1.0, 'sizes': [1.0, 2.5], 'quick': True}"


def test_notebook_wants_one_cell_of_parameters(root: Path) -> None:
    first(root).write_text("# %%\nx = 1\n")
    with pytest.raises(InputError, match="tag one cell"):
        check_parameters(first(root), {})


def test_page_and_manifest_tell_of_no_single_run(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = root / "pages" / "01_first.ipynb"
    made = run_notebook(first(root), page, {"epochs": 3})
    notebook = nbformat.read(page, as_version=4)
    nbformat.validate(notebook)
    assert "papermill" not in page.read_text()
    assert "2/2" not in str([cell.get("outputs") for cell in notebook.cells])
    assert str(root) not in page.read_text()
    assert sys.prefix not in page.read_text()
    assert notebook.cells[-2].outputs[0].text == "here data 3\n"
    written = json.loads((root / "build" / "work" / "manifests" / "01_first.json").read_text())
    assert written == made.model_dump() and made.parameters == {"epochs": 3}
    assert made.peak_mib is None or 10 < made.peak_mib < 4000
    assert made.versions["python"] == sys.version.split()[0]
    # A second run makes the same page, and in this Python, though the user's kernel is another.
    other = root / "jupyter" / "kernels" / "python3"
    other.mkdir(parents=True)
    spec = {"argv": ["/no/such/python"], "display_name": "x", "language": "python"}
    (other / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(root / "jupyter"))
    before = page.read_bytes()
    run_notebook(first(root), page, {"epochs": 3})
    assert page.read_bytes() == before


@pytest.mark.parametrize(
    ("epochs", "said"),
    [
        (13, r"01_first.py, cell \[4\]: RuntimeError: unlucky; see .*01_first.failed.ipynb"),
        (14, "^card.yaml: mend this field$"),
        (15, "01_first.py: Python ended early"),
    ],
)
def test_failure_keeps_the_old_page(root: Path, epochs: int, said: str) -> None:
    page = root / "pages" / "01_first.ipynb"
    page.parent.mkdir()
    page.write_text("old")
    with pytest.raises(InputError, match=said):
        run_notebook(first(root), page, {"epochs": epochs})
    assert page.read_text() == "old"
    assert [p.name for p in page.parent.iterdir()] == [page.name]
    assert (root / "build" / "work" / "01_first.failed.ipynb").exists() == (epochs != 15)


def test_study_resumes_and_reruns_what_follows(
    root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(**options: Any) -> list[str]:
        study.run_study("tiny", corpus="simulated", build=False, **options)
        lines = capsys.readouterr().out.splitlines()
        return [line.split(",")[0] for line in lines if ": " in line]

    new, kept = ["01_first: running", "02_second: running"], "01_first: up to date"
    assert said() == new
    assert said() == [kept, "02_second: up to date"]
    profile = root / "notebooks" / "profiles" / "tiny.yaml"
    profile.write_text("notebooks:\n  02_second: {epochs: 4}\n")
    assert said(only=["02_second"]) == ["01_first: left as it is", new[1]]
    profile.write_text("notebooks:\n  01_first: {epochs: 4}\n  02_second: {epochs: 4}\n")
    assert said() == new
    assert said(publish=True) == [kept, "02_second: up to date"]

    results = root / "book" / "results"
    made = {"headline.csv", "run_card.md", "claims.md", "shown", PUBLISHED}
    assert {p.name for p in results.iterdir()} == made
    assert (results / "headline.csv").read_text() == "sensor,f2\nlandsat-8,0.9\n"
    assert (results / "shown" / "headline.csv").read_text() == "Sensor,F2 %\nLandsat 8,90.0\n"
    assert "| Images | simulated |" in (results / "run_card.md").read_text()
    assert len(list((root / "book" / "notebooks").iterdir())) == 2
    readme = (root / "README.md").read_text()
    assert readme.startswith(
        "# T\n<!-- scores -->\nMeasured on simulated images, with the profile `tiny`. "
    )
    table = "| Sensor | F2 % |\n|---|---|\n| Landsat 8 | 90.0 |\n<!-- /scores -->\nend\n"
    assert readme.endswith("\n\n" + table)


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        ("wrong", "wrong.yaml: unknown notebook '02_secnd'; did you mean '02_second'"),
        ("tinny", "unknown profile 'tinny'; did you mean 'tiny'"),
    ],
)
def test_wrong_profile_stops_before_anything_runs(root: Path, profile: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        study.run_study(profile, corpus="simulated")
    assert not (root / "build").exists()


def test_field_of_a_profile_is_named(root: Path) -> None:
    (root / "notebooks" / "profiles" / "bad.yaml").write_text("comon: {seed: 1}\n")
    with pytest.raises(InputError, match=r"bad.yaml: comon: Extra inputs"):
        study.load_profile("bad")


def test_one_run_at_a_time_in_a_folder(root: Path) -> None:
    here = root / "here"
    with (
        study._locked(here),
        pytest.raises(InputError, match="here: another run works here"),
        study._locked(here),
    ):
        pass
    with study._locked(here):  # the first has ended
        pass


def test_a_killed_run_leaves_no_lock(root: Path) -> None:
    here = str(root / "here")
    hold = "with study._locked(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    imports = "import os, sys; from pathlib import Path; from clouddl_study import run as study"
    start = f"{imports}\n{hold}"
    assert subprocess.run([sys.executable, "-c", start, here]).returncode == -9
    assert (root / "here" / ".lock").exists()
    with study._locked(Path(here)):
        pass
