"""Print a model in the text form: one node per line, weights in short."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx_ir

from whet.ir.text_syntax import (
    MISSING,
    UNKNOWN,
    quote,
    spell_bytes,
    spell_floats,
    spell_name,
    spell_type,
)
from whet.ir.text_tensor import spell_tensor

_STEP = "  "


class Printer:
    """Prints models, graphs and nodes.

    ``elide`` is the number of elements above which a tensor is printed as its digest. With
    ``numbers`` the values are printed under these numbers, and everything that does not change
    what the model computes is left out: names, notes, types of intermediate values, producer.
    """

    def __init__(self, elide: int, numbers: Mapping[onnx_ir.Value, int] | None = None) -> None:
        self._elide = elide
        self._numbers = numbers

    def model(self, model: onnx_ir.Model) -> str:
        """Return the text of a whole model, functions after the graph."""
        parts = [f"model {self._model_header(model)}{self._notes(model)}"]
        parts.append(f"graph {self._graph(model.graph, '')}")
        functions = list(model.functions.values())
        if self._numbers is not None:
            functions.sort(key=lambda function: function.identifier())
        parts += [f"function {self._function(function)}" for function in functions]
        return "\n\n".join(parts) + "\n"

    def node(self, node: onnx_ir.Node, declared: frozenset[onnx_ir.Value], indent: str) -> str:
        """Return one node's line; values that the signature ``declared`` are not typed again."""
        outputs = ", ".join(self._target(v, declared) for v in node.outputs)
        operator = spell_name(node.op_type)
        if node.domain:
            operator = f"{spell_name(node.domain)}::{operator}"
        if node.overload:
            operator += f":{spell_name(node.overload)}"
        inputs = ", ".join(MISSING if v is None else self._name(v) for v in node.inputs)
        attributes = self._attributes(node.attributes.values(), indent)
        text = f"{outputs or '()'} = {operator}({inputs})" + (attributes and f" {attributes}")
        if node.name and self._numbers is None:
            text += f" @{quote(node.name)}"
        return text + self._notes(node, f"\n{indent}{_STEP * 2}")

    def _model_header(self, model: onnx_ir.Model) -> str:
        opset = f"opset={self._opset(model.opset_imports)}"
        if self._numbers is not None:
            return f"{{{opset}}}"
        fields = [f"ir_version={model.ir_version}", opset]
        for key in ("producer_name", "producer_version", "domain"):
            if (text := getattr(model, key)) is not None:
                fields.append(f"{key}={quote(text)}")
        if model.model_version is not None:
            fields.append(f"model_version={model.model_version}")
        return f"{{{', '.join(fields)}}}"

    def _opset(self, imports: Mapping[str, int]) -> str:
        items = sorted(imports.items()) if self._numbers is not None else imports.items()
        return f"{{{', '.join(f'{spell_name(domain)}: {v}' for domain, v in items)}}}"

    def _function(self, function: onnx_ir.Function) -> str:
        name = f"{spell_name(function.domain)}::{spell_name(function.name)}"
        if function.overload:
            name += f":{spell_name(function.overload)}"
        fields = f"opset={self._opset(function.opset_imports)}"
        if function.attributes:
            fields += f", attributes={self._attributes(function.attributes.values(), '')}"
        graph = function.graph
        return f"{name}{self._signature(graph)} with {{{fields}}}{self._body(graph, '')}"

    def _graph(self, graph: onnx_ir.Graph, indent: str) -> str:
        shows_name = self._numbers is None and graph.name is not None
        name = spell_name(graph.name or "") if shows_name else ""
        return f"{name}{self._signature(graph)}{self._body(graph, indent)}"

    def _signature(self, graph: onnx_ir.Graph) -> str:
        inputs = [self._declare(value) for value in graph.inputs]
        seen = set(graph.inputs)
        outputs: list[str] = []
        for value in graph.outputs:
            outputs.append(self._name(value) if value in seen else self._declare(value))
            seen.add(value)
        return f"({', '.join(inputs)}) -> ({', '.join(outputs)})"

    def _body(self, graph: onnx_ir.Graph, indent: str) -> str:
        inner = indent + _STEP
        declared = frozenset(graph.inputs) | frozenset(graph.outputs)
        lines = [self._initializer(v, declared) for v in self._initializers(graph)]
        lines += [self.node(node, declared, inner) for node in graph]
        body = "".join(f"{inner}{line}\n" for line in lines)
        return f"{self._notes(graph)} {{\n{body}{indent}}}"

    def _initializers(self, graph: onnx_ir.Graph) -> Iterable[onnx_ir.Value]:
        values = graph.initializers.values()
        if self._numbers is None:
            return values
        numbers = self._numbers
        return sorted(values, key=lambda value: numbers[value])

    def _initializer(self, value: onnx_ir.Value, declared: frozenset[onnx_ir.Value]) -> str:
        tensor = value.const_value
        if tensor is None:
            return f"{self._target(value, declared)} = {UNKNOWN}"
        name = self._target(value, declared)
        if value not in declared and _is_typed_as(value, tensor):
            name = self._name(value) + self._notes(value)
        return f"{name} = {spell_tensor(tensor, self._elide)}"

    def _name(self, value: onnx_ir.Value) -> str:
        if value.name == "":
            return MISSING
        if self._numbers is not None:
            return f"%{self._numbers[value]}" if value in self._numbers else "%undefined"
        return spell_name(value.name or f"%unnamed_{id(value)}")

    def _declare(self, value: onnx_ir.Value) -> str:
        text = self._name(value)
        if value.type is not None or value.shape is not None:
            text += f": {spell_type(value.type, value.shape)}"
        return text + self._notes(value)

    def _target(self, value: onnx_ir.Value, declared: frozenset[onnx_ir.Value]) -> str:
        if value in declared or self._numbers is not None:
            return self._name(value)
        return self._declare(value)

    def _notes(
        self, owner: onnx_ir.Model | onnx_ir.Graph | onnx_ir.Node | onnx_ir.Value, gap: str = " "
    ) -> str:
        if self._numbers is not None:
            return ""
        notes = [f"@doc {quote(owner.doc_string)}"] if owner.doc_string else []
        if owner.metadata_props:
            pairs = (f"{quote(k)}: {quote(v)}" for k, v in owner.metadata_props.items())
            notes.append(f"@{{{', '.join(pairs)}}}")
        return "".join(gap + note for note in notes)

    def _attributes(self, attributes: Iterable[onnx_ir.Attr], indent: str) -> str:
        if self._numbers is not None:
            attributes = sorted(attributes, key=lambda attribute: attribute.name)
        items = [f"{spell_name(a.name)}={self._attribute(a, indent)}" for a in attributes]
        return f"{{{', '.join(items)}}}" if items else ""

    def _attribute(self, attribute: onnx_ir.Attr, indent: str) -> str:
        if attribute.is_ref():
            return f"ref {spell_name(attribute.ref_attr_name or '')}: {attribute.type.name}"
        kind = onnx_ir.AttributeType
        value = attribute.value
        match attribute.type:
            case kind.INTS | kind.FLOATS | kind.STRINGS if value:
                return f"[{', '.join(self._items(value, indent))}]"
            case kind.INTS | kind.FLOATS | kind.STRINGS | kind.TENSORS | kind.GRAPHS:
                items = ", ".join(self._items(value, indent))
                return f"{attribute.type.name.lower()}[{items}]"
            case kind.TYPE_PROTOS:
                return f"types[{', '.join(self._items(value, indent))}]"
            case kind.UNDEFINED:
                return "undefined"
            case _:
                return next(self._items((value,), indent))

    def _items(self, values: Iterable[object], indent: str) -> Iterator[str]:
        for value in values:
            match value:
                case float():
                    yield from spell_floats((value,))
                case int():
                    yield str(value)
                case str() | bytes():
                    yield spell_bytes(value)
                case onnx_ir.Graph():
                    yield f"graph {self._graph(value, indent)}"
                case onnx_ir.TypeAndShape():
                    yield f"type {spell_type(value.type, value.shape)}"
                case onnx_ir.TensorProtocol():
                    yield spell_tensor(value, self._elide)
                case _:
                    raise TypeError(f"an attribute holds {value!r}")


