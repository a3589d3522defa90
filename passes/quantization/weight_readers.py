"""What passes that replace a weight for all its readers have in common."""

from collections.abc import Callable, Sequence

import onnx_ir

from whet.analysis.activations import Sampler, first_samples
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array
from whet.passes.base import Damage
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.layers import Weight, find_weights
from whet.passes.workbench import Workbench

__all__ = ["OperandSamples", "matched_weights", "replace_weight"]


def matched_weights(work: Workbench, *op_types: str) -> list[Weight]:
    """Return the weights of MatMul, Gemm and Conv; count them, and decline nodes that have none to offer."""
    found, refused = find_weights(work.nodes(*op_types))
    work.coverage.matched += len(found) + len(refused)
    for node, reason in refused.items():
        work.decline(node, reason)
    return found


class OperandSamples:
    """Real data for what nodes compute with, in the model as it is when this is made."""

    def __init__(self, work: Workbench, weights: Sequence[Weight]) -> None:
        """Remember what operands are called before anything is rewritten."""
        self._names = {
            node: [v.name or "" for v in _operands(node)] for w in weights for node in w.readers
        }
        self._sample: Sampler | None = None
        if work.context.judge:
            names = list(dict.fromkeys(name for names in self._names.values() for name in names))
            feeds = first_samples(work.model, work.context.judge[0])
            self._sample = Sampler(work.model, names, feeds, work.context.threads)

    def of(self, node: onnx_ir.Node) -> dict[str, Array]:
        """Return values of the operands under their present names; nothing without data."""
        found: dict[str, Array] = {}
        if self._sample is None:
            return found
        for value, name in zip(_operands(node), self._names[node], strict=True):
            try:
                array = self._sample(name)
            except CannotRun:
                return {}
            if array is not None:
                found[value.name or ""] = array
        return found


def replace_weight(
    work: Workbench,
    weight: Weight,
    readers: Sequence[onnx_ir.Node],
    spell: Callable[[Builder], onnx_ir.Value],
    damage: Damage,
    samples: OperandSamples,
    bias: Array | None = None,
) -> None:
    """Decode in front of the first reader; once that is proven, let the others read the same.

    Raises Mismatch where it cannot be spelled. A bias takes the place of the one of the first reader.
    """
    first = readers[0]
    build = work.builder(first)
    try:
        value = spell(build)
    except Mismatch:
        Proposal(weight.readers, (), tuple(build.nodes)).discard()
        raise
    if not work.propose(_reading(first, weight, value, build, bias), damage, samples.of(first)):
        return
    for node in readers[1:]:
        other = _reading(node, weight, value, work.builder(node), None)
        work.accept(other, "decoded for an earlier reader")


def _reading(
    node: onnx_ir.Node, weight: Weight, new: onnx_ir.Value, build: Builder, bias: Array | None
) -> Proposal:
    """Return the proposal that the node reads another weight, and another bias where there is one."""
    inputs = [new if v is weight.value else v for v in node.inputs]
    if bias is not None:
        inputs = [*inputs[:2], build.constant(bias)]
    result = build.op(node.op_type, *inputs, attributes=dict(node.attributes))
    nodes, weights = tuple(build.nodes), tuple(build.initializers)
    return Proposal((node,), ((node.outputs[0], result),), nodes, weights)


def _operands(node: onnx_ir.Node) -> list[onnx_ir.Value]:
    """Return what a reader computes with besides constants."""
    return [v for v in node.inputs if v is not None and v.const_value is None]
