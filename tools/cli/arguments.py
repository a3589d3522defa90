"""Read arguments that are more than a string."""

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from whet.errors import UsageError
from whet.importing import import_object

if TYPE_CHECKING:
    from whet.options import Evaluate

__all__ = ["read_bindings", "read_entries", "read_function"]


def read_bindings(texts: Sequence[str]) -> dict[str, int]:
    """Read ``["batch=8", "seq=128"]``."""
    found: dict[str, int] = {}
    for text in texts:
        name, sign, number = text.rpartition("=")
        if not sign or not name or not number.strip().isdecimal() or int(number) < 1:
            raise UsageError(f"--bind is '{text}', expected NAME=N such as batch=8")
        if name in found:
            raise UsageError(f"--bind gives '{name}' twice: {found[name]} and {number}")
        found[name] = int(number)
    return found


def read_entries(texts: Sequence[str]) -> dict[str, str]:
    """Read ``["session.intra_op.allow_spinning=0"]``."""
    found: dict[str, str] = {}
    for text in texts:
        key, sign, value = text.partition("=")
        if not sign or not key:
            raise UsageError(f"--session is '{text}', expected KEY=VALUE")
        found[key.strip()] = value.strip()
    return found


def read_function(text: str | None) -> "Evaluate | None":
    """Import ``pkg.mod:fn`` (the working folder is searched too), or make a metric of ``whet.evaluate``."""
    if text is None:
        return None
    if ":" not in text.partition("{")[0]:
        from whet.evaluate import find_metric

        return find_metric(text)
    metric = import_object(text, "--evaluate")
    if not callable(metric):
        raise UsageError(f"--evaluate '{text}' is {metric!r}, expected a callable")
    if os.getcwd() not in sys.path:  # what it imports when it is called
        sys.path.insert(0, os.getcwd())
    return cast("Evaluate", metric)
