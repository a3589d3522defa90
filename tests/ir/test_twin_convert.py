"""Names, inputs, types, functions, and what is refused."""

import copy
import os
import subprocess
import sys

import numpy as np
import onnx_ir
import onnxruntime
import pytest

from whet.errors import UnsupportedModel, UsageError

torch = pytest.importorskip("torch")
twin_package = pytest.importorskip("whet.ir.twin")

AFFINE = """
<ir_version: 8, opset_import: ["": 17]>
affine (float[n, 2] x) => (float[n, 2] y)
  <float[2, 2] w = {1.0, 2.0, 3.0, 4.0}, float[2] b = {0.5, -0.5}>
{
  xw = MatMul (x, w)
  y = Add (xw, b)
}
"""


def initializer(name: str, array: np.ndarray) -> onnx_ir.Value:
    return onnx_ir.val(name, const_value=onnx_ir.tensor(array, name=name))


def summed(names: list[str]) -> onnx_ir.Model:
    """Build a model that adds one two-element initializer per name to its input."""
    x = onnx_ir.val("x", onnx_ir.DataType.FLOAT, [2])
    weights = [initializer(name, np.full(2, k + 1, np.float32)) for k, name in enumerate(names)]
    node = onnx_ir.node("Sum", [x, *weights])
    node.outputs[0].name = "y"
    graph = onnx_ir.Graph(
        [x], node.outputs, nodes=[node], initializers=weights, opset_imports={"": 17}
    )
    return onnx_ir.Model(graph, ir_version=8)


def test_parameters_have_the_initializers_names() -> None:
    names = ["w", "layer.0.weight", "layer.0.bias", "/enc/conv:0", "onnx::MatMul_12"]
    twin = twin_package.to_fx(summed(names))
    assert set(dict(twin.named_parameters())) == set(names)
    assert twin(torch.zeros(2))[0].tolist() == [15.0, 15.0]


def test_names_a_module_tree_cannot_hold_are_mangled_and_listed() -> None:
    names = ["a", "a.b", "c..d", "forward", "in.weight", "x'y", "_constants.k", "a__b"]
    model = summed(names)
    twin = twin_package.to_fx(model)
    paths = twin_package.parameter_paths(model)
    assert list(paths) == names
    assert set(paths.values()) == set(dict(twin.named_parameters()))
    assert len(set(paths.values())) == len(names)
    assert paths["a"] != "a"
    assert paths["a.b"] == "a.b"
    assert paths["a__b"] == "a__b"
    assert twin(torch.zeros(2))[0].tolist() == [36.0, 36.0]


def test_mangled_parameters_are_written_back() -> None:
    model = summed(["a", "a.b", "forward"])
    twin = twin_package.to_fx(model)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    assert sorted(twin_package.write_back(twin, model)) == ["a", "a.b", "forward"]
    assert model.graph.initializers["a.b"].const_value.numpy().tolist() == [4.0, 4.0]


def test_one_call_per_node_named_after_the_output() -> None:
    model = onnx_ir.from_onnx_text(AFFINE)
    twin = twin_package.to_fx(model)
    calls = [node for node in twin.graph.nodes if node.op == "call_function"]
    assert [call.name for call in calls] == ["xw", "y"]
    assert [call.meta["onnx"].op_type for call in calls] == ["MatMul", "Add"]
    assert set(twin_package.value_nodes(twin)) == {"x", "w", "b", "xw", "y"}


def test_a_twin_can_be_copied() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(AFFINE))
    other = copy.deepcopy(twin)
    x = torch.ones(1, 2)
    assert torch.equal(other(x)[0], twin(x)[0])


def test_intermediate_values_are_observed_and_replaced() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(AFFINE))
    seen: list[list[list[float]]] = []
    x = torch.ones(1, 2)
    (plain,) = twin_package.run_observed(twin, (x,), {"xw": lambda v: seen.append(v.tolist())})
    assert seen == [[[4.0, 6.0]]]
    assert torch.equal(plain, twin(x)[0])
    (replaced,) = twin_package.run_observed(twin, (x,), {"xw": torch.zeros_like})
    assert replaced.tolist() == [[0.5, -0.5]]


