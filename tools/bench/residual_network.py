"""A residual network for small images, as exporters write one: Conv, BatchNormalization, Relu."""

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from whet.ir.values import Array

__all__ = ["residual_network"]


class _Writer:
    def __init__(self, seed: int) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self._draw = np.random.default_rng(seed)

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        name = f"/{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name

    def weight(self, array: Array) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def convolve(self, x: str, inside: int, outside: int, size: int, stride: int) -> str:
        kernel = self._draw.standard_normal((outside, inside, size, size)) / np.sqrt(inside * size)
        border = [size // 2] * 4
        made = self.op("Conv", x, self.weight(kernel), pads=border, strides=[stride] * 2)
        rows = [self.weight(self._draw.uniform(0.5, 1.5, outside)) for _ in range(4)]
        return self.op("BatchNormalization", made, *rows)

    def block(self, x: str, inside: int, outside: int, stride: int) -> str:
        first = self.op("Relu", self.convolve(x, inside, outside, 3, stride))
        second = self.convolve(first, outside, outside, 3, 1)
        short = x if inside == outside else self.convolve(x, inside, outside, 1, stride)
        return self.op("Relu", self.op("Add", second, short))


def residual_network(blocks: int = 3, seed: int = 0) -> onnx.ModelProto:
    """Return a network of 6 * ``blocks`` + 2 layers for 3x32x32 images with a dynamic batch; random weights."""
    writer = _Writer(seed)
    x = writer.op("Relu", writer.convolve("image", 3, 16, 3, 1))
    inside = 16
    for outside in (16, 32, 64):
        for _ in range(blocks):
            x = writer.block(x, inside, outside, 1 if inside == outside else 2)
            inside = outside
    pooled = writer.op("Flatten", writer.op("GlobalAveragePool", x))
    last = [writer.weight(np.full(shape, 0.01)) for shape in ((64, 10), (10,))]
    writer.nodes.append(helper.make_node("Gemm", [pooled, *last], ["scores"], name="/last"))
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 32, 32])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", 10])
    graph = helper.make_graph(writer.nodes, "residual", [image], [scores], writer.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return model
