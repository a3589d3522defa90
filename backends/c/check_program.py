"""``main.c`` and the Makefile: a program that runs the model on stored inputs and compares with stored outputs."""

from collections.abc import Mapping, Sequence

import numpy as np

from whet.backends.c.program import Grid, Program
from whet.backends.c.sources import Names
from whet.backends.c.spelling import c_type, indent, listed
from whet.ir.array import Array

__all__ = ["main_source", "makefile", "tolerance"]

_FLOATS = 1e-4
"""Accepted difference of floats, as a share of the largest expected one: sums run in another order."""
_STEPS = 255
"""A float that integers were on the way to may be off by one step of a grid of 8 bits over all that is expected."""

_COMPARE = """
static int compare(const char *name, const double *got, const double *want, int count, double limit)
{
int wrong = 0;
double largest = 0.0;
for (int i = 0; i < count; ++i) {
const double gap = got[i] > want[i] ? got[i] - want[i] : want[i] - got[i];
largest = gap > largest ? gap : largest;
if (!(gap <= limit) && !(got[i] != got[i] && want[i] != want[i]) && !(got[i] == want[i])) {
++wrong;
}
}
printf("%s: %d of %d differ by more than %g, the largest difference is %g\\n", name, wrong, count, limit, largest);
return wrong;
}
"""


def tolerance(expected: Array, grid: Grid | None, integers: bool) -> float:
    """Return how far an output may be from what is expected: one step of its grid, or float rounding."""
    if expected.dtype.kind in "iub":
        return 1.0 if integers and expected.dtype.itemsize <= 2 else 0.0
    if grid is not None:
        return grid.scale * 1.001
    finite = expected[np.isfinite(expected)].astype(np.float64)
    largest = float(np.abs(finite).max(initial=0.0))
    if not integers:
        return max(_FLOATS * largest, 1e-7)
    return max((float(finite.max(initial=0.0)) - float(finite.min(initial=0.0))) / _STEPS, 1e-7)


def main_source(
    program: Program,
    names: Names,
    feeds: Mapping[str, Array],
    expected: Sequence[Array],
    *,
    blob: bool,
) -> str:
    """Return ``main.c``."""
    parts = ['#include "model.h"', "#include <math.h>", "#include <stdio.h>"]
    parts += ["#include <stdlib.h>"] if blob else []
    parts += ["", indent(_COMPARE), ""]
    for name, (label, tensor) in zip(names.inputs, program.inputs, strict=True):
        array = np.ascontiguousarray(feeds[label]).astype(tensor.dtype)
        parts += _array(f"in_{name}", array)
    steps: list[str] = []
    for name, (label, tensor), array in zip(names.outputs, program.outputs, expected, strict=True):
        size = tensor.size
        parts += _array(f"want_{name}", np.asarray(array))
        parts.append(f"static {c_type(tensor.dtype)} got_{name}[{size}];\n")
        limit = tolerance(np.asarray(array), program.grids.get(label), program.integers)
        steps += [
            "{",
            f"static double got[{size}], want[{size}];",
            f"for (int i = 0; i < {size}; ++i) {{",
            f"got[i] = (double)got_{name}[i];",
            f"want[i] = (double)want_{name}[i];",
            "}",
            f'wrong += compare("{name}", got, want, {size}, {limit:.9g});',
            "}",
        ]
    given = [f"in_{n}" for n in names.inputs] + [f"got_{n}" for n in names.outputs]
    body = [
        "int main(void)",
        "{",
        "int wrong = 0;",
        *(_load(names) if blob else []),
        f"const int error = {names.prefix}_run({', '.join(given)});",
        "if (error != 0) {",
        'printf("the run failed with error %d\\n", error);',
        "return 1;",
        "}",
        *steps,
        'printf(wrong == 0 ? "ok\\n" : "WRONG\\n");',
        "return wrong == 0 ? 0 : 1;",
        "}",
    ]
    return "\n".join(parts) + "\n" + indent("\n".join(body)) + "\n"


def _array(name: str, array: Array) -> list[str]:
    kind = c_type(array.dtype)
    return [f"static const {kind} {name}[{array.size}] = {{", listed(array), "};", ""]


def _load(names: Names) -> list[str]:
    """Return statements that read model.bin from the folder the program runs in."""
    return [
        'FILE *file = fopen("model.bin", "rb");',
        "long size = 0;",
        "void *bin = NULL;",
        "if (file != NULL && fseek(file, 0, SEEK_END) == 0 && (size = ftell(file)) > 0) {",
        "rewind(file);",
        "bin = malloc((size_t)size);",
        "}",
        "if (bin == NULL || fread(bin, 1, (size_t)size, file) != (size_t)size) {",
        'printf("model.bin cannot be read\\n");',
        "return 1;",
        "}",
        "fclose(file);",
        f"{names.prefix}_weights(bin);",
    ]


def makefile(*, mathematics: bool, compiler: str = "", flags: Sequence[str] = ()) -> str:
    """Return the Makefile: ``make check`` builds and runs the program, ``make model.o`` the model for a device."""
    libraries = " -lm" if mathematics else ""
    return f"""# make check: build and compare with the stored outputs. make model.o CROSS=arm-none-eabi- for a device.
CC = $(CROSS)gcc
DEVICE_CC = {compiler or "$(CC)"}
DEVICE_FLAGS ={"".join(f" {flag}" for flag in flags)}
CFLAGS ?= -O2
STANDARD = -std=c99 -Wall -Wextra -pedantic -Wconversion -fno-strict-aliasing
LIBRARIES ={libraries}

check: model_check
\t./model_check

model_check: main.c model.c model.h
\t$(CC) $(STANDARD) $(CFLAGS) main.c model.c -o $@ $(LIBRARIES)

model.o: model.c model.h
\t$(DEVICE_CC) $(STANDARD) $(DEVICE_FLAGS) $(CFLAGS) -c model.c -o $@

clean:
\trm -f model_check model.o

.PHONY: check clean
"""
