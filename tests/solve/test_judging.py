import numpy as np
import pytest

from whet.solve.allocation import Plan
from whet.solve.judging import Budgets, Judge
from whet.solve.measuring import Measurement, Scores
from whet.solve.trials import Trial, lost


def trial(loss: float, right: int = 90, *, bytes: int = 100, ms: float | None = 1.0) -> Trial:
    """Return a plan that has so many of 100 samples right, always the first ones."""
    scores = Scores(right / 100, (np.arange(100) < right).astype(np.float64))
    before = Scores(0.9, (np.arange(100) < 90).astype(np.float64))
    measured = Measurement(bytes, loss, ms, scores)
    return Trial(Plan((0,)), "solved", measured, measured, *lost(before, scores))


def test_a_limit_on_the_drop_is_kept_with_its_standard_error() -> None:
    judge = Judge(Budgets(drop=0.03), "bytes")
    seen = trial(0.1, 88)
    assert seen.drop == pytest.approx(0.02)
    assert seen.doubt == pytest.approx(np.sqrt(0.02 * 0.98 / 99))
    assert not judge.keeps(seen)
    assert Judge(Budgets(drop=0.035), "bytes").keeps(seen)
    assert list(judge.broken(seen)) == [
        "the metric drops by 0.0200 with a standard error of 0.0141, the budget is 0.03"
    ]


def test_bytes_and_milliseconds_that_are_too_many_are_named() -> None:
    judge = Judge(Budgets(bytes=99, ms=0.5), "loss")
    assert not judge.fits(trial(0.1))
    assert not judge.fits(trial(0.1, bytes=99, ms=None))
    assert list(judge.broken(trial(0.1))) == [
        "the best that was measured has 100 bytes, the budget 99",
        "the best that was measured takes 1 ms, the limit 0.5",
    ]


def test_the_metric_decides_where_it_differs_beyond_doubt() -> None:
    judge = Judge(Budgets(), "loss")
    assert judge.prefers(trial(0.2, 95), trial(0.1, 90))
    assert not judge.prefers(trial(0.1, 90), trial(0.2, 95))
    assert judge.prefers(trial(0.1, 90), trial(0.2, 91)), "one sample is no difference"
    assert Judge(Budgets(), "bytes").prefers(trial(0.2, 80, bytes=99), trial(0.1, 90))
    assert judge.prefers(trial(0.1), trial(0.2))


def test_what_keeps_the_budget_comes_first() -> None:
    judge = Judge(Budgets(bytes=99), "loss")
    assert judge.prefers(trial(0.2, 80, bytes=99), trial(0.1, 90))
    assert not judge.prefers(trial(0.1, 90), trial(0.2, 80, bytes=99))


def test_what_comes_closest_is_preferred_where_nothing_keeps_the_budget() -> None:
    judge = Judge(Budgets(ms=0.1), "loss")
    assert judge.prefers(trial(0.2, 80, ms=0.25), trial(0.1, 95, ms=0.7))
    assert not judge.prefers(trial(0.1, 95, ms=0.7), trial(0.2, 80, ms=0.25))
    assert judge.excess(trial(0.1, ms=0.25)) == pytest.approx(1.5)
    assert judge.excess(trial(0.1, ms=None)) == np.inf
    assert judge.excess(trial(0.1, ms=0.1)) == 0
    strict = Judge(Budgets(drop=0.0, bytes=50), "ms")
    assert strict.excess(trial(0.1, 89)) == pytest.approx(1 + (0.01 + trial(0.1, 89).doubt) / 1e-3)


def test_without_a_metric_nothing_drops() -> None:
    assert lost(None, Scores(0.5)) == (None, 0.0)
    assert lost(Scores(0.7), Scores(0.5)) == (pytest.approx(0.2), 0.0)
