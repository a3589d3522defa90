"""``whet diff``: how far two models are apart."""

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape

from whet.printing import new_table
from whet.tools.cli import options
from whet.tools.cli.arguments import read_bindings
from whet.tools.cli.console import print_json, progress, results

if TYPE_CHECKING:
    from whet.tools.difference import Difference, Divergence

__all__ = ["register"]

_EXAMPLES = """
[bold]Examples[/]

whet diff model.onnx out

whet diff model.onnx int8.onnx --feeds samples.npz --tolerance 0.02
"""

First = Annotated[str, typer.Argument(metavar="A", help="Model or artifact folder.")]
Second = Annotated[str, typer.Argument(metavar="B", help="Model or artifact folder.")]
Tolerance = Annotated[
    float,
    typer.Option(metavar="X", min=0.0, help="Largest accepted relative error, ||b - a|| / ||a||."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("diff", epilog=_EXAMPLES)(_command)


def _command(
    first: First,
    second: Second,
    tolerance: Tolerance = 1e-5,
    feeds: options.Feeds = None,
    bind: options.Bind = [],  # noqa: B006 (typer makes a new list for each call)
    seed: options.Seed = 0,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Compare outputs on the same inputs; name the first intermediate value where A and B part.

    Without --feeds the inputs are drawn at random, at two sizes of every dynamic dimension. Exit code 0 when
    every output is within the tolerance, 1 when not.
    """
    from whet.tools.difference import find_difference, find_divergence
    from whet.tools.subjects import read_subject

    with progress() as show, tempfile.TemporaryDirectory(prefix="whet-diff-") as scratch:
        a, b = (read_subject(text, Path(scratch), trust=trust) for text in (first, second))
        sizes = read_bindings(bind)
        found = find_difference(a, b, feeds=feeds, sizes=sizes, seed=seed, progress=show)
        same = found.within(tolerance)
        parting = None
        if not same:
            show("find the first value that differs")
            parting = find_divergence(a, b, found.worst_inputs, tolerance)
    if json:
        print_json(_plain(found, parting, tolerance))
    else:
        _print(found, parting, tolerance, results())
    if not same:
        raise typer.Exit(1)


def _plain(
    found: "Difference", parting: "Divergence | None", tolerance: float
) -> dict[str, object]:
    return {
        "schema": 1,
        "tolerance": tolerance,
        "within": found.within(tolerance),
        "outputs": [dataclasses.asdict(gap) for gap in found.gaps],
        "unmatched": list(found.unmatched),
        "first_divergence": None if parting is None else dataclasses.asdict(parting),
    }


def _print(
    found: "Difference", parting: "Divergence | None", tolerance: float, console: Console
) -> None:
    table = new_table()
    table.add_column("output", overflow="fold")
    table.add_column("inputs", overflow="fold")
    for name in ("relative error", "max |b - a|", "cosine"):
        table.add_column(name, justify="right")
    for gap in found.gaps:
        style = "" if gap.relative_error <= tolerance else "red"
        table.add_row(
            escape(gap.output),
            escape(gap.inputs),
            f"{gap.relative_error:.2e}",
            f"{gap.max_abs:.2e}",
            f"{gap.cosine:.6f}",
            style=style,
        )
    console.print(table)
    console.print()
    for name in found.unmatched:
        console.print(f"[red]only one model has the output[/] {escape(name)}")
    if parting is None:
        console.print(f"the same within {tolerance:g}")
    else:
        console.print(f"[red]different[/] (tolerance {tolerance:g})")
        console.print(_words(parting), soft_wrap=True)


def _words(parting: "Divergence") -> str:
    if not parting.shared:
        return "no intermediate values have a name in common, so none can be compared"
    if not parting.value:
        return (
            f"all {parting.shared} values with a name in common agree when the runtime's own "
            "optimizations are off"
        )
    return (
        f"first value that differs, of {parting.shared} with a name in common: "
        f"'{escape(parting.value)}' ({parting.op_type} '{escape(parting.node)}'), "
        f"relative error {parting.relative_error:.2e}"
    )
