import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from whet.ir.execute import CannotRun, Executor
from whet.ir.float64 import Float64Executor, kernel

CASES = {
    "conv": ("Conv", {"pads": [1, 0, 2, 1], "strides": [2, 1]}, (2, 4, 7, 8), (6, 4, 3, 2), True),
    "dilated": ("Conv", {"dilations": [2, 3]}, (2, 4, 9, 9), (6, 4, 3, 2), False),
    "grouped": ("Conv", {"group": 2}, (2, 4, 7, 8), (6, 2, 3, 3), True),
    "depthwise": ("Conv", {"group": 4}, (1, 4, 7, 8), (8, 1, 3, 3), False),
    "one-dimensional": ("Conv", {"auto_pad": "VALID"}, (2, 4, 9), (6, 4, 3), True),
    "three-dimensional": ("Conv", {"pads": [1] * 6}, (1, 2, 4, 5, 6), (3, 2, 3, 3, 3), True),
    "transposed": (
        "ConvTranspose",
        {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2]},
        (2, 4, 5, 6),
        (4, 3, 3, 3),
        True,
    ),
    "transposed-grouped": (
        "ConvTranspose",
        {"group": 2, "dilations": [2, 1]},
        (2, 4, 5, 6),
        (4, 3, 3, 2),
        False,
    ),
    "pool": (
        "AveragePool",
        {"kernel_shape": [3, 2], "strides": [2, 1], "pads": [1, 0, 1, 1]},
        (2, 3, 7, 8),
        None,
        False,
    ),
    "pool-counting": (
        "AveragePool",
        {"kernel_shape": [3, 2], "pads": [1, 0, 1, 1], "count_include_pad": 1},
        (2, 3, 7, 8),
        None,
        False,
    ),
}


def model(
    kind: int,
    op_type: str,
    attributes: dict[str, object],
    shapes: list[tuple[int, ...]],
) -> onnx.ModelProto:
    names = ["x", "w", "b"][: len(shapes)]
    nodes = [
        helper.make_node(op_type, names, ["z"], **attributes),
        helper.make_node("Relu", ["z"], ["y"]),
    ]
    inputs = [
        helper.make_tensor_value_info(name, kind, shape)
        for name, shape in zip(names, shapes, strict=True)
    ]
    outputs = [helper.make_tensor_value_info("y", kind, None)]
    graph = helper.make_graph(nodes, "g", inputs, outputs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)


@pytest.mark.parametrize("name", CASES)
def test_agrees_with_float32_kernels(name: str) -> None:
    op_type, attributes, x, w, biased = CASES[name]
    shapes = [x] if w is None else [x, w]
    if biased and w is not None:
        outputs = w[0] if op_type == "Conv" else w[1] * int(str(attributes.get("group", 1)))
        shapes.append((outputs,))
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal(s) for n, s in zip("xwb", shapes, strict=False)}
    narrow = {n: array.astype(np.float32) for n, array in feeds.items()}
    expected = Executor(model(TensorProto.FLOAT, op_type, attributes, shapes)).run(narrow)[0]
    executor = Float64Executor(model(TensorProto.DOUBLE, op_type, attributes, shapes))
    (found,) = executor.run(feeds, ["y"])
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_is_more_exact_than_float32() -> None:
    x = np.asarray([[[1.0, 1e-9]]])
    executor = Float64Executor(model(TensorProto.DOUBLE, "Conv", {}, [(1, 1, 2), (1, 1, 2)]))
    (found,) = executor.run({"x": x, "w": np.ones((1, 1, 2))}, ["y"])
    assert found.item() == 1.0 + 1e-9


@pytest.mark.parametrize(
    ("op_type", "attributes", "reason"),
    [
        ("Conv", {"auto_pad": "SAME_UPPER"}, "automatic padding"),
        ("ConvTranspose", {"output_shape": [9, 9]}, "output_shape"),
        ("AveragePool", {"kernel_shape": [2, 2], "ceil_mode": 1}, "ceil_mode"),
        ("Conv", {"dilations": [9, 9]}, "larger than its input"),
    ],
)
def test_refuses(op_type: str, attributes: dict[str, object], reason: str) -> None:
    shapes = [(1, 3, 8, 8)] if op_type == "AveragePool" else [(1, 3, 8, 8), (3, 3, 3, 3)]
    executor = Float64Executor(model(TensorProto.DOUBLE, op_type, attributes, shapes))
    feeds = {n: np.zeros(s) for n, s in zip("xw", shapes, strict=False)}
    with pytest.raises(CannotRun, match=reason):
        executor.run(feeds, ["y"])


def test_refuses_too_much_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "WORK_LIMIT", 100)
    executor = Float64Executor(model(TensorProto.DOUBLE, "Conv", {}, [(1, 3, 8, 8), (3, 3, 3, 3)]))
    with pytest.raises(CannotRun, match="multiplications are too many"):
        executor.run({"x": np.zeros((1, 3, 8, 8)), "w": np.zeros((3, 3, 3, 3))}, ["y"])


def test_refuses_graphs_that_need_no_kernel_of_ours() -> None:
    with pytest.raises(CannotRun, match="no node needs"):
        Float64Executor(model(TensorProto.DOUBLE, "Exp", {}, [(1, 3)]))
