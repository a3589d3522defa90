"""Say what an operator accepts: domain import, counts of inputs and outputs, attributes."""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import onnx
import onnx_ir

_ACCEPTED_TABLES = 64
"""How many sets of opset imports are remembered."""

_AHEAD_OF_ONNX = frozenset({("", "LayerNormalization")})
"""Operators that runtimes had, and optimizers emitted, before ONNX defined them."""


@dataclass(frozen=True)
class _Schema:
    """Holds the part of an ONNX operator schema that is structural."""

    inputs: range
    outputs: range
    required_inputs: tuple[tuple[int, str], ...]
    attribute_types: Mapping[str, str]
    required_attributes: tuple[str, ...]


class OperatorRules:
    """Checks nodes against the operator schemas of one set of opset imports.

    ``accepted`` remembers the calls that were found good, by what :meth:`breaches` looks at; it is
    shared by all models with the same imports.
    """

    def __init__(
        self,
        imports: Mapping[str, int],
        functions: Mapping[tuple[str, str, str], onnx_ir.Function],
        parameters: frozenset[str] | None = None,
    ) -> None:
        self._imports = {"" if domain == "ai.onnx" else domain: v for domain, v in imports.items()}
        self._functions = functions
        self._parameters = parameters
        self.accepted = _accepted_calls(frozenset(self._imports.items()))

    def is_portable(self, node: onnx_ir.Node) -> bool:
        """Say whether the node is judged by its schema alone, so that ``accepted`` may keep it."""
        return node.op_identifier() not in self._functions and not any(
            attribute.is_ref() for attribute in node.attributes.values()
        )

    def breaches(self, node: onnx_ir.Node) -> Iterator[str]:
        """Yield every rule that the node breaks, as a sentence."""
        yield from self._breached_references(node)
        if (function := self._functions.get(node.op_identifier())) is not None:
            yield from _breached_function(node, function)
            return
        version = self._imports.get(node.domain)
        if version is None:
            imported = sorted(self._imports)
            yield f"domain '{node.domain}' is not imported, only {imported}"
            return
        schema = _find_schema(node.domain, node.op_type, version)
        if isinstance(schema, int):
            yield f"'{node.op_type}' is defined from opset {schema} on, but {version} is imported"
        elif schema is not None:
            yield from _breached_schema(node, schema)

    def _breached_references(self, node: onnx_ir.Node) -> Iterator[str]:
        for attribute in node.attributes.values():
            name = attribute.ref_attr_name
            if name is None:
                continue
            if self._parameters is None:
                yield f"attribute '{attribute.name}' refers to '{name}', but not in a function"
            elif name not in self._parameters:
                known = sorted(self._parameters)
                yield f"attribute '{attribute.name}' refers to '{name}', not one of {known}"


@functools.lru_cache(maxsize=_ACCEPTED_TABLES)
def _accepted_calls(imports: frozenset[tuple[str, int]]) -> set[tuple[object, ...]]:
    return set()


def _breached_function(node: onnx_ir.Node, function: onnx_ir.Function) -> Iterator[str]:
    yield from _breached_count("input", len(node.inputs), range(len(function.inputs) + 1))
    yield from _breached_count("output", len(node.outputs), range(len(function.outputs) + 1))
    for parameter in function.attributes.values():
        is_required = parameter.type == onnx_ir.AttributeType.UNDEFINED
        if is_required and parameter.name not in node.attributes:
            yield f"required attribute '{parameter.name}' is missing"


def _breached_schema(node: onnx_ir.Node, schema: _Schema) -> Iterator[str]:
    yield from _breached_count("input", len(node.inputs), schema.inputs)
    yield from _breached_count("output", len(node.outputs), schema.outputs)
    for index, name in schema.required_inputs:
        if index < len(node.inputs) and node.inputs[index] is None:
            yield f"required input {index} ('{name}') is missing"
    for name in schema.required_attributes:
        if name not in node.attributes:
            yield f"required attribute '{name}' is missing"
    for attribute in node.attributes.values():
        expected = schema.attribute_types.get(attribute.name)
        if expected is None:
            known = sorted(schema.attribute_types)
            yield f"attribute '{attribute.name}' is unknown, not one of {known}"
        elif attribute.type.name != expected:
            yield f"attribute '{attribute.name}' is {attribute.type.name}, but must be {expected}"


def _breached_count(what: str, count: int, allowed: range) -> Iterator[str]:
    if count not in allowed:
        least, most = allowed.start, allowed.stop - 1
        yield f"{count} {what}s are given, but {least} to {most} are allowed"


@functools.cache
def _find_schema(domain: str, op_type: str, version: int) -> _Schema | int | None:
    """Return the schema, None for an unknown operator, or the first version of a later one."""
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        is_opaque = (domain, op_type) in _AHEAD_OF_ONNX
        return None if is_opaque else _first_version(domain, op_type)
    if schema.deprecated:
        return None
    single = onnx.defs.OpSchema.FormalParameterOption.Single
    return _Schema(
        inputs=range(schema.min_input, schema.max_input + 1),
        outputs=range(schema.min_output, schema.max_output + 1),
        required_inputs=tuple(
            (index, parameter.name)
            for index, parameter in enumerate(schema.inputs)
            if parameter.option == single
        ),
        attribute_types={
            name: str(a.type).rpartition(".")[2] for name, a in schema.attributes.items()
        },
        required_attributes=tuple(name for name, a in schema.attributes.items() if a.required),
    )


@functools.cache
def _first_version(domain: str, op_type: str) -> int | None:
    versions = [
        schema.since_version
        for schema in onnx.defs.get_all_schemas_with_history()
        if (schema.domain, schema.name) == (domain, op_type)
    ]
    return min(versions, default=None)
