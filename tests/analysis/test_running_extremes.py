import numpy as np
import onnx_ir
import pytest
from folding import build

from whet.analysis.observation import Observation
from whet.analysis.running_extremes import RunningExtremes, are_huge, tame_values
from whet.analysis.statistics import Extremes, Statistics
from whet.errors import CalibrationError
from whet.passes.workbench import Context

TEXT = """(float[N,3,4,4] x) => (float[N,3,4,4] y) {
    a = Mul(x, w) b = Relu(a) c = Log(b) d = Relu(c) y = Add(d, b) }"""
NAMES = ("a", "b", "c", "d", "y")


def model() -> onnx_ir.Model:
    return build(TEXT, {"w": np.float32([2.0])})


def images(low: float, count: int = 6) -> dict[str, np.ndarray]:
    spread = np.random.default_rng(0).uniform(low, 1, (count, 3, 4, 4))
    return {"x": spread.astype(np.float32)}


def test_extremes_are_those_of_whole_values() -> None:
    context = Context(calibration=(images(0.1), images(0.2, 5)))
    asked = {(name, Extremes()) for name in NAMES}
    bounds = Statistics(frozenset(asked)).measure(model(), context)
    for name in NAMES:
        runs = [run[name] for run in Observation(model(), [name], context).runs()]
        seen = bounds.of(name, Extremes())
        assert seen.high == max(run.max() for run in runs)
        if name in ("b", "d"):
            assert seen.low == 0  # a Relu's
        else:
            assert seen.low == min(run.min() for run in runs)


def test_they_come_once_at_the_end() -> None:
    context = Context(calibration=(images(0.1), images(0.2)))
    runs = list(Observation(model(), ["x", "a", "b"], context, {"a", "b"}).runs())
    assert [sorted(run) for run in runs] == [["x"], ["x"], ["a", "b"]]
    assert all(len(array) == 2 for array in runs[-1].values())


def test_what_may_not_be_a_number_is_summed() -> None:
    assert tame_values(model()) >= {"x", "w", "a", "b"}
    assert not tame_values(model()) & {"c", "d", "y"}
    assert "a" not in tame_values(build(TEXT, {"w": np.float32([np.nan])}))
    context = Context(calibration=(images(-1.0),))
    asked = frozenset({("c", Extremes())})
    with pytest.raises(CalibrationError, match="'c' inside the model is not finite"):
        Statistics(asked).measure(model(), context)


def test_huge_numbers_bring_the_sums_back() -> None:
    context = Context(calibration=(images(0.1),))
    asked = frozenset({("a", Extremes()), ("b", Extremes())})
    large = build(TEXT, {"w": np.float32([1e31])})
    found = Statistics(asked).measure(large, context)
    assert found.of("b", Extremes()).high == found.of("a", Extremes()).high > 1e30
    assert found.of("b", Extremes()).low == found.of("a", Extremes()).low > 0
    with pytest.raises(CalibrationError, match="is not finite"):
        Statistics(asked).measure(build(TEXT, {"w": np.float32([np.inf])}), context)


def test_runs_are_joined_and_nothing_is_left_out() -> None:
    extremes = RunningExtremes(["a", "b", "c"])
    pair = np.float32([1, -2]), np.float32([3, -1])
    nothing = np.float32([np.inf]), np.float32([-np.inf])
    empty = np.zeros(0, np.float32), np.zeros(0, np.float32)
    extremes.add([pair, nothing, empty], {})
    extremes.add([nothing, empty, empty], {"c": np.float32([np.nan])})
    found = extremes.found()
    assert found["a"].tolist() == [-2, 3]
    assert "b" not in found
    assert np.isnan(found["c"]).any()
    assert not are_huge([pair])
    assert are_huge([(np.float32([-1e31]), np.float32([0]))])
