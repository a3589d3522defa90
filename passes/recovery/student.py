"""The model that is tuned: its twin, with some of its weights free to move and zeros held at zero."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_ir

from whet.ir.values import Array, constant
from whet.passes.recovery.tunable import Kind, Tunable

if TYPE_CHECKING:
    import torch
    import torch.fx

__all__ = ["State", "Student", "What", "arranged", "stored"]

What = Literal["perp", "all"]
State = dict[str, "torch.Tensor"]


class Student:
    """A model as a function of what is tuned.

    With ``perp`` a vector v is free itself, a matrix is W + mask ∘ (U V), with U [rows, rank] zero at first and V
    [rank, columns] drawn with variance 1 / columns; a matrix with no more elements than U and V is free itself. The
    mask is zero where the weight is.
    """

    def __init__(
        self,
        model: onnx_ir.Model,
        tunable: Sequence[Tunable],
        names: Sequence[str],
        *,
        what: What,
        rank: int,
        seed: int,
        bfloat16: bool,
    ) -> None:
        """Make the twin, which returns the values ``names``; raises WhetError where there is none."""
        import torch

        from whet.ir.twin import parameter_paths, to_fx

        self._twin = to_fx(model, dtype=torch.float32, straight_through=True)
        _return(self._twin, names)
        paths = parameter_paths(model)
        self._inputs = [v.name or "" for v in model.graph.inputs if v.const_value is None]
        self._low = bfloat16
        for parameter in self._twin.parameters():
            parameter.requires_grad_(False)
            parameter.data = arranged(parameter.data)
        generator = torch.Generator().manual_seed(seed)
        self.free: State = {}
        self._weights = {
            one.name: self._weight(one, paths[one.name], what, rank, generator) for one in tunable
        }

    def _weight(
        self, one: Tunable, path: str, what: What, rank: int, generator: "torch.Generator"
    ) -> "_Weight":
        """Say which numbers a weight is made of, and free them."""
        import torch

        start = self._twin.get_parameter(path).detach()
        mask = _mask(start, one.kind)
        rows, columns = len(start), start.numel() // max(len(start), 1)
        if what == "all" or one.kind is Kind.VECTOR or rank * (rows + columns) >= start.numel():
            free = torch.nn.Parameter(start.clone())
            if mask is not None:
                hook: Any = free.register_hook  # torch gives it no types
                hook(mask.mul)
            self.free[one.name] = free
            return _Weight(path, start, mask, (one.name,))
        drawn = torch.randn(rank, columns, generator=generator) / columns**0.5
        left, right = f"{one.name}\nleft", f"{one.name}\nright"
        self.free[left] = torch.nn.Parameter(torch.zeros(rows, rank))
        self.free[right] = torch.nn.Parameter(drawn)
        return _Weight(path, start, mask, (left, right))

    def __call__(self, feeds: Mapping[str, Array], *, exact: bool = False) -> "list[torch.Tensor]":
        """Return the wanted values; ``exact`` does without products in bfloat16, which give values of that type."""
        import torch

        from whet.ir.twin import from_numpy

        inputs = tuple(arranged(from_numpy(feeds[name])) for name in self._inputs)
        weights = {w.path: w.now(self.free) for w in self._weights.values()}
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self._low and not exact):
            return list(torch.func.functional_call(self._twin, weights, inputs))

    def state(self) -> State:
        """Return a copy of everything that is free."""
        return {name: free.detach().clone() for name, free in self.free.items()}

    def restore(self, state: State) -> None:
        """Set everything that is free to a state."""
        import torch

        with torch.no_grad():
            for name, free in self.free.items():
                free.copy_(state[name])

    def arrays(self, state: State) -> Iterator[tuple[str, Array]]:
        """Yield the weights that ``state`` stands for, in float32, in the order of the model."""
        for name, weight in self._weights.items():
            yield name, np.ascontiguousarray(weight.now(state).detach().numpy())


class _Weight:
    """One weight of the twin, made of what is free."""

    def __init__(
        self, path: str, start: "torch.Tensor", mask: "torch.Tensor | None", parts: tuple[str, ...]
    ) -> None:
        self.path = path
        self._start, self._mask, self._parts = start, mask, parts

    def now(self, free: State) -> "torch.Tensor":
        if len(self._parts) == 1:
            return free[self._parts[0]]
        left, right = (free[part] for part in self._parts)
        moved = (left @ right).reshape(self._start.shape)
        return self._start + (moved if self._mask is None else self._mask * moved)


def _mask(start: "torch.Tensor", kind: Kind) -> "torch.Tensor | None":
    """Return where a matrix is not zero; None where it is zero nowhere. A bias of zero is as free as any other."""
    kept = start != 0
    return None if kind is Kind.VECTOR or bool(kept.all()) else kept.to(start.dtype)


def arranged(x: "torch.Tensor") -> "torch.Tensor":
    """Put channels of pictures last in memory, as convolutions are fastest with."""
    import torch

    return x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x


def _return(twin: "torch.fx.GraphModule", names: Sequence[str]) -> None:
    """Let the twin return the values ``names`` and no others."""
    from whet.ir.twin import value_nodes

    nodes = value_nodes(twin)
    end = next(node for node in twin.graph.nodes if node.op == "output")
    end.args = (tuple(nodes[name] for name in names),)
    twin.graph.eliminate_dead_code()
    twin.recompile()


def stored(value: onnx_ir.Value, array: Array) -> Array:
    """Return a weight in the type of the initializer it takes the place of."""
    old = constant(value)
    assert old is not None
    return array.astype(old.dtype).reshape(old.shape)
