"""``whet plan``: what a compile would do."""

from typing import TYPE_CHECKING

import typer
from rich.console import Console, Group
from rich.markup import escape

from whet.printing import new_table, summarize, titled
from whet.tools.cli import options
from whet.tools.cli.arguments import read_bindings, read_function
from whet.tools.cli.console import print_json, progress, results

if TYPE_CHECKING:
    from whet.tools.planning import Plan, PlannedStep

__all__ = ["register"]

_EXAMPLES = """
[bold]Example[/]

whet plan model.onnx --recipe auto --calibration train.npz
"""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("plan", epilog=_EXAMPLES)(_command)


def _command(
    model: options.Model,
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
    threads: options.Threads = 0,
    max_ram: options.MaxRam = None,
    seed: options.Seed = 0,
    bind: options.Bind = [],  # noqa: B006 (typer makes a new list for each call)
    allow_noop: options.AllowNoop = False,
    trust: options.Trust = False,
    json: options.Json = False,
) -> None:
    """Say what a compile with the same arguments would do; change and write nothing.

    Every pass runs on a copy without proofs and without timing, so what it counts is an upper bound.
    """
    from whet.budget import Budget
    from whet.options import read_max_ram
    from whet.tools.planning import Request, make_plan

    read_function(evaluate)
    request = Request(
        target=target,
        device=device,
        triple=triple,
        recipe=recipe,
        calibration=calibration,
        labels=labels,
        budget=Budget(drop=drop, size=size, latency=latency, ram=ram, flash=flash),
        threads=threads,
        max_ram=read_max_ram(max_ram),
        seed=seed,
        sizes=read_bindings(bind),
        allow_noop=allow_noop,
        trust=trust,
    )
    with progress() as show:
        plan = make_plan(model, request, show)
    if json:
        print_json(plan.to_json())
    else:
        _print(plan, results())


def _print(plan: "Plan", console: Console) -> None:
    console.print(_steps(plan))
    idle = [step.name for step in plan.steps if not _has_a_row(step)]
    if idle:
        console.print(f"would run too, and find nothing: {', '.join(idle)}\n")
    for step in plan.steps:
        if step.problem:
            console.print(f"[red]would stop[/] {step.name}: {escape(step.problem)}")
        for line in summarize(step.declined)[:2]:
            console.print(f"[yellow]declines[/] {step.name}: {escape(line)}")
    console.print()
    console.print(_prediction(plan))
    console.print(_dimensions(plan))
    if plan.bindings_note:
        console.print(f"[yellow]note[/] fewer sizes than wanted: {escape(plan.bindings_note)}")
    for problem in plan.problems:
        console.print(f"[red]problem[/] {escape(problem)}")
    console.print("nothing was changed; whet compile with the same arguments and -o DIR does it")


def _steps(plan: "Plan") -> Group:
    title = f"{plan.origin} → {plan.target}, recipe {plan.recipe}: {len(plan.steps)} passes"
    table = new_table()
    table.add_column("pass", no_wrap=True)
    table.add_column("fidelity", no_wrap=True)
    table.add_column("needs")
    for name in ("matches", "would change", "Δ bytes"):
        table.add_column(name, justify="right")
    for step in plan.steps:
        if not _has_a_row(step):
            continue
        table.add_row(
            step.name,
            step.fidelity,
            _needs(step),
            _count(step.matched),
            _count(step.changed),
            f"{-step.bytes_saved:+,d}" if step.bytes_saved else "·",
        )
    return titled(title, table)


def _has_a_row(step: "PlannedStep") -> bool:
    return bool(step.matched or step.problem or step.declined)


def _needs(step: "PlannedStep") -> str:
    found = [*step.needs, *(["timing"] if step.gated else [])]
    return ", ".join(found) or "·"


def _count(number: int) -> str:
    return f"{number}" if number else "·"


def _prediction(plan: "Plan") -> Group:
    table = new_table()
    table.add_column("")
    for name in ("before", "after", "after / before"):
        table.add_column(name, justify="right")
    b, a = plan.before, plan.after
    for name, old, new in (
        ("ops", b.ops, a.ops),
        ("parameters", b.parameters, a.parameters),
        ("bytes on disk", b.bytes, a.bytes),
    ):
        table.add_row(name, f"{old:,}", f"{new:,}", f"{new / old:.3f}" if old else "-")
    if plan.calibration_bytes:
        table.add_row(
            "values of one calibration run", "", f"{plan.calibration_bytes / 1e6:,.1f} MB", ""
        )
    table.add_row("peak memory of the compile, about", "", f"{plan.peak_bytes / 1e6:,.0f} MB", "")
    return titled("Predicted", table)


def _dimensions(plan: "Plan") -> str:
    if not plan.dimensions:
        return "every dimension is fixed; proofs run on two draws of the inputs"
    listed = "; ".join(
        ", ".join(f"{name}={size}" for name, size in choice.items()) for choice in plan.bindings
    )
    return f"dynamic dimensions {', '.join(plan.dimensions)}; proofs run at {escape(listed)}"
