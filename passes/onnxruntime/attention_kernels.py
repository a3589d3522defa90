"""ONNX Runtime's ways to compute an attention: what each takes, and how it is spelled.

===================== ========================================================================================
kernel                takes
===================== ========================================================================================
Attention             all; the mask has a row for every query and an element for every key; scale above zero;
                      present keys are outputs where past ones are inputs
Attention of rank 3   the same, with heads beside each other, without past keys
MultiHeadAttention    as many heads of keys as of queries; causal only with as many keys as queries; no soft cap;
                      a bias of rank 4 or a padding mask of integers
GroupQueryAttention   causal, as many keys as queries; one head size, a multiple of eight; a bias of rank 4
MatMul and Softmax    all, without past keys and masks that may hide all keys of a query
===================== ========================================================================================

The standard gives zero to a query all of whose keys are hidden, and so does Attention. The others give the mean of all
values or what is not a number: where a mask may hide all keys, zeros are put in behind them. (Not behind the plain
operators: in float64, where they would be proven, ONNX Runtime has no kernel for Attention and gives no number there.)
"""

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx_ir

from whet.passes.onnxruntime.attention_operands import (
    LOWEST,
    AttentionTask,
    MaskOperand,
    Operand,
    length_of,
    merge,
    split,
)
from whet.passes.proposal import Attribute, Builder

__all__ = ["KERNELS", "STANDARD", "Kernel", "refuses_standard", "spell_attention"]

