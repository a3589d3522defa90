"""Compute at compile time what depends on constants only."""

import dataclasses
import math
from typing import ClassVar

import onnx_ir

from whet.ir.residency import release
from whet.ir.values import constant, is_constant, static_shape
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.canonical.constant_evaluation import Evaluation, evaluate
from whet.passes.canonical.stored_weights import is_decoding
from whet.passes.option import option
from whet.passes.proposal import Proposal, remove_unread
from whet.passes.purity import is_deterministic
from whet.passes.workbench import Workbench

_KEPT = frozenset({"Constant", "DequantizeLinear", "QuantizeLinear", "DynamicQuantizeLinear"})
"""Quantization stays visible: a folded DequantizeLinear would undo the compression."""
_GROWING = frozenset(
    {"AffineGrid", "BlackmanWindow", "CenterCropPad", "Col2Im", "ConstantOfShape", "Expand"}
    | {"EyeLike", "HammingWindow", "HannWindow", "MaxUnpool", "MelWeightMatrix", "OneHot", "Pad"}
    | {"Range", "Resize", "Tile", "Upsample"}
)
"""The size of the result comes from the contents of an operand, not from its size."""
_TINY = 4096
"""Bytes below which a copy of a weight that others read does not count."""
_AT_ONCE = 1 << 27
"""Bytes of results after which one run of the executor is full; the first node may exceed them."""


