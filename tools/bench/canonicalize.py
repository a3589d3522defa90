"""Canonicalize a large graph: time and nodes, whet against OnnxSlim.

``python -m whet.tools.bench.canonicalize [--nodes 2000] [--rounds 5]``
"""

import argparse
import copy
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
from rich.console import Console
from rich.table import Table

from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun, Executor
from whet.ir.prepare import normalize
from whet.ir.values import Array
from whet.passes.pipeline import Pipeline
from whet.passes.recipes import canonical
from whet.passes.workbench import Context
from whet.tools.bench.exported_graph import exported_graph

__all__ = ["Contender", "Row", "contenders", "main", "measure"]

SIZES = ({"batch": 2, "seq": 5}, {"batch": 3, "seq": 7})


@dataclasses.dataclass(frozen=True)
class Contender:
    """A tool under its name: a model goes in, a smaller model comes out."""

    name: str
    run: Callable[[onnx.ModelProto], onnx.ModelProto]


@dataclasses.dataclass
class Row:
    """What one contender did over all rounds."""

    name: str
    seconds: list[float]
    nodes: int = 0
    error: str = ""


def with_whet(model: onnx.ModelProto, *, prove: bool) -> onnx.ModelProto:
    """Prepare, canonicalize, and return the result as a protobuf again."""
    ready = normalize(onnx_ir.serde.deserialize_model(model))
    context = Context(bindings=Bindings(SIZES), prove=prove)
    done, _ = Pipeline((canonical(),)).run(ready, context)
    return onnx_ir.serde.serialize_model(done)


def with_onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    """Run OnnxSlim with its defaults."""
    import onnxslim

    slimmed = onnxslim.slim(model)
    assert isinstance(slimmed, onnx.ModelProto)
    return slimmed


def contenders() -> tuple[Contender, ...]:
    """Return who takes part, in the order of the table."""
    return (
        Contender("OnnxSlim", with_onnxslim),
        Contender("whet, proof off", lambda model: with_whet(model, prove=False)),
        Contender("whet, proof on", lambda model: with_whet(model, prove=True)),
    )


def measure(model: onnx.ModelProto, entries: tuple[Contender, ...], rounds: int) -> list[Row]:
    """Time every contender ``rounds`` times, forwards and backwards in turn, after one run that does not count."""
    rows = {entry.name: Row(entry.name, []) for entry in entries}
    feeds = [_feeds(model, sizes) for sizes in SIZES]
    wanted = [_outputs(model, feed) for feed in feeds]
    for entry in entries:
        result = entry.run(copy.deepcopy(model))
        rows[entry.name].nodes = len(result.graph.node)
        rows[entry.name].error = _difference(result, feeds, wanted)
    for turn in range(rounds):
        for entry in entries if turn % 2 == 0 else reversed(entries):
            fresh = copy.deepcopy(model)
            start = time.perf_counter()
            entry.run(fresh)
            rows[entry.name].seconds.append(time.perf_counter() - start)
    return list(rows.values())


def _feeds(model: onnx.ModelProto, sizes: dict[str, int]) -> dict[str, Array]:
    binding = Bindings((sizes,))
    return binding.feeds(onnx_ir.serde.deserialize_model(model), 0)


def _outputs(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    return Executor(model).run(feeds)


def _difference(
    model: onnx.ModelProto, feeds: list[dict[str, Array]], wanted: list[list[Array]]
) -> str:
    """Say how the outputs compare with those of the original."""
    worst = 0.0
    for feed, outputs in zip(feeds, wanted, strict=True):
        try:
            found = _outputs(model, feed)
        except CannotRun as error:
            return f"does not run: {error}"
        for old, new in zip(outputs, found, strict=True):
            if old.shape != new.shape:
                return f"shape {new.shape} instead of {old.shape}"
            if old.tobytes() != new.tobytes():
                difference = new.astype(np.float64) - old.astype(np.float64)
                worst = max(worst, float(np.abs(difference).max()))
    return "bit-identical" if worst == 0.0 else f"differ by {worst:.1e}"


def _table(model: onnx.ModelProto, rows: list[Row]) -> Table:
    table = Table(title=f"Canonicalization of {len(model.graph.node)} nodes")
    for name in ("tool", "median", "spread", "nodes", "outputs"):
        table.add_column(name, justify="left" if name in {"tool", "outputs"} else "right")
    for row in rows:
        times = [1000 * second for second in row.seconds]
        spread = f"{min(times):.0f} to {max(times):.0f} ms"
        median = f"{statistics.median(times):.0f} ms"
        table.add_row(row.name, median, spread, str(row.nodes), row.error)
    return table


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="store the numbers in this file")
    options = parser.parse_args(argv)
    model = exported_graph(options.nodes)
    rows = measure(model, contenders(), options.rounds)
    Console().print(_table(model, rows))
    if options.json is not None:
        options.json.write_text(json.dumps([dataclasses.asdict(r) for r in rows], indent=1) + "\n")
    return 0


if __name__ == "__main__":
    main()
