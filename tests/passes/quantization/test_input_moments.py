import numpy as np
import onnx_ir
from folding import build, weights

from whet.passes.quantization.input_moments import InputMoments, moments_of


def test_moments_of_patches_give_the_output_of_a_convolution() -> None:
    """E[W x] and the energy of W x follow from mean and Gram matrix alone."""
    text = "(float[N,4,6,6] x) => (float[N,6,3,3] y) { y = Conv<group=2,strides=[2,2],pads=[1,1,1,1]>(x, w) }"
    numbers = weights(w=(6, 2, 3, 3))
    model = build(text, numbers)
    node = next(iter(model.graph))
    asked = moments_of(node)
    assert asked is not None
    x = np.random.default_rng(1).standard_normal((5, 4, 6, 6)).astype(np.float32)
    sums = asked.start()
    sums.add(x[:2])
    sums.add(x[2:])
    from whet.ir.execute import Executor

    y = Executor(onnx_ir.to_proto(model)).run({"x": x})[0].astype(np.float64)
    for group, moments in enumerate(sums.result()):
        rows = numbers["w"].reshape(6, -1)[3 * group : 3 * group + 3].astype(np.float64)
        made = y[:, 3 * group : 3 * group + 3]
        np.testing.assert_allclose(rows @ moments.mean, made.mean((0, 2, 3)), atol=1e-5)
        energy = np.einsum("oi,ij,oj->o", rows, moments.gram, rows)
        np.testing.assert_allclose(energy, (made**2).mean((0, 2, 3)), rtol=1e-4)


def test_matrix_products_see_rows() -> None:
    sums = InputMoments().start()
    x = np.random.default_rng(0).standard_normal((3, 5, 4)).astype(np.float32)
    sums.add(x)
    (moments,) = sums.result()
    rows = x.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(moments.mean, rows.mean(0), atol=1e-6)
    np.testing.assert_allclose(moments.covariance, np.cov(rows.T, bias=True), atol=1e-5)


def test_transposed_convolutions_have_no_vectors() -> None:
    text = "(float[N,4,6,6] x) => (float[N,3,6,6] y) { y = ConvTranspose(x, w) }"
    assert moments_of(next(iter(build(text, weights(w=(4, 3, 1, 1))).graph))) is None
