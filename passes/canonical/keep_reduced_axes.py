"""Let reductions keep the axes that are put back behind them."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, dimensions
from whet.passes.base import Fidelity
from whet.passes.forms import axes_of, from_zero, known_rank
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_REDUCTIONS = (
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
)


@dataclasses.dataclass(frozen=True)
class KeepReducedAxes(Rewrite):
    """Replace a reduction that drops its axes, and what puts them back (Unsqueeze, Reshape), by one that keeps them.

    A Reshape counts where the shape that it makes is known to be the reduced one, symbols included.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (
        op(
            ("Unsqueeze", "Reshape"),
            op(_REDUCTIONS, var("x"), name="reduce", sole=True, open=True),
            open=True,
        ),
    )

    def applies(self, found: Match, work: Workbench) -> bool:
        """Tell whether the reduction drops axes and the other node puts exactly these back."""
        reduce = found.node("reduce")
        if attribute_int(reduce, "keepdims", 1):
            return False
        try:
            return _restores(found.root, reduce, found["x"])
        except Mismatch:
            return False

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the reduction with its axes kept."""
        reduce = found.node("reduce")
        attributes = {**reduce.attributes, "keepdims": onnx_ir.AttrInt64("keepdims", 1)}
        return build.op(reduce.op_type, *reduce.inputs, attributes=attributes)


def _restores(root: onnx_ir.Node, reduce: onnx_ir.Node, x: onnx_ir.Value) -> bool:
    size = known_rank(x)
    given = axes_of(reduce)
    if not given and attribute_int(reduce, "noop_with_empty_axes", 0):
        return False
    axes = set(from_zero(given or range(size), size))
    if root.op_type == "Unsqueeze":
        put_back = axes_of(root)
        return put_back is not None and set(from_zero(put_back, size)) == axes
    sizes, made = dimensions(x), dimensions(root.outputs[0])
    if sizes is None or made is None:
        return False
    kept = tuple(1 if axis in axes else extent for axis, extent in enumerate(sizes))
    return None not in kept and kept == made
