"""Let the emitters of a model's nodes write Relax; whatever cannot be emitted is named all at once."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import onnx_ir

from whet.backends.facts import Facts
from whet.backends.reading import walk
from whet.backends.tvm.api import relax
from whet.backends.tvm.lowering import TYPES, Lowering
from whet.backends.tvm.machine import Machine
from whet.backends.tvm.registry import Decline, refusal, registered
from whet.backends.tvm.schedules import Schedules
from whet.ir.array import Array

__all__ = ["Emitted", "emit"]

_SMALL = ("FLOAT8", "FLOAT4", "BFLOAT", "INT4", "UINT4", "INT2", "UINT2")
"""Types whose numbers NumPy does not have: their bits arrive as those of another type."""


@dataclasses.dataclass(frozen=True)
class Emitted:
    """A model in Relax."""

    module: Any
    weights: Mapping[str, Array]
    """The parameters behind the inputs, in order."""


def emit(facts: Facts, machine: Machine, schedules: Schedules | None = None) -> Emitted:
    """Return the Relax module of a model of fixed sizes; ``schedules`` are told of every kernel that can be cut.

    Raises:
        UnsupportedTarget: nodes that cannot be emitted, with what would help.
    """
    builder = relax.BlockBuilder()
    weights: Mapping[str, Array] = {}
    parameters: list[Any] = []
    outputs = relax.Tuple([])
    with builder.function("main"):
        with builder.dataflow():
            try:
                low = Lowering(facts, builder, machine, schedules or Schedules())
                declined = walk(low, registered(), _check, _stand_in)
                if not declined:
                    parameters, outputs = low.finish()
                    weights = low.weights
            except Decline as reason:
                declined = {"the model": str(reason)}
        builder.emit_func_output(outputs, params=parameters)
    if declined:
        raise refusal(declined)
    module = relax.transform.DeadCodeElimination(["main"])(builder.get())
    return _without_unread(module, weights)


def _without_unread(module: Any, weights: Mapping[str, Array]) -> Emitted:
    """Return the module without constants that nothing reads: a kernel took what they belonged to in another form."""
    whole = module["main"]
    read = {v.name for v in relax.analysis.free_vars(whole.body)}
    kept = [p for p in whole.params if p.name in read or p.name not in weights]
    module["main"] = relax.Function(
        kept, whole.body, whole.ret_ty, is_pure=whole.is_pure, attrs=whole.attrs
    )
    return Emitted(module, {name: a for name, a in weights.items() if name in read})


def _check(low: Lowering, node: onnx_ir.Node) -> None:
    for value in (*node.inputs, *node.outputs):
        if value is None or not value.name:
            continue
        kind = value.dtype.name if value.dtype is not None else low.dtype(value)
        if low.dtype(value) not in TYPES or kind.startswith(_SMALL):
            raise Decline(
                f"'{value.name}' is {kind}; numbers of 16 to 64 bits, integers and truth values "
                "are supported"
            )
        if 0 in low.shape(value) and low.known(value) is None:
            raise Decline(f"'{value.name}' has no elements: {low.shape(value)}")


def _stand_in(low: Lowering, node: onnx_ir.Node) -> None:
    """Let the nodes behind one that was declined be looked at too."""
    for value in node.outputs:
        if value.name:
            dtype = low.dtype(value) if low.dtype(value) in TYPES else "float32"
            low.define(value, relax.Var(value.name, relax.TensorType(low.shape(value), dtype)))
