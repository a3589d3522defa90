"""The reference of the command line, made from its own help."""

import os
from collections.abc import Iterator
from unittest import mock

from typer.testing import CliRunner

from whet.tools.cli import app

__all__ = ["cli_page"]

_WORDS = """
`whet` and `python -m whet` are the same. `whet --install-completion` teaches your shell (bash, zsh, fish, PowerShell)
commands, options, and the names of passes, recipes, targets and metrics; `whet --show-completion` prints the script.

Commands print tables to people and, with `--json`, JSON to machines. Progress goes to stderr and only to a terminal;
`NO_COLOR` is honoured. Exit codes: 0 done; 1 outputs differ, or a pass broke its contract; 2 wrong use; 3 the budget
was missed (the best artifact is written); 4 the model is invalid or unsupported.
"""


def cli_page() -> str:
    """Return the page."""
    parts = ["# Command line", _WORDS.strip()]
    for name in _commands():
        parts += [f"## whet {name}", f"```text\n{_help(name)}\n```"]
    return "\n\n".join(parts) + "\n"


def _commands() -> Iterator[str]:
    for command in app.registered_commands:
        assert command.name is not None
        yield command.name


def _help(name: str) -> str:
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, plain):
        found = CliRunner().invoke(app, [name, "--help"])
    return "\n".join(line.rstrip() for line in found.output.strip().splitlines())
