"""Save a model: the same bytes for the same model, all of it or nothing, weights streamed."""

import contextlib
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import onnx
import onnx_ir

from whet.errors import UnsupportedModel, UsageError
from whet.ir.atomic import Replacement, replace_all

EXTERNAL_THRESHOLD = (1 << 31) - (1 << 27)
"""Weights of more bytes than this go to a file beside the model (2 GB is a protobuf's limit)."""

STREAMED_FROM = 1024
"""Smaller tensors are written with the graph."""

MACHINE_METADATA = ("pkg.torch.onnx.stack_trace",)
"""Metadata that names files of the machine the model was exported on."""

_PAGE, _LINE = 4096, 64
_GRAPH_TAG, _INITIALIZER_TAG, _RAW_DATA_TAG = b"\x3a", b"\x2a", b"\x4a"
"""Wire tags of ModelProto.graph (7), GraphProto.initializer (5) and TensorProto.raw_data (9)."""


@dataclass(frozen=True)
class _Weight:
    """Is one streamed tensor and its place in the data file."""

    value: onnx_ir.Value
    tensor: onnx_ir.TensorProtocol
    offset: int

    @property
    def end(self) -> int:
        return self.offset + self.tensor.nbytes


def save_model(
    model: onnx_ir.Model,
    path: str | os.PathLike[str],
    *,
    external_threshold: int = EXTERNAL_THRESHOLD,
    stack_traces: bool = False,
) -> None:
    """Write ``model`` as an ONNX file; equal models give equal bytes.

    When the weights take more than ``external_threshold`` bytes they go to ``PATH.data``. Both
    files are complete or, after any error, as they were before. Tensors are copied one by one, so
    memory stays flat. ``path`` may be the file the model was loaded from: its tensors then refer
    to the new file, and tensors that clones of the model still share with it raise when used.

    Python stack traces of the exporter are left out unless ``stack_traces`` is set: they hold
    paths of one machine. The model is not changed otherwise.
    """
    target = os.path.abspath(os.fspath(path))
    if os.path.isdir(target):
        raise UsageError(f"cannot write '{path}': it is a folder")
    if not os.path.isdir(os.path.dirname(target)):
        raise UsageError(f"cannot write '{path}': no folder '{os.path.dirname(target)}'")
    try:
        _read_external_attributes(model)
        if _total_bytes(model) > external_threshold:
            _save_external(model, target, stack_traces)
        else:
            _save_inline(model, target, stack_traces)
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror or error}") from error


def _save_inline(model: onnx_ir.Model, target: str, stack_traces: bool) -> None:
    weights = _plan([model.graph])
    proto = _skeleton(model, weights, "", stack_traces)
    file = Replacement(target)
    with file.open() as stream:
        _write_model(stream, proto, {w.value.name or "": w.tensor for w in weights})
    replace_all([file])


def _save_external(model: onnx_ir.Model, target: str, stack_traces: bool) -> None:
    data, file = Replacement(target + ".data"), Replacement(target)
    weights = _plan(list(model.graphs()))
    proto = _skeleton(model, weights, os.path.basename(data.path), stack_traces)
    overwritten = _tensors_in(model, data.path)
    with data.open() as stream:
        for weight in weights:
            stream.write(b"\0" * (weight.offset - stream.tell()))
            _write_tensor(stream, weight.tensor)
        try:
            with file.open() as model_stream:
                model_stream.write(_serialize(proto))
        except BaseException:
            data.discard()
            raise
    rebound = {w.value: _placeholder(w, data.path) for w in weights}
    copies = {v: rebound.get(v) or _copy(v) for v in overwritten}
    replace_all([data, file])
    for value, tensor in copies.items():
        old, value.const_value = value.const_value, tensor
        if isinstance(old, onnx_ir.ExternalTensor):
            old.invalidate()


def _initializers(
    graphs: Sequence[onnx_ir.Graph],
) -> Iterator[tuple[onnx_ir.Value, onnx_ir.TensorProtocol]]:
    for graph in graphs:
        for value in graph.initializers.values():
            if value.const_value is None:
                raise UnsupportedModel(f"initializer '{value.name}' has no data")
            yield value, value.const_value


def _total_bytes(model: onnx_ir.Model) -> int:
    return sum(
        tensor.nbytes
        for _, tensor in _initializers(list(model.graphs()))
        if tensor.dtype != onnx_ir.DataType.STRING
    )


