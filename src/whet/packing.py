"""An artifact as one file, entropy-coded: a zip archive whose members are LZMA streams, which any unzip tool opens.

LZMA ends in a range coder, so that what fixed fields leave on the table, skewed bits of a mask, or codes of which some
are rarer, is saved as well. The file is decoded once, when :func:`whet.load` opens it.
"""

import dataclasses
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from whet.errors import InvalidModel, UsageError

__all__ = ["SUFFIX", "Packed", "pack", "unpack"]

SUFFIX = ".whet"
_MANIFEST = "whet.json"
_DATE = (1980, 1, 1, 0, 0, 0)
"""The earliest that the format knows: the file is a function of the artifact."""


@dataclasses.dataclass(frozen=True)
class Packed:
    """What became of one file of an artifact."""

    name: str
    bytes: int
    packed: int


def pack(folder: Path, path: Path) -> list[Packed]:
    """Write the files that an artifact needs to run into one; return them with their sizes, the largest first.

    Reports stay behind. Raises UsageError where the folder is no artifact or the file cannot be written.
    """
    names = [_MANIFEST, *_files(folder)]
    try:
        with tempfile.NamedTemporaryFile(dir=path.absolute().parent, delete=False) as file:
            found = list(_write(folder, names, Path(file.name)))
        os.replace(file.name, path)
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror}") from error
    return sorted(found, key=lambda member: -member.bytes)


def _files(folder: Path) -> Sequence[str]:
    try:
        return list(json.loads((folder / _MANIFEST).read_text())["files"])
    except OSError as error:
        raise UsageError(f"'{folder}' is not an artifact: it has no {_MANIFEST}") from error


def _write(folder: Path, names: Sequence[str], path: Path) -> Iterator[Packed]:
    try:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
            for name in names:
                member = zipfile.ZipInfo(name, _DATE)
                member.compress_type = zipfile.ZIP_LZMA
                member.file_size = (folder / name).stat().st_size
                with (folder / name).open("rb") as source, archive.open(member, "w") as sink:
                    while piece := source.read(1 << 20):
                        sink.write(piece)
                yield Packed(name, member.file_size, member.compress_size)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def unpack(path: Path, folder: Path) -> None:
    """Decode a packed artifact into an empty folder; raises InvalidModel for anything else.

    Only plain names that the manifest lists are written, and no more bytes than it says.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            manifest = archive.read(_MANIFEST)
            sizes = {n: int(entry["bytes"]) for n, entry in json.loads(manifest)["files"].items()}
            if set(archive.namelist()) != {_MANIFEST, *sizes}:
                raise InvalidModel(f"'{path}' holds other files than its manifest lists")
            (folder / _MANIFEST).write_bytes(manifest)
            for name, size in sizes.items():
                if Path(name).name != name:
                    raise InvalidModel(f"'{path}' has a file '{name}', expected a plain name")
                _read(archive, name, size, folder / name)
    except (zipfile.BadZipFile, KeyError, ValueError, EOFError, NotImplementedError) as error:
        raise InvalidModel(f"'{path}' is no packed artifact: {error}") from error


def _read(archive: zipfile.ZipFile, name: str, size: int, target: Path) -> None:
    with archive.open(name) as source, target.open("wb") as sink:
        left = size
        while piece := source.read(1 << 20):
            left -= len(piece)
            if left < 0:
                raise InvalidModel(
                    f"'{name}' holds more than the {size:,} bytes that the manifest says"
                )
            sink.write(piece)
