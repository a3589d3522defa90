"""Keys that are equal for equal attributes and for equal subgraphs, whatever their values are called."""

import hashlib
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import onnx_ir

__all__ = ["attributes_key", "nodes_key", "tensor_key"]

_Kind = onnx_ir.AttributeType


def attributes_key(node: onnx_ir.Node) -> Hashable | None:
    """Return something equal for equal bits (NaN equals NaN, 0.0 differs from -0.0); None where there is no such thing.

    Subgraphs, references of functions and strings in tensors have no key.
    """
    attributes = node.attributes
    if not attributes:
        return ()
    found: list[Hashable] = []
    for name in sorted(attributes):
        key = _attribute_key(attributes[name])
        if key is None:
            return None
        found.append((name, key))
    return tuple(found)


def _attribute_key(attribute: onnx_ir.Attr) -> Hashable | None:
    if attribute.is_ref():
        return None
    kind = attribute.type
    if kind == _Kind.INT:
        return attribute.as_int()
    if kind == _Kind.INTS:
        return tuple(attribute.as_ints())
    if kind == _Kind.FLOAT:
        return np.float32(attribute.as_float()).tobytes()
    if kind == _Kind.FLOATS:
        return np.asarray(attribute.as_floats(), dtype=np.float32).tobytes()
    if kind == _Kind.STRING:
        return attribute.as_string()
    if kind == _Kind.STRINGS:
        return tuple(attribute.as_strings())
    return tensor_key(attribute.as_tensor()) if kind == _Kind.TENSOR else None


def tensor_key(tensor: onnx_ir.TensorProtocol) -> Hashable | None:
    """Return type, shape and bytes, or their digest where they are long; None for strings."""
    if tensor.dtype == onnx_ir.DataType.STRING:
        return None
    data = tensor.tobytes()
    digest = data if len(data) <= 64 else hashlib.sha256(data).digest()
    return tensor.dtype, tuple(tensor.shape.numpy()), digest


def nodes_key(
    nodes: Iterable[onnx_ir.Node], numbers: dict[onnx_ir.Value, int]
) -> Sequence[Hashable] | None:
    """Return a key of nodes in a given order: operators, attributes and which value goes where.

    ``numbers`` gains the values in the order of their appearance.
    """
    found: list[Hashable] = []
    for node in nodes:
        attributes = attributes_key(node)
        if attributes is None:
            return None
        inputs = tuple(
            -1 if v is None else numbers.setdefault(v, len(numbers)) for v in node.inputs
        )
        outputs = tuple(numbers.setdefault(v, len(numbers)) if v.name else -1 for v in node.outputs)
        found.append((node.domain, node.op_type, node.overload, attributes, inputs, outputs))
    return found
