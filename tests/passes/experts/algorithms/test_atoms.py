import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.passes.experts.algorithms.atoms import (
    arrange,
    energy_scores,
    keep,
    second_order,
    silence,
)


def swiglu(up: np.ndarray, down: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """One expert, gate in front of up."""
    gate, value = np.split(rows @ up.T, 2, 1)
    return gate / (1 + np.exp(-gate)) * value @ down.T


def test_second_order_adds_up_squares() -> None:
    rng = np.random.default_rng(0)
    products, chosen = rng.standard_normal((9, 4)), rng.integers(0, 3, 9)
    found = second_order(products, chosen, 3)
    naive = np.zeros((3, 4))
    for row, expert in zip(products, chosen, strict=True):
        for unit in range(4):
            naive[expert, unit] += row[unit] ** 2 / 2
    assert np.allclose(found, naive)


def test_energies_are_the_squared_share_of_the_output() -> None:
    rng = np.random.default_rng(1)
    hidden, weights, chosen = (
        rng.standard_normal((9, 4)),
        rng.uniform(size=9),
        rng.integers(0, 2, 9),
    )
    down = rng.standard_normal((2, 5, 4))
    found = energy_scores(hidden, weights, chosen, np.linalg.norm(down, axis=1))
    naive = np.zeros((2, 4))
    for row, weight, expert in zip(hidden, weights, chosen, strict=True):
        for unit in range(4):
            share = weight * row[unit] * down[expert, :, unit]
            naive[expert, unit] += share @ share / 2
    assert np.allclose(found, naive)


def test_the_highest_scores_stay_as_they_stand() -> None:
    scores = np.array([[1.0, 5, 3, 4], [9, 1, 1, 8]])
    assert keep(scores, 2).tolist() == [[1, 3, 0, 2], [0, 3, 1, 2]]


@given(st.integers(1, 3), st.integers(2, 5), st.integers(0, 10**6))
@settings(max_examples=40, deadline=None)
def test_an_expert_computes_the_same_in_any_order(experts: int, units: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    up = rng.standard_normal((experts, 2 * units, 3))
    down = rng.standard_normal((experts, 3, units))
    rows = rng.standard_normal((4, 3))
    alone = np.arange(units)[:, None]
    both = np.concatenate([alone, alone + units], 1)
    order = np.stack([rng.permutation(units) for _ in range(experts)])
    moved = arrange(up, 1, both, order), arrange(down, 2, alone, order)
    for expert in range(experts):
        old = swiglu(up[expert], down[expert], rows)
        assert np.allclose(swiglu(moved[0][expert], moved[1][expert], rows), old)
    left = units - 1
    gone = order[:, left:]
    zeros = silence(up, 1, both, gone), silence(down, 2, alone, gone)
    small = np.delete(moved[0], both[left:].reshape(-1), 1), np.delete(moved[1], left, 2)
    for expert in range(experts):
        silenced = swiglu(zeros[0][expert], zeros[1][expert], rows)
        assert np.allclose(swiglu(small[0][expert], small[1][expert], rows), silenced)
