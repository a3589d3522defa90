"""Random well-formed models for property tests, and inputs to run them on."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir
from hypothesis import strategies as st

OPSET = 20
MAX_RANK = 4
SYMBOL = "N"

Dim = int | str
Draw = Callable[[st.SearchStrategy[Any]], Any]


@dataclass
class _Builder:
    """Collects the nodes and the weights of a model; every value is float32 of known shape.

    Only axis 0 can be symbolic, and no operator moves it or mixes it with another axis.
    """

    seed: int
    nodes: list[onnx_ir.Node] = field(default_factory=list)
    weights: list[onnx_ir.Value] = field(default_factory=list)
    pool: list[onnx_ir.Value] = field(default_factory=list)

    def weight(self, *shape: int) -> onnx_ir.Value:
        rng = np.random.default_rng((self.seed, len(self.weights)))
        scale = 1 / math.sqrt(max(1, math.prod(shape[1:])))
        return self.constant((rng.standard_normal(shape) * scale).astype(np.float32))

    def constant(self, array: np.ndarray) -> onnx_ir.Value:
        name = f"w{len(self.weights)}"
        tensor = onnx_ir.tensor(array, name=name)
        self.weights.append(
            onnx_ir.Value(
                name=name,
                type=onnx_ir.TensorType(tensor.dtype),
                shape=onnx_ir.Shape(array.shape),
                const_value=tensor,
            )
        )
        return self.weights[-1]

    def integers(self, *values: int) -> onnx_ir.Value:
        return self.constant(np.array(values, dtype=np.int64))

    def call(
        self,
        op_type: str,
        inputs: list[onnx_ir.Value],
        *shapes: list[Dim],
        dtype: onnx_ir.DataType = onnx_ir.DataType.FLOAT,
        **attributes: int | str | list[int],
    ) -> onnx_ir.Value:
        """Add a node with one output per shape and return the first."""
        index = len(self.nodes)
        outputs = [
            onnx_ir.Value(
                name=f"v{index}_{port}",
                type=onnx_ir.TensorType(dtype),
                shape=onnx_ir.Shape(shape),
            )
            for port, shape in enumerate(shapes)
        ]
        node = onnx_ir.node(op_type, inputs, attributes, outputs=outputs, name=f"n{index}")
        self.nodes.append(node)
        if dtype == onnx_ir.DataType.FLOAT:
            self.pool.extend(outputs)
        return outputs[0]


def dims_of(value: onnx_ir.Value) -> list[Dim]:
    """Return a known shape as integers and names of symbolic dimensions."""
    assert value.shape is not None
    return [dim if isinstance(dim, int) else str(dim.value) for dim in value.shape]


def _fixed_axes(value: onnx_ir.Value) -> list[int]:
    return [axis for axis, dim in enumerate(dims_of(value)) if isinstance(dim, int)]


def _unary(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    ops = ["Relu", "Sigmoid", "Tanh", "Neg", "Abs", "Identity", "Softplus", "Erf"]
    b.call(draw(st.sampled_from(ops)), [x], dims_of(x))


def _binary(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    same = [value for value in b.pool if dims_of(value) == dims_of(x)]
    last = dims_of(x)[-1]
    choices = [*same, b.weight(last)] if isinstance(last, int) else same
    other = draw(st.sampled_from(choices))
    b.call(draw(st.sampled_from(["Add", "Sub", "Mul"])), [x, other], dims_of(x))


def _matmul(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    *lead, inner = dims_of(x)
    if isinstance(inner, int) and lead:
        width = draw(st.integers(1, 4))
        b.call("MatMul", [x, b.weight(inner, width)], [*lead, width])


def _conv(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    dims = dims_of(x)
    if len(dims) != 4:
        return
    batch, channels, height, width = dims
    assert isinstance(channels, int)
    size = draw(st.sampled_from([1, 3]))
    out = draw(st.integers(1, 4))
    inputs = [x, b.weight(out, channels, size, size)]
    if draw(st.booleans()):
        inputs.append(b.weight(out))
    b.call("Conv", inputs, [batch, out, height, width], pads=[size // 2] * 4)


def _reshape(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    first, *rest = dims_of(x)
    if not rest:
        return
    sizes = [size for size in rest if isinstance(size, int)]
    b.call("Reshape", [x, b.integers(0, -1)], [first, math.prod(sizes)])


def _transpose(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    dims, axes = dims_of(x), _fixed_axes(x)
    order = draw(st.permutations(axes))
    perm = [order[axes.index(axis)] if axis in axes else axis for axis in range(len(dims))]
    b.call("Transpose", [x], [dims[axis] for axis in perm], perm=perm)


def _concat(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    axes = _fixed_axes(x)
    if not axes:
        return
    axis = draw(st.sampled_from(axes))
    other = draw(st.sampled_from([v for v in b.pool if dims_of(v) == dims_of(x)]))
    dims = dims_of(x)
    dims[axis] = int(dims[axis]) * 2
    if math.prod(dim for dim in dims if isinstance(dim, int)) <= 4096:
        b.call("Concat", [x, other], dims, axis=axis)


def _slice(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    axes = _fixed_axes(x)
    if not axes:
        return
    axis, dims = draw(st.sampled_from(axes)), dims_of(x)
    start = draw(st.integers(0, int(dims[axis]) - 1))
    stop = draw(st.integers(start + 1, int(dims[axis])))
    dims[axis] = stop - start
    b.call("Slice", [x, b.integers(start), b.integers(stop), b.integers(axis)], dims)


def _split(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    dims = dims_of(x)
    even = [axis for axis in _fixed_axes(x) if int(dims[axis]) % 2 == 0]
    if even:
        axis = draw(st.sampled_from(even))
        dims[axis] = int(dims[axis]) // 2
        b.call("Split", [x], dims, dims, axis=axis, num_outputs=2)


def _squeeze(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    dims = dims_of(x)
    ones = [axis for axis, dim in enumerate(dims) if dim == 1]
    if ones and len(dims) > 1:
        axis = draw(st.sampled_from(ones))
        b.call("Squeeze", [x, b.integers(axis)], dims[:axis] + dims[axis + 1 :])


def _unsqueeze(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    dims = dims_of(x)
    if len(dims) < MAX_RANK:
        axis = draw(st.integers(1, len(dims)))
        b.call("Unsqueeze", [x, b.integers(axis)], [*dims[:axis], 1, *dims[axis:]])


def _cast(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    dtype = draw(st.sampled_from([onnx_ir.DataType.DOUBLE, onnx_ir.DataType.FLOAT16]))
    wide = b.call("Cast", [x], dims_of(x), dtype=dtype, to=int(dtype))
    b.call("Cast", [wide], dims_of(x), to=int(onnx_ir.DataType.FLOAT))


def _reduce(draw: Draw, b: _Builder, x: onnx_ir.Value) -> None:
    axes = _fixed_axes(x)
    if not axes:
        return
    axis, dims = draw(st.sampled_from(axes)), dims_of(x)
    dims[axis] = 1
    op = draw(st.sampled_from(["ReduceMean", "ReduceSum", "ReduceMax"]))
    b.call(op, [x, b.integers(axis)], dims, keepdims=1)


_STEPS = (
    *(_unary, _binary, _matmul, _conv, _reshape, _transpose, _concat, _slice),
    *(_split, _squeeze, _unsqueeze, _cast, _reduce),
)


@st.composite
def models(draw: Draw, *, max_steps: int = 8, symbolic: bool = True) -> onnx_ir.Model:
    """Draw a valid model of float32 tensors that ONNX Runtime runs.

    One or two inputs, up to ``max_steps`` operators, values used several times, one or more
    outputs; axis 0 of every input is named ``N`` in some of the models unless ``symbolic`` is off.
    """
    builder = _Builder(draw(st.integers(0, 999)))
    batch: Dim = SYMBOL if symbolic and draw(st.booleans()) else draw(st.integers(1, 3))
    inputs: list[onnx_ir.Value] = []
    for index in range(draw(st.integers(1, 2))):
        tail = draw(st.sampled_from([[4], [3, 4], [2, 4, 4], [3, 5, 5], [1, 6]]))
        inputs.append(
            onnx_ir.Value(
                name=f"x{index}",
                type=onnx_ir.TensorType(onnx_ir.DataType.FLOAT),
                shape=onnx_ir.Shape([batch, *tail]),
            )
        )
    builder.pool.extend(inputs)
    for _ in range(draw(st.integers(1, max_steps))):
        step = draw(st.sampled_from(_STEPS))
        step(draw, builder, draw(st.sampled_from(builder.pool)))
    if not builder.nodes:
        builder.call("Relu", [inputs[0]], dims_of(inputs[0]))
    return _finish(draw, builder, inputs)


def _finish(draw: Draw, builder: _Builder, inputs: list[onnx_ir.Value]) -> onnx_ir.Model:
    produced = [value for value in builder.pool if value not in inputs]
    outputs = [value for value in produced if not value.uses()]
    shared = [value for value in produced if value.uses()]
    if shared and draw(st.booleans()):
        outputs.append(draw(st.sampled_from(shared)))
    weights = [value for value in builder.weights if value.uses()]
    graph = onnx_ir.Graph(
        inputs,
        outputs,
        nodes=builder.nodes,
        initializers=weights,
        opset_imports={"": OPSET},
        name="random",
    )
    return onnx_ir.Model(graph, ir_version=10)


def random_feeds(
    model: onnx_ir.Model, *, seed: int = 0, bindings: Mapping[str, int] | None = None
) -> dict[str, np.ndarray]:
    """Return one array per input that is no initializer; unbound symbolic dimensions become 2.

    Floats are standard normal, integers and booleans 0 or 1.
    """
    rng = np.random.default_rng(seed)
    feeds: dict[str, np.ndarray] = {}
    for value in model.graph.inputs:
        if value.is_initializer():
            continue
        assert value.name is not None
        assert value.dtype is not None
        shape = [
            dim if isinstance(dim, int) else (bindings or {}).get(dim, 2) for dim in dims_of(value)
        ]
        is_float = value.dtype.is_floating_point()
        drawn = rng.standard_normal(shape) if is_float else rng.integers(0, 2, shape)
        feeds[value.name] = np.asarray(drawn).astype(value.dtype.numpy())
    return feeds
