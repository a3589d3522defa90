"""Fold scales, shifts and casts behind a normalization into it."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.errors import Mismatch
from whet.ir.values import attribute_int, constant
from whet.passes.base import Change, Fidelity
from whet.passes.forms import known_rank
from whet.passes.fusion.normalization import NORMALIZED, along, axis_of, narrowed, normalized_shape
from whet.passes.pattern import Match, Pattern, maybe, op, var, weight
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

Floats = NDArray[np.float64]


def _normalized(x: Pattern, *kinds: str) -> Pattern:
    return op(kinds, x, weight("scale"), maybe("bias"), name="norm", sole=True)


_ANY = _normalized(var("x"), *NORMALIZED)
_LAYER = _normalized(var("x"), "LayerNormalization")
_CAST = _normalized(op("Cast", var("x"), name="inner"), *NORMALIZED)


@dataclasses.dataclass(frozen=True)
class FoldIntoNormalization(Rewrite):
    """Fold what follows a LayerNormalization or RMSNormalization into its scale and bias.

    - ``(s n(x) + b) * c`` becomes ``(s c) n(x) + (b c)``, and division alike;
    - ``(s n(x) + b) + c`` becomes ``s n(x) + (b + c)``, and subtraction alike, where the operator has a bias;
    - ``Cast(n(Cast(x)))`` to and from float becomes ``n(x)`` in the narrow type: the operator computes in float itself.

    Computed in float64. Declines for constants that do not lie along the normalized axes alone, or that the narrow
    type would round.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (
        op("Mul", _ANY, weight("c"), name="map", commutative=True),
        op("Div", _ANY, weight("c"), name="map"),
        op("Add", _LAYER, weight("c"), name="map", commutative=True),
        op("Sub", _LAYER, weight("c"), name="map"),
        op("Cast", _CAST, name="map"),
    )

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether a cast returns to the narrow type that the input had."""
        if found.root.op_type != "Cast":
            return True
        target = onnx_ir.DataType(attribute_int(found.root, "to", 0))
        return target == found["x"].dtype and target.name in {"FLOAT16", "BFLOAT16"}

    def check(self, found: Match, work: Workbench) -> None:
        """Decline where the normalization gives away more than its result, or computes in a narrow type."""
        norm = found.node("norm")
        if any(v.uses() or v.is_graph_output() for v in norm.outputs[1:]):
            raise Mismatch("its mean or deviation is read too")
        if attribute_int(norm, "stash_type", 1) != int(onnx_ir.DataType.FLOAT):
            raise Mismatch("it computes in another type than float")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the normalization with the new scale and bias."""
        scale, bias = _folded(found)
        dtype = found["x"].dtype
        if dtype is None:
            raise Mismatch(f"the type of '{found['x'].name}' is not known")
        inputs = [found["x"], build.constant(narrowed(scale, dtype))]
        if bias is not None:
            inputs.append(build.constant(narrowed(bias, dtype)))
        norm = found.node("norm")
        return build.op(norm.op_type, *inputs, attributes=dict(norm.attributes.items()))


def _folded(found: Match) -> tuple[Floats, Floats | None]:
    """Return the new scale and bias."""
    size, kind = known_rank(found["x"]), found.root.op_type
    start = axis_of(found.node("norm"), size)
    shape = normalized_shape(found["x"], start, found.array("scale"), "the scale")
    scale = along(found.array("scale"), size, shape, "the scale")
    given = constant(found.get("bias"))
    bias = None if given is None else along(given, size, shape, "the bias")
    if found.get("bias") is not None and bias is None:
        raise Mismatch("the bias is computed at run time")
    if kind == "Cast":
        return scale, bias
    c = along(found.array("c"), size, shape, "the constant")
    if kind in ("Add", "Sub"):
        shift = c if kind == "Add" else -c
        return scale, shift if bias is None else bias + shift
    return _finite(scale, c, kind), None if bias is None else _finite(bias, c, kind)


def _finite(array: Floats, c: Floats, kind: str) -> Floats:
    with np.errstate(divide="ignore", invalid="ignore"):
        found = array * c if kind == "Mul" else array / c
    if not np.isfinite(found).all():
        raise Mismatch("the constant is zero where it divides, or not finite")
    return found
