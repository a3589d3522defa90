"""``whet pack``: an artifact as one entropy-coded file, and back."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from whet.tools.cli import options
from whet.tools.cli.console import print_json, progress, results

__all__ = ["register"]

_EXAMPLES = """
[bold]Examples[/]

whet pack out

whet pack out -o net.whet

whet pack net.whet -o out
"""

Source = Annotated[
    Path,
    typer.Argument(
        metavar="DIR", help="Artifact folder; or a packed artifact, to unpack.", show_default=False
    ),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help="The packed artifact (default: DIR.whet); or the folder to unpack into.",
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("pack", epilog=_EXAMPLES)(_command)


def _command(source: Source, output: Output = None, json: options.Json = False) -> None:
    """Pack an artifact into one file that [bold]whet.load[/] opens, entropy-coded (LZMA); or unpack one."""
    if source.is_file():
        _unpack(source, output, json=json)
    else:
        _pack(source, output, json=json)


def _pack(folder: Path, output: Path | None, *, json: bool) -> None:
    from whet.errors import UsageError
    from whet.packing import SUFFIX, pack
    from whet.printing import new_table

    path = output or folder.resolve().with_name(folder.resolve().name + SUFFIX)
    if path.suffix != SUFFIX:
        raise UsageError(f"the packed artifact is '{path.name}', expected a name in {SUFFIX}")
    with progress() as show:
        show(f"pack {folder}")
        members = pack(folder, path)
    before, after = sum(m.bytes for m in members), path.stat().st_size
    if json:
        files = {m.name: {"bytes": m.bytes, "packed": m.packed} for m in members}
        print_json(
            {"schema": 1, "file": str(path), "bytes": before, "packed": after, "files": files}
        )
        return
    table = new_table()
    table.add_column("file")
    for name in ("bytes", "packed", "packed / bytes"):
        table.add_column(name, justify="right")
    rows = [(m.name, m.bytes, m.packed) for m in members] + [("all of it", before, after)]
    for name, old, new in rows:
        table.add_row(escape(name), f"{old:,}", f"{new:,}", f"{new / max(old, 1):.3f}")
    results().print(table)
    results().print(f"written to [bold]{escape(str(path))}[/]", soft_wrap=True)


def _unpack(path: Path, output: Path | None, *, json: bool) -> None:
    from whet.artifact import load
    from whet.errors import UsageError

    if output is None:
        raise UsageError(f"'{path}' is a file to be unpacked: say where to with -o DIR")
    with progress() as show:
        show(f"unpack {path}")
        folder = load(path).save(output).folder
    if json:
        print_json({"schema": 1, "folder": str(folder)})
        return
    results().print(f"written to [bold]{escape(str(folder))}[/]", soft_wrap=True)
