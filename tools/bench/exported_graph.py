"""A graph as exporters write it: convolutions, then transformer blocks in plain operators, full of detours."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from whet.ir.values import Array

__all__ = ["exported_graph"]

WIDTH, HEADS, HIDDEN = 32, 4, 64


class _Writer:
    """Append nodes and weights; every method returns the name of its result."""

    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._rng = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """Append a node and return its first output."""
        stem = f"/{kind}_{len(self.nodes)}"
        names = [f"{stem}_output_{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, name=stem, **attributes))
        return names[0]

    def weight(self, *shape: int) -> str:
        """Add a random weight."""
        data = self._rng.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[0]))
        return self.store(data)

    def store(self, data: Array) -> str:
        """Add an initializer."""
        name = f"onnx::weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(data, name))
        return name

    def constant(self, *numbers: int, scalar: bool = False) -> str:
        """Append a Constant node with int64 numbers."""
        data = np.asarray(numbers[0] if scalar else numbers, dtype=np.int64)
        return self.op("Constant", value=numpy_helper.from_array(data))

    def real(self, number: float) -> str:
        """Append a Constant node with one float."""
        return self.op(
            "Constant", value=numpy_helper.from_array(np.asarray(number, dtype=np.float32))
        )


def _size(writer: _Writer, x: str, axis: int) -> str:
    """Write one size of ``x`` as a vector of one element."""
    found = writer.op("Gather", writer.op("Shape", x), writer.constant(axis, scalar=True), axis=0)
    return writer.op("Unsqueeze", found, writer.constant(0))


def _linear(writer: _Writer, x: str, inside: int, outside: int) -> str:
    """Write x W^T + b with the weight stored the way PyTorch stores it."""
    turned = writer.op("Transpose", writer.weight(outside, inside), perm=[1, 0])
    return writer.op("Add", writer.op("MatMul", x, turned), writer.weight(outside))


def _heads(writer: _Writer, x: str, perm: list[int]) -> str:
    """Split the last axis into heads, with sizes read at run time."""
    parts = [_size(writer, x, 0), _size(writer, x, 1)]
    parts += [writer.constant(HEADS), writer.constant(WIDTH // HEADS)]
    split = writer.op("Reshape", x, writer.op("Concat", *parts, axis=0))
    return writer.op("Transpose", split, perm=perm)


def _norm(writer: _Writer, x: str) -> str:
    """Write a layer normalization in plain operators."""
    centered = writer.op("Sub", x, writer.op("ReduceMean", x, axes=[-1]))
    again = writer.op("Sub", x, writer.op("ReduceMean", x, axes=[-1]))
    squares = writer.op("Pow", writer.op("Cast", again, to=TensorProto.FLOAT), writer.real(2.0))
    variance = writer.op("ReduceMean", squares, axes=[-1])
    scale = writer.op("Sqrt", writer.op("Add", variance, writer.real(1e-5)))
    scaled = writer.op("Mul", writer.op("Div", centered, scale), writer.weight(WIDTH))
    return writer.op("Add", scaled, writer.weight(WIDTH))


def _attention(writer: _Writer, x: str, mask: str) -> str:
    """Write multi-head attention with an additive mask."""
    query = _heads(writer, _linear(writer, x, WIDTH, WIDTH), [0, 2, 1, 3])
    key = _heads(writer, _linear(writer, x, WIDTH, WIDTH), [0, 2, 1, 3])
    value = _heads(writer, _linear(writer, x, WIDTH, WIDTH), [0, 2, 1, 3])
    key = writer.op("Transpose", key, perm=[0, 1, 3, 2])
    root = writer.op(
        "Sqrt", writer.op("Cast", writer.constant(WIDTH // HEADS), to=TensorProto.FLOAT)
    )
    scores = writer.op("Div", writer.op("MatMul", query, key), root)
    scores = writer.op("Add", scores, mask)
    weights = writer.op("Dropout", writer.op("Softmax", scores, axis=-1), writer.real(0.1))
    mixed = writer.op("Transpose", writer.op("MatMul", weights, value), perm=[0, 2, 1, 3])
    parts = [_size(writer, mixed, 0), _size(writer, mixed, 1), writer.constant(WIDTH)]
    return writer.op("Reshape", mixed, writer.op("Concat", *parts, axis=0))


def _block(writer: _Writer, x: str, mask: str) -> str:
    """Write one transformer block."""
    mixed = _linear(writer, _attention(writer, _norm(writer, x), mask), WIDTH, WIDTH)
    x = writer.op("Add", x, writer.op("Identity", writer.op("Dropout", mixed, writer.real(0.1))))
    wide = _linear(writer, _norm(writer, x), WIDTH, HIDDEN)
    erf = writer.op("Erf", writer.op("Div", wide, writer.real(2.0**0.5)))
    gelu = writer.op(
        "Mul", writer.op("Mul", wide, writer.op("Add", erf, writer.real(1.0))), writer.real(0.5)
    )
    return writer.op("Add", x, writer.op("Identity", _linear(writer, gelu, HIDDEN, WIDTH)))


def _mask(writer: _Writer, mask: str) -> str:
    """Write (1 - mask) * -10000 with detours through Slice, Unsqueeze and Cast."""
    whole = writer.op("Slice", mask, *(writer.constant(n) for n in (0, 2**63 - 1, 0, 1)))
    deep = writer.op(
        "Unsqueeze", writer.op("Unsqueeze", whole, writer.constant(1)), writer.constant(2)
    )
    wide = writer.op("Cast", writer.op("Cast", deep, to=TensorProto.FLOAT), to=TensorProto.FLOAT)
    return writer.op("Mul", writer.op("Sub", writer.real(1.0), wide), writer.real(-10000.0))


def _stem(writer: _Writer, image: str) -> str:
    """Write convolutions with batch normalization, then a sequence of one vector per image."""
    x = image
    for inside, outside in ((3, 8), (8, 16), (16, WIDTH)):
        x = writer.op(
            "Conv",
            x,
            writer.weight(outside, inside, 3, 3),
            kernel_shape=[3, 3],
            pads=[1, 1, 1, 1],
            strides=[2, 2],
        )
        rows = [writer.weight(outside), writer.weight(outside), writer.weight(outside)]
        spread = writer.store(np.linspace(0.5, 2.0, outside, dtype=np.float32))
        x = writer.op("Relu", writer.op("BatchNormalization", x, *rows, spread, epsilon=1e-5))
    pooled = writer.op("Flatten", writer.op("GlobalAveragePool", x), axis=1)
    return writer.op("Unsqueeze", pooled, writer.constant(1))


def exported_graph(nodes: int = 2000, seed: int = 0) -> onnx.ModelProto:
    """Return a valid model of about ``nodes`` nodes with random weights and dynamic batch and seq."""
    writer = _Writer(seed)
    hidden = writer.op("Gather", writer.weight(97, WIDTH), "ids")
    hidden = writer.op("Add", hidden, _stem(writer, "image"))
    mask = _mask(writer, "mask")
    while len(writer.nodes) < nodes - 20:
        hidden = _block(writer, hidden, mask)
    logits = _linear(writer, _norm(writer, hidden), WIDTH, 7)
    writer.nodes.append(helper.make_node("Identity", [logits], ["logits"], name="/last"))
    inputs = [
        helper.make_tensor_value_info("ids", TensorProto.INT64, ["batch", "seq"]),
        helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", "seq"]),
        helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 16, 16]),
    ]
    output = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "seq", 7])
    graph = helper.make_graph(writer.nodes, "exported", inputs, [output], writer.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model
