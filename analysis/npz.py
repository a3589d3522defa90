"""Read arrays that may be larger than memory: mapped where they lie, or unpacked to a temporary file and mapped there.

Temporary files have no name and vanish with the last array that refers to them (``TMPDIR`` says where they are).
"""

import mmap
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from whet.ir.array import Array

__all__ = ["Spool", "forget", "map_npz"]

_LOCAL_HEADER = struct.Struct("<4s5H3I2H")
_PORTION = 1 << 22
_Place = tuple[int, "np.dtype[np.generic]", tuple[int, ...]]


def map_npz(path: Path) -> dict[str, Array]:
    """Return the arrays of an ``.npz``, none of them in memory.

    Members that are stored as they are get mapped, compressed ones are unpacked to disk first. Raises ValueError,
    OSError or BadZipFile for what cannot be read; arrays of objects are refused.
    """
    found: dict[str, Array] = {}
    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            if not entry.filename.endswith(".npy"):
                raise ValueError(f"'{entry.filename}' is no array")
            found[entry.filename.removesuffix(".npy")] = _read(archive, entry, path)
    return found


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> Array:
    with archive.open(entry) as stream:
        shape, fortran, dtype = _header(stream)
        if dtype.hasobject:
            raise ValueError(f"'{entry.filename}' holds Python objects")
        begin = stream.tell()
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if entry.file_size - begin != size:
            raise ValueError(
                f"'{entry.filename}' has {entry.file_size - begin} bytes of data, not {size}"
            )
        if not size:
            return np.empty(shape, dtype)
        if entry.compress_type == zipfile.ZIP_STORED:
            begin += _data_offset(path, entry)
            return _mapped(path, dtype, begin, shape, fortran=fortran)
        with tempfile.TemporaryFile() as file:
            while portion := stream.read(_PORTION):
                file.write(portion)
            file.flush()
            return _mapped(file, dtype, 0, shape, fortran=fortran)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, "np.dtype[np.generic]"]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(stream)
    if version == (2, 0):
        return np.lib.format.read_array_header_2_0(stream)
    raise ValueError(f"version {version} of the .npy format")


def _data_offset(path: Path, entry: zipfile.ZipInfo) -> int:
    """Return where a member's bytes begin; its own header tells how long its name and extras are there."""
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        fields = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    return entry.header_offset + _LOCAL_HEADER.size + int(fields[-2]) + int(fields[-1])


def _mapped(
    file: Any,
    dtype: "np.dtype[np.generic]",
    offset: int,
    shape: tuple[int, ...],
    *,
    fortran: bool = False,
) -> Array:
    """Map a part of a file (a path, or one that is open and may have no name)."""
    found: Array = np.memmap(file, dtype, "r", offset, shape, "F" if fortran else "C")
    return found


class Spool:
    """Feeds on disk, one after the other, in the order in which they came."""

    def __init__(self, feeds: Iterable[Mapping[str, Array]]) -> None:
        """Take every feed once; one of them is in memory at a time."""
        with tempfile.TemporaryFile() as file:
            places = [{n: _write(file, np.asarray(a)) for n, a in f.items()} for f in feeds]
            file.flush()
            size = file.tell()
            whole = _mapped(file, np.dtype(np.uint8), 0, (size,)) if size else None
        self.feeds: list[dict[str, Array]] = [
            {name: _part(whole, *place) for name, place in part.items()} for part in places
        ]
        """Their arrays share one mapping."""


def _write(file: IO[bytes], array: Array) -> _Place:
    if array.dtype.hasobject:
        raise ValueError(f"an array of {array.dtype} cannot be kept")
    file.write(bytes(-file.tell() % 64))
    offset = file.tell()
    file.write(np.ascontiguousarray(array).data)
    return offset, array.dtype, array.shape


def _part(
    whole: Array | None, offset: int, dtype: "np.dtype[np.generic]", shape: tuple[int, ...]
) -> Array:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    if whole is None or not size:
        return np.empty(shape, dtype)
    return np.asarray(whole[offset : offset + size]).view(dtype).reshape(shape)


def forget(array: Array) -> None:
    """Give back the memory of a mapped array; whoever reads it again gets it from disk."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    base: object = array
    while isinstance(base, np.ndarray):
        base = cast("object", base.base)
    if advice is not None and isinstance(base, mmap.mmap):
        base.madvise(advice)
