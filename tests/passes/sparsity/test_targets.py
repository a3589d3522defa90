import numpy as np
import onnx_ir
from folding import build
from sparsifying import bench_of, network, samples, targets_of

from whet.ir.execute import Executor
from whet.ir.verify import verify
from whet.passes.sparsity.targets import with_weights


def test_matrices_go_back_as_they_are_stored() -> None:
    model = network()
    for target in targets_of(bench_of(model)):
        assert target.weight.value.const_value is not None
        assert (target.stored(target.matrix) == target.weight.value.const_value.numpy()).all()


def test_biases_that_may_change() -> None:
    gemm, product = targets_of(bench_of(network()))
    assert gemm.bias() is not None
    assert product.bias() is None
    text = """(float[N,12] x) => (float[N,16] y)
    { y = Gemm<alpha=2.0>(x, u, b) }"""
    rng = np.random.default_rng(0)
    drawn = {k: rng.standard_normal(s).astype(np.float32) for k, s in (("u", (12, 16)), ("b", 16))}
    (scaled,) = targets_of(bench_of(build(text, drawn)))
    assert scaled.bias() is None
    (bare,) = targets_of(bench_of(build(text.replace(", b)", ")").replace("2.0", "1.0"), drawn)))
    found = bare.bias()
    assert found is not None
    assert not found.any()


def test_a_copy_gets_other_numbers() -> None:
    model = network()
    targets = targets_of(bench_of(model))
    before = onnx_ir.to_proto(model).SerializeToString()
    changed = with_weights(
        model, targets, {"u": np.zeros((16, 12), np.float32)}, {"u": np.full(16, 2.0)}
    )
    verify(changed)
    assert onnx_ir.to_proto(model).SerializeToString() == before
    (y,) = Executor(onnx_ir.to_proto(changed)).run(samples(1)[0])
    assert np.allclose(y, 2 * targets[1].matrix.sum(1), atol=1e-4)
