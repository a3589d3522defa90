"""A report in words: what passes did and left, how far outputs moved, what it cost and gained."""

import json
from collections import Counter
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from whet.ir.sites import Enclosed
from whet.passes.attention.break_even import Payoff
from whet.passes.base import Fidelity
from whet.passes.pipeline import Step
from whet.printing import summarize
from whet.report_tables import break_even, costs, damage, ledger, spared, worth_a_row
from whet.search_report import searched

if TYPE_CHECKING:
    from whet.report import Report

__all__ = ["print_report"]

_ADVISED = 3
"""Sites to take back that are named; report.json has more of them."""
_NAMED = 8
"""Layers that are named of each body which is left alone."""


def print_report(report: "Report", console: Console) -> None:
    """Print the whole report to a console."""
    if any(worth_a_row(step) for step in report.steps):
        console.print(ledger(report))
        console.print(_proofs(report))
    else:
        console.print("no pass found anything to change")
    for step in report.steps:
        _print_refusals(step, console)
    if any(step.fidelity == Fidelity.LOSSY.value for step in report.steps):
        for body in report.enclosed:
            console.print(f"[yellow]not looked into[/] {escape(str(body))}: {_named(body)}")
    console.print()
    for line in _output_lines(report):
        console.print(line)
    for step in report.steps:
        if step.coverage.spared and not step.reverted:
            console.print(spared(step))
    if report.damage:
        console.print(damage(report))
        for advice in report.advice[:_ADVISED]:
            console.print(f"[cyan]to revert[/] {escape(str(advice))}", soft_wrap=True)
        console.print()
    for site, curve in _curves(report).items():
        console.print(break_even(site, curve))
    if report.search is not None:
        console.print(searched(report.search))
    console.print(costs(report))
    for line in _agreement_lines(report):
        console.print(line)
    for note in report.notes:
        console.print(f"[yellow]note[/] {escape(note)}")


def _print_refusals(step: Step, console: Console) -> None:
    """Say what was not done, and why."""
    for failure in step.coverage.failures:
        console.print(
            f"[red]refused[/] {escape(step.name)} at {escape(failure.site)}: "
            f"{escape(failure.reason)} {escape(failure.reproducer)}"
        )
    for reason in _left(step):
        console.print(f"[yellow]declined[/] {escape(step.name)}: {escape(reason)}")
    if step.reverted:
        console.print(f"[yellow]taken back[/] {escape(step.name)}: {escape(step.reverted)}")


def _proofs(report: "Report") -> str:
    steps = [step for step in report.steps if not step.reverted]
    changed = sum(step.coverage.changed for step in steps)
    proofs = sum((step.coverage.proofs for step in steps), Counter[str]())
    how = ", ".join(f"{count} {oracle}" for oracle, count in sorted(proofs.items()))
    share = "every one" if proofs.total() >= changed else f"{proofs.total()} of them"
    seconds = sum(step.seconds for step in report.steps)
    proven = f"{share} proven ({how})" if changed else "nothing to prove"
    return f"{changed:,} rewrites, {proven}, in {seconds:.1f} s"


def _curves(report: "Report") -> dict[str, list[Payoff]]:
    """Return what factors in place of a bias were measured to gain by length, equal curves once."""
    found = {
        tuple(curve): site
        for step in reversed(report.steps)
        for site, curve in reversed(step.coverage.break_even.items())
    }
    return {site: list(curve) for curve, site in reversed(found.items())}


def _output_lines(report: "Report") -> list[str]:
    """Say how far each lossy pass moved the outputs, and the metric."""
    found: list[str] = []
    for step in report.steps:
        if step.reverted or not step.outputs:
            continue
        worst = max(step.outputs, key=lambda o: o.error)
        line = (
            f"{step.name} moves the outputs by {worst.error:.2e} ({worst.sqnr:.1f} dB, '{worst.output}') "
            f"on {worst.samples} held-out samples"
        )
        if step.metric is not None:
            line += f", the metric from {step.metric[0]:.4f} to {step.metric[1]:.4f}"
        found.append(escape(line))
    return found


def _agreement_lines(report: "Report") -> list[str]:
    if not report.agreements:
        return ["[yellow]outputs were not compared[/]"]
    worst = max(report.agreements, key=lambda a: a.relative_error)
    cosine = min(a.cosine for a in report.agreements)
    bindings = {json.dumps(dict(a.binding)) for a in report.agreements}
    where = (
        f"on random inputs at {len(bindings)} binding{'s'[: len(bindings) > 1]} of the dimensions"
    )
    if worst.relative_error == 0.0:
        lines = [f"outputs {where}: equal to the source's"]
    else:
        lines = [
            f"outputs {where}: relative error ≤ {worst.relative_error:.2e} "
            f"('{escape(worst.output)}'), cosine ≥ {cosine:.6f}{_of_noise(report)}"
        ]
    if report.fusions:
        listed = ", ".join(f"{k} x{v}" for k, v in list(report.fusions.items())[:8])
        lines.append(f"{report.target} itself fuses further: {escape(listed)}")
    return lines


def _of_noise(report: "Report") -> str:
    """Say what random inputs tell of lossy passes: little, they need not lie where data do."""
    lossy = [s for s in report.steps if s.fidelity == Fidelity.LOSSY.value and not s.reverted]
    if not any(step.coverage.changed for step in lossy):
        return ""
    if any(step.outputs for step in lossy):
        return "; that is noise, your data are what is measured above"
    return "; that is noise, --calibration measures on your data"


def _named(body: Enclosed) -> str:
    more = len(body.layers) - _NAMED
    listed = ", ".join(body.layers[:_NAMED])
    return escape(listed) + (f" and {more} more in report.json" if more > 0 else "")


def _left(step: Step) -> list[str]:
    """Return why places were left as they are: every reason of a pass that explains, else the most frequent."""
    if step.explains:
        return summarize({**step.coverage.near_misses, **step.coverage.declined})
    if step.fidelity == Fidelity.LOSSY.value or not step.coverage.changed:
        return summarize(step.coverage.declined)[:1]
    return []
