import numpy as np
from folding import build, weights

from whet.analysis.ranges import Range
from whet.passes.quantization.algorithms.formats import UINT8
from whet.passes.quantization.input_moments import moments_of
from whet.passes.quantization.range_choice import Reader, choose_range, output_energy
from whet.passes.quantization.weight_codes import Weights

WIDE, NARROW = Range(-1.0, 100.0), Range(-3.0, 3.0)


def reader(scale: np.ndarray) -> Reader:
    """Return a product of three inputs with the given weights."""
    text = "(float[N,3] x) => (float[N,2] y) { y = MatMul(x, w) }"
    node = next(iter(build(text, {"w": np.stack([scale, scale], 1).astype(np.float32)}).graph))
    vectors = moments_of(node)
    assert vectors is not None
    return Weights.of(node), vectors


def values() -> np.ndarray:
    """Return three channels, the last of which has outliers."""
    x = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    x[::50, 2] = 90.0
    return x


def test_outliers_that_nobody_multiplies_are_clipped() -> None:
    blind = reader(np.asarray([1.0, 1.0, 0.0]))
    assert choose_range([WIDE, NARROW], values(), [blind], UINT8) == NARROW


def test_outliers_that_matter_are_kept() -> None:
    seeing = reader(np.asarray([1.0, 1.0, 1.0]))
    assert choose_range([WIDE, NARROW], values(), [seeing], UINT8) == WIDE
    assert choose_range([WIDE, NARROW], values(), [], UINT8) == WIDE


def test_the_first_of_equals_is_kept() -> None:
    x = np.zeros((4, 3), np.float32)
    assert choose_range([WIDE, NARROW], x, [], UINT8) == WIDE


def test_energy_is_that_of_a_convolution() -> None:
    text = "(float[N,4,5,5] x) => (float[N,6,3,3] y) { y = Conv<group=2>(x, w) }"
    numbers = weights(w=(6, 2, 3, 3))
    model = build(text, numbers)
    node = next(iter(model.graph))
    vectors = moments_of(node)
    assert vectors is not None
    import onnx_ir

    from whet.ir.execute import Executor

    x = np.random.default_rng(2).standard_normal((3, 4, 5, 5)).astype(np.float32)
    y = Executor(onnx_ir.to_proto(model)).run({"x": x})[0].astype(np.float64)
    wanted = (y**2).sum(1).mean()
    np.testing.assert_allclose(output_energy(x, (Weights.of(node), vectors)), wanted, rtol=1e-4)
