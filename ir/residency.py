"""Keep large weights out of memory: on disk, mapped while they are read."""

import mmap
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

import onnx_ir

__all__ = ["LARGE", "release", "resident_bytes", "spill"]

LARGE = 1 << 24
"""Bytes from which a weight is worth a file of its own."""


def release(values: Iterable[onnx_ir.Value | None]) -> None:
    """Give back the memory of mapped weights; whoever reads them again gets them from disk.

    Arrays that still refer to them stay valid.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is None:
        return
    for value in values:
        tensor = None if value is None else value.const_value
        if isinstance(tensor, onnx_ir.ExternalTensor) and tensor.raw is not None:
            tensor.raw.madvise(advice)


def spill(value: onnx_ir.Value, folder: Path) -> bool:
    """Move a large weight from memory to a file in ``folder``; return whether it was one.

    The file must stay as long as the model is in use.
    """
    tensor = value.const_value
    if tensor is None or isinstance(tensor, onnx_ir.ExternalTensor) or tensor.nbytes < LARGE:
        return False
    if tensor.dtype == onnx_ir.DataType.STRING:
        return False
    folder.mkdir(parents=True, exist_ok=True)
    number, path = tempfile.mkstemp(suffix=".weight", dir=folder)
    with os.fdopen(number, "wb") as stream:
        write = getattr(tensor, "tofile", None)  # no part of the protocol, but it spares a copy
        stream.write(tensor.tobytes()) if write is None else write(stream)
    value.const_value = onnx_ir.ExternalTensor(
        os.path.basename(path),
        0,
        tensor.nbytes,
        tensor.dtype,
        shape=onnx_ir.Shape(tensor.shape.numpy()),
        name=value.name or "",
        base_dir=str(folder.absolute()),
    )
    return True


def resident_bytes() -> int:
    """Return what this process holds in memory now, or at its peak where the system does not say."""
    status = Path("/proc/self/statm")
    if status.is_file():
        return int(status.read_text().split()[1]) * mmap.PAGESIZE
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
