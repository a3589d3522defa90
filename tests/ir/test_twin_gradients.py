"""Gradients: against finite differences in float64, and straight through the rounding."""

import onnx_ir
import pytest

torch = pytest.importorskip("torch")
twin_package = pytest.importorskip("whet.ir.twin")

ATTENTION = """
<ir_version: 10, opset_import: ["": 23]>
attend (float[1, 4, 3, 2] q, float[1, 2, 5, 2] k, float[1, 2, 5, 2] v, float[3, 5] bias)
  => (float[1, 4, 3, 2] y)
{ y = Attention <softcap = 2.0> (q, k, v, bias) }
"""

CAUSAL = """
<ir_version: 10, opset_import: ["": 23]>
attend (float[1, 3, 4] q, float[1, 3, 4] k, float[1, 3, 4] v) => (float[1, 3, 4] y)
{ y = Attention <is_causal = 1, q_num_heads = 2, kv_num_heads = 2> (q, k, v) }
"""

LAYER_NORM = """
<ir_version: 8, opset_import: ["": 17]>
norm (float[2, 5] x, float[5] g, float[5] b) => (float[2, 5] y)
{ y = LayerNormalization (x, g, b) }
"""

CONV = """
<ir_version: 8, opset_import: ["": 17]>
conv (float[1, 2, 5, 4] x, float[2, 1, 2, 3] w, float[2] b) => (float[n, c, h, k] y)
{ y = Conv <group = 2, strides = [2, 1], auto_pad = "SAME_UPPER"> (x, w, b) }
"""

POOLS = """
<ir_version: 10, opset_import: ["": 22]>
pools (float[1, 2, 5, 5] x) => (float[n, c, h, k] y)
{
  a = AveragePool <kernel_shape = [3, 2], strides = [2, 2], ceil_mode = 1, dilations = [1, 2]> (x)
  b = LpPool <kernel_shape = [2, 2]> (a)
  y = Resize <mode = "cubic"> (b, , s)
}
""".replace("{\n  a", "<float[4] s = {1.0, 1.0, 2.0, 1.5}>\n{\n  a")

LSTM = """
<ir_version: 8, opset_import: ["": 17]>
recur (float[3, 2, 2] x, float[2, 8, 2] w, float[2, 8, 2] r) => (float[s, d, b, h] y)
{ y = LSTM <hidden_size = 2, direction = "bidirectional"> (x, w, r) }
"""

SCATTER = """
<ir_version: 8, opset_import: ["": 17]>
scatter (float[4, 2] x, float[2, 2] u) => (float[4, 2] y)
  <int64[2, 1] i = {3, 0}>
{ y = ScatterND <reduction = "mul"> (x, i, u) }
"""


@pytest.mark.parametrize(
    "text", [ATTENTION, CAUSAL, LAYER_NORM, CONV, POOLS, LSTM, SCATTER], ids=range(7)
)
def test_gradients_match_finite_differences(text: str) -> None:
    model = onnx_ir.from_onnx_text(text)
    twin = twin_package.to_fx(model, dtype=torch.float64)
    generator = torch.Generator().manual_seed(5)
    inputs = [
        torch.randn(list(value.shape), generator=generator, dtype=torch.float64, requires_grad=True)
        for value in model.graph.inputs
    ]
    assert torch.autograd.gradcheck(lambda *given: twin(*given), inputs)


def test_a_query_that_attends_nothing_has_zero_output_and_gradient() -> None:
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    attend (float[1, 1, 2, 2] q, float[1, 1, 3, 2] k, float[1, 1, 3, 2] v, bool[2, 3] mask)
      => (float[1, 1, 2, 2] y)
    { y = Attention (q, k, v, mask) }
    """
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(text))
    q, k, v = (torch.ones(1, 1, size, 2, requires_grad=True) for size in (2, 3, 3))
    mask = torch.tensor([[False] * 3, [True] * 3])
    (y,) = twin(q, k, v, mask)
    assert y[0, 0, 0].tolist() == [0.0, 0.0]
    y.sum().backward()
    for tensor in (q, k, v):
        assert torch.isfinite(tensor.grad).all()


QDQ = """
<ir_version: 8, opset_import: ["": 17]>
fake (float[2, 3] x) => (float[2, 3] y)
  <float[2] scale = {0.5, 0.25}, int8[2] zero = {0, 10}>
{
  q = QuantizeLinear <axis = 0> (x, scale, zero)
  y = DequantizeLinear <axis = 0> (q, scale, zero)
}
"""

INPUT = [[0.3, -0.6, 100.0], [0.3, -40.0, 2.0]]


def test_straight_through_changes_no_value() -> None:
    model = onnx_ir.from_onnx_text(QDQ)
    x = torch.tensor(INPUT)
    plain = twin_package.to_fx(model)(x)[0]
    through = twin_package.to_fx(model, straight_through=True)(x)[0]
    assert torch.equal(plain, through)
    assert plain.tolist() == [[0.5, -0.5, 63.5], [0.25, -34.5, 2.0]]


def test_straight_through_passes_gradients_inside_the_range_only() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(QDQ), straight_through=True)
    x = torch.tensor(INPUT, requires_grad=True)
    twin(x)[0].sum().backward()
    assert x.grad.tolist() == [[1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]


def test_the_scale_learns_as_in_learned_step_size_quantization() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(QDQ), straight_through=True)
    x = torch.tensor(INPUT)
    twin(x)[0].sum().backward()
    scale, zero = torch.tensor([[0.5], [0.25]]), torch.tensor([[0.0], [10.0]])
    ratio = x / scale
    low, high = -128 - zero, 127 - zero
    inside = (ratio >= low) & (ratio <= high)
    expected = torch.where(inside, torch.round(ratio) - ratio, ratio.clamp(low, high))
    torch.testing.assert_close(twin.get_parameter("scale").grad, expected.sum(dim=1))


def test_without_straight_through_rounding_stops_gradients() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(QDQ))
    q = twin_package.value_nodes(twin)["q"]
    assert q.kwargs["straight_through"] is False
    x = torch.tensor(INPUT, requires_grad=True)
    twin(x)[0].sum().backward()
    assert x.grad is None
