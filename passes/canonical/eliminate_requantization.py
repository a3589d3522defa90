"""Remove quantization to the grid that a value lies on already."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import Array, attribute_int, constant
from whet.passes.base import Fidelity
from whet.passes.pattern import Match, maybe, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_D = onnx_ir.DataType
_EXACT = frozenset({_D.INT8, _D.UINT8, _D.INT16, _D.UINT16})
"""Integers that one multiplication and one division in float32 leave closer to themselves than to others."""
_SMALLEST, _LARGEST = 1e-30, 1e30
"""Scales between these neither vanish nor overflow."""


@dataclasses.dataclass(frozen=True)
class EliminateRequantization(Rewrite):
    """Replace ``Q(DQ(q))`` by ``q`` where both have the same scales and zero points.

    round((q - z) s / s) + z is q again: two roundings of float32 move a number of at most 16 bits by less than 0.01.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (
        op(
            "QuantizeLinear",
            op("DequantizeLinear", var("q"), weight("s"), maybe("z"), name="from"),
            weight("t"),
            maybe("w"),
            name="to",
        ),
    )

    def check(self, found: Match, work: Workbench) -> None:
        """Compare the grids."""
        before, after = found["q"].dtype, found.root.outputs[0].dtype
        if before not in _EXACT or before != after:
            raise Mismatch(f"integers are {before} before and {after} afterwards")
        scales = found.array("s"), found.array("t")
        if not _equal(*scales) or not _equal(_zeros(found, "z"), _zeros(found, "w")):
            raise Mismatch("another grid")
        if scales[0].dtype != np.float32:
            raise Mismatch(f"scales are {scales[0].dtype}, not float32")
        wide = scales[0].astype(np.float64)
        if not ((wide > _SMALLEST) & (wide < _LARGEST)).all():
            raise Mismatch("a scale at the ends of float32")
        places = [_place(found.node(name)) for name in ("from", "to")]
        if scales[0].size > 1 and places[0] != places[1]:
            raise Mismatch(f"scales lie along axis {places[0]} before and {places[1]} afterwards")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the integers."""
        return found["q"]


def _equal(one: Array | None, other: Array | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.shape == other.shape and bool(np.array_equal(one, other))


def _zeros(found: Match, name: str) -> Array | None:
    value = found.get(name)
    if value is None:
        return None
    array = constant(value)
    if array is None:
        raise Mismatch(f"the zero point '{value.name}' is not a constant")
    return array if np.any(array) else None


def _place(node: onnx_ir.Node) -> tuple[int, int]:
    return attribute_int(node, "axis", 1), attribute_int(node, "block_size", 0)
