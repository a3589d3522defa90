"""The tables of a printed report: what passes did, what sites lost, what it all costs."""

import math
from typing import TYPE_CHECKING

from rich.console import Group
from rich.markup import escape

from whet.passes.attention.break_even import Payoff
from whet.passes.pipeline import Step
from whet.printing import new_table, titled

if TYPE_CHECKING:
    from whet.report import Report

__all__ = ["break_even", "costs", "damage", "ledger", "spared", "worth_a_row"]

_SPARED = 12
"""Sites that a limit spared which are shown; report.json has all of them."""
_DAMAGED = 12
"""Sites that lost the most which are shown."""


def ledger(report: "Report") -> Group:
    """Return what each pass met, and what came of it."""
    table = new_table()
    for name in ("pass", "fidelity"):
        table.add_column(name, no_wrap=True)
    for name in ("matched", "eligible", "changed", "error ≤", "Δ ops", "Δ bytes"):
        table.add_column(name, justify="right")
    for step in report.steps:
        c = step.coverage
        if not worth_a_row(step):
            continue
        table.add_row(
            step.name,
            step.fidelity,
            f"{c.matched}",
            f"{c.eligible}",
            "0" if step.reverted else f"{c.changed}",
            f"{c.max_error:.1e}" if c.max_error else "0",
            f"{step.ops_after - step.ops_before:+d}",
            f"{step.bytes_after - step.bytes_before:+,d}",
        )
    return titled("Passes", table)


def worth_a_row(step: Step) -> bool:
    """Tell whether a pass met anything."""
    return bool(step.coverage.matched or step.coverage.failures)


def damage(report: "Report") -> Group:
    """Return what lossy passes did to each site, the worst first."""
    rows = report.damage
    table = new_table()
    table.add_column("site", overflow="fold")
    for name in ("format", "SQNR dB", "error", "loss ≈", "bytes", "after", "ms", "after"):
        table.add_column(name, justify="right")
    for row in rows[:_DAMAGED]:
        table.add_row(
            escape(row.site),
            row.format,
            f"{row.sqnr:.1f}",
            f"{row.error:.1e}",
            f"{row.predicted_loss:.1e}",
            f"{row.bytes_before:,}",
            f"{row.bytes_after:,}",
            "-" if row.ms_before is None else f"{row.ms_before:.3g}",
            "-" if row.ms_after is None else f"{row.ms_after:.3g}",
        )
    if len(rows) > _DAMAGED:
        table.caption = f"{len(rows) - _DAMAGED} more in report.json"
    data = " and ".join(dict.fromkeys(row.measured_on for row in rows))
    return titled(f"Damage by layer on {data}, worst first", table)


def spared(step: Step) -> Group:
    """Say what a limit on the outputs keeps as it was, and what each of these sites would cost alone."""
    rows = sorted(step.coverage.spared, key=lambda row: -row.error)
    table = new_table()
    table.add_column("site", overflow="fold")
    for name in ("moves the outputs by", "dB", "ms now", "would take"):
        table.add_column(name, justify="right")
    for row in rows[:_SPARED]:
        table.add_row(
            escape(row.site),
            f"{row.error:.1e}",
            "-" if row.error <= 0 else f"{-20 * math.log10(row.error):.1f}",
            "-" if row.ms_before is None else f"{row.ms_before:.3g}",
            "-" if row.ms_after is None else f"{row.ms_after:.3g}",
        )
    if len(rows) > _SPARED:
        table.caption = f"{len(rows) - _SPARED} more in report.json"
    title = (
        f"{step.name} leaves {len(rows)} sites in float, so that the outputs move by no more than "
        f"{rows[0].limit:g}; each alone"
    )
    return titled(title, table)


def break_even(site: str, curve: list[Payoff]) -> Group:
    """Draw time with factors against time with the bias, by length."""
    table = new_table()
    for name in ("length", "rank", "with bias", "with factors", "bias in memory", "ratio"):
        table.add_column(name, justify="right")
    table.add_column("")
    for point in sorted(curve, key=lambda p: p.length):
        ratio = point.ms_after / point.ms_before
        bar = "█" * round(20 * min(ratio, 2.0))
        table.add_row(
            f"{point.length:,}",
            f"{point.rank}",
            f"{point.ms_before:.3g} ms",
            f"{point.ms_after:.3g} ms",
            f"{point.bias_bytes / 1e6:,.1f} MB",
            f"{ratio:.2f}",
            f"[green]{bar}[/]" if point.pays else bar,
        )
    return titled(f"Break-even of factors at {site}", table)


def costs(report: "Report") -> Group:
    """Return what the model costs before and after."""
    table = new_table()
    table.add_column("", no_wrap=True)
    for name in ("before", "after", "after / before"):
        table.add_column(name, justify="right")
    b, a = report.before, report.after
    table.add_row("ops", f"{b.ops:,}", f"{a.ops:,}", _ratio(b.ops, a.ops))
    table.add_row(
        "parameters",
        f"{b.parameters:,}",
        f"{a.parameters:,}",
        _ratio(b.parameters, a.parameters),
    )
    table.add_row("bytes on disk", f"{b.bytes:,}", f"{a.bytes:,}", _ratio(b.bytes, a.bytes))
    if b.time is not None and a.time is not None:
        ratio = _ratio(b.time.median, a.time.median)
        table.add_row("latency, median (quartiles)", str(b.time), str(a.time), ratio)
    if b.peak_bytes and a.peak_bytes:
        table.add_row(
            "peak memory, load and run",
            f"{b.peak_bytes / 1e6:,.0f} MB",
            f"{a.peak_bytes / 1e6:,.0f} MB",
            _ratio(b.peak_bytes, a.peak_bytes),
        )
    if report.metric is not None:
        before, after = report.metric
        table.add_row("metric", f"{before:.4f}", f"{after:.4f}", _ratio(before, after))
    if report.interval is not None:
        i = report.interval
        table.caption = (
            f"the metric drops by {i.drop:.4f}, with 95 % confidence {i.low:.4f} to {i.high:.4f}"
        )
    return titled(f"{report.origin} → {report.target}", table)


def _ratio(before: float, after: float) -> str:
    return f"{after / before:.3f}" if before else "-"