def number_values(model: onnx_ir.Model) -> dict[onnx_ir.Value, int]:
    """Number every value by its first appearance: inputs, then each node's inputs and outputs."""
    numbers: dict[onnx_ir.Value, int] = {}
    _number_graph(model.graph, numbers)
    for _, function in sorted(model.functions.items()):
        _number_graph(function.graph, numbers)
    return numbers


def _number_graph(graph: onnx_ir.Graph, numbers: dict[onnx_ir.Value, int]) -> None:
    _number(graph.inputs, numbers)
    for node in graph:
        _number((value for value in node.inputs if value is not None), numbers)
        for _, attribute in sorted(node.attributes.items()):
            for subgraph in subgraphs_of(attribute):
                _number_graph(subgraph, numbers)
        _number((value for value in node.outputs if value.name != ""), numbers)
    _number(graph.outputs, numbers)
    _number(graph.initializers.values(), numbers)


def _number(values: Iterable[onnx_ir.Value], numbers: dict[onnx_ir.Value, int]) -> None:
    for value in values:
        numbers.setdefault(value, len(numbers))


def subgraphs_of(attribute: onnx_ir.Attr) -> Sequence[onnx_ir.Graph]:
    """Return the graphs that an attribute holds; none for a reference or another kind."""
    if attribute.is_ref():
        return ()
    if attribute.type == onnx_ir.AttributeType.GRAPH:
        return (attribute.as_graph(),)
    return attribute.as_graphs() if attribute.type == onnx_ir.AttributeType.GRAPHS else ()


def _is_typed_as(value: onnx_ir.Value, tensor: onnx_ir.TensorProtocol) -> bool:
    if value.type is None:
        return value.shape is None
    return value.type == onnx_ir.TensorType(tensor.dtype) and value.shape == tensor.shape
