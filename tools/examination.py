"""What stands in the way of a model, what a compile could gain, and the command to run next."""

import dataclasses
import shlex
from collections.abc import Callable, Mapping, Sequence

from whet.ir.sites import SiteKind
from whet.passes.base import Fidelity
from whet.tools.inspection import Inspection, inspect_model, read_for_inspection
from whet.tools.planning import Plan, Request, make_plan

__all__ = ["Blocked", "Examination", "examine"]

_WORTH = 4096
"""Weights of fewer bytes are not worth a format of their own."""


@dataclasses.dataclass(frozen=True)
class Blocked:
    """Why a pass leaves places alone."""

    name: str
    places: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Examination:
    """What was found out about one model."""

    origin: str
    refusals: Mapping[str, Sequence[str]]
    """Runtime -> why it does not take the model; empty if it does."""
    blocked: tuple[Blocked, ...]
    """Lossy passes that found places and could do nothing there, the most places first."""
    dimensions: tuple[str, ...]
    bytes: int
    predicted_bytes: int
    """After the recipe ``auto`` without data, before anything is taken back for being slower."""
    ops: int
    predicted_ops: int
    compressible: int
    """Bytes of the weights that formats can be chosen for."""
    problems: tuple[str, ...]
    next: tuple[str, ...]
    """Commands, the first one to run first; a comment behind each."""


def examine(source: str, progress: Callable[[str], None], *, trust: bool = False) -> Examination:
    """Try every pass on a model without changing it; raises what ``compile`` would raise for the source."""
    progress("capture")
    model, origin = read_for_inspection(source, trust=trust)
    progress("try every pass")
    seen = inspect_model(model, origin)
    plan = make_plan(source, Request(trust=trust), progress)
    large = [site for site in seen.sites if site.bytes >= _WORTH]
    return Examination(
        origin=origin,
        refusals=seen.refusals,
        blocked=_blocked(seen),
        dimensions=plan.dimensions,
        bytes=plan.before.bytes,
        predicted_bytes=plan.after.bytes,
        ops=plan.before.ops,
        predicted_ops=plan.after.ops,
        compressible=sum(site.bytes for site in large),
        problems=plan.problems,
        next=_next(source, seen, plan),
    )


def _blocked(seen: Inspection) -> tuple[Blocked, ...]:
    found = [
        Blocked(prospect.name, places, reason)
        for prospect in seen.prospects
        if prospect.fidelity == Fidelity.LOSSY.value and not prospect.eligible
        for reason, places in prospect.blocked.items()
    ]
    return tuple(sorted(found, key=lambda b: (-b.places, b.name)))


def _next(source: str, seen: Inspection, plan: Plan) -> tuple[str, ...]:
    """Return what to run, from what needs nothing to what needs data with labels."""
    if plan.problems:
        return (f"whet inspect {shlex.quote(source)}  # what is in it",)
    start = f"whet compile {shlex.quote(source)} -o out"
    sizes = " ".join(f"--bind {name}=N" for name in plan.dimensions[:2])
    found = [f"{start}  # needs nothing{f'; {sizes} for the sizes that matter' if sizes else ''}"]
    if any(site.kind is not SiteKind.ATTENTION for site in seen.sites):
        names = ", ".join(p.name for p in seen.inputs if not p.optional)
        found.append(
            f"{start} --calibration c.npz --size 25%  # 100 samples and more of {names}, without labels"
        )
        found.append(f"{start} --calibration c.npz --labels v.npz --drop 1%  # as fast as possible")
    return tuple(found)
