"""Say why each decision was taken: what the next larger and the next smaller option would have cost and gained."""

import dataclasses

from whet.solve.allocation import Option, Plan, Problem

__all__ = ["Reason", "explain"]


@dataclasses.dataclass(frozen=True)
class Reason:
    """One decision in words and numbers."""

    site: str
    taken: str
    loss: float
    bytes: int
    ms: float | None
    because: str


def explain(problem: Problem, plan: Plan) -> tuple[Reason, ...]:
    """Return a sentence for every decision, from the prices as they were when the plan was made."""
    found: list[Reason] = []
    for decision, choice in zip(problem.decisions, plan.choices, strict=True):
        taken = decision.options[choice]
        others = [o for o in decision.options if o is not taken]
        better = min(
            (o for o in others if o.loss < taken.loss), key=lambda o: o.bytes, default=None
        )
        smaller = min(
            (o for o in others if o.bytes < taken.bytes and o.loss > taken.loss),
            key=lambda o: o.loss,
            default=None,
        )
        words = [
            *([] if better is None else [_better(taken, better)]),
            *([] if smaller is None else [_smaller(taken, smaller)]),
        ]
        because = "; ".join(words) or "nothing else is closer to the original, and nothing smaller"
        found.append(Reason(decision.name, taken.label, taken.loss, taken.bytes, taken.ms, because))
    return tuple(found)


def _better(taken: Option, other: Option) -> str:
    gained = f"{taken.loss - other.loss:.1e} less loss"
    more = other.bytes - taken.bytes
    slower = 0.0 if taken.ms is None or other.ms is None else other.ms - taken.ms
    cost = [f"{more:,} bytes"] * (more > 0) + [f"{slower:.3g} ms"] * (slower > 0)
    if cost:
        return f"{other.label} would cost {' and '.join(cost)} for {gained}"
    return f"{other.label} has {gained} by itself and costs nothing, but together with the rest it was not better"


def _smaller(taken: Option, other: Option) -> str:
    saved = taken.bytes - other.bytes
    return f"{other.label} would save {saved:,} bytes and add {other.loss - taken.loss:.1e}"
