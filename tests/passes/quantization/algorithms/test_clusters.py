import itertools

import numpy as np
import pytest

from whet.passes.quantization.algorithms.clusters import assign, check_book_bits, cluster

RNG = np.random.default_rng(3)


def loss(weights: np.ndarray, h: np.ndarray, table: np.ndarray) -> np.ndarray:
    distance = np.abs(weights[:, :, None] - table[:, None, :]).min(2)
    return (h * distance**2).sum(1)


def brute(weights: np.ndarray, h: np.ndarray, entries: int) -> float:
    """Try every partition of the sorted weights into intervals."""
    order = np.argsort(weights)
    w, m = weights[order].astype(np.float64), h[order]
    best = np.inf
    for borders in itertools.combinations(range(1, len(w)), entries - 1):
        total = 0.0
        for part in np.split(np.arange(len(w)), borders):
            centre = (m[part] * w[part]).sum() / m[part].sum()
            total += (m[part] * (w[part] - centre) ** 2).sum()
        best = min(best, total)
    return best


@pytest.mark.parametrize("entries", [2, 3, 4])
def test_short_rows_are_solved_exactly(entries: int) -> None:
    weights = RNG.standard_normal((5, 11)).astype(np.float32)
    h = RNG.gamma(0.5, 1, (5, 11)) + 1e-3
    found = loss(weights, h, cluster(weights, h, entries))
    wanted = [brute(w, m, entries) for w, m in zip(weights, h, strict=True)]
    assert np.allclose(found, wanted, rtol=1e-4)


@pytest.mark.parametrize("entries", [4, 8, 16])
def test_long_rows_are_close_to_the_exact_solution(
    entries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = RNG.standard_t(3, (4, 500)).astype(np.float32)
    h = RNG.gamma(0.5, 1, (4, 500))
    found = loss(weights, h, cluster(weights, h, entries)).sum()
    monkeypatch.setattr("whet.passes.quantization.algorithms.clusters._POINTS", 500)
    exact = loss(weights, h, cluster(weights, h, entries)).sum()
    assert exact <= found * (1 + 1e-6)
    assert found <= exact * 1.01


def test_a_table_is_a_fixed_point_of_lloyds_iteration() -> None:
    weights = RNG.standard_normal((3, 700)).astype(np.float32)
    h = RNG.gamma(1, 1, (1, 700))
    table = cluster(weights, h, 8)
    codes = assign(weights, table, 3).codes
    assert (np.diff(table, axis=1) > 0).all()
    for row in range(3):
        for k in range(8):
            here = codes[row] == k
            centre = np.average(weights[row][here], weights=h[0][here])
            assert centre == pytest.approx(table[row, k], abs=1e-5)


def test_every_weight_gets_the_nearest_entry() -> None:
    weights = RNG.standard_normal((6, 90)).astype(np.float32)
    table = np.sort(RNG.standard_normal((6, 8)), axis=1).astype(np.float32)
    found = assign(weights, table, 3)
    assert np.array_equal(found.codes, np.abs(weights[:, :, None] - table[:, None, :]).argmin(2))


def test_few_distinct_weights_are_kept_as_they_are() -> None:
    weights = RNG.choice(np.asarray([-1.0, 0.0, 0.25], np.float32), (4, 60))
    assert np.allclose(assign(weights, cluster(weights, None, 4), 2).values(), weights, atol=1e-6)
    constant = np.full((2, 9), 0.5, np.float32)
    assert np.allclose(assign(constant, cluster(constant, None, 8), 3).values(), constant)


def test_what_never_matters_does_not_break_anything() -> None:
    weights = RNG.standard_normal((2, 40)).astype(np.float32)
    h = np.zeros((2, 40))
    h[1, :3] = 1
    table = cluster(weights, h, 4)
    assert np.isfinite(table).all()
    assert np.allclose(table[0], cluster(weights[:1], None, 4)[0], atol=1e-6)
    assert loss(weights[1:], h[1:], table[1:])[0] < 1e-9


def test_it_is_deterministic() -> None:
    weights = RNG.standard_normal((3, 300)).astype(np.float32)
    assert np.array_equal(cluster(weights, None, 16), cluster(weights.copy(), None, 16))


@pytest.mark.parametrize(
    ("weights", "bits", "reason"),
    [
        (np.ones((2, 2), np.float32), 7, "bits is 7, a codebook has 1 to 6"),
        (np.ones((2, 0), np.float32), 3, r"shape \[2, 0\]"),
        (np.full((2, 2), np.nan, np.float32), 3, "infinite or not a number"),
    ],
)
def test_what_has_no_table_is_refused(weights: np.ndarray, bits: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        check_book_bits(weights, bits)
