"""From the IR to torch.fx: one call of a plain Python function per ONNX node."""

import functools
import inspect
import operator
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import onnx_ir
import onnx_ir.passes.common
import torch
import torch.fx

from whet.errors import UnsupportedModel
from whet.ir.twin.attributes import Attributes, TypeMap
from whet.ir.twin.element_types import DIFFERENTIABLE, TORCH_TYPES
from whet.ir.twin.inputs import input_or_default, matched_type, required_input
from whet.ir.twin.names import Place, places
from whet.ir.twin.registry import Operator, find


@dataclass(frozen=True, slots=True)
class Origin:
    """What an fx node computes: a value of the model and the ONNX node that makes it."""

    value: str
    node: str = ""
    op_type: str = ""
    domain: str = ""


def to_fx(
    model: onnx_ir.Model, *, dtype: torch.dtype | None = None, straight_through: bool = False
) -> torch.fx.GraphModule:
    """Turn a model into a module that computes and differentiates it.

    Inputs are positional in the model's order (one that is also an initializer may be left out);
    the result is the tuple of outputs. Initializers of float16, bfloat16, float32 and float64 are
    parameters, all others buffers, both under their own names (``parameter_paths`` lists the few
    that a module tree cannot hold). Every value's fx node carries an ``Origin`` in
    ``meta["onnx"]``. Integers below a byte are held in one byte.

    With ``dtype`` those four types all become that type - weights, inputs, casts, constants,
    random numbers -, so that ``torch.float64`` makes an oracle. With ``straight_through``
    QuantizeLinear returns its integers in the input's floating type, and its rounding has the
    gradient of the identity inside the range.
    """
    model = _without_functions(model)
    _refuse_unsupported(model)
    twin = torch.fx.GraphModule(torch.nn.Module(), torch.fx.Graph(), class_name="Twin")
    types = TypeMap(dtype)
    stored = places(model)
    for place in stored:
        _store(twin, place, types)
    plan = _Plan(
        types=types,
        straight_through=straight_through,
        paths={place.value: place.path for place in stored},
        opsets=dict(model.opset_imports),
    )
    _Scope(plan, twin).main_graph(model.graph)
    return twin


def _without_functions(model: onnx_ir.Model) -> onnx_ir.Model:
    if not model.functions:
        return model
    clone = model.clone()
    onnx_ir.passes.common.InlinePass()(clone)
    return clone


def _refuse_unsupported(model: onnx_ir.Model) -> None:
    nodes = list(model.graph.all_nodes())
    missing = [node for node in nodes if _operator(node, model.opset_imports) is None]
    if not missing:
        return
    kinds = Counter(_kind(node, model.opset_imports) for node in missing)
    first = {_kind(node, model.opset_imports): node for node in reversed(missing)}
    lines = [
        f"{kind}: {count} node{'s' if count > 1 else ''}, first {first[kind].name!r}"
        for kind, count in sorted(kinds.items())
    ]
    raise UnsupportedModel(
        f"{len(missing)} of {len(nodes)} nodes have no differentiable twin: " + "; ".join(lines)
    )


def _kind(node: onnx_ir.Node, opsets: dict[str, int]) -> str:
    version = _version(node, opsets)
    return f"{node.domain or 'ai.onnx'}::{node.op_type} (opset {version or 'not imported'})"


def _version(node: onnx_ir.Node, opsets: dict[str, int]) -> int:
    return node.version or opsets.get(node.domain, 0)


def _operator(node: onnx_ir.Node, opsets: dict[str, int]) -> Operator | None:
    return find(node.domain, node.op_type, _version(node, opsets) or 1)


def _store(root: torch.nn.Module, place: Place, types: TypeMap) -> None:
    tensor = place.value.const_value
    if tensor is None:
        raise UnsupportedModel(f"initializer {place.value.name!r} has no value")
    differentiable = onnx_ir.DataType(tensor.dtype) in DIFFERENTIABLE
    _put(root, place.path, types.tensor(tensor), parameter=differentiable)


def _put(root: torch.nn.Module, path: str, tensor: torch.Tensor, *, parameter: bool) -> None:
    *parents, name = path.split(".")
    module = root
    for parent in parents:
        module = _child(module, parent)
    if parameter:
        module.register_parameter(name, torch.nn.Parameter(tensor))
    else:
        module.register_buffer(name, tensor)


