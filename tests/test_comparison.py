"""What counts as the same output."""

import ml_dtypes
import numpy as np
import pytest

from whet.comparison import relative_error, unexplained
from whet.report import Agreement

X = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def agreement(error: float, limit: float = 1e-5) -> Agreement:
    return Agreement("y", {}, error, 1.0, limit)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_value_that_is_not_finite_is_an_infinite_error(bad: float) -> None:
    new = X.copy()
    new[1, 2] = bad
    assert relative_error(X, new) == (float("inf"), 0.0)
    assert relative_error(new, X) == (float("inf"), 0.0)
    assert relative_error(new, new) == (0.0, 1.0)


def test_another_type_or_shape_is_an_infinite_error() -> None:
    assert relative_error(X, X.astype(np.float64))[0] == float("inf")
    assert relative_error(X, X.T)[0] == float("inf")


def test_numbers_are_compared_by_norm() -> None:
    new = X.copy()
    new[0, 0] += 0.5
    assert relative_error(X, new)[0] == pytest.approx(0.5 / np.linalg.norm(X), rel=1e-6)
    half = X.astype(ml_dtypes.bfloat16)
    assert relative_error(half, half * ml_dtypes.bfloat16(1.0078125))[0] == pytest.approx(
        2**-7, rel=0.5
    )


def test_only_the_output_itself_can_be_excused() -> None:
    good, bad = agreement(1e-7), agreement(1e-3)
    same, noisy = agreement(0.0), agreement(5e-4)
    assert unexplained([good, bad], [same, same], [noisy, same]) == [bad]
    assert unexplained([good, bad], [same, same], [same, noisy]) == []
    assert unexplained([good, bad], [same, noisy], [same, same]) == []
    endless = agreement(float("inf"))
    assert unexplained([endless], [same], [endless]) == [endless]
