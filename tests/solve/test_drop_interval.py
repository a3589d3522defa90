"""Intervals of a drop: that they hold as often as they say, and against McNemar's test."""

import numpy as np
import pytest
from scipy.stats import binomtest

from whet.errors import UsageError
from whet.solve.drop_interval import drop_interval


def draw(rng: np.random.Generator, n: int, lost: float, gained: float) -> tuple[np.ndarray, ...]:
    """Return scores of 0 and 1 with these chances of a sample to be lost and gained."""
    kind = rng.choice(4, n, p=[lost, gained, (1 - lost - gained) / 2, (1 - lost - gained) / 2])
    return np.isin(kind, (0, 2)).astype(float), np.isin(kind, (1, 2)).astype(float)


@pytest.mark.parametrize(
    ("n", "lost", "gained"), [(30, 0.1, 0.02), (200, 0.05, 0.05), (8, 0.3, 0.0)]
)
def test_exact_intervals_hold_at_least_as_often_as_they_say(
    n: int, lost: float, gained: float
) -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        found = drop_interval(*draw(rng, n, lost, gained), confidence=0.9)
        assert found.method == "exact"
        assert found.low <= found.drop <= found.high
        hits += found.low <= lost - gained <= found.high
    assert hits >= 0.9 * 400


def test_zero_is_outside_only_where_mcnemars_exact_test_rejects() -> None:
    rng = np.random.default_rng(1)
    outside = 0
    for _ in range(200):
        before, after = draw(rng, 100, 0.12, 0.02)
        found = drop_interval(before, after)
        changed = before != after
        b, m = int((before > after).sum()), int(changed.sum())
        p = binomtest(b, m).pvalue if m else 1.0
        outside += found.low > 0
        assert (found.low > 0 or found.high < 0) <= (p <= 0.05)
        if p < 0.03:
            assert found.low > 0 or found.high < 0
    assert outside > 20


def test_no_change_seen_is_not_no_change() -> None:
    right = np.ones(100)
    found = drop_interval(right, right)
    assert found.drop == 0
    assert -found.low == found.high == pytest.approx(1 - 0.005 ** (1 / 100))


@pytest.mark.parametrize(("n", "method"), [(60, "bootstrap"), (12_000, "normal")])
def test_intervals_of_other_scores_hold_about_as_often_as_they_say(n: int, method: str) -> None:
    rng = np.random.default_rng(2)
    trials = 150
    hits = 0
    for trial in range(trials):
        before = rng.standard_normal(n)
        after = before - 0.1 - 0.2 * rng.standard_normal(n)
        found = drop_interval(before, after, 0.9, seed=trial)
        assert found.method == method
        hits += found.low <= 0.1 <= found.high
    assert 0.82 * trials <= hits <= 0.97 * trials


def test_pairing_is_used_and_the_seed_decides() -> None:
    rng = np.random.default_rng(3)
    before = 10 * rng.standard_normal(50)
    after = before - 0.5 + 0.01 * rng.standard_normal(50)
    found = drop_interval(before, after)
    assert 0.49 < found.low < found.high < 0.51
    assert found == drop_interval(before, after)
    assert found != drop_interval(before, after, seed=1)


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shapes \[3\] and \[2\]"):
        drop_interval(np.ones(3), np.ones(2))
    with pytest.raises(UsageError, match="a score is not finite"):
        drop_interval(np.ones(2), np.array([1.0, np.nan]))
    with pytest.raises(UsageError, match="confidence is 95"):
        drop_interval(np.ones(2), np.ones(2), 95)
