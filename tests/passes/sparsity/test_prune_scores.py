"""How much groups matter."""

import numpy as np
import onnx_ir
import pytest
from pruning import feeds_of, graph, network

from whet.analysis.coupling import Coupled
from whet.errors import Mismatch
from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.passes.sparsity.prune_scores import Score, scores
from whet.passes.sparsity.prune_structure import PruneStructure
from whet.passes.workbench import Context, Workbench

TEXT = "(float[N,6] x) => (float[N,3] y) { a = MatMul(x, w0) b = Relu(a) y = MatMul(b, w1) }"


def judged(model: onnx_ir.Model, kind: Score, batches: int = 8) -> dict[int, float]:
    """Return the score of every hidden unit."""
    data = [feeds_of(model, seed) for seed in range(batches)]
    context = Context(Bindings(({"N": 2},)), calibration=data)
    work = Workbench(model, PruneStructure(), context)
    coupled = Coupled(model.graph)
    found = scores(kind, coupled.families, coupled, work)
    groups = [group for family in coupled.families for group in family.groups]
    return {group.slices[0].indices[0]: found[group.atom] for group in groups}


def mlp() -> onnx_ir.Model:
    """Return two layers with eight hidden units between them."""
    return network(TEXT, {"w0": (6, 8), "w1": (8, 3)})


def test_magnitude_is_the_share_of_energy() -> None:
    """What all groups have adds up to one per weight."""
    found = judged(mlp(), "magnitude")
    assert len(found) == 8
    assert np.isclose(sum(found.values()), 2.0)


def test_activation_is_what_the_reader_gets() -> None:
    """E[x²] ||w||², as a share of all."""
    model = mlp()
    found = judged(model, "activation")
    w0, w1 = (model.graph.initializers[n].const_value.numpy() for n in ("w0", "w1"))
    x = np.concatenate([feeds_of(model, seed)["x"] for seed in range(8)])
    energy = np.square(np.maximum(x @ w0, 0)).mean(0) * np.square(w1).sum(1)
    np.testing.assert_allclose([found[k] for k in range(8)], energy / energy.sum(), rtol=1e-4)


def test_taylor_follows_what_removal_costs() -> None:
    """The squared slope ranks hidden units as their removal does."""
    model = graph("experts")
    data = [feeds_of(model, seed) for seed in range(24)]
    context = Context(Bindings(({"N": 2},)), calibration=data)
    coupled = Coupled(model.graph)
    found = scores("taylor", coupled.families, coupled, Workbench(model, PruneStructure(), context))
    before = [Executor(onnx_ir.to_proto(model)).run(feeds)[0] for feeds in data]
    lost = []
    groups = coupled.families[0].groups
    for group in groups:
        other = graph("experts")
        for part in group.slices:
            value = other.graph.initializers[part.slot.value.name or ""]
            array = value.const_value.numpy().copy()
            np.moveaxis(array, part.axis, 0)[list(part.indices)] = 0
            value.const_value = onnx_ir.tensor(array, name=value.name)
        run = Executor(onnx_ir.to_proto(other))
        after = [run.run(feeds)[0] for feeds in data]
        lost.append(sum(float(np.square(a - b).sum()) for a, b in zip(after, before, strict=True)))
    ranks = [np.argsort(np.argsort(s)) for s in ([found[g.atom] for g in groups], lost)]
    assert np.corrcoef(*ranks)[0, 1] > 0.5


def test_data_is_needed() -> None:
    """Weights alone say nothing about activations."""
    for kind in ("activation", "taylor"):
        with pytest.raises(Mismatch, match="needs calibration data"):
            judged(mlp(), kind, batches=0)
    assert judged(mlp(), "random") == judged(mlp(), "random")
