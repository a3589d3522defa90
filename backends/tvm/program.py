"""What a C program needs to run a library where there is no Python: the names and shapes of a model, and a Makefile."""

import string
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

__all__ = ["header", "makefile"]

_PLAIN = frozenset(string.ascii_letters + string.digits + " _-./:[]()")

_MAKEFILE = """\
# make run TVM=FOLDER builds a program that runs the model with TVM's runtime libraries and without Python.
# FOLDER has tvm/ and tvm_ffi/ for the machine of the program: its site-packages, or the two wheels for it,
# unpacked. The libraries are looked for beside the program first, then in FOLDER.
CC = {compiler}
TVM ?= lib
FOLDER := $(abspath $(TVM))

run: run.c model.h
	$(CC) -std=c11 -O2 -Wall -Wextra -I$(FOLDER)/tvm_ffi/include -o $@ run.c \\
		-L$(FOLDER)/tvm/lib -L$(FOLDER)/tvm_ffi/lib -Wl,--no-as-needed -ltvm_runtime -ltvm_ffi -lm \\
		-Wl,-rpath,'$$ORIGIN' -Wl,-rpath,$(FOLDER)/tvm/lib -Wl,-rpath,$(FOLDER)/tvm_ffi/lib

clean:
	rm -f run

.PHONY: clean
"""


def makefile(compiler: str) -> str:
    """Return the Makefile, with the compiler that links the library; a C++ compiler leaves it to the system's."""
    return _MAKEFILE.format(compiler="cc" if "++" in compiler else compiler)


def header(
    inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]], limit: float
) -> str:
    """Return the tables of rows with ``name``, ``dtype`` and ``shape`` as C, and what error the check allows."""
    lines = [
        f"enum {{ INPUTS = {len(inputs)}, OUTPUTS = {len(outputs)} }};",
        f"static const double limit = {limit:g};",
    ]
    for name, rows in (("inputs", inputs), ("outputs", outputs)):
        # C has no empty arrays.
        lines += [
            "",
            f"static const Row {name}[] = {{",
            *(map(_row, rows) if rows else ["    {0},"]),
            "};",
        ]
    return "\n".join([*lines, ""])


def _row(row: Mapping[str, Any]) -> str:
    kind = np.dtype(row["dtype"]).str
    shape = ", ".join(str(n) for n in row["shape"]) or "0"
    return f'    {{"{_escaped(row["name"])}", "{kind}", {len(row["shape"])}, {{{shape}}}}},'


def _escaped(name: str) -> str:
    """Return a name as what stands between quotes in C, every byte that is not plain in three octal digits."""
    return "".join(chr(b) if chr(b) in _PLAIN else f"\\{b:03o}" for b in name.encode())
