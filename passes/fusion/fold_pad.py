"""Fold padding into the convolution or pooling behind it."""

import dataclasses
import math
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import (
    attribute_float,
    attribute_int,
    attribute_ints,
    attribute_string,
    constant,
    constant_ints,
    rank,
)
from whet.passes.base import Fidelity
from whet.passes.pattern import Match, Op, Pattern, maybe, op, var
from whet.passes.proposal import Attribute, Builder
from whet.passes.rewrite import Rewrite

_NON_NEGATIVE = ("Relu", "Sigmoid", "Softplus", "Abs", "Exp", "HardSigmoid", "Softmax")


def _padded(x: Pattern) -> Op:
    return op("Pad", x, maybe("pads"), maybe("value"), maybe("axes"), name="pad", sole=True)


@dataclasses.dataclass(frozen=True)
class FoldPad(Rewrite):
    """Turn ``Conv(Pad(x))``, ``AveragePool(Pad(x))`` or ``MaxPool(Pad(x))`` into one node with larger ``pads``.

    The padding must be constant, spatial, not negative, and filled with what the operator itself pads with:

    - Conv: zero;
    - AveragePool: zero, counted in the mean, so ``count_include_pad`` becomes 1 and must have been so if the pool
      pads already;
    - MaxPool: minus infinity, or zero behind an operator whose result is never negative.

    Declines with ``ceil_mode`` (windows that start in the padding would go), with automatic padding, and where a pool's
    padding would reach the size of its window.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (
        op("Conv", _padded(var("x")), var("w"), maybe("bias"), name="user"),
        op("AveragePool", _padded(var("x")), name="user"),
        op(
            "MaxPool", _padded(op(_NON_NEGATIVE, var("y"), open=True, name="positive")), name="user"
        ),
        op("MaxPool", _padded(var("x")), name="user"),
    )

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return the operator that pads by itself."""
        pad, user = found.node("pad"), found.node("user")
        x = pad.inputs[0]
        assert x is not None
        _check_fill(found, user)
        begin, end = _spatial(_amounts(found, _data_rank(user, x)))
        pads = _own_pads(user, len(begin))
        total = [a + b for a, b in zip([*begin, *end], pads, strict=True)]
        attributes: dict[str, Attribute] = dict(user.attributes)
        attributes.pop("auto_pad", None)
        attributes["pads"] = total
        if user.op_type != "Conv":
            _check_pool(user, total, pads)
        if user.op_type == "AveragePool":
            attributes["count_include_pad"] = 1
        return build.op(user.op_type, x, *user.inputs[1:], attributes=attributes)


def _data_rank(user: onnx_ir.Node, x: onnx_ir.Value) -> int:
    known = rank(x) or (rank(user.inputs[1]) if user.op_type == "Conv" else None)
    window = attribute_ints(user, "kernel_shape")
    if known is None and window is None:
        raise Mismatch(f"the rank of '{x.name}' is not known")
    return known or len(window or ()) + 2


def _amounts(found: Match, rank: int) -> list[tuple[int, int]]:
    """Return (begin, end) for every axis of the data."""
    pad = found.node("pad")
    pads = attribute_ints(pad, "pads") or constant_ints(found.get("pads"))
    if pads is None:
        raise Mismatch("the amounts of Pad are not constants")
    axes = tuple(range(len(pads) // 2))
    if found.get("axes") is not None:
        known = constant_ints(found.get("axes"))
        if known is None:
            raise Mismatch("the axes of Pad are not constants")
        axes = tuple(axis % rank for axis in known)
    amounts = [(0, 0)] * rank
    for k, axis in enumerate(axes):
        amounts[axis] = (pads[k], pads[k + len(axes)])
    return amounts


def _spatial(amounts: list[tuple[int, int]]) -> tuple[list[int], list[int]]:
    if any(begin or end for begin, end in amounts[:2]):
        raise Mismatch("Pad pads the batch or the channels")
    begin, end = [a for a, _ in amounts[2:]], [b for _, b in amounts[2:]]
    if min([*begin, *end], default=0) < 0:
        raise Mismatch("Pad crops: a negative amount")
    return begin, end


def _check_fill(found: Match, user: onnx_ir.Node) -> None:
    pad = found.node("pad")
    mode = attribute_string(pad, "mode", "constant")
    if mode != "constant":
        raise Mismatch(f"Pad is in mode '{mode}'")
    fill = _fill(found)
    fits = fill == 0.0
    if user.op_type == "MaxPool":
        fits = fill == -math.inf or (fits and "positive" in found.named)
    if not fits:
        raise Mismatch(f"Pad fills with {fill:g}, which {user.op_type} does not pad with")


def _fill(found: Match) -> float:
    value = found.get("value")
    if value is None:
        return attribute_float(found.node("pad"), "value", 0.0)
    array = constant(value)
    if array is None or array.size != 1:
        raise Mismatch("the value that Pad fills with is not a constant")
    return float(array.reshape(-1)[0])


def _own_pads(user: onnx_ir.Node, spatial: int) -> tuple[int, ...]:
    automatic = attribute_string(user, "auto_pad", "NOTSET")
    if automatic not in {"NOTSET", "VALID"}:
        raise Mismatch(f"{user.op_type} pads by auto_pad={automatic}")
    none = (0,) * (2 * spatial)
    return none if automatic == "VALID" else attribute_ints(user, "pads", none) or none


def _check_pool(user: onnx_ir.Node, total: list[int], own: tuple[int, ...]) -> None:
    if attribute_int(user, "ceil_mode", 0):
        raise Mismatch(f"{user.op_type} rounds its size up (ceil_mode)")
    if len(user.outputs) > 1:
        raise Mismatch("the indices of MaxPool count padded elements")
    counted = attribute_int(user, "count_include_pad", 0)
    if user.op_type == "AveragePool" and any(own) and not counted:
        raise Mismatch("AveragePool pads already and does not count it (count_include_pad=0)")
    window = attribute_ints(user, "kernel_shape") or ()
    if any(amount >= window[k % len(window)] for k, amount in enumerate(total)):
        raise Mismatch(f"padding {total} would reach the window {list(window)}")
