"""Which operators run in integers: the cheapest placement is a minimum cut.

Every operator is on one of two sides, float or integer, and pays the time of its kernel there. A value that crosses
pays once, however many readers it has: QuantizeLinear into the integer side, DequantizeLinear out of it. Two
auxiliary nodes per value turn this into cuts of edges, so a maximum flow finds the exact minimum.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order, maximum_flow

__all__ = ["Placement", "Task", "place"]

_RESOLUTION = 10**7
"""All costs together, in the integers that the flow is computed in."""


@dataclasses.dataclass(frozen=True)
class Task:
    """An operator that has an integer form."""

    in_float: float
    """Milliseconds of the float kernel."""
    in_integers: float
    reads: tuple[str, ...]
    writes: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Placement:
    """Tasks by number that run in integers, and what the whole placement costs."""

    integers: frozenset[int]
    milliseconds: float


def place(
    tasks: Sequence[Task],
    enter: Mapping[str, float],
    leave: Mapping[str, float],
    read_outside: frozenset[str],
) -> Placement:
    """Return the cheapest placement; among equals, the one with the most tasks in integers.

    ``enter`` and ``leave`` are the costs of quantizing and dequantizing a value, by name. Values in ``read_outside``
    have a reader that is no task, or are outputs.
    """
    flow = _Flow(len(tasks))
    for number, task in enumerate(tasks):
        flow.edge(flow.source, number, task.in_integers)
        flow.edge(number, flow.sink, task.in_float)
    makers = {value: number for number, task in enumerate(tasks) for value in task.writes}
    values = dict.fromkeys([*makers, *(v for task in tasks for v in task.reads)])
    for value in values:
        maker = makers.get(value, flow.source)
        readers = [number for number, task in enumerate(tasks) if value in task.reads]
        entering = flow.node()
        flow.edge(maker, entering, enter.get(value, 0.0))
        for reader in readers:
            flow.edge(entering, reader, None)
        leaving = flow.node()
        flow.edge(leaving, maker, leave.get(value, 0.0))
        for reader in readers:
            flow.edge(reader, leaving, None)
        if value in read_outside:
            flow.edge(flow.source, leaving, None)
    cost, floats = flow.cut()
    return Placement(frozenset(range(len(tasks))) - floats, cost)


class _Flow:
    """A network; what stays connected to the source runs in float."""

    def __init__(self, tasks: int) -> None:
        self._edges: list[tuple[int, int, float | None]] = []
        self._count = tasks
        self.source = self.node()
        self.sink = self.node()

    def node(self) -> int:
        self._count += 1
        return self._count - 1

    def edge(self, start: int, end: int, cost: float | None) -> None:
        """Add an edge that costs ``cost`` when it is cut; None must not be cut."""
        if start != end:
            self._edges.append((start, end, cost))

    def cut(self) -> tuple[float, frozenset[int]]:
        """Return the cost of the minimum cut and what is on the source's side."""
        total = sum(cost for _, _, cost in self._edges if cost is not None)
        if total == 0:
            return 0.0, frozenset()
        unit = total / _RESOLUTION
        sizes = [2 * _RESOLUTION if c is None else round(c / unit) for _, _, c in self._edges]
        starts, ends = [e[0] for e in self._edges], [e[1] for e in self._edges]
        shape = (self._count, self._count)
        network = csr_array((np.asarray(sizes, np.int32), (starts, ends)), shape=shape)
        found = maximum_flow(network, self.source, self.sink)
        rest = csr_array(network - found.flow)
        rest.eliminate_zeros()
        reached = breadth_first_order(rest, self.source, return_predecessors=False)
        return float(found.flow_value * unit), frozenset(int(node) for node in reached)
