"""An attention as kernels see it: operands in either layout, the mask in the form that a kernel takes."""

import dataclasses

import numpy as np
import onnx_ir

from whet.passes.proposal import Builder

__all__ = ["LOWEST", "AttentionTask", "MaskOperand", "Operand", "length_of", "merge", "split"]

LOWEST = float(np.finfo(np.float32).min)
"""What kernels add to the score of a hidden key; a row with nothing above it gives zero."""
_SWAP = (0, 2, 1, 3)


@dataclasses.dataclass
class Operand:
    """One of q, k and v, in one of two layouts or in both; the other one is made when a kernel asks for it."""

    count: int
    """How many heads it has."""
    size: int
    """Elements of one head."""
    by_head: onnx_ir.Value | None = None
    """``[batch, heads, length, size]``"""
    merged: onnx_ir.Value | None = None
    """``[batch, length, heads * size]``"""
    tokens: onnx_ir.Value | None = None
    """``[batch, length, heads, size]``"""

    def as_heads(self, build: Builder) -> onnx_ir.Value:
        """Return ``[batch, heads, length, size]``."""
        if self.by_head is not None:
            return self.by_head
        return build.op("Transpose", self.as_tokens(build), attributes={"perm": _SWAP})

    def as_tokens(self, build: Builder) -> onnx_ir.Value:
        """Return ``[batch, length, heads, size]``."""
        if self.tokens is not None:
            return self.tokens
        if self.merged is not None:
            return build.op("Reshape", self.merged, build.ints(0, 0, self.count, self.size))
        return build.op("Transpose", self.by_head, attributes={"perm": _SWAP})

    def as_merged(self, build: Builder) -> onnx_ir.Value:
        """Return ``[batch, length, heads * size]``."""
        if self.merged is not None:
            return self.merged
        return merge(build, self.as_tokens(build), self.count * self.size)

    @property
    def is_merged(self) -> bool:
        """Tell whether the model holds it with the heads beside each other, so that no data move for that."""
        return self.merged is not None or self.tokens is not None

    def padded(self, build: Builder, size: int) -> "Operand":
        """Return it with zeros behind the elements of each head."""
        if size == self.size:
            return self
        ends = build.ints(0, 0, 0, 0, 0, 0, 0, size - self.size)
        if self.is_merged:
            tokens = build.op("Pad", self.as_tokens(build), ends)
            return Operand(self.count, size, tokens=tokens)
        return Operand(self.count, size, by_head=build.op("Pad", self.as_heads(build), ends))

    def batch(self, build: Builder) -> onnx_ir.Value:
        """Return how many samples there are, as a list of one int64."""
        return length_of(build, self._given, 0)

    def length(self, build: Builder) -> onnx_ir.Value:
        """Return how many queries or keys there are, as a list of one int64."""
        return length_of(build, self._given, 2 if self._given is self.by_head else 1)

    @property
    def _given(self) -> onnx_ir.Value:
        """Return what is there in the end: of what is moved, the form before."""
        found = self.merged or self.tokens or self.by_head
        assert found is not None
        return found


@dataclasses.dataclass(frozen=True)
class MaskOperand:
    """A mask, with what is known of it whatever the sizes are."""

    value: onnx_ir.Value
    rank: int
    boolean: bool
    rows: bool
    """It has a row for every query."""
    columns: bool
    """It has an element for every key."""
    heads: bool
    """It may say something else for each head."""
    padding: bool
    """It says the same for all heads and all queries."""
    causal: bool
    """It hides keys that come after the query, whatever else it hides."""
    hides_rows: bool
    """Some query may have nothing but hidden keys."""

    def of_rank(self, build: Builder, rank: int) -> onnx_ir.Value:
        """Return the mask with as many dimensions."""
        missing = rank - self.rank
        if missing <= 0:
            return self.value
        return build.op("Unsqueeze", self.value, build.ints(*range(missing)))


