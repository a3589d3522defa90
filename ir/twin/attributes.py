"""A node's attributes as arguments of a Python call, with the schema's defaults filled in."""

from collections.abc import Iterator
from typing import Any

import onnx
import onnx_ir
import torch

from whet.errors import UnsupportedModel
from whet.ir.twin.element_types import (
    DIFFERENTIABLE,
    TORCH_TYPES,
    from_numpy,
    onnx_type,
    torch_type,
)
from whet.ir.twin.registry import schema_of

_PLAIN = {
    onnx_ir.AttributeType.FLOAT,
    onnx_ir.AttributeType.INT,
    onnx_ir.AttributeType.STRING,
    onnx_ir.AttributeType.FLOATS,
    onnx_ir.AttributeType.INTS,
    onnx_ir.AttributeType.STRINGS,
}

_IGNORED = {onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.TYPE_PROTO}

_TYPE_ATTRIBUTES = frozenset(
    {
        "to",
        "dtype",
        "stash_type",
        "output_dtype",
        "output_datatype",
        "softmax_precision",
        "precision",
    }
)
"""Attributes that hold a number of onnx.TensorProto.DataType."""

_ABSENT = 0
"""The number that stands for "not given" in an optional type attribute."""


class TypeMap:
    """Maps the model's floating types to the twin's: themselves, or all to one ``dtype``."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        if dtype is not None and onnx_type(dtype) not in DIFFERENTIABLE:
            raise UnsupportedModel(f"a twin cannot compute in {dtype}")
        self.dtype = dtype

    def mapped(self, dtype: onnx_ir.DataType) -> onnx_ir.DataType:
        """Map an ONNX type."""
        if self.dtype is None or dtype not in DIFFERENTIABLE:
            return dtype
        return onnx_type(self.dtype)

    def computed(self, dtype: onnx_ir.DataType) -> torch.dtype:
        """Map an ONNX type to the torch type that the twin computes it in."""
        return torch_type(self.mapped(dtype))

    def tensor(self, tensor: onnx_ir.TensorProtocol) -> torch.Tensor:
        """Copy a constant of the model into a tensor of the twin."""
        return from_numpy(tensor.numpy()).to(self.computed(onnx_ir.DataType(tensor.dtype)))


class Attributes:
    """The attributes of one node."""

    def __init__(self, node: onnx_ir.Node, version: int, types: TypeMap) -> None:
        self._node = node
        self._types = types
        self._defaults = _defaults(node, version)

    def plain(self) -> Iterator[tuple[str, Any]]:
        """Yield numbers, strings and lists of them; a type attribute as the twin's ONNX type."""
        for name, value in self._defaults.items():
            if name not in self._node.attributes:
                yield name, self._value(name, value)
        for name, attribute in self._node.attributes.items():
            if attribute.type in _PLAIN:
                yield name, self._value(name, _unpacked(attribute))
            elif (
                attribute.type is not onnx_ir.AttributeType.TENSOR
                and attribute.type not in _IGNORED
            ):
                raise UnsupportedModel(
                    f"attribute {name!r} of {self._node.op_type} {self._node.name!r} has type "
                    f"{attribute.type.name}, which the twin cannot hold"
                )

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield tensor attributes."""
        for name, attribute in self._node.attributes.items():
            if attribute.type is onnx_ir.AttributeType.TENSOR:
                yield name, self._types.tensor(attribute.as_tensor())

    def _value(self, name: str, value: Any) -> Any:
        if name not in _TYPE_ATTRIBUTES or self._node.op_type == "BitCast":
            return value  # BitCast reads bits: its type must not follow the twin's
        if value == _ABSENT:
            return None
        dtype = self._types.mapped(onnx_ir.DataType(value))
        if dtype not in TORCH_TYPES:
            raise UnsupportedModel(
                f"{self._node.op_type} {self._node.name!r} has {name} {dtype}, torch has none"
            )
        return int(dtype)


def _unpacked(attribute: onnx_ir.Attr) -> Any:
    if isinstance(attribute.value, (list, tuple)):
        return list(attribute.value)
    return attribute.value


def _defaults(node: onnx_ir.Node, version: int) -> dict[str, Any]:
    schema = schema_of(node.op_type, version, node.domain)
    if schema is None:
        return {}
    given = {name: attr.default_value for name, attr in schema.attributes.items()}
    return {
        name: _decoded(onnx.helper.get_attribute_value(value))
        for name, value in given.items()
        if value.type != onnx.AttributeProto.UNDEFINED
    }


def _decoded(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value if isinstance(value, (int, float, str)) else [_decoded(item) for item in value]
