import numpy as np
import pytest
from moe import apply, error, reasons
from operators import operator_model

from whet.errors import UsageError
from whet.ir.values import weight_bytes
from whet.ir.verify import verify
from whet.passes.experts.merge_experts import MergeExperts
from whet.passes.experts.prune_experts import PruneExperts
from whet.tools.bench.experts_model import moe_model, random_weights


def shuffled(seed: int = 0, *, biases: bool = False) -> dict[str, np.ndarray]:
    """Weights in which expert 3 is expert 1 with its units in another order, and chosen least."""
    weights = random_weights(experts=4, units=12, seed=seed, biases=biases)
    order = np.random.default_rng(seed).permutation(12)
    weights["gu"][3] = weights["gu"][1][np.concatenate([order, order + 12])]
    weights["dn"][3] = weights["dn"][1][:, order]
    if biases:
        weights["bg"][3] = weights["bg"][1][np.concatenate([order, order + 12])]
        weights["bd"][3] = weights["bd"][1]
    weights["wr"][3] = weights["wr"][1] * 1.01
    weights["br"] = np.array([0, 0, 0, -0.5], np.float32)
    return weights


@pytest.mark.parametrize("biases", [False, True])
def test_the_same_expert_in_another_order_is_merged_without_loss(biases: bool) -> None:
    weights = shuffled(biases=biases)
    before, model = moe_model(weights), moe_model(weights)
    coverage = apply(model, MergeExperts(left=3))
    verify(model)
    assert coverage.changed == 1, coverage
    assert coverage.proofs["as with repeated weights"] == 1
    assert error(before, model) < 1e-6
    assert weight_bytes(model) < weight_bytes(before)
    assert coverage.damage[0].format.startswith("4 experts on 3 weights")
    again = apply(model, MergeExperts(left=3))
    assert "was here already" in reasons(again)


def test_alignment_is_what_makes_it_so() -> None:
    weights = shuffled()
    before, model = moe_model(weights), moe_model(weights)
    assert apply(model, MergeExperts(left=3, align=False, limit=9)).changed == 1
    assert error(before, model) > 0.01


@pytest.mark.parametrize("router", ["late", "sigmoid"])
def test_routers_keep_their_weights(router: str) -> None:
    weights = shuffled() | {"cr": np.zeros(4, np.float32)}
    before, model = moe_model(weights, router=router), moe_model(weights, router=router)
    assert apply(model, MergeExperts(left=3)).changed == 1
    assert error(before, model) < 1e-6


def test_merged_experts_can_be_pruned() -> None:
    model = moe_model(random_weights(experts=4, units=16))
    assert apply(model, MergeExperts(left=2, limit=9)).changed == 1
    coverage = apply(model, PruneExperts(ratio=0.5, limit=9))
    verify(model)
    assert coverage.changed == 1, coverage


def test_reasons() -> None:
    assert "experts cannot share weights in it" in reasons(apply(operator_model(), MergeExperts()))
    model = moe_model(random_weights())
    assert "4 of 4 experts would be left" in reasons(apply(model, MergeExperts(left=4)))
    assert "the limit is 0.0001" in reasons(apply(model, MergeExperts(limit=1e-4)))
    assert "needs calibration data" in reasons(apply(model, MergeExperts(), data=False))
    assert apply(model, MergeExperts(choice="random", limit=9)).changed == 1
    with pytest.raises(UsageError, match="'left' of pass 'merge-experts' is -1"):
        MergeExperts(left=-1)
