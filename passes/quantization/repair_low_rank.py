"""Repair what lossy passes did to products with a path of low rank, whatever they made of them."""

import dataclasses
import hashlib
from collections.abc import Iterator, Sequence
from typing import ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.activations import observe, observed_shapes
from whet.analysis.statistics import Gram, Statistics
from whet.errors import Mismatch
from whet.ir.execute import CannotRun
from whet.ir.values import Array, attribute_int, is_constant, is_op
from whet.passes.base import Change, Damage, Fidelity, Pass
from whet.passes.kernels import kernel, noise
from whet.passes.option import option
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.algorithms.approximation import Doubles, Floats, Layer, LowRank
from whet.passes.quantization.algorithms.eora import paying_rank, repairing_path
from whet.passes.quantization.choice import FLOAT
from whet.passes.quantization.judging import fitted_and_judged
from whet.passes.quantization.linear import Linear, read_linear
from whet.passes.quantization.linear_response import Product, find_product, response
from whet.passes.quantization.storage import spell
from whet.passes.workbench import Workbench

__all__ = ["RepairLowRank"]


@dataclasses.dataclass(frozen=True)
class RepairLowRank(Pass):
    """Add ``B A x`` of low rank to matrix products that lossy passes have replaced: ``y = ŷ + B A x̂``.

    W is the matrix before the first lossy pass, Ŵ the one that the present operator multiplies with, read off by
    running it on the unit vectors, whatever its format. ``B A`` is the best matrix of its rank for the inputs x̂ that
    the product sees now: the truncated singular value decomposition of (W - Ŵ) Q Λ^½ with Q Λ Qᵀ the Gram matrix of x̂
    (EoRA, Liu et al., 2024). Products are visited in order; a path stays where it lowers the squared error of the
    product, against that of the model before, on data that were not fitted, by more than its bytes would as further
    bits. A weight that the runtime decodes to float32 when it loads takes the path in, at no cost in time; beside
    other products it is multiplied at run time, as long as all paths together cost less than ``slowdown``. Runs behind
    the passes that quantize, and in front of ``correct-biases``.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    compares: ClassVar[bool] = True

    rank: int = option(16, at_least=1)
    """The largest rank; powers of two below it are tried too."""
    worth: Literal["bytes", "error"] = "bytes"
    """What a path must be worth: its bytes as further bits, or any gain."""
    slowdown: float = option(0.05, at_least=0)
    """Share of the model's milliseconds that paths may add."""

    def apply(self, work: Workbench) -> None:
        """Visit what lossy passes replaced, in the order of the graph."""
        original = work.context.original
        if original is None:
            return
        sites = list(_sites(original, work))
        work.coverage.matched += len(sites)
        if not work.context.calibration:
            for site in sites:
                work.decline(site.old.node, "needs calibration data")
            return
        _Run(self, work, original).visit(sites)


@dataclasses.dataclass(frozen=True, eq=False)
class _Site:
    """A product of the original and what stands for it now."""

    old: Linear
    value: onnx_ir.Value


def _sites(original: onnx_ir.Model, work: Workbench) -> Iterator[_Site]:
    """Yield the matrix products of the original that something else stands for."""
    present = {old: new for new, old in work.context.lineage.items()}
    values = {v.name: v for node in work.graph for v in node.outputs}
    for node in original.graph:
        if not is_op(node, "MatMul", "Gemm"):
            continue
        try:
            linear = read_linear(node)
        except Mismatch:
            continue
        for name in _behind(node.outputs[0]):
            value = values.get(present.get(name, ""))
            if value is not None:
                yield _Site(linear, value)
                break


def _behind(value: onnx_ir.Value) -> Iterator[str]:
    """Yield the names of a product, the sum with its bias, and the activations behind them."""
    yield value.name or ""
    readers = list(value.consumers())
    if len(readers) != 1 or value.is_graph_output():
        return
    biased = is_op(readers[0], "Add") and any(is_constant(v) for v in readers[0].inputs)
    if biased or is_op(readers[0], "Relu", "LeakyRelu", "Clip"):
        yield from _behind(readers[0].outputs[0])


