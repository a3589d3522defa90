"""Attention models with a bias, built node by node, and their float64 reference."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir

from whet.ir.execute import Executor
from whet.ir.shapes import infer_shapes
from whet.passes.attention.low_rank import Real, Sample, attend
from whet.passes.proposal import Builder, FreshNames

__all__ = [
    "AttentionModel",
    "bucket_table",
    "outputs",
    "reference",
    "relative_table_1d",
    "relative_table_2d",
    "shifted_windows",
    "smooth_table",
]

FLOAT = onnx_ir.DataType.FLOAT
Shape = Sequence[int | str]


class AttentionModel:
    """A graph under construction: operands q, k, v and as many attentions as are added."""

    def __init__(self, q: Shape, k: Shape, value_head: int | None = None) -> None:
        v = [*k[:3], k[3] if value_head is None else value_head]
        self.q, self.k, self.v = (_input(n, s) for n, s in (("q", q), ("k", k), ("v", v)))
        self.graph = onnx_ir.Graph(
            [self.q, self.k, self.v], [], nodes=[], opset_imports={"": 23}, name="g"
        )
        self.model = onnx_ir.Model(self.graph, ir_version=10)
        near = onnx_ir.Node("", "Identity", [], num_outputs=1, name="n")
        self.build = Builder(FreshNames(self.model), near)

    def input(
        self,
        name: str,
        shape: Shape,
        dtype: onnx_ir.DataType = FLOAT,
    ) -> onnx_ir.Value:
        value = _input(name, shape, dtype)
        self.graph.inputs.append(value)
        return value

    def attention(self, bias: onnx_ir.Value | None, **attributes: float) -> onnx_ir.Value:
        result = self.build.op("Attention", self.q, self.k, self.v, bias, attributes=attributes)
        result.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
        self.graph.outputs.append(result)
        return result

    def finish(self) -> onnx_ir.Model:
        self.graph.extend(self.build.nodes)
        for weight in self.build.initializers:
            self.graph.register_initializer(weight)
        return infer_shapes(self.model)


def _input(name: str, shape: Shape, dtype: onnx_ir.DataType = FLOAT) -> onnx_ir.Value:
    return onnx_ir.Value(name=name, shape=onnx_ir.Shape(shape), type=onnx_ir.TensorType(dtype))


def outputs(model: onnx_ir.Model, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return list(Executor(onnx_ir.to_proto(model)).run(feeds))


def reference(
    feeds: Mapping[str, np.ndarray], bias: Real, scale: float | None = None, causal: bool = False
) -> Real:
    q, k, v = feeds["q"], feeds["k"], feeds["v"]
    group = q.shape[1] // k.shape[1]
    k, v = (np.repeat(x, group, axis=1) for x in (k, v))
    bias = np.broadcast_to(bias.astype(np.float64), (*q.shape[:3], k.shape[2]))
    if causal:
        bias = np.where(np.tri(q.shape[2], k.shape[2], dtype=bool), bias, -np.inf)
    scale = 1 / np.sqrt(q.shape[3]) if scale is None else scale
    return attend(Sample(q, k, v, scale), bias)


def smooth_table(heads: int, n: int, m: int, width: float = 0.5) -> np.ndarray:
    """Return ``[heads, n, m]``: bumps around the diagonal, of another width for every head."""
    i, j = np.linspace(0, 1, n)[:, None], np.linspace(0, 1, m)
    widths = width * (1 + np.arange(heads)) / heads
    return np.stack([2 * np.exp(-(((i - j) / w) ** 2)) for w in widths]).astype(np.float32)


def relative_table_1d(values: np.ndarray, n: int) -> np.ndarray:
    """Gather ``[heads, n, n]`` from ``[2 n - 1, heads]`` by ``j - i``."""
    index = np.arange(n)[None, :] - np.arange(n)[:, None] + n - 1
    return np.moveaxis(values[index], -1, 0)


def relative_table_2d(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Gather ``[heads, n, n]`` from ``[(2 h - 1)(2 w - 1), heads]`` by both offsets, as Swin and BEiT do."""
    y, x = np.divmod(np.arange(height * width), width)
    dy, dx = y[:, None] - y[None, :] + height - 1, x[:, None] - x[None, :] + width - 1
    return np.moveaxis(values[dy * (2 * width - 1) + dx], -1, 0)


def bucket_table(values: np.ndarray, n: int, farthest: int = 128) -> np.ndarray:
    """Gather ``[heads, n, n]`` from ``[buckets, heads]`` by T5's buckets: exact near, then logarithmic."""
    half = len(values) // 2
    offset = np.arange(n)[None, :] - np.arange(n)[:, None]
    far = np.abs(offset)
    near = half // 2
    ratio = np.log(np.maximum(far, 1) / near) / np.log(farthest / near)
    bucket = np.where(
        far < near, far, np.minimum(near + (ratio * (half - near)).astype(int), half - 1)
    )
    return np.moveaxis(values[bucket + half * (offset > 0)], -1, 0)


def shifted_windows(side: int, window: int, shift: int) -> np.ndarray:
    """Return Swin's mask ``[windows, 1, n, n]``: -100 between positions of different regions."""
    cuts = np.zeros(side, int)
    cuts[side - window : side - shift] = 1
    cuts[side - shift :] = 2
    region = cuts[:, None] * 3 + cuts[None, :]
    count = side // window
    tiles = region.reshape(count, window, count, window).swapaxes(1, 2).reshape(count**2, window**2)
    return np.where(tiles[:, :, None] == tiles[:, None, :], 0, -100).astype(np.float32)[:, None]
