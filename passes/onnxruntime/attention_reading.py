"""Read an ``Attention`` and what is around it as a task for ONNX Runtime's kernels."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.bindings import Bindings
from whet.ir.values import attribute_ints, constant, dimensions, is_constant, is_op, rank
from whet.passes.attention.call import AttentionCall
from whet.passes.attention.masks import read_mask
from whet.passes.attention.reading import Reader
from whet.passes.onnxruntime.attention_operands import (
    LOWEST,
    AttentionTask,
    MaskOperand,
    Operand,
)
from whet.passes.onnxruntime.hidden_rows import may_hide_rows

__all__ = ["Sizes", "Surroundings", "plain_task", "read_task", "repeating_nodes"]

_SWAP = (0, 2, 1, 3)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What is known of the sizes of values."""

    bindings: Bindings
    observed: Mapping[str, tuple[int, ...]]
    """Shapes at the first binding, by name."""

    def same(self, one: onnx_ir.Value, axis: int, other: onnx_ir.Value, other_axis: int) -> bool:
        """Tell whether two dimensions are the same number, whatever the binding; a one may stand for repetition."""
        a, b = _dimension(one, axis), _dimension(other, other_axis)
        if a is not None and a == b:
            return True
        known = self._pairs(one, axis, other, other_axis)
        return all(x == y for x, y in known) and any(x != 1 for x, _ in known)

    def agree(self, one: onnx_ir.Value, other: onnx_ir.Value, axis: int) -> bool:
        """Tell whether a dimension of two values is the same number wherever both are known."""
        a, b = _dimension(one, axis), _dimension(other, axis)
        if a is not None and a == b:
            return True
        known = self._pairs(one, axis, other, axis)
        return bool(known) and all(x == y for x, y in known)

    def _pairs(
        self, one: onnx_ir.Value, axis: int, other: onnx_ir.Value, other_axis: int
    ) -> list[tuple[int, int]]:
        choices = range(len(self.bindings.choices))
        pairs = [(self._at(one, axis, k), self._at(other, other_axis, k)) for k in choices]
        return [(x, y) for x, y in pairs if x is not None and y is not None]

    def _at(self, value: onnx_ir.Value, axis: int, choice: int) -> int | None:
        shape = self.bindings.shape(value, self.bindings.choices[choice])
        if shape is None and choice == 0:
            shape = self.observed.get(value.name or "")
        return None if shape is None or axis >= len(shape) else shape[axis]


def _dimension(value: onnx_ir.Value, axis: int) -> int | str | None:
    sizes = dimensions(value)
    return None if sizes is None or axis >= len(sizes) else sizes[axis]


@dataclasses.dataclass(frozen=True)
class Surroundings:
    """The nodes that a kernel takes in, and the value that its result takes the place of."""

    nodes: tuple[onnx_ir.Node, ...]
    """The attention first."""
    result: onnx_ir.Value
    tokens: bool = False
    """The result is wanted as ``[batch, length, heads, size]``."""


def read_task(call: AttentionCall, sizes: Sizes) -> tuple[AttentionTask, Surroundings]:
    """Return the task, and what a kernel may take in with it; raises Mismatch where a size is not fixed."""
    plain = plain_task(call, sizes)
    after = _after(call, plain.q.count * plain.v.size, sizes)
    task = dataclasses.replace(
        plain,
        merged=after.result is not call.node.outputs[0],
        mask=_unrepeated(call, sizes),
    )
    before = [node for x in (task.q, task.k, task.v) for node in _before(x)]
    masks = (*repeating_nodes(call.mask), *_causal_nodes(None if call.causal else call.mask))
    found = dict.fromkeys((*after.nodes, *before, *masks))
    return task, dataclasses.replace(after, nodes=tuple(found))


def plain_task(call: AttentionCall, sizes: Sizes) -> AttentionTask:
    """Return the task with the mask as it is, and the result too."""
    heads, head, key_heads, value_head = _counts(call)
    return AttentionTask(
        q=_operand(call.q, heads, head, sizes),
        k=_operand(call.k, key_heads, head, sizes),
        v=_operand(call.v, key_heads, value_head, sizes),
        scale=call.factor(head),
        mask=None if call.mask is None else _mask_operand(call, call.mask, sizes),
        causal=call.causal,
        softcap=call.softcap,
        square=sizes.same(call.q, 2, call.k, 2),
        past=_past(call),
    )


def _unrepeated(call: AttentionCall, sizes: Sizes) -> MaskOperand | None:
    """Return the mask as it is before it is repeated for kernels that want that."""
    mask = call.mask
    if mask is None:
        return None
    repeat = repeating_nodes(mask)
    value = repeat[0].inputs[0] if repeat else mask
    assert value is not None
    return _mask_operand(call, value, sizes)


def _mask_operand(call: AttentionCall, value: onnx_ir.Value, sizes: Sizes) -> MaskOperand:
    count = rank(value)
    if count is None:
        raise Mismatch(f"the rank of the mask '{value.name}' is not known")
    rows = count >= 2 and _has_rows(value, count, call.q, sizes)
    columns = _dimension(value, count - 1) != 1 or _dimension(call.k, 2) == 1
    fixed = [_dimension(value, axis) for axis in range(max(0, count - 3), count - 1)]
    return MaskOperand(
        value,
        rank=count,
        boolean=value.dtype == onnx_ir.DataType.BOOL,
        rows=rows,
        columns=columns and count > 0,
        heads=count >= 3 and _dimension(value, count - 3) != 1,
        padding=all(size == 1 for size in fixed),
        causal=_is_causal(value),
        hides_rows=may_hide_rows(value, causal=call.causal),
    )