def _plan(graphs: Sequence[onnx_ir.Graph]) -> list[_Weight]:
    """Give every large tensor its place: pages for large ones (mappable), else cache lines."""
    weights: list[_Weight] = []
    end = 0
    for value, tensor in _initializers(graphs):
        if tensor.dtype == onnx_ir.DataType.STRING or tensor.nbytes < STREAMED_FROM:
            continue
        step = _PAGE if tensor.nbytes >= 1 << 20 else _LINE
        weights.append(_Weight(value, tensor, -(-end // step) * step))
        end = weights[-1].end
    return weights


def _placeholder(weight: _Weight, path: str) -> onnx_ir.ExternalTensor:
    tensor = weight.tensor
    return onnx_ir.ExternalTensor(
        os.path.basename(path),
        weight.offset,
        tensor.nbytes,
        tensor.dtype,
        shape=onnx_ir.Shape(tensor.shape.numpy()),
        name=weight.value.name or "",
        doc_string=tensor.doc_string,
        metadata_props=dict(tensor.metadata_props),
        base_dir=os.path.dirname(path),
    )


def _copy(value: onnx_ir.Value) -> onnx_ir.TensorProtocol:
    tensor = value.const_value
    assert tensor is not None
    return onnx_ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype, name=value.name)


def _skeleton(
    model: onnx_ir.Model, weights: Sequence[_Weight], location: str, stack_traces: bool
) -> onnx.ModelProto:
    """Serialize everything but the data of ``weights``."""
    stand_ins: dict[onnx_ir.Value, onnx_ir.TensorProtocol] = {
        w.value: _placeholder(w, location) for w in weights
    }
    for value, tensor in _initializers(list(model.graphs())):
        if isinstance(tensor, onnx_ir.ExternalTensor) and value not in stand_ins:
            stand_ins[value] = _copy(value)
    with _swapped(stand_ins):
        proto = onnx_ir.to_proto(model)
    if not stack_traces:
        _drop_machine_metadata(proto)
    return proto


@contextlib.contextmanager
def _swapped(tensors: dict[onnx_ir.Value, onnx_ir.TensorProtocol]) -> Generator[None]:
    originals = {value: value.const_value for value in tensors}
    try:
        for value, tensor in tensors.items():
            value.const_value = tensor
        yield
    finally:
        for value, original in originals.items():
            value.const_value = original


def _drop_machine_metadata(proto: onnx.ModelProto) -> None:
    for function in proto.functions:
        _drop_from_nodes(function.node)
    _drop_from_nodes(proto.graph.node)


def _drop_from_nodes(nodes: Sequence[onnx.NodeProto]) -> None:
    for node in nodes:
        kept = [entry for entry in node.metadata_props if entry.key not in MACHINE_METADATA]
        if len(kept) < len(node.metadata_props):
            del node.metadata_props[:]
            node.metadata_props.extend(kept)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _drop_from_nodes(attribute.g.node)
            for graph in attribute.graphs:
                _drop_from_nodes(graph.node)


def _header(tensor: onnx.TensorProto) -> bytes:
    """Serialize all of ``tensor`` but its data."""
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    return _serialize(tensor)


def _serialize(message: onnx.ModelProto | onnx.GraphProto | onnx.TensorProto) -> bytes:
    try:
        data: bytes = message.SerializeToString(deterministic=True)
        return data
    except ValueError as error:
        raise UnsupportedModel(f"the graph without its weights is too large: {error}") from error


def _write_model(
    stream: BinaryIO, proto: onnx.ModelProto, weights: Mapping[str, onnx_ir.TensorProtocol]
) -> None:
    """Write ``proto`` with the data of ``weights``, its initializers last, as protobuf has it."""
    pieces = [_initializer(t, weights.get(t.name)) for t in proto.graph.initializer]
    del proto.graph.initializer[:]
    graph = _serialize(proto.graph)
    proto.ClearField("graph")
    head = _serialize(proto)
    size = len(graph) + sum(len(start) + (t.nbytes if t is not None else 0) for start, t in pieces)
    if len(head) + size >= 1 << 31:
        raise UnsupportedModel(
            f"the model takes {size} bytes, more than one protobuf can hold; "
            "lower external_threshold"
        )
    stream.write(head + _GRAPH_TAG + _varint(size) + graph)
    for start, tensor in pieces:
        stream.write(start)
        if tensor is not None:
            _write_tensor(stream, tensor)


def _initializer(
    proto: onnx.TensorProto, tensor: onnx_ir.TensorProtocol | None
) -> tuple[bytes, onnx_ir.TensorProtocol | None]:
    """Return the bytes of an initializer up to its data, and where the data come from."""
    if tensor is None:
        whole = _serialize(proto)
        return _INITIALIZER_TAG + _varint(len(whole)) + whole, None
    start = _header(proto) + _RAW_DATA_TAG + _varint(tensor.nbytes)
    return _INITIALIZER_TAG + _varint(len(start) + tensor.nbytes) + start, tensor


def _varint(number: int) -> bytes:
    digits = bytearray()
    while number > 0x7F:
        digits.append(number & 0x7F | 0x80)
        number >>= 7
    digits.append(number)
    return bytes(digits)


def _write_tensor(stream: BinaryIO, tensor: onnx_ir.TensorProtocol) -> None:
    start = stream.tell()
    tofile = getattr(tensor, "tofile", None)  # no part of the protocol, but it spares a copy
    if tofile is None:
        stream.write(tensor.tobytes())
    else:
        tofile(stream)
    if stream.tell() - start != tensor.nbytes:
        raise UnsupportedModel(
            f"tensor '{tensor.name}' gave {stream.tell() - start} bytes instead of {tensor.nbytes}"
        )


def _tensors_in(model: onnx_ir.Model, path: str) -> list[onnx_ir.Value]:
    """List the values whose data are mapped from the file at ``path``."""
    real = os.path.realpath(path)
    return [
        value
        for value, tensor in _initializers(list(model.graphs()))
        if isinstance(tensor, onnx_ir.ExternalTensor) and os.path.realpath(tensor.path) == real
    ]


def _read_external_attributes(model: onnx_ir.Model) -> None:
    """Bring attribute tensors that lie in other files into memory: they have no other home."""
    graphs = [*model.graphs(), *(f.graph for f in model.functions.values())]
    for graph in graphs:
        for node in onnx_ir.traversal.RecursiveGraphIterator(graph):
            for attribute in list(node.attributes.values()):
                if isinstance(attribute.value, onnx_ir.ExternalTensor):
                    tensor = attribute.value
                    copy = onnx_ir.Tensor(np.array(tensor.numpy()), dtype=tensor.dtype)
                    node.attributes[attribute.name] = onnx_ir.AttrTensor(attribute.name, copy)
