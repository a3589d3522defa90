"""Where the seconds of a compile go.

``python -m whet.tools.bench.compile_time [--quick] [--json FILE]``: a residual network, a sentence encoder of the size
of MiniLM (random weights; needs torch and transformers) and an exported graph of 2,000 nodes, recipe ``exact``.
"""

import argparse
import contextlib
import dataclasses
import functools
import importlib
import json
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from rich.console import Console
from rich.table import Table

import whet
from whet.report import Report
from whet.tools.bench.exported_graph import exported_graph
from whet.tools.bench.residual_network import residual_network

__all__ = ["main", "profile"]

_PLACES = {
    "capture": "whet.preparation.capture",
    "  raise the opset": "whet.ir.capture.raise_opset",
    "normalize": "whet.preparation.normalize",
    "find bindings": "whet.job.find_bindings",
    "run the source": "whet.job.record",
    "run the result": "whet.realizing.record",
    "proofs (inside the passes)": "whet.passes.proof.Prover.check",
    "lower": "whet.backends.onnxruntime.OnnxRuntime.lower",
    "digests": "whet.manifest.digest",
    "count runtime fusions": "whet.reporting.runtime_fusions",
    "start processes and load": "whet.backends.worker.Worker._start",
}
"""What is timed -> where the function is looked up when it is called."""


@dataclasses.dataclass
class Profile:
    """One compile."""

    name: str
    nodes: int = 0
    seconds: float = 0.0
    parts: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    passes: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    skipped: str = ""


def profile(name: str, source: Callable[[], tuple[object, dict[str, Any]]]) -> Profile:
    """Compile once with a stopwatch on every part; a source that needs what is not installed is skipped."""
    found = Profile(name)
    try:
        model, options = source()
    except ImportError as error:
        found.skipped = str(error)
        return found
    with _stopwatch(found.parts), tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        output = Path(folder) / "artifact"
        artifact = whet.compile(model, recipe="exact", measure=False, output=output, **options)
        found.seconds = time.perf_counter() - start
    assert isinstance(artifact.report, Report)
    found.nodes = artifact.report.before.ops
    found.passes = {step.name: step.seconds for step in artifact.report.steps}
    return found


@contextlib.contextmanager
def _stopwatch(parts: dict[str, float]) -> Generator[None]:
    with contextlib.ExitStack() as stack:
        for label, place in _PLACES.items():
            stack.enter_context(mock.patch(place, _timed(_look_up(place), label, parts)))
        yield


def _look_up(place: str) -> Callable[..., Any]:
    """Return the function at a dotted place, in a module or in a class of one."""
    holder, _, name = place.rpartition(".")
    module, _, cls = holder.rpartition(".")
    home: object
    if cls[0].isupper():
        home = getattr(importlib.import_module(module), cls)
    else:
        home = importlib.import_module(holder)
    found: Callable[..., Any] = getattr(home, name)
    return found


def _timed(function: Callable[..., Any], label: str, parts: dict[str, float]) -> Callable[..., Any]:
    parts[label] = 0.0

    @functools.wraps(function)
    def run(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*arguments, **named)
        finally:
            parts[label] += time.perf_counter() - start

    return run


def _sentence_encoder() -> tuple[object, dict[str, Any]]:
    import torch

    transformers = importlib.import_module("transformers")
    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    )
    ids = torch.randint(1000, 20000, (2, 16))
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    free = {name: {0: "batch", 1: "seq"} for name in inputs}
    return transformers.BertModel(config).eval(), {"inputs": inputs, "dynamic_shapes": free}


def _table(found: Sequence[Profile]) -> Table:
    table = Table(title="Seconds of a compile, recipe exact, measuring off")
    table.add_column("part")
    for one in found:
        table.add_column(f"{one.name}\n{one.nodes:,} nodes", justify="right")
    table.add_row("whole", *(f"{one.seconds:.2f}" for one in found), end_section=True)
    for label in _PLACES:
        table.add_row(label, *(f"{one.parts.get(label, 0.0):.2f}" for one in found))
    totals = [sum(one.passes.values()) for one in found]
    table.add_row("all passes", *(f"{total:.2f}" for total in totals), end_section=True)
    names = sorted({name for one in found for name in one.passes})
    names.sort(key=lambda name: -max(one.passes.get(name, 0.0) for one in found))
    for name in names[:12]:
        table.add_row(f"  {name}", *(f"{one.passes.get(name, 0.0):.2f}" for one in found))
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a graph of 600 nodes")
    parser.add_argument("--json", type=Path, help="store the numbers in this file")
    options = parser.parse_args(argv)
    nodes = 600 if options.quick else 2000
    found = [
        profile("residual network", lambda: (residual_network(), {})),
        profile("sentence encoder", _sentence_encoder),
        profile("exported graph", lambda: (exported_graph(nodes), {})),
    ]
    console = Console()
    console.print(_table([one for one in found if not one.skipped]))
    for one in found:
        if one.skipped:
            console.print(f"{one.name}: skipped: {one.skipped}", markup=False)
    if options.json is not None:
        text = json.dumps([dataclasses.asdict(one) for one in found], indent=1)
        options.json.write_text(text + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
