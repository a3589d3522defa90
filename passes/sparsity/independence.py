"""Which layers can be fitted from the same run over the data, though each is fitted behind those in front of it."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol, TypeVar

import onnx_ir

from whet.ir.values import captured

__all__ = ["Changing", "independent"]

_MOST_BYTES = 1 << 29
"""What is gathered for several layers together; one layer may take more."""


class Changing(Protocol):
    """A layer whose weight is to be changed."""

    @property
    def changed(self) -> Sequence[onnx_ir.Node]:
        """Return the nodes that read the weight, in one graph with those of the other layers."""
        ...

    @property
    def gathered_bytes(self) -> int:
        """Return what is gathered of its inputs."""
        ...


T = TypeVar("T", bound=Changing)


def independent(layers: Sequence[T]) -> Iterator[list[T]]:
    """Yield runs of layers none of which computes from what an earlier one of its run makes.

    What is fitted is then the same, to rounding, as layer by layer: q, k and v of an attention are a run of three.
    """
    run: list[T] = []
    changed: set[onnx_ir.Node] = set()
    size = 0
    for layer in layers:
        behind = not changed.isdisjoint(_above(layer.changed))
        if run and (behind or size + layer.gathered_bytes > _MOST_BYTES):
            yield run
            run, changed, size = [], set(), 0
        run.append(layer)
        changed.update(layer.changed)
        size += layer.gathered_bytes
    if run:
        yield run


def _above(nodes: Iterable[onnx_ir.Node]) -> set[onnx_ir.Node]:
    """Return the nodes that others compute from."""
    found: set[onnx_ir.Node] = set()
    waiting = [maker for node in nodes for maker in _makers(node)]
    while waiting:
        node = waiting.pop()
        if node not in found:
            found.add(node)
            waiting += _makers(node)
    return found


def _makers(node: onnx_ir.Node) -> list[onnx_ir.Node]:
    read = [*node.inputs, *captured(node)]
    return [maker for v in read if v is not None and (maker := v.producer()) is not None]
