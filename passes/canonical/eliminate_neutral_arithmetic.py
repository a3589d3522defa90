"""Remove arithmetic with a neutral element."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.ir.values import Array, constant, dimensions, is_constant, static_shape
from whet.passes.base import Fidelity
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class EliminateNeutralArithmetic(Rewrite):
    """Replace ``x * 1``, ``x / 1``, ``x ** 1``, ``x - 0``, ``x & True``, ``x | False`` by ``x``.

    ``x + 0`` only for integers, and for floats where the zero is -0.0: adding 0.0 turns -0.0 into 0.0. The constant
    must not enlarge ``x`` by broadcasting.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (op(("Add", "Sub", "Mul", "Div", "Pow", "And", "Or"), var("left"), var("right")),)

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether one side is neutral."""
        return _remaining(found) is not None

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the other side."""
        remaining = _remaining(found)
        assert remaining is not None
        return remaining


def _remaining(found: Match) -> onnx_ir.Value | None:
    """Return the operand that the node gives back, if the other is neutral."""
    kind, left, right = found.root.op_type, found["left"], found["right"]
    if is_constant(right) and _is_neutral(kind, right) and _keeps_shape(left, right):
        return left
    commutes = kind in {"Add", "Mul", "And", "Or"}
    if commutes and is_constant(left) and _is_neutral(kind, left) and _keeps_shape(right, left):
        return right
    return None


def _is_neutral(kind: str, value: onnx_ir.Value) -> bool:
    tensor = value.const_value
    if tensor is None or (tensor.size > 1 and static_shape(value) is None) or tensor.size == 0:
        return False
    array = constant(value)
    if array is None or array.dtype.kind not in "fiub":
        return False
    return _all_neutral(kind, array.reshape(-1))


def _all_neutral(kind: str, numbers: Array) -> bool:
    if kind in {"And", "Or"}:
        return bool((numbers == (kind == "And")).all())
    wanted = 0 if kind in {"Add", "Sub"} else 1
    if numbers[0] != wanted or not (numbers == wanted).all():
        return False
    if numbers.dtype.kind == "f" and wanted == 0:
        return bool((np.signbit(numbers) == (kind == "Add")).all())
    return True


def _keeps_shape(x: onnx_ir.Value, neutral: onnx_ir.Value) -> bool:
    sizes, extra = dimensions(x), static_shape(neutral)
    if extra is None:
        return False
    if not extra:
        return True
    if sizes is None or len(extra) > len(sizes):
        return False
    pairs = zip(reversed(sizes), reversed(extra), strict=False)
    return all(more == 1 or more == size for size, more in pairs)