_CONTRIB = "com.microsoft"
_BLOCK = 8
"""Head sizes of GroupQueryAttention are multiples of this."""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One way to compute an attention."""

    name: str
    refuses: Callable[[AttentionTask], str]
    """Say why the kernel does not take a task; nothing where it does."""
    spell: Callable[[Builder, AttentionTask], onnx_ir.Value]


def spell_attention(build: Builder, task: AttentionTask) -> tuple[onnx_ir.Value, ...]:
    """Spell the standard operator as ONNX Runtime accepts it: the result, and the keys and values with a past."""
    if _misses_late_keys(task):
        task = _causal_by_mask(build, task)
    attributes: dict[str, Attribute] = {"scale": task.scale, "is_causal": int(task.causal)}
    attributes["softcap"] = task.softcap
    q = task.q.as_heads(build)
    if task.scale <= 0:
        q = build.op("Mul", q, build.constant(np.asarray(task.scale, _numpy_type(q))))
        attributes["scale"] = 1.0
    operands = [q, task.k.as_heads(build), task.v.as_heads(build), task.full_mask(build)]
    operands += task.past or ()
    results = build.ops("Attention", operands, 3 if task.past else 1, attributes=attributes)
    if not task.merged:
        return results
    tokens = build.op("Transpose", results[0], attributes={"perm": (0, 2, 1, 3)})
    return merge(build, tokens, task.q.count * task.v.size), *results[1:]


def refuses_standard(task: AttentionTask) -> str:
    """Say why ONNX Runtime does not compute the standard operator as it is, apart from outputs for the past."""
    mask = task.mask
    conditions = {
        f"the scale is {task.scale:g}": task.scale <= 0,
        "the mask is of rank 1": mask is not None and mask.rank < 2,
        "the mask has no row for every query": mask is not None and not mask.rows,
        "the mask has no element for every key": mask is not None and not mask.columns,
        "one query after a past would see later keys": _misses_late_keys(task),
    }
    return next((reason for reason, holds in conditions.items() if holds), "")


def _misses_late_keys(task: AttentionTask) -> bool:
    """Tell whether the kernel would show keys that come after the query: it does to one query after a past."""
    return task.causal and task.past is not None and not task.square


def _causal_by_mask(build: Builder, task: AttentionTask) -> AttentionTask:
    assert task.past is not None
    sizes = build.op("Concat", task.q.length(build), task.all_keys(build), attributes={"axis": 0})
    everything = build.op("Expand", build.constant(np.ones(1, np.bool_)), sizes)
    offset = build.op("Squeeze", length_of(build, task.past[0], 2))
    seen = build.op("Trilu", everything, offset, attributes={"upper": 0})
    mask, both = task.mask, seen
    if mask is not None and mask.boolean:
        both = build.op("And", mask.value, seen)
    elif mask is not None:
        hidden = build.constant(np.asarray(-np.inf, _numpy_type(mask.value)))
        both = build.op("Where", seen, mask.value, hidden)
    full = MaskOperand(
        both,
        rank=2 if mask is None else max(2, mask.rank),
        boolean=mask is None or mask.boolean,
        rows=True,
        columns=True,
        heads=mask is not None and mask.heads,
        padding=False,
        causal=False,
        hides_rows=True,
    )
    return dataclasses.replace(task, causal=False, mask=full)


def _numpy_type(value: onnx_ir.Value) -> np.dtype[np.generic]:
    return (value.dtype or onnx_ir.DataType.FLOAT).numpy()


def _only_result(build: Builder, task: AttentionTask) -> onnx_ir.Value:
    return spell_attention(build, task)[0]


def _refuses_rank_3(task: AttentionTask) -> str:
    if not task.merged and not any(x.is_merged for x in (task.q, task.k, task.v)):
        return "no operand has its heads beside each other"
    if task.scale <= 0:
        return f"the scale is {task.scale:g}"
    return _refuses_past(task)


def _rank_3(build: Builder, task: AttentionTask) -> onnx_ir.Value:
    operands = [x.as_merged(build) for x in (task.q, task.k, task.v)]
    attributes: dict[str, Attribute] = {
        "q_num_heads": task.q.count,
        "kv_num_heads": task.k.count,
        "scale": task.scale,
        "is_causal": int(task.causal),
        "softcap": task.softcap,
    }
    result = build.op("Attention", *operands, task.full_mask(build), attributes=attributes)
    return _laid_out(build, task, result)


def _refuses_past(task: AttentionTask) -> str:
    return "there are past keys" if task.past else ""


def _refuses_multi_head(task: AttentionTask) -> str:
    conditions = {
        "there are past keys": task.past is not None,
        f"it has no soft cap, here {task.softcap:g}": task.softcap != 0,
        "its scale cannot be zero": task.scale == 0,
        f"{task.q.count} heads share {task.k.count} of keys": task.q.count != task.k.count,
        "it is causal and the numbers of queries and keys may differ": task.causal
        and not task.square,
    }
    return next((reason for reason, holds in conditions.items() if holds), "")


def _refuses_keys_by_head(task: AttentionTask) -> str:
    if task.k.is_merged and task.v.is_merged:
        return "keys and values have their heads beside each other"
    if task.k.size != task.v.size:
        return f"head sizes {task.k.size} and {task.v.size} differ"
    return _refuses_multi_head(task)


def _multi_head(build: Builder, task: AttentionTask) -> onnx_ir.Value:
    operands = (x.as_merged(build) for x in (task.q, task.k, task.v))
    return _multi_head_of(build, task, *operands)


def _keys_by_head(build: Builder, task: AttentionTask) -> onnx_ir.Value:
    operands = (task.q.as_merged(build), task.k.as_heads(build), task.v.as_heads(build))
    return _multi_head_of(build, task, *operands)


def _multi_head_of(
    build: Builder, task: AttentionTask, q: onnx_ir.Value, k: onnx_ir.Value, v: onnx_ir.Value
) -> onnx_ir.Value:
    mask = task.mask
    seen = None
    if mask is not None and mask.boolean and mask.padding and not task.causal:
        seen = _seen_keys(build, mask, task.q)
    bias = task.float_mask(build) if seen is None else None
    inputs = [q, k, v, None, seen, bias]
    attributes: dict[str, Attribute] = {
        "num_heads": task.q.count,
        "scale": task.scale,
        "unidirectional": int(task.causal),
        "mask_filter_value": LOWEST,
    }
    while inputs[-1] is None:
        inputs.pop()
    y = build.op("MultiHeadAttention", *inputs, domain=_CONTRIB, attributes=attributes)
    return _laid_out(build, task, task.zeroed(build, y))


def _seen_keys(build: Builder, mask: MaskOperand, q: Operand) -> onnx_ir.Value:
    """Return the padding mask as int32 ``[batch, keys]``."""
    flat = build.op("Reshape", mask.of_rank(build, 4), build.ints(0, -1))
    numbers = build.op("Cast", flat, attributes={"to": int(onnx_ir.DataType.INT32)})
    shape = build.op("Concat", q.batch(build), build.ints(1), attributes={"axis": 0})
    return build.op("Expand", numbers, shape)


def _refuses_group_query(task: AttentionTask) -> str:
    if not task.hides_later:
        return "it is causal only"
    if not task.square:
        return "the numbers of queries and keys may differ"
    return "its scale cannot be zero" if task.scale == 0 else _refuses_past(task)


def _group_query(build: Builder, task: AttentionTask) -> onnx_ir.Value:
    widest = max(task.q.size, task.v.size)
    size = -(-widest // _BLOCK) * _BLOCK
    q, k, v = (x.padded(build, size).as_merged(build) for x in (task.q, task.k, task.v))
    inputs = [q, k, v, None, None, *_lengths(build, task.q)]
    bias = task.float_mask(build)
    if bias is not None:
        inputs += [None, None, None, bias]
    attributes: dict[str, Attribute] = {
        "num_heads": task.q.count,
        "kv_num_heads": task.k.count,
        "scale": task.scale,
        "softcap": task.softcap,
    }
    y = build.ops("GroupQueryAttention", inputs, 3, domain=_CONTRIB, attributes=attributes)[0]
    if size != task.v.size:
        tokens = build.op("Reshape", y, build.ints(0, 0, task.q.count, size))
        kept = build.op("Slice", tokens, build.ints(0), build.ints(task.v.size), build.ints(3))
        y = merge(build, kept, task.q.count * task.v.size)
    return _laid_out(build, task, task.zeroed(build, y))


def _lengths(build: Builder, q: Operand) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    """Return the last position of each sample and the number of keys, both int32.

    The maximum is of one number: it keeps ONNX Runtime from carrying the int64 size of a shape past the Cast, which
    its check of the operator then refuses.
    """
    to = {"to": int(onnx_ir.DataType.INT32)}
    count = build.op("ReduceMax", build.op("Cast", q.length(build), attributes=to))
    last = build.op("Sub", count, build.constant(np.ones(1, np.int32)))
    return build.op("Expand", last, q.batch(build)), count


def _refuses_operators(task: AttentionTask) -> str:
    if task.mask is not None and task.mask.hides_rows:
        return "they give the mean, not zero, to a query all of whose keys are hidden"
    return _refuses_past(task)


def _operators(build: Builder, task: AttentionTask) -> onnx_ir.Value:
    """Spell products, bias and softmax; heads that share keys are rows of one product."""
    shared = task.q.count != task.k.count
    rows = build.ints(0, task.k.count, -1, task.q.size)
    heads = build.ints(0, task.q.count, -1, 0)
    groups = build.ints(0, task.k.count, -1, 0)
    q = task.q.as_heads(build)
    q = build.op("Reshape", q, rows) if shared else q
    scores = build.op("MatMul", q, _transposed_keys(build, task.k))
    if task.scale != 1:
        scores = build.op("Mul", scores, build.constant(np.asarray(task.scale, np.float32)))
    if task.softcap:
        scores = _capped(build, scores, task.softcap)
    if task.mask is not None or task.causal:
        scores = build.op("Reshape", scores, heads) if shared else scores
        for bias in _biases(build, task):
            scores = build.op("Add", scores, bias)
        scores = build.op("Reshape", scores, groups) if shared else scores
    weights = build.op("Softmax", scores, attributes={"axis": -1})
    y = build.op("MatMul", weights, task.v.as_heads(build))
    y = build.op("Reshape", y, heads) if shared else y
    if not task.merged:
        return y
    tokens = build.op("Transpose", y, attributes={"perm": (0, 2, 1, 3)})
    return merge(build, tokens, task.q.count * task.v.size)


def _transposed_keys(build: Builder, k: Operand) -> onnx_ir.Value:
    if k.is_merged:
        return build.op("Transpose", k.as_tokens(build), attributes={"perm": (0, 2, 3, 1)})
    return build.op("Transpose", k.as_heads(build), attributes={"perm": (0, 1, 3, 2)})


def _capped(build: Builder, scores: onnx_ir.Value, cap: float) -> onnx_ir.Value:
    limit = build.constant(np.asarray(cap, np.float32))
    return build.op("Mul", build.op("Tanh", build.op("Div", scores, limit)), limit)


def _biases(build: Builder, task: AttentionTask) -> list[onnx_ir.Value]:
    """Return what is added to the scores."""
    found: list[onnx_ir.Value] = []
    if task.mask is not None:
        found.append(_repeated_mask(build, task.mask))
    if task.causal:
        found.append(task.later(build))
    return found


def _repeated_mask(build: Builder, mask: MaskOperand) -> onnx_ir.Value:
    """Return the mask as numbers; Add repeats it."""
    if not mask.boolean:
        return mask.value
    zero, low = (build.constant(np.asarray(x, np.float32)) for x in (0.0, LOWEST))
    return build.op("Where", mask.value, zero, low)


def _laid_out(build: Builder, task: AttentionTask, merged: onnx_ir.Value) -> onnx_ir.Value:
    return merged if task.merged else split(build, merged, task.q.count, task.v.size)


STANDARD = "Attention"
KERNELS = (
    Kernel(STANDARD, lambda _task: "", _only_result),
    Kernel("Attention of rank 3", _refuses_rank_3, _rank_3),
    Kernel("MultiHeadAttention", _refuses_multi_head, _multi_head),
    Kernel("MultiHeadAttention, keys by head", _refuses_keys_by_head, _keys_by_head),
    Kernel("GroupQueryAttention", _refuses_group_query, _group_query),
    Kernel("MatMul and Softmax", _refuses_operators, _operators),
)
