import numpy as np
import pytest
from operators import operator_model

from whet.analysis.coupling import Coupled
from whet.analysis.experts import find_experts
from whet.analysis.experts.units import find_units
from whet.errors import Mismatch
from whet.tools.bench.experts_model import moe_model, random_weights


@pytest.mark.parametrize("fused", [True, False])
def test_units_of_a_plain_graph_are_found_without_names(fused: bool) -> None:
    model = moe_model(random_weights(units=6), fused=fused)
    (experts,) = find_experts(model.graph).experts
    units = find_units(experts, Coupled(model.graph))
    assert units.count == len(units.atoms) == 6
    found = {v.name: (axis, p.tolist()) for v, (axis, p) in units.places.items()}
    alone = [[j] for j in range(6)]
    if fused:
        assert found == {"gu": (1, [[j, j + 6] for j in range(6)]), "dn": (2, alone)}
    else:
        assert found == {"ga": (1, alone), "up": (1, alone), "dn": (2, alone)}


def test_biases_of_units_belong_to_them() -> None:
    model = moe_model(random_weights(units=6, biases=True))
    (experts,) = find_experts(model.graph).experts
    places = {v.name: p for v, p in find_units(experts, Coupled(model.graph)).places.items()}
    assert set(places) == {"gu", "bg", "dn"}
    assert places["bg"][0] == 1


@pytest.mark.parametrize(("activation", "first"), [("relu", [0, 1, 2]), ("swiglu", [0, 2, 4])])
def test_units_of_the_operator(activation: str, first: list[int]) -> None:
    model = operator_model(activation=activation, units=3)
    (experts,) = find_experts(model.graph).experts
    units = find_units(experts, None)
    found = {v.name: (axis, p[:, 0].tolist()) for v, (axis, p) in units.places.items()}
    assert found == {"w1": (1, first), "b1": (1, first), "w2": (2, [0, 1, 2])}
    assert units.count == 3


def test_units_that_others_share_are_declined() -> None:
    weights = random_weights(units=8)
    model = moe_model(weights)
    (experts,) = find_experts(model.graph).experts
    coupled = Coupled(model.graph)
    coupled.families.clear()
    with pytest.raises(Mismatch, match="0 kinds of hidden units are only the experts' own"):
        find_units(experts, coupled)
    assert np.isfinite(weights["gu"]).all()
