"""What a model file takes on disk."""

from collections.abc import Iterator
from pathlib import Path

import onnx

__all__ = ["stored_bytes"]


def stored_bytes(path: Path) -> int:
    """Return the bytes of a model file and of every external data file it names."""
    model = onnx.load(path, load_external_data=False)
    names = {name for tensor in _tensors(model.graph) for name in _location(tensor)}
    files = [path, *(path.parent / name for name in sorted(names))]
    return sum(file.stat().st_size for file in files if file.is_file())


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(attribute.g)
            for inner in attribute.graphs:
                yield from _tensors(inner)


def _location(tensor: onnx.TensorProto) -> Iterator[str]:
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")
