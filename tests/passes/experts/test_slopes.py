import numpy as np
from moe import context

from whet.analysis.experts import find_experts
from whet.passes.experts.algorithms.atoms import second_order
from whet.passes.experts.behaviour import inner_values
from whet.passes.experts.prune_experts import PruneExperts
from whet.passes.experts.slopes import slope_products
from whet.passes.workbench import Workbench
from whet.tools.bench.experts_model import moe_model, random_weights


def test_scores_are_the_loss_without_a_unit() -> None:
    """Second order is exact where the outputs are linear in the units: y = x + W h."""
    weights = random_weights(experts=3, units=6)
    model = moe_model(weights)
    (experts,) = find_experts(model.graph).experts
    work = Workbench(model, PruneExperts(), context(data=True))
    _, hidden = inner_values(experts)
    found = [slope_products(experts, hidden, work, "gaussian")]
    for seed in range(1, 40):
        work.context.seed = seed
        found.append(slope_products(experts, hidden, work, "gaussian"))
    products, chosen = (np.concatenate(parts) for parts in zip(*found, strict=True))
    scores = second_order(products, chosen, 3) / 40 / 4
    rows = np.concatenate([batch["x"] for batch in work.context.calibration])
    expected = lost(weights, rows)
    assert np.corrcoef(scores.reshape(-1), expected.reshape(-1))[0, 1] > 0.98
    np.testing.assert_allclose(scores.sum(), expected.sum(), rtol=0.1, atol=0)


def lost(weights: dict[str, np.ndarray], rows: np.ndarray) -> np.ndarray:
    """Half the squared relative change of each token's output without a unit, summed over tokens."""
    logits = rows @ weights["wr"].T
    powers = np.exp(logits)
    found = np.zeros((3, 6))
    for row, scores in zip(rows, powers, strict=True):
        chosen = np.argsort(-scores)[:2]
        shares = {e: scores[e] / scores[chosen].sum() for e in chosen}
        parts = {}
        for e in chosen:
            gate, up = np.split(weights["gu"][e] @ row, 2)
            parts[e] = shares[e] * weights["dn"][e] * (gate / (1 + np.exp(-gate)) * up)
        output = row + sum(part.sum(1) for part in parts.values())
        for e, part in parts.items():
            found[e] += (part**2).sum(0) / 2 / (output @ output)
    return found
