from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import pytest
from onnx.reference import ReferenceEvaluator

from whet.errors import Mismatch
from whet.ir.execute import Executor
from whet.ir.files import load_model
from whet.ir.prepare import normalize
from whet.ir.saving import save_model
from whet.ir.text import parse_model, print_model
from whet.ir.values import weight_bytes
from whet.ir.verify import verify
from whet.passes.pipeline import Pipeline
from whet.passes.proposal import Builder, Proposal
from whet.passes.quantization.algorithms.approximation import (
    Approximation,
    Blocks,
    Codebook,
    LowRank,
    Outliers,
    Sum,
)
from whet.passes.quantization.storage import spell, spell_integers
from whet.passes.recipes import canonical, exact, legalization
from whet.passes.workbench import Context, Workbench

RNG = np.random.default_rng(5)


def codebook(outputs: int = 24, inputs: int = 50, bits: int = 3, tables: int = 24) -> Codebook:
    codes = RNG.integers(0, 2**bits, (outputs, inputs)).astype(np.uint8)
    return Codebook(codes, RNG.standard_normal((tables, 2**bits)).astype(np.float32), bits)


def blocks(bits: int, size: int, *, zeros: bool, outputs: int = 24, inputs: int = 50) -> Blocks:
    count = -(-inputs // size)
    scales = RNG.uniform(0.5, 1, (outputs, count)).astype(np.float32)
    if zeros:
        codes = RNG.integers(0, 2**bits, (outputs, inputs)).astype(np.uint8)
        points = RNG.integers(0, 2**bits, (outputs, count)).astype(np.uint8)
        return Blocks(codes, scales, points, bits, size)
    high = 2 ** (bits - 1)
    return Blocks(
        RNG.integers(-high, high, (outputs, inputs)).astype(np.int8), scales, None, bits, size
    )


def outliers(outputs: int = 24, inputs: int = 50) -> Outliers:
    keep = RNG.random((outputs, inputs)) < 0.05
    numbers = RNG.standard_normal(int(keep.sum())).astype(np.float32)
    counts = keep.sum(1).astype(np.uint16)
    return Outliers((outputs, inputs), counts, np.nonzero(keep)[1].astype(np.uint16), numbers)


def low_rank(dtype: type = np.float32) -> LowRank:
    left, right = RNG.standard_normal((24, 3)), RNG.standard_normal((3, 50))
    return LowRank(left.astype(dtype), right.astype(dtype))


def model_with(
    approximation: Approximation, *, opset: int = 23, transposed: bool = True
) -> onnx_ir.Model:
    """Return y = x W with W stored as ``approximation``."""
    text = f"""<ir_version: 10, opset_import: ["" : {opset}]>
    m (float[N,50] x) => (float[N,24] y) <float[50,24] w> {{ y = MatMul(x, w) }}"""
    if not transposed:
        text = text.replace("y = MatMul(x, w)", "y = Gemm<transB=1>(x, w)")
        text = text.replace("float[50,24]", "float[24,50]")
    proto = onnx.parser.parse_model(text)
    shape = (50, 24) if transposed else (24, 50)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(shape, np.float32), "w"))
    model = onnx_ir.from_proto(proto)
    node = model.graph[0]
    work = Workbench(model, canonical().passes[0], Context())
    build = work.builder(node)
    value = spell(build, approximation, "w", transposed=transposed, opset=opset)
    inputs = [node.inputs[0], value]
    result = build.op(node.op_type, *inputs, attributes=dict(node.attributes))
    replace(build, node, result)
    verify(model)
    return model


def replace(build: Builder, node: onnx_ir.Node, result: onnx_ir.Value) -> None:
    new = tuple(build.nodes), tuple(build.initializers)
    Proposal((node,), ((node.outputs[0], result),), *new).commit("test")


def decoded_ops(model: onnx_ir.Model, folder: Path) -> list[str]:
    """Return the operators that ONNX Runtime keeps."""
    save_model(model, folder / "m.onnx")
    Executor(folder / "m.onnx", optimization="basic", save_optimized=folder / "o.onnx")
    return [node.op_type for node in onnx.load(str(folder / "o.onnx")).graph.node]


EVERY = {
    "rows of tables, 3 bits": codebook(),
    "rows of tables, 4 bits": codebook(bits=4),
    "rows of tables, 2 bits": codebook(bits=2),
    "one table, 5 bits": codebook(bits=5, tables=1),
    "one table, 4 bits": codebook(bits=4, tables=1),
    "one table, 8 bits": codebook(bits=8, tables=1),
    "scale per row, 3 bits": blocks(3, 50, zeros=False),
    "scale per row, 4 bits": blocks(4, 50, zeros=True),
    "blocks, 4 bits": blocks(4, 10, zeros=True),
    "blocks with a rest, 2 bits": blocks(2, 16, zeros=True),
    "blocks with a rest, 8 bits": blocks(8, 16, zeros=False),
    "low rank": low_rank(),
    "low rank, half": low_rank(np.float16),
    "outliers": outliers(),
    "all": Sum((codebook(), outliers(), low_rank(np.float16))),
}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("opset", [17, 23])
def test_the_runtime_decodes_once_what_is_stored(name: str, opset: int, tmp_path: Path) -> None:
    approximation = EVERY[name]
    model = model_with(approximation, opset=opset)
    x = np.random.default_rng(1).standard_normal((4, 50)).astype(np.float32)
    wanted = x @ approximation.values().T
    proto = onnx_ir.to_proto(model)
    (found,) = Executor(proto).run({"x": x})
    assert np.allclose(found, wanted, atol=1e-4)
    (found,) = ReferenceEvaluator(proto).run(None, {"x": x})
    assert np.allclose(found, wanted, atol=1e-4)
    assert decoded_ops(model, tmp_path) == ["MatMul"]
    assert weight_bytes(model) <= approximation.nbytes + unfilled(approximation) + 120


