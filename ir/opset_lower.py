"""Lower a model's opset without changing what it computes, for runtimes that are older than the model.

Most operators were re-registered only to take more types, or attributes whose default is what was meant before; then
nothing changes but the number. Operators that the older opset lacks are spelled out by the function that ONNX defines
them by. What is left is refused by name.
"""

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir
from onnx import defs, helper
from onnx_ir.passes.common import InlinePass

from whet.errors import Mismatch, UnsupportedTarget
from whet.ir.array import Array
from whet.ir.execute import Executor, newest_ir_version
from whet.ir.order import copy_model
from whet.ir.shapes import infer_shapes
from whet.ir.values import attribute_int, attribute_string, constant_ints, rank

__all__ = ["lower_opset"]

_DOMAIN = "whet.spelled"
_SHOWN = 3
_ROUNDS = 4
_OLDEST_IR = 8
_AXES_ARE_INPUTS = 18
_SMALL = 64
"""Elements of a constant that what definitions compute from may have."""
_RANDOM = frozenset(
    {
        "Bernoulli",
        "Multinomial",
        "RandomNormal",
        "RandomNormalLike",
        "RandomUniform",
        "RandomUniformLike",
    }
)
_NEW_MEANING = {"GroupNormalization": 21}
"""Operators whose inputs mean something else since that opset: the old one of that name is another one."""
_REDUCTIONS = frozenset({"ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
                         "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare"})  # fmt: skip
_GRID_MODES = {"linear": "bilinear", "cubic": "bicubic"}


def lower_opset(model: onnx_ir.Model, to: int) -> onnx_ir.Model:
    """Return ``model`` with the default domain at opset ``to`` or below; the copy shares the weights.

    Raises:
        UnsupportedTarget: operators that opset ``to`` cannot say, with the reasons.
    """
    bodies = (model.graph, *(f.graph for f in model.functions.values()))
    if all(_version(body) <= to for body in bodies):
        return model
    copy = copy_model(model)
    infer_shapes(copy, trust=False)
    refused = _Refused(to)
    for _ in range(_ROUNDS):
        if not _spell_out_all(copy, to, refused):
            break
        infer_shapes(copy, trust=False)
        _fold(copy)
    for body in (copy.graph, *(f.graph for f in copy.functions.values())):
        _lower(body, to, refused)
    refused.check()
    least = helper.find_min_ir_version_for([helper.make_opsetid("", to)], ignore_unknown=True)
    copy.ir_version = max(least, _OLDEST_IR)
    return copy


class _Refused:
    """What opset ``to`` cannot say."""

    def __init__(self, to: int) -> None:
        self._to = to
        self._reasons: dict[str, None] = {}

    def add(self, node: onnx_ir.Node, reason: object) -> None:
        self._reasons[f"{node.op_type} '{node.name}' {reason}"] = None

    def check(self) -> None:
        if not self._reasons:
            return
        shown = list(self._reasons)[:_SHOWN]
        rest = len(self._reasons) - len(shown)
        more = f"; {rest} more" if rest else ""
        raise UnsupportedTarget(
            f"the device's newest opset is {self._to}: {'; '.join(shown)}{more}"
        )


def _version(body: onnx_ir.Graph) -> int:
    return body.opset_imports.get("", body.opset_imports.get("ai.onnx", 0))


def _standard(body: onnx_ir.Graph) -> list[onnx_ir.Node]:
    nodes = onnx_ir.traversal.RecursiveGraphIterator(body)
    return [node for node in nodes if node.domain in ("", "ai.onnx")]


