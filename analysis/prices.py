"""Where passes look up what operators cost."""

from collections.abc import Callable, Mapping
from typing import Protocol

from whet.ir.values import Array

__all__ = ["KernelModel", "Prices"]

KernelModel = Callable[[], tuple[bytes, Mapping[str, Array]]]
"""Makes a serialized one-operator model and its feeds; called only when something has to be measured."""


class Prices(Protocol):
    """Where passes look up milliseconds."""

    def lookup(
        self, work: str, formats: Mapping[str, KernelModel], rounds: int = 5
    ) -> Mapping[str, float]:
        """Return format -> milliseconds for ``work``, an operator with its shapes and attributes.

        Formats that do not run are left out. Each is opened and timed ``rounds`` times.
        """
        ...
