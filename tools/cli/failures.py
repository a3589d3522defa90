"""Turn an exception into one line on stderr and an exit code."""

import os
import traceback
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from rich.markup import escape

from whet.errors import WhetError
from whet.tools.cli.console import errors

__all__ = ["INTERRUPTED", "explain"]

INTERRUPTED = 130
_INTERNAL = 1
_WRONG_USE = 2
_DOES_NOT_RUN = 4


@runtime_checkable
class _WrongUse(Protocol):
    """An error of the argument parser, whichever module it lives in."""

    exit_code: int

    def format_message(self) -> str: ...


def explain(error: BaseException, *, debug: bool) -> int:
    """Print ``error`` as one line, its notes below; return the exit code that goes with it."""
    if debug and not isinstance(error, _WrongUse):
        traceback.print_exception(error)
    message, code, notes = _describe(error)
    console = errors()
    if message:
        console.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    for note in notes:
        console.print(f"  {escape(note)}", soft_wrap=True)
    return code


def _describe(error: BaseException) -> tuple[str, int, Sequence[str]]:
    notes: list[str] = list(getattr(error, "__notes__", ()))
    if isinstance(error, KeyboardInterrupt):
        return "interrupted; nothing was written", INTERRUPTED, []
    if isinstance(error, WhetError):
        return str(error), error.exit_code, notes
    if isinstance(error, _WrongUse):
        return _parser_message(error), _WRONG_USE, _parser_hint(error)
    if isinstance(error, OSError):
        return _system_message(error), _WRONG_USE, notes
    if isinstance(error, MemoryError):
        return "out of memory", _INTERNAL, notes
    if type(error).__name__ == "CannotRun":
        return str(error), _DOES_NOT_RUN, notes
    hint = "this is a defect of whet or of code that it called; --debug shows where"
    return f"{type(error).__name__}: {error}", _INTERNAL, [*notes, hint]


def _parser_message(error: _WrongUse) -> str:
    text = " ".join(error.format_message().split())
    return text[:1].lower() + text[1:].rstrip(".")


def _parser_hint(error: _WrongUse) -> list[str]:
    path = getattr(getattr(error, "ctx", None), "command_path", "whet")
    return [f"see: {path} --help"]


def _system_message(error: OSError) -> str:
    reason = error.strerror or str(error)
    place = "" if error.filename is None else f"'{os.fspath(error.filename)}': "
    return f"{place}{reason}"
