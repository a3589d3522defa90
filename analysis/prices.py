"""What a way of realizing a site costs: loss, bytes, milliseconds."""

import dataclasses

__all__ = ["Candidate", "Price"]


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
