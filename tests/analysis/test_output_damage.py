import math

import numpy as np
import onnx_ir
import pytest
from folding import build

from whet.analysis.output_damage import OutputError, output_damage
from whet.passes.workbench import Context

TEXT = "(float[N,3] x) => (float[N,3] y, float[N,3] z) { y = Mul(x, w) z = Neg(x) }"
BATCHES = [
    {"x": np.random.default_rng(k).standard_normal((4, 3)).astype(np.float32)} for k in (0, 1)
]


def model_of(scale: float) -> object:
    return build(TEXT, {"w": np.float32([scale])})


def test_the_error_is_taken_over_all_samples() -> None:
    y, z = output_damage(model_of(2.0), model_of(2.2), BATCHES)
    assert (y.output, y.samples) == ("y", 8)
    assert y.error == pytest.approx(0.1, rel=1e-5)
    assert y.sqnr == pytest.approx(20, abs=1e-3)
    assert (z.error, z.sqnr) == (0.0, math.inf)


def test_what_does_not_run_or_is_not_finite() -> None:
    bad = [{"x": np.zeros((4, 9), np.float32)}]
    assert output_damage(model_of(1.0), model_of(1.0), bad) == ()
    (y, _) = output_damage(model_of(1.0), model_of(math.nan), BATCHES)
    assert y.error == math.inf


def test_one_model_is_held_against_many() -> None:
    outputs = OutputError(model_of(2.0), Context(calibration=BATCHES), most=6)
    assert outputs.of(onnx_ir.to_proto(model_of(2.0))) == 0.0
    assert outputs.of(onnx_ir.to_proto(model_of(2.2))) == pytest.approx(0.1, rel=1e-5)
