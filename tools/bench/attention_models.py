"""One attention, spelled for each kernel of ONNX Runtime: with a bias, with factors in its place, with neither."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper
from onnx import numpy_helper as tensors

from whet.ir.values import Array

__all__ = ["FUSED", "Case", "Means", "attention_model", "expected_rows", "make_data", "make_feeds"]

Means = Literal["bias", "factors", "nothing"]
"""How a bias comes in: as a tensor of queries times keys, as columns of queries and keys, not at all."""
FUSED = ("Attention", "MultiHeadAttention", "GroupQueryAttention")
_MERGED = ("MultiHeadAttention", "GroupQueryAttention")
"""Kernels whose operands are ``[batch, length, heads * size]``; those of the others are by head."""


@dataclasses.dataclass(frozen=True)
class Case:
    """``softmax(q k' / sqrt(head) + B) v`` with ``B = left right'``, for a batch of one."""

    length: int
    head: int
    rank: int
    heads: int = 8
    causal: bool = False
    seed: int = 0

    @property
    def bias_bytes(self) -> int:
        """Return the size of B."""
        return 4 * self.heads * self.length**2


def make_data(case: Case) -> dict[str, Array]:
    """Draw q, k, v ``[1, heads, length, head]`` and left, right ``[1, heads, length, rank]``; B has deviation one."""
    rng = np.random.default_rng(case.seed)
    shape = (1, case.heads, case.length)
    found: dict[str, Array] = {
        name: rng.standard_normal((*shape, case.head), dtype=np.float32) for name in ("q", "k", "v")
    }
    unit = np.float32(case.rank**-0.25)
    for name in ("left", "right"):
        found[name] = unit * rng.standard_normal((*shape, case.rank), dtype=np.float32)
    return found


def make_feeds(
    case: Case, kernel: str, means: Means, data: Mapping[str, Array]
) -> dict[str, Array]:
    """Bring data into the layout of a kernel's inputs; a bias is computed here, it costs no time later."""
    named = {name: data[name] for name in ("q", "k", "v")}
    if means == "factors":
        blank = ((0, 0),) * 3 + ((0, _columns(case, kernel) - case.rank),)
        named |= {name: np.pad(data[name], blank) for name in ("left", "right")}
    if kernel in _MERGED:
        named = {name: _merged(array, join=name in "qkv") for name, array in named.items()}
    if means == "bias":
        bias = np.empty((1, case.heads, case.length, case.length), np.float32)
        np.matmul(data["left"], data["right"].swapaxes(-1, -2), out=bias)
        named["bias"] = bias
    return named


def _columns(case: Case, kernel: str) -> int:
    """Return how many columns are appended: this kernel wants heads of a multiple of eight."""
    return -(-case.rank // 8) * 8 if kernel == "GroupQueryAttention" else case.rank


def _merged(array: Array, *, join: bool) -> Array:
    batch, heads, length, size = array.shape
    moved = np.ascontiguousarray(array.swapaxes(1, 2))
    return moved.reshape(batch, length, heads * size) if join else moved


def expected_rows(
    case: Case, means: Means, data: Mapping[str, Array], rows: NDArray[np.int64]
) -> Array:
    """Return the given rows of every head in float64, ``[heads, rows, head]``."""
    wide = {name: array[0].astype(np.float64) for name, array in data.items()}
    found: list[Array] = []
    for head in range(case.heads):
        q, k, v, left, right = (wide[name][head] for name in ("q", "k", "v", "left", "right"))
        scores = q[rows] @ k.T / math.sqrt(case.head)
        if means != "nothing":
            scores += left[rows] @ right.T
        if case.causal:
            scores[np.arange(case.length) > rows[:, None]] = -np.inf
        weights = np.exp(scores - scores.max(1, keepdims=True))
        found.append(weights @ v / weights.sum(1, keepdims=True))
    return np.stack(found)


def attention_model(case: Case, kernel: str, means: Means) -> onnx.ModelProto:
    """Write the attention for ``plain`` operators or for one of :data:`FUSED`."""
    return _Writer(case, kernel, means).model()


class _Writer:
    """Nodes and constants of one model."""

    def __init__(self, case: Case, kernel: str, means: Means) -> None:
        self._case = case
        self._kernel = kernel
        self._means = means
        self._nodes: list[onnx.NodeProto] = []
        self._constants: list[onnx.TensorProto] = []
        self._columns = _columns(case, kernel)
        self._width = case.head + (self._columns if means == "factors" else 0)
        self._scale = 1.0 if means == "factors" else 1 / math.sqrt(case.head)

    def model(self) -> onnx.ModelProto:
        """Return the whole model, whose output is ``y``."""
        q, k, v = self._operands()
        spell = {
            "plain": self._plain,
            "Attention": self._attention,
            "MultiHeadAttention": self._multi_head,
            "GroupQueryAttention": self._group_query,
        }[self._kernel]
        spell(q, k, v)
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in self._input_shapes().items()
        ]
        output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        graph = helper.make_graph(self._nodes, "attention", inputs, [output], self._constants)
        opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=11)

    def _input_shapes(self) -> dict[str, list[int]]:
        c = self._case
        merged = self._kernel in _MERGED
        whole = [1, c.length, c.heads * c.head] if merged else [1, c.heads, c.length, c.head]
        found: dict[str, list[int]] = {name: whole for name in "qkv"}
        if self._means == "factors":
            lead = [1, c.length, c.heads] if merged else [1, c.heads, c.length]
            part = [*lead, self._columns]
            found["left"] = found["right"] = part
        if self._means == "bias":
            found["bias"] = [1, c.heads, c.length, c.length]
        return found

    def _operands(self) -> tuple[str, str, str]:
        """Append the factors to queries and keys, and fold the scale into the queries."""
        if self._means != "factors":
            return "q", "k", "v"
        scale = self._constant(np.float32(1 / math.sqrt(self._case.head)))
        q = self._append(self._op("Mul", "q", scale), "left")
        k = self._append("k", "right")
        if self._kernel != "GroupQueryAttention":
            return q, k, "v"
        # This kernel wants values as wide as keys.
        c = self._case
        zeros = self._constant(np.zeros((1, c.length, c.heads, self._columns), np.float32))
        return q, k, self._append("v", zeros)

    def _append(self, operand: str, columns: str) -> str:
        c = self._case
        if self._kernel not in _MERGED:
            return self._op("Concat", operand, columns, axis=-1)
        split = self._op("Reshape", operand, self._shape(1, c.length, c.heads, c.head))
        joined = self._op("Concat", split, columns, axis=-1)
        return self._op("Reshape", joined, self._shape(1, c.length, c.heads * self._width))

    def _plain(self, q: str, k: str, v: str) -> None:
        turned = self._op("Transpose", k, perm=[0, 1, 3, 2])
        scores = self._op("MatMul", q, turned)
        scores = self._op("Mul", scores, self._constant(np.float32(self._scale)))
        if self._means == "bias":
            scores = self._op("Add", scores, "bias")
        if self._case.causal:
            hidden = np.triu(np.full([self._case.length] * 2, -np.inf, np.float32), 1)
            scores = self._op("Add", scores, self._constant(hidden))
        self._op("MatMul", self._op("Softmax", scores, axis=-1), v, to="y")

    def _attention(self, q: str, k: str, v: str) -> None:
        bias = ["bias"] if self._means == "bias" else []
        causal = int(self._case.causal)
        self._op("Attention", q, k, v, *bias, to="y", scale=self._scale, is_causal=causal)

    def _multi_head(self, q: str, k: str, v: str) -> None:
        bias = ["", "", "bias"] if self._means == "bias" else []
        self._op(
            "MultiHeadAttention",
            *(q, k, v, *bias),
            to="y",
            domain="com.microsoft",
            num_heads=self._case.heads,
            scale=self._scale,
            unidirectional=int(self._case.causal),
        )

    def _group_query(self, q: str, k: str, v: str) -> None:
        c = self._case
        last = self._constant(np.array([c.length - 1], np.int32))
        total = self._constant(np.array(c.length, np.int32))
        bias = ["", "", "", "bias"] if self._means == "bias" else []
        widened = self._means == "factors"
        self._op(
            "GroupQueryAttention",
            *(q, k, v, "", "", last, total, *bias),
            to="wide" if widened else "y",
            more=["present_key", "present_value"],
            domain="com.microsoft",
            num_heads=c.heads,
            kv_num_heads=c.heads,
            scale=self._scale,
            causal=int(c.causal),
        )
        if not widened:
            return
        split = self._op("Reshape", "wide", self._shape(1, c.length, c.heads, self._width))
        ends = [self._constant(np.array([n], np.int64)) for n in (0, c.head, 3)]
        kept = self._op("Slice", split, *ends)
        self._op("Reshape", kept, self._shape(1, c.length, c.heads * c.head), to="y")

    def _op(self, kind: str, *inputs: str, to: str = "", more: Any = (), **attributes: Any) -> str:
        name = to or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(kind, inputs, [name, *more], **attributes))
        return name

    def _constant(self, array: Array | np.generic) -> str:
        name = f"constant_{len(self._constants)}"
        self._constants.append(tensors.from_array(np.asarray(array), name))
        return name

    def _shape(self, *sizes: int) -> str:
        return self._constant(np.array(sizes, np.int64))
