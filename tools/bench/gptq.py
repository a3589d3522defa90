"""Round one large layer to 4 bits: time, memory and output error of GPTQ against rounding to the nearest.

``python -m whet.tools.bench.gptq [--inputs 4096] [--outputs 4096] [--bits 4] [--group 128] [--json FILE]``
"""

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from whet.passes.quantization.algorithms.approximation import Blocks, Doubles, Layer
from whet.passes.quantization.algorithms.gptq import gptq
from whet.passes.quantization.algorithms.refinement import refine_codes
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.tools.bench.process_tree import Usage, watch

__all__ = ["LIMIT_BYTES", "LIMIT_SECONDS", "Row", "example_layer", "main", "measure"]

LIMIT_SECONDS = 60.0
LIMIT_BYTES = 2e9
"""What GPTQ may take for 4096 x 4096 on two cores; the process with the layer and the interpreter included."""

_METHODS: Mapping[str, Callable[[Layer, int, int], Blocks]] = {
    "extremes": lambda layer, bits, size: round_to_nearest(layer, bits, size, clip="extremes"),
    "nearest": round_to_nearest,
    "gptq": gptq,
    "gptq, refined": lambda layer, bits, size: refine_codes(layer, gptq(layer, bits, size)),
}


@dataclasses.dataclass
class Row:
    """One method in a process of its own."""

    method: str
    seconds: float
    error: float
    """Relative output error on the calibration inputs."""
    held_out: float
    """The same on other inputs."""
    bytes: int
    """Largest resident size of the process."""


def example_layer(outputs: int, inputs: int, seed: int = 0) -> tuple[Layer, Doubles]:
    """Return a layer, and the Gram matrix of other inputs.

    Weights have heavy tails and some large columns, inputs are correlated (a random mixture of as many sources as
    inputs, with falling strengths) and one in 64 is ten times as large.
    """
    rng = np.random.default_rng(seed)
    weights = rng.standard_t(5, (outputs, inputs)).astype(np.float32)
    weights[:, rng.permutation(inputs)[: inputs // 64]] *= 8
    mixture = rng.standard_normal((inputs, inputs), np.float32)
    mixture *= (np.arange(1, inputs + 1, dtype=np.float32) ** -0.5)[:, None]
    mixture[:, rng.permutation(inputs)[: inputs // 64]] *= 10
    grams = [_gram(rng, mixture, 2 * inputs) for _ in range(2)]
    return Layer(weights, grams[0]), grams[1]


def _gram(rng: np.random.Generator, mixture: np.ndarray[Any, Any], count: int) -> Doubles:
    total = np.zeros(mixture.shape)
    for _ in range(0, count, 1024):
        rows = rng.standard_normal((1024, len(mixture)), np.float32) @ mixture
        total += rows.T @ rows
    return total / count


def measure(inputs: int, outputs: int, bits: int, group: int) -> list[Row]:
    """Run every method in a fresh process."""
    return [_in_process(name, inputs, outputs, bits, group) for name in _METHODS]


def _in_process(name: str, inputs: int, outputs: int, bits: int, group: int) -> Row:
    sizes = ["--inputs", inputs, "--outputs", outputs, "--bits", bits, "--group", group]
    command = [sys.executable, "-m", "whet.tools.bench.gptq", "--only", name, *map(str, sizes)]
    usage: Usage = watch(command)
    if usage.code:
        raise RuntimeError(f"'{name}' ended with exit code {usage.code}:\n{usage.errors}")
    return Row(name, **json.loads(usage.output), bytes=usage.own)


def _run_one(name: str, inputs: int, outputs: int, bits: int, group: int) -> dict[str, float]:
    layer, other = example_layer(outputs, inputs)
    start = time.perf_counter()
    found = _METHODS[name](layer, bits, group)
    seconds = time.perf_counter() - start
    error = layer.error(found)
    held_out = Layer(layer.weights, other).error(found)
    return {"seconds": seconds, "error": error, "held_out": held_out}


def _table(rows: Sequence[Row], title: str) -> Table:
    table = Table(title=title)
    for column in ("method", "seconds", "peak memory", "output error", "on other inputs"):
        table.add_column(column, justify="left" if column == "method" else "right")
    for row in rows:
        numbers = (f"{row.seconds:.1f}", f"{row.bytes / 1e9:.2f} GB", f"{row.error:.2e}")
        table.add_row(row.method, *numbers, f"{row.held_out:.2e}")
    table.caption = "peak memory: largest resident size of the whole process, the layer included"
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its table; return 1 if GPTQ is over its limits or not better than the nearest."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=4096)
    parser.add_argument("--outputs", type=int, default=4096)
    parser.add_argument("--bits", type=int, default=4)
    parser.add_argument("--group", type=int, default=128, help="inputs per scale (128)")
    parser.add_argument("--only", choices=list(_METHODS), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="store the numbers in this file")
    options = parser.parse_args(argv)
    sizes = (options.inputs, options.outputs, options.bits, options.group)
    if options.only is not None:
        print(json.dumps(_run_one(options.only, *sizes)))
        return 0
    rows = measure(*sizes)
    title = f"{sizes[1]} x {sizes[0]} weights, {sizes[2]} bits, one scale per {sizes[3]} inputs"
    Console().print(_table(rows, title))
    if options.json is not None:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows]) + "\n")
    found = {row.method: row for row in rows}
    slow = found["gptq"].seconds > LIMIT_SECONDS or found["gptq"].bytes > LIMIT_BYTES
    return int(slow or found["gptq"].error >= found["nearest"].error)


if __name__ == "__main__":
    sys.exit(main())
