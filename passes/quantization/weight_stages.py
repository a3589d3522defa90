"""The order in which weights are rounded: how many at once, and behind which others."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeVar

import onnx_ir

from whet.passes.quantization.weight_sites import Reader, Table

__all__ = ["in_order", "stages"]

_TOGETHER = 1 << 29
"""Bytes of second moments that are held at once; those of one input may exceed them."""


class _Weight(Protocol):
    @property
    def table(self) -> Table: ...


T = TypeVar("T", bound=_Weight)


def stages(graph: onnx_ir.Graph, found: Sequence[T], *, in_sequence: bool) -> Iterator[list[T]]:
    """Yield the weights in portions whose second moments fit into memory; with ``in_sequence`` by depth, too.

    A weight is deeper than all products on the way to what it is multiplied with.
    """
    depths = _depths(graph, found) if in_sequence else {}
    by_depth: dict[int, list[T]] = {}
    for weight in found:
        by_depth.setdefault(
            max((depths.get(r.node, 0) for r in weight.table.readers), default=0), []
        ).append(weight)
    for depth in sorted(by_depth):
        yield from _portions(by_depth[depth])


def _portions(found: Sequence[T]) -> Iterator[list[T]]:
    """Split by memory; inputs that several weights read count once."""
    chosen: list[T] = []
    names: dict[str, int] = {}
    for weight in found:
        new = {
            r.operand: 16 * r.sizes[1] ** 2 for r in weight.table.readers if r.linear is not None
        }
        if chosen and sum({**names, **new}.values()) > _TOGETHER:
            yield chosen
            chosen, names = [], {}
        chosen.append(weight)
        names.update(new)
    if chosen:
        yield chosen


def in_order(graph: onnx_ir.Graph, found: Sequence[T]) -> list[tuple[Reader, T]]:
    """Return all readers in the order of the graph, so that what is made for one is there for the next."""
    places = {node: number for number, node in enumerate(graph)}
    pairs = [(reader, weight) for weight in found for reader in weight.table.readers]
    return sorted(pairs, key=lambda pair: places[pair[0].node])


def _depths(graph: onnx_ir.Graph, found: Sequence[_Weight]) -> dict[onnx_ir.Node, int]:
    """Return how many products are in a row before each node, itself included if it is one."""
    products = {r.node for w in found for r in w.table.readers if r.linear is not None}
    depths: dict[onnx_ir.Node, int] = {}
    for node in graph:
        makers = [v.producer() for v in node.inputs if v is not None]
        before = [depths.get(maker, 0) for maker in makers if maker is not None]
        depths[node] = max(before, default=0) + (node in products)
    return depths
