"""What C code prints is not seen, what Python prints is."""

import ctypes
import os
import subprocess
import sys

import pytest

from whet.solve.quiet import quiet

_SCRIPT = """
import ctypes, os
from whet.solve.quiet import quiet
c = ctypes.CDLL(None)
print("before")
c.puts(b"seen")
with quiet():
    c.puts(b"hidden")
    os.write(1, b"hidden too")
print("after")
"""


@pytest.mark.skipif(os.name != "posix", reason="needs the C library by name")
def test_only_what_is_inside_is_hidden() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert sorted(done.stdout.split()) == ["after", "before", "seen"]


def test_the_output_is_there_again_after_an_error(capfd: pytest.CaptureFixture[str]) -> None:
    def failing() -> None:
        with quiet():
            os.write(1, b"hidden")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    os.write(1, b"seen")
    ctypes.CDLL(None).fflush(None)
    assert capfd.readouterr().out == "seen"
