"""``whet doctor``: what this machine can do, and what stands in the way of a model."""

import dataclasses
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from whet.printing import new_table, titled
from whet.tools.cli import options
from whet.tools.cli.console import print_json, progress, results

if TYPE_CHECKING:
    from whet.tools.environment import Environment
    from whet.tools.examination import Examination

__all__ = ["register"]

_EXAMPLES = """
[bold]Examples[/]

whet doctor

whet doctor model.onnx
"""
_ROWS = 10

Patient = Annotated[
    str | None,
    typer.Argument(metavar="[MODEL]", help="A model to look at as well.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("doctor", epilog=_EXAMPLES)(_command)


def _command(
    model: Patient = None, trust: options.Trust = False, json: options.Json = False
) -> None:
    """Look at the machine and the installation, and tell what a model's compile needs and could gain.

    Nothing is measured and nothing is written.
    """
    from whet.tools.environment import look_around
    from whet.tools.examination import examine

    around = look_around()
    found = None
    if model is not None:
        with progress() as show:
            found = examine(model, show, trust=trust)
    if json:
        plain = None if found is None else dataclasses.asdict(found)
        print_json({"schema": 1, "environment": dataclasses.asdict(around), "model": plain})
        return
    console = results()
    _print_environment(around, console)
    if found is not None:
        _print_model(found, console)


def _print_environment(around: "Environment", console: Console) -> None:
    table = new_table()
    table.add_column("", no_wrap=True)
    table.add_column("", overflow="fold")
    memory = f"{around.memory / 1e9:.1f} GB, {around.available_memory / 1e9:.1f} GB available"
    units = ", ".join(around.instruction_sets[1:]) or "none that integer kernels depend on"
    rows = {
        "whet": f"{around.whet}, {around.passes} passes",
        "python": around.python,
        "system": around.system,
        "vector units": units,
        "cores": f"{around.cores}, usable {around.usable_cores}",
        "memory": memory if around.memory else "the system does not say",
        "runtimes": ", ".join(
            f"{name} ({', '.join(f'{k} {v}' for k, v in versions.items())})"
            for name, versions in around.targets.items()
        ),
        "packages": ", ".join(f"{n} {v}" for n, v in around.packages.items() if v is not None),
        "cache": around.cache + ("" if around.cache_writable else " (cannot be written to)"),
    }
    for name, value in rows.items():
        table.add_row(name, escape(value))
    console.print(titled("This machine", table))
    for name, words in around.missing.items():
        console.print(f"[yellow]missing[/] {name}, {escape(words)}", soft_wrap=True)
    if around.saturates:
        console.print(
            "[yellow]note[/] products of uint8 and int8 can overflow on this processor: "
            "weights are kept to seven bits where they would"
        )


def _print_model(found: "Examination", console: Console) -> None:
    for target, reasons in found.refusals.items():
        for reason in reasons:
            console.print(f"[red]{escape(target)} refuses[/] {escape(reason)}", soft_wrap=True)
    for problem in found.problems:
        console.print(f"[red]problem[/] {escape(problem)}", soft_wrap=True)
    if found.blocked:
        table = new_table()
        table.add_column("pass", no_wrap=True)
        table.add_column("places", justify="right")
        table.add_column("leaves them alone because", overflow="fold")
        for row in found.blocked[:_ROWS]:
            table.add_row(row.name, f"{row.places}", escape(row.reason))
        if len(found.blocked) > _ROWS:
            table.caption = f"{len(found.blocked) - _ROWS} more with --json"
        console.print(titled(f"What holds lossy passes up in {escape(found.origin)}", table))
    share = found.predicted_bytes / found.bytes if found.bytes else 1.0
    console.print(
        f"without data: {found.bytes:,} bytes become about {found.predicted_bytes:,} ({share:.2f}x), "
        f"{found.ops:,} operators {found.predicted_ops:,}; "
        f"formats can be chosen for {found.compressible:,} bytes of weights"
    )
    console.print("\nnext:")
    for command in found.next:
        console.print(f"  {escape(command)}", soft_wrap=True)
