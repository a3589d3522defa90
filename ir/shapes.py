"""Shape and type inference on the graph alone: weights are described, never serialized."""

import itertools
from collections.abc import Iterator

import onnx
import onnx_ir
from onnx import shape_inference

SMALL_INTEGERS, SMALL_FLOATS = 1024, 16
"""Initializers up to this many elements take part: shapes, axes and ranges are computed from them.
"""

_ANONYMOUS = "unk__"
"""How names begin that ONNX's inference gives to sizes it cannot tell."""

Dim = int | onnx_ir.SymbolicDim


def infer_shapes(model: onnx_ir.Model, *, trust: bool = True) -> onnx_ir.Model:
    """Fill in the shapes and types that ONNX's inference can prove, in place.

    What is known already stays when it says more. With ``trust`` false, annotations on the outputs
    of standard operators are not used, and those that contradict the inference are replaced: files
    carry wrong ones. A model that cannot be inferred stays as it is.
    """
    proto = _skeleton(model, trust)
    try:
        inferred = shape_inference.infer_shapes(proto.SerializeToString(), data_prop=True)
    except (RuntimeError, ValueError, shape_inference.InferenceError):
        return model
    _merge_graph(model.graph, inferred.graph, trust)
    return model


def _skeleton(model: onnx_ir.Model, trust: bool) -> onnx.ModelProto:
    proto = onnx.ModelProto(ir_version=model.ir_version)
    for domain, version in model.opset_imports.items():
        proto.opset_import.add(domain=domain, version=version)
    _add_graph(proto.graph, model.graph, trust)
    for function in model.functions.values():
        onnx_ir.serde.serialize_function_into(proto.functions.add(), function)
    return proto


def _add_graph(proto: onnx.GraphProto, graph: onnx_ir.Graph, trust: bool) -> None:
    proto.name = graph.name or "graph"
    for value in graph.inputs:
        _describe(proto.input.add(), value)
    inputs = set(graph.inputs)
    for value in graph.initializers.values():
        _add_initializer(proto, value, value not in inputs)
    outputs = set(graph.outputs)
    for node in graph:
        _add_node(proto.node.add(), node, trust)
        for value in node.outputs:
            if value not in outputs and value.type is not None and (trust or _opaque(node)):
                _describe(proto.value_info.add(), value)
    for value in graph.outputs:
        producer = value.producer()
        known = trust or producer is None or _opaque(producer)
        _describe(proto.output.add(), value, shape=known)


def _opaque(node: onnx_ir.Node) -> bool:
    """Tell whether onnx has no inference for ``node``."""
    return node.domain not in ("", "ai.onnx", "ai.onnx.ml")


def _add_initializer(proto: onnx.GraphProto, value: onnx_ir.Value, describe: bool) -> None:
    tensor = value.const_value
    if tensor is None or tensor.dtype == onnx_ir.DataType.STRING:
        return
    if describe:
        info = proto.value_info.add(name=value.name or "")
        info.type.tensor_type.elem_type = tensor.dtype.value
        info.type.tensor_type.shape.SetInParent()
        for dim in tensor.shape.numpy():
            info.type.tensor_type.shape.dim.add(dim_value=dim)
    limit = SMALL_INTEGERS if tensor.dtype.is_integer() else SMALL_FLOATS
    if tensor.size <= limit and not isinstance(tensor, onnx_ir.ExternalTensor):
        small = proto.initializer.add(name=value.name or "", data_type=tensor.dtype.value)
        small.dims.extend(tensor.shape.numpy())
        small.raw_data = tensor.tobytes()


def _add_node(proto: onnx.NodeProto, node: onnx_ir.Node, trust: bool) -> None:
    proto.op_type, proto.domain, proto.overload = node.op_type, node.domain, node.overload
    proto.input.extend([(v.name or "") if v is not None else "" for v in node.inputs])
    proto.output.extend([v.name or "" for v in node.outputs])
    for attribute in node.attributes.values():
        target = proto.attribute.add()
        if attribute.is_ref():
            onnx_ir.serde.serialize_reference_attribute_into(target, attribute)
        elif attribute.type == onnx_ir.AttributeType.GRAPH:
            target.name, target.type = attribute.name, onnx.AttributeProto.GRAPH
            _add_graph(target.g, attribute.as_graph(), trust)
        else:
            onnx_ir.serde.serialize_attribute_into(target, attribute)


def _describe(info: onnx.ValueInfoProto, value: onnx_ir.Value, *, shape: bool = True) -> None:
    info.name = value.name or ""
    if value.type is not None:
        onnx_ir.serde.serialize_type_into(info.type, value.type)
        if shape and value.shape is not None:
            onnx_ir.serde.serialize_shape_into(info.type, value.shape)


def _merge_graph(graph: onnx_ir.Graph, proto: onnx.GraphProto, trust: bool) -> None:
    infos = {info.name: info for info in itertools.chain(proto.value_info, proto.output)}
    for node, node_proto in zip(graph, proto.node, strict=True):
        for value in node.outputs:
            info = None if trust and _settled(value) else infos.get(value.name or "")
            if info is not None and info.HasField("type"):
                _merge_value(value, info.type, trust or _opaque(node))
        for subgraph, sub_proto in _subgraphs(node, node_proto):
            _merge_graph(subgraph, sub_proto, trust)


def _settled(value: onnx_ir.Value) -> bool:
    return value.type is not None and value.shape is not None and value.shape.is_static()


def _subgraphs(
    node: onnx_ir.Node, proto: onnx.NodeProto
) -> Iterator[tuple[onnx_ir.Graph, onnx.GraphProto]]:
    for attribute, attribute_proto in zip(node.attributes.values(), proto.attribute, strict=True):
        if attribute.type == onnx_ir.AttributeType.GRAPH and not attribute.is_ref():
            yield attribute.as_graph(), attribute_proto.g


def _merge_value(value: onnx_ir.Value, proto: onnx.TypeProto, trust: bool) -> None:
    inferred = onnx_ir.serde.deserialize_type_proto_for_type(proto)
    if inferred is not None and (value.type is None or (not trust and value.type != inferred)):
        value.type = inferred
    if not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
        return
    found = [_dim(dim) for dim in proto.tensor_type.shape.dim]
    known = value.shape
    if known is None or (not trust and len(known) != len(found)):
        value.shape = onnx_ir.Shape(found)
    elif len(known) == len(found):
        merged = [_better(a, b, trust) for a, b in zip(known, found, strict=True)]
        if merged != list(known):
            value.shape = onnx_ir.Shape(merged)


def _dim(proto: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if proto.HasField("dim_value"):
        return proto.dim_value
    return proto.dim_param or None


def _better(known: Dim, found: int | str | None, trust: bool) -> int | str | Dim | None:
    """Choose the dimension that says more: a number, then a name, then nothing."""
    if isinstance(known, int):
        return known if trust or not isinstance(found, int) else found
    if isinstance(found, int):
        return found
    if not trust and _is_anonymous(known):
        return found
    return known if known.value is not None else found


def _is_anonymous(dim: onnx_ir.SymbolicDim) -> bool:
    """Tell whether an inference made the name up: the next one gives it to another size."""
    return dim.value is not None and dim.value.startswith(_ANONYMOUS)
