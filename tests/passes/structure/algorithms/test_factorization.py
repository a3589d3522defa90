import numpy as np
import pytest

from whet.passes.quantization.algorithms.approximation import Layer
from whet.passes.structure.algorithms.factorization import factor, low_rank, separable

RNG = np.random.default_rng(0)


def drawn(
    outputs: int, inputs: int, *, correlated: bool = True
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    weights = RNG.standard_normal((outputs, inputs)).astype(np.float32)
    mix = RNG.standard_normal((inputs, inputs)) * np.geomspace(1, 0.01, inputs)
    fit, judge = (
        (RNG.standard_normal((n, inputs)) @ (mix if correlated else np.eye(inputs)))
        for n in (900, 400)
    )
    return weights, fit.T @ fit / len(fit), judge.T @ judge / len(judge)


def test_the_error_is_that_of_eckart_and_young() -> None:
    weights, gram, _ = drawn(20, 30)
    found = factor([Layer(weights, gram)], low_rank, 12, rank=5)
    values, vectors = np.linalg.eigh(gram)
    sizes = np.linalg.svd(weights @ (vectors * np.sqrt(values.clip(0))), compute_uv=False)
    assert found.error == pytest.approx((sizes[5:] ** 2).sum() / (sizes**2).sum(), rel=1e-3)
    assert found.nbytes == 4 * 5 * (20 + 30)


def test_activations_help_on_other_data() -> None:
    weights, gram, judge = drawn(40, 60)
    aware = factor([Layer(weights, gram, held_out=judge)], low_rank, 20, rank=8)
    plain = factor([Layer(weights, None, held_out=judge)], low_rank, 20, rank=8)
    assert aware.error < 0.6 * plain.error


def test_few_vectors_are_damped() -> None:
    weights, _, judge = drawn(40, 60, correlated=False)
    seen = RNG.standard_normal((20, 60))
    few = Layer(weights, seen.T @ seen / 20, held_out=judge)
    found = factor([few], low_rank, 20, rank=16)
    plain = factor([Layer(weights, None, held_out=judge)], low_rank, 20, rank=16)
    assert found.error <= plain.error


def test_the_smallest_rank_that_keeps_the_energy() -> None:
    weights, gram, judge = drawn(30, 40)
    layer = Layer(weights, gram, held_out=judge)
    found = factor([layer], low_rank, 16, energy=0.95)
    assert found.error <= 0.05
    assert factor([layer], low_rank, 16, rank=found.rank - 1).error > 0.05
    lost = factor([layer], low_rank, 3, energy=0.9999)
    assert (lost.rank, lost.error > 1e-4) == (3, True)


def test_a_product_is_found_exactly() -> None:
    weights = (RNG.standard_normal((12, 3)) @ RNG.standard_normal((3, 9))).astype(np.float32)
    found = factor([Layer(weights)], low_rank, 5, energy=1 - 1e-9)
    assert found.rank == 3
    np.testing.assert_allclose(found.parts[0].values(), weights, atol=1e-5)


def test_separable_kernels_are_found_exactly() -> None:
    vertical, horizontal = RNG.standard_normal((2, 5, 3)), RNG.standard_normal((7, 2, 3))
    whole = np.einsum("ria,orb->oiab", vertical, horizontal).reshape(7, 45).astype(np.float32)
    _, gram, judge = drawn(7, 45)
    found = factor([Layer(whole, gram, held_out=judge)], separable((3, 3)), 6, energy=1 - 1e-7)
    assert found.rank == 2
    np.testing.assert_allclose(found.parts[0].values(), whole, atol=1e-3)
    assert found.nbytes == 4 * (2 * 5 * 3 + 7 * 2 * 3)


def test_the_second_factor_is_fitted_to_all_patches() -> None:
    weights, gram, judge = drawn(8, 45)
    aware = factor([Layer(weights, gram, held_out=judge)], separable((3, 3)), 6, rank=4)
    plain = factor([Layer(weights, None, held_out=judge)], separable((3, 3)), 6, rank=4)
    assert aware.error < plain.error


def test_ranks_out_of_range() -> None:
    with pytest.raises(ValueError, match="the rank is 9, it must be 1 to 4"):
        factor([Layer(np.eye(6, dtype=np.float32))], low_rank, 4, rank=9)
