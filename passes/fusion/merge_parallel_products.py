"""Merge products of one value with several constant matrices."""

import dataclasses
from collections.abc import Hashable, Sequence
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import (
    Array,
    attribute_float,
    attribute_int,
    constant,
    is_constant,
    is_op,
    static_shape,
)
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.proposal import Builder, Proposal
from whet.passes.spelling_prices import SeenShapes, SpellingPrices
from whet.passes.workbench import Workbench

__all__ = ["MergeParallelProducts", "merged_product", "parallel_products"]

_SPLIT_BY_INPUT = 13


@dataclasses.dataclass(frozen=True)
class _Branch:
    """One product, and the addition of a constant vector if nothing else reads the product."""

    product: onnx_ir.Node
    weight: onnx_ir.Value
    bias: onnx_ir.Value | None
    add: onnx_ir.Node | None

    @property
    def end(self) -> onnx_ir.Value:
        """Return the result."""
        return (self.add or self.product).outputs[0]

    @property
    def turned(self) -> bool:
        """Tell whether the weight is stored with outputs first."""
        return self.product.op_type == "Gemm" and bool(attribute_int(self.product, "transB", 0))

    @property
    def width(self) -> int:
        """Return the number of outputs."""
        return (static_shape(self.weight) or (0, 0))[0 if self.turned else 1]

    @property
    def nodes(self) -> tuple[onnx_ir.Node, ...]:
        """Return the product, and the addition behind it."""
        return (self.product,) if self.add is None else (self.product, self.add)


@dataclasses.dataclass(frozen=True)
class MergeParallelProducts(Pass):
    """Replace ``x W1 + b1, x W2 + b2, …`` by ``Split(x [W1 W2 …] + [b1 b2 …])`` where that was measured to be faster.

    Query, key and value projections are the best known case, gate and up projections another. Takes part: MatMul and
    Gemm with a constant matrix on the right that nobody else reads; a constant vector is merged too, and zero stands
    for one that is missing. Where nothing may be measured, nothing is merged.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Merge every group of products that read the same value."""
        groups = [group for group in parallel_products(work) if len(group) > 1]
        work.coverage.matched += len(groups)
        measured = work.context.prices is not None
        shapes = SeenShapes(work, [_data(g[0]) for g in groups] if measured else ())
        for group in groups:
            build = work.builder(group[0])
            try:
                if not measured:
                    raise Mismatch("nothing may be measured here, so the products stay apart")
                proposal = merged_product(group, build, work)
                SpellingPrices(work, shapes).demand_faster(proposal, "one product")
            except Mismatch as reason:
                Proposal((group[0],), (), tuple(build.nodes)).discard()
                work.decline(group[0], str(reason))
                continue
            work.propose(proposal)


def parallel_products(work: Workbench) -> list[list[onnx_ir.Node]]:
    """Return products with a constant on the right, by what they read and how; each in the order of the graph."""
    groups: dict[Hashable, list[onnx_ir.Node]] = {}
    for node in work.nodes("MatMul", "Gemm"):
        if is_op(node, "MatMul", "Gemm") and is_constant(node.inputs[1]):
            groups.setdefault(_kind(node), []).append(node)
    return list(groups.values())


def _kind(node: onnx_ir.Node) -> Hashable:
    """Return what products must agree in to be merged."""
    weight = node.inputs[1]
    numbers = tuple(attribute_float(node, name, 1.0) for name in ("alpha", "beta"))
    turned = tuple(attribute_int(node, name, 0) for name in ("transA", "transB"))
    return node.inputs[0], node.op_type, weight and weight.dtype, numbers, turned


def _data(node: onnx_ir.Node) -> onnx_ir.Value:
    value = node.inputs[0]
    assert value is not None
    return value


