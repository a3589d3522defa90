"""Load ONNX files without reading the weights; save them whole and deterministically."""

import os
import pickletools
import zipfile

import onnx
import onnx_ir
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from whet.errors import InvalidModel, UnsafeModel, UnsupportedModel, UsageError
from whet.ir.external import check_external, external_tensors
from whet.ir.order import root_cause, sort_nodes
from whet.ir.saving import EXTERNAL_THRESHOLD, save_model
from whet.ir.sparse import densify

__all__ = [
    "EXTERNAL_THRESHOLD",
    "from_proto",
    "load_model",
    "parse_model",
    "refuse_pickle",
    "save_model",
]

LARGEST_PROTOBUF = (1 << 31) - 1
"""A protobuf message cannot be larger than this many bytes."""


def load_model(path: str | os.PathLike[str]) -> onnx_ir.Model:
    """Load an ONNX file; external data stay on disk, memory-mapped when they are first used.

    Raises UsageError when there is no such file, UnsafeModel for a pickle and for external data
    outside the model's folder, UnsupportedModel for a newer IR or opset than the installed onnx
    knows, InvalidModel for everything else that is not a whole ONNX model.
    """
    name = os.fspath(path)
    data = _read(name)
    proto = _parse(data, f"'{name}'")
    del data
    folder = os.path.dirname(os.path.abspath(name))
    check_external(proto, folder)
    model = deserialize(proto, f"'{name}'")
    _set_folder(model, folder)
    return model


def parse_model(data: bytes, what: str = "the given bytes") -> onnx_ir.Model:
    """Load a model from the bytes of an ONNX file; weights must be inside."""
    return _self_contained(_parse(data, what), what)


def from_proto(proto: onnx.ModelProto, what: str = "the given ModelProto") -> onnx_ir.Model:
    """Turn a copy of ``proto`` into a model; weights must be inside.

    A copy, because renaming a value in the IR would rename the tensor in the proto.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    return _self_contained(copy, what)


def _self_contained(proto: onnx.ModelProto, what: str) -> onnx_ir.Model:
    if external_tensors(proto):
        raise UsageError(f"{what} keeps weights in another file: give the path of the file instead")
    return deserialize(proto, what)


def deserialize(proto: onnx.ModelProto, what: str) -> onnx_ir.Model:
    """Turn ``proto``, which the model then owns, into a model after checking its versions."""
    _check_versions(proto, what)
    densify(proto)
    try:
        model = onnx_ir.from_proto(proto)
        sort_nodes(model)
    except (RuntimeError, ValueError, TypeError, KeyError, AssertionError) as error:
        cause = root_cause(error)
        if isinstance(cause, NotImplementedError) or "not supported" in str(cause):
            raise UnsupportedModel(f"{what} holds something the IR lacks: {cause}") from error
        raise InvalidModel(f"{what} is not a valid ONNX model: {cause}") from error
    return model


def _read(path: str) -> bytes:
    if not os.path.exists(path):
        raise UsageError(f"no such file: '{path}'")
    if os.path.isdir(path):
        raise UsageError(f"'{path}' is a folder, not an ONNX file")
    if not os.path.isfile(path):
        raise UsageError(f"'{path}' is not a regular file")
    if os.path.getsize(path) > LARGEST_PROTOBUF:
        refuse_pickle(path)
        raise InvalidModel(
            f"'{path}' has {os.path.getsize(path)} bytes, a protobuf at most {LARGEST_PROTOBUF}; "
            "larger models keep their weights in a file beside them"
        )
    refuse_pickle(path)
    try:
        with open(path, "rb") as file:
            return file.read()
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror}") from error


def refuse_pickle(path: str) -> None:
    """Raise UnsafeModel when ``path`` is a pickle, also one inside a zip archive.

    Looks at names and magic bytes only; nothing is unpickled.
    """
    try:
        with open(path, "rb") as file:
            head = file.read(4)
        if head.startswith(b"PK") and zipfile.is_zipfile(path):
            _refuse_archive(path)
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror}") from error
    if len(head) > 1 and head[0] == 0x80 and head[1] <= pickletools_protocol():
        raise UnsafeModel(_pickle_message(path))


def pickletools_protocol() -> int:
    """Return the highest pickle protocol there is."""
    return max(opcode.proto for opcode in pickletools.opcodes)


def _pickle_message(path: str) -> str:
    return (
        f"'{path}' is a Python pickle (a torch checkpoint?); loading it would run code. Give an "
        "ONNX file, a .pt2 program, or 'pkg.mod:factory' that builds the module"
    )


def _refuse_archive(path: str) -> None:
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    if any(name == "data.pkl" or name.endswith("/data.pkl") for name in names):
        raise UnsafeModel(_pickle_message(path))
    if "whet.json" in names:
        raise InvalidModel(f"'{path}' is a packed artifact: whet pack '{path}' -o DIR unpacks it")
    raise InvalidModel(f"'{path}' is a zip archive, not an ONNX file")


def _parse(data: bytes, what: str) -> onnx.ModelProto:
    if not data:
        raise InvalidModel(f"{what} is empty")
    if data[4:8] == b"ORTM":
        raise UnsupportedModel(f"{what} is in ORT's own format; give the ONNX file it came from")
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
    except DecodeError as error:
        if _is_old_pickle(data):
            raise UnsafeModel(_pickle_message(what.strip("'"))) from error
        raise InvalidModel(f"{what} is truncated or not an ONNX model: {error}") from error
    if not proto.HasField("graph") or not proto.ir_version:
        raise InvalidModel(f"{what} is not an ONNX model: it has no graph or no IR version")
    return proto


def _is_old_pickle(data: bytes) -> bool:
    try:
        return any(opcode.name == "STOP" for opcode, _, _ in pickletools.genops(data))
    except (ValueError, IndexError, UnicodeDecodeError):
        return False


def _check_versions(proto: onnx.ModelProto, what: str) -> None:
    if proto.ir_version > onnx.IR_VERSION:
        raise UnsupportedModel(
            f"{what} has IR version {proto.ir_version}; "
            f"onnx {onnx.__version__} knows up to {onnx.IR_VERSION}"
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in proto.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version > newest:
            raise UnsupportedModel(
                f"{what} uses opset {opset.version}; onnx {onnx.__version__} knows up to {newest}"
            )
    if proto.ir_version >= 3 and not proto.opset_import:
        raise InvalidModel(f"{what} is truncated or not an ONNX model: it imports no opset")


def _set_folder(model: onnx_ir.Model, folder: str) -> None:
    onnx_ir.external_data.set_base_dir(model.graph, folder)
    for function in model.functions.values():
        onnx_ir.external_data.set_base_dir(function.graph, folder)
