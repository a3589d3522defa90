from typing import get_args

import numpy as np
import pytest
from folding import build

from whet.analysis.ranges import Range, RangeMethod, Ranges
from whet.errors import CalibrationError
from whet.passes.workbench import Context

TEXT = "(float[N,3] x) => (float[N,3] y) { a = Neg(x) b = Exp(a) y = Relu(a) }"
BATCHES = (
    {"x": np.asarray([[1, 2, 3]], np.float32)},
    {"x": np.asarray([[-4, 0, 0.5], [1, 1, 1]], np.float32)},
)


def test_ranges_cover_all_batches() -> None:
    found = Ranges(("x", "a", "y")).measure(build(TEXT), Context(calibration=BATCHES))
    assert found == {"x": Range(-4, 3), "a": Range(-3, 4), "y": Range(0, 4)}


def test_the_percentile_drops_outliers() -> None:
    x = np.linspace(0, 1, 3000, dtype=np.float32).reshape(-1, 3)
    x[0, 0] = 1.5
    model, context = build(TEXT), Context(calibration=({"x": x[:500]}, {"x": x[500:]}))
    found = Ranges(("x",), percentile=99.0).measure(model, context)["x"]
    assert found.low == pytest.approx(0.005, abs=0.002)
    assert found.high == pytest.approx(0.995, abs=0.002)


@pytest.mark.parametrize("method", get_args(RangeMethod))
@pytest.mark.parametrize("symmetric", [False, True])
def test_every_method_gives_the_same_range_whatever_the_batches(
    method: RangeMethod, symmetric: bool
) -> None:
    x = np.random.default_rng(0).standard_t(4, (400, 3)).astype(np.float32)
    wanted = Ranges(("a", "y"), 99.5, method, symmetric=symmetric)
    found = [
        wanted.measure(build(TEXT), Context(calibration=parts))
        for parts in (({"x": x},), tuple({"x": part} for part in np.split(x, [7, 100])))
    ]
    assert found[0] == found[1]
    a = found[0]["a"]
    assert -x.max() <= a.low < 0 < a.high <= np.abs(x).max()
    assert (a.low == -a.high) == symmetric
    assert (a.high == np.abs(x).max() or not symmetric) == (method == "extremes" or not symmetric)


def test_overflow_inside_the_model_is_an_error() -> None:
    hot = ({"x": np.asarray([[-1000, 0, 0]], np.float32)},)
    for method in get_args(RangeMethod):
        with pytest.raises(CalibrationError, match="'b' inside the model is not finite"):
            Ranges(("b",), method=method).measure(build(TEXT), Context(calibration=hot))
