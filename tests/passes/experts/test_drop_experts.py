import numpy as np
import onnx_ir
import pytest
from moe import apply, error, reasons, run
from operators import operator_model

from whet.errors import UsageError
from whet.ir.values import weight_bytes
from whet.ir.verify import verify
from whet.passes.experts.drop_experts import DropExperts
from whet.passes.experts.merge_experts import MergeExperts
from whet.tools.bench.experts_model import moe_model, random_weights


def softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)


def reference(
    weights: dict[str, np.ndarray], rows: np.ndarray, kept: list[int], k: int
) -> np.ndarray:
    """The mixture in plain words, the experts that went masked."""
    found = rows.astype(np.float64).copy()
    logits = rows @ weights["wr"].T.astype(np.float64)
    logits[:, [e for e in range(logits.shape[1]) if e not in kept]] = -np.inf
    for token, scores in enumerate(softmax(logits)):
        chosen = np.argsort(-scores)[:k]
        for e in chosen:
            gate, up = np.split(weights["gu"][e] @ rows[token], 2)
            hidden = gate / (1 + np.exp(-gate)) * up
            found[token] += scores[e] / scores[chosen].sum() * (weights["dn"][e] @ hidden)
    return found


@pytest.mark.parametrize("router", ["softmax", "late", "sigmoid"])
@pytest.mark.parametrize("fused", [True, False])
def test_experts_go_with_their_rows_of_the_router(router: str, fused: bool) -> None:
    weights = random_weights(biases=fused) | {"cr": np.linspace(0, 0.3, 4, dtype=np.float32)}
    model = moe_model(weights, router=router, fused=fused)
    before = weight_bytes(model)
    coverage = apply(model, DropExperts(count=1, limit=9))
    verify(model)
    assert (coverage.matched, coverage.changed) == (1, 1), coverage
    assert coverage.proofs["as with logits of minus infinity"] == 1
    assert {
        v.const_value.shape[0] for v in model.graph.initializers.values() if v.const_value.size > 64
    } == {3}
    (row,) = coverage.damage
    assert row.format.startswith("3 of 4 experts")
    assert row.bytes_after * 4 == row.bytes_before * 3
    assert before - weight_bytes(model) >= row.bytes_before - row.bytes_after > 0
    assert row.measured_on == "held-out data"
    assert apply(model, DropExperts(count=1, limit=9)).changed == 0


def test_what_is_left_is_the_masked_mixture() -> None:
    weights = random_weights(experts=5)
    model = moe_model(weights)
    apply(model, DropExperts(count=2, limit=9))
    data = np.random.default_rng(4).standard_normal((40, 8)).astype(np.float32)
    stacks = [v.const_value.numpy() for v in model.graph.initializers.values()]
    (left,) = [a for a in stacks if a.shape == (3, 8, 16)]
    kept = [e for e in range(5) if any(np.array_equal(weights["dn"][e], one) for one in left)]
    assert len(kept) == 3
    assert np.allclose(run(model), reference(weights, data, kept, 2), atol=1e-5)


def test_one_of_two_that_are_alike_goes() -> None:
    weights = random_weights(experts=5, seed=3)
    for name in ("wr", "gu", "dn"):
        weights[name][3] = weights[name][1] * (1.001 if name == "wr" else 1)
    model = moe_model(weights, k=1)
    before = moe_model(weights, k=1)
    coverage = apply(model, DropExperts(count=1))
    assert coverage.changed == 1, coverage
    assert error(before, model) < 1e-3


def test_the_operator_loses_experts() -> None:
    model = operator_model(experts=8)
    coverage = apply(model, DropExperts(ratio=0.5, limit=9))
    verify(model)
    assert coverage.changed == 1, coverage
    shapes = {n: tuple(v.const_value.shape) for n, v in model.graph.initializers.items()}
    assert (8, 4) in shapes.values()
    assert {s[0] for s in shapes.values()} == {4, 8}
    assert np.isfinite(run(model)).all()


def test_too_few_would_be_left() -> None:
    with pytest.raises(UsageError, match="picks 2 experts for every token, without 3 of 4 only 1"):
        apply(moe_model(random_weights()), DropExperts(count=3))
    coverage = apply(moe_model(random_weights()), DropExperts(ratio=0.8))
    assert "picks 2 experts for every token, without 3 of 4 only 1 are left" in reasons(coverage)
    coverage = apply(moe_model(random_weights()), DropExperts(ratio=0.1))
    assert "a share of 0.1 of 4 experts is none" in reasons(coverage)


def test_merged_experts_can_go_too() -> None:
    model = moe_model(random_weights(experts=6))
    assert apply(model, MergeExperts(left=4, limit=9)).changed == 1
    before = onnx_ir.from_proto(onnx_ir.to_proto(model))
    coverage = apply(model, DropExperts(count=2, limit=9))
    verify(model)
    assert coverage.changed == 1, coverage
    assert 0 < error(before, model) < 2


@pytest.mark.parametrize("choice", ["frequency", "random"])
def test_other_choices(choice: str) -> None:
    assert apply(moe_model(random_weights()), DropExperts(choice=choice, limit=9)).changed == 1


def test_limits_data_and_options() -> None:
    model = moe_model(random_weights())
    text = reasons(apply(model, DropExperts(limit=1e-4)))
    assert "3 of 4 experts: the outputs change by" in text
    assert "the limit is 0.0001" in text
    assert "needs calibration data" in reasons(apply(model, DropExperts(), data=False))
    assert "as the user wishes" in reasons(apply(model, DropExperts(skip=("TopK*",))))
    assert apply(model, DropExperts(only=("Add*",))).matched == 0
    for wrong in ({"ratio": 1.0}, {"count": -1}, {"limit": 0.0}, {"choice": "luck"}):
        with pytest.raises(UsageError, match=f"'{next(iter(wrong))}' of pass 'drop-experts' is"):
            DropExperts(**wrong)
