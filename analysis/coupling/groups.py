"""What falls together: slices of weights, and families of alike groups."""

import dataclasses
import enum
import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

from whet.analysis.coupling.trace import Slot, Trace
from whet.ir.values import static_shape

__all__ = ["Family", "Group", "Kind", "Slice", "Slot", "find_families", "find_kept"]


class Kind(enum.Enum):
    """Say what goes."""

    CHANNELS = "channels"
    HEADS = "heads"
    HEAD_DIMENSIONS = "head dimensions"
    HIDDEN_UNITS = "hidden units"
    STREAM_DIMENSIONS = "stream dimensions"
    """What several layers add up or normalize."""


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """Indices of one axis of one constant."""

    slot: Slot
    axis: int
    indices: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """What must be removed together: one channel, one head, one hidden unit, wherever it is written or read."""

    atom: int
    slices: tuple[Slice, ...]

    @property
    def size(self) -> int:
        """Return how many elements of weights go if this group goes alone."""
        return sum(self.removed().values())

    def removed(self) -> dict[Slot, int]:
        """Return how many elements every weight loses if this group goes alone."""
        gone: dict[Slot, dict[int, int]] = defaultdict(dict)
        for part in self.slices:
            gone[part.slot][part.axis] = len(part.indices)
        found: dict[Slot, int] = {}
        for slot, lost in gone.items():
            sizes = static_shape(slot.value) or ()
            kept = [n - lost.get(axis, 0) for axis, n in enumerate(sizes)]
            found[slot] = math.prod(sizes) - math.prod(kept)
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Family:
    """Groups that are alike: the same weights lose the same number of indices along the same axes."""

    kind: Kind
    groups: tuple[Group, ...]

    @property
    def name(self) -> str:
        """Return the first weight that loses something, and the kind."""
        first = self.groups[0].slices[0].slot
        node, _ = first.readers[0]
        return f"{node.name or first.value.name} {self.kind.value}"


def find_families(trace: Trace) -> list[Family]:
    """Return all groups by family, in graph order."""
    slices = _slices(trace)
    kinds = _kinds(trace)
    families: dict[object, list[Group]] = defaultdict(list)
    for atom in sorted(slices):
        parts = slices[atom]
        signature = (
            kinds(atom, parts),
            tuple((id(p.slot), p.axis, len(p.indices)) for p in parts),
        )
        families[signature].append(Group(atom, tuple(parts)))
    found = [Family(_kind(key), tuple(groups)) for key, groups in families.items()]
    return [family for family in found if len(family.groups) > 1]


def _kind(signature: object) -> Kind:
    assert isinstance(signature, tuple)
    kind: object = signature[0]
    assert isinstance(kind, Kind)
    return kind


def _slices(trace: Trace) -> dict[int, list[Slice]]:
    found: dict[int, list[Slice]] = defaultdict(list)
    for slot in trace.slots:
        for axis, vector in enumerate(slot.axes):
            if vector is None:
                continue
            places: dict[int, list[int]] = defaultdict(list)
            for index, atoms in enumerate(trace.terms.resolve(vector)):
                for atom in atoms:
                    places[atom].append(index)
            for atom, indices in places.items():
                found[atom].append(Slice(slot, axis, tuple(indices)))
    return found


class _Kinds:
    """Tell what an atom is from what operators said of it."""

    def __init__(self, trace: Trace) -> None:
        self._tags: dict[int, Counter[str]] = defaultdict(Counter)
        for vector, tag in trace.tags:
            for atom in set[int]().union(*trace.terms.resolve(vector)):
                self._tags[atom][tag] += 1

    def __call__(self, atom: int, parts: Sequence[Slice]) -> Kind:
        tags = self._tags[atom]
        alone = {frozenset(p.indices) for p in parts if len(p.indices) == 1}
        if tags["heads"] and (tags["head dimensions"] < tags["heads"] or not alone):
            return Kind.HEADS
        if tags["sum"] and (tags["normalized"] or not tags["head dimensions"]):
            return Kind.STREAM_DIMENSIONS
        if tags["head dimensions"]:
            return Kind.HEAD_DIMENSIONS
        return Kind.CHANNELS if tags["channels"] else Kind.HIDDEN_UNITS


def _kinds(trace: Trace) -> _Kinds:
    return _Kinds(trace)


def find_kept(trace: Trace) -> Mapping[str, int]:
    """Return why weights' indices never go: reason -> how many elements of weights it holds."""
    found: Counter[str] = Counter()
    for slot in trace.slots:
        for vector in slot.axes:
            if vector is None:
                continue
            rest = int(slot.value.const_value.size if slot.value.const_value is not None else 0)
            for term in vector.tolist():
                if not trace.terms.atoms(term):
                    for reason in list(filter(None, trace.terms.reasons(term)))[:1]:
                        found[reason] += rest // vector.size
    return dict(found.most_common())
