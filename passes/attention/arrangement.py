"""Bring stacks of matrices into ``[batch, heads, rows, columns]`` and back, whatever axes they come with.

The axes before the last two are called the lead. Scores, masks and operands of one attention may have different leads:
``[batch * heads]`` for a batched product, ``[batch, windows, heads]`` where masks of windows are added.
"""

import dataclasses
from collections.abc import Iterable, Sequence

import numpy as np
import onnx_ir

from whet.analysis.content_rules import Shape
from whet.analysis.size_arithmetic import Size, product
from whet.analysis.sizes import KnownSizes
from whet.errors import Mismatch
from whet.ir.values import is_op
from whet.passes.attention.products import Operand, leading
from whet.passes.proposal import Builder

__all__ = ["Arrangement", "Draft", "Placed", "choose", "reshape", "run_time_size"]


@dataclasses.dataclass(frozen=True)
class Draft:
    """What a replacement is made with."""

    known: KnownSizes
    build: Builder
    seen: list[onnx_ir.Node]
    """Old nodes that were looked through, readers first: a proof needs them."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """A value and its shape."""

    value: onnx_ir.Value
    shape: Shape


@dataclasses.dataclass(frozen=True)
class Arrangement:
    """The lead ``[batch, heads]`` that everything is brought to."""

    batch: Size | None
    heads: Size | None

    @property
    def lead(self) -> Shape:
        """Return both sizes."""
        return (self.batch, self.heads)

    def operand(self, operand: Operand, at: Shape, draft: Draft) -> Placed:
        """Return an operand of a product whose result has the lead ``at``, with rank 4."""
        shape, core = operand.shape(draft.known), _core(operand, draft)
        own, matrix = leading(shape), shape[-2:]
        if operand.lead is not None:
            return self._regrouped(core, own, at, matrix, draft)
        if len(own) < len(at) and len(at) != 2 and own:
            raise Mismatch(f"'{operand.value.name}' lacks an axis of the scores")
        if len(at) == 2 or not own or (len(at) == 1 and self.heads == 1):
            return _padded(core, at, draft.build)
        return self._regrouped(core, own, at, matrix, draft)

    def _regrouped(
        self,
        core: Placed,
        own: Shape,
        at: Shape,
        matrix: Shape,
        draft: Draft,
    ) -> Placed:
        if own != at or None in own:
            raise Mismatch(f"'{core.value.name}' is broadcast where axes are merged")
        return reshape(core, (*self.lead, *matrix), draft)

    def term(self, term: Placed, at: Shape, batch: onnx_ir.Value, draft: Draft) -> Placed:
        """Return what is added to scores with the lead ``at`` so that it broadcasts to this arrangement.

        ``batch`` is a value whose first axis has the size of the batch.
        """
        if len(term.shape) <= 2 or at == self.lead:
            return term
        own, matrix = leading(term.shape), term.shape[-2:]
        own = (1,) * (len(at) - len(own)) + own
        if all(size == 1 for size in own):
            return reshape(term, (1, 1, *matrix), draft) if len(at) > 2 else term
        if len(at) == 1:
            return reshape(term, (*self.lead, *matrix), draft)
        wide = _stretched(term, own, at, batch, draft.build)
        group = self.batch if any(size != 1 for size in own[:-1]) else 1
        return reshape(wide, (group, own[-1], *matrix), draft)

    def back(self, result: Placed, at: Shape, draft: Draft) -> onnx_ir.Value:
        """Return the result with the lead ``at``."""
        if len(at) == 2:
            return result.value
        return reshape(result, (*at, *result.shape[-2:]), draft).value


def choose(leads: Sequence[Shape], query: Operand, known: KnownSizes) -> Arrangement:
    """Return the arrangement that needs the fewest reshapes, given every lead on the way; or decline."""
    pairs = {lead for lead in leads if len(lead) == 2}
    longest = max(leads, key=len)
    if len(pairs) > 1:
        raise Mismatch(f"the scores are grouped in two ways: {_print(pairs)}")
    if pairs:
        found = Arrangement(*pairs.pop())
    elif len(longest) > 2:
        found = Arrangement(_whole(longest[:-1]), longest[-1])
    elif longest:
        found = _unmerged(query, longest, known)
    else:
        return Arrangement(1, 1)
    for lead in leads:
        _check_lead(lead, found)
    return found


def _print(leads: Iterable[Shape]) -> str:
    return " and ".join(sorted("[" + ", ".join(map(str, lead)) + "]" for lead in leads))


def _whole(sizes: Shape) -> Size:
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        raise Mismatch("a size before queries and keys is not known")
    return product(known)


def _unmerged(query: Operand, lead: Shape, known: KnownSizes) -> Arrangement:
    """Return batch and heads if the queries were merged from both by a Reshape, else one head each."""
    maker = query.value.producer()
    merged = query.perm is None and not query.missing and is_op(maker, "Reshape")
    before = known.shape(maker.inputs[0]) if merged and maker is not None else None
    if before is None or len(before) != 4 or before[2:] != query.shape(known)[-2:]:
        return Arrangement(lead[0], 1)
    return Arrangement(before[0], before[1])


def _check_lead(lead: Shape, found: Arrangement) -> None:
    if len(lead) == 2 or not lead:
        return
    if len(lead) == 1 and _whole(lead) == _whole(found.lead):
        return
    if len(lead) > 2 and lead[-1] == found.heads and _whole(lead[:-1]) == found.batch:
        return
    raise Mismatch(f"the scores are grouped in two ways: {_print((lead, found.lead))}")


def _core(operand: Operand, draft: Draft) -> Placed:
    """Add the missing axes and permute."""
    value, build = operand.value, draft.build
    if operand.missing:
        value = build.op("Unsqueeze", value, build.ints(*operand.missing))
    if operand.perm is not None:
        value = build.op("Transpose", value, attributes={"perm": operand.perm})
    plain = dataclasses.replace(operand, lead=None)
    return Placed(value, plain.shape(draft.known))


def _padded(core: Placed, at: Shape, build: Builder) -> Placed:
    """Put in axes of size 1 until the rank is 4: a single head behind the batch, or both in front."""
    if len(core.shape) == 4:
        return core
    axes = (1,) if len(at) == 1 and len(core.shape) == 3 else tuple(range(4 - len(core.shape)))
    value = build.op("Unsqueeze", core.value, build.ints(*axes))
    sizes = list(core.shape)
    for axis in axes:
        sizes.insert(axis, 1)
    return Placed(value, tuple(sizes))


def _stretched(
    term: Placed,
    own: Shape,
    at: Shape,
    batch: onnx_ir.Value,
    build: Builder,
) -> Placed:
    """Expand the axes that merge into the batch, if the term has some of them only."""
    group = own[:-1]
    if all(size == 1 for size in group) or group == at[:-1]:
        return term
    fixed = [size for size in at[:-1] if isinstance(size, int)]
    if len(fixed) < len(at) - 2:
        raise Mismatch("two of the axes that make the batch are not known")
    unknown = None
    if len(fixed) < len(at) - 1:
        total = run_time_size(batch, 0, build)
        unknown = build.op("Div", total, build.ints(int(np.prod(fixed))))
    sizes: list[int | onnx_ir.Value] = []
    for size in at[:-1]:
        sizes.append(size if isinstance(size, int) else _some(unknown))
    target = _concatenated([*sizes, 1, 1, 1], build)
    return Placed(build.op("Expand", term.value, target), (*at[:-1], own[-1], *term.shape[-2:]))


def _some(value: onnx_ir.Value | None) -> onnx_ir.Value:
    assert value is not None
    return value


def run_time_size(value: onnx_ir.Value, axis: int, build: Builder) -> onnx_ir.Value:
    """Return the size of one axis as an integer tensor of one element."""
    return build.op("Shape", value, attributes={"start": axis, "end": axis + 1})


def _concatenated(sizes: Sequence[int | onnx_ir.Value], build: Builder) -> onnx_ir.Value:
    if all(isinstance(size, int) for size in sizes):
        return build.ints(*(size for size in sizes if isinstance(size, int)))
    parts = [build.ints(size) if isinstance(size, int) else size for size in sizes]
    return build.op("Concat", *parts, attributes={"axis": 0})


def reshape(x: Placed, shape: Shape, draft: Draft) -> Placed:
    """Reshape to sizes that may be symbols: one is left to the operator, the others are sizes of ``x``.

    If ``x`` was reshaped from just that shape, no Reshape is made.
    """
    if x.shape == shape and None not in shape:
        return x
    maker = x.value.producer()
    if maker is not None and is_op(maker, "Reshape") and maker.graph is not None:
        found = _from_before(maker.inputs[0], shape, draft)
        if found is not None:
            draft.seen.append(maker)
            return found
    build = draft.build
    free = next((k for k, size in enumerate(shape) if not isinstance(size, int)), None)
    sizes = [
        -1 if k == free else size if isinstance(size, int) else _own_size(x, size, build)
        for k, size in enumerate(shape)
    ]
    return Placed(build.op("Reshape", x.value, _concatenated(sizes, build)), shape)


def _from_before(before: onnx_ir.Value | None, shape: Shape, draft: Draft) -> Placed | None:
    """Return what had the wanted shape already, but for axes of size 1, before it was reshaped."""
    old = draft.known.shape(before)
    if before is None or old is None or None in shape or len(old) > len(shape):
        return None
    rest, axes = list(old), list[int]()
    for axis, size in enumerate(shape):
        if rest and rest[0] == size and len(shape) - axis >= len(rest):
            rest.pop(0)
        else:
            axes.append(axis)
    if rest or any(shape[axis] != 1 for axis in axes):
        return None
    if not axes:
        return Placed(before, shape)
    return Placed(draft.build.op("Unsqueeze", before, draft.build.ints(*axes)), shape)


def _own_size(x: Placed, size: Size | None, build: Builder) -> onnx_ir.Value:
    if size is None or size not in x.shape:
        raise Mismatch(f"the size {size} of '{x.value.name}' is not known")
    return run_time_size(x.value, x.shape.index(size), build)
