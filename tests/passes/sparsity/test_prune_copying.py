"""Copies of regions: with zeros, and without."""

import numpy as np
from pruning import graph

from whet.analysis.coupling import Coupled
from whet.ir.values import constant
from whet.passes.proposal import FreshNames
from whet.passes.sparsity.prune_copying import Masking, Shrinking, replacement
from whet.passes.sparsity.prune_regions import find_regions


def test_zeros_and_removal_keep_the_same_numbers() -> None:
    """What is left of a masked weight is the smaller one; divisors and variances are not masked."""
    model = graph("dense")
    coupled = Coupled(model.graph)
    gone = {family.groups[1].atom for family in coupled.families}
    (region,) = find_regions(coupled, gone, model.graph)
    fresh = FreshNames(model)
    masked, small = (kind(coupled, gone, region, fresh) for kind in (Masking, Shrinking))
    for one, two in zip(masked.build.nodes, small.build.nodes, strict=True):
        assert one.op_type == two.op_type
        for place, (zeros, less) in enumerate(zip(one.inputs, two.inputs, strict=True)):
            a, b = constant(zeros), constant(less)
            if a is not None and b is not None and a.shape != b.shape:
                silenced = one.op_type != "BatchNormalization" or place < 3
                assert np.isclose(np.abs(a).sum(), np.abs(b).sum()) == silenced
    assert [v.name for v in region.results] == ["y"]


def test_regions_are_apart() -> None:
    """Two layers that share nothing change on their own, each with the values that others read."""
    model = graph("residual")
    coupled = Coupled(model.graph)
    channels = next(f for f in coupled.families if f.kind.value == "channels")
    (region,) = find_regions(coupled, {channels.groups[0].atom}, model.graph)
    assert [n.op_type for n in region.nodes] == ["Conv", "Relu", "Conv", "Conv"]
    assert sorted(str(v.name) for v in region.results) == ["b", "c"]
    assert not find_regions(coupled, (), model.graph)


def test_a_comparison_is_not_a_change() -> None:
    """Nothing in the graph is touched before a proposal is committed."""
    model = graph("stream")
    before = [(n.op_type, [v and v.name for v in n.inputs]) for n in model.graph]
    coupled = Coupled(model.graph)
    gone = {coupled.families[0].groups[0].atom}
    (region,) = find_regions(coupled, gone, model.graph)
    fresh = FreshNames(model)
    masked, small = (kind(coupled, gone, region, fresh) for kind in (Masking, Shrinking))
    compared = replacement(region, small, masked)
    assert compared.home is model.graph
    assert all(node.graph is None for node in (*compared.old, *compared.new))
    assert before == [(n.op_type, [v and v.name for v in n.inputs]) for n in model.graph]
