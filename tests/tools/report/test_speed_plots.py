"""The roof: what is attainable is the smaller of computing and moving."""

import pytest

pytest.importorskip("matplotlib")

from whet.tools.report.speed_plots import attained

PEAK = {"flops": 1e9, "integer": 4e9, "bytes": 1e9}


def row(**given):
    return {
        "name": "n",
        "op": "MatMul",
        "ms": 2.0,
        "flops": 1e6,
        "bytes": 1000,
        "integer": False,
        **given,
    }


def test_a_product_is_bound_by_computing() -> None:
    (found,) = attained([row()], PEAK)
    assert found.least == pytest.approx(1.0)
    assert found.share == pytest.approx(0.5)
    assert found.rate == pytest.approx(5e8)
    assert found.intensity == pytest.approx(1000)


def test_integers_have_a_roof_of_their_own() -> None:
    (found,) = attained([row(integer=True)], PEAK)
    assert found.least == pytest.approx(0.25)


def test_what_moves_bytes_is_bound_by_memory() -> None:
    (found,) = attained([row(flops=0.0, bytes=10**6, ms=4.0)], PEAK)
    assert found.share == pytest.approx(0.25)
    assert found.rate == 0.0


def test_a_peak_that_is_not_known_bounds_nothing() -> None:
    (found,) = attained([row(ms=0.0)], {"flops": 0.0, "integer": 0.0, "bytes": 0.0})
    assert (found.least, found.share) == (0.0, 0.0)
