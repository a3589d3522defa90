"""Convolutions and pools of any shape against ONNX Runtime, under the sanitizers of the compiler."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from c_artifacts import build, execute, lower, needs_gcc
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from whet.backends.c import artifact
from whet.backends.c.toolchain import CompilerMissing

pytestmark = needs_gcc
SANITIZED = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")


@pytest.fixture(autouse=True)
def _no_code_size(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_device: object) -> Any:
        raise CompilerMissing("not asked for")

    monkeypatch.setattr(artifact, "find_toolchain", missing)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, Any]:
    space = draw(st.sampled_from([1, 2, 2]))
    each = st.integers(1, 3)
    kernel = [draw(st.integers(1, 4)) for _ in range(space)]
    found = {
        "space": space,
        "batch": draw(st.integers(1, 2)),
        "size": [draw(st.integers(1, 9)) for _ in range(space)],
        "kernel_shape": kernel,
        "strides": [draw(each) for _ in range(space)],
        "dilations": [draw(st.integers(1, 2)) for _ in range(space)],
        "pads": [draw(st.integers(0, 2)) for _ in range(2 * space)],
        "groups": draw(st.sampled_from([1, 1, 2, 3])),
        "depth": draw(st.integers(1, 3)),
        "outputs": draw(st.integers(1, 5)),
        "seed": draw(st.integers(0, 99)),
    }
    for k in range(space):
        reach = (kernel[k] - 1) * found["dilations"][k] + 1
        assume(found["size"][k] + found["pads"][k] + found["pads"][k + space] >= reach)
    return found


def attributes(spec: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: spec[name] for name in ("kernel_shape", "strides", "pads", *names)}


def check(
    nodes: list[onnx.NodeProto], spec: dict[str, Any], channels: int, weights: dict[str, Any]
) -> None:
    shape = [spec["batch"], channels, *spec["size"]]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    y = onnx.ValueInfoProto(name="y")
    y.type.tensor_type.elem_type = TensorProto.FLOAT
    constants = [onnx.numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, "fuzz", [x], [y], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    data = np.random.default_rng(spec["seed"]).standard_normal(shape).astype(np.float32)
    with tempfile.TemporaryDirectory() as name:
        lower(model, Path(name), {"x": data})
        assert "ok" in execute(build(Path(name), *SANITIZED))


@settings(max_examples=25)
@given(windows())
def test_float_convolutions(spec: dict[str, Any]) -> None:
    rng = np.random.default_rng(spec["seed"])
    groups = spec["groups"]
    channels, outputs = groups * spec["depth"], groups * spec["outputs"]
    weights = {
        "w": rng.standard_normal((outputs, spec["depth"], *spec["kernel_shape"])).astype(
            np.float32
        ),
        "b": rng.standard_normal(outputs).astype(np.float32),
    }
    more = attributes(spec, "dilations")
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["c"], group=groups, **more),
        helper.make_node("Relu", ["c"], ["y"]),
    ]
    check(nodes, spec, channels, weights)


@settings(max_examples=40)
@given(
    windows(),
    st.sampled_from([0, 7, 128]),
    st.booleans(),
    st.sampled_from(["Relu", "HardSwish", ""]),
)
def test_integer_convolutions(spec: dict[str, Any], zero: int, bias: bool, act: str) -> None:
    rng = np.random.default_rng(spec["seed"])
    groups = spec["groups"]
    depth = 1 if spec["seed"] % 3 == 0 else spec["depth"]
    channels, outputs = groups * depth, groups * (1 if depth == 1 else spec["outputs"])
    scale = rng.uniform(0.005, 0.02, outputs).astype(np.float32)
    step = np.float32(0.03)
    weights: dict[str, Any] = {
        "s": step,
        "z": np.uint8(zero),
        "w": rng.integers(-127, 128, (outputs, depth, *spec["kernel_shape"])).astype(np.int8),
        "ws": scale,
        "b": rng.integers(-900, 900, outputs).astype(np.int32),
        "bs": (step * scale).astype(np.float32),
        "o": np.float32(0.05),
        "oz": np.uint8(zero),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs"], ["bd"], axis=0),
        helper.make_node(
            "Conv",
            ["d", "wd", "bd"][: 3 if bias else 2],
            ["c"],
            group=groups,
            **attributes(spec, "dilations"),
        ),
        *([helper.make_node(act, ["c"], ["a"])] if act else []),
        helper.make_node("QuantizeLinear", ["a" if act else "c", "o", "oz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "o", "oz"], ["y"]),
    ]
    check(nodes, spec, channels, weights)


@settings(max_examples=25)
@given(
    windows(),
    st.sampled_from(["MaxPool", "AveragePool"]),
    st.booleans(),
    st.booleans(),
    st.booleans(),
)
def test_pools(spec: dict[str, Any], kind: str, ceil: bool, padded: bool, grid: bool) -> None:
    space = spec["space"]
    for k in range(space):  # ONNX Runtime asks for pads smaller than the window
        assume(max(spec["pads"][k], spec["pads"][k + space]) < spec["kernel_shape"][k])
    more: dict[str, Any] = attributes(spec) | {"ceil_mode": int(ceil)}
    if kind == "AveragePool":
        more["count_include_pad"] = int(padded)
    else:
        more["dilations"] = spec["dilations"]
    weights = {"s": np.float32(0.05), "z": np.uint8(100)} if grid else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
    ]
    nodes = [
        *(nodes if grid else []),
        helper.make_node(kind, ["d" if grid else "x"], ["y"], **more),
    ]
    check(nodes, spec, spec["depth"], weights)
