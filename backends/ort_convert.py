"""Write a model in ONNX Runtime's own format, the same bytes every time: ``python -m whet.backends.ort_convert``.

The order of some tables in such a file follows addresses in memory, and what the process did before. So each file is
written by a fresh process whose addresses are not random, where the system allows that.
"""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

from whet.ir.execute import CannotRun, Executor

__all__ = ["convert", "main"]

_NOT_PORTABLE = ("NchwcTransformer",)
"""Optimizations whose result runs on processors of one kind only: a layout in blocks as wide as a vector here."""
_NOT_RANDOM = 0x0040000
"""Linux's ADDR_NO_RANDOMIZE; programs that are started from here on have it too."""
_STARTED = "WHET_ORT_CONVERT"


def convert(source: Path, made: Path, *, signed: bool) -> None:
    """Let ONNX Runtime optimize a model and write it in its own format, in a process of its own; raises CannotRun.

    ``signed`` says whether the processor has products of int8 with int8.
    """
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, "-m", __name__, str(source), str(made), "1" if signed else "0"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise CannotRun((done.stderr.strip().splitlines() or ["its process died"])[-1])


def main(arguments: list[str]) -> int:
    """Convert, in a process that has done nothing else."""
    if _STARTED not in os.environ and _stop_randomizing():
        environment = {**os.environ, _STARTED: "1", "PYTHONHASHSEED": "0"}
        os.execve(
            sys.executable,
            [sys.executable, "-m", "whet.backends.ort_convert", *arguments],
            environment,
        )
    source, made, signed = arguments
    try:
        Executor(
            source,
            optimization="all",
            save_optimized=Path(made),
            disabled=_NOT_PORTABLE,
            config={"session.save_model_format": "ORT", "session.qdqisint8allowed": signed},
        )
    except CannotRun as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _stop_randomizing() -> bool:
    """Tell whether programs that this process becomes have their memory at the same addresses each time."""
    if sys.platform != "linux":
        return False
    try:
        personality = ctypes.CDLL(None).personality
        return bool(personality(personality(0xFFFFFFFF) | _NOT_RANDOM) != -1)
    except (OSError, AttributeError):
        return False


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
