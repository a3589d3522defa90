"""Counts, sizes and places follow when indices go."""

import numpy as np
import onnx_ir
import pytest
from pruning import feeds_of, graph, network

from whet.analysis.coupling import Coupled
from whet.ir.execute import Executor
from whet.ir.values import attribute_float, attribute_int, constant_ints
from whet.passes.proof import compare
from whet.passes.proposal import FreshNames
from whet.passes.sparsity.prune_copying import Masking, Shrinking, replacement
from whet.passes.sparsity.prune_regions import find_regions


def without(model: onnx_ir.Model, kind: str, *which: int, size: int = 0) -> onnx_ir.Model:
    """Remove groups of the first family of a kind and size, after checking them against zeros in their place."""
    made = []
    for copier in (Masking, Shrinking):
        copy = model.clone()
        coupled = Coupled(copy.graph)
        family = next(
            f for f in coupled.families if f.kind.value == kind and size in (0, len(f.groups))
        )
        gone = {family.groups[k].atom for k in which}
        fresh = FreshNames(copy)
        for region in find_regions(coupled, gone, copy.graph):
            replacement(region, copier(coupled, gone, region, fresh)).commit("test")
        made.append(copy)
    feeds = feeds_of(model)
    masked, small = (Executor(onnx_ir.to_proto(m)).run(feeds)[0] for m in made)
    assert compare(masked, small) < 1e-5
    return made[1]


def node(model: onnx_ir.Model, op_type: str) -> onnx_ir.Node:
    """Return the first node of a type."""
    return next(n for n in model.graph if n.op_type == op_type)


def test_attention_counts_heads() -> None:
    """Two of eight query heads stay for each of two key heads, and then one key head with its queries."""
    model = without(graph("shared keys"), "heads", 0)
    found = node(model, "Attention")
    assert attribute_int(found, "q_num_heads", 0) in (4, 6)
    assert attribute_int(found, "kv_num_heads", 0) in (1, 2)


def test_attention_keeps_its_scale() -> None:
    """One over the root of the head size as it was."""
    model = without(graph("packed attention"), "head dimensions", 1, 2)
    assert attribute_float(node(model, "Attention"), "scale", 0.0) == pytest.approx(8**-0.5)
    assert constant_ints(node(model, "Reshape").inputs[1]) == (0, 0, 3, 4, 6)


def test_root_mean_square_is_put_right() -> None:
    """Six of 24 dimensions go: the scale grows by the root of 4/3 and so does what is added under the root."""
    model = without(graph("stream"), "stream dimensions", *range(6))
    found = node(model, "RMSNormalization")
    assert attribute_float(found, "epsilon", 0.0) == pytest.approx(1e-5 * 24 / 18)
    old = graph("stream").graph.initializers["g0"].const_value.numpy()[6:]
    new = found.inputs[1].const_value.numpy()
    np.testing.assert_allclose(new, old * (24 / 18) ** 0.5, rtol=1e-6)


def test_groups_are_counted() -> None:
    """Grouped and depthwise filters, and group normalization."""
    model = without(graph("inverted residual"), "channels", 3, 4, size=32)
    assert (
        attribute_int(next(n for n in model.graph if n.attributes.get("group")), "group", 1) == 30
    )
    model = without(graph("group norm"), "channels", 1)
    assert attribute_int(node(model, "GroupNormalization"), "num_groups", 0) == 3


def test_pads_and_parts_are_counted() -> None:
    """Room around a shortcut shrinks on its side; parts of a split have sizes of their own."""
    model = without(graph("padded shortcut"), "stream dimensions", 0, 1, 15)
    assert constant_ints(node(model, "Pad").inputs[1]) == (0, 6, 0, 0, 0, 7, 0, 0)
    model = without(graph("shuffle"), "channels", 2)
    sizes = constant_ints(node(model, "Split").inputs[1])
    assert sizes is not None
    assert sum(sizes) in (14, 15)


SLICED = """(float[N,6] x) => (float[N,3] y)
    <int64[1] s = {%d}, int64[1] e = {%d}, int64[1] a = {1}, int64[1] t = {%d}> {
        h = MatMul(x, w0)
        c = Slice(h, s, e, a, t)
        y = MatMul(c, w1)
    }"""


@pytest.mark.parametrize(("cut", "count"), [((2, 10, 1), 8), ((0, 12, 2), 6), ((11, -13, -1), 12)])
@pytest.mark.parametrize("which", [(0,), (1, 2), (0, 3)])
def test_slices_take_the_same(
    cut: tuple[int, int, int], count: int, which: tuple[int, ...]
) -> None:
    """Whatever the step is, and where none is left, one by one."""
    model = network(SLICED % cut, {"w0": (6, 12), "w1": (count, 3)})
    family = max(Coupled(model.graph).families, key=lambda f: len(f.groups[0].slices))
    assert len(family.groups) == count
    without(model, "hidden units", *which)


def test_computed_shapes_are_corrected() -> None:
    """A shape that is put together at run time keeps what it computes and gets the new number."""
    model = network(
        """(float[N,T,6] x) => (float[N,T,3] y)
        <int64[1] k = {0}, int64[1] one = {1}, int64[2] apart = {4,8}, int64[1] whole = {32}> {
            h = MatMul(x, w0)
            s = Shape(x)
            n = Gather(s, k)
            t = Gather(s, one)
            r = Concat<axis=0>(n, t, apart)
            p = Reshape(h, r)
            u = Transpose<perm=[0,2,1,3]>(p)
            v = Relu(u)
            w = Transpose<perm=[0,2,1,3]>(v)
            q = Concat<axis=0>(n, t, whole)
            f = Reshape(w, q)
            y = MatMul(f, w1)
        }""",
        {"w0": (6, 32), "w1": (32, 3)},
    )
    kinds = {f.kind.value for f in Coupled(model.graph).families}
    for kind in kinds:
        without(model, kind, 0)
    assert kinds
