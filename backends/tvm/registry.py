"""Which operator is emitted by what: emitters register themselves and are found by looking."""

import functools
import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir

    from whet.backends.tvm.lowering import Lowering

__all__ = ["Decline", "Emitter", "emits", "limits", "registered"]

Emitter = Callable[["Lowering", "onnx_ir.Node"], None]
_EMITTERS: dict[str, Emitter] = {}
_NOTES: dict[str, str] = {}


class Decline(Exception):
    """Say what about a node cannot be emitted, and what would help."""


def emits(*op_types: str, note: str = "") -> Callable[[Emitter], Emitter]:
    """Register an emitter for operators of the standard domain; ``note`` states its limits for the documentation."""

    def register(emitter: Emitter) -> Emitter:
        for op_type in op_types:
            assert op_type not in _EMITTERS, op_type
            _EMITTERS[op_type] = emitter
            _NOTES[op_type] = note
        return emitter

    return register


@functools.cache
def _load() -> None:
    import whet.backends.tvm.operators as package

    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        importlib.import_module(module.name)


def registered() -> Mapping[str, Emitter]:
    """Return every emitter by operator."""
    _load()
    return dict(sorted(_EMITTERS.items()))


def limits() -> Mapping[str, str]:
    """Return the limits of every operator, in words; empty where there are none."""
    _load()
    return dict(sorted(_NOTES.items()))