def unfilled(approximation: Approximation) -> int:
    """Return the bytes that fill up last blocks."""
    if not isinstance(approximation, Blocks):
        return 0
    outputs, count = approximation.scales.shape
    missing = count * approximation.size - approximation.codes.shape[1]
    return outputs * missing * approximation.bits // 8


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("transposed", [True, False])
def test_no_exact_pass_folds_the_decoding_back(name: str, transposed: bool) -> None:
    model = normalize(model_with(EVERY[name], transposed=transposed))
    x = np.random.default_rng(2).standard_normal((4, 50)).astype(np.float32)
    (before,) = Executor(onnx_ir.to_proto(model)).run({"x": x})
    size = weight_bytes(model)
    stages = (canonical(), exact(), *legalization("onnxruntime"))
    after, _ = Pipeline(stages).run(model, Context())
    assert weight_bytes(after) <= size
    (found,) = Executor(onnx_ir.to_proto(after)).run({"x": x})
    assert np.allclose(found, before, atol=1e-5)


@pytest.mark.parametrize("name", ["all", "rows of tables, 4 bits"])
def test_text_and_files_keep_it(name: str, tmp_path: Path) -> None:
    model = model_with(EVERY[name])
    text = print_model(model, elide=1 << 30)
    again = parse_model(text)
    assert print_model(again, elide=1 << 30) == text
    save_model(model, tmp_path / "m.onnx")
    x = RNG.standard_normal((4, 50)).astype(np.float32)
    (before,) = Executor(onnx_ir.to_proto(model)).run({"x": x})
    for other in (again, load_model(tmp_path / "m.onnx")):
        (found,) = Executor(onnx_ir.to_proto(other)).run({"x": x})
        assert np.array_equal(found, before)


CONVOLUTION = """<ir_version: 10, opset_import: ["" : 23]>
m (float[N,16,9,9] x) => (float[N,32,7,7] y) <float[32,16,3,3] w>
{
  xs = Constant<value_float = 0.02>()
  xz = Constant<value = uint8 {128}>()
  xq = QuantizeLinear(x, xs, xz)
  xd = DequantizeLinear(xq, xs, xz)
  c = Conv(xd, w)
  ys = Constant<value_float = 0.1>()
  cq = QuantizeLinear(c, ys, xz)
  y = DequantizeLinear(cq, ys, xz)
}"""


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_a_convolution_stored_in_few_bits_runs_in_the_integer_kernel(
    bits: int, tmp_path: Path
) -> None:
    proto = onnx.parser.parse_model(CONVOLUTION)
    weight = np.zeros((32, 16, 3, 3), np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    model = onnx_ir.from_proto(proto)
    node = next(n for n in model.graph if n.op_type == "Conv")
    high = 2 ** (bits - 1) - 1
    codes = RNG.integers(-high, high + 1, (32, 144)).astype(np.int8)
    scale = RNG.uniform(0.01, 0.02, 32).astype(np.float32)
    build = Workbench(model, canonical().passes[0], Context()).builder(node)
    integers = spell_integers(build, codes, bits, weight.shape, "w", opset=23)
    zeros = build.constant(np.zeros(32, np.int8))
    real = build.op(
        "DequantizeLinear", integers, build.constant(scale), zeros, attributes={"axis": 0}
    )
    replace(build, node, build.op("Conv", node.inputs[0], real))
    verify(model)
    x = RNG.standard_normal((2, 16, 9, 9)).astype(np.float32)
    (wanted,) = ReferenceEvaluator(onnx_ir.to_proto(model)).run(None, {"x": x})
    save_model(model, tmp_path / "m.onnx")
    run = Executor(tmp_path / "m.onnx", optimization="extended", save_optimized=tmp_path / "o.onnx")
    (found,) = run.run({"x": x})
    assert np.abs(found - wanted).max() <= 0.1 * 1.01
    kept = [n.op_type for n in onnx.load(str(tmp_path / "o.onnx")).graph.node]
    assert kept == ["QuantizeLinear", "QLinearConv", "DequantizeLinear"]
    assert weight_bytes(model) < codes.size * bits / 8 + 32 * 5 + 100


def test_an_old_opset_is_declined() -> None:
    with pytest.raises(Mismatch, match="opset 10 cannot take bits apart, opset 11 can"):
        model_with(codebook(), opset=10)
    with pytest.raises(Mismatch, match="opset 13 cannot add to places, opset 16 can"):
        model_with(outliers(), opset=13)
