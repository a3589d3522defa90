"""Read a model from the text form (recursive descent; the grammar is in :mod:`whet.ir.text`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import onnx_ir

from whet.ir.text_lexer import Kind, Token
from whet.ir.text_literals import LiteralParser
from whet.ir.text_syntax import MISSING, UNKNOWN
from whet.ir.text_tensor import tensor_from_elements


@dataclass
class _Scope:
    """Holds the names of one graph; names of enclosing graphs are found through ``parent``.

    A promised value is a graph output or an input of a node that is not defined yet (nodes of
    a model need not be sorted to be printed and read).
    """

    parent: _Scope | None
    values: dict[str, onnx_ir.Value] = field(default_factory=dict[str, onnx_ir.Value])
    promised: dict[str, tuple[onnx_ir.Value, Token]] = field(
        default_factory=dict[str, tuple[onnx_ir.Value, Token]]
    )

    def promise(self, name: str, token: Token) -> onnx_ir.Value:
        return self.promised.setdefault(name, (onnx_ir.Value(name=name), token))[0]

    def target(self, name: str, token: Token) -> onnx_ir.Value:
        """Return the value to define: the promised one, or a new one."""
        return self.promised.get(name, (onnx_ir.Value(name=name), token))[0]

    def find(self, name: str) -> onnx_ir.Value | None:
        scope: _Scope | None = self
        while scope is not None:
            if name in scope.values:
                return scope.values[name]
            scope = scope.parent
        return None


@dataclass
class _Header:
    """Holds the fields of ``model {…}`` and of ``function … with {…}``."""

    ir_version: int = 10
    opset: dict[str, int] = field(default_factory=dict[str, int])
    texts: dict[str, str] = field(default_factory=dict[str, str])
    model_version: int | None = None
    attributes: list[onnx_ir.Attr] = field(default_factory=list[onnx_ir.Attr])


class Parser(LiteralParser):
    """Reads one text; :meth:`model` is the start symbol."""

    def model(self) -> onnx_ir.Model:
        """Read ``model {…} graph … function …`` up to the end of the text."""
        lexer = self._lexer
        lexer.expect("model")
        header = self._header()
        notes = self._notes()
        lexer.expect("graph")
        graph = self._graph(None)
        graph.opset_imports.update(header.opset)
        functions: list[onnx_ir.Function] = []
        while lexer.accept("function"):
            functions.append(self._function())
        lexer.take(Kind.END, "'function' or the end of the text")
        return onnx_ir.Model(
            graph,
            ir_version=header.ir_version,
            producer_name=header.texts.get("producer_name"),
            producer_version=header.texts.get("producer_version"),
            domain=header.texts.get("domain"),
            model_version=header.model_version,
            doc_string=notes.doc,
            functions=functions,
            metadata_props=notes.metadata,
        )

    def _header(self) -> _Header:
        header = _Header()
        self._sequence("{", "}", lambda: self._header_field(header))
        return header

    def _header_field(self, header: _Header) -> None:
        token = self._lexer.token
        key = self._lexer.take(Kind.NAME, "a field name")
        self._lexer.expect("=")
        match key:
            case "ir_version":
                header.ir_version = self._integer()
            case "model_version":
                header.model_version = self._integer()
            case "opset":
                header.opset = dict(self._sequence("{", "}", self._opset))
            case "attributes":
                header.attributes = self._attributes(None)
            case "producer_name" | "producer_version" | "domain":
                header.texts[key] = self._lexer.string("a quoted string")
            case _:
                self._lexer.fail(f"unknown field '{key}'", token)

    def _opset(self) -> tuple[str, int]:
        domain = self._lexer.name("an operator domain")
        self._lexer.expect(":")
        return domain, self._integer()

    def _function(self) -> onnx_ir.Function:
        lexer = self._lexer
        domain = lexer.name("a function domain")
        lexer.expect("::")
        name = lexer.name("a function name")
        overload = lexer.name("an overload") if lexer.accept(":") else ""
        header = _Header()

        def read_header() -> None:
            nonlocal header
            if lexer.accept("with"):
                header = self._header()

        graph = self._signature_and_body(None, None, read_header)
        graph.opset_imports.update(header.opset)
        return onnx_ir.Function(domain, name, overload, graph=graph, attributes=header.attributes)

    def _graph(self, parent: _Scope | None) -> onnx_ir.Graph:
        name = None if self._lexer.at("(") else self._lexer.name("a graph name")
        return self._signature_and_body(name, parent, lambda: None)

    def _signature_and_body(
        self, name: str | None, parent: _Scope | None, between: Callable[[], None]
    ) -> onnx_ir.Graph:
        lexer = self._lexer
        scope = _Scope(parent)
        inputs = self._sequence("(", ")", lambda: self._input(scope))
        lexer.expect("->")
        outputs = self._sequence("(", ")", lambda: self._output(scope))
        promised_outputs = frozenset(scope.promised)
        between()
        notes = self._notes()
        lexer.expect("{")
        initializers: list[onnx_ir.Value] = []
        nodes: list[onnx_ir.Node] = []
        while not lexer.accept("}"):
            self._statement(scope, initializers, nodes)
        self._settle_promises(scope, promised_outputs)
        return onnx_ir.Graph(
            inputs,
            outputs,
            nodes=nodes,
            initializers=initializers,
            doc_string=notes.doc,
            name=name,
            metadata_props=notes.metadata,
        )

    def _input(self, scope: _Scope) -> onnx_ir.Value:
        token = self._lexer.token
        value = onnx_ir.Value(name=self._lexer.name("an input name"))
        self._annotate(value)
        self._define(scope, value, token)
        return value

    def _output(self, scope: _Scope) -> onnx_ir.Value:
        token = self._lexer.token
        name = self._lexer.name("an output name")
        value = scope.values.get(name) or scope.promise(name, token)
        self._annotate(value)
        return value

    def _settle_promises(self, scope: _Scope, outputs: frozenset[str]) -> None:
        """Hand values that were used, but not defined here, to the enclosing graph."""
        for name, (value, token) in scope.promised.items():
            if name in outputs:
                self._lexer.fail(f"output '{name}' is not produced in this graph", token)
            if scope.parent is None:
                self._lexer.fail(f"value '{name}' is not defined", token)
            later = scope.parent.promise(name, token)
            value.replace_all_uses_with(later)

    def _statement(
        self, scope: _Scope, initializers: list[onnx_ir.Value], nodes: list[onnx_ir.Node]
    ) -> None:
        lexer = self._lexer
        targets: list[tuple[onnx_ir.Value, Token]] = []
        if lexer.accept("("):
            lexer.expect(")")
        else:
            targets.append(self._target(scope))
            while lexer.accept(","):
                targets.append(self._target(scope))
        lexer.expect("=")
        follower = lexer.peek()
        is_tensor = lexer.token.kind is Kind.NAME and (
            follower.text in ("[", "{") or follower.kind is Kind.DIGEST
        )
        if lexer.at(UNKNOWN) or is_tensor:
            initializers.append(self._initializer(scope, targets))
        else:
            nodes.append(self._node(scope, targets))

    def _target(self, scope: _Scope) -> tuple[onnx_ir.Value, Token]:
        token = self._lexer.token
        name = self._lexer.name("a value name, or '}'")
        if name == MISSING and token.kind is Kind.NAME:
            value = onnx_ir.Value(name="")
        else:
            value = scope.target(name, token)
        self._annotate(value)
        return value, token

    def _initializer(
        self, scope: _Scope, targets: Sequence[tuple[onnx_ir.Value, Token]]
    ) -> onnx_ir.Value:
        value, token = targets[0]
        if len(targets) > 1:
            self._lexer.fail("a tensor is assigned to one name", targets[1][1])
        declared = scope.values.get(value.name or "")
        if declared is None:
            self._define(scope, value, token)
        elif declared.is_graph_input() or declared.const_value is not None:
            self._fail_twice(declared, token)
        else:
            value = declared
        if self._lexer.accept(UNKNOWN):
            return value
        tensor = self._tensor()
        tensor.name = value.name
        value.const_value = tensor
        if value.type is None and value.shape is None:
            value.type = onnx_ir.TensorType(tensor.dtype)
            value.shape = onnx_ir.Shape(tensor.shape.numpy())
        return value

    def _node(self, scope: _Scope, targets: Sequence[tuple[onnx_ir.Value, Token]]) -> onnx_ir.Node:
        lexer = self._lexer
        domain, operator, overload = "", lexer.name("an operator or a tensor"), ""
        if lexer.accept("::"):
            domain, operator = operator, lexer.name("an operator")
        if lexer.accept(":"):
            overload = lexer.name("an overload")
        inputs = self._sequence("(", ")", lambda: self._use(scope))
        attributes = self._attributes(scope) if lexer.at("{") else []
        notes = self._notes()
        for value, token in targets:
            if value.name:
                self._define(scope, value, token)
        return onnx_ir.Node(
            domain,
            operator,
            inputs,
            attributes,
            overload=overload,
            outputs=[value for value, _ in targets],
            name=notes.name,
            doc_string=notes.doc,
            metadata_props=notes.metadata,
        )

    def _use(self, scope: _Scope) -> onnx_ir.Value | None:
        token = self._lexer.token
        name = self._lexer.name("a value name")
        if name == MISSING and token.kind is Kind.NAME:
            return None
        return scope.find(name) or scope.promise(name, token)

    def _define(self, scope: _Scope, value: onnx_ir.Value, token: Token) -> None:
        name = value.name or ""
        if name in scope.values:
            self._fail_twice(value, token)
        scope.promised.pop(name, None)
        scope.values[name] = value

    def _fail_twice(self, value: onnx_ir.Value, token: Token) -> None:
        self._lexer.fail(f"value '{value.name}' is defined twice in this graph", token)

    def _annotate(self, value: onnx_ir.Value) -> None:
        if self._lexer.accept(":"):
            value.type, value.shape = self._type()
        notes = self._notes()
        if notes.doc:
            value.doc_string = notes.doc
        if notes.metadata:
            value.metadata_props.update(notes.metadata)

    def _attributes(self, scope: _Scope | None) -> list[onnx_ir.Attr]:
        return self._sequence("{", "}", lambda: self._attribute(scope))

    def _attribute(self, scope: _Scope | None) -> onnx_ir.Attr:
        lexer, kind = self._lexer, onnx_ir.AttributeType
        name = lexer.name("an attribute name")
        lexer.expect("=")
        if lexer.at("["):
            values = self._sequence("[", "]", lambda: self._attribute_value(scope))
            return self._list_attribute(name, values)
        if lexer.token.kind is Kind.NAME and lexer.peek().text == "[":
            plural = _PLURALS.get(lexer.token.text)
            if plural is not None:
                lexer.advance()
                values = self._sequence("[", "]", lambda: self._attribute_value(scope))
                return onnx_ir.Attr(name, plural, [value for _, value in values])
        if lexer.accept("ref"):
            target = lexer.name("an attribute of the function")
            lexer.expect(":")
            return onnx_ir.RefAttr(name, target, self._attribute_type())
        if lexer.accept("undefined"):
            return onnx_ir.Attr(name, kind.UNDEFINED, None)
        type_, value = self._attribute_value(scope)
        return onnx_ir.Attr(name, type_, value)

    def _list_attribute(
        self, name: str, values: Sequence[tuple[onnx_ir.AttributeType, object]]
    ) -> onnx_ir.Attr:
        types = {type_ for type_, _ in values}
        if len(types) != 1 or (singular := types.pop()) not in _LISTS:
            self._lexer.fail(f"attribute '{name}' needs one kind of int, float or string")
        return onnx_ir.Attr(name, _LISTS[singular], [value for _, value in values])

    def _attribute_type(self) -> onnx_ir.AttributeType:
        token = self._lexer.token
        word = self._lexer.take(Kind.NAME, "an attribute type")
        if word not in onnx_ir.AttributeType.__members__:
            self._lexer.fail(f"unknown attribute type '{word}'", token)
        return onnx_ir.AttributeType[word]

    def _attribute_value(self, scope: _Scope | None) -> tuple[onnx_ir.AttributeType, object]:
        lexer, kind = self._lexer, onnx_ir.AttributeType
        token = lexer.token
        if lexer.accept("graph"):
            return kind.GRAPH, self._graph(scope)
        if lexer.accept("type"):
            return kind.TYPE_PROTO, onnx_ir.TypeAndShape(*self._type())
        if token.kind is Kind.STRING:
            return kind.STRING, lexer.string("a string")
        if token.kind is Kind.BYTES:
            return kind.STRING, bytes.fromhex(lexer.advance().text[2:-1])
        if token.kind is Kind.NUMBER or token.text in ("inf", "nan"):
            number = self._number()
            if isinstance(number, int):
                return kind.INT, number
            return kind.FLOAT, float(
                tensor_from_elements(onnx_ir.DataType.FLOAT, (), [number]).numpy()
            )
        return kind.TENSOR, self._tensor()


_LISTS = {
    onnx_ir.AttributeType.INT: onnx_ir.AttributeType.INTS,
    onnx_ir.AttributeType.FLOAT: onnx_ir.AttributeType.FLOATS,
    onnx_ir.AttributeType.STRING: onnx_ir.AttributeType.STRINGS,
}
_PLURALS = {
    "ints": onnx_ir.AttributeType.INTS,
    "floats": onnx_ir.AttributeType.FLOATS,
    "strings": onnx_ir.AttributeType.STRINGS,
    "tensors": onnx_ir.AttributeType.TENSORS,
    "graphs": onnx_ir.AttributeType.GRAPHS,
    "types": onnx_ir.AttributeType.TYPE_PROTOS,
}
