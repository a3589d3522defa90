"""Regions: what changes together, with borders that stay."""

from pruning import GRAPHS, graph

from whet.analysis.coupling import Coupled
from whet.passes.sparsity.prune_regions import find_regions


def test_borders_keep_their_shape() -> None:
    """No result of a region loses anything, and no node is in two regions."""
    for name in GRAPHS:
        model = graph(name)
        coupled = Coupled(model.graph)
        gone = {family.groups[0].atom for family in coupled.families}
        regions = find_regions(coupled, gone, model.graph)
        nodes = [node for region in regions for node in region.nodes]
        assert len(nodes) == len(set(nodes))
        for region in regions:
            for value in region.results:
                left = coupled.remaining(coupled.axes(value), gone)
                assert all(kept is None for kept in left)
