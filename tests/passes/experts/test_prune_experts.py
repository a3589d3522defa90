import importlib.util

import numpy as np
import pytest
from moe import apply, context, error, reasons
from operators import operator_model

from whet.errors import UsageError
from whet.ir.values import weight_bytes
from whet.ir.verify import verify
from whet.passes.experts.prune_experts import PruneExperts
from whet.solve.variants import change, take_apart
from whet.tools.bench.experts_model import moe_model, random_weights


def with_dead_units(units: int = 16) -> dict[str, np.ndarray]:
    """Weights of which a quarter of each expert's units, other ones in each, write next to nothing."""
    weights = random_weights(units=units, biases=True)
    rng = np.random.default_rng(5)
    for expert in range(4):
        weights["dn"][expert][:, rng.permutation(units)[: units // 4]] *= 1e-4
    return weights


@pytest.mark.parametrize("score", ["second-order", "activation"])
@pytest.mark.parametrize("router", ["softmax", "sigmoid"])
def test_each_expert_loses_its_own_units(score: str, router: str) -> None:
    weights = with_dead_units() | {"cr": np.zeros(4, np.float32)}
    before, model = moe_model(weights, router=router), moe_model(weights, router=router)
    coverage = apply(model, PruneExperts(score=score, multiple=1))
    verify(model)
    assert coverage.changed == 1, coverage
    assert coverage.proofs["as with zeros"] == 1
    assert error(before, model) < 1e-3
    shapes = {tuple(v.const_value.shape) for v in model.graph.initializers.values()}
    assert {(4, 24, 8), (4, 8, 12), (4, 24), (4, 8)} <= shapes
    (row,) = coverage.damage
    assert row.bytes_before - row.bytes_after == weight_bytes(before) - weight_bytes(model)
    said = "second order" if score == "second-order" else "by activations and weights"
    assert row.format.startswith(f"12 of 16 units of each expert, {said}")
    assert apply(model, PruneExperts(multiple=1)).changed == 0


def test_two_weights_for_gate_and_up() -> None:
    model = moe_model(random_weights(units=16), fused=False)
    coverage = apply(model, PruneExperts(ratio=0.5, limit=9))
    assert coverage.changed == 1, coverage
    shapes = {tuple(v.const_value.shape) for v in model.graph.initializers.values()}
    assert {(4, 8, 8)} <= shapes


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "identity", "swiglu"])
def test_the_operator_is_pruned(activation: str) -> None:
    model = operator_model(activation, units=8)
    before = operator_model(activation, units=8)
    coverage = apply(model, PruneExperts(ratio=0.25, multiple=1, limit=9))
    verify(model)
    assert coverage.changed == 1, coverage
    assert "by activations and weights" in coverage.damage[0].format
    assert 0 < error(before, model) < 1


def test_without_torch_activations_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        "whet.passes.experts.prune_experts.importlib.util.find_spec",
        lambda name: None if name == "torch" else real(name),
    )
    coverage = apply(moe_model(with_dead_units()), PruneExperts(multiple=1))
    assert "by activations and weights" in coverage.damage[0].format


def test_multiples_and_reasons() -> None:
    model = moe_model(random_weights(units=16))
    assert "leaves 16, a multiple of 8" in reasons(apply(model, PruneExperts(ratio=0.3)))
    assert "the limit is 0.0001" in reasons(apply(model, PruneExperts(ratio=0.5, limit=1e-4)))
    assert "needs calibration data" in reasons(apply(model, PruneExperts(), data=False))
    assert apply(model, PruneExperts(ratio=0.5, score="random", limit=9)).changed == 1
    with pytest.raises(UsageError, match="'multiple' of pass 'prune-experts' is 0"):
        PruneExperts(multiple=0)


def test_categorical_outputs() -> None:
    weights = random_weights(units=16, inputs=8, outputs=5)
    coverage = apply(moe_model(weights), PruneExperts(ratio=0.5, likelihood="categorical", limit=9))
    assert coverage.changed == 1, coverage


def test_a_search_can_take_it() -> None:
    model = moe_model(random_weights(units=16))
    step = PruneExperts(ratio=0.5, limit=9)
    variant = take_apart(model, step, change(model, step, context()))
    pieces = [piece for group in variant.pieces.values() for piece in group]
    assert len(pieces) == 1