def test_observed_values_give_their_gradients() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(AFFINE))
    gradients: list[list[list[float]]] = []

    def watch(value: torch.Tensor) -> None:
        value.register_hook(lambda gradient: gradients.append(gradient.tolist()))

    (y,) = twin_package.run_observed(twin, (torch.ones(1, 2),), {"xw": watch})
    (3 * y).sum().backward()
    assert gradients == [[[3.0, 3.0]]]


def test_observing_an_unknown_value_is_an_error() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(AFFINE))
    with pytest.raises(UsageError, match="no value named 'nope'"):
        twin_package.run_observed(twin, (torch.ones(1, 2),), {"nope": torch.relu})


def test_an_input_with_an_initializer_may_be_left_out() -> None:
    model = summed(["w"])
    model.graph.inputs.append(model.graph.initializers["w"])
    twin = twin_package.to_fx(model)
    assert twin(torch.zeros(2))[0].tolist() == [1.0, 1.0]
    assert twin(torch.zeros(2), torch.full((2,), 5.0))[0].tolist() == [5.0, 5.0]


def test_a_required_input_behind_an_optional_one_is_demanded() -> None:
    model = summed(["w"])
    model.graph.inputs.insert(0, model.graph.initializers["w"])
    twin = twin_package.to_fx(model)
    assert twin(None, torch.zeros(2))[0].tolist() == [1.0, 1.0]
    with pytest.raises(UsageError, match="input 'x'"):
        twin()


ORACLE = """
<ir_version: 8, opset_import: ["": 17]>
oracle (float[3] x, int64[3] k) => (float[3] y, float16[3] half)
  <float[3] w = {0.1, 0.2, 0.3}>
{
  kf = Cast <to = 1> (k)
  three = Constant <value = int64[1] {3}> ()
  zero = ConstantOfShape (three)
  one = Constant <value_float = 1.0> ()
  a = Mul (x, w)
  b = Add (a, kf)
  c = Add (b, zero)
  y = Add (c, one)
  half = Cast <to = 10> (y)
}
"""


def test_every_float_follows_the_wanted_type() -> None:
    twin = twin_package.to_fx(onnx_ir.from_onnx_text(ORACLE), dtype=torch.float64)
    seen: dict[str, torch.dtype] = {}
    observers = {
        name: lambda value, name=name: seen.__setitem__(name, value.dtype)
        for name in ("kf", "zero", "one", "a", "b", "c", "y", "half", "w")
    }
    x, k = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1, 2, 3])
    twin_package.run_observed(twin, (x, k), observers)
    assert set(seen.values()) == {torch.float64}
    assert seen.keys() == observers.keys()


def test_a_type_that_cannot_be_computed_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="int64"):
        twin_package.to_fx(onnx_ir.from_onnx_text(AFFINE), dtype=torch.int64)


def test_integers_and_small_constants_are_buffers() -> None:
    model = summed(["w"])
    model.graph.register_initializer(initializer("shape", np.array([1, 2], np.int64)))
    twin = twin_package.to_fx(model)
    assert set(dict(twin.named_parameters())) == {"w"}
    assert set(dict(twin.named_buffers())) == {"shape"}


FUNCTIONS = """
<ir_version: 8, opset_import: ["": 17, "local": 1]>
main (float[2] x) => (float[2] y) <float[2] w = {2.0, 3.0}> {
  y = local.scaled <factor = 4.0> (x, w)
}
<domain: "local", opset_import: ["": 17]>
scaled <factor> (a, b) => (c) {
  k = Constant <value_float: float = @factor> ()
  ab = Mul (a, b)
  c = Mul (ab, k)
}
"""


