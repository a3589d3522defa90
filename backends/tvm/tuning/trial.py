"""The child's side of :class:`whet.backends.tvm.tuning.stand.Stand`: build two kernels, compare and time them."""

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from whet.backends.worker import serve
from whet.ir.array import Array
from whet.ir.execute import CannotRun

__all__ = ["answer"]

_COPIES = 16
"""Copies of weights that calls go round with, at most."""
_LEAST = 3
"""Runs of a block."""
_built: dict[str, Any] = {}
"""The last kernels by the digest of their text."""


def answer(
    message: dict[str, Any], arrays: dict[str, Array]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Return the medians of blocks, in milliseconds, and how far the results are apart."""
    os.environ.setdefault("TVM_NUM_THREADS", str(message["machine"]["threads"]))
    from whet.backends.tvm.api import tvm

    runs: dict[str, Callable[[], None]] = {}
    found: dict[str, Array] = {}
    shape, dtype = message["result"]
    for name, text in message["modules"].items():
        given = [arrays[f"{name} {k}"] for k in range(len(arrays) // len(message["modules"]))]
        result = tvm.runtime.tensor(np.zeros(shape, dtype))
        calls = _calls(given, message["constants"], message["cold"], result)
        runs[name] = _turns(_build(text, message["machine"]), calls)
        runs[name]()
        found[name] = result.numpy()
    blocks = _alternate(runs, message["rounds"], message["seconds"])
    return {"ms": blocks, "off": _difference(*found.values())}, {}


def _build(text: str, machine: Mapping[str, Any]) -> Any:
    from whet.backends.tvm.api import tvm
    from whet.backends.tvm.machine import Machine

    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest not in _built:
        try:
            built = tvm.compile(tvm.ir.load_json(text), target=Machine(**machine).target())
        except (RuntimeError, ValueError, TypeError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise CannotRun(f"TVM does not build it: {lines[-1]}") from error
        while len(_built) > 1:
            del _built[next(iter(_built))]
        _built[digest] = built["main"]
    _built[digest] = _built.pop(digest)  # the one used last is dropped last
    return _built[digest]


def _calls(
    given: Sequence[Array], constants: Sequence[int], cold: int, result: Any
) -> list[list[Any]]:
    """Return arguments of calls whose weights are copies, so many that a call finds the next ones gone from near."""
    from whet.backends.tvm.api import tvm

    plain = [tvm.runtime.tensor(np.ascontiguousarray(array)) for array in given]
    weights = sum(given[k].nbytes for k in constants)
    copies = min(_COPIES, math.ceil(cold / weights)) if weights else 1
    found: list[list[Any]] = []
    for number in range(max(copies, 1)):
        row = [
            tvm.runtime.tensor(np.ascontiguousarray(given[k])) if number and k in constants else p
            for k, p in enumerate(plain)
        ]
        found.append([*row, result])
    return found


def _turns(function: Any, calls: Sequence[Sequence[Any]]) -> Callable[[], None]:
    number = 0

    def run() -> None:
        nonlocal number
        function(*calls[number])
        number = (number + 1) % len(calls)

    return run


def _alternate(
    runs: Mapping[str, Callable[[], None]], rounds: int, seconds: float
) -> dict[str, list[float]]:
    """Return the median of each block; the order within a round turns over from round to round."""
    found: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        _block(run, seconds)
    for number in range(rounds):
        for name in list(runs) if number % 2 == 0 else list(runs)[::-1]:
            found[name].append(_block(runs[name], seconds))
    return found


def _block(run: Callable[[], None], seconds: float) -> float:
    found: list[float] = []
    run()
    end = time.perf_counter() + seconds
    while len(found) < _LEAST or time.perf_counter() < end:
        start = time.perf_counter()
        run()
        found.append((time.perf_counter() - start) * 1e3)
    return float(np.median(found))


def _difference(usual: Array, other: Array) -> float:
    """Return the largest difference over the root mean square; nothing but equality will do for what is not a float."""
    if usual.dtype.kind != "f":
        return 0.0 if np.array_equal(usual, other) else math.inf
    a, b = usual.astype(np.float64), other.astype(np.float64)
    same = (a == b) | (np.isnan(a) & np.isnan(b))
    if np.all(same):
        return 0.0
    scale = math.sqrt(float(np.mean(np.square(a[np.isfinite(a)]))))
    worst = float(np.max(np.abs(a[~same] - b[~same]))) / (scale or 1.0)
    return worst if math.isfinite(worst) else math.inf


if __name__ == "__main__":
    serve(answer)
