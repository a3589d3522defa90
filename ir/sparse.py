"""Sparse tensors made dense: the IR has dense tensors only."""

import math

import numpy as np
import onnx
from onnx import numpy_helper

from whet.errors import InvalidModel, UnsupportedModel

LARGEST_DENSE = 1 << 30
"""A sparse tensor whose dense form takes more bytes than this is refused."""


def densify(proto: onnx.ModelProto) -> None:
    """Replace sparse initializers and sparse constants of ``proto`` by dense ones, in place."""
    _densify_graph(proto.graph)
    for function in proto.functions:
        for node in function.node:
            _densify_node(node)


def _densify_graph(graph: onnx.GraphProto) -> None:
    graph.initializer.extend(_dense(sparse) for sparse in graph.sparse_initializer)
    del graph.sparse_initializer[:]
    for node in graph.node:
        _densify_node(node)


def _densify_node(node: onnx.NodeProto) -> None:
    for attribute in node.attribute:
        if attribute.HasField("sparse_tensor"):
            _densify_attribute(node, attribute)
        for graph in (attribute.g, *attribute.graphs) if _has_graphs(attribute) else ():
            _densify_graph(graph)


def _has_graphs(attribute: onnx.AttributeProto) -> bool:
    return attribute.HasField("g") or bool(attribute.graphs)


def _densify_attribute(node: onnx.NodeProto, attribute: onnx.AttributeProto) -> None:
    if (node.op_type, attribute.name) != ("Constant", "sparse_value"):
        raise UnsupportedModel(
            f"attribute '{attribute.name}' of {node.op_type} '{node.name}' is a sparse tensor"
        )
    dense = _dense(attribute.sparse_tensor)
    attribute.Clear()
    attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
    attribute.t.CopyFrom(dense)


def _dense(sparse: onnx.SparseTensorProto) -> onnx.TensorProto:
    name, shape = sparse.values.name, tuple(sparse.dims)
    if onnx.TensorProto.EXTERNAL in (sparse.values.data_location, sparse.indices.data_location):
        raise UnsupportedModel(f"sparse tensor '{name}' keeps its values in another file")
    values = numpy_helper.to_array(sparse.values)
    if math.prod(shape) * values.dtype.itemsize > LARGEST_DENSE:
        raise UnsupportedModel(f"sparse tensor '{name}' of shape {shape} is too large when dense")
    dense = np.zeros(math.prod(shape), dtype=values.dtype)
    dense[_positions(name, numpy_helper.to_array(sparse.indices), shape)] = values
    return numpy_helper.from_array(dense.reshape(shape), name)


def _positions(name: str, indices: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the indices as positions in the flattened tensor (they are stored either way)."""
    inside = bool((indices >= 0).all())
    if indices.ndim == 1:
        inside = inside and bool((indices < math.prod(shape)).all())
        flat = indices
    else:
        inside = inside and bool((indices < np.asarray(shape)).all())
        flat = indices @ np.asarray(_strides(shape), dtype=np.int64)
    if not inside:
        raise InvalidModel(f"sparse tensor '{name}' has an index outside its shape {shape}")
    return flat


def _strides(shape: tuple[int, ...]) -> list[int]:
    return [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
