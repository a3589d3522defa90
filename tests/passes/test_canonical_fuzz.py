"""Random graphs full of detours: the canonical fixpoint changes no bit of any output."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from rewriting import context_of, outputs_of, run_recipe

from whet.ir.execute import CannotRun
from whet.ir.shapes import infer_shapes
from whet.passes.recipes import canonical

Dim = int | str
Draw = Callable[[st.SearchStrategy[int]], int]


@dataclasses.dataclass(frozen=True)
class Tensor:
    name: str
    shape: tuple[Dim, ...]


class Writer:
    """Appends random nodes; every value is float32, its first axis may be the symbol N."""

    def __init__(self, draw: Draw) -> None:
        self._draw = draw
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.pool = [Tensor("x", ("N", 4)), Tensor("z", (2, 3, 1)), Tensor("w", ("N", 1, 6))]

    def pick(self, low: int, high: int) -> int:
        return self._draw(st.integers(low, high))

    def choose(self) -> Tensor:
        """Pick one of the youngest values, so that chains grow long."""
        return self.pool[-1 - self.pick(0, min(3, len(self.pool) - 1))]

    def constant(self, values: object, dtype: type = np.int64) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(values, dtype=dtype), name))
        return name

    def call(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> list[str]:
        names = [f"v{len(self.nodes)}_{k}" for k in range(outputs)]
        self.nodes.append(
            helper.make_node(kind, inputs, names, name=f"n{len(self.nodes)}", **attributes)
        )
        return names

    def keep(self, name: str, shape: tuple[Dim, ...]) -> None:
        self.pool.append(Tensor(name, shape))


def unary(writer: Writer) -> None:
    x = writer.choose()
    kinds = ("Identity", "Dropout", "Relu", "Abs", "Neg", "Floor", "Round", "Sign", "Exp")
    writer.keep(writer.call(kinds[writer.pick(0, len(kinds) - 1)], x.name)[0], x.shape)


def cast(writer: Writer) -> None:
    x = writer.choose()
    kinds = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.INT64)
    [middle] = writer.call("Cast", x.name, to=kinds[writer.pick(0, 3)])
    writer.keep(writer.call("Cast", middle, to=TensorProto.FLOAT)[0], x.shape)


def arithmetic(writer: Writer) -> None:
    x = writer.choose()
    kind = ("Add", "Sub", "Mul", "Div", "Pow")[writer.pick(0, 4)]
    number = (0.0, -0.0, 1.0, 2.0)[writer.pick(0, 3)]
    constant = writer.constant(np.full((1,) * writer.pick(0, len(x.shape)), number), np.float32)
    swap = kind in ("Add", "Mul") and writer.pick(0, 1)
    pair = (constant, x.name) if swap else (x.name, constant)
    writer.keep(writer.call(kind, *pair)[0], x.shape)


def same_shapes(writer: Writer) -> None:
    x = writer.choose()
    alike = [y for y in writer.pool if y.shape == x.shape]
    y = alike[writer.pick(0, len(alike) - 1)]
    writer.keep(writer.call(("Add", "Sub", "Mul")[writer.pick(0, 2)], x.name, y.name)[0], x.shape)


def transpose(writer: Writer) -> None:
    x = writer.choose()
    if x.shape and x.shape[0] == "N":
        order = [0, *range(len(x.shape) - 1, 0, -1)]
    else:
        order = list(range(len(x.shape)))[:: (1, -1)[writer.pick(0, 1)]]
    shape = tuple(x.shape[axis] for axis in order)
    writer.keep(writer.call("Transpose", x.name, perm=order)[0], shape)


def unsqueeze(writer: Writer) -> None:
    x = writer.choose()
    if len(x.shape) > 4:
        return
    axis = writer.pick(0 if x.shape[0] != "N" else 1, len(x.shape))
    shape = (*x.shape[:axis], 1, *x.shape[axis:])
    written = axis if writer.pick(0, 1) else axis - len(shape)
    writer.keep(writer.call("Unsqueeze", x.name, writer.constant([written]))[0], shape)


def squeeze(writer: Writer) -> None:
    x = writer.choose()
    ones = [axis for axis, size in enumerate(x.shape) if size == 1]
    if not ones or len(x.shape) < 2:
        return
    axis = ones[writer.pick(0, len(ones) - 1)]
    written = axis if writer.pick(0, 1) else axis - len(x.shape)
    shape = (*x.shape[:axis], *x.shape[axis + 1 :])
    writer.keep(writer.call("Squeeze", x.name, writer.constant([written]))[0], shape)


def reshape(writer: Writer) -> None:
    """Reshape the axes after N (or all): as constants, with copies, or with sizes read at run time."""
    x = writer.choose()
    front = x.shape[:1] if x.shape[0] == "N" else ()
    count = math.prod(size for size in x.shape if isinstance(size, int))
    divisors = [k for k in range(1, count + 1) if count % k == 0]
    first = divisors[writer.pick(0, len(divisors) - 1)]
    rest = (first, count // first)
    mode = writer.pick(0, 3)
    if mode == 0 and front:
        size = writer.call("Shape", x.name, start=0, end=1)[0]
        target = writer.call("Concat", size, writer.constant(list(rest)), axis=0)[0]
    elif mode == 1 and front:
        whole = writer.call("Shape", x.name)[0]
        size = writer.call("Gather", whole, writer.constant(0), axis=0)[0]
        flat = writer.call("Unsqueeze", size, writer.constant([0]))[0]
        target = writer.call("Concat", flat, writer.constant(list(rest)), axis=0)[0]
    elif mode == 2:
        target = writer.constant([*([0] if front else []), first, -1])
    else:
        target = writer.constant([*([-1] if front else []), *rest])
    writer.keep(writer.call("Reshape", x.name, target)[0], (*front, *rest))


def slices(writer: Writer) -> None:
    x = writer.choose()
    axis = len(x.shape) - 1
    size = x.shape[axis]
    if size == "N":
        start, end, taken = 0, 2**63 - 1, size
    else:
        assert isinstance(size, int)
        start = writer.pick(0, size - 1)
        end = (size, 2**31 - 1, start + 1)[writer.pick(0, 2)]
        taken = min(end, size) - start
    limits = [writer.constant([number]) for number in (start, end, (axis, -1)[writer.pick(0, 1)])]
    writer.keep(writer.call("Slice", x.name, *limits)[0], (*x.shape[:axis], taken))


def concat(writer: Writer) -> None:
    x = writer.choose()
    size = x.shape[-1]
    times = writer.pick(1, 3)
    if not isinstance(size, int) or size * times > 24:
        return
    axis = -1 if writer.pick(0, 1) else len(x.shape) - 1
    result = writer.call("Concat", *[x.name] * times, axis=axis)[0]
    writer.keep(result, (*x.shape[:-1], size * times))


def noops(writer: Writer) -> None:
    x = writer.choose()
    rank = len(x.shape)
    kind = writer.pick(0, 4)
    if kind == 0:
        name = writer.call("Pad", x.name, writer.constant([0] * 2 * rank))[0]
    elif kind == 1:
        name = writer.call("Tile", x.name, writer.constant([1] * rank))[0]
    elif kind == 2:
        name = writer.call("Split", x.name, axis=rank - 1, num_outputs=1)[0]
    elif kind == 3:
        name = writer.call("Expand", x.name, writer.constant([1]))[0]
    else:
        shape = writer.call("Shape", x.name)[0]
        name = writer.call("Expand", x.name, shape)[0]
    writer.keep(name, x.shape)


def expand(writer: Writer) -> None:
    """Expand one operand of an addition to the shape of the other."""
    x, y = writer.choose(), writer.constant([[1.5]], np.float32)
    if len(x.shape) != 2:
        return
    shape = writer.call("Shape", x.name)[0]
    wide = writer.call("Expand", y, shape)[0]
    writer.keep(writer.call("Add", x.name, wide)[0], x.shape)


def constants(writer: Writer) -> None:
    x = writer.choose()
    one = writer.constant(np.float32(writer.pick(-2, 2)), np.float32)
    other = writer.constant(np.float32(writer.pick(1, 2)), np.float32)
    scalar = writer.call(("Add", "Mul", "Sub")[writer.pick(0, 2)], one, other)[0]
    writer.keep(writer.call("Mul", x.name, scalar)[0], x.shape)


def branch(writer: Writer) -> None:
    """Capture a value in both branches of an If."""
    x = writer.choose()
    graphs: list[onnx.GraphProto] = []
    for kind in ("Relu", "Neg"):
        name = f"b{len(writer.nodes)}_{kind}"
        node = helper.make_node(kind, [x.name], [name], name=name)
        output = helper.make_tensor_value_info(name, TensorProto.FLOAT, list(x.shape))
        graphs.append(helper.make_graph([node], name, [], [output]))
    result = writer.call("If", "flag", then_branch=graphs[0], else_branch=graphs[1])[0]
    writer.keep(result, x.shape)


STEPS = (
    *(unary, cast, arithmetic, same_shapes, transpose, unsqueeze, squeeze, reshape, reshape),
    *(slices, concat, noops, expand, constants, branch),
)


@st.composite
def models(draw: Callable[..., int]) -> onnx_ir.Model:
    writer = Writer(draw)
    for _ in range(writer.pick(6, 16)):
        STEPS[writer.pick(0, len(STEPS) - 1)](writer)
    results = writer.pool[3:][-3:] or [writer.pool[0]]
    for number, tensor in enumerate(results):
        writer.nodes.append(helper.make_node("Identity", [tensor.name], [f"y{number}"]))
    inputs = [
        helper.make_tensor_value_info(t.name, TensorProto.FLOAT, t.shape) for t in writer.pool[:3]
    ]
    inputs.append(helper.make_tensor_value_info("flag", TensorProto.BOOL, []))
    outputs = [
        helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, list(t.shape))
        for k, t in enumerate(results)
    ]
    graph = helper.make_graph(writer.nodes, "fuzz", inputs, outputs, writer.weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return infer_shapes(onnx_ir.serde.deserialize_model(model))


def _runs(model: onnx_ir.Model) -> bool:
    """Tell whether ONNX Runtime executes the original: some captures of If it loses."""
    try:
        outputs_of(model, context_of(model))
    except CannotRun:
        return False
    return True


@settings(
    max_examples=120,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(models())
def test_no_bit_changes(model: onnx_ir.Model) -> None:
    assume(_runs(model))
    before = len(model.graph)
    model, _ = run_recipe(model, canonical())
    assert len(model.graph) <= before
