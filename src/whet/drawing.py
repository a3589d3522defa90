"""The graph of a result as data for a drawing: operators, who reads whom, and which pass made what."""

from typing import Any

import onnx_ir

__all__ = ["graph_record"]

_LIMIT = 4000
"""Larger graphs are not recorded: nobody could read the drawing."""


def graph_record(model: onnx_ir.Model) -> dict[str, Any] | None:
    """Return nodes ``[operator, name, pass that made it, pieces it was made from]`` and edges between their places.

    Only the main graph, in its order; None for a graph that is too large to be drawn.
    """
    nodes = list(model.graph)
    if len(nodes) > _LIMIT:
        return None
    place = {node: k for k, node in enumerate(nodes)}
    edges = sorted(
        {
            (place[maker], place[node])
            for node in nodes
            for value in node.inputs
            if value is not None and (maker := value.producer()) in place
        }
    )
    return {"nodes": [_described(node) for node in nodes], "edges": [list(e) for e in edges]}


def _described(node: onnx_ir.Node) -> list[str]:
    kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    maker, _, pieces = str(node.metadata_props.get("whet.from") or "").partition(":")
    return [kind, node.name or "", maker, pieces[:80]]
