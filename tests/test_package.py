"""The front door: public names resolve, and importing the package is instant."""

import subprocess
import sys

import pytest

import clouddl


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import clouddl, sys; assert not {'torch', 'rasterio', 'numpy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", clouddl.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(clouddl, name)
    assert name in dir(clouddl)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'clouddl' has no attribute 'predikt'"):
        _ = clouddl.predikt