def _spell_out_all(model: onnx_ir.Model, to: int, refused: _Refused) -> bool:
    """Put ONNX's own definitions in place of what opset ``to`` lacks; tell whether there was any."""
    for body in (model.graph, *(f.graph for f in model.functions.values())):
        version = _version(body)
        for node in _standard(body) if version > to else ():
            if not _is_missing(node.op_type, version, to):
                continue
            try:
                _spell_out(node, version, model)
            except Mismatch as mismatch:
                refused.add(node, mismatch)
    refused.check()
    if not any(function.domain == _DOMAIN for function in model.functions.values()):
        return False
    InlinePass(lambda function: function.domain == _DOMAIN)(model)
    model.graph.opset_imports.pop(_DOMAIN, None)
    return True


def _is_missing(op_type: str, version: int, to: int) -> bool:
    changed = to < _NEW_MEANING.get(op_type, 0) <= version
    return changed or (_schema(op_type, to) is None and op_type not in _ADAPTERS)


def _lower(body: onnx_ir.Graph, to: int, refused: _Refused) -> None:
    version = _version(body)
    if version <= to:
        return
    for node in _standard(body):
        try:
            _lower_node(node, version, to)
        except Mismatch as mismatch:
            refused.add(node, mismatch)
    body.opset_imports.pop("ai.onnx", None)
    body.opset_imports[""] = to


def _lower_node(node: onnx_ir.Node, version: int, to: int) -> None:
    new, old = _schema(node.op_type, version), _schema(node.op_type, to)
    if new is None:
        raise Mismatch(f"is no operator of opset {version}")
    if old is not None and old.since_version == new.since_version:
        return
    if node.op_type in _ADAPTERS:
        _ADAPTERS[node.op_type](node, to)
        old = _schema(node.op_type, to)
    assert old is not None
    _drop_defaults(node, new, old, to)
    inputs = list(node.inputs)
    while len(inputs) > old.max_input and inputs[-1] is None:
        inputs.pop()
    if len(inputs) > old.max_input:
        raise Mismatch(f"has {len(inputs)} inputs, opset {to} takes {old.max_input}")
    node.resize_inputs(len(inputs))
    _check_types(node, old, to)


def _schema(op_type: str, version: int) -> defs.OpSchema | None:
    try:
        found = defs.get_schema(op_type, version, "")
    except defs.SchemaError:
        return None
    return None if found.deprecated else found


def _drop_defaults(node: onnx_ir.Node, new: defs.OpSchema, old: defs.OpSchema, to: int) -> None:
    """Remove attributes that the old operator lacks, where they say what it does anyway."""
    for name in [name for name in node.attributes if name not in old.attributes]:
        attribute = node.attributes[name]
        default = new.attributes[name].default_value
        known = (
            None
            if default.type == onnx.AttributeProto.UNDEFINED
            else helper.get_attribute_value(default)
        )
        value = attribute.value
        ones = name == "dilations" and set(attribute.as_ints()) == {1}
        same = known == (value.encode() if isinstance(value, str) else value)
        if not (ones or same):
            raise Mismatch(f"has {name}={value}, which opset {to} lacks")
        node.attributes.pop(name)


def _check_types(node: onnx_ir.Node, old: defs.OpSchema, to: int) -> None:
    """Decline element types that the old operator does not take."""
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in old.type_constraints}
    for values, formal in ((node.inputs, old.inputs), (node.outputs, old.outputs)):
        for k, value in enumerate(values):
            if value is None or not isinstance(value.type, onnx_ir.TensorType):
                continue
            name = onnx.TensorProto.DataType.Name(int(value.type.dtype)).lower()
            slot = formal[min(k, len(formal) - 1)].type_str
            kinds = allowed.get(slot, {slot})
            if f"tensor({name})" not in kinds:
                raise Mismatch(
                    f"has elements of {name} ('{value.name}'), opset {to} takes none there"
                )


