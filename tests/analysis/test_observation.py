import numpy as np
import onnx_ir
import pytest
from folding import build

from whet.analysis import observation
from whet.analysis.observation import Observation, memory_left
from whet.analysis.statistics import Extremes, Gram, Histogram, Statistics
from whet.errors import CalibrationError
from whet.ir.residency import resident_bytes
from whet.passes.workbench import Context

TEXT = """(float[N,L] x, float[N,L] z) => (float[N,L] y) {
    a = Neg(x) b = Add(a, z) c = Relu(b) y = Abs(c) }"""
SAMPLE = 4 * 10
"""Bytes of one value of one sample of ten numbers."""


def model_of() -> onnx_ir.Model:
    return build(TEXT)


def feeds(count: int, length: int = 10, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng((seed, length))
    return {n: rng.standard_normal((count, length)).astype(np.float32) for n in "xz"}


def watched(context: Context, room: int, names: str, monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    monkeypatch.setattr(observation, "ROOM", room)
    return [
        {name: a.shape for name, a in found.items()}
        for found in Observation(model_of(), list(names), context).runs()
    ]


def test_one_run_a_batch_with_all_values(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(calibration=(feeds(8), feeds(3)))
    found = watched(context, 1 << 20, "abcxy", monkeypatch)
    assert found == [dict.fromkeys("xabcy", (n, 10)) for n in (8, 3)]
    assert context.observed_bytes == 2 * 4 * 8 * SAMPLE


def test_batches_are_cut_to_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(calibration=(feeds(8), feeds(3)))
    found = watched(context, 3 * 2 * 4 * SAMPLE + 5, "abcxy", monkeypatch)
    assert [shapes["a"][0] for shapes in found] == [3, 3, 2, 3]
    assert context.observed_bytes == 3 * 2 * 4 * SAMPLE


def test_values_are_divided_only_when_one_sample_is_too_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    context = Context(calibration=(feeds(2),))
    found = watched(context, 2 * 2 * SAMPLE, "abcxy", monkeypatch)
    assert [sorted(shapes) for shapes in found] == [["a", "b", "x"]] * 2 + [["c", "y"]] * 2


def test_a_value_too_large_for_one_sample_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "ROOM", 2 * SAMPLE - 1)
    context = Context(calibration=(feeds(2),))
    with pytest.raises(CalibrationError, match=r"'a' takes .* MB for one sample.*max_ram"):
        list(Observation(model_of(), ["a"], context).runs())


def test_sizes_come_from_the_longest_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    context = Context(calibration=(feeds(2, 5), feeds(4, 20), feeds(1, 7)))
    found = watched(context, 2 * 2 * 4 * SAMPLE, "ab", monkeypatch)
    assert [shapes["a"] for shapes in found] == [(2, 5), (2, 20), (2, 20), (1, 7)]


def test_sizes_that_no_shape_tells_are_found_by_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "ROOM", 4 * 2 * SAMPLE)
    model = model_of()
    for node in model.graph:
        node.outputs[0].shape = None
    runs = list(Observation(model, ["b"], Context(calibration=(feeds(6),))).runs())
    assert [len(found["b"]) for found in runs] == [4, 2]


def test_a_model_that_fixes_its_batch_is_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "ROOM", 4 * 2 * SAMPLE)
    model = build(TEXT.replace("[N,L]", "[4,10]"))
    runs = list(Observation(model, ["b"], Context(calibration=(feeds(4), feeds(4)))).runs())
    assert [len(found["b"]) for found in runs] == [4, 4]


def test_statistics_are_the_same_in_whatever_portions(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = frozenset(
        (n, s) for n in "abcxy" for s in (Extremes(), Extremes(1), Histogram(), Gram())
    )
    context = Context(calibration=(feeds(9), feeds(4)))
    whole = Statistics(requests).measure(model_of(), context)
    monkeypatch.setattr(observation, "ROOM", 2 * 2 * SAMPLE)
    parts = Statistics(requests).measure(model_of(), context)
    for name, statistic in requests:
        one, other = whole.of(name, statistic), parts.of(name, statistic)
        for field, number in vars(one).items():
            tolerance = 1e-12 if isinstance(statistic, Gram) else 0
            np.testing.assert_allclose(number, vars(other)[field], rtol=tolerance, atol=tolerance)


def test_memory_left_is_the_limit_less_what_is_held() -> None:
    assert memory_left(model_of(), None) == observation.ROOM
    held = resident_bytes()
    assert memory_left(model_of(), held + (1 << 30)) == pytest.approx(1 << 30, abs=1 << 27)
    with pytest.raises(CalibrationError, match=r"before a single sample is run, the limit .* 1 MB"):
        memory_left(model_of(), 10**6)


def test_unknown_values_and_models_that_do_not_run() -> None:
    context = Context(calibration=(feeds(2),))
    with pytest.raises(CalibrationError, match="no value of the model is called 'nobody'"):
        Observation(model_of(), ["nobody"], context)
    wrong = Context(calibration=({"x": feeds(2)["x"], "z": feeds(2, 9)["z"]},))
    with pytest.raises(CalibrationError, match="does not run on the calibration data"):
        list(Observation(model_of(), ["b"], wrong).runs())


def test_long_runs_say_how_far_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observation, "_PATIENCE", -1.0)
    said: list[str] = []
    context = Context(calibration=(feeds(2), feeds(2)), progress=said.append)
    list(Observation(model_of(), ["b"], context).runs())
    assert said == ["calibrate: batch 1 of 2", "calibrate: batch 2 of 2"]


@pytest.mark.parametrize("opset", [11, 17, 23])
@pytest.mark.parametrize("shape", ["N,L", "N,2,L", "N,2,2,L", "L"])
def test_extremes_that_the_runtime_finds_are_those_of_the_values(opset: int, shape: str) -> None:
    text = f"(float[{shape}] x) => (float[{shape}] y) {{ a = Neg(x) y = Sub(a, x) }}"
    sizes = [{"N": 5, "L": 6}.get(s) or int(s) for s in shape.split(",")]
    x = np.random.default_rng(0).standard_normal(sizes).astype(np.float32)
    found = Statistics(frozenset({("a", Extremes()), ("y", Extremes())})).measure(
        build(text, opset=opset), Context(calibration=({"x": x},))
    )
    for name, wanted in (("a", -x), ("y", -x - x)):
        bounds = found.of(name, Extremes())
        assert (bounds.low, bounds.high) == (wanted.min(), wanted.max())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_the_runtime_does_not_hide_what_is_not_finite(bad: float) -> None:
    model = build("(float[N,3,4,4] x) => (float[N,3,4,4] y) { a = Mul(x, w) y = Abs(a) }",
                  {"w": np.where(np.arange(16).reshape(4, 4) == 6, bad, 1).astype(np.float32)})  # fmt: skip
    context = Context(calibration=({"x": np.ones((2, 3, 4, 4), np.float32)},))
    with pytest.raises(CalibrationError, match="'a' inside the model is not finite"):
        Statistics(frozenset({("a", Extremes())})).measure(model, context)


def test_empty_values_have_no_extremes_but_the_others_do() -> None:
    text = "(float[N,L] x) => (float[N,L] y) { a = Neg(x) y = Abs(x) }"
    batches = ({"x": np.zeros((1, 0), np.float32)}, {"x": np.ones((2, 3), np.float32)})
    wanted = frozenset({("a", Extremes())})
    found = Statistics(wanted).measure(build(text), Context(calibration=batches))
    assert (found.of("a", Extremes()).low, found.of("a", Extremes()).high) == (-1, -1)
