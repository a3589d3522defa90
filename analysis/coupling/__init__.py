"""Which channels, heads and hidden units fall together: found on the graph, without any hint."""

from whet.analysis.coupling.coupling import Coupled, Coupling
from whet.analysis.coupling.groups import Family, Group, Kind, Slice, Slot

__all__ = ["Coupled", "Coupling", "Family", "Group", "Kind", "Slice", "Slot"]