def _counts(call: AttentionCall) -> tuple[int, int, int, int]:
    return _fixed(call.q, 1), _fixed(call.q, 3), _fixed(call.k, 1), _fixed(call.v, 3)


def _is_causal(mask: onnx_ir.Value) -> bool:
    """Tell whether the mask hides keys after the query so that nothing is left of them."""
    array = constant(mask)
    if array is None:
        return bool(_causal_nodes(mask))
    if array.ndim < 2 or array.shape[-1] == 1:
        return False
    hidden = np.logical_not(array) if array.dtype.kind == "b" else np.less_equal(array, LOWEST)
    return bool(np.all(np.logical_or(hidden, np.tri(*array.shape[-2:], dtype=np.bool_))))


def _causal_nodes(mask: onnx_ir.Value | None) -> tuple[onnx_ir.Node, ...]:
    """Return the nodes that make a mask which hides keys after the query, the last first; none for another mask."""
    if mask is None or is_constant(mask):
        return ()
    reader = Reader()
    try:
        found = read_mask(reader, mask)
    except Mismatch:
        return ()
    return tuple(reversed(reader.nodes)) if found.causal and found.fill <= LOWEST else ()


def _has_rows(mask: onnx_ir.Value, count: int, q: onnx_ir.Value, sizes: Sizes) -> bool:
    """Tell whether there is a row of the mask for every query; there always is for a single one."""
    return _dimension(q, 2) == 1 or sizes.same(mask, count - 2, q, 2)


def _fixed(value: onnx_ir.Value, axis: int) -> int:
    size = _dimension(value, axis)
    if not isinstance(size, int):
        what = "number of heads" if axis == 1 else "head size"
        raise Mismatch(f"the {what} of '{value.name}' is not fixed")
    return size


def _past(call: AttentionCall) -> tuple[onnx_ir.Value, onnx_ir.Value] | None:
    if call.past_key is None or call.past_value is None:
        return None
    return call.past_key, call.past_value


def _operand(value: onnx_ir.Value, count: int, size: int, sizes: Sizes) -> Operand:
    """Return the operand in the layouts that the model has it in, if nobody else reads it."""
    found = Operand(count, size, by_head=value)
    node = value.producer()
    if not _swaps_heads(node) or len(value.uses()) != 1 or value.is_graph_output():
        return found
    assert node is not None
    found.tokens = node.inputs[0]
    inner = None if found.tokens is None else found.tokens.producer()
    if found.tokens is not None and inner is not None and is_op(inner, "Reshape"):
        source = inner.inputs[0]
        if source is not None and _is_merged(source, found.tokens, count * size, sizes):
            found.merged = source
    return found


def _before(operand: Operand) -> list[onnx_ir.Node]:
    """Return the Transpose, and the Reshape, without which a kernel may read the operand."""
    read = [operand.by_head] if operand.is_merged else []
    read += [operand.tokens] if operand.merged is not None else []
    return [node for x in read if x is not None and (node := x.producer()) is not None]


def _swaps_heads(node: onnx_ir.Node | None) -> bool:
    return node is not None and is_op(node, "Transpose") and attribute_ints(node, "perm") == _SWAP


def _is_merged(merged: onnx_ir.Value, tokens: onnx_ir.Value, width: int, sizes: Sizes) -> bool:
    """Tell whether ``merged`` is tokens ``[batch, length, heads, size]`` as ``[batch, length, heads * size]``."""
    if rank(merged) != 3 or _dimension(merged, 2) != width:
        return False
    return all(sizes.agree(merged, tokens, axis) for axis in (0, 1))


def _after(call: AttentionCall, width: int, sizes: Sizes) -> Surroundings:
    """Return the Transpose and the Reshape behind the attention if nobody else reads what is between."""
    y = call.node.outputs[0]
    plain = Surroundings((call.node,), y)
    swap = _only_reader(y)
    if swap is None or not _swaps_heads(swap):
        return plain
    tokens = swap.outputs[0]
    flat = _only_reader(tokens)
    if flat is None or not is_op(flat, "Reshape") or flat.inputs[0] is not tokens:
        return Surroundings((call.node, swap), tokens, tokens=True)
    result = flat.outputs[0]
    if not _is_merged(result, tokens, width, sizes):
        return Surroundings((call.node, swap), tokens, tokens=True)
    return Surroundings((call.node, swap, flat), result)


def _only_reader(value: onnx_ir.Value) -> onnx_ir.Node | None:
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node


def repeating_nodes(mask: onnx_ir.Value | None) -> tuple[onnx_ir.Node, ...]:
    """Return the Expand that makes a mask, if one does, and the nodes that compute its shape for it alone."""
    node = None if mask is None else mask.producer()
    if mask is None or node is None or not is_op(node, "Expand"):
        return ()
    found: dict[onnx_ir.Node, None] = {node: None}
    waiting = [node.inputs[1]]
    while waiting:
        value = waiting.pop()
        inner = None if value is None else value.producer()
        if value is None or inner is None or not is_op(inner, "Concat", "Shape"):
            continue
        if all(use.node in found for use in value.uses()):
            found[inner] = None
            waiting += [] if inner.op_type == "Shape" else inner.inputs
    return tuple(found)
