"""Hold what whet fuses against what is there and against what ONNX Runtime's transformer optimizer fuses.

``python -m whet.tools.sweep.fusion [NAME …]``: every architecture of the zoo that has an attention, a norm or a smooth
activation, from three exporters. *Present* is what the eager module executes; ONNX Runtime's optimizer is told the
right model type; whet runs the ``exact`` recipe. Whatever is left comes with the reason that a pass gave.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx_ir
from rich.console import Console
from rich.markup import escape
from rich.progress import track

from whet.printing import new_table
from whet.tools.sweep.children import gather, quiet, serve
from whet.tools.sweep.fused import KINDS, count_fused, explain

__all__ = ["Row", "check_fusion", "main"]

_EXPORTERS = ("dynamo-23", "dynamo-18", "torchscript-17")


@dataclasses.dataclass
class Row:
    """One architecture from one exporter; counts are by kind."""

    name: str
    exporter: str
    present: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    theirs: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    """Empty where ONNX Runtime's optimizer failed."""
    ours: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    reasons: list[str] = dataclasses.field(default_factory=list[str])
    """Why each of those left is left."""
    silent: int = 0
    """How many are left without a reason."""
    note: str = ""
    """What the exporter or ONNX Runtime's optimizer stumbled over."""
    failure: str = ""
    """What whet stumbled over."""

    @property
    def behind(self) -> list[str]:
        """Return the kinds of which ONNX Runtime's optimizer fuses more."""
        if not self.ours:
            return []
        return [kind for kind in KINDS if self.ours[kind] < self.theirs.get(kind, 0)]

    @property
    def left(self) -> dict[str, int]:
        """Return how many of each kind are present and not fused by whet."""
        return {kind: max(0, self.present[kind] - self.ours[kind]) for kind in KINDS}

    @property
    def good(self) -> bool:
        """Tell whether nothing is left unexplained and nobody fuses more."""
        return not (self.failure or self.silent or self.behind)


def check_fusion(name: str, exporter: str, prove: bool = True) -> Row:
    """Export one architecture one way, fuse it with both, and count; failures end up in the row."""
    row = Row(name, exporter)
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            _check(row, Path(folder), prove)
    except Exception as problem:
        row.failure = _sentence(problem)
    return row


def _check(row: Row, folder: Path, prove: bool) -> None:
    from whet.tools.sweep.exporters import EXPORTERS
    from whet.tools.sweep.peer_fusion import fused_by_onnxruntime
    from whet.tools.sweep.presence import present
    from whet.tools.sweep.zoo import architecture

    sample = architecture(row.name).build()
    row.present = present(sample)
    if not any(row.present.values()):
        return
    path = folder / "source.onnx"
    try:
        EXPORTERS[row.exporter](sample, path)
    except Exception as problem:
        row.note = f"the exporter fails: {_sentence(problem)}"
        return
    try:
        row.theirs = fused_by_onnxruntime(path, row.name, sample)
    except Exception as problem:
        row.note = f"ONNX Runtime's optimizer fails: {_sentence(problem)}"
    model, steps = _fuse(path, sample, folder, prove)
    row.ours = count_fused(model)
    row.reasons, row.silent = explain(model, steps, row.left)


def _fuse(path: Path, sample: Any, folder: Path, prove: bool) -> tuple[onnx_ir.Model, Any]:
    """Run the exact recipe, which ends in the canonical form; no runtime's own operators are chosen."""
    from whet.backends.base import RuntimeOptions, find_target
    from whet.backends.probe import find_bindings
    from whet.passes.pipeline import Pipeline
    from whet.passes.recipes import exact
    from whet.passes.workbench import Context
    from whet.preparation import prepare

    prepared = prepare(path, folder=folder)
    runner = find_target("onnxruntime").open(path, RuntimeOptions(1, "none"))
    values = [tensor.numpy() for tensor, _ in sample.axes()]
    names = sample.kwargs or runner.inputs
    examples = {n: v for n, v in zip(names, values, strict=False) if n in runner.inputs}
    bindings = find_bindings(prepared.model, runner, examples)
    context = Context(bindings=bindings, threads=1, prove=prove)
    return Pipeline((exact(),)).run(prepared.model, context)


