"""How values exist in memory: in which order of axes, and as which numbers."""

import dataclasses

from whet.backends.c.program import Grid, Parameter, Tensor
from whet.backends.c.spelling import c_type
from whet.backends.layouts import Layout

__all__ = ["Form", "pointer"]


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


def pointer(name: str, tensor: Tensor, *, written: bool = False) -> Parameter:
    """Return the parameter for a tensor."""
    kind = c_type(tensor.dtype)
    return Parameter(f"{'' if written else 'const '}{kind} *{name}", tensor)
