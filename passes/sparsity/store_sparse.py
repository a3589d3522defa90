"""Store weights with many equal numbers as those that differ and where they are."""

import dataclasses
import math
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import Array, constant, is_op
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.option import option
from whet.passes.proposal import Builder, Proposal
from whet.passes.sparsity.algorithms.encoding import Encoding, background_of, encode
from whet.passes.sparsity.spelling import OVERHEAD, spell_sparse
from whet.passes.workbench import Workbench

__all__ = ["StoreSparse"]

_PRODUCTS = ("MatMul", "Gemm", "Conv", "ConvTranspose")


@dataclasses.dataclass(frozen=True)
class StoreSparse(Pass):
    """Store weights in which one number (a zero, mostly) fills many places without these, bit by bit the same.

    The file keeps a bit for each place (or block) and the other numbers, or the distances between them and the
    numbers, whichever is smaller; the runtime decodes them once, when it loads, so kernels and their milliseconds stay
    what they are. Weights of any type are taken: floats that ``sparsify-weights{store=false}`` left zeros in, integers
    that a quantization made of those, where the background is the zero point. Zeros that are not packed make no file
    smaller. Runs last, behind the passes that read weights.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    gated: ClassVar[bool] = True

    minimum: int = option(1024, at_least=0)
    """Weights of fewer bytes stay as they are."""

    def apply(self, work: Workbench) -> None:
        """Rewrite weight by weight, in the order in which they are read."""
        seen: set[onnx_ir.Value] = set()
        for node in list(work.nodes()):
            for value in node.inputs:
                if value is None or value in seen or not _is_weight(value, self.minimum):
                    continue
                seen.add(value)
                self._store(work, node, value)

    def _store(self, work: Workbench, node: onnx_ir.Node, value: onnx_ir.Value) -> None:
        work.coverage.matched += 1
        try:
            readers = _readers(work, value)
            array, found = _encoded(value, readers)
            self._rewrite(work, value, array, found, readers)
        except Mismatch as reason:
            work.decline(node, f"'{value.name}': {reason}")

    def _rewrite(
        self,
        work: Workbench,
        value: onnx_ir.Value,
        array: Array,
        found: Encoding,
        readers: list[onnx_ir.Node],
    ) -> None:
        """Decode in front of the first reader; once that is proven, let the others read the same."""
        build = work.builder(readers[0])
        decoded = spell_sparse(build, found, value.name or "weight", opset=work.opset)
        damage = Damage(
            site=readers[0].name or readers[0].op_type,
            format=f"{found.numbers.size / array.size:.0%} stored",
            error=0.0,
            bytes_before=array.nbytes,
            bytes_after=found.nbytes,
        )
        if not work.propose(_reading(readers[0], value, decoded, build), damage):
            return
        for node in readers[1:]:
            other = _reading(node, value, decoded, work.builder(node))
            work.accept(other, "decoded for an earlier reader")


def _is_weight(value: onnx_ir.Value, minimum: int) -> bool:
    if value.const_value is None or value.is_graph_input() or value.dtype is None:
        return False
    if value.dtype.itemsize < 1 or value.dtype == onnx_ir.DataType.STRING:
        return False
    return math.prod(value.const_value.shape.numpy()) * value.dtype.itemsize >= minimum


def _encoded(value: onnx_ir.Value, readers: list[onnx_ir.Node]) -> tuple[Array, Encoding]:
    """Return the weight and its encoding; raises Mismatch where that is not smaller."""
    array = constant(value)
    if array is None or array.dtype.kind not in "fiu":
        raise Mismatch(f"numbers of type {value.dtype} are not packed")
    if value.is_graph_output():
        raise Mismatch("the weight is an output of the model")
    if array.dtype.kind == "f" and all(is_op(node, *_PRODUCTS) for node in readers):
        # A product that is added up does not tell 0 from -0, which masks leave behind.
        array = np.where(array == 0, np.zeros((), array.dtype), array)
    found = encode(array, background_of(array))
    if found.nbytes + OVERHEAD >= array.nbytes:
        raise Mismatch(
            f"{found.nbytes} bytes and about {OVERHEAD} of decoding are not fewer than {array.nbytes}"
        )
    return array, found


def _readers(work: Workbench, value: onnx_ir.Value) -> list[onnx_ir.Node]:
    """Return who reads the weight, in graph order; raises Mismatch where it would have to stay for one of them."""
    readers = set(value.consumers())
    found = [node for node in work.graph if node in readers]
    if len(found) < len(readers):
        raise Mismatch("a subgraph reads it too")
    left = [node.name for node in found if node not in set(work.nodes())]
    if left:
        raise Mismatch(f"'{left[0]}' reads it too, which is left alone")
    return found


def _reading(
    node: onnx_ir.Node, old: onnx_ir.Value, new: onnx_ir.Value, build: Builder
) -> Proposal:
    """Return the proposal that the node reads the decoded weight."""
    inputs = [new if v is old else v for v in node.inputs]
    made = build.ops(
        node.op_type,
        inputs,
        len(node.outputs),
        domain=node.domain,
        attributes=dict(node.attributes),
    )
    outputs = tuple(zip(node.outputs, made, strict=True))
    return Proposal((node,), outputs, tuple(build.nodes), tuple(build.initializers))