def _sentence(problem: Exception) -> str:
    text = " ".join(f"{type(problem).__name__}: {problem}".split())
    return text if len(text) <= 300 else text[:300] + " …"


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; 1 if something is left without a reason or ONNX Runtime's optimizer fuses more."""
    parser = argparse.ArgumentParser(prog="python -m whet.tools.sweep.fusion", description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures (default: all)")
    parser.add_argument("--exporter", choices=_EXPORTERS, help="this one only")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--no-prove", action="store_true", help="make rewrites without proof")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.serve:
        serve(options.names, lambda item: _answer(item, not options.no_prove))
        return 0
    from whet.tools.sweep.zoo import architecture, architectures

    names = [architecture(name).name for name in options.names]
    names = names or [a.name for a in architectures()]
    exporters = [options.exporter] if options.exporter else list(_EXPORTERS)
    items = [f"{name}@{exporter}" for name in names for exporter in exporters]
    flags = ["--no-prove"] if options.no_prove else []
    rows = sorted(_rows(items, flags, options.jobs), key=lambda r: items.index(_item(r)))
    _show([row for row in rows if row.failure or any(row.present.values())])
    if options.json is not None:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    return int(not all(row.good for row in rows))


def _answer(item: str, prove: bool) -> dict[str, Any]:
    name, _, exporter = item.partition("@")
    return dataclasses.asdict(check_fusion(name, exporter, prove))


def _item(row: Row) -> str:
    return f"{row.name}@{row.exporter}"


def _rows(items: Sequence[str], flags: Sequence[str], jobs: int) -> Iterator[Row]:
    answers = gather("whet.tools.sweep.fusion", items, flags, jobs)
    for item, data in track(answers, "fusing", len(items), console=Console(stderr=True)):
        name, _, exporter = item.partition("@")
        yield Row(name, exporter, failure="the process died") if data is None else Row(**data)


def _show(rows: Sequence[Row]) -> None:
    console = Console(width=130)
    table = new_table()
    for head in ("architecture", "exporter"):
        table.add_column(head, no_wrap=True)
    for kind in KINDS:
        table.add_column(f"{kind}\npresent / ORT / whet", justify="right")
    table.add_column("left", justify="right")
    for row in rows:
        table.add_row(row.name, row.exporter, *_cells(row))
    console.print(table)
    for row in rows:
        for line in _remarks(row):
            console.print(f"{row.name} {row.exporter}: {line}", markup=False, highlight=False)
    console.print(_totals(rows))


def _cells(row: Row) -> list[str]:
    if row.failure or not row.ours:
        return [escape("failed" if row.failure else "not exported")] + [""] * len(KINDS)
    cells = [
        f"{row.present[kind]} / {row.theirs.get(kind, '-')} / {row.ours[kind]}" for kind in KINDS
    ]
    return [*cells, f"{sum(row.left.values()) or ''}"]


def _remarks(row: Row) -> list[str]:
    behind = [f"ONNX Runtime's optimizer fuses more of kind {kind}" for kind in row.behind]
    said = [text for text in (row.failure, row.note) if text]
    counted = {reason: row.reasons.count(reason) for reason in row.reasons}
    return [*said, *behind, *(f"{n} x {reason}" for reason, n in counted.items())]


def _totals(rows: Sequence[Row]) -> str:
    lines: list[str] = []
    for exporter in _EXPORTERS:
        part = [row for row in rows if row.exporter == exporter and row.ours]
        sums = [
            f"{kind} {_sum(part, 'present', kind)} / {_sum(part, 'theirs', kind)} / {_sum(part, 'ours', kind)}"
            for kind in KINDS
        ]
        if part:
            lines.append(
                f"{exporter}: {len(part)} graphs; present / ORT / whet: {', '.join(sums)}; "
                f"{sum(row.silent for row in part)} left without a reason"
            )
    return "\n".join(lines)


def _sum(rows: Sequence[Row], which: str, kind: str) -> int:
    counts: list[Mapping[str, int]] = [getattr(row, which) for row in rows]
    return sum(count.get(kind, 0) for count in counts)


if __name__ == "__main__":
    sys.exit(main())