def _spell_out(node: onnx_ir.Node, version: int, model: onnx_ir.Model) -> None:
    """Let a node call ONNX's own definition of its operator."""
    proto = _definition(node, version)
    made = {name for inner in proto.node for name in inner.output}
    wanted = list(proto.output)[: len(node.outputs)]
    if missing := [name for name in wanted if name not in made]:
        raise Mismatch(
            f"is an operator of opset {proto.opset_import[0].version}, and nothing defines its {missing[0]}"
        )
    del proto.output[:]
    proto.output.extend(wanted)
    function = onnx_ir.serde.deserialize_function(proto)
    taken = sum(f.domain == _DOMAIN for f in model.functions.values())
    called = onnx_ir.Function(
        _DOMAIN,
        f"{node.op_type}{taken}",
        graph=function.graph,
        attributes=list(function.attributes.values()),
    )
    called.graph.opset_imports[""] = version
    model.functions[called.identifier()] = called
    node.domain, node.op_type = _DOMAIN, called.name
    model.graph.opset_imports[_DOMAIN] = 1


def _definition(node: onnx_ir.Node, version: int) -> onnx.FunctionProto:
    """Return the function that defines an operator at an opset; raises Mismatch."""
    schema: Any = _schema(node.op_type, version)  # its methods have no annotations
    if schema is None:
        raise Mismatch(f"is no operator of opset {version}")
    since = schema.since_version
    plain, typed = schema.function_opset_versions, schema.context_dependent_function_opset_versions
    # From opset 18 on what definitions are made of means the same up to the newest.
    known = [v for v in {*plain, *typed} if 18 <= v <= version]
    if not known:
        raise Mismatch(f"is an operator of opset {since}, and not defined by simpler ones")
    if max(known) in plain:
        return _parsed(schema.get_function_with_opset_version(max(known)))
    types = [b"" if v is None else _type(v).SerializeToString() for v in node.inputs]
    body = schema.get_context_dependent_function_with_opset_version(
        max(known), onnx_ir.to_proto(node).SerializeToString(), types
    )
    if not body:
        raise Mismatch(
            f"is an operator of opset {since}, and its definition needs ranks that are not known"
        )
    return _parsed(body)


def _parsed(body: object) -> onnx.FunctionProto:
    """Read a definition, which comes as bytes or, from some versions of onnx, ready."""
    if isinstance(body, onnx.FunctionProto):
        return body
    found = onnx.FunctionProto()
    found.ParseFromString(cast("bytes", body))
    return found


def _type(value: onnx_ir.Value) -> onnx.TypeProto:
    if value.dtype is None:
        raise Mismatch(f"reads '{value.name}', whose type is unknown")
    shape = (
        None if value.shape is None else [d if isinstance(d, int) else None for d in value.shape]
    )
    return helper.make_tensor_type_proto(int(value.dtype), shape)


def _fold(model: onnx_ir.Model) -> None:
    """Compute what definitions compute from their constants: axes that became inputs, mostly."""
    _fold_ranks(model)
    inside: list[onnx_ir.Node] = []
    known: set[onnx_ir.Value] = set()
    for node in model.graph:
        small = all(v is not None and (v in known or _is_small(v)) for v in node.inputs)
        if (
            node.domain == ""
            and small
            and not any(a.type == onnx_ir.AttributeType.GRAPH for a in node.attributes.values())
            and node.op_type not in _RANDOM
        ):
            inside.append(node)
            known.update(node.outputs)
    chosen = set(inside)
    wanted = [
        v
        for node in inside
        for v in node.outputs
        if any(reader not in chosen for reader in v.consumers()) and not v.is_graph_output()
    ]
    if not wanted:
        return
    for value, array in zip(wanted, _values(inside, wanted, model), strict=True):
        _replace(value, array, model)
    for node in reversed(inside):
        if not any(v.uses() or v.is_graph_output() for v in node.outputs):
            model.graph.remove(node, safe=True)


def _fold_ranks(model: onnx_ir.Model) -> None:
    """Definitions count axes as Size(Shape(x)), which is known without the sizes."""
    for node in list(model.graph):
        shape = node.inputs[0].producer() if node.op_type == "Size" and node.inputs[0] else None
        if shape is None or shape.op_type != "Shape" or shape.attributes:
            continue
        count = rank(shape.inputs[0])
        if count is not None and not node.outputs[0].is_graph_output():
            _replace(node.outputs[0], np.asarray(count, np.int64), model)
            model.graph.remove(node, safe=True)


