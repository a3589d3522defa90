"""Loops over several operands that are repeated along axes: neighbouring axes become one loop where they can."""

import dataclasses
from collections.abc import Sequence

import onnx_ir

from whet.backends.c.copying import row_major, terms
from whet.backends.c.lowering import Lowering
from whet.backends.c.program import Tensor
from whet.backends.layouts import LAST, PLAIN, Layout

__all__ = ["Nest", "laid_out", "make_nest", "one_layout"]


@dataclasses.dataclass(frozen=True)
class Nest:
    """Loops, and where each operand is read inside."""

    opening: str
    closing: str
    at: tuple[str, ...]
    """The index of each operand; the last one is the result's."""
    flat: bool
    """Whether every operand is read at the result's own index."""


def make_nest(shapes: Sequence[Sequence[int]], result: Sequence[int]) -> Nest:
    """Return the loops for operands that are broadcast to ``result``."""
    every = [*shapes, result]
    strides = [_strides(shape, result) for shape in every]
    axes: list[tuple[int, ...]] = []
    for k, size in enumerate(result):
        if size == 1:
            continue
        own = tuple(s[k] for s in strides)
        if axes and all(a == size * b for a, b in zip(axes[-1][1:], own, strict=True)):
            axes[-1] = (axes[-1][0] * size, *own)
        else:
            axes.append((size, *own))
    axes = axes or [(1, *(0 for _ in every))]
    names = ["i"] if len(axes) == 1 else [f"i{k}" for k in range(len(axes))]
    opening = [
        f"for (int {n} = 0; {n} < {a[0]}; ++{n}) {{" for n, a in zip(names, axes, strict=True)
    ]
    at = tuple(terms([a[k + 1] for a in axes], names) for k in range(len(every)))
    return Nest("\n".join(opening), "\n".join("}" for _ in axes), at, len(set(at)) == 1)


def _strides(shape: Sequence[int], result: Sequence[int]) -> list[int]:
    own = (1,) * (len(result) - len(shape)) + tuple(shape)
    return [0 if n == 1 else s for n, s in zip(own, row_major(own), strict=True)]


def one_layout(low: Lowering, values: Sequence[onnx_ir.Value | None], rank: int) -> Layout:
    """Return the layout that suits all operands of a result of a rank: channels last where they are already."""
    if rank < 3:
        return PLAIN
    forms = [low.form(v) for v in values if v is not None]
    full = [f for f in forms if f.rank == rank and not f.constant]
    fits = all(f.constant or f.rank == rank or max(f.shape, default=1) == 1 for f in forms)
    return LAST if full and fits and all(LAST in f.tensors for f in full) else PLAIN


def laid_out(low: Lowering, value: onnx_ir.Value | None, layout: Layout, rank: int) -> Tensor:
    """Return an operand in a layout, with axes of one element in front up to ``rank``."""
    form = low.form(value)
    if layout == PLAIN or form.rank == rank:
        return low.laid_out(form, layout)
    tensor = low.laid_out(form, PLAIN)
    full = tensor.reshaped((1,) * (rank - form.rank) + form.shape)
    return low.transposed(full, (0, *range(2, rank), 1))
