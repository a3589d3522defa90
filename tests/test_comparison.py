"""What counts as the same output."""

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir
import pytest
from folding import build

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.comparison import agree, check_agreement, relative_error, unexplained
from whet.errors import BrokenPass
from whet.ir.bindings import Bindings
from whet.ir.saving import save_model
from whet.report import Agreement
from whet.shaking import shake

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


THRESHOLD = """(float[4,8] x) => (float[4,16] y) <float one = {1.0}> {
    a = MatMul (x, w) b = MatMul (x, v) c = Greater (a, b) d = Cast <to = 1> (c) y = Add (d, one) }"""
PRODUCT = "(float[4,8] x) => (float[4,16] y) { a = MatMul (x, w) b = MatMul (x, v) y = Add (a, b) }"


def opened(folder: Path, model: onnx_ir.Model, name: str) -> Callable[[], Worker]:
    save_model(model, folder / name)
    return lambda: Worker(folder / name, RuntimeOptions(1))


@pytest.mark.parametrize(("text", "explained"), [(THRESHOLD, True), (PRODUCT, False)])
def test_what_a_rounding_of_the_weights_does_is_no_fault(
    tmp_path: Path, text: str, explained: bool
) -> None:
    w = np.random.default_rng(0).standard_normal((8, 16)).astype(np.float32)
    source, result, shaken = (build(text, {"w": w, "v": v}) for v in (w, w * np.float32(0.99), w))
    shake(shaken, 0)
    bindings = Bindings(({},))
    asked: list[str] = []

    def again() -> Worker:
        asked.append("again")
        return opened(tmp_path, source, "again.onnx")()

    with (
        opened(tmp_path, source, "source.onnx")() as before,
        opened(tmp_path, result, "result.onnx")() as after,
    ):
        found = agree(source, bindings, before, after)
        others = {"once more": again, "shaken": opened(tmp_path, shaken, "shaken.onnx")}
        assert check_agreement(found[:0], [], source, bindings, before, others) == ""
        assert asked == []
        if explained:
            said = check_agreement(found, [], source, bindings, before, others)
            assert "once more by up to 0.0e+00, shaken by up to" in said
        else:
            with pytest.raises(BrokenPass, match="although every rewrite was proven"):
                check_agreement(found, [], source, bindings, before, others)
    assert asked == ["again"]


def test_shaken_weights_are_the_nearest_others() -> None:
    w = np.array([[1.0, -2.5, 0.0, 1e-30]], np.float32)
    model = build("(float[1,1] x) => (float[1,4] y) { y = MatMul (x, w) }", {"w": w})
    shake(model, 3)
    tensor = model.graph.initializers["w"].const_value
    assert tensor is not None
    gap = np.abs(tensor.numpy() - w)
    assert gap[0, 2] == 0
    assert (gap[w != 0] > 0).all()
    assert (gap <= np.spacing(np.abs(w))).all()