def _replace(value: onnx_ir.Value, array: Array, model: onnx_ir.Model) -> None:
    tensor = onnx_ir.tensor(array, name=f"{value.name}_known")
    made = onnx_ir.Value(
        name=tensor.name,
        const_value=tensor,
        type=onnx_ir.TensorType(tensor.dtype),
        shape=onnx_ir.Shape(array.shape),
    )
    model.graph.register_initializer(made)
    value.replace_all_uses_with(made)


def _is_small(value: onnx_ir.Value) -> bool:
    tensor = value.const_value
    return (
        value.is_initializer()
        and not value.is_graph_input()
        and tensor is not None
        and tensor.size <= _SMALL
    )


def _values(
    nodes: list[onnx_ir.Node], wanted: list[onnx_ir.Value], model: onnx_ir.Model
) -> list[Array]:
    read = {v.name: v for n in nodes for v in n.inputs if v is not None and v.is_initializer()}
    graph = helper.make_graph(
        [onnx_ir.to_proto(node) for node in nodes],
        "constants",
        [],
        [onnx.ValueInfoProto(name=v.name) for v in wanted],
        [onnx_ir.serde.serialize_tensor(v.const_value) for v in read.values() if v.const_value],
    )
    imports = [helper.make_opsetid("", _version(model.graph))]
    return Executor(
        helper.make_model(graph, opset_imports=imports, ir_version=newest_ir_version())
    ).run({})


def _reduction(node: onnx_ir.Node, to: int) -> None:
    """Since opset 18 axes are an input; before, an attribute."""
    if to >= _AXES_ARE_INPUTS:
        return
    noop = node.attributes.pop("noop_with_empty_axes", None)
    if len(node.inputs) < 2 or node.inputs[1] is None:
        if noop is not None and noop.as_int():
            raise Mismatch("reduces nothing without axes")
        return
    axes = constant_ints(node.inputs[1])
    if not axes:
        raise Mismatch(f"has axes that are computed ('{node.inputs[1].name}')")
    node.attributes["axes"] = onnx_ir.AttrInt64s("axes", list(axes))
    node.resize_inputs(1)


def _split(node: onnx_ir.Node, to: int) -> None:
    """Without the number of parts, there are as many as outputs, if they are equal."""
    parts = node.attributes.get("num_outputs")
    if to >= _AXES_ARE_INPUTS or parts is None:
        return
    x = node.inputs[0]
    size = None if x is None or x.shape is None else x.shape[attribute_int(node, "axis", 0)]
    # Where the size is not known, a runtime that cannot make equal parts says so.
    if isinstance(size, int) and size % parts.as_int():
        raise Mismatch(f"makes {parts.as_int()} parts of {size} elements, which are not equal")
    node.attributes.pop("num_outputs")


def _grid(node: onnx_ir.Node, to: int) -> None:
    if to < 20:
        mode = attribute_string(node, "mode", "linear")
        node.attributes["mode"] = onnx_ir.AttrString("mode", _GRID_MODES.get(mode, mode))


def _cast_like(node: onnx_ir.Node, to: int) -> None:
    """Name the type where opset 15's operator is missing."""
    like = node.inputs[1]
    if to >= 15:
        return
    if like is None or like.dtype is None:
        raise Mismatch("reads a type that is unknown")
    node.op_type = "Cast"
    node.attributes.clear()
    node.attributes["to"] = onnx_ir.AttrInt64("to", int(like.dtype))
    node.resize_inputs(1)


_ADAPTERS: dict[str, Callable[[onnx_ir.Node, int], None]] = {
    **dict.fromkeys(_REDUCTIONS, _reduction),
    "CastLike": _cast_like,
    "Split": _split,
    "GridSample": _grid,
}