class _Run:
    """One run over one model."""

    def __init__(self, options: RepairLowRank, work: Workbench, original: onnx_ir.Model) -> None:
        self._pass = options
        self._work = work
        self._original = original
        self._fit, self._judge = fitted_and_judged(work.context.calibration, work.context.held_out)
        self._left = float("inf")
        """Milliseconds that further paths may add."""

    def visit(self, sites: Sequence[_Site]) -> None:
        if sites and self._work.context.prices is not None:
            self._left = self._pass.slowdown * self._whole()
        for site in sites:
            try:
                self._repair(site)
            except (Mismatch, CannotRun) as reason:
                self._work.decline(site.old.node, str(reason))

    def _repair(self, site: _Site) -> None:
        product = find_product(site.value)
        if (product.node.metadata_props.get("whet.from") or "").startswith(self._pass.name):
            raise Mismatch("it is repaired already")
        weights: Floats = np.ascontiguousarray(site.old.matrix().T, np.float32)
        present, added = response(self._work.model, product, weights.shape[1])
        if present.shape != weights.shape:
            raise Mismatch(f"the matrix is {list(present.shape)}, it was {list(weights.shape)}")
        layer = Layer(weights, self._gram(product))
        path = repairing_path(layer, present, self._pass.rank, half=product.decoded)
        judge = self._measure(site.old, product, added)
        size = weights.size if self._pass.worth == "bytes" else None
        best = paying_rank(path, judge.error, size)
        if best is None:
            raise Mismatch(
                f"error {judge.error(None):.3g} on data held out, {judge.error(path):.3g} with rank {len(path.right)}:"
                f" not worth {path.nbytes} bytes"
            )
        ms = 0.0 if product.decoded else self._ms(product, best)
        if ms > self._left:
            raise Mismatch(
                f"a path of rank {len(best.right)} takes {ms:.3g} ms, {self._left:.3g} ms are left of the"
                f" {self._pass.slowdown:.0%} that all may add"
            )
        if self._commit(site, product, best, judge):
            self._left -= ms

    def _gram(self, product: Product) -> Doubles:
        """Return the mean of x̂ x̂ᵀ on the data to fit on."""
        asked = Gram(-1, exact=False)
        name = product.x.name or ""
        context = dataclasses.replace(self._work.context, calibration=self._fit)
        found = Statistics(frozenset({(name, asked)})).measure(self._work.model, context)
        return found.of(name, asked).matrix

    def _measure(self, old: Linear, product: Product, added: Floats) -> "_Judge":
        """Run both models on data that nothing is fitted to."""
        matrix = old.matrix().astype(np.float64)
        names, threads = [product.x.name or "", product.y.name or ""], self._work.context.threads
        found = _Judge(matrix.shape)
        for batch in self._judge:
            ((_, before),) = observe(self._original, [old.x.name or ""], [batch], threads=threads)
            now = dict(observe(self._work.model, names, [batch], threads=threads))
            x, y = (_rows(now[name]) for name in names)
            found.add(_rows(before) @ matrix, x, y - added)
        return found

    def _commit(self, site: _Site, product: Product, path: LowRank, judge: "_Judge") -> bool:
        work, build = self._work, self._work.builder(product.node)
        made = (_folded if product.decoded else _beside)(build, product, path, site, work.opset)
        proposal = Proposal(
            (product.node,), ((product.y, made),), tuple(build.nodes), tuple(build.initializers)
        )
        before, place = work.coverage.changed, "in the weight" if product.decoded else "beside it"
        work.accept(proposal, "error on data held out")
        if work.coverage.changed == before:
            return False
        held_out = bool(work.context.held_out)
        work.coverage.damage.append(
            Damage(
                site=site.old.node.name or site.old.node.op_type,
                format=f"rank {len(path.right)} {place}",
                error=judge.error(path) ** 0.5,
                bytes_before=0,
                bytes_after=path.nbytes,
                measured_on="held-out data" if held_out else "calibration data",
                rank=len(path.right),
            )
        )
        return True

    def _whole(self) -> float:
        """Return the milliseconds that the model takes as it is."""
        work = self._work
        assert work.context.prices is not None
        content = onnx_ir.to_proto(work.model).SerializeToString(deterministic=True)
        feeds = work.context.bindings.feeds(work.model, 0)
        sizes = " ".join(f"{name}{list(a.shape)}" for name, a in feeds.items())
        label = f"model {hashlib.sha256(content).hexdigest()[:16]} {sizes}"
        found = work.context.prices.lookup(label, {"whole": lambda: (content, feeds)})
        return found.get("whole", float("inf"))

    def _ms(self, product: Product, path: LowRank) -> float:
        """Return the milliseconds that a path takes."""
        work, prices = self._work, self._work.context.prices
        if prices is None:
            return 0.0
        shapes = observed_shapes(work.model, [product.x], work.context.bindings)
        shape = shapes.get(product.x.name or "")
        if not shape:
            raise Mismatch("the number of rows is not known, so nothing could be measured")
        rows, inputs = int(np.prod(shape[:-1])), shape[-1]
        rank, outputs = len(path.right), len(path.left)
        feeds = {"x": noise((rows, inputs)), "y": noise((rows, outputs), 1)}
        factors = noise((inputs, rank), 2), noise((rank, outputs), 3)

        def body(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
            small = build.op("MatMul", values[0], build.constant(factors[0]))
            return build.op("Add", values[1], build.op("MatMul", small, build.constant(factors[1])))

        label = f"path [{rows},{inputs}] x [{inputs},{rank}] x [{rank},{outputs}]"
        return prices.lookup(label, {FLOAT: kernel(feeds, body, work.opset)}).get(FLOAT, 0.0)


class _Judge:
    """The sums that errors e = W x - ŷ of products are made of: ||e||², e x̂ᵀ and x̂ x̂ᵀ."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        """Begin with nothing; ``shape`` is (inputs, outputs)."""
        self._own, self._wanted = 0.0, 0.0
        self._cross, self._gram = np.zeros(shape[::-1]), np.zeros((shape[0], shape[0]))

    def add(self, wanted: Doubles, x: Doubles, y: Doubles) -> None:
        """Count rows; raises Mismatch where there are not as many as before."""
        if wanted.shape != y.shape:
            raise Mismatch(f"it gives {list(y.shape)} numbers, it gave {list(wanted.shape)}")
        error = wanted - y
        self._own += float(np.vdot(error, error))
        self._wanted += float(np.vdot(wanted, wanted))
        self._cross += error.T @ x
        self._gram += x.T @ x

    def error(self, path: LowRank | None) -> float:
        """Return Σ ||W x - ŷ - B A x̂||² / Σ ||W x||²."""
        lost = self._own
        if path is not None:
            added: Doubles = path.values().astype(np.float64)
            lost += float(np.vdot(added @ self._gram - 2 * self._cross, added))
        return max(lost, 0.0) / self._wanted if self._wanted > 0 else float("inf")


def _rows(array: Array) -> Doubles:
    return np.asarray(array.reshape(-1, array.shape[-1]), np.float64)


def _beside(
    build: Builder, product: Product, path: LowRank, site: _Site, _opset: int
) -> onnx_ir.Value:
    """Return ŷ + (x̂ Aᵀ) Bᵀ."""
    name = site.old.weight.name or "weight"
    plain = _again(build, product, product.node.inputs)
    right, left = (
        build.constant(np.ascontiguousarray(array.T, np.float32), f"{name}.{what}")
        for array, what in ((path.right, "right"), (path.left, "left"))
    )
    small = build.op("MatMul", product.x, right)
    return build.op("Add", plain, build.op("MatMul", small, left))


def _folded(
    build: Builder, product: Product, path: LowRank, site: _Site, opset: int
) -> onnx_ir.Value:
    """Return the product with the path in its weight, which is decoded when the runtime loads."""
    node = product.node
    turned = not attribute_int(node, "transB", 0)
    added = spell(
        build, path, f"{site.old.weight.name or 'weight'}.path", transposed=turned, opset=opset
    )
    weight = build.op("Add", node.inputs[1], added)
    return _again(build, product, [node.inputs[0], weight, *node.inputs[2:]])


def _again(
    build: Builder, product: Product, inputs: Sequence[onnx_ir.Value | None]
) -> onnx_ir.Value:
    node = product.node
    return build.op(node.op_type, *inputs, domain=node.domain, attributes=dict(node.attributes))
