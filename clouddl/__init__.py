"""CloudDL: cloud masks for sensors not yet flying, from the archives of those that are.

The names of `__all__` are imported when they are first used, so that `import clouddl` is instant.
"""

from importlib import import_module
from typing import Any

# Each public name and the module that defines it.
_MODULES = {
    "Reading": "clouddl.products.reading",
    "evaluate": "clouddl.transfer",
    "fit": "clouddl.train",
    "get_sensor": "clouddl.sensors",
    "load_catalogue": "clouddl.scenes",
    "load_model": "clouddl.model",
    "open_image": "clouddl.products",
    "open_scene": "clouddl.scenes",
    "predict_array": "clouddl.predict",
    "predict_file": "clouddl.predict",
    "simulate_scene": "clouddl.simulate",
}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used."""
    if name == "__version__":
        return import_module("importlib.metadata").version("clouddl")
    if name not in _MODULES:
        raise AttributeError(f"module 'clouddl' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """List the public names for completion in a shell."""
    return __all__
