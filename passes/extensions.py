"""Passes from outside: of an installed package, or named by where they are, ``pkg.mod:Class``."""

import dataclasses
import hashlib
import importlib.metadata
import inspect
from pathlib import Path

from whet.errors import UsageError
from whet.importing import import_object
from whet.passes.base import Pass

__all__ = ["import_pass", "installed_passes", "source_digest"]

GROUP = "whet.passes"
"""Packages offer passes under this group of entry points."""


def import_pass(place: str) -> type[Pass]:
    """Import ``pkg.mod:Class``; raises UsageError, also if it is no pass that can be made without arguments."""
    return _checked(import_object(place, "pass"), place)


def installed_passes() -> dict[str, type[Pass]]:
    """Return the passes that installed packages offer, by name."""
    found: dict[str, type[Pass]] = {}
    for entry in importlib.metadata.entry_points(group=GROUP):
        cls = import_pass(entry.value)
        if entry.name != cls().name:
            raise UsageError(
                f"{entry.value} is offered as '{entry.name}', its name is '{cls().name}'"
            )
        found[entry.name] = cls
    return found


def source_digest(step: Pass) -> str:
    """Return what stands for the code of a pass from outside, which may change between two runs; else nothing."""
    if type(step).__module__.startswith("whet."):
        return ""
    try:
        file = Path(inspect.getfile(type(step)))
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except (OSError, TypeError):  # of a notebook or an interpreter
        return repr(id(type(step)))


def _checked(found: object, place: str) -> type[Pass]:
    if not isinstance(found, type) or not issubclass(found, Pass):
        raise UsageError(f"'{place}' is {found!r}, expected a subclass of whet.passes.base.Pass")
    if inspect.isabstract(found):
        lacking = ", ".join(sorted(found.__abstractmethods__))
        raise UsageError(f"the pass '{place}' is abstract, it lacks {lacking}")
    for field in dataclasses.fields(found):
        if isinstance(field.type, str):
            raise UsageError(
                f"option '{field.name}' of '{place}' has its type as text, expected a type: "
                "leave out 'from __future__ import annotations'"
            )
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UsageError(f"option '{field.name}' of '{place}' has no default")
    return found
