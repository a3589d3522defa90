"""Weights that live beside the model file: where they may be, and whether they are all there."""

import os
from collections.abc import Iterable, Iterator

import onnx
import onnx_ir
from onnx.external_data_helper import ExternalDataInfo

from whet.errors import InvalidModel, UnsafeModel


def tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Yield every dense tensor of ``graph``: initializers and attributes, subgraphs included."""
    yield from graph.initializer
    for node in graph.node:
        yield from node_tensors(node)


def node_tensors(node: onnx.NodeProto) -> Iterator[onnx.TensorProto]:
    """Yield every dense tensor in the attributes of ``node``, subgraphs included."""
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for subgraph in (attribute.g, *attribute.graphs):
            yield from tensors(subgraph)


def external_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """List the tensors of ``proto`` whose data lie in another file."""
    found = list(tensors(proto.graph))
    for function in proto.functions:
        for node in function.node:
            found.extend(node_tensors(node))
    return [t for t in found if t.data_location == onnx.TensorProto.EXTERNAL]


def check_external(proto: onnx.ModelProto, folder: str) -> None:
    """Raise unless every external tensor lies wholly in a file inside ``folder``.

    Nothing is read: the rules are about paths and sizes.
    """
    sizes: dict[str, int] = {}
    for tensor in external_tensors(proto):
        location = _location(tensor)
        if location not in sizes:
            sizes[location] = _file_size(tensor.name, location, folder)
        _check_range(tensor, location, sizes[location])


def _location(tensor: onnx.TensorProto) -> str:
    location = next((e.value for e in tensor.external_data if e.key == "location"), "")
    if not location:
        raise InvalidModel(f"external tensor '{tensor.name}' names no file")
    return location


def _file_size(tensor: str, location: str, folder: str) -> int:
    place = f"external data of '{tensor}' at '{location}'"
    path = os.path.join(folder, location)
    if os.path.isabs(location) or "\\" in location or "\0" in location:
        raise UnsafeModel(f"{place}: the location must be a relative path with forward slashes")
    if not _inside(os.path.normpath(path), os.path.normpath(folder)):
        raise UnsafeModel(f"{place}: the location leaves the model's folder '{folder}'")
    if not _inside(os.path.realpath(path), os.path.realpath(folder)):
        target = os.path.realpath(path)
        raise UnsafeModel(
            f"{place}: a symbolic link leads to '{target}', outside '{folder}'; copy the file"
        )
    if not os.path.exists(path):
        raise InvalidModel(f"{place}: no such file in '{folder}'")
    if not os.path.isfile(path):
        raise UnsafeModel(f"{place}: not a regular file")
    status = os.stat(path)
    if status.st_nlink > 1:
        raise UnsafeModel(
            f"{place}: the file has {status.st_nlink} hard links, so it may belong elsewhere; "
            "copy it"
        )
    return status.st_size


def _inside(path: str, folder: str) -> bool:
    return os.path.commonpath([os.path.abspath(path), os.path.abspath(folder)]) == os.path.abspath(
        folder
    )


def _check_range(tensor: onnx.TensorProto, location: str, size: int) -> None:
    place = f"external data of '{tensor.name}' at '{location}'"
    try:
        info = ExternalDataInfo(tensor)
        dtype = onnx_ir.DataType(tensor.data_type)
    except ValueError as error:
        raise InvalidModel(f"{place}: {error}") from error
    if dtype == onnx_ir.DataType.STRING:
        raise InvalidModel(f"{place}: strings cannot be stored outside the model")
    needed = tensor_bytes(dtype, tensor.dims)
    offset, length = info.offset or 0, needed if info.length is None else info.length
    if min(offset, length) < 0 or length != needed:
        raise InvalidModel(
            f"{place}: shape {list(tensor.dims)} of {dtype.name} takes {needed} bytes, "
            f"the entry says offset {offset}, length {length}"
        )
    if offset + length > size:
        raise InvalidModel(f"{place}: needs bytes {offset}..{offset + length}, file has {size}")


def tensor_bytes(dtype: onnx_ir.DataType, dims: Iterable[int]) -> int:
    """Return how many bytes a packed tensor of this type and shape takes."""
    count = 1
    for dim in dims:
        if dim < 0:
            raise InvalidModel(f"a tensor has the negative dimension {dim}")
        count *= dim
    return (count * dtype.bitwidth + 7) // 8