def _child(module: torch.nn.Module, name: str) -> torch.nn.Module:
    if name not in dict(module.named_children()):
        module.add_module(name, torch.nn.Module())
    return module.get_submodule(name)


@dataclass(frozen=True, slots=True)
class _Plan:
    """What the whole conversion shares."""

    types: TypeMap
    straight_through: bool
    paths: dict[onnx_ir.Value, str]
    opsets: dict[str, int]


class _Scope:
    """One fx graph under construction, its module, and the fx node of every value visible in it."""

    def __init__(self, plan: _Plan, module: torch.fx.GraphModule) -> None:
        self._plan = plan
        self._module = module
        self._graph = torch.fx.Graph()
        self._env: dict[onnx_ir.Value, torch.fx.Node] = {}

    def main_graph(self, graph: onnx_ir.Graph) -> None:
        """Fill the module with the model's own graph."""
        optional = False
        for value in graph.inputs:
            optional = optional or value in self._plan.paths
            self._main_input(value, optional=optional)
        self._body(graph)

    def subgraph(self, graph: onnx_ir.Graph, captured: list[onnx_ir.Value]) -> None:
        """Fill the module with a graph attribute; the outer values it uses become inputs."""
        for value in (*graph.inputs, *captured):
            self._env[value] = self._placeholder(value)
        self._body(graph)

    def _placeholder(self, value: onnx_ir.Value, *, optional: bool = False) -> torch.fx.Node:
        default: Any = (None,) if optional else ()
        name = _identifier(value.name or "input")
        node = self._graph.create_node("placeholder", name, default, {}, name=name)
        node.target = node.name
        node.meta["onnx"] = Origin(value.name or "")
        return node

    def _main_input(self, value: onnx_ir.Value, *, optional: bool) -> None:
        if value.dtype is not None and value.dtype not in TORCH_TYPES:
            raise UnsupportedModel(f"input {value.name!r} has type {value.dtype}, torch has none")
        node = self._placeholder(value, optional=optional)
        if optional and value in self._plan.paths:
            stored = self._attribute(self._plan.paths[value])
            node = self._adapted(node, input_or_default, (node, stored))
        elif optional:
            node = self._adapted(node, required_input, (node, value.name))
        if self._plan.types.dtype is not None and value.dtype in DIFFERENTIABLE:
            node = self._adapted(node, matched_type, (node, self._plan.types.dtype))
        self._env[value] = node

    def _adapted(self, node: torch.fx.Node, function: Any, args: tuple[Any, ...]) -> torch.fx.Node:
        adapted = self._graph.call_function(function, args)
        adapted.meta["onnx"] = node.meta.pop("onnx")
        return adapted

    def _body(self, graph: onnx_ir.Graph) -> None:
        for node in graph:
            self._node(node)
        self._graph.output(tuple(self._use(value) for value in graph.outputs))
        self._module.graph = self._graph

    def _use(self, value: onnx_ir.Value | None) -> torch.fx.Node | None:
        if value is None or value.name == "":
            return None
        if value not in self._env:
            if value not in self._plan.paths:
                raise UnsupportedModel(f"value {value.name!r} is used before a node makes it")
            self._env[value] = self._attribute(self._plan.paths[value])
            self._env[value].meta["onnx"] = Origin(value.name or "")
        return self._env[value]

    def _attribute(self, path: str) -> torch.fx.Node:
        return self._graph.create_node("get_attr", path, name=_identifier(path))

    def _node(self, node: onnx_ir.Node) -> None:
        implementation = _operator(node, self._plan.opsets)
        assert implementation is not None  # refused before the conversion started
        call = self._call(node, implementation)
        outputs = [value for value in node.outputs if value.name]
        if not implementation.returns_tuple:
            self._bind(node.outputs[0], call, node)
            return
        call.meta["onnx"] = Origin("", node.name or "", node.op_type, node.domain)
        for value in outputs:
            item = self._graph.create_node(
                "call_function",
                operator.getitem,
                (call, value.index()),
                name=_identifier(value.name or ""),
            )
            self._bind(value, item, node)

    def _bind(self, value: onnx_ir.Value, call: torch.fx.Node, node: onnx_ir.Node) -> None:
        call.meta["onnx"] = Origin(value.name or "", node.name or "", node.op_type, node.domain)
        self._env[value] = call

    def _call(self, node: onnx_ir.Node, implementation: Operator) -> torch.fx.Node:
        args = [self._use(value) for value in node.inputs]
        while args and args[-1] is None:
            args.pop()
        attributes = Attributes(node, _version(node, self._plan.opsets), self._plan.types)
        kwargs: dict[str, Any] = dict(attributes.plain())
        for name, tensor in attributes.tensors():
            kwargs[name] = self._constant(tensor, node.outputs[0].name or name)
        kwargs.update(self._subgraphs(node))
        kwargs.update(self._context(node, implementation))
        _check_signature(node, implementation, args, kwargs)
        source = node if implementation.returns_tuple else node.outputs[0]
        name = _identifier(source.name or node.op_type)
        return self._graph.create_node(
            "call_function", implementation.run, tuple(args), kwargs, name=name
        )

    def _subgraphs(self, node: onnx_ir.Node) -> Iterator[tuple[str, Any]]:
        for name, attribute in node.attributes.items():
            if attribute.type is not onnx_ir.AttributeType.GRAPH:
                continue
            captured = list(dict.fromkeys(_free(attribute.as_graph())))
            module = torch.fx.GraphModule(
                torch.nn.Module(), torch.fx.Graph(), class_name="Subgraph"
            )
            _Scope(self._plan, module).subgraph(attribute.as_graph(), captured)
            yield name, self._attribute(self._held("_subgraphs", f"{node.name}_{name}", module))
            yield f"{name}_captures", tuple(self._use(value) for value in captured)

    def _element_type(self, value: onnx_ir.Value | None) -> int | None:
        """Look up a value's ONNX type: torch tensors do not tell int4 from int8."""
        if value is None:
            return None
        producer = value.producer()
        dtype = value.dtype if value.const_value is None else value.const_value.dtype
        if (
            producer is not None
            and producer.op_type == "Constant"
            and "value" in producer.attributes
        ):
            dtype = producer.attributes["value"].as_tensor().dtype
        return None if dtype is None else int(self._plan.types.mapped(onnx_ir.DataType(dtype)))

    def _constant(self, tensor: torch.Tensor, name: str) -> torch.fx.Node:
        path = self._held("_constants", name, torch.nn.Buffer(tensor, persistent=False))
        return self._attribute(path)

    def _held(self, holder: str, name: str, item: torch.nn.Module | torch.nn.Buffer) -> str:
        parent = _child(self._module, holder)
        free = base = _identifier(name)
        number = 2
        while hasattr(parent, free):
            free, number = f"{base}_{number}", number + 1
        setattr(parent, free, item)
        return f"{holder}.{free}"

    def _context(self, node: onnx_ir.Node, implementation: Operator) -> Iterator[tuple[str, Any]]:
        if "outputs" in implementation.context:
            yield "outputs", len(node.outputs)
        if "straight_through" in implementation.context:
            yield "straight_through", self._plan.straight_through
        if "implicit_type" in implementation.context:
            yield "implicit_type", self._plan.types.computed(onnx_ir.DataType.FLOAT)
        if "input_types" in implementation.context:
            yield "input_types", [self._element_type(value) for value in node.inputs]


