"""The model-compression compiler that shows its work.

``whet.compile(source, inputs)`` rewrites a model with proof, lowers it and returns an :class:`Artifact`;
``whet.load(folder)`` opens one again; ``whet.evaluate`` has metrics to hold it to, ``whet.extend`` what a pass of
your own needs. Nothing heavy is imported before it is used.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from whet import errors, evaluate, extend
    from whet.artifact import Artifact, load
    from whet.backends.device import Device
    from whet.budget import Budget
    from whet.compiler import compile
    from whet.report import Report

__all__ = [
    "Artifact",
    "Budget",
    "Device",
    "Report",
    "__version__",
    "compile",
    "errors",
    "evaluate",
    "extend",
    "load",
]

__version__ = "0.1.0"

_HOMES = {
    "Artifact": "whet.artifact",
    "Budget": "whet.budget",
    "Device": "whet.backends.device",
    "Report": "whet.report",
    "compile": "whet.compiler",
    "load": "whet.artifact",
}

_MODULES = frozenset({"errors", "evaluate", "extend"})


def __getattr__(name: str) -> object:
    """Import a public name when it is first used."""
    if name in _MODULES:
        return importlib.import_module(f"whet.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'whet' has no attribute '{name}'")
    found: object = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """List the public names, loaded or not."""
    return sorted({*globals(), *__all__})
