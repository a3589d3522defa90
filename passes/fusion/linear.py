"""Linear operators with constant weights, and per-channel maps that fold into them.

Conv, ConvTranspose, Gemm and MatMul compute ``y = W x + b``. Their weights differ in layout only, so each is read as
blocks ``W[group, output, input, tap]`` in float64, folded, and stored in its own layout and type again.
"""

import dataclasses
import functools
import math

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.errors import Mismatch
from whet.ir.values import (
    Array,
    attribute_float,
    attribute_int,
    attribute_ints,
    attribute_string,
    constant,
    dimensions,
    is_constant,
    rank,
)
from whet.passes.pattern import Match, Op, Pattern, maybe, one_of, op, var, weight
from whet.passes.proposal import Builder

__all__ = ["BIASED", "LINEAR", "PLAIN", "Affine", "Linear", "feeding", "per_channel"]

Floats = NDArray[np.float64]

PLAIN = op(
    ("Conv", "ConvTranspose", "Gemm"),
    var("x"),
    weight("w"),
    maybe("bias"),
    name="linear",
    sole=True,
)
"""An operator that has a bias of its own."""
_MATMUL = op("MatMul", var("x"), weight("w"), name="linear", sole=True, commutative=True)
BIASED = one_of(PLAIN, op("Add", _MATMUL, weight("bias"), name="add", sole=True, commutative=True))
"""An operator with a place for a bias; for MatMul that is the Add behind it."""
LINEAR = one_of(*BIASED.choices, _MATMUL)
"""Any linear operator with a constant weight that nobody else reads."""


def feeding(upstream: Pattern) -> tuple[Op, Op]:
    """Return patterns for a linear operator with a constant weight that reads ``upstream``."""
    kinds = ("Conv", "ConvTranspose", "Gemm")
    return (
        op(kinds, upstream, weight("w"), maybe("bias"), name="linear"),
        op("MatMul", upstream, weight("w"), name="linear", commutative=True),
    )


@dataclasses.dataclass(frozen=True)
class Affine:
    """The map ``y[c] = scale[c] x[c] + shift[c]`` over channels, in float64."""

    scale: Floats
    shift: Floats

    def __post_init__(self) -> None:
        """Decline what is not finite."""
        if not (np.isfinite(self.scale).all() and np.isfinite(self.shift).all()):
            raise Mismatch("the constant is zero where it divides, or not finite")

    @property
    def scales(self) -> bool:
        """Tell whether any scale differs from one."""
        return bool((self.scale != 1.0).any())

    @property
    def shifts(self) -> bool:
        """Tell whether any shift differs from zero."""
        return bool((self.shift != 0.0).any())


def per_channel(array: Array, rank: int, axis: int, channels: int) -> Floats:
    """Return a constant that broadcasts along ``axis`` only, one number per channel, or decline."""
    shape = (1,) * (rank - array.ndim) + array.shape
    alone = all(size == 1 for k, size in enumerate(shape) if k != axis % rank)
    if array.ndim > rank or not alone or shape[axis] not in (1, channels):
        place = f"axis {axis % rank} of {rank}, which has {channels} channels"
        raise Mismatch(f"the constant of shape {array.shape} does not lie along {place}")
    return np.broadcast_to(array.astype(np.float64).reshape(-1), (channels,)).copy()