_signature = functools.cache(inspect.signature)


def _check_signature(
    node: onnx_ir.Node, implementation: Operator, args: list[Any], kwargs: dict[str, Any]
) -> None:
    """Refuse a node with an attribute that the twin does not know, or without a required input."""
    if inspect.isbuiltin(implementation.run):  # torch's own: one input, no attributes
        return
    try:
        _signature(implementation.run).bind(*args, **kwargs)
    except TypeError as error:
        raise UnsupportedModel(f"{node.op_type} {node.name!r} has no twin: {error}") from error


def _free(graph: onnx_ir.Graph) -> Iterator[onnx_ir.Value]:
    """Yield the values a subgraph uses and does not make: outer values and its own initializers."""
    made: set[onnx_ir.Value] = set(graph.inputs)
    for node in graph:
        made.update(node.outputs)
    for node in graph:
        for value in node.inputs:
            if value is not None and value.name != "" and value not in made:
                yield value
        for attribute in node.attributes.values():
            if attribute.type is onnx_ir.AttributeType.GRAPH:
                yield from (value for value in _free(attribute.as_graph()) if value not in made)
    yield from (value for value in graph.outputs if value not in made)


def _identifier(name: str) -> str:
    """Spell a value's name as a Python identifier; fx adds a number where two become equal."""
    word = re.sub(r"\W", "_", name, flags=re.ASCII) or "value"
    return f"_{word}" if word[0].isdigit() else word
