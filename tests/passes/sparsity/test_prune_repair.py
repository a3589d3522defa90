"""Layers are fitted where that helps, and left where it does not."""

import numpy as np
import onnx_ir
from pruning import feeds_of, network

from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.passes.sparsity.prune_repair import Pruned, repair
from whet.passes.sparsity.prune_structure import PruneStructure
from whet.passes.workbench import Context, Workbench

DENSE = "(float[N,6] x) => (float[N,5] y) { a = MatMul(x, w0) b = Add(a, t) y = Relu(b) }"
FILTER = (
    "(float[N,4,6,6] x) => (float[N,5,3,3] y) { y = Conv<pads=[1,1,1,1],strides=[2,2]>(x, w0) }"
)


def repaired(text: str, shape: tuple[int, ...], *, broken: bool) -> tuple[float, float, Workbench]:
    """Spoil a layer's weight, repair it, and return the errors of the outputs before and after."""
    weights = {"w0": shape, **({"t": (5,)} if "Add" in text else {})}
    dense, model = network(text, weights), network(text, weights)
    value = model.graph.initializers["w0"]
    array = value.const_value.numpy().copy()
    if broken:
        array += np.float32(0.5)
    value.const_value = onnx_ir.tensor(array, name="w0")
    data = [feeds_of(model, seed) for seed in range(40)]
    work = Workbench(model, PruneStructure(), Context(Bindings(({"N": 2},)), data[:32], data[32:]))
    node = next(iter(model.graph))
    before = _error(dense, model)
    repair([Pruned(node, node.outputs[0].name or "", None)], dense, work)
    return before, _error(dense, model), work


def _error(dense: onnx_ir.Model, model: onnx_ir.Model) -> float:
    feeds = feeds_of(dense, 77)
    one, two = (Executor(onnx_ir.to_proto(m)).run(feeds)[0] for m in (dense, model))
    return float(np.linalg.norm(one - two) / np.linalg.norm(one))


def test_products_and_filters_are_fitted() -> None:
    """What was spoiled comes back, in the weight and in the bias behind it."""
    for text, shape in ((DENSE, (6, 5)), (FILTER, (5, 4, 3, 3))):
        before, after, work = repaired(text, shape, broken=True)
        assert after < 0.02 * before
        assert work.coverage.proofs["error on data held out"] == 1


def test_what_is_right_stays() -> None:
    """Without an error nothing is fitted, and nothing is said."""
    before, after, work = repaired(DENSE, (6, 5), broken=False)
    assert before == after == 0
    assert not work.coverage.changed
    assert not work.coverage.declined


def test_a_grouped_filter_is_left() -> None:
    """The reason is recorded."""
    text = "(float[N,4,6,6] x) => (float[N,4,6,6] y) { y = Conv<group=4>(x, w0) }"
    model = network(text, {"w0": (4, 1, 1, 1)})
    data = [feeds_of(model)]
    work = Workbench(model, PruneStructure(), Context(Bindings(({"N": 2},)), data))
    node = next(iter(model.graph))
    assert not repair([Pruned(node, "y", None)], model.clone(), work)
    assert "grouped convolution" in work.coverage.declined["Conv_0"]
