"""Check the structural rules that every model must keep, fast enough to run after every pass."""

from collections.abc import Iterable
from typing import NoReturn

import onnx_ir

from whet.errors import InvalidModel
from whet.ir.text import print_node
from whet.ir.verify_schema import OperatorRules

_NEIGHBOURS = 3
_GRAPH_KINDS = (onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS)


def verify(model: onnx_ir.Model) -> None:
    """Raise :class:`InvalidModel` at the first broken structural rule.

    Every value that is used is an input, an initializer or the output of an earlier node, in the
    same graph or an enclosing one; names are given and unique per graph and do not hide a captured
    value; outputs are produced in their graph; initializers hold data of their declared type;
    every operator's domain is imported, and inputs, outputs and attributes fit the operator's
    schema at the imported version. Operators that ONNX does not know are accepted as they are.
    """
    functions = model.functions
    rules = OperatorRules(_normalized(model.opset_imports), functions)
    _GraphCheck(model.graph, rules, "graph").run({None}, None)
    for identifier, function in functions.items():
        rules = OperatorRules(_normalized(function.opset_imports), functions)
        place = f"function '{identifier[0]}::{identifier[1]}'"
        _GraphCheck(function.graph, rules, place).run({None}, None)


class _GraphCheck:
    """Checks one graph and, through attributes, the graphs inside it."""

    def __init__(self, graph: onnx_ir.Graph, rules: OperatorRules, place: str) -> None:
        self._graph = graph
        self._rules = rules
        self._place = place
        self._names: set[str] = set()

    def run(self, visible: set[onnx_ir.Value | None], outer: set[onnx_ir.Value | None] | None) -> None:
        """Check the graph; ``visible`` are the values of enclosing graphs and gains this one's."""
        own = self._declare_inputs()
        visible |= own
        captured: list[onnx_ir.Value] = []
        for node in self._graph:
            self._check_node(node, visible, own, captured)
        self._check_captures(captured)
        self._check_outputs(own)
