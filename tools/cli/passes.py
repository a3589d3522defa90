"""``whet passes``: every pass."""

import dataclasses
import inspect
import textwrap
import typing
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.markup import escape

from whet.passes.option import allowed_of, expected
from whet.printing import new_table, titled
from whet.tools.cli import completion, options
from whet.tools.cli.console import print_json, results, width

if TYPE_CHECKING:
    from whet.passes.base import Pass

__all__ = ["register"]

_EXAMPLES = """
[bold]Examples[/]

whet passes

whet passes eliminate-identity
"""

Name = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]",
        help="One pass, explained; pkg.mod:Class for one that is not installed.",
        show_default=False,
        autocompletion=completion.passes,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("passes", epilog=_EXAMPLES)(_command)


def _command(name: Name = None, json: options.Json = False) -> None:
    """List every pass: what it does, how faithful it is, its options with their defaults."""
    from whet.passes.registry import all_passes, make_pass

    found = list(all_passes().values()) if name is None else [type(make_pass(name))]
    if json:
        print_json({"schema": 1, "passes": [_plain(cls) for cls in found]})
    elif name is None:
        results().print(_table(found))
    else:
        _explain(found[0])


def _plain(cls: type["Pass"]) -> dict[str, object]:
    step = cls()
    return {
        "name": step.name,
        "fidelity": cls.fidelity.value,
        "summary": step.summary,
        "doc": inspect.getdoc(cls),
        "gated": cls.gated,
        "needs": [analysis.__name__ for analysis in cls.needs],
        "options": [
            {
                "name": f.name,
                "type": _kind(f.type),
                "default": getattr(step, f.name),
                "expected": expected(f),
            }
            for f in cls.fields()
        ],
    }


def _kind(kind: object) -> str:
    if typing.get_origin(kind) is typing.Literal:
        return " | ".join(str(choice) for choice in typing.get_args(kind))
    return kind.__name__ if isinstance(kind, type) else str(kind)


def _options(cls: type["Pass"]) -> list[str]:
    step = cls()
    return [f"{f.name}: {_kind(f.type)} = {getattr(step, f.name)}{_range(f)}" for f in cls.fields()]


def _range(field: "dataclasses.Field[object]") -> str:
    allowed = allowed_of(field)
    return "" if allowed is None else f" ({allowed})"


def _table(found: list[type["Pass"]]) -> Group:
    table = new_table()
    table.add_column("pass", no_wrap=True)
    table.add_column("fidelity", no_wrap=True)
    table.add_column("what it does")
    for cls in found:
        text = escape(" ".join(_plain_words(cls()).split()))
        listed = "".join(f"\n[dim]{escape(option)}[/]" for option in _options(cls))
        table.add_row(cls().name, cls.fidelity.value, text + listed)
    return titled(f"{len(found)} passes", table)


def _plain_words(step: "Pass") -> str:
    return step.summary.replace("``", "")


def _explain(cls: type["Pass"]) -> None:
    console = results()
    gate = "; measured, and taken back if it makes the model larger or slower" if cls.gated else ""
    console.print(f"[bold]{cls().name}[/]  {cls.fidelity.value}{gate}\n")
    for block in (inspect.getdoc(cls) or "").replace("``", "").split("\n\n"):
        console.print(escape(_reflow(block)))
        console.print()
    console.print("[bold]Options[/]")
    for option in _options(cls):
        console.print(f"  {escape(option)}")
    console.print()
    console.print(f"use it: whet compile model.onnx -o out --recipe {cls().name}")


def _reflow(block: str) -> str:
    """Fill a paragraph or a list to the width of the console; leave indented code as it is."""
    if block.startswith("    "):
        return block
    items: list[str] = []
    for line in block.splitlines():
        if items and not line.startswith("- "):
            items[-1] += f" {line.strip()}"
        else:
            items.append(line)
    return "\n".join(
        textwrap.fill(item, width(), subsequent_indent="  " * item.startswith("- "))
        for item in items
    )
