import numpy as np
import onnx_ir
import pytest
from folding import build
from sparsifying import bench_of, targets_of

from whet.ir.execute import Executor
from whet.passes.sparsity.targets import Target
from whet.passes.sparsity.weight_form import form_of, spell_form

TEXT = "(float[N,12] x) => (float[N,900] y) { y = MatMul(x, w) }"


def target(share: float) -> tuple[onnx_ir.Model, Target]:
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((12, 900)) * (rng.random((12, 900)) < share)
    model = build(TEXT, {"w": weights.astype(np.float32)})
    return model, targets_of(bench_of(model))[0]


@pytest.mark.parametrize("bits", [32, 8, 4, 3])
@pytest.mark.parametrize("share", [0.2, 1.0])
def test_what_is_decoded(bits: int, share: float) -> None:
    model, found = target(share)
    form = form_of(found, found.matrix, bits, store=True)
    assert (form.encoding is not None) == (share < 1)
    assert form.share == pytest.approx(share, abs=0.02)
    work = bench_of(model)
    node = found.node
    build_ = work.builder(node)
    value = spell_form(build_, form, found, work.opset)
    for weight in build_.initializers:
        model.graph.register_initializer(weight)
    for made in build_.nodes:
        model.graph.insert_before(node, made)
    node.replace_input_with(1, value)
    (y,) = Executor(onnx_ir.to_proto(model)).run({"x": np.eye(12, dtype=np.float32)})
    near = {32: 0.0, 8: 0.02, 4: 0.6, 3: 1.2}[bits]
    assert np.abs(y.T - found.matrix).max() <= near
    assert not y.T[found.matrix == 0].any()


def test_dense_on_demand() -> None:
    _, found = target(0.2)
    form = form_of(found, found.matrix, 32, store=False)
    assert form.encoding is None
    assert form.nbytes == 4 * found.matrix.size
    assert form.told == ", stored densely"
