"""Fold a multiplication by one number into the linear operator from which reshapes and transposes separate it."""

import dataclasses
from typing import ClassVar

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, constant, constant_ints, is_op, rank
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.linear import LINEAR, Affine, Linear
from whet.passes.pattern import Match, Op, match
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench

_MOVEMENT = ("Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Expand")


@dataclasses.dataclass(frozen=True)
class _Place:
    """``number * movement(linear)``; the chain of movements goes upstream and may end in a Split."""

    root: onnx_ir.Node
    data: onnx_ir.Value
    chain: tuple[onnx_ir.Node, ...]
    part: int | None
    """Which output of the Split, if the chain ends in one."""
    found: Match


@dataclasses.dataclass(frozen=True)
class FoldScaleThroughMovement(Pass):
    """Replace ``s * move(x W + b)`` by ``move(x (s W) + s b)`` for one number s, as in scaled queries.

    ``move`` is made of Reshape, Transpose and other operators that only move elements; behind a Split of the linear
    operator only the columns of that part are scaled. Nobody else may read what lies between. Computed in float64.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Visit every Mul and Div in the order of the graph."""
        for root in work.nodes("Mul", "Div"):
            place = _read(root)
            if place is None:
                continue
            work.coverage.matched += 1
            build = work.builder(root)
            try:
                proposal = _folded(place, build)
            except Mismatch as reason:
                Proposal((root,), (), tuple(build.nodes)).discard()
                work.decline(root, str(reason))
                continue
            work.propose(proposal)


def _read(root: onnx_ir.Node) -> _Place | None:
    """Return the place at a Mul or Div, or None where no movement lies between it and a linear operator."""
    data = _scaled(root)
    chain: list[onnx_ir.Node] = []
    value, part = data, None
    while value is not None and part is None and _sole(value):
        node = value.producer()
        if is_op(node, "Split"):
            part = value.index()
        elif not is_op(node, *_MOVEMENT):
            break
        assert node is not None
        chain.append(node)
        value = node.inputs[0]
    if data is None or value is None or not chain or not _sole(value):
        return None
    found = _linear(value.producer())
    return None if found is None else _Place(root, data, tuple(chain), part, found)


def _scaled(root: onnx_ir.Node) -> onnx_ir.Value | None:
    """Return what is multiplied by one constant number."""
    for data, number in ((0, 1), (1, 0)):
        array = constant(root.inputs[number])
        if array is not None and array.size == 1 and (root.op_type == "Mul" or number == 1):
            return root.inputs[data]
    return None


def _sole(value: onnx_ir.Value) -> bool:
    return len(value.uses()) == 1 and not value.is_graph_output()


def _linear(node: onnx_ir.Node | None) -> Match | None:
    for pattern in LINEAR.choices:
        if node is not None and isinstance(pattern, Op):
            found = match(pattern, node)
            if isinstance(found, Match):
                return found
    return None


def _folded(place: _Place, build: Builder) -> Proposal:
    linear = Linear.of(place.found)
    number = _number(place)
    scale = np.ones(linear.channels)
    scale[_columns(place, linear)] = number
    value = linear.then(Affine(scale, np.zeros_like(scale)), build)
    outputs: list[tuple[onnx_ir.Value, onnx_ir.Value]] = []
    for node in reversed(place.chain):
        made = build.ops(
            node.op_type,
            (value, *node.inputs[1:]),
            len(node.outputs),
            attributes=node.attributes,
        )
        pairs = list(zip(node.outputs, made, strict=True))
        value = made[place.part or 0] if is_op(node, "Split") else made[0]
        outputs += [(old, new) for old, new in pairs if new is not value]
    outputs.insert(0, (place.root.outputs[0], value))
    anchor = place.root if place.part is None else place.chain[-1]
    others = (place.root, *place.chain, *place.found.nodes)
    return Proposal(
        (anchor, *(node for node in others if node is not anchor)),
        tuple(outputs),
        tuple(build.nodes),
        tuple(build.initializers),
    )


def _number(place: _Place) -> float:
    other = next(v for v in place.root.inputs if v is not place.data)
    array = constant(other)
    assert array is not None
    if array.ndim > (rank(place.data) or 0):
        raise Mismatch(f"the number has rank {array.ndim}, which may be more than what it scales")
    number = float(array.reshape(-1)[0])
    if place.root.op_type == "Mul":
        return number
    return 1 / number if number else np.inf


def _columns(place: _Place, linear: Linear) -> slice:
    """Return the channels that are scaled: all of them, or those of one part of a Split."""
    if place.part is None:
        return slice(None)
    split = place.chain[-1]
    if attribute_int(split, "axis", 0) % linear.rank != linear.axis:
        raise Mismatch("the Split is not along the channels of the linear operator")
    if any(
        side is not None and constant(side) is None for n in place.chain for side in n.inputs[1:]
    ):
        raise Mismatch("a shape between the Split and the scale is computed")
    sizes = constant_ints(split.inputs[1]) if len(split.inputs) > 1 else None
    if sizes is None:
        count = len(split.outputs)
        if linear.channels % count:
            raise Mismatch(f"{count} parts do not divide {linear.channels} channels")
        sizes = (linear.channels // count,) * count
    start = sum(sizes[: place.part])
    return slice(start, start + sizes[place.part])
