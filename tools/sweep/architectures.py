"""Capture and compile every architecture of the zoo, and show what came out.

Each runs in a child process that is replaced if it dies. Outputs are compared three ways: artifact against source
(both in ONNX Runtime), artifact against eager PyTorch, and the differentiable twin of the artifact's model against
the artifact.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table

from whet.comparison import relative_error
from whet.ir.values import Array
from whet.tools.sweep.children import gather, quiet, serve

__all__ = ["Row", "check_architecture", "main"]

EXACT_LIMIT = 1e-5
TARGET_LIMIT = 1e-4
"""Other runtimes sum in another order than the source's."""
EAGER_LIMIT = 1e-4
"""Eager PyTorch sums in another order than ONNX Runtime; deep networks amplify that."""


@dataclasses.dataclass
class Row:
    """What was seen of one architecture."""

    name: str
    nodes: int = 0
    """Operators captured."""
    canonical: int = 0
    """Operators in the artifact."""
    changed: int = 0
    refused: int = 0
    """Rewrites that their proof refused."""
    unproven: int = 0
    """Rewrites not made because the cut could not be executed."""
    error: float = float("nan")
    eager_error: float = float("nan")
    twin_error: float = float("nan")
    ms_before: float = float("nan")
    ms_after: float = float("nan")
    seconds: float = 0.0
    notes: list[str] = dataclasses.field(default_factory=list[str])
    failure: str = ""
    target: str = "onnxruntime"

    @property
    def good(self) -> bool:
        """Tell whether everything was done and agrees."""
        return not self.failure and self.error <= self.limit

    @property
    def limit(self) -> float:
        """Return the error that the artifact may have against the source."""
        return EXACT_LIMIT if self.target == "onnxruntime" else TARGET_LIMIT


def check_architecture(
    name: str, recipe: str = "exact", measure: bool = True, target: str = "onnxruntime"
) -> Row:
    """Build, compile and compare one architecture; whatever goes wrong becomes the row's failure."""
    row = Row(name, target=target)
    start = time.perf_counter()
    try:
        with quiet(), tempfile.TemporaryDirectory() as folder:
            _check(row, recipe, measure, Path(folder) / "artifact")
    except Exception as problem:
        notes = " ".join(getattr(problem, "__notes__", []))
        row.failure = f"{type(problem).__name__}: {' '.join(str(problem).split())} {notes}"
    row.seconds = time.perf_counter() - start
    return row


def _check(row: Row, recipe: str, measure: bool, folder: Path) -> None:
    import whet
    from whet.tools.sweep.zoo import architecture

    sample = architecture(row.name).build()
    artifact = whet.compile(
        sample.module,
        sample.inputs,
        dynamic_shapes=sample.dynamic_shapes,
        recipe=recipe,
        target=row.target,
        measure=measure,
        threads=2,
        output=folder,
    )
    report = artifact.report
    assert report is not None
    row.nodes, row.canonical = report.before.ops, report.after.ops
    row.changed = sum(s.coverage.changed for s in report.steps)
    row.refused = sum(len(s.coverage.failures) for s in report.steps)
    declined = [reason for s in report.steps for reason in s.coverage.declined.values()]
    row.unproven = sum("cannot be proven" in reason for reason in declined)
    row.error = report.worst_error
    row.notes = list(report.notes)
    if report.before.time is not None and report.after.time is not None:
        row.ms_before, row.ms_after = report.before.time.median, report.after.time.median
    _compare_eager(row, sample, artifact)


def _compare_eager(row: Row, sample: Any, artifact: Any) -> None:
    import torch

    with torch.no_grad():
        eager = _flatten(
            sample.module(**sample.inputs)
            if isinstance(sample.inputs, dict)
            else sample.module(*sample.inputs)
        )
    names = [i["name"] for i in artifact.inputs]
    values = [t.numpy() for t in _flatten(sample.inputs)]
    if isinstance(sample.inputs, dict):
        given = dict(zip(sample.inputs, values, strict=True))
        feeds = {name: given[name] for name in names}
    else:
        feeds = dict(zip(names, values, strict=True))
    found = artifact.run(feeds)
    row.eager_error = _worst([t.numpy() for t in eager], found)
    row.twin_error = _twin_error(artifact.folder / "model.onnx", feeds, found)


def _twin_error(path: Path, feeds: dict[str, Array], expected: Sequence[Array]) -> float:
    import torch

    from whet.ir.files import load_model
    from whet.ir.twin import to_fx

    model = load_model(path)
    twin = to_fx(model)
    with torch.no_grad():
        arguments = [torch.from_numpy(np.array(feeds[v.name or ""])) for v in model.graph.inputs]
        found = [t.numpy() for t in _flatten(twin(*arguments))]
    return _worst(expected, found)


