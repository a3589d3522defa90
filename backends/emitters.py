"""Which operator a target that writes code emits by what: emitters register themselves and are found by looking."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

import onnx_ir

from whet.errors import UnsupportedTarget

__all__ = ["Decline", "Emitters"]

Low = TypeVar("Low")
"""What emitters of a target write with."""
_SHOWN = 6


class Decline(Exception):
    """Say what about a node cannot be emitted, and what would help."""


class Emitters(Generic[Low]):
    """The emitters of one target, one or more in each module of a package."""

    def __init__(self, target: str) -> None:
        """Look in ``backends/<target>/operators``."""
        self._target = target
        self._emitters: dict[str, Callable[[Low, onnx_ir.Node], None]] = {}
        self._notes: dict[str, str] = {}
        self._loaded = False

    def emits(
        self, *op_types: str, note: str = ""
    ) -> Callable[[Callable[[Low, onnx_ir.Node], None]], Callable[[Low, onnx_ir.Node], None]]:
        """Register an emitter for operators of the standard domain; ``note`` states its limits for the docs."""

        def register(
            emitter: Callable[[Low, onnx_ir.Node], None],
        ) -> Callable[[Low, onnx_ir.Node], None]:
            for op_type in op_types:
                assert op_type not in self._emitters, op_type
                self._emitters[op_type] = emitter
                self._notes[op_type] = note
            return emitter

        return register

    def registered(self) -> Mapping[str, Callable[[Low, onnx_ir.Node], None]]:
        """Return every emitter by operator."""
        self._load()
        return dict(sorted(self._emitters.items()))

    def limits(self) -> Mapping[str, str]:
        """Return the limits of every operator, in words; empty where there are none."""
        self._load()
        return dict(sorted(self._notes.items()))

    def refusal(self, declined: Mapping[str, str]) -> UnsupportedTarget:
        """Return the error that names the nodes that cannot be emitted, with the reasons."""
        listed = [f"{node}: {reason}" for node, reason in list(declined.items())[:_SHOWN]]
        more = f"; and {len(declined) - _SHOWN} more" if len(declined) > _SHOWN else ""
        return UnsupportedTarget(
            f"target '{self._target}' cannot emit {len(declined)} node{'s'[: len(declined) > 1]}: "
            f"{'; '.join(listed)}{more} (docs/target_{self._target}.md lists what it can; --recipe auto rewrites more "
            "before it comes to that)"
        )

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(f"whet.backends.{self._target}.operators")
        for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            importlib.import_module(module.name)
        self._loaded = True
