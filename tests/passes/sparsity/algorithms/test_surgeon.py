import numpy as np
import pytest

from whet.passes.sparsity.algorithms.pattern import Pattern, read_pattern
from whet.passes.sparsity.algorithms.recovery import masked_least_squares
from whet.passes.sparsity.algorithms.surgeon import eliminate

Doubles = np.ndarray


def problem(rows: int, inputs: int = 12, seed: int = 0) -> tuple[Doubles, Doubles]:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((4 * inputs, inputs)) @ rng.standard_normal((inputs, inputs))
    return rng.standard_normal((rows, inputs)), x.T @ x / len(x)


def loss(weights: Doubles, hessian: Doubles, keep: Doubles) -> float:
    """Return the least ½ δᵀ H δ, solved anew."""
    inside = np.flatnonzero(keep)
    found = np.zeros_like(weights)
    if len(inside):
        square = hessian[np.ix_(inside, inside)]
        found[:, inside] = np.linalg.solve(square, (hessian @ weights.T)[inside]).T
    change = found - weights
    return 0.5 * float(np.einsum("ri,ij,rj", change, hessian, change))


def allowed(pattern: Pattern, keep: Doubles, unit: int) -> bool:
    if not keep[unit * pattern.width]:
        return False
    if pattern.share is None:
        return True
    start = unit // pattern.members * pattern.members
    return bool((~keep[start : start + pattern.members]).sum() < pattern.removable)


@pytest.mark.parametrize("text", ["unstructured", "1x3", "2:4", "1:4"])
@pytest.mark.parametrize("rows", [1, 3])
def test_each_step_is_the_best_of_all(text: str, rows: int) -> None:
    weights, hessian = problem(rows)
    pattern = read_pattern(text)
    found = eliminate(weights, np.linalg.inv(hessian), pattern)
    keep, spent = np.ones(12, np.bool), 0.0
    for unit, cost in zip(found.order, found.costs, strict=True):
        spent += cost
        losses: dict[int, float] = {}
        for other in range(12 // pattern.width):
            if allowed(pattern, keep, other):
                trial = keep.copy()
                trial[other * pattern.width : (other + 1) * pattern.width] = False
                losses[other] = loss(weights, hessian, trial)
        assert min(losses, key=lambda k: losses[k]) == unit
        assert losses[unit] == pytest.approx(spent, rel=1e-7)
        keep[unit * pattern.width : (unit + 1) * pattern.width] = False
    expected = 12 // pattern.width if pattern.share is None else round(12 * pattern.share)
    assert len(found.order) == expected


def test_rows_with_second_derivatives_of_their_own() -> None:
    weights, first = problem(2)
    _, second = problem(2, seed=5)
    both = np.linalg.inv(np.stack([first, second]))
    found = eliminate(weights, both, read_pattern("unstructured"), 0.5)
    gone = found.order
    keep = np.ones(12, np.bool)
    keep[gone] = False
    wanted = sum(loss(weights[k : k + 1], h, keep) for k, h in enumerate((first, second)))
    assert found.costs.sum() == pytest.approx(wanted)
    assert len(gone) == 6


def test_many_removals_are_settled_together() -> None:
    weights, hessian = problem(1, inputs=90)
    found = eliminate(weights, np.linalg.inv(hessian), read_pattern("unstructured"), 0.8)
    keep = np.ones((1, 90), np.bool)
    keep[0, found.order] = False
    best = masked_least_squares(weights, hessian, keep) - weights
    wanted = 0.5 * float(np.einsum("ri,ij,rj", best, hessian, best))
    assert found.costs.sum() == pytest.approx(wanted, rel=1e-5)
    assert sorted(found.order) == sorted(set(found.order))
