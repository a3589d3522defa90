"""``whet bisect``: which pass, which site breaks a model."""

import dataclasses
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from whet.tools.cli import options
from whet.tools.cli.arguments import read_bindings
from whet.tools.cli.console import print_json, progress, results

if TYPE_CHECKING:
    from whet.passes.pipeline import Step
    from whet.tools.culprit import Culprit, Outcome

__all__ = ["register"]

_EXAMPLES = """
[bold]Example[/]

whet bisect model.onnx --recipe exact --no-verify -o culprit
"""

Output = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="Where the reproducer goes.")
]
Tolerance = Annotated[
    float,
    typer.Option(metavar="X", min=0.0, help="Relative error of an output that counts as broken."),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("bisect", epilog=_EXAMPLES)(_command)


def _command(
    model: options.Model,
    recipe: options.Recipe = "exact",
    target: options.Target = "onnxruntime",
    tolerance: Tolerance = 1e-5,
    output: Output = Path("whet-bisect"),
    bind: options.Bind = [],  # noqa: B006 (typer makes a new list for each call)
    seed: options.Seed = 0,
    no_verify: options.NoVerify = False,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Find the one rewrite after which the outputs are wrong: its pass, its site, a reproducer.

    By default every rewrite is proven first, as in a compile, so what is found has slipped through the proof.
    With --no-verify nothing is refused, which finds what the proof would have held back.

    Exit code 0 when the outputs agree, 1 when a culprit was found.
    """
    from whet.tools.hunting import hunt

    with progress() as show, tempfile.TemporaryDirectory(prefix="whet-bisect-") as scratch:
        outcome, culprit = hunt(
            model,
            recipe=recipe,
            target=target,
            tolerance=tolerance,
            folder=output,
            sizes=read_bindings(bind),
            seed=seed,
            prove=not no_verify,
            trust=trust,
            scratch=Path(scratch),
            progress=show,
        )
    if json:
        print_json(_plain(outcome, culprit))
    else:
        _print(outcome, culprit, tolerance, results())
    if culprit is not None:
        raise typer.Exit(1)


def _plain(outcome: "Outcome", culprit: "Culprit | None") -> dict[str, Any]:
    return {
        "schema": 1,
        "commits": outcome.commits,
        "relative_error": outcome.error,
        "culprit": None if culprit is None else dataclasses.asdict(culprit),
        "refused": [
            {"pass": step.name, **dataclasses.asdict(failure)}
            for step in outcome.steps
            for failure in step.coverage.failures
        ],
    }


def _print(
    outcome: "Outcome", culprit: "Culprit | None", tolerance: float, console: Console
) -> None:
    _print_refused(outcome.steps, console)
    if culprit is None:
        console.print(
            f"nothing breaks: after {outcome.commits} rewrites the outputs differ by "
            f"{outcome.error:.2e}, allowed {tolerance:g}"
        )
        return
    console.print(
        f"[bold red]culprit[/] [bold]{culprit.step}[/] at [bold]{escape(culprit.site)}[/], "
        f"rewrite {culprit.number} of {culprit.total}",
        soft_wrap=True,
    )
    console.print(f"  {escape(culprit.reason)}, relative error {culprit.error:.2e}", soft_wrap=True)
    for sign, lines in (("-", culprit.before), ("+", culprit.after)):
        colour = "red" if sign == "-" else "green"
        for line in lines:
            console.print(f"  [{colour}]{sign} {escape(line)}[/]", soft_wrap=True)
    console.print(f"reproducer: [bold]{escape(culprit.reproducer)}[/]", soft_wrap=True)
    if culprit.refuted:
        console.print(f"  the cut-out subgraph: {escape(culprit.shown)}", soft_wrap=True)
    else:
        console.print("  the cut-out subgraph alone agrees, so the whole models are written")


def _print_refused(steps: "list[Step]", console: Console) -> None:
    for step in steps:
        for failure in step.coverage.failures:
            console.print(
                f"[yellow]the proof refused[/] {step.name} at {escape(failure.site)}: "
                f"{escape(failure.reason)}",
                soft_wrap=True,
            )
