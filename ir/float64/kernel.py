"""What a float64 kernel is given: attributes, inputs that may be missing, a limit on its work."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from whet.ir.execute import CannotRun
from whet.ir.values import Array

__all__ = [
    "WORK_LIMIT",
    "Attributes",
    "Floats",
    "Kernel",
    "floats",
    "integer",
    "integers",
    "real",
    "within_limit",
]

WORK_LIMIT = 1_000_000_000
"""Multiplications that one node may take; about a second on one core; above it, proofs use float32."""

Floats = NDArray[np.float64]
Attributes = Mapping[str, object]
Kernel = Callable[..., tuple[Array, ...]]
"""``kernel(attributes, *inputs)`` with None for a missing input returns the outputs that were asked for, or more."""


def within_limit(work: int) -> None:
    """Raise CannotRun for more multiplications than a proof may cost."""
    if work > WORK_LIMIT:
        raise CannotRun(f"{work} multiplications are too many for the float64 oracle")


def floats(inputs: Sequence[Array | None], count: int) -> tuple[Floats | None, ...]:
    """Return ``count`` inputs, None where they are missing."""
    if any(extra is not None for extra in inputs[count:]):
        raise CannotRun(f"only {count} inputs have a float64 kernel")
    padded = [*inputs, *[None] * (count - len(inputs))]
    return tuple(None if v is None else v.astype(np.float64) for v in padded[:count])


def integers(attributes: Attributes, name: str, default: Sequence[int]) -> list[int]:
    """Return a list attribute or its default."""
    found = attributes.get(name, default)
    if not isinstance(found, Sequence) or not found:
        return list(default)
    return [int(str(item)) for item in found]


def integer(attributes: Attributes, name: str, default: int) -> int:
    """Return an integer attribute or its default."""
    return int(str(attributes.get(name, default)))


def real(attributes: Attributes, name: str, default: float) -> float:
    """Return a float attribute or its default."""
    return float(str(attributes.get(name, default)))
