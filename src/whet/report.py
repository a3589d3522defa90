"""What a compile did, what it cost and what it gained, as a table for people and as JSON for machines."""

import dataclasses
import io
import json
import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.markup import escape

from whet.advice import Advice, advise
from whet.analysis.machine_peak import Peak
from whet.analysis.weight_histograms import Histogram
from whet.backends.measure import Timing
from whet.backends.operator_times import OperatorTime
from whet.ir.sites import Enclosed
from whet.layers import Layer
from whet.passes.attention.break_even import Payoff
from whet.passes.base import Damage, Fidelity
from whet.passes.pipeline import Step
from whet.printing import new_table, rounded, summarize, titled, to_plain
from whet.search_report import searched
from whet.solve.drop_interval import Interval

__all__ = ["SCHEMA", "Agreement", "Cost", "Limits", "Profile", "Provenance", "Report"]

SCHEMA = 2
"""Number of the schema of ``report.json``: it grows when keys go or change their meaning, not when some are added."""

_ADVISED = 3
"""Sites to take back that are named; report.json has more of them."""
_LISTED = 100
"""Sites to take back that are written; every layer has its place in the list."""
_TABLES = ("layers", "search", "histograms")
"""Parts that grow with the model: their numbers are written with six digits."""
_NAMED = 8
"""Layers that are named of each body which is left alone."""
_SPARED = 12
"""Sites that a limit spared which are shown; report.json has all of them."""


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a model costs to keep and to run."""

    ops: int
    parameters: int
    bytes: int
    """On disk, all files together."""
    time: Timing | None = None
    peak_bytes: int = 0
    """Largest resident size of a process that loads and runs it."""


@dataclasses.dataclass(frozen=True)
class Agreement:
    """How close one output of the artifact is to the source's, at one binding of the dimensions."""

    output: str
    binding: Mapping[str, int]
    relative_error: float
    """||new - old|| / ||old||, in the 2-norm."""
    cosine: float
    limit: float
    """The error that a compile without lossy passes may not exceed."""


@dataclasses.dataclass(frozen=True)
class Profile:
    """What each operator takes inside the runtime, profiled run by run."""

    before: list[OperatorTime]
    after: list[OperatorTime]
    peak: Peak
    binding: Mapping[str, int]

    def to_json(self) -> dict[str, Any]:
        """Return plain data; the long tables as their columns' names and rows of values."""
        found = dataclasses.asdict(self)
        for when in ("before", "after"):
            found[when] = _in_columns(OperatorTime, found[when])
        return dict(rounded(found))


@dataclasses.dataclass(frozen=True)
class Limits:
    """The budget in numbers; None does not limit."""

    drop: float | None
    bytes: int | None
    ms: float | None
    missed: tuple[str, ...] = ()
    """Which limits the measured result breaks, in words."""
    ram: int | None = None
    flash: int | None = None
    """Bytes that the device has, where the target counts them."""


@dataclasses.dataclass(frozen=True)
class Provenance:
    """What a result was made from and how."""

    command: str
    """The command that makes it again; ``…`` stands for objects of a program."""
    seed: int
    source: str
    sha256: str
    """Of the source's file."""
    files: Mapping[str, Mapping[str, int | str]]
    """File of the artifact -> its bytes and digest."""


