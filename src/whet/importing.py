"""Objects named by where they are, ``pkg.mod:name``: factories of models, metrics, passes."""

import contextlib
import importlib
import os
import sys
from collections.abc import Generator

from whet.errors import UsageError

__all__ = ["import_object", "working_folder_importable"]


def import_object(place: str, what: str) -> object:
    """Import ``pkg.mod:name``; the working folder is searched too.

    Raises:
        UsageError: ``what`` is spelled otherwise, cannot be imported, or is not in the module.
    """
    module, sign, name = place.partition(":")
    if not (module and sign and name):
        raise UsageError(f"{what} is '{place}', expected pkg.mod:name")
    with working_folder_importable():
        try:
            found: object = importlib.import_module(module)
        except ImportError as error:
            raise UsageError(f"{what} '{place}': cannot import '{module}': {error}") from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{what} '{place}': '{module}' has no '{name}'")
        found = getattr(found, part)
    return found


@contextlib.contextmanager
def working_folder_importable() -> Generator[None]:
    """Let modules of the working folder be imported meanwhile."""
    folder = os.getcwd()
    sys.path.insert(0, folder)
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(folder)
