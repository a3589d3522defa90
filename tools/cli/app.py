"""The application: its commands, and the one place where errors become exit codes."""

import os
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Annotated, Any

import typer
import typer.core
import typer.rich_utils

import whet
from whet.tools.cli import (
    bench,
    bisect,
    compile,
    diff,
    doctor,
    inspect,
    pack,
    passes,
    plan,
    report,
)
from whet.tools.cli.console import width
from whet.tools.cli.failures import INTERRUPTED, explain

__all__ = ["app", "main"]


class _Commands(typer.core.TyperGroup):
    """The group of commands, with whet's own way of ending."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Run a command; end with its exit code and, after an error, one line on stderr."""
        given = list(sys.argv[1:] if args is None else args)
        debug = "--debug" in given or os.environ.get("WHET_DEBUG", "") not in {"", "0"}
        given = [a for a in given if a != "--debug"]
        typer.rich_utils.MAX_WIDTH = width()
        try:
            code = super().main(given, "whet", complete_var, False, windows_expand_args, **extra)
        except (Exception, KeyboardInterrupt) as error:
            code = explain(error, debug=debug)
        else:
            if code == INTERRUPTED:
                code = explain(KeyboardInterrupt(), debug=False)
        sys.exit(code or 0)


app = typer.Typer(
    name="whet",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)

compile.register(app)
plan.register(app)
inspect.register(app)
bench.register(app)
diff.register(app)
bisect.register(app)
passes.register(app)
report.register(app)
pack.register(app)
doctor.register(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"whet {whet.__version__}")
        raise typer.Exit


@app.callback()
def whet_(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
    debug: Annotated[
        bool,
        typer.Option(
            "--debug", help="Show the traceback of an error; may stand anywhere. Also WHET_DEBUG=1."
        ),
    ] = False,
) -> None:
    """Sharpen a trained model for deployment: smaller and faster, with proof of every rewrite.

    MODEL is an ONNX file, a .pt2 program, or pkg.mod:factory, a callable that returns (module, inputs).

    Exit codes: 0 done; 1 outputs differ, or a pass broke its contract; 2 wrong use; 3 the budget was
    missed (the best artifact is written); 4 the model is invalid or unsupported.
    """
    del version, debug


def _terminate(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def main() -> None:
    """Run the command line; a request to terminate cleans up like Ctrl-C."""
    signal.signal(signal.SIGTERM, _terminate)
    app()
