"""What a page was made from, by which code and on which machine: its manifest."""

import hashlib
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from clouddl.model import WEIGHTS
from clouddl.scenes import DATA
from clouddl_study import workspace

PACKAGES = ("clouddl", "torch", "numpy", "xarray", "lightning", "hyperopt")
CODE = (".py", ".yaml", ".csv")  # endings of the files that results depend on


class Manifest(BaseModel):
    """What a page was made from, and what that took.

    Attributes:
        parameters: Of the notebook.
        seed: Of everything random.
        versions: Of Python and of the main packages.
        data: SHA-256 of the registry and of the catalogue.
        code: SHA-256 of both packages and of the notebook.
        commit: Name of the commit, None outside a git checkout.
        after: `finished` of the notebook before, whose results this one read.
        seconds: Duration of the run.
        peak_mib: Peak resident memory of the kernel; None where the system does not report it.
        hardware: Processor, cores, memory and GPU.
        finished: Time in UTC, ISO 8601.
    """

    parameters: dict[str, Any]
    seed: int
    versions: dict[str, str]
    data: dict[str, str]
    code: str
    commit: str | None
    after: str
    seconds: float
    peak_mib: float | None
    hardware: dict[str, str]
    finished: str

    def is_current(self, script: Path, parameters: Mapping[str, Any], after: str) -> bool:
        """Tell whether a run now would start from the same things.

        Args:
            script: The notebook.
            parameters: Its parameters, checked.
            after: `finished` of the notebook before.

        Returns:
            False where the page has to be made again.
        """
        now = (parameters, data_hashes(parameters), code_hash(script), after)
        return now == (self.parameters, self.data, self.code, self.after)


def manifest_path(script: Path, parameters: Mapping[str, Any]) -> Path:
    """Tell where the manifest of a page lies: `<work>/manifests/<name>.json`.

    Args:
        script: The notebook.
        parameters: Its parameters, of which `work` counts.

    Returns:
        The path, whether or not there is such a file.
    """
    work = workspace.ROOT / parameters.get("work", "build/work")
    return work / "manifests" / f"{script.stem}.json"


def read_manifest(script: Path, page: Path, parameters: Mapping[str, Any]) -> Manifest | None:
    """Read the manifest of a page.

    Args:
        script: The notebook.
        page: The page.
        parameters: As for `manifest_path`.

    Returns:
        The manifest; None if it or the page is missing, or if another version wrote it.
    """
    try:
        text = manifest_path(script, parameters).read_text("utf-8")
        manifest = Manifest.model_validate_json(text)
    except (OSError, ValueError):
        return None
    return manifest if page.exists() else None


def code_hash(script: Path) -> str:
    """Compute the SHA-256 of what the results of a notebook depend on.

    Args:
        script: The notebook.

    Returns:
        The hash over the files of both packages and the notebook.
    """
    folders = WEIGHTS.parent, Path(__file__).parent
    files = sorted(file for folder in folders for file in folder.rglob("*") if file.suffix in CODE)
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in [*files, script])).hexdigest()


def data_hashes(parameters: Mapping[str, Any]) -> dict[str, str]:
    """Compute the SHA-256 of the registry and of the catalogue of a corpus.

    Args:
        parameters: Of a notebook, of which `corpus` counts.

    Returns:
        Hashes by file name; a simulated corpus has only the registry.
    """
    files = DATA / "registry" / "real.csv", DATA / "catalogue" / f"{parameters.get('corpus')}.yaml"
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.exists()
    }


@cache
def versions() -> dict[str, str]:
    """Collect the versions of Python and of `PACKAGES`, by name."""
    return {"python": platform.python_version()} | {p: metadata.version(p) for p in PACKAGES}


def commit() -> str | None:
    """Name the commit, with "-dirty" where files differ from it; None outside a git checkout."""
    if not (workspace.ROOT / ".git").exists() or not shutil.which("git"):
        return None
    describe = ["describe", "--always", "--dirty", "--exclude=*"]
    command = ["git", "-C", str(workspace.ROOT), *describe]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip() or None


@cache
def hardware() -> dict[str, str]:
    """Describe this machine: cpu, cores, memory where the system reports it, gpu."""
    import torch  # late: it takes seconds

    info = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.+)", info.read_text()) if info.exists() else None
    machine = {
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "cores": str(os.cpu_count()),
    }
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        machine["memory"] = f"{memory / 2**30:.0f} GiB"
    machine["gpu"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    return machine
