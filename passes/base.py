"""What a pass is: its declarations, its coverage record, its one method."""

import dataclasses
import enum
import fnmatch
import math
import re
from abc import ABC, abstractmethod
from collections import Counter
from typing import TYPE_CHECKING, ClassVar, Literal, cast

from whet.passes.option import check_options

if TYPE_CHECKING:
    from whet.analysis.base import Analysis
    from whet.passes.attention.break_even import Payoff
    from whet.passes.workbench import Workbench

__all__ = [
    "Change", "Coverage", "Damage", "Failure", "Fidelity", "Pass", "Spared", "Tuning", "pass_name",
]  # fmt: skip


class Change(enum.Flag):
    """Say what a pass may alter, and what an analysis depends on."""

    NONE = 0
    WEIGHTS = enum.auto()
    """Values of initializers."""
    OPS = enum.auto()
    """Nodes and their connections."""
    TYPES = enum.auto()
    """Element types of values that were there before."""
    ALL = WEIGHTS | OPS | TYPES


class Fidelity(enum.Enum):
    """Say how close a rewrite stays to what it replaces; the proof holds it to that."""

    EXACT = "exact"
    """The same bits."""
    ROUNDING = "rounding"
    """The same real numbers: floating-point rounding only."""
    LOSSY = "lossy"
    """An approximation; its error is measured and reported."""

    @property
    def tolerance(self) -> float:
        """Return the largest accepted error: max |new - old| over the root mean square of old.

        Written here once. A lossy pass narrows or widens its own through ``Pass.bound``; its error is
        ||new - old|| / ||old||.
        """
        return {Fidelity.EXACT: 0.0, Fidelity.ROUNDING: 1e-5, Fidelity.LOSSY: 1.0}[self]


@dataclasses.dataclass(frozen=True)
class Failure:
    """One rewrite that its proof refused."""

    site: str
    reason: str
    error: float
    reproducer: str = ""


@dataclasses.dataclass(frozen=True)
class Damage:
    """What one site of a lossy pass lost and gained."""

    site: str
    format: str
    error: float
    """||new - old|| / ||old|| of the site's output; ``measured_on`` says on which data."""
    bytes_before: int
    bytes_after: int
    ms_before: float | None = None
    ms_after: float | None = None
    measured_on: str = "random data"
    """Which data the error was measured on: held-out or calibration samples, or random numbers."""
    curvature: float | None = None
    """The increase of the loss that second derivatives predict; None where nobody computed any."""
    sparsity: float | None = None
    """Share of the site's weights that are zero, where the pass decides about it."""
    rank: int | None = None
    """Of the factors that replace or repair something."""

    @property
    def sqnr(self) -> float:
        """Return the signal-to-quantization-noise ratio of the site's output in dB: -20 log10(error)."""
        return math.inf if self.error == 0 else -20 * math.log10(self.error)

    @property
    def predicted_loss(self) -> float:
        """Return how much the site adds to the loss: by curvature, or as if all outputs mattered alike, error²."""
        return self.error**2 if self.curvature is None else self.curvature


@dataclasses.dataclass(frozen=True)
class Spared:
    """One site that a limit on the outputs' error keeps as it was."""

    site: str
    error: float
    """||new - old|| / ||old|| of the model's outputs if only this site were changed, on held-out data."""
    limit: float
    """For all sites together."""
    ms_before: float | None = None
    ms_after: float | None = None
    """What it takes now, and what it would take."""


@dataclasses.dataclass(frozen=True)
class Tuning:
    """How weights were tuned by gradients."""

    steps: int
    """Made; ``planned`` were asked for."""
    planned: int
    best_step: int
    """The step whose weights were taken."""
    seconds: float
    stopped: Literal["steps", "minutes", "patience"]
    """What ended it: the plan was at its end, there was no more time, or nothing came of many looks."""
    elements: int
    """How many numbers were free to move."""
    curve: tuple[tuple[int, float], ...]
    """Steps, and the distance on samples that training was watched by."""
    before: float | None = None
    after: float | None = None
    """The distance on samples held out, as the runtime computes it."""


