import numpy as np
import pytest
from folding import build

from whet.passes.sparsity.block_turns import block_of, turns

TEXT = """(float[N,8] x) => (float[N,8] y)
{ a = MatMul(x, u) b = Relu(a) c = Add(x, b) d = MatMul(c, v) e = Add(c, d) y = MatMul(e, w) }"""


def test_blocks_and_their_angles() -> None:
    drawn = {"u": np.zeros((8, 8)), "v": -2 * np.eye(8), "w": np.eye(8)}
    model = build(TEXT, {k: a.astype(np.float32) for k, a in drawn.items()})
    first, second, last = (n for n in model.graph if n.op_type == "MatMul")
    assert block_of(first) == ("x", "c")
    assert block_of(second) == ("c", "e")
    assert block_of(last) is None
    feeds = {"x": np.random.default_rng(0).standard_normal((5, 8)).astype(np.float32)}
    found = turns(model, [("x", "c"), ("c", "e")], [feeds], 1)
    assert found["x", "c"] == pytest.approx(0.0, abs=1e-3)
    assert found["c", "e"] == pytest.approx(1.0, abs=1e-3)
