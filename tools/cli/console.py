"""Where the command line writes: results to stdout, progress and errors to stderr."""

import contextlib
import json
import shutil
from collections.abc import Callable, Generator

from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from whet.printing import to_plain

__all__ = ["WIDTH", "errors", "print_json", "progress", "results", "width"]

WIDTH = 100
"""Nothing is wider, so that it fits into a terminal, a log and a pull request."""


def width() -> int:
    """Return the columns to use: those of the terminal, a hundred at most."""
    return min(WIDTH, shutil.get_terminal_size((WIDTH, 24)).columns)


def results() -> Console:
    """Return the console for results."""
    return Console(width=width(), highlight=False, emoji=False)


def errors() -> Console:
    """Return the console for errors and progress."""
    return Console(width=width(), highlight=False, emoji=False, stderr=True)


def print_json(data: object) -> None:
    """Print plain data for machines, and nothing else, to stdout."""
    print(json.dumps(to_plain(data), indent=1, default=str))


@contextlib.contextmanager
def progress() -> Generator[Callable[[str], None]]:
    """Show a spinner with the current step and the time; silent where stderr is no terminal."""
    console = errors()
    if not console.is_terminal:
        yield lambda _message: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("start", total=None)
        yield lambda message: bar.update(task, description=escape(message))
