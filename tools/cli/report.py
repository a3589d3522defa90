"""``whet report``: the page of an artifact, or of two side by side."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from whet.tools.cli import options
from whet.tools.cli.console import print_json, progress, results

__all__ = ["register"]

_EXAMPLES = """
[bold]Examples[/]

whet report out

whet report out --profile --source model.onnx

whet report out-small out-fast -o comparison.html
"""

First = Annotated[Path, typer.Argument(metavar="DIR", help="Artifact folder.", show_default=False)]
Second = Annotated[
    Path | None,
    typer.Argument(metavar="[DIR]", help="Another one to compare with.", show_default=False),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="Where the page goes: report.html in DIR, or comparison.html here.",
    ),
]
Profile = Annotated[
    bool,
    typer.Option(
        "--profile", help="Profile the operators first, and keep what was seen in report.json."
    ),
]
Source = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        help="What DIR was compiled from, to be profiled too; MODEL as for compile.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("report", epilog=_EXAMPLES)(_command)


def _command(
    folder: First,
    other: Second = None,
    output: Output = None,
    profile: Profile = False,
    source: Source = None,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Render the page of an artifact from its report.json: what was done, what it cost, what it gained.

    With two artifacts: one page that holds them against each other.
    """
    from whet.errors import UsageError
    from whet.tools.report.profiling import add_profile
    from whet.tools.report.render import read_report, render, render_comparison, write_page

    if source is not None and not profile:
        raise UsageError("--source says what to profile: it needs --profile")
    folders = [folder] if other is None else [folder, other]
    with progress() as show:
        if profile:
            for path in folders:
                show(f"profile {path}")
                add_profile(path, source, trust=trust)
        records = [read_report(path) for path in folders]
        show("render")
        if other is None:
            inside = folder if folder.is_dir() else folder.parent
            page = write_page(render(records[0]), output or inside / "report.html")
        else:
            names = _names(folder, other)
            text = render_comparison(list(zip(names, records, strict=True)))
            page = write_page(text, output or Path("comparison.html"))
    if json:
        print_json({"schema": 1, "page": str(page), "bytes": page.stat().st_size})
        return
    results().print(f"written to [bold]{escape(str(page))}[/]", soft_wrap=True)


def _names(one: Path, other: Path) -> tuple[str, str]:
    """Return the folders' names, or as much of the paths as tells them apart."""
    names = one.resolve().name, other.resolve().name
    return names if names[0] != names[1] else (str(one), str(other))