@dataclasses.dataclass
class Coverage:
    """Count what a pass met and what came of it.

    A place is *matched* when the pass's pattern is there, *eligible* when its conditions hold too, and *changed*
    when the proof accepted the rewrite and it was committed.
    """

    matched: int = 0
    eligible: int = 0
    changed: int = 0
    declined: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    """Site -> why the rewrite was not made there."""
    near_misses: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    """Site -> where a larger pattern stopped matching."""
    failures: list[Failure] = dataclasses.field(default_factory=list[Failure])
    proofs: Counter[str] = dataclasses.field(default_factory=Counter[str])
    """How committed rewrites were proven: oracle -> count."""
    max_error: float = 0.0
    damage: list[Damage] = dataclasses.field(default_factory=list[Damage])
    spared: list[Spared] = dataclasses.field(default_factory=list[Spared])
    tunings: list[Tuning] = dataclasses.field(default_factory=list[Tuning])
    break_even: "dict[str, list[Payoff]]" = dataclasses.field(
        default_factory=dict[str, "list[Payoff]"]
    )
    """Attention -> what factors in place of its bias gain, at the lengths that were measured."""
    spectra: dict[str, tuple[float, ...]] = dataclasses.field(
        default_factory=dict[str, tuple[float, ...]]
    )
    """Attention -> the share of its bias's energy that is lost at rank 0, 1, …"""

    def add(self, other: "Coverage") -> None:
        """Add the record of a further run of the same pass; what was changed later is no longer declined."""
        self.matched = self.changed + other.matched
        self.eligible = self.changed + other.eligible
        self.changed += other.changed
        self.declined = dict(other.declined)
        self.near_misses = dict(other.near_misses)
        self.failures += [failure for failure in other.failures if failure not in self.failures]
        self.proofs += other.proofs
        self.damage += other.damage
        self.spared = list(other.spared)
        self.tunings += other.tunings
        self.break_even.update(other.break_even)
        self.spectra.update(other.spectra)
        self.max_error = max(self.max_error, other.max_error)

    @property
    def nearest_miss(self) -> str:
        """Return one sentence on what stood in the way most often, for the error that a no-op raises."""
        if self.failures:
            return f"{self.failures[0].site}: {self.failures[0].reason}"
        for found in (self.declined, self.near_misses):
            if found:
                ((reason, _),) = Counter(found.values()).most_common(1)
                site = next(site for site, said in found.items() if said == reason)
                return f"{site}: {reason}"
        return "no place in the model has the pattern's outermost operator"


def pass_name(cls: type) -> str:
    """Return the command-line name: ``FoldBatchNorm`` is ``fold-batch-norm``."""
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]*|\d+", cls.__name__)
    return "-".join(word.lower() for word in words)


def _spelled(value: object) -> str:
    """Return an option's value as a recipe spells it; several names are joined with ``+``."""
    if not isinstance(value, tuple):
        return str(value)
    return "+".join(str(item) for item in cast("tuple[object, ...]", value))


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return name in patterns or any(fnmatch.fnmatchcase(name, p) for p in patterns)


@dataclasses.dataclass(frozen=True)
class Pass(ABC):
    """Transform a model in place: valid model in, valid model out.

    A pass is a frozen dataclass and its fields are its options: equal options make an equal pass. It declares what it
    changes and how faithful it is; the conformance suite holds it to both.
    """

    changes: ClassVar[Change] = Change.OPS
    fidelity: ClassVar[Fidelity] = Fidelity.EXACT
    needs: ClassVar[tuple[type["Analysis[object]"], ...]] = ()
    bound: ClassVar[float | None] = None
    """A tolerance of the pass's own; only a lossy pass has one."""

    explains: ClassVar[bool] = False
    """Say in the report why places were left as they are, also where others were changed."""

    compares: ClassVar[bool] = False
    """Needs the model as it was before the first lossy pass."""

    chains: ClassVar[bool] = False
    """Gains where neighbours are treated alike, since what they exchange stays in its format."""

    skip: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    """Nodes to leave alone, by name or pattern (``*`` and ``?``)."""

    only: tuple[str, ...] = dataclasses.field(default=(), kw_only=True)
    """Nodes to work on, by name or pattern; all of them without it."""

    place: ClassVar[str]
    """Where a recipe finds a pass that is neither whet's nor installed; set when it is read."""

    gated: ClassVar[bool] = False
    """Measure bytes and milliseconds before and after, and take the pass back if either got worse."""

    def __post_init__(self) -> None:
        """Raise UsageError for an option outside its range; a pass adds what must hold between options."""
        check_options(self.name, self)

    @property
    def name(self) -> str:
        """Return the name used in recipes and reports."""
        return pass_name(type(self))

    @property
    def tolerance(self) -> float:
        """Return the error above which a rewrite of this pass is refused."""
        return self.fidelity.tolerance if self.bound is None else self.bound

    @property
    def summary(self) -> str:
        """Return the first sentence of the docstring."""
        return (type(self).__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")

    @classmethod
    def fields(cls) -> "list[dataclasses.Field[object]]":
        """Return the options' fields: those of the pass, then those that every pass has."""
        found = dataclasses.fields(cls)
        common = {f.name for f in dataclasses.fields(Pass)}
        return sorted(found, key=lambda f: f.name in common)

    def options(self) -> dict[str, object]:
        """Return the options by name."""
        return {f.name: getattr(self, f.name) for f in self.fields()}

    def __str__(self) -> str:
        """Print as a recipe spells it: ``fold-constants{limit=1024}``; defaults are left out.

        A pass that was named by its place, ``pkg.mod:Class``, is spelled so.
        """
        name = str(type(self).__dict__.get("place", self.name))
        changed = [
            f"{f.name}={_spelled(getattr(self, f.name))}"
            for f in self.fields()
            if getattr(self, f.name) != f.default
        ]
        return name + (f"{{{','.join(changed)}}}" if changed else "")

    def skips(self, name: str) -> bool:
        """Tell whether the user wants the node of this name left alone."""
        return _named(name, self.skip)

    def chooses(self, name: str) -> bool:
        """Tell whether the pass may begin at the node of this name."""
        return not self.only or _named(name, self.only)

    @abstractmethod
    def apply(self, work: "Workbench") -> None:
        """Propose every rewrite through ``work``, which proves, commits and counts."""
