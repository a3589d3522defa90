import dataclasses

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.passes.quantization.algorithms.approximation import Layer, LowRank, Sum, output_error
from whet.passes.quantization.algorithms.codebooks import squeeze
from whet.passes.quantization.algorithms.eora import paying_rank, rank_for, repair, repairing_path
from whet.passes.quantization.algorithms.outliers import keep_outliers
from whet.passes.quantization.algorithms.rounding import round_to_nearest


def layer(seed: int = 0, outputs: int = 8, inputs: int = 12, rows: int = 60) -> Layer:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, inputs)) @ rng.standard_normal((inputs, inputs))
    weights = rng.standard_normal((outputs, inputs)).astype(np.float32)
    return Layer(weights, x.T @ x / rows)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 99), rank=st.integers(1, 6))
def test_the_error_that_is_left_is_the_tail_of_the_spectrum(seed: int, rank: int) -> None:
    """The minimum over all matrices of rank r is known: the singular values of ΔW H^½ beyond the r-th."""
    given_ = layer(seed)
    assert given_.gram is not None
    rough = round_to_nearest(given_, 2)
    root = np.linalg.cholesky(given_.gram)
    tail = np.linalg.svd((given_.weights - rough.values()) @ root, compute_uv=False)[rank:]
    whole = np.vdot(given_.weights @ given_.gram, given_.weights)
    found = given_.error(repair(given_, rough, rank))
    assert found == pytest.approx((tail**2).sum() / whole, rel=1e-3, abs=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_no_search_finds_a_better_path(seed: int) -> None:
    given_ = layer(seed, 4, 5)
    assert given_.gram is not None
    rough = round_to_nearest(given_, 2)
    error = given_.weights.astype(np.float64) - rough.values()

    def cost(numbers: np.ndarray) -> float:
        rest = error - numbers[:4, None] * numbers[None, 4:]
        return float(np.vdot(rest @ given_.gram, rest))

    rng = np.random.default_rng(seed)
    starts = [rng.standard_normal(9) for _ in range(6)]
    searched = min(scipy.optimize.minimize(cost, start).fun for start in starts)
    missing = error - repair(given_, rough, 1).parts[-1].values()
    assert np.vdot(missing @ given_.gram, missing) == pytest.approx(searched, rel=1e-3)


def test_it_beats_what_ignores_the_inputs() -> None:
    given_ = layer(4)
    rough = round_to_nearest(given_, 2)
    blind = repair(dataclasses.replace(given_, gram=None), rough, 2)
    assert given_.error(repair(given_, rough, 2)) < given_.error(blind) < given_.error(rough)


def test_half_precision_takes_half_the_bytes() -> None:
    given_ = layer(5)
    rough = squeeze(given_, 2)
    wide, half = repair(given_, rough, 2), repair(given_, rough, 2, half=True)
    assert half.parts[-1].nbytes * 2 == wide.parts[-1].nbytes == 2 * 4 * (8 + 12)
    assert given_.error(half) == pytest.approx(given_.error(wide), rel=0.02)


def test_rank_for_fills_the_budget() -> None:
    given_ = layer(6)
    rough = round_to_nearest(given_, 3)
    for limit in (rough.nbytes, rough.nbytes + 79, rough.nbytes + 80, rough.nbytes + 500):
        for half in (True, False):
            rank = rank_for(given_, rough, limit, half=half)
            each = 20 * (2 if half else 4)
            assert rank == min(8, (limit - rough.nbytes) // each)
            if rank:
                assert repair(given_, rough, rank, half=half).nbytes <= limit
    assert rank_for(given_, rough, 0) == 0


def test_directions_that_no_input_has_get_nothing() -> None:
    given_ = layer(7, rows=4)
    rough = round_to_nearest(given_, 2)
    found = repair(given_, rough, 8)
    path = found.parts[-1]
    assert isinstance(path, LowRank)
    assert path.left.shape[1] <= 4
    assert given_.error(found) < 1e-6
    assert np.abs(path.values()).max() < 1e3


def test_parts_stay_flat_and_a_rank_is_needed() -> None:
    given_ = layer(8)
    sparse = keep_outliers(given_, 0.05, lambda rest: squeeze(rest, 2))
    found = repair(given_, sparse, 1)
    assert len(found.parts) == 3
    assert not any(isinstance(part, Sum) for part in found.parts)
    with pytest.raises(ValueError, match="the rank is 0"):
        repair(given_, sparse, 0)


def test_nothing_to_repair() -> None:
    given_ = layer(9)
    exact = LowRank(given_.weights, np.eye(12, dtype=np.float32))
    assert given_.error(repair(given_, exact, 3)) == pytest.approx(0, abs=1e-12)
    nothing = dataclasses.replace(given_, gram=np.zeros((12, 12)))
    assert np.isfinite(repair(nothing, round_to_nearest(given_, 2), 2).values()).all()


def test_the_rank_that_pays() -> None:
    """Two directions carry the error: further ranks gain too little for their bytes, one alone too little for its."""
    rng = np.random.default_rng(11)
    weights = rng.standard_normal((48, 64)).astype(np.float32)
    wrong = rng.standard_normal((48, 2)) @ rng.standard_normal((2, 64)) * 0.3
    values = (weights + wrong + 0.003 * rng.standard_normal((48, 64))).astype(np.float32)
    path = repairing_path(Layer(weights), values, 8)

    def error(candidate: LowRank | None) -> float:
        return output_error(
            weights, values + (0 if candidate is None else candidate.values()), None
        )

    chosen, longest = paying_rank(path, error, weights.size), paying_rank(path, error, None)
    assert chosen is not None
    assert longest is not None
    assert (len(chosen.right), len(longest.right)) == (2, 8)
    assert paying_rank(path, lambda _: 1.0, None) is None
    assert paying_rank(path, lambda c: 1.0 if c is None else 0.99, weights.size) is None
