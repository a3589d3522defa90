"""Check the structural rules that every model keeps, fast enough to run after every pass."""

from typing import NoReturn

import onnx_ir

from whet.errors import InvalidModel
from whet.ir.text import print_node
from whet.ir.verify_schema import OperatorRules

_NEIGHBOURS = 3
_LINE_LIMIT = 160
_GRAPH_KINDS = frozenset({onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS})


def verify(model: onnx_ir.Model) -> None:
    """Raise :class:`InvalidModel` at the first broken structural rule.

    Every value that is used is an input, an initializer or the output of an earlier node, in the
    same graph or an enclosing one; names are given and unique per graph and hide no captured
    value; outputs are produced in their graph; initializers hold data of their declared type;
    every operator's domain is imported, and inputs, outputs and attributes fit the operator's
    schema at the imported version. Operators that ONNX does not know are accepted as they are.
    """
    functions = model.functions
    rules = OperatorRules(model.opset_imports, functions)
    _GraphCheck(model.graph, rules, "the graph").run({None})
    for (domain, name, _), function in functions.items():
        rules = OperatorRules(function.opset_imports, functions, frozenset(function.attributes))
        _GraphCheck(function.graph, rules, f"function '{domain}::{name}'").run({None})


class _GraphCheck:
    """Checks one graph and, through attributes, the graphs inside it."""

    def __init__(self, graph: onnx_ir.Graph, rules: OperatorRules, place: str) -> None:
        self._graph = graph
        self._rules = rules
        self._place = place
        self._names: set[str | None] = set()
        self._captured: set[onnx_ir.Value | None] = set()

    def run(self, visible: set[onnx_ir.Value | None]) -> set[onnx_ir.Value | None]:
        """Check the graph below the ``visible`` values and return those that it captures."""
        outer = frozenset(visible)
        self._enter_inputs(visible)
        self._enter_initializers(visible)
        self._check_nodes(visible, is_nested=len(outer) > 1)
        self._check_outputs(visible - outer)
        self._captured &= outer
        self._captured.discard(None)
        for value in self._captured:
            if value is not None and value.name in self._names:
                self._fail(f"captured value '{value.name}' is hidden by one of the same name")
        visible &= outer
        return self._captured

    def _enter_inputs(self, visible: set[onnx_ir.Value | None]) -> None:
        for value in self._graph.inputs:
            self._enter_name(value, "input")
            if (producer := value.producer()) is not None:
                self._fail(f"input '{value.name}' is produced by {_label(producer)}")
        visible.update(self._graph.inputs)

    def _enter_initializers(self, visible: set[onnx_ir.Value | None]) -> None:
        for key, value in self._graph.initializers.data.items():
            if key != value.name:
                self._fail(f"initializer '{value.name}' is registered as '{key}'")
            if (producer := value.producer()) is not None:
                self._fail(f"initializer '{key}' is produced by {_label(producer)}")
            if not value.is_graph_input():
                self._enter_name(value, "initializer")
            self._check_data(value)
        visible.update(self._graph.initializers.data.values())

    def _enter_name(
        self, value: onnx_ir.Value, role: str, node: onnx_ir.Node | None = None
    ) -> None:
        name = value.name
        if not name:
            self._fail(f"{role} {value!r} has no name", node)
        if name in self._names:
            self._fail(f"{role} '{name}' has the name of another value of this graph", node)
        self._names.add(name)

    def _check_data(self, value: onnx_ir.Value) -> None:
        tensor = value.const_value
        if tensor is None:
            self._fail(f"initializer '{value.name}' has no data")
        declared = value.type
        if declared is not None and declared.dtype != tensor.dtype:
            self._fail(f"initializer '{value.name}' is {tensor.dtype}, declared {declared.dtype}")
        shape = value.shape
        if shape is None:
            return
        actual = tensor.shape
        if shape != actual and not _shapes_agree(shape, actual):
            self._fail(f"initializer '{value.name}' has shape {actual}, declared {shape}")

    def _check_nodes(self, visible: set[onnx_ir.Value | None], *, is_nested: bool) -> None:
        # The hot loop: locals and one set operation per node, anything rare is a method.
        names, accepted, captured = self._names, self._rules.accepted, self._captured
        for node in self._graph:
            inputs, outputs = node.inputs, node.outputs
            if not visible.issuperset(inputs):
                self._fail_undefined(node, visible)
            if is_nested:
                captured.update(inputs)
            attributes = node.attributes.data
            call: tuple[object, ...] = (node.op_type, node.domain, len(inputs), len(outputs))
            for name, attribute in attributes.items():
                kind = attribute.type
                call += (name, kind, attribute.ref_attr_name)
                if kind in _GRAPH_KINDS:
                    self._check_subgraphs(node, attribute, visible)
            if call not in accepted or None in inputs or node.overload:
                self._check_call(node, call)
            for value in outputs:
                label = value.name
                if not label or label in names:
                    self._check_output_name(node, value)
                names.add(label)
            visible.update(outputs)

    def _check_call(self, node: onnx_ir.Node, call: tuple[object, ...]) -> None:
        for breach in self._rules.breaches(node):
            self._fail(breach, node)
        if None not in node.inputs and not node.overload and self._rules.is_portable(node):
            self._rules.accepted.add(call)

    def _check_subgraphs(
        self, node: onnx_ir.Node, attribute: onnx_ir.Attr, visible: set[onnx_ir.Value | None]
    ) -> None:
        if attribute.is_ref():
            return
        is_one = attribute.type == onnx_ir.AttributeType.GRAPH
        for graph in (attribute.as_graph(),) if is_one else attribute.as_graphs():
            place = f"graph '{attribute.name}' of {_label(node)} in {self._place}"
            self._captured |= _GraphCheck(graph, self._rules, place).run(visible)

    def _check_output_name(self, node: onnx_ir.Node, value: onnx_ir.Value) -> None:
        is_omitted = value.name == "" and not value.uses() and not value.is_graph_output()
        if not is_omitted:
            self._enter_name(value, "output", node)

    def _check_outputs(self, own: set[onnx_ir.Value | None]) -> None:
        for value in self._graph.outputs:
            if value not in own:
                self._fail(f"output '{value.name}' is not produced in this graph")
            if not value.name:
                self._fail(f"output {value!r} has no name", value.producer())

    def _fail_undefined(self, node: onnx_ir.Node, visible: set[onnx_ir.Value | None]) -> NoReturn:
        index, value = next((i, v) for i, v in enumerate(node.inputs) if v not in visible)
        assert value is not None, "a missing input is always visible"
        producer = value.producer()
        if producer is None:
            reason = "is no input, initializer or output of a node here or in an enclosing graph"
        elif producer.graph is None:
            reason = f"is produced by {_label(producer)}, which is in no graph"
        elif producer.graph is self._graph:
            reason = f"is produced later, by {_label(producer)} (order or cycle)"
        else:
            reason = f"is produced by {_label(producer)} in a graph that is not open here"
        self._fail(f"input {index} '{value.name}' {reason}", node)

    def _fail(self, message: str, node: onnx_ir.Node | None = None) -> NoReturn:
        if node is None:
            raise InvalidModel(f"{message}, in {self._place}")
        shown = "\n".join(self._neighbourhood(node))
        raise InvalidModel(f"{message}, at {_label(node)} in {self._place}\n{shown}")

    def _neighbourhood(self, node: onnx_ir.Node) -> list[str]:
        nodes = list(self._graph)
        index = nodes.index(node)
        start = max(0, index - _NEIGHBOURS)
        return [
            ("  > " if other is node else "    ") + _first_line(other)
            for other in nodes[start : index + _NEIGHBOURS + 1]
        ]


def _shapes_agree(declared: onnx_ir.Shape, actual: onnx_ir.ShapeProtocol) -> bool:
    return len(declared) == len(actual) and all(
        not isinstance(dim, int) or dim == size for dim, size in zip(declared, actual, strict=True)
    )


def _label(node: onnx_ir.Node) -> str:
    return f"{node.op_type} '{node.name or ''}'"


def _first_line(node: onnx_ir.Node) -> str:
    line, _, rest = print_node(node).partition("\n")
    return line[:_LINE_LIMIT] + (" …" if rest or len(line) > _LINE_LIMIT else "")