@dataclasses.dataclass
class Report:
    """The whole story of one compile."""

    origin: str
    target: str
    recipe: str
    steps: list[Step]
    before: Cost
    after: Cost
    agreements: list[Agreement]
    fusions: Mapping[str, int]
    """What the runtime fuses by itself on top."""
    notes: list[str]
    versions: Mapping[str, str]
    metric: tuple[float, float] | None = None
    """The evaluation of source and artifact, where larger is better."""
    interval: Interval | None = None
    """Where the true drop of the metric lies, for a metric that is a mean over samples."""
    search: Mapping[str, Any] | None = None
    """What was tried for the budget, what was predicted and measured, what was chosen and why."""
    kernels: Mapping[str, Mapping[str, float]] = dataclasses.field(
        default_factory=dict[str, Mapping[str, float]]
    )
    """Measured milliseconds that decisions rest on: work -> format -> milliseconds."""
    enclosed: list[Enclosed] = dataclasses.field(default_factory=list[Enclosed])
    """What lies in bodies of If, Loop and Scan, which passes leave alone."""
    seconds: float = 0.0
    layers: list[Layer] = dataclasses.field(default_factory=list[Layer])
    """Every layer of the result: what became of it, and what it costs."""
    histograms: list[Histogram] = dataclasses.field(default_factory=list[Histogram])
    """How the weights of the worst layers are spread, before and after."""
    graph: Mapping[str, Any] | None = None
    """The graph of the result, for a drawing; None if it is too large for one."""
    profile: Profile | None = None
    """What each operator takes inside the runtime, and the most that the machine can do."""
    limits: Limits | None = None
    """The budget in numbers, and which of it the result breaks."""
    provenance: Provenance | None = None
    """What it was made from, and the command that makes it again."""

    @property
    def damage(self) -> list[Damage]:
        """Return what lossy passes did to each site, the largest predicted loss first."""
        rows = [row for step in self.steps if not step.reverted for row in step.coverage.damage]
        return sorted(rows, key=lambda row: (-row.predicted_loss, -row.error))

    @property
    def advice(self) -> list[Advice]:
        """Return what to take back first, by loss avoided against bytes and milliseconds."""
        return advise(self.steps, self.recipe)

    @property
    def worst_error(self) -> float:
        """Return the largest relative error over outputs and bindings."""
        return max((a.relative_error for a in self.agreements), default=0.0)

    def to_json(self) -> dict[str, Any]:
        """Return plain data, as docs/report_schema.md describes it. Numbers that are not finite become text."""
        data = dataclasses.asdict(self)
        for step, plain in zip(self.steps, data["steps"], strict=True):
            # asdict takes a Counter apart and counts the pieces.
            plain["coverage"]["proofs"] = dict(step.coverage.proofs)
            plain["coverage"]["declined"] = _by_reason(step.coverage.declined)
            plain["coverage"]["near_misses"] = _by_reason(step.coverage.near_misses)
            plain["coverage"]["damage"] = len(step.coverage.damage)
        data["profile"] = None if self.profile is None else self.profile.to_json()
        data["layers"] = _in_columns(Layer, data["layers"])
        for name in _TABLES:
            data[name] = rounded(data[name])
        data["revert_first"] = [dataclasses.asdict(advice) for advice in self.advice[:_LISTED]]
        found: dict[str, Any] = to_plain({"schema": SCHEMA, **data})
        return found

    def _repr_html_(self) -> str:
        """Show the page in a notebook."""
        from whet.tools.report.notebook import in_frame

        return in_frame(self.to_json())

    def __str__(self) -> str:
        """Print the ledger and the table before/after, a hundred columns wide."""
        buffer = io.StringIO()
        self.print(Console(file=buffer, width=100, no_color=True))
        return buffer.getvalue()

    def print(self, console: Console) -> None:
        """Print to a console."""
        if any(_worth_a_row(step) for step in self.steps):
            console.print(self._ledger())
            console.print(self._proofs())
        else:
            console.print("no pass found anything to change")
        for step in self.steps:
            for failure in step.coverage.failures:
                console.print(
                    f"[red]refused[/] {escape(step.name)} at {escape(failure.site)}: "
                    f"{escape(failure.reason)} {escape(failure.reproducer)}"
                )
            for reason in _left(step):
                console.print(f"[yellow]declined[/] {escape(step.name)}: {escape(reason)}")
            if step.reverted:
                console.print(f"[yellow]taken back[/] {escape(step.name)}: {escape(step.reverted)}")
        if any(step.fidelity == Fidelity.LOSSY.value for step in self.steps):
            for body in self.enclosed:
                console.print(f"[yellow]not looked into[/] {escape(str(body))}: {_named(body)}")
        console.print()
        for line in self._output_lines():
            console.print(line)
        for step in self.steps:
            if step.coverage.spared and not step.reverted:
                console.print(_spared(step))
        if self.damage:
            console.print(self._damage())
            for advice in self.advice[:_ADVISED]:
                console.print(f"[cyan]to revert[/] {escape(str(advice))}", soft_wrap=True)
            console.print()
        for site, curve in self._curves().items():
            console.print(_break_even(site, curve))
        if self.search is not None:
            console.print(searched(self.search))
        console.print(self._costs())
        for line in self._agreement_lines():
            console.print(line)
        for note in self.notes:
            console.print(f"[yellow]note[/] {escape(note)}")

    def _ledger(self) -> Group:
        table = new_table()
        for name in ("pass", "fidelity"):
            table.add_column(name, no_wrap=True)
        for name in ("matched", "eligible", "changed", "error ≤", "Δ ops", "Δ bytes"):
            table.add_column(name, justify="right")
        for step in self.steps:
            c = step.coverage
            if not _worth_a_row(step):
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

    def _proofs(self) -> str:
        steps = [step for step in self.steps if not step.reverted]
        changed = sum(step.coverage.changed for step in steps)
        proofs = sum((step.coverage.proofs for step in steps), Counter[str]())
        how = ", ".join(f"{count} {oracle}" for oracle, count in sorted(proofs.items()))
        share = "every one" if proofs.total() >= changed else f"{proofs.total()} of them"
        seconds = sum(step.seconds for step in self.steps)
        proven = f"{share} proven ({how})" if changed else "nothing to prove"
        return f"{changed:,} rewrites, {proven}, in {seconds:.1f} s"

    def _curves(self) -> dict[str, list[Payoff]]:
        """Return what factors in place of a bias were measured to gain by length, equal curves once."""
        found = {
            tuple(curve): site
            for step in reversed(self.steps)
            for site, curve in reversed(step.coverage.break_even.items())
        }
        return {site: list(curve) for curve, site in reversed(found.items())}

    def _costs(self) -> Group:
        table = new_table()
        table.add_column("", no_wrap=True)
        for name in ("before", "after", "after / before"):
            table.add_column(name, justify="right")
        b, a = self.before, self.after
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
        if self.metric is not None:
            before, after = self.metric
            table.add_row("metric", f"{before:.4f}", f"{after:.4f}", _ratio(before, after))
        if self.interval is not None:
            i = self.interval
            table.caption = f"the metric drops by {i.drop:.4f}, with 95 % confidence {i.low:.4f} to {i.high:.4f}"
        return titled(f"{self.origin} → {self.target}", table)

    def _damage(self) -> Group:
        rows = self.damage
        table = new_table()
        table.add_column("site", overflow="fold")
        for name in ("format", "SQNR dB", "error", "loss ≈", "bytes", "after", "ms", "after"):
            table.add_column(name, justify="right")
        for row in rows[:12]:
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
        if len(rows) > 12:
            table.caption = f"{len(rows) - 12} more in report.json"
        data = " and ".join(dict.fromkeys(row.measured_on for row in rows))
        return titled(f"Damage by layer on {data}, worst first", table)

    def _output_lines(self) -> list[str]:
        """Say how far each lossy pass moved the outputs, and the metric."""
        found: list[str] = []
        for step in self.steps:
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

    def _agreement_lines(self) -> list[str]:
        if not self.agreements:
            return ["[yellow]outputs were not compared[/]"]
        worst = max(self.agreements, key=lambda a: a.relative_error)
        cosine = min(a.cosine for a in self.agreements)
        bindings = {json.dumps(dict(a.binding)) for a in self.agreements}
        where = f"on random inputs at {len(bindings)} binding{'s'[: len(bindings) > 1]} of the dimensions"
        if worst.relative_error == 0.0:
            lines = [f"outputs {where}: equal to the source's"]
        else:
            lines = [
                f"outputs {where}: relative error ≤ {worst.relative_error:.2e} "
                f"('{escape(worst.output)}'), cosine ≥ {cosine:.6f}"
            ]
        if self.fusions:
            listed = ", ".join(f"{k} x{v}" for k, v in list(self.fusions.items())[:8])
            lines.append(f"{self.target} itself fuses further: {escape(listed)}")
        return lines


def _in_columns(kind: type[Layer | OperatorTime], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a long table as the names of its columns and rows of values."""
    names = [field.name for field in dataclasses.fields(kind)]
    return {"columns": names, "rows": [[row[name] for name in names] for row in rows]}


def _by_reason(reasons: Mapping[str, str]) -> dict[str, list[str]]:
    """Turn site -> reason into reason -> sites: many say the same."""
    found: dict[str, list[str]] = {}
    for site, reason in reasons.items():
        found.setdefault(reason, []).append(site)
    return found


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


def _spared(step: Step) -> Group:
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


def _break_even(site: str, curve: list[Payoff]) -> Group:
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


def _worth_a_row(step: Step) -> bool:
    return bool(step.coverage.matched or step.coverage.failures)


def _ratio(before: float, after: float) -> str:
    return f"{after / before:.3f}" if before else "-"
