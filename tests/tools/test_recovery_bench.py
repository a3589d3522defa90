import numpy as np
import pytest
from folding import BINDINGS, build, weights

from whet.passes.pipeline import Pipeline
from whet.passes.workbench import Context
from whet.tools.bench.recovery import ZeroSmallest, main


def test_without_data_it_says_so(tmp_path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--assets", str(tmp_path)]) == 0
    assert "skipped: no" in capsys.readouterr().out


def test_the_smallest_weights_become_zero() -> None:
    text = "(float[N,8] x) => (float[N,9] y) { a = MatMul(x, w) y = Add(a, c) }"
    model = build(text, weights(w=(8, 9), c=(9,)))
    model, _ = Pipeline((ZeroSmallest(0.25),)).run(model, Context(bindings=BINDINGS))
    value = model.graph.node(0).inputs[1]
    assert value is not None
    assert value.const_value is not None
    array = value.const_value.numpy()
    assert np.count_nonzero(array == 0) == 18
    assert np.abs(array[array != 0]).min() >= np.quantile(
        np.abs(weights(w=(8, 9), c=(9,))["w"]), 0.25
    )
