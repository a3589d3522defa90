"""Train a twin, write its parameters back, and run the written model in ONNX Runtime."""

import numpy as np
import onnx_ir
import onnxruntime
import pytest

from whet.errors import UsageError

torch = pytest.importorskip("torch")
twin_package = pytest.importorskip("whet.ir.twin")

MLP = """
<ir_version: 8, opset_import: ["": 17]>
mlp (float[n, 4] x, float[4, 8] first_weight, float[8] first_bias, float[8, 3] second_weight,
     float[3] second_bias) => (float[n, 3] logits)
{
  h = MatMul (x, first_weight)
  hb = Add (h, first_bias)
  a = Tanh (hb)
  logits = Gemm (a, second_weight, second_bias)
}
"""

CONV_NET = """
<ir_version: 8, opset_import: ["": 17]>
conv_net (float[n, 1, 8, 8] x, float[4, 1, 3, 3] conv_weight, float[4] conv_bias,
          float[4] bn_scale, float[4] bn_bias, float[4] bn_mean, float[4] bn_variance,
          float[4, 3] fc_weight, float[3] fc_bias) => (float[n, 3] logits)
{
  c = Conv <pads = [1, 1, 1, 1]> (x, conv_weight, conv_bias)
  b = BatchNormalization (c, bn_scale, bn_bias, bn_mean, bn_variance)
  r = Relu (b)
  p = GlobalAveragePool (r)
  f = Flatten (p)
  logits = Gemm (f, fc_weight, fc_bias)
}
"""


def filled(text: str, dtype: onnx_ir.DataType = onnx_ir.DataType.FLOAT) -> onnx_ir.Model:
    """Turn every input but x into an initializer with seeded values and a dotted name."""
    rng = np.random.default_rng(7)
    model = onnx_ir.from_onnx_text(text)
    for value in list(model.graph.inputs)[1:]:
        model.graph.inputs.remove(value)
        assert value.name is not None
        assert value.shape is not None
        value.name = value.name.replace("_", ".")
        array = rng.standard_normal(value.shape.numpy()) * 0.5
        array = np.abs(array) if value.name in {"bn.variance", "bn.scale"} else array
        value.dtype = dtype
        value.const_value = onnx_ir.tensor(array.astype(dtype.numpy()), name=value.name)
        model.graph.register_initializer(value)
    return model


def run_in_onnxruntime(model: onnx_ir.Model, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(
        onnx_ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    (result,) = session.run(None, {"x": x})
    assert isinstance(result, np.ndarray)
    return result


@pytest.mark.parametrize(("text", "shape"), [(MLP, (32, 4)), (CONV_NET, (16, 1, 8, 8))])
def test_training_lowers_the_loss_and_is_written_back(text: str, shape: tuple[int, ...]) -> None:
    model = filled(text)
    twin = twin_package.to_fx(model)
    rng = np.random.default_rng(3)
    x = rng.standard_normal(shape).astype(np.float32)
    labels = torch.from_numpy(rng.integers(0, 3, shape[0]))
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    losses: list[float] = []
    for _ in range(10):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(twin(torch.from_numpy(x))[0], labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    changed = twin_package.write_back(twin, model)
    assert changed == list(model.graph.initializers)
    with torch.no_grad():
        expected = twin(torch.from_numpy(x))[0].numpy()
    np.testing.assert_allclose(run_in_onnxruntime(model, x), expected, rtol=1e-5, atol=1e-5)


def test_nothing_is_written_back_without_training() -> None:
    model = filled(MLP)
    before = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert twin_package.write_back(twin_package.to_fx(model), model) == []
    after = {name: value.const_value for name, value in model.graph.initializers.items()}
    assert before == after


@pytest.mark.parametrize("dtype", [onnx_ir.DataType.FLOAT16, onnx_ir.DataType.DOUBLE])
def test_values_return_in_the_models_type(dtype: onnx_ir.DataType) -> None:
    model = filled(MLP, dtype)
    twin = twin_package.to_fx(model, dtype=torch.float64)
    with torch.no_grad():
        twin.get_parameter("first.bias").fill_(1 / 3)
    assert twin_package.write_back(twin, model) == ["first.bias"]
    written = model.graph.initializers["first.bias"].const_value
    assert written is not None
    assert written.dtype == dtype
    np.testing.assert_array_equal(written.numpy(), np.full(8, 1 / 3, dtype.numpy()))


def test_bfloat16_is_written_back_exactly() -> None:
    model = filled(MLP)
    bias = model.graph.initializers["first.bias"]
    bias.const_value = onnx_ir.Tensor(
        bias.const_value.numpy().astype(onnx_ir.DataType.BFLOAT16.numpy()), name="first.bias"
    )
    twin = twin_package.to_fx(model)
    assert twin.get_parameter("first.bias").dtype is torch.bfloat16
    assert twin_package.write_back(twin, model) == []
    with torch.no_grad():
        twin.get_parameter("first.bias").mul_(2)
    assert twin_package.write_back(twin, model) == ["first.bias"]
    assert model.graph.initializers["first.bias"].const_value.dtype == onnx_ir.DataType.BFLOAT16


def test_a_twin_of_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match=r"'conv\.weight' has no parameter"):
        twin_package.write_back(twin_package.to_fx(filled(MLP)), filled(CONV_NET))


def test_a_parameter_of_another_shape_is_refused() -> None:
    model = filled(MLP)
    twin = twin_package.to_fx(model)
    twin.get_submodule("first").weight = torch.nn.Parameter(torch.zeros(4, 9))
    with pytest.raises(UsageError, match=r"\(4, 9\).*\(4, 8\)"):
        twin_package.write_back(twin, model)
