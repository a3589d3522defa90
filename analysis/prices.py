"""What a way of realizing a site costs: loss, bytes, milliseconds."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Protocol

from whet.ir.values import Array

__all__ = ["Candidate", "KernelModel", "Price", "Prices"]

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


@dataclasses.dataclass(frozen=True)
class Price:
    """The three prices of a candidate."""

    loss: float
    """Predicted increase of the loss; for lack of gradients, the squared relative error of the site's output."""
    bytes: int
    """What lands on disk."""
    ms: float | None
    """Measured on this machine in the target runtime; None where it was not measured."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One way to realize a site: ``keep``, ``int8 dynamic``, ``int8 static u8s8``, …"""

    site: str
    format: str
    price: Price