def _worst(expected: Sequence[Array], found: Sequence[Array]) -> float:
    return max(relative_error(e, f)[0] for e, f in zip(expected, found, strict=True))


def _flatten(value: object) -> list[Any]:
    import torch

    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        return [t for v in cast("dict[str, object]", value).values() for t in _flatten(v)]
    if isinstance(value, list | tuple):
        return [t for v in cast("list[object]", value) for t in _flatten(v)]
    return []


def _all(names: Sequence[str], options: argparse.Namespace) -> Iterator[Row]:
    """Yield rows as they come, from ``options.jobs`` processes."""
    console = Console(stderr=True)
    flags = ["--recipe", options.recipe, "--target", options.target]
    flags += ["--no-measure"] if options.no_measure else []
    answers = gather("whet.tools.sweep", names, flags, options.jobs)
    shown = track(answers, "compiling", total=len(names), console=console)
    for name, data in shown if console.is_terminal else answers:
        died = Row(name, failure="the process died", target=options.target)
        row = died if data is None else Row(**data)
        if not console.is_terminal:
            console.print(
                f"{row.name} {row.failure or row.error} {row.seconds:.0f}s", soft_wrap=True
            )
        yield row


def main(arguments: Iterable[str] | None = None) -> int:
    """Run the command; 1 if any architecture fails or differs."""
    parser = argparse.ArgumentParser(prog="python -m whet.tools.sweep", description=__doc__)
    parser.add_argument("names", nargs="*", help="architectures (default: all)")
    parser.add_argument("--recipe", default="exact")
    parser.add_argument("--target", default="onnxruntime")
    parser.add_argument("--no-measure", action="store_true", help="time nothing")
    parser.add_argument("--jobs", type=int, default=1, help="processes; needs --no-measure")
    parser.add_argument("--json", type=Path, help="also write the rows to this file")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(None if arguments is None else list(arguments))
    if options.serve:
        serve(
            options.names,
            lambda name: dataclasses.asdict(
                check_architecture(name, options.recipe, not options.no_measure, options.target)
            ),
        )
        return 0
    if options.jobs > 1 and not options.no_measure:
        parser.error("--jobs needs --no-measure: timings would disturb each other")
    from whet.tools.sweep.zoo import architecture, architectures

    names = [architecture(name).name for name in options.names]
    names = names or [a.name for a in architectures()]
    rows = sorted(_all(names, options), key=lambda row: names.index(row.name))
    _show(rows)
    if options.json is not None:
        options.json.write_text(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    return int(not all(row.good for row in rows))


def _show(rows: Sequence[Row]) -> None:
    console = Console(width=118)
    table = Table(title=f"{len(rows)} architectures", title_justify="left", box=None)
    table.add_column("architecture")
    heads = (
        "captured",
        "canonical",
        "rewrites",
        "refused",
        "open",
        "vs source",
        "vs eager",
        "twin",
    )
    for name in (*heads, "ms before", "after", "ratio", "s"):
        table.add_column(name, justify="right")
    for row in rows:
        if row.failure:
            table.add_row(row.name, "[red]failed[/]", *[""] * 10, f"{row.seconds:.0f}")
            continue
        table.add_row(
            row.name,
            f"{row.nodes}",
            f"{row.canonical}",
            f"{row.changed}",
            f"{row.refused}",
            f"{row.unproven}",
            f"{row.error:.0e}",
            f"{row.eager_error:.0e}",
            f"{row.twin_error:.0e}",
            f"{row.ms_before:.2f}",
            f"{row.ms_after:.2f}",
            f"{row.ms_after / row.ms_before:.2f}",
            f"{row.seconds:.0f}",
        )
    console.print(table)
    for row in rows:
        if row.failure:
            console.print(f"[red]{row.name}[/] {row.failure}", highlight=False)
        for note in row.notes:
            console.print(f"{row.name}: {note}", highlight=False)
    done = [row for row in rows if not row.failure]
    ratios = [r.ms_after / r.ms_before for r in done if r.ms_before > 0]
    limit = max((row.limit for row in rows), default=EXACT_LIMIT)
    console.print(
        f"{len(done)} of {len(rows)} captured and compiled; {sum(r.good for r in rows)} within "
        f"{limit:.0e} of the source; {sum(r.eager_error <= EAGER_LIMIT for r in done)} within "
        f"{EAGER_LIMIT:.0e} of eager PyTorch; twin within {EAGER_LIMIT:.0e}: "
        f"{sum(r.twin_error <= EAGER_LIMIT for r in done)}"
        + (f"; time ratio, geometric mean {np.exp(np.mean(np.log(ratios))):.3f}" if ratios else "")
    )


if __name__ == "__main__":
    sys.exit(main())
