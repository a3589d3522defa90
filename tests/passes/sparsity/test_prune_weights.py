"""What layers cost, and along which axis they read."""

import numpy as np
from fake_prices import FakePrices
from pruning import graph

from whet.analysis.coupling import Coupled
from whet.ir.bindings import Bindings
from whet.passes.sparsity.prune_structure import PruneStructure
from whet.passes.sparsity.prune_weights import costs, layer_weights, reading_axis
from whet.passes.workbench import Context, Workbench

BINDINGS = Bindings(({"N": 2, "T": 5},))


def bench(name: str, prices: FakePrices | None = None) -> tuple[Coupled, Workbench]:
    """Return what is coupled, and a workbench."""
    model = graph(name)
    context = Context(BINDINGS, prices=prices)
    return Coupled(model.graph), Workbench(model, PruneStructure(), context)


def test_multiplications_count_places() -> None:
    """A filter is used at every place, a matrix in every row; experts each in their own."""
    coupled, work = bench("inverted residual")
    found = {s.readers[0][0].name: c for s, c in costs(coupled, work, "macs").of.items()}
    assert found["Conv_0"] == 2 * 36 * 32 * 8
    assert found["Conv_2"] == 2 * 36 * 32 * 9
    assert found["Conv_4"] == 2 * 32 * 8
    coupled, work = bench("shared keys")
    found = {s.readers[0][0].name: c for s, c in costs(coupled, work, "macs").of.items()}
    assert found["MatMul_0"] == 2 * 5 * 12 * 64


def test_milliseconds_are_measured_by_layer() -> None:
    """Every layer is asked for at its own shape; and at the shape that is left."""
    prices = FakePrices(lambda work, _: 3.0 if " x [32, 8, 1, 1]" in work else 1.0)
    coupled, work = bench("inverted residual", prices)
    cost = costs(coupled, work, "milliseconds")
    assert cost.whole == 2 * 3.0 + 3 * 1.0
    assert prices.asked[0] == "Conv [2, 8, 6, 6] x [32, 8, 1, 1]"
    family = max(coupled.families, key=lambda f: len(f.groups))
    half = [group.atom for group in family.groups[:16]]
    assert cost.left(coupled, half) == 5 * 1.0
    assert "Conv [2, 16, 6, 6] x [16, 1, 3, 3] group=16" in " ".join(prices.asked)


def test_reading_axes() -> None:
    """A filter reads along its second axis, a matrix along its first, a turned one along its second."""
    coupled = Coupled(graph("residual").graph)
    read = {
        (part.slot.readers[0][0].name, part.axis)
        for family in coupled.families
        for group in family.groups
        for part in group.slices
        if reading_axis(part)
    }
    assert read == {("Conv_2", 1), ("Conv_4", 1), ("Gemm_9", 1)}
    assert len(layer_weights(coupled)) == 4
    assert np.isclose(sum(costs(*bench("residual"), "parameters").of.values()), 4392)
