"""``whet compile``: the main job."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from whet.tools.cli import options
from whet.tools.cli.arguments import read_bindings, read_entries, read_function
from whet.tools.cli.console import print_json, progress, results

if TYPE_CHECKING:
    from whet.artifact import Artifact

__all__ = ["register"]

_EXAMPLES = """
[bold]Examples[/]

whet compile model.onnx -o out

whet compile model.onnx -o out --recipe exact --bind batch=1

whet compile net.onnx -o out --calibration train.npz --labels test.npz --drop 1% --size 25%

whet compile net.onnx -o out --target c --bind batch=1 --calibration train.npz --ram 256KB --flash 1MB

whet compile net.onnx -o out --target c --device nrf52840 --bind batch=1

whet compile net.onnx -o out --target tvm --triple aarch64-linux-gnu --bind batch=1

whet compile net.onnx -o out --target tvm --bind batch=1 --tune 10min

whet compile mypackage.models:make_encoder -o out --recipe 'quantize-dynamic'
"""

Output = Annotated[
    Path,
    typer.Option(
        "-o", "--output", metavar="DIR", help="Folder of the artifact.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("compile", epilog=_EXAMPLES)(_command)


def _command(
    model: options.Model,
    output: Output,
    target: options.Target = "onnxruntime",
    device: options.Device = "host",
    triple: options.Triple = "",
    recipe: options.Recipe = "auto",
    calibration: options.Calibration = None,
    evaluate: options.Evaluate = None,
    labels: options.Labels = None,
    drop: options.Drop = None,
    size: options.Size = None,
    latency: options.Latency = None,
    ram: options.Ram = None,
    flash: options.Flash = None,
    minimize: options.Minimize = "auto",
    candidates: options.Candidates = "auto",
    start: options.Start = [],  # noqa: B006 (typer makes a new list for each call)
    loss: options.Loss = "outputs",
    search_minutes: options.SearchMinutes = 60.0,
    workers: options.Workers = "here",
    threads: options.Threads = 0,
    tune: options.Tune = "",
    max_ram: options.MaxRam = None,
    optimization: options.Optimization = "all",
    session: options.Session = [],  # noqa: B006 (typer makes a new list for each call)
    seed: options.Seed = 0,
    bind: options.Bind = [],  # noqa: B006 (typer makes a new list for each call)
    no_verify: options.NoVerify = False,
    no_measure: options.NoMeasure = False,
    no_page: options.NoPage = False,
    allow_noop: options.AllowNoop = False,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Compile MODEL into an artifact: rewrite with proof, lower, check in a fresh process, measure."""
    import whet
    from whet.errors import BudgetMissed

    arguments: dict[str, Any] = {
        "target": target,
        "device": device,
        "triple": triple,
        "recipe": recipe,
        "budget": whet.Budget(drop=drop, size=size, latency=latency, ram=ram, flash=flash),
        "minimize": minimize,
        "candidates": candidates,
        "start": tuple(start),
        "loss": loss,
        "search_minutes": search_minutes,
        "workers": workers,
        "threads": threads,
        "tune": tune,
        "max_ram": max_ram,
        "optimization": optimization,
        "session": read_entries(session),
        "seed": seed,
        "sizes": read_bindings(bind),
        "prove": not no_verify,
        "measure": not no_measure,
        "page": not no_page,
        "allow_noop": allow_noop,
    }
    function = read_function(evaluate)
    try:
        with progress() as show:
            artifact = whet.compile(
                model,
                calibration=calibration,
                evaluate=function,
                labels=labels,
                output=output,
                trust=trust,
                progress=show,
                **arguments,
            )
    except BudgetMissed as error:
        _print(error.artifact, json)
        raise
    _print(artifact, json)


def _print(artifact: object, json: bool) -> None:
    from whet.artifact import Artifact

    assert isinstance(artifact, Artifact)
    assert artifact.report is not None
    if json:
        print_json({"folder": str(artifact.folder), **artifact.report.to_json()})
        return
    console = results()
    artifact.report.print(console)
    page = artifact.folder / "report.html"
    if page.is_file():
        console.print(f"the whole story: [bold]{escape(str(page))}[/]", soft_wrap=True)
    console.print(f"\nwritten to [bold]{escape(str(artifact.folder))}[/]; run it:", soft_wrap=True)
    console.print(f"  {escape(_how_to_run(artifact))}", soft_wrap=True)


def _how_to_run(artifact: "Artifact") -> str:
    names = [f"{i['name']!r}: …" for i in artifact.inputs if not i.get("optional")]
    return f"whet.load({str(artifact.folder)!r}).run({{{', '.join(names)}}})"
