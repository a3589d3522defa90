"""Hidden units of experts: where the weights of each one are."""

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx_ir
from numpy.typing import NDArray

from whet.analysis.coupling import Coupled, Family
from whet.analysis.experts.experts import Experts
from whet.errors import Mismatch
from whet.ir.values import attribute_int, attribute_string

__all__ = ["Places", "Units", "find_units"]

Places = NDArray[np.int64]


@dataclasses.dataclass(frozen=True, eq=False)
class Units:
    """The units of a layer's experts, all of which have as many."""

    count: int
    places: Mapping[onnx_ir.Value, tuple[int, Places]]
    """Stack -> its axis of units, and which indices are each unit's, ``[units, indices]``."""
    atoms: tuple[int, ...] = ()
    """The groups of the coupling that the units are; empty for the operator."""


def find_units(experts: Experts, coupled: Coupled | None) -> Units:
    """Return the units: indices of stacked weights that go together and touch no other weight.

    Raises Mismatch where there are none.
    """
    if experts.is_operator:
        return _of_operator(experts)
    assert coupled is not None
    own = {stack.value for stack in experts.stacks}
    inside = [family for family in coupled.families if _is_inside(family, own)]
    if len(inside) != 1:
        raise Mismatch(
            f"{len(inside)} kinds of hidden units are only the experts' own, expected one"
        )
    groups = inside[0].groups
    places = {
        part.slot.value: (part.axis, np.asarray([g.slices[n].indices for g in groups], np.int64))
        for n, part in enumerate(groups[0].slices)
    }
    return Units(len(groups), places, tuple(group.atom for group in groups))


def _is_inside(family: Family, own: set[onnx_ir.Value]) -> bool:
    parts = family.groups[0].slices
    return len(parts) > 1 and all(p.slot.value in own and p.axis > 0 for p in parts)


def _of_operator(experts: Experts) -> Units:
    """Return the units of ORT's operator: fc1 ``[E, units, in]``, twice as many for SwiGLU, fc2 ``[E, out, units]``."""
    node = experts.node
    by_place = {stack.readers[0][1]: stack.value for stack in experts.stacks}
    if 2 not in by_place or 4 not in by_place:
        raise Mismatch("fc1 or fc2 is missing")
    shape = by_place[4].const_value
    assert shape is not None
    count = int(shape.shape.numpy()[2])
    alone = np.arange(count)[:, None]
    first = alone
    if attribute_string(node, "activation_type", "relu") == "swiglu":
        fused = attribute_int(node, "swiglu_fusion", 0)
        step = np.array([0, 1]) if fused == 1 else np.array([0, count])
        first = (2 if fused == 1 else 1) * alone + step
    rows = {2: (1, first), 3: (1, first), 4: (2, alone), 6: (1, alone), 7: (1, alone)}
    return Units(count, {by_place[p]: rows[p] for p in rows if p in by_place})