def merged_product(group: Sequence[onnx_ir.Node], build: Builder, work: Workbench) -> Proposal:
    """Return the merger of those that can be merged; raises Mismatch where fewer than two are left."""
    if work.opset < _SPLIT_BY_INPUT:
        raise Mismatch(f"opset {work.opset} has no Split with sizes as an input")
    branches = _branches(group)
    total = _product(branches, build)
    widths = build.ints(*(branch.width for branch in branches))
    parts = build.ops("Split", (total, widths), len(branches), attributes={"axis": -1})
    ends = tuple(branch.end for branch in branches)
    return Proposal(
        tuple(node for branch in branches for node in branch.nodes),
        tuple(zip(ends, parts, strict=True)),
        tuple(build.nodes),
        tuple(build.initializers),
    )


def _branches(group: Sequence[onnx_ir.Node]) -> list[_Branch]:
    """Return those of the products that can be merged; raises Mismatch where fewer than two are left."""
    found: list[_Branch] = []
    reasons: dict[str, None] = {}
    for node in group:
        try:
            found.append(_branch(node))
        except Mismatch as reason:
            reasons[str(reason)] = None
    if len(found) < 2:
        raise Mismatch("; ".join(reasons))
    return found


def _branch(node: onnx_ir.Node) -> _Branch:
    weight = node.inputs[1]
    assert weight is not None
    if len(static_shape(weight) or ()) != 2:
        raise Mismatch(f"the weight '{weight.name}' is no matrix")
    if len(weight.uses()) > 1 or weight.is_graph_output():
        raise Mismatch(f"the weight '{weight.name}' has other readers: it would be stored twice")
    if attribute_int(node, "transA", 0):
        raise Mismatch("the operand that is not constant is transposed")
    if node.op_type == "Gemm":
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        return _checked(_Branch(node, weight, bias, None))
    return _with_addition(_Branch(node, weight, None, None))


def _checked(branch: _Branch) -> _Branch:
    """Return the branch of a Gemm if its bias is a constant vector."""
    if branch.bias is None or _vector(branch.bias, branch.width) is not None:
        return branch
    raise Mismatch(f"the bias '{branch.bias.name}' is not a constant vector")


def _with_addition(branch: _Branch) -> _Branch:
    """Return the branch with the addition behind it, if that adds a constant vector."""
    value = branch.product.outputs[0]
    users = value.consumers()
    if len(value.uses()) != 1 or value.is_graph_output() or not is_op(users[0], "Add"):
        return branch
    bias = next((v for v in users[0].inputs if v is not value), None)
    if bias is None or _vector(bias, branch.width) is None or len(static_shape(bias) or ()) != 1:
        return branch
    return dataclasses.replace(branch, bias=bias, add=users[0])


def _vector(bias: onnx_ir.Value, width: int) -> Array | None:
    """Return a constant of ``width`` elements along the last axis as a vector."""
    array = constant(bias)
    if array is None or array.size != width or array.shape[-1:] != (width,):
        return None
    return array.reshape(-1)


def _product(branches: Sequence[_Branch], build: Builder) -> onnx_ir.Value:
    first = branches[0]
    axis = 0 if first.turned else 1
    weights = [_array(branch.weight) for branch in branches]
    weight = build.constant(np.concatenate(weights, axis), first.weight.name or "")
    x = _data(first.product)
    bias = _bias(branches, build)
    if first.product.op_type == "MatMul":
        product = build.op("MatMul", x, weight)
        return product if bias is None else build.op("Add", product, bias)
    operands = (x, weight) if bias is None else (x, weight, bias)
    return build.op("Gemm", *operands, attributes=first.product.attributes)


def _bias(branches: Sequence[_Branch], build: Builder) -> onnx_ir.Value | None:
    first = next((branch.bias for branch in branches if branch.bias is not None), None)
    if first is None:
        return None
    dtype = _array(first).dtype
    vectors = [
        np.zeros(branch.width, dtype) if branch.bias is None else _array(branch.bias).reshape(-1)
        for branch in branches
    ]
    return build.constant(np.concatenate(vectors), first.name or "")


def _array(value: onnx_ir.Value) -> Array:
    array = constant(value)
    assert array is not None
    return array