@dataclasses.dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace nodes whose inputs are all constants by their results.

    A result of more than ``limit`` bytes is only stored where it replaces at least as many; a weight that others read
    too is never stored in a second form. Random operators, operators with subgraphs, operators of other domains,
    quantization and what decodes packed weights are left alone. Results are those of ONNX Runtime; the proof is ONNX's
    reference implementation.
    """

    limit: int = option(1 << 20, at_least=0)
    """Bytes of a result that may be stored although it replaces fewer."""

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT

    def apply(self, work: Workbench) -> None:
        """Fold all that can be folded in one run of the executor; repeat with what that opens."""
        for node in work.nodes("Constant"):
            _lift(node, work)
        settled: set[onnx_ir.Node] = set()
        while True:
            chosen = _Choice(work, self.limit, settled)
            if not chosen.nodes:
                return
            before = work.coverage.changed
            found = evaluate(work.model, chosen.nodes, chosen.results, prove=work.context.prove)
            for value, result in found.items():
                self._commit(value, result, chosen, work)
            release(value for node in chosen.nodes for value in node.inputs)
            remove_unread(reversed(chosen.nodes))
            settled.update(node for node in chosen.nodes if node.graph is not None)
            if work.coverage.changed == before and not chosen.full:
                return

    def _commit(
        self, value: onnx_ir.Value, result: Evaluation, chosen: "_Choice", work: Workbench
    ) -> None:
        node = value.producer()
        assert node is not None
        work.coverage.matched += 1
        if result.array is None:
            work.decline(node, result.reason)
            return
        if result.array.nbytes > max(self.limit, chosen.allowed.get(value, 0)):
            work.decline(
                node, f"the result has {result.array.nbytes} bytes, the limit is {self.limit}"
            )
            return
        build = work.builder(node)
        new = build.constant(result.array, build.fresh(f"{value.name}"))
        outputs, weights = ((value, new),), tuple(build.initializers)
        if result.oracle:
            work.accept(Proposal((node,), outputs, (), weights), result.oracle)
        else:
            work.propose(Proposal(tuple(chosen.sources(node)), outputs, (), weights))


def _lift(node: onnx_ir.Node, work: Workbench) -> None:
    """Turn a Constant node into an initializer."""
    old, tensor = node.outputs[0], onnx_ir.convenience.get_const_tensor(node.outputs[0])
    if tensor is None or old.is_graph_output():
        return
    build = work.builder(node)
    new = build.weight(tensor, build.fresh(f"{old.name}"))
    work.coverage.matched += 1
    work.accept(Proposal((node,), ((old, new),), (), (new,)), "the same tensor")


class _Choice:
    """The nodes to fold in one run, in graph order, and the results that something else reads."""

    def __init__(self, work: Workbench, limit: int, settled: set[onnx_ir.Node]) -> None:
        """Choose; ``settled`` nodes were tried before."""
        self.nodes: list[onnx_ir.Node] = []
        self.allowed: dict[onnx_ir.Value, int] = {}
        """Value -> bytes that its constant may have because it replaces as many."""
        self._bytes: dict[onnx_ir.Value, int] = {}
        self._together = 0
        self._work = work
        self._limit = limit
        self.full = False
        """Whether something was left for another run because the results take too much memory together."""
        for node in work.nodes():
            if self._together > _AT_ONCE:
                self.full = True
                break
            if node not in settled and self._is_foldable(node):
                self.nodes.append(node)
        inside = set(self.nodes)
        self.results = [v for node in self.nodes for v in node.outputs if _read_outside(v, inside)]

    def sources(self, node: onnx_ir.Node) -> list[onnx_ir.Node]:
        """Return the node and everything chosen that it depends on, readers first."""
        found = {node: None}
        waiting = [node]
        while waiting:
            for value in waiting.pop().inputs:
                producer = None if value is None else value.producer()
                if value in self._bytes and producer is not None and producer not in found:
                    found[producer] = None
                    waiting.append(producer)
        return list(found)

    def _is_foldable(self, node: onnx_ir.Node) -> bool:
        if not node.inputs or node.op_type in _KEPT:
            return False
        if not all(v is None or v in self._bytes or _is_tensor_constant(v) for v in node.inputs):
            return False
        if not is_deterministic(node) or not all(_may_be_stored(v) for v in node.outputs):
            return False
        if node.op_type == "Identity" and node.outputs[0].is_graph_output():
            return False
        if is_decoding(node):
            self._work.decline(node, "it decodes a weight that is stored smaller")
            return False
        return self._fits(node)

    def _fits(self, node: onnx_ir.Node) -> bool:
        sizes = [self._result_bytes(node, value) for value in node.outputs]
        total = sum(size or 0 for size in sizes)
        freed = sum(self._freed(value, node) for value in set(node.inputs))
        if None in sizes:
            self._work.decline(node, "the size of the result is not known before it is computed")
            return False
        if total > max(freed, _TINY) and self._copies_weight(node):
            self._work.decline(node, "a weight that others read would be stored in a second form")
            return False
        if total > max(freed, self._limit):
            self._work.decline(node, f"the result has {total} bytes, the limit is {self._limit}")
            return False
        self._together += total
        self._bytes.update((v, s or 0) for v, s in zip(node.outputs, sizes, strict=True))
        self.allowed.update(dict.fromkeys(node.outputs, freed))
        return True

    def _size(self, value: onnx_ir.Value) -> int:
        if value in self._bytes:
            return self._bytes[value]
        return 0 if value.const_value is None else value.const_value.nbytes

    def _freed(self, value: onnx_ir.Value | None, node: onnx_ir.Node) -> int:
        """Return the bytes that nobody needs any more once ``node`` is folded."""
        if (
            value is None
            or value.is_graph_output()
            or any(use.node is not node for use in value.uses())
        ):
            return 0
        return self._size(value)

    def _copies_weight(self, node: onnx_ir.Node) -> bool:
        weights = [v for v in node.inputs if v is not None and is_constant(v)]
        return any(self._size(v) > _TINY and not self._freed(v, node) for v in weights)

    def _result_bytes(self, node: onnx_ir.Node, value: onnx_ir.Value) -> int | None:
        shape = static_shape(value)
        width = 8 if value.dtype is None else max(1, value.dtype.itemsize)
        if shape is not None:
            return math.ceil(math.prod(shape) * width)
        if node.op_type in _GROWING:
            count = _grown(node)
            return None if count is None else math.ceil(count * width)
        read = sum(self._size(v) for v in node.inputs if v is not None)
        return read if read <= _TINY else None


def _grown(node: onnx_ir.Node) -> int | None:
    """Return the largest number of elements of a result whose size an operand spells out."""
    arrays = [constant(value) for value in node.inputs]
    known = [array for array in arrays if array is not None]
    if len(known) < len(node.inputs):
        return None
    if node.op_type == "ConstantOfShape":
        return math.prod(int(size) for size in known[0])
    if node.op_type in {"Expand", "Tile"} and len(known) == 2:
        return int(known[0].size) * math.prod(max(1, int(size)) for size in known[1])
    if node.op_type == "Range":
        start, end, step = (float(array.reshape(-1)[0].item()) for array in known)
        return max(0, math.ceil((end - start) / step)) if step else None
    return None


def _is_tensor_constant(value: onnx_ir.Value) -> bool:
    return is_constant(value) and value.dtype != onnx_ir.DataType.STRING


def _may_be_stored(value: onnx_ir.Value) -> bool:
    known = value.type
    return known is None or (
        isinstance(known, onnx_ir.TensorType) and known.dtype != onnx_ir.DataType.STRING
    )


def _read_outside(value: onnx_ir.Value, inside: set[onnx_ir.Node]) -> bool:
    return value.is_graph_output() or any(use.node not in inside for use in value.uses())