@dataclasses.dataclass(frozen=True)
class AttentionTask:
    """``softmax(softcap(scale * q k') + mask) v``, to be spelled with one kernel or another."""

    q: Operand
    k: Operand
    v: Operand
    scale: float
    merged: bool = False
    """The result is wanted as ``[batch, queries, heads * size]``, else ``[batch, heads, queries, size]``."""
    mask: MaskOperand | None = None
    causal: bool = False
    softcap: float = 0.0
    square: bool = False
    """There are as many keys as queries, whatever the sizes."""
    past: tuple[onnx_ir.Value, onnx_ir.Value] | None = None

    @property
    def hides_later(self) -> bool:
        """Tell whether no query sees keys that come after it."""
        return self.causal or (self.mask is not None and self.mask.causal)

    def zeroed(self, build: Builder, merged: onnx_ir.Value) -> onnx_ir.Value:
        """Return ``[batch, length, heads * size]`` with zeros for queries all of whose keys are hidden."""
        if self.mask is None or not self.mask.hides_rows:
            return merged
        seen, zero = self._seen_rows(build, self.mask), build.constant(np.zeros(1, np.float32))
        if not self.mask.heads:
            return build.op("Where", build.op("Squeeze", seen, build.ints(1)), merged, zero)
        tokens = build.op("Reshape", merged, build.ints(0, 0, self.q.count, self.v.size))
        rows = build.op("Transpose", seen, attributes={"perm": _SWAP})
        kept = build.op("Where", rows, tokens, zero)
        return merge(build, kept, self.q.count * self.v.size)

    def _seen_rows(self, build: Builder, mask: MaskOperand) -> onnx_ir.Value:
        """Return which queries see a key, as ``[batch, heads, length, 1]``, each of them possibly 1."""
        if mask.boolean and not self.causal:
            numbers = build.op("Cast", mask.of_rank(build, 4), attributes=_to("UINT8"))
            most = build.op("ReduceMax", numbers, build.ints(-1))
            return build.op("Cast", most, attributes=_to("BOOL"))
        bias = mask.of_rank(build, 4) if not self.causal else self.float_mask(build)
        if self.causal:
            bias = build.op("Add", bias, self.later(build))
        most = build.op("ReduceMax", bias, build.ints(-1))
        return build.op("Greater", most, build.constant(np.asarray(LOWEST, np.float32)))

    def later(self, build: Builder) -> onnx_ir.Value:
        """Return what hides keys after the query, as numbers ``[queries, keys]`` to add."""
        sizes = [self.q.length(build), self.k.length(build)]
        shape = build.op("Concat", *sizes, attributes={"axis": 0})
        low = build.op("Expand", build.constant(np.asarray([LOWEST], np.float32)), shape)
        return build.op("Trilu", low, build.constant(np.asarray(1, np.int64)))

    def full_mask(self, build: Builder, rank: int = 2) -> onnx_ir.Value | None:
        """Return the mask with a row for every query and an element for every key, of at least that rank."""
        mask = self.mask
        if mask is None or (mask.rows and mask.columns):
            return None if mask is None else mask.of_rank(build, rank)
        one = build.ints(1)
        rows = one if mask.rows else self.q.length(build)
        columns = one if mask.columns else self.all_keys(build)
        shape = build.op("Concat", one, one, rows, columns, attributes={"axis": 0})
        found = build.op("Expand", mask.value, shape)
        found.type, found.shape = mask.value.type, self._mask_shape(mask)
        return found

    def _mask_shape(self, mask: MaskOperand) -> onnx_ir.Shape | None:
        """Return the shape of the repeated mask: what reads it may depend on its sizes."""
        q, k, own = self.q.by_head, self.k.by_head, mask.value.shape
        if q is None or k is None or q.shape is None or k.shape is None or own is None:
            return None
        sizes: list[int | onnx_ir.SymbolicDim | None] = [*[1] * (4 - mask.rank), *own]
        if not mask.rows:
            sizes[2] = q.shape[2]
        if not mask.columns:
            sizes[3] = k.shape[2] if self.past is None else None
        return onnx_ir.Shape(sizes)

    def float_mask(self, build: Builder) -> onnx_ir.Value | None:
        """Return the full mask as numbers to add, of rank 4."""
        if self.mask is None or not self.mask.boolean:
            return self.full_mask(build, 4)
        full = self.full_mask(build, 4)
        zero, low = (build.constant(np.asarray(x, np.float32)) for x in (0.0, LOWEST))
        return build.op("Where", full, zero, low)

    def all_keys(self, build: Builder) -> onnx_ir.Value:
        """Return how many keys each query may see, past ones included."""
        own = self.k.length(build)
        if self.past is None:
            return own
        return build.op("Add", own, length_of(build, self.past[0], 2))


def _to(kind: str) -> dict[str, int]:
    return {"to": int(onnx_ir.DataType[kind])}


def length_of(build: Builder, value: onnx_ir.Value, axis: int) -> onnx_ir.Value:
    """Return one dimension as a list of one int64: a constant where it is a known number."""
    size = None if value.shape is None else value.shape[axis]
    if isinstance(size, int):
        return build.ints(size)
    attributes = {"start": axis, "end": axis + 1}
    return build.op("Shape", value, attributes=attributes)


def merge(build: Builder, tokens: onnx_ir.Value, size: int) -> onnx_ir.Value:
    """Lay ``[batch, length, heads, size]`` out as ``[batch, length, heads * size]``."""
    return build.op("Reshape", tokens, build.ints(0, 0, size))


def split(build: Builder, merged: onnx_ir.Value, count: int, size: int) -> onnx_ir.Value:
    """Lay ``[batch, length, heads * size]`` out as ``[batch, heads, length, size]``."""
    tokens = build.op("Reshape", merged, build.ints(0, 0, count, size))
    return build.op("Transpose", tokens, attributes={"perm": _SWAP})
