import numpy as np
import onnx_ir
import pytest
from folding import build

from whet.errors import Mismatch
from whet.ir.execute import Executor
from whet.passes.proposal import Builder, FreshNames
from whet.passes.sparsity.algorithms.encoding import background_of, encode
from whet.passes.sparsity.spelling import spell_sparse

TEXT = "(float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


def decoded(array: np.ndarray, bits: int | None, opset: int) -> np.ndarray:
    model = build(TEXT, opset=opset)
    made = Builder(FreshNames(model), next(iter(model.graph)))
    value = spell_sparse(made, encode(array, background_of(array), bits), "w", opset=opset)
    for weight in made.initializers:
        model.graph.register_initializer(weight)
    for node in made.nodes:
        model.graph.append(node)
    value.type = onnx_ir.TensorType(onnx_ir.DataType.from_numpy(array.dtype))
    model.graph.outputs.clear()
    model.graph.outputs.append(value)
    (found,) = Executor(onnx_ir.to_proto(model)).run({"x": np.zeros((1, 3), np.float32)})
    return found


@pytest.mark.parametrize("opset", [11, 17, 23])
@pytest.mark.parametrize("share", [0.6, 0.03, 0.0])
@pytest.mark.parametrize("kind", [np.float32, np.int8, np.uint8])
def test_the_runtime_decodes_the_same_bits(opset: int, share: float, kind: type) -> None:
    rng = np.random.default_rng(0)
    array = (rng.integers(-9, 9, (16, 3, 5)) * (rng.random((16, 3, 5)) < share)).astype(kind)
    assert decoded(array, None, opset).tobytes() == array.tobytes()


@pytest.mark.parametrize("share", [0.6, 0.03])
def test_codes_of_few_bits(share: float) -> None:
    rng = np.random.default_rng(0)
    array = (rng.integers(-4, 4, (32, 16)) * (rng.random((32, 16)) < share)).astype(np.int8)
    assert decoded(array, 3, 17).tobytes() == array.tobytes()


def test_old_operator_sets() -> None:
    array = np.zeros((4, 4), np.float32)
    model = build(TEXT)
    made = Builder(FreshNames(model), next(iter(model.graph)))
    with pytest.raises(Mismatch, match="opset 10 cannot add up places, opset 11 can"):
        spell_sparse(made, encode(array, background_of(array)), "w", opset=10)
