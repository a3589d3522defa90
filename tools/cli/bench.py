"""``whet bench``: models side by side."""

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape

from whet.printing import new_table, titled
from whet.tools.cli import options
from whet.tools.cli.arguments import read_bindings
from whet.tools.cli.console import print_json, progress, results

if TYPE_CHECKING:
    from whet.tools.benchmark import Measured

__all__ = ["register"]

_EXAMPLES = """
[bold]Example[/]

whet bench model.onnx out --bind batch=8 --threads 2
"""

Models = Annotated[
    list[str],
    typer.Argument(metavar="A [B …]", help="Models or artifact folders.", show_default=False),
]
BenchThreads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Threads for all of them; without it, artifacts use their own setting.",
    ),
]
Rounds = Annotated[int, typer.Option(metavar="N", min=1, help="Alternating blocks for each model.")]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bench", epilog=_EXAMPLES)(_command)


def _command(
    models: Models,
    target: options.Target = "onnxruntime",
    feeds: options.Feeds = None,
    bind: options.Bind = [],  # noqa: B006 (typer makes a new list for each call)
    threads: BenchThreads = None,
    rounds: Rounds = 7,
    seed: options.Seed = 0,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Measure latency, size, load time and peak memory: one process each, in alternating blocks.

    Ratios are to the first model. All run on the same inputs, those of the first binding.
    """
    from whet.backends.base import find_target
    from whet.tools.benchmark import Settings, benchmark
    from whet.tools.subjects import read_subject

    find_target(target)
    settings = Settings(target, threads, rounds, seed, feeds, read_bindings(bind))
    with progress() as show, tempfile.TemporaryDirectory(prefix="whet-bench-") as scratch:
        subjects = []
        for text in models:
            show(f"read {text}")
            subjects.append(read_subject(text, Path(scratch), trust=trust))
        rows = benchmark(subjects, settings, show)
    if json:
        print_json({"schema": 1, "models": [dataclasses.asdict(row) for row in rows]})
        return
    results().print(_table(rows))


def _table(rows: list["Measured"]) -> Group:
    table = new_table()
    table.add_column("model", overflow="fold")
    for name in ("median (quartiles)", "ratio", "bytes", "ratio", "load", "peak memory"):
        table.add_column(name, justify="right")
    first = rows[0]
    for label, row in zip(_short([row.label for row in rows]), rows, strict=True):
        table.add_row(
            escape(label),
            str(row.time),
            f"{row.time.median / first.time.median:.3f}",
            f"{row.bytes:,}",
            f"{row.bytes / first.bytes:.3f}",
            f"{row.load_seconds * 1e3:.0f} ms",
            f"{row.peak_bytes / 1e6:,.0f} MB",
        )
    return titled(f"Inputs: {rows[0].inputs}", table)


def _short(labels: list[str]) -> list[str]:
    """Return the labels without their folders where that keeps them apart."""
    names = [Path(label).name for label in labels]
    return names if len(set(names)) == len(names) else labels
