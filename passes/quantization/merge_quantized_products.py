"""Merge products of one value that will be computed in integers."""

import dataclasses
import math
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.analysis.prices import KernelModel
from whet.backends.device import host
from whet.errors import Mismatch
from whet.ir.values import Array
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.merge_parallel_products import merged_product, parallel_products
from whet.passes.kernels import Body, kernel, noise
from whet.passes.option import option
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.algorithms.arrays import quantize, symmetric
from whet.passes.quantization.algorithms.formats import INT7, INT8
from whet.passes.quantization.linear import read_linear
from whet.passes.spelling_prices import SeenShapes
from whet.passes.workbench import Workbench

__all__ = ["MergeQuantizedProducts"]

_FLOAT, _APART, _MERGED = "float32", "apart", "merged"
_WORTH = 0.95
"""One product must take less than this share of the time of several."""


@dataclasses.dataclass(frozen=True)
class MergeQuantizedProducts(Pass):
    """Replace ``x W1 + b1, x W2 + b2, …`` by ``Split(x [W1 W2 …] + [b1 b2 …])`` where int8 kernels make that faster.

    The same as ``merge-parallel-products``, priced for what comes next: an integer product is so short that what each
    call costs beside it counts for more than it does in floats. Stands before the passes that quantize.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    minimum: int = option(1024, at_least=0)
    """Weights of fewer elements stay as they are."""

    def apply(self, work: Workbench) -> None:
        """Merge every group of products that read the same value."""
        groups = [group for group in parallel_products(work) if len(group) > 1]
        work.coverage.matched += len(groups)
        measured = work.context.prices is not None
        shapes = SeenShapes(
            work, [read for g in groups if (read := g[0].inputs[0])] if measured else ()
        )
        for group in groups:
            build = work.builder(group[0])
            try:
                self._demand_faster(group, work, shapes)
                proposal = merged_product(group, build, work)
            except Mismatch as reason:
                Proposal((group[0],), (), tuple(build.nodes)).discard()
                work.decline(group[0], str(reason))
                continue
            work.propose(proposal)

    def _demand_faster(
        self, group: Sequence[onnx_ir.Node], work: Workbench, shapes: SeenShapes
    ) -> None:
        """Raise Mismatch unless one integer product was measured to be faster than several, and than floats."""
        prices = work.context.prices
        if prices is None:
            raise Mismatch("nothing may be measured here, so the products stay apart")
        sites = [read_linear(node) for node in group]
        inputs = sites[0].sizes[0]
        widths = [site.sizes[1] for site in sites]
        if inputs * min(widths) < self.minimum:
            raise Mismatch(f"{inputs * min(widths)} weights, fewer than {self.minimum}")
        rows = math.prod(shapes.first(sites[0].x)[:-1])
        sizes = " ".join(f"[{inputs},{width}]" for width in widths)
        times = prices.lookup(
            f"MatMul [{rows},{inputs}] x {sizes} dynamic, apart or merged",
            _models(rows, inputs, widths, work.opset),
        )
        _check(times.get(_FLOAT), times.get(_APART), times.get(_MERGED))


def _check(plain: float | None, apart: float | None, merged: float | None) -> None:
    if plain is None or apart is None or merged is None:
        raise Mismatch("the runtime has no kernel for it here")
    if merged >= apart * _WORTH:
        raise Mismatch(f"merged they take {merged:.3g} ms, apart {apart:.3g} ms")
    if merged >= plain:
        raise Mismatch(f"in integers they take {merged:.3g} ms, in floats {plain:.3g} ms")


def _models(rows: int, inputs: int, widths: Sequence[int], opset: int) -> dict[str, KernelModel]:
    x = noise((rows, inputs))
    weights = [noise((inputs, width), k + 1) for k, width in enumerate(widths)]
    whole = np.concatenate(weights, axis=1)

    def apart(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        codes = build.ops("DynamicQuantizeLinear", values, 3)
        return _read(build, [_product(build, codes, w) for w in weights])

    def merged(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        codes = build.ops("DynamicQuantizeLinear", values, 3)
        total = _product(build, codes, whole)
        sizes = build.ints(*widths)
        return _read(
            build, build.ops("Split", (total, sizes), len(widths), attributes={"axis": -1})
        )

    def plain(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        return _read(build, [build.op("MatMul", values[0], build.constant(w)) for w in weights])

    bodies: dict[str, Body] = {_FLOAT: plain, _APART: apart, _MERGED: merged}
    return {name: kernel({"x": x}, body, opset) for name, body in bodies.items()}


def _product(build: Builder, codes: tuple[onnx_ir.Value, ...], weight: Array) -> onnx_ir.Value:
    quantized, scale, zero = codes
    grid = symmetric(weight, INT7 if host().saturates else INT8, 1)
    integers = build.constant(quantize(weight, grid), "w")
    total = build.op("MatMulInteger", quantized, integers, zero)
    real = build.op("Cast", total, attributes={"to": int(onnx_ir.DataType.FLOAT)})
    return build.op("Mul", real, build.op("Mul", scale, build.constant(grid.scale, "s")))


def _read(build: Builder, parts: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
    """Return something small that reads all parts, so that the runtime computes them."""
    ends = [
        build.op("Slice", part, build.ints(0, 0), build.ints(1, 1), build.ints(0, 1))
        for part in parts
    ]
    return build.op("Concat", *ends, attributes={"axis": 1})