@dataclasses.dataclass(frozen=True)
class Linear:
    """A matched linear operator with its constant weight."""

    node: onnx_ir.Node
    weight: onnx_ir.Value
    bias: onnx_ir.Value | None

    @staticmethod
    def of(found: Match) -> "Linear":
        """Read the operator called ``linear`` in a match, or decline."""
        linear = Linear(found.node("linear"), found["w"], found.get("bias"))
        array = linear.array
        if array.dtype.name not in {"float32", "float64"}:
            raise Mismatch(f"the weight is {array.dtype.name}: folding would round it again")
        if linear.node.op_type in {"Gemm", "MatMul"} and array.ndim != 2:
            raise Mismatch(f"the weight '{linear.weight.name}' has rank {array.ndim}, not 2")
        return linear

    @functools.cached_property
    def array(self) -> Array:
        """Return the weight as stored."""
        array = constant(self.weight)
        assert array is not None
        return array

    @property
    def data(self) -> onnx_ir.Value:
        """Return the operand that is not the weight."""
        value = self.node.inputs[1 if self._left else 0]
        assert value is not None
        return value

    @property
    def channels(self) -> int:
        """Return the number of output channels."""
        groups, outputs, _, _ = self.blocks.shape
        return int(groups * outputs)

    @property
    def channels_in(self) -> int:
        """Return the number of input channels."""
        groups, _, inputs, _ = self.blocks.shape
        return int(groups * inputs)

    @property
    def rank(self) -> int:
        """Return the rank of data and result; for a MatMul on unknown data the least it can be."""
        if self.node.op_type != "MatMul":
            return self.array.ndim
        known = rank(self.data)
        if self._left and (known is None or known < 2):
            raise Mismatch(f"the rank of '{self.data.name}' is {known or 'not known'}")
        return known or 1

    @property
    def axis(self) -> int:
        """Return the axis of the output channels in the result, counted from zero."""
        return self._axis_at(self.rank)

    @property
    def axis_in(self) -> int:
        """Return the axis of the input channels in the data, counted from zero."""
        return self._axis_in_at(self.rank)

    def channel_axis_is_one(self, axis: int) -> None:
        """Decline unless ``axis``, of a result or of data, is surely axis 1."""
        if self.node.op_type == "MatMul" and rank(self.data) is None:
            raise Mismatch(f"the rank of '{self.data.name}' is not known")
        if axis != 1:
            raise Mismatch(f"the channels of {self.node.op_type} lie along axis {axis}, not 1")

    def constant_in(self, array: Array, x: onnx_ir.Value) -> Floats:
        """Return a constant combined with ``x``, one number per input channel, or decline.

        ``x`` must have all channels itself: a constant may also stretch a single one.
        """
        if array.ndim == 0:
            return per_channel(array, 1, 0, self.channels_in)
        sizes = dimensions(x)
        if sizes is None or len(sizes) < max(array.ndim, 2 if self._left else 1):
            raise Mismatch(f"the rank of '{x.name}' is not known to be at least {array.ndim}")
        axis = self._axis_in_at(len(sizes))
        if array.size > 1 and sizes[axis] != self.channels_in:
            raise Mismatch(f"'{x.name}' is not known to have {self.channels_in} channels")
        return per_channel(array, len(sizes), axis, self.channels_in)

    def then(self, map_: Affine, build: Builder) -> onnx_ir.Value:
        """Return the operator with ``map_`` applied to its result: ``W' = s W``, ``b' = s b + t``."""
        groups, outputs, _, _ = self.blocks.shape
        scale = map_.scale.reshape(groups, outputs, 1, 1)
        bias = map_.shift if self.bias is None else map_.scale * self.shift + map_.shift
        weight = self._store(self.blocks * scale, build) if map_.scales else self.weight
        if self.bias is None and not map_.shifts:
            return self._emit(self.data, weight, None, build)
        return self._emit(self.data, weight, self._store_bias(bias, build), build)

    def after(self, map_: Affine, x: onnx_ir.Value, build: Builder) -> onnx_ir.Value:
        """Return the operator on ``x`` with ``map_`` applied to ``x`` first: ``W' = W s``, ``b' = b + W t``."""
        groups, _, inputs, _ = self.blocks.shape
        weight = self.weight
        if map_.scales:
            scale = map_.scale.reshape(groups, 1, inputs, 1)
            weight = self._store(self.blocks * scale, build)
        if not map_.shifts:
            return self._emit(x, weight, self.bias, build, keep=True)
        self._decline_borders()
        shift = self.blocks.sum(axis=3) @ map_.shift.reshape(groups, inputs, 1)
        bias = attribute_float(self.node, "alpha", 1.0) * shift.reshape(-1)
        if self.bias is not None:
            bias = bias + self.shift
        return self._emit(x, weight, self._store_bias(bias, build), build)

    def turned_before(
        self, matrix: Floats, shift: Floats | None, x: onnx_ir.Value, build: Builder
    ) -> onnx_ir.Value:
        """Return the operator where its data are ``x matrix + shift``: ``W' = matrix W``, ``b' = b + shift W``."""
        self._one_group()
        blocks = np.einsum("goit,ji->gojt", self.blocks, matrix)
        weight = self._rewritten(blocks, build)
        if shift is None or not shift.any():
            return self._emit(x, weight, self.bias, build, keep=True)
        self._decline_borders()
        added = attribute_float(self.node, "alpha", 1.0) * (self.blocks.sum(axis=3)[0] @ shift)
        bias = added if self.bias is None else added + self.shift
        return self._emit(x, weight, self._store_bias(bias, build), build)

    def turned_behind(self, matrix: Floats, build: Builder) -> onnx_ir.Value:
        """Return the operator's result times a matrix over its channels: ``W' = W matrix``, ``b' = b matrix``."""
        self._one_group()
        weight = self._rewritten(np.einsum("goit,op->gpit", self.blocks, matrix), build)
        if self.bias is None:
            return self._emit(self.data, weight, None, build)
        return self._emit(self.data, weight, self._store_bias(self.shift @ matrix, build), build)

    def _one_group(self) -> None:
        if self.blocks.shape[0] != 1:
            raise Mismatch(f"{self.node.op_type} '{self.node.name}' has several groups")

    def _decline_borders(self) -> None:
        """A shift is the same in every output only where every output sees the whole kernel."""
        if self.node.op_type == "ConvTranspose":
            raise Mismatch("a shift before ConvTranspose differs between its outputs")
        automatic = attribute_string(self.node, "auto_pad", "NOTSET")
        if automatic not in {"NOTSET", "VALID"} or any(attribute_ints(self.node, "pads") or ()):
            raise Mismatch("Conv pads with zeros, which the shift before it does not reach")

    def _axis_at(self, rank: int) -> int:
        if self.node.op_type == "MatMul":
            return rank - (2 if self._left else 1)
        return 1

    def _axis_in_at(self, rank: int) -> int:
        if self.node.op_type == "Gemm" and attribute_int(self.node, "transA", 0):
            return 0
        return self._axis_at(rank)

    @property
    def _left(self) -> bool:
        return self.node.op_type == "MatMul" and self.node.inputs[0] is self.weight

    @property
    def _inputs_first(self) -> bool:
        """Tell whether the weight is stored with input channels before output channels."""
        if self.node.op_type == "Gemm":
            return attribute_int(self.node, "transB", 0) == 0
        return self.node.op_type == "ConvTranspose" or (
            self.node.op_type == "MatMul" and not self._left
        )

    @functools.cached_property
    def blocks(self) -> Floats:
        """Return the weight as ``[group, output, input, tap]`` in float64."""
        groups = attribute_int(self.node, "group", 1)
        first, second, *kernel = self.array.shape
        if first % groups:
            raise Mismatch(f"{groups} groups do not divide the {first} channels of the weight")
        shape = (groups, first // groups, second, math.prod(kernel))
        blocks = self.array.astype(np.float64).reshape(shape)
        return blocks.swapaxes(1, 2) if self._inputs_first else blocks

    @functools.cached_property
    def shift(self) -> Floats:
        """Return the constant bias, one number per output channel, in float64; there must be one."""
        array = constant(self.bias)
        if array is None or not is_constant(self.bias):
            raise Mismatch(f"the bias of {self.node.op_type} is not a constant")
        own = self.node.op_type in {"Conv", "ConvTranspose"}
        rank, axis = (1, 0) if own else (self.rank, self.axis)
        flat = per_channel(array, rank, axis, self.channels)
        return attribute_float(self.node, "beta", 1.0) * flat

    def _store(self, blocks: Floats, build: Builder) -> onnx_ir.Value:
        if len(self.weight.uses()) > 1 or self.weight.is_graph_output():
            raise Mismatch(f"weight '{self.weight.name}' is shared: it would be stored twice")
        return self._rewritten(blocks, build)

    def _rewritten(self, blocks: Floats, build: Builder) -> onnx_ir.Value:
        stored = blocks.swapaxes(1, 2) if self._inputs_first else blocks
        groups, first, second, _ = stored.shape
        shape = (groups * first, second, *self.array.shape[2:])
        return self._constant(stored.reshape(shape), self.weight, build)

    def _store_bias(self, bias: Floats, build: Builder) -> onnx_ir.Value:
        return self._constant(bias.reshape(-1, 1) if self._left else bias, self.bias, build)

    def _constant(self, array: Floats, like: onnx_ir.Value | None, build: Builder) -> onnx_ir.Value:
        with np.errstate(over="ignore"):
            narrow = array.astype(self.array.dtype)
        if not np.isfinite(narrow).all():
            raise Mismatch(f"the folded weight does not fit {self.array.dtype.name}")
        value = build.constant(narrow, "" if like is None or like.name is None else like.name)
        if like is not None and like.name is not None:
            value.metadata_props["whet.from"] = like.name
        return value

    def _emit(
        self,
        x: onnx_ir.Value,
        weight: onnx_ir.Value,
        bias: onnx_ir.Value | None,
        build: Builder,
        *,
        keep: bool = False,
    ) -> onnx_ir.Value:
        """Add the operator with another weight; ``keep`` says that the bias is the old one, beta included."""
        if self.node.op_type == "MatMul":
            product = build.op("MatMul", *((weight, x) if self._left else (x, weight)))
            return product if bias is None else build.op("Add", product, bias)
        dropped = () if keep else ("beta",)
        attributes = {k: v for k, v in self.node.attributes.items() if k not in dropped}
        operands = (x, weight) if bias is None else (x, weight, bias)
        return build.op(self.node.op_type, *operands, attributes=attributes)
