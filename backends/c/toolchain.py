"""The C compiler of this machine, if there is one: what it makes of a model, and how large that is."""

import dataclasses
import functools
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

from whet.analysis.kernel_prices import cache_folder
from whet.ir.execute import CannotRun

__all__ = ["CompilerMissing", "Toolchain", "find_toolchain"]

_FLAGS = ("-std=c99", "-fno-strict-aliasing", "-ffp-contract=off")
_FAST = "-O3"
_SMALL = "-Os"
_TIMEOUT = 300


class CompilerMissing(CannotRun):
    """There is no C compiler here."""


@dataclasses.dataclass(frozen=True)
class Toolchain:
    """A compiler."""

    command: str
    version: str

    def library(self, folder: Path) -> Path:
        """Compile ``model.c`` of a folder to a shared library, once for the same text; raises CannotRun."""
        texts = [(folder / name).read_bytes() for name in ("model.c", "model.h")]
        digest = hashlib.sha256(
            b"\0".join((self.version.encode(), _FAST.encode(), *texts))
        ).hexdigest()
        kept = cache_folder() / "c" / f"{digest[:32]}.so"
        if not kept.is_file():
            kept.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
                made = Path(scratch) / "model.so"
                self._run(
                    _FAST, "-shared", "-fPIC", str(folder / "model.c"), "-o", str(made), "-lm"
                )
                made.replace(kept)
        return kept

    def code_bytes(self, folder: Path, flags: Sequence[str] = ()) -> int:
        """Return the bytes of machine code of ``model.c``, optimized for size; raises CannotRun."""
        with tempfile.TemporaryDirectory() as scratch:
            made = Path(scratch) / "model.o"
            self._run(
                _SMALL,
                *flags,
                "-fno-asynchronous-unwind-tables",
                "-c",
                str(folder / "model.c"),
                "-o",
                str(made),
            )
            return _text_bytes(made.read_bytes())

    def _run(self, *arguments: str) -> None:
        command = [self.command, *_FLAGS, *arguments]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_TIMEOUT, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise CannotRun(f"{self.command} cannot compile model.c: {error}") from error
        if done.returncode:
            first = next((s for s in done.stderr.splitlines() if "error" in s), done.stderr[:200])
            raise CannotRun(f"{self.command} cannot compile model.c: {first}")


@functools.cache
def find_toolchain(compiler: str = "") -> Toolchain:
    """Return a compiler by name, or the one that ``CC`` names, or gcc, cc or clang; raises CompilerMissing."""
    wanted = compiler or os.environ.get("CC", "")
    names = [wanted] if wanted else ["gcc", "cc", "clang"]
    for name in names:
        found = shutil.which(name)
        if found is None:
            continue
        done = subprocess.run([found, "--version"], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout:
            return Toolchain(found, done.stdout.splitlines()[0])
    raise CompilerMissing(
        f"no C compiler: {' and '.join(names)} {'is' if wanted else 'are'} not in PATH"
    )


def _text_bytes(data: bytes) -> int:
    """Return the size of all executable sections of an ELF object; raises CannotRun for other formats."""
    if data[:6] not in (b"\x7fELF\x01\x01", b"\x7fELF\x02\x01"):
        raise CannotRun("the object file is not in the ELF format")
    wide = data[4] == 2
    table, size, count = (
        (struct.unpack_from("<Q", data, 40)[0], 64, struct.unpack_from("<H", data, 60)[0])
        if wide
        else (struct.unpack_from("<I", data, 32)[0], 40, struct.unpack_from("<H", data, 48)[0])
    )
    total = 0
    for k in range(count):
        entry = table + k * size
        flags, length = (
            (
                struct.unpack_from("<Q", data, entry + 8)[0],
                struct.unpack_from("<Q", data, entry + 32)[0],
            )
            if wide
            else (
                struct.unpack_from("<I", data, entry + 8)[0],
                struct.unpack_from("<I", data, entry + 20)[0],
            )
        )
        total += length if flags & 4 else 0
    return int(total)