def test_functions_are_inlined_in_a_copy() -> None:
    model = onnx_ir.from_onnx_text(FUNCTIONS)
    twin = twin_package.to_fx(model)
    assert twin(torch.ones(2))[0].tolist() == [8.0, 12.0]
    assert list(dict(twin.named_parameters())) == ["w"]
    assert [node.op_type for node in model.graph] == ["scaled"]
    assert len(model.functions) == 1


UNKNOWN = """
<ir_version: 8, opset_import: ["": 17, "my.domain": 3]>
odd (float[2] x) => (float[2] y) {
  [first] a = my.domain.Frobnicate (x)
  [second] b = my.domain.Frobnicate (a)
  [third] c = my.domain.Zap (b)
  y = Relu (c)
}
"""


def test_all_unsupported_operators_are_named_at_once() -> None:
    with pytest.raises(UnsupportedModel) as error:
        twin_package.to_fx(onnx_ir.from_onnx_text(UNKNOWN))
    message = str(error.value)
    assert "3 of 4 nodes" in message
    assert "my.domain::Frobnicate (opset 3): 2 nodes, first 'first'" in message
    assert "my.domain::Zap (opset 3): 1 node, first 'third'" in message


def test_an_unknown_attribute_is_refused() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    odd (float[2] x) => (float[2] y) { [n] y = LeakyRelu <alpha = 0.1, alfa = 2> (x) }
    """
    with pytest.raises(UnsupportedModel, match=r"LeakyRelu 'n' has no twin: .*'alfa'"):
        twin_package.to_fx(onnx_ir.from_onnx_text(text))


def test_a_missing_required_input_is_refused() -> None:
    text = """
    <ir_version: 8, opset_import: ["": 17]>
    odd (float[2] x) => (float[2] y) { [n] y = Add (x) }
    """
    with pytest.raises(UnsupportedModel, match=r"Add 'n' has no twin: .*'b'"):
        twin_package.to_fx(onnx_ir.from_onnx_text(text))


def test_operators_older_than_their_broadcasting_are_refused() -> None:
    text = """
    <ir_version: 3, opset_import: ["": 6]>
    old (float[2] x) => (float[2] y) { y = Add <broadcast = 1> (x, x) }
    """
    with pytest.raises(UnsupportedModel, match=r"Add \(opset 6\)"):
        twin_package.to_fx(onnx_ir.from_onnx_text(text))


def test_a_type_that_torch_lacks_is_refused_at_conversion() -> None:
    text = """
    <ir_version: 10, opset_import: ["": 23]>
    narrow (float[2] x) => (float4e2m1[2] y) { [n] y = Cast <to = 23> (x) }
    """
    with pytest.raises(UnsupportedModel, match="Cast 'n' has to FLOAT4E2M1"):
        twin_package.to_fx(onnx_ir.from_onnx_text(text))


def test_softmax_before_opset_13_works_on_a_matrix() -> None:
    text = """
    <ir_version: 7, opset_import: ["": {opset}]>
    soft (float[2, 3, 4] x) => (float[2, 3, 4] y) {{ y = Softmax <axis = 1> (x) }}
    """
    x = torch.arange(24.0).reshape(2, 3, 4) / 10
    for opset, dims in ((11, (1, 2)), (13, (1,))):
        model = onnx_ir.from_onnx_text(text.format(opset=opset))
        (y,) = twin_package.to_fx(model)(x)
        torch.testing.assert_close(y.sum(dims), torch.ones_like(y.sum(dims)))
        session = onnxruntime.InferenceSession(
            onnx_ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"]
        )
        (expected,) = session.run(None, {"x": x.numpy()})
        np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5)


def test_missing_torch_is_a_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("whet.ir.twin")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install whet\[torch\]"):
        __import__("whet.ir.twin")


def test_importing_the_core_does_not_import_torch() -> None:
    code = "import sys, whet, whet.ir; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=False)
    assert done.returncode == 0
