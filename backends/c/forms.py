"""How values exist in memory: in which order of axes, and as which numbers."""

import dataclasses
from typing import Literal

from whet.backends.c.program import Grid, Parameter, Tensor
from whet.backends.c.spelling import c_type

__all__ = ["LAST", "PLAIN", "Form", "Layout", "pointer", "to_last", "to_plain"]

Layout = Literal["plain", "last"]
PLAIN: Layout = "plain"
LAST: Layout = "last"


@dataclasses.dataclass(eq=False)
class Form:
    """A value as it exists in memory."""

    shape: tuple[int, ...]
    """The standard's order of axes."""
    tensors: dict[Layout, Tensor]
    grid: Grid | None = None

    @property
    def rank(self) -> int:
        """Return the number of axes."""
        return len(self.shape)

    @property
    def constant(self) -> bool:
        """Tell whether the elements are known."""
        return any(t.array is not None for t in self.tensors.values())


def to_last(rank: int) -> tuple[int, ...]:
    """Return the axes that put channels last: 0 2 3 1."""
    return (0, *range(2, rank), 1)


def to_plain(rank: int) -> tuple[int, ...]:
    """Return the axes that undo it: 0 3 1 2."""
    return (0, rank - 1, *range(1, rank - 1))


def pointer(name: str, tensor: Tensor, *, written: bool = False) -> Parameter:
    """Return the parameter for a tensor."""
    kind = c_type(tensor.dtype)
    return Parameter(f"{'' if written else 'const '}{kind} *{name}", tensor)
