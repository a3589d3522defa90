"""What a compile did, what it cost and what it gained: the record, and the plain data that ``report.json`` holds."""

import dataclasses
import io
from collections.abc import Mapping
from typing import Any

from rich.console import Console

from whet.advice import Advice, advise
from whet.analysis.machine_peak import Peak
from whet.analysis.weight_histograms import Histogram
from whet.backends.measure import Timing
from whet.backends.operator_times import OperatorTime
from whet.ir.sites import Enclosed
from whet.layers import Layer
from whet.passes.base import Damage
from whet.passes.pipeline import Step
from whet.printing import rounded, to_plain
from whet.report_text import print_report
from whet.solve.drop_interval import Interval

__all__ = ["SCHEMA", "Agreement", "Cost", "Limits", "Profile", "Provenance", "Report"]

SCHEMA = 2
"""Number of the schema of ``report.json``: it grows when keys go or change their meaning, not when some are added."""

_LISTED = 100
"""Sites to take back that are written; every layer has its place in the list."""
_TABLES = ("layers", "search", "histograms")
"""Parts that grow with the model: their numbers are written with six digits."""


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
    contest: Mapping[str, Any] | None = None
    """Which runtime was chosen and why, with the times of all and what was refused, for the target ``auto``."""
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
        print_report(self, console)


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
