"""Choose EmbedLayerNormalization."""

import dataclasses
import math
from collections.abc import Sequence

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_float, attribute_int, is_op
from whet.passes.onnxruntime.choice import (
    MICROSOFT,
    Choice,
    Spelled,
    demand_float32,
    demand_vector,
)
from whet.passes.pattern import Match, Op, Pattern, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.spelling_prices import SeenShapes


def _looked_up(number: int) -> Op:
    table, ids = weight(f"table{number}"), var(f"ids{number}")
    return op("Gather", table, ids, name=f"gather{number}", sole=True)


def _normalized(total: Pattern) -> Op:
    return op("LayerNormalization", total, weight("scale"), weight("shift"), name="norm")


_TWO = op("Add", _looked_up(0), _looked_up(1), name="sum")
_INNER = op("Add", _looked_up(0), _looked_up(1), name="inner", sole=True)
_THREE = op("Add", _INNER, _looked_up(2), name="sum", commutative=True)


@dataclasses.dataclass(frozen=True)
class _Part:
    """One embedding: rows of a table."""

    table: onnx_ir.Value
    ids: onnx_ir.Value


@dataclasses.dataclass(frozen=True)
class ChooseEmbedding(Choice):
    """Spell the normalized sum of word, position and maybe token type embeddings as EmbedLayerNormalization.

    The runtime takes int32 indices of shape (batch, length), for the positions also (1, length); unlike Gather it
    refuses negative ones. Which table is called what makes no difference, so they are told apart by shape and size.
    """

    patterns = (_normalized(_THREE), _normalized(_TWO))

    def near(self, root: onnx_ir.Node) -> bool:
        """Speak of norms behind the sum of an embedding only."""
        total = _producer(root.inputs[0])
        return total is not None and any(is_op(_producer(v), "Gather") for v in total.inputs)

    def spell(self, found: Match, build: Builder, shapes: SeenShapes) -> Spelled:
        """Return the fused operator, placed where the sum was: its readers may come before the norm."""
        norm, total = found.node("norm"), found.node("sum").outputs[0]
        words, positions, *types = _roles(_parts(found), shapes)
        _check_norm(norm, shapes.first(total))
        for value in (found["scale"], found["shift"]):
            demand_vector(value, shapes.first(total)[-1], shapes)
        kind = types[0] if types else None
        inputs = (
            _int32(words.ids, build),
            None if kind is None else _int32(kind.ids, build),
            words.table,
            positions.table,
            None if kind is None else kind.table,
            found["scale"],
            found["shift"],
            None,
            _int32(positions.ids, build),
        )
        read_too = len(total.uses()) > 1 or total.is_graph_output()
        made = build.ops(
            "EmbedLayerNormalization",
            inputs,
            3 if read_too else 2,  # the second, lengths from a mask, must be there
            domain=MICROSOFT,
            attributes={"epsilon": attribute_float(norm, "epsilon", 1e-5)},
        )
        made[1].type = onnx_ir.TensorType(onnx_ir.DataType.INT32)
        outputs = [(norm.outputs[0], made[0])]
        if read_too:
            outputs.append((total, made[2]))
        return Spelled("EmbedLayerNormalization", tuple(outputs), found.node("sum"))


def _producer(value: onnx_ir.Value | None) -> onnx_ir.Node | None:
    return None if value is None else value.producer()


def _parts(found: Match) -> list[_Part]:
    count = 3 if "inner" in found.named else 2
    for number in range(count):
        axis = attribute_int(found.node(f"gather{number}"), "axis", 0)
        if axis:
            raise Mismatch(f"an embedding is gathered along axis {axis}, not 0")
    parts = [_Part(found[f"table{k}"], found[f"ids{k}"]) for k in range(count)]
    demand_float32(*(part.table for part in parts))
    return parts


def _roles(parts: Sequence[_Part], shapes: SeenShapes) -> list[_Part]:
    """Return words, positions and token types: positions are those without a batch, then tables get smaller."""
    for part in parts:
        if len(shapes.first(part.table)) != 2:
            raise Mismatch(f"the table '{part.table.name}' has not two dimensions")
    order = sorted(parts, key=lambda part: -shapes.first(part.table)[0])
    full = max(
        (shapes.every(part.ids) for part in parts), key=lambda every: list(map(math.prod, every))
    )
    shared = [part for part in order if shapes.every(part.ids) != full]
    if len(shared) == 1:
        order = [part for part in order if part is not shared[0]]
        order.insert(1, shared[0])
    _check_ids(order, shapes)
    return order


def _check_ids(order: Sequence[_Part], shapes: SeenShapes) -> None:
    for part in order:
        found = zip(shapes.every(order[0].ids), shapes.every(part.ids), strict=True)
        for words, ids in found:
            if len(words) != 2:
                raise Mismatch(f"the indices of words have shape {words}, not (batch, length)")
            shared = (1, words[1]) if part is order[1] else words
            if ids not in {words, shared}:
                raise Mismatch(f"the indices '{part.ids.name}' of shape {ids} differ from {words}")


def _check_norm(norm: onnx_ir.Node, total: Sequence[int]) -> None:
    axis = attribute_int(norm, "axis", -1)
    if axis % len(total) != len(total) - 1:
        raise Mismatch(f"it normalizes from axis {axis} on, not over the last one")
    if any(v.uses() or v.is_graph_output() for v in norm.outputs[1:]):
        raise Mismatch("its mean or deviation is read")


def _int32(ids: onnx_ir.Value, build: Builder) -> onnx_ir.Value:
    if ids.dtype == onnx_ir.DataType.INT32:
        return ids
    return build.op("Cast", ids, attributes={"to": int(onnx_ir.DataType.INT32)})
