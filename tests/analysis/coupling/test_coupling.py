"""Everything that couples channels: what goes together, and that removing it equals zeros in its place."""

from collections import Counter

import pytest
from pruning import GRAPHS, feeds_of, graph, holds, network

from whet.analysis.coupling import Coupled, Coupling, Kind
from whet.ir.bindings import Bindings
from whet.passes.workbench import Context

EXPECTED = {
    "residual": {"channels": 16, "stream dimensions": 24},
    "shares": {"stream dimensions": 12},
    "padded shortcut": {"stream dimensions": 32},
    "dense": {"channels": 28},
    "inverted residual": {"channels": 40},
    "grouped": {"channels": 16},
    "shuffle": {"channels": 16},
    "group norm": {"channels": 12},
    "packed attention": {"heads": 4, "head dimensions": 8},
    "shared keys": {"heads": 6, "head dimensions": 16},
    "repeated keys": {"heads": 6, "head dimensions": 16},
    "stream": {"hidden units": 32, "stream dimensions": 24},
    "experts": {"hidden units": 16},
    "rotated": {"heads": 4, "head dimensions": 4},
}


@pytest.mark.parametrize("name", GRAPHS)
def test_groups(name: str) -> None:
    """Count groups by kind."""
    coupled = Coupling().measure(graph(name), Context(Bindings()))
    found: Counter[str] = Counter()
    for family in coupled.families:
        found[family.kind.value] += len(family.groups)
    assert dict(found) == EXPECTED[name]


@pytest.mark.parametrize("name", GRAPHS)
def test_removal_equals_zeros(name: str) -> None:
    """Remove a tenth, four tenths, seven tenths of every family."""
    for seed, ratio in enumerate((0.1, 0.4, 0.7)):
        left = holds(graph(name, seed), ratio, seed)
        assert left < 1 or ratio < 0.4


def test_layer_normalization_holds_its_channels() -> None:
    """Mean and variance would be others; the reason says so."""
    model = network(
        "(float[N,4] x) => (float[N,3] y) { a = MatMul(x, w0) n = LayerNormalization(a, g) y = MatMul(n, w1) }",
        {"w0": (4, 8), "g": (8,), "w1": (8, 3)},
    )
    coupled = Coupled(model.graph)
    assert not coupled.families
    assert any("takes mean and variance" in reason for reason in coupled.kept)


def test_unknown_operator_holds_its_channels() -> None:
    """What is not understood is left alone, with its name."""
    model = network(
        "(float[N,4] x) => (float[N,3] y) { a = MatMul(x, w0) b = Det2(a) y = MatMul(a, w1) }".replace(
            "b = Det2(a)", "b = NonZero(a)"
        ),
        {"w0": (4, 8), "w1": (8, 3)},
    )
    assert any("NonZero 'NonZero_1' is not understood" in r for r in Coupled(model.graph).kept)


def test_equal_vectors_stored_once_do_not_couple() -> None:
    """One bias of zeros, read by two layers, is two places."""
    model = network(
        """(float[N,4] x) => (float[N,3] y) {
            a = MatMul(x, w0) b = Add(a, t) c = Relu(b) d = MatMul(c, w1) e = Add(d, t) y = MatMul(e, w2) }""",
        {"w0": (4, 8), "w1": (8, 8), "w2": (8, 3), "t": (8,)},
    )
    families = Coupled(model.graph).families
    assert [(f.kind, len(f.groups)) for f in families] == [(Kind.HIDDEN_UNITS, 8)] * 2
    assert families[0].groups[0].size == 4 + 1 + 8
    assert families[0].name == "MatMul_0 hidden units"


def test_emptied_axes_are_told() -> None:
    """All channels of a layer cannot go."""
    coupled = Coupled(graph("experts").graph)
    atoms = {group.atom for family in coupled.families for group in family.groups}
    assert coupled.emptied(atoms)
    assert not coupled.emptied(set(sorted(atoms)[1:]))
    assert feeds_of(graph("experts"))["x"].shape == (2, 8)
