"""Merge a reshape with the one before it."""

import dataclasses
from typing import ClassVar

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_int, constant_ints, dimensions
from whet.passes.base import Fidelity
from whet.passes.forms import axes_of, from_zero
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

_INNER = op(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), var("x"), name="inner", open=True)


@dataclasses.dataclass(frozen=True)
class MergeReshapes(Rewrite):
    """Replace ``Reshape(g(x), s)`` by ``Reshape(x, s)``, g one of Reshape, Flatten, Squeeze, Unsqueeze.

    ``Squeeze`` and ``Unsqueeze`` of a Reshape to fixed sizes become one Reshape as well. A 0 in ``s`` copies a size of
    the value between the two: it is replaced by that size if it is fixed, kept if ``x`` has the same size there, else
    it becomes the -1 if there is none yet.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    patterns = (
        op("Reshape", _INNER, var("shape"), name="outer"),
        op(
            ("Squeeze", "Unsqueeze"),
            op("Reshape", var("x"), var("shape"), name="inner"),
            name="outer",
            open=True,
        ),
    )

    def check(self, found: Match, work: Workbench) -> None:
        """Decline sizes that are computed at run time and empty tensors."""
        sizes = constant_ints(found["shape"])
        if sizes is None:
            raise Mismatch("the new shape is computed at run time")
        if 0 in sizes and any(attribute_int(node, "allowzero", 0) for node in found.nodes):
            raise Mismatch("allowzero: the tensor is empty")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        """Return one reshape."""
        if found.root.op_type == "Reshape":
            sizes = constant_ints(found["shape"]) or ()
            target = _without_copies(sizes, found.root.inputs[0], found["x"])
        else:
            target = _moved(found)
        return build.op("Reshape", found["x"], build.ints(*target))


def _without_copies(
    sizes: tuple[int, ...], middle: onnx_ir.Value | None, x: onnx_ir.Value
) -> list[int]:
    """Rewrite sizes that refer to the value in the middle so that they refer to ``x``."""
    target = list(sizes)
    between, before = dimensions(middle), dimensions(x)
    for axis, size in enumerate(sizes):
        if size != 0:
            continue
        known = between[axis] if between is not None and axis < len(between) else None
        if isinstance(known, int) and known > 0:
            target[axis] = known
        elif known is None or before is None or axis >= len(before) or before[axis] != known:
            if -1 in target:
                raise Mismatch(f"size {axis} is copied from the value between the two")
            target[axis] = -1
    return target


def _moved(found: Match) -> list[int]:
    """Return the sizes of the inner reshape with the outer's axes taken out or put in."""
    sizes = list(constant_ints(found["shape"]) or ())
    axes = axes_of(found.root)
    if axes is None:
        raise Mismatch("Squeeze without axes takes out whatever is 1 at run time")
    if found.root.op_type == "Squeeze":
        inside = from_zero(axes, len(sizes))
        if any(sizes[axis] != 1 for axis in inside):
            raise Mismatch("the size of a squeezed axis is not written as 1")
        target = [size for axis, size in enumerate(sizes) if axis not in inside]
    else:
        inside = from_zero(axes, len(sizes) + len(axes))
        rest = iter(sizes)
        target = [1 if axis in inside else next(rest) for axis in range(len(sizes) + len(axes))]
    if 0 in sizes and _positions(sizes) != _positions(target):
        return _resolved(found, sizes, target)
    return target


def _positions(sizes: list[int]) -> list[int]:
    return [axis for axis, size in enumerate(sizes) if size == 0]


def _resolved(found: Match, sizes: list[int], target: list[int]) -> list[int]:
    """Replace copies that moved by the sizes they copy."""
    before = dimensions(found["x"])
    copied = iter(_positions(sizes))
    for axis in _positions(target):
        source = next(copied)
        if source == axis:
            continue
        size = None if before is None or source >= len(before) else before[source]
        if isinstance(size, int) and size > 0:
            target[axis] = size
        elif -1 not in target:
            target[axis] = -1
        else:
            raise Mismatch(f"size {source}, which is copied, moves to axis {axis}")
    return target
