"""Keep what compiled code prints out of standard output.

HiGHS writes a line of its own, whatever its options, whenever it repairs a solution whose integers were integers only
within its tolerance; on standard output that line would end up in the middle of our tables and JSON.
"""

import contextlib
import ctypes
import os
import sys
from collections.abc import Generator

__all__ = ["quiet"]

_STDOUT = 1


@contextlib.contextmanager
def quiet() -> Generator[None]:
    """Send file descriptor 1 to nowhere, for the whole process; does nothing where there is no such descriptor."""
    try:
        kept = os.dup(_STDOUT)
    except OSError:
        yield
        return
    if sys.stdout is not None:
        sys.stdout.flush()
    _flush()
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, _STDOUT)
        yield
    finally:
        _flush()
        os.dup2(kept, _STDOUT)
        os.close(nowhere)
        os.close(kept)


def _flush() -> None:
    """Write out what the C library still holds, where it can be reached."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).fflush(None)
