"""Run the benchmarks in turn: ``python -m whet.tools.bench [NAME …] [--quick] [--json FILE]``."""

import argparse
import dataclasses
import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from whet.tools.bench.environment import environment

__all__ = ["main"]


@dataclasses.dataclass(frozen=True)
class _Benchmark:
    """A module with ``main(argv)``, and the arguments that make it short."""

    module: str
    quick: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return what it is called on the command line."""
        return self.module.rpartition(".")[2].replace("_", "-")


_ALL = (
    _Benchmark("whet.tools.bench.canonicalize", ("--nodes", "600", "--rounds", "3")),
    _Benchmark("whet.tools.bench.quantization", ("--only", "resnet20")),
    _Benchmark("whet.tools.bench.mixtures", ("--plans", "10", "--sizes", "18")),
    _Benchmark(
        "whet.tools.bench.sparsity",
        ("--images", "256", "--shares", "0.5", "--only", "magnitude", "Gram OBS"),
    ),
    _Benchmark("whet.tools.bench.calibration", ("--images", "64", "--rounds", "3")),
    _Benchmark("whet.tools.bench.peers", ("--networks", "1")),
    _Benchmark("whet.tools.bench.stories", ("--judge", "16")),
    _Benchmark("whet.tools.bench.attention_bias", ("--quick",)),
    _Benchmark("whet.tools.bench.gptq", ("--inputs", "1024", "--outputs", "1024")),
    _Benchmark("whet.tools.bench.super_resolution", ("--images", "1")),
    _Benchmark("whet.tools.bench.compile_time", ("--quick",)),
    _Benchmark("whet.tools.bench.memory", ("--gigabytes", "1.2")),
)
"""In the order in which they run; what is not installed is skipped with the reason."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run them, print their tables under the environment they ran in; return 1 if one failed."""
    known = {benchmark.name: benchmark for benchmark in _ALL}
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(known)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--json", type=Path, help="store all numbers in this file")
    options = parser.parse_args(argv)
    unknown = [name for name in options.names if name not in known]
    if unknown:
        parser.error(f"unknown benchmark '{unknown[0]}'; known: {', '.join(known)}")
    console = Console()
    console.print(_header())
    results: dict[str, Any] = {"environment": environment(), "benchmarks": {}}
    codes: list[int] = []
    for name in options.names or known:
        console.rule(name)
        code, found = _run(known[name], options.quick, console)
        results["benchmarks"][name] = found
        codes.append(code)
        if options.json is not None:
            options.json.write_text(json.dumps(results, indent=1) + "\n")
    return int(any(codes))


def _run(benchmark: _Benchmark, quick: bool, console: Console) -> tuple[int, Any]:
    """Run one benchmark in this process; return its exit code and its numbers."""
    try:
        module = importlib.import_module(benchmark.module)
    except ImportError as error:
        console.print(f"skipped: {error}", markup=False)
        return 0, {"skipped": str(error)}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "result.json"
        arguments = [*(benchmark.quick if quick else ()), "--json", str(file)]
        try:
            code = int(module.main(arguments) or 0)
        except ImportError as error:
            console.print(f"skipped: {error}", markup=False)
            return 0, {"skipped": str(error)}
        found = json.loads(file.read_text()) if file.is_file() else {"skipped": "see its output"}
    return code, found


def _header() -> Table:
    table = Table(title="Environment", show_header=False)
    for key, value in environment().items():
        table.add_row(key, str(value))
    return table


if __name__ == "__main__":
    sys.exit(main())
