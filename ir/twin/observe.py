"""Intermediate values by their ONNX names: look at them, or replace them, while the twin runs."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.fx

from whet.errors import UsageError

Observer = Callable[[torch.Tensor], torch.Tensor | None]


def value_nodes(twin: torch.fx.GraphModule) -> dict[str, torch.fx.Node]:
    """Map the name of every value of the main graph to the fx node that makes it."""
    origins = ((node.meta.get("onnx"), node) for node in twin.graph.nodes)
    return {origin.value: node for origin, node in origins if origin and origin.value}


def run_observed(
    twin: torch.fx.GraphModule, inputs: tuple[Any, ...], observers: Mapping[str, Observer]
) -> tuple[Any, ...]:
    """Run the twin and show named values to observers; what one returns takes the value's place.

    The values are part of the autograd graph: an observer may call ``register_hook`` on them to
    see the gradient.
    """
    nodes = value_nodes(twin)
    unknown = sorted(set(observers) - set(nodes))
    if unknown:
        raise UsageError(f"the twin has no value named {unknown[0]!r}")
    watched = {nodes[name]: observer for name, observer in observers.items()}
    result: tuple[Any, ...] = _Watching(twin, watched).run(*inputs)
    return result


class _Watching(torch.fx.Interpreter):
    def __init__(self, twin: torch.fx.GraphModule, watched: dict[torch.fx.Node, Observer]) -> None:
        super().__init__(twin)
        self._watched = watched

    def run_node(self, n: torch.fx.Node) -> Any:
        value = super().run_node(n)
        observer = self._watched.get(n)
        if observer is None:
            return value
        replacement = observer(value)
        return value if replacement is None else replacement
