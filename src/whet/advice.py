"""What to take back first: the damage that leaving a site alone avoids, against what that costs."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from whet.passes.base import Damage
from whet.passes.pipeline import Step
from whet.passes.registry import parse_passes

__all__ = ["Advice", "advise"]

_UNSPELLABLE = re.compile(r"[,+{}=\[\]]")
"""Characters that mean something in a recipe or a pattern; ``?`` stands for any one."""
_FREE = 1e-3
"""Reverting costs at least this share, so that sites which cost nothing to revert are ranked by their damage."""


@dataclasses.dataclass(frozen=True)
class Advice:
    """Leave one site alone."""

    site: str
    avoided: float
    """Share of the predicted loss of all sites together."""
    error: float
    bytes: int
    """What the file grows by."""
    ms: float | None
    """What a run gets longer by, where both forms were measured."""
    recipe: str
    """The recipe that leaves the site alone, or the entry of a file."""

    def __str__(self) -> str:
        """Say it in a sentence."""
        costs = [f"{self.bytes:+,} bytes"]
        if self.ms is not None:
            costs.append(f"{self.ms:+.3g} ms")
        return (
            f"leaving {self.site} alone avoids {self.avoided:.0%} of the predicted loss and costs "
            f"{' and '.join(costs)}: {self.recipe}"
        )


def advise(steps: Sequence[Step], recipe: str) -> list[Advice]:
    """Return every damaged site, the one that avoids most for what it costs first.

    The price of reverting is its share of all bytes plus its share of all milliseconds that lossy passes saved.
    """
    rows = [(step, row) for step in steps if not step.reverted for row in step.coverage.damage]
    loss = sum(row.predicted_loss for _, row in rows)
    if loss <= 0:
        return []
    saved = sum(max(_bytes(row), 0) for _, row in rows)
    gained = sum(max(_ms(row) or 0.0, 0.0) for _, row in rows)
    ranked: list[tuple[float, Advice]] = []
    for step, row in rows:
        ms = _ms(row)
        price = _share(_bytes(row), saved) + _share(ms or 0.0, gained)
        advice = Advice(
            row.site,
            row.predicted_loss / loss,
            row.error,
            _bytes(row),
            ms,
            _recipe(recipe, step, row.site),
        )
        ranked.append((advice.avoided / max(price, _FREE), advice))
    ranked.sort(key=lambda pair: -pair[0])
    return [advice for _, advice in ranked]


def _bytes(row: Damage) -> int:
    return row.bytes_before - row.bytes_after


def _ms(row: Damage) -> float | None:
    if row.ms_before is None or row.ms_after is None:
        return None
    return row.ms_before - row.ms_after


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _recipe(recipe: str, step: Step, site: str) -> str:
    """Spell the recipe with the site left alone."""
    name = _UNSPELLABLE.sub("?", site)
    if recipe == "auto":
        return f"--recipe 'auto{{skip={name}}}'"
    if (given := re.fullmatch(r"auto\s*\{\s*skip\s*=(.*)\}", recipe)) is not None:
        return f"--recipe 'auto{{skip={given.group(1).strip()}+{name}}}'"
    if recipe.endswith(".toml"):
        return f'in {recipe}, the pass {step.name} takes skip = ["{name}"]'
    passes = [
        dataclasses.replace(p, **_more(p.skip, name)) if p.name == step.name else p
        for p in parse_passes(recipe)
    ]
    return f"--recipe '{','.join(map(str, passes))}'"


def _more(skip: tuple[str, ...], name: str) -> dict[str, Any]:
    return {"skip": (*skip, name)}
