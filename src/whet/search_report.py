"""The part of the report that a search fills: what was chosen for every site and why, and what was measured."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.text import Text

from whet.printing import new_table, titled

__all__ = ["searched"]

_DECISIONS, _TRIALS = 12, 10
_HINT = "only formats were tried; --start 'prune-structure{ratio=0.25}' also begins at a smaller network"


def searched(record: Mapping[str, Any]) -> Group:
    """Return the tables of a search, from its record in ``report.json``."""
    trials = [trial for trial in record["trials"] if trial["why"] not in ("random", "near")]
    mixtures = sum(trial["why"] == "random" for trial in record["trials"])
    near = len(record["trials"]) - len(trials) - mixtures
    words = Text(
        f"{len(trials)} plans measured, {near} more for their loss; predicted and measured losses of "
        f"{mixtures} mixtures have a rank correlation of {record['rank_correlation']:.2f}\n"
    )
    if record["missed"]:
        words.append(f"the budget is missed: {record['missed']}\n", style="yellow")
        if len(record["starts"]) == 1:
            words.append(f"{_HINT}\n")
    first = [_starts(record)] if len(record["starts"]) > 1 else []
    return Group(*first, _decisions(record["decisions"]), _trials(trials), words)


def _starts(record: Mapping[str, Any]) -> Group:
    table = new_table()
    table.add_column("start", overflow="fold")
    for name in ("bytes", "ms", "loss", "best bytes", "best ms", "best loss"):
        table.add_column(name, justify="right")
    table.add_column("", overflow="fold")
    for start in record["starts"]:
        taken = "taken" if start["recipe"] == record["start"] else ""
        name = escape(start["recipe"]) or "the source"
        table.add_row(
            name, *_cells(start["seen"]), *_cells(start["best"]), start["skipped"] or taken
        )
    return titled("Where the search began", table)


def _cells(seen: Mapping[str, Any] | None) -> list[str]:
    if seen is None:
        return ["-"] * 3
    ms = "-" if seen["ms"] is None else f"{seen['ms']:.3g}"
    return [f"{seen['bytes']:,}", ms, f"{seen['loss']:.2e}"]


def _decisions(decisions: Sequence[Mapping[str, Any]]) -> Group:
    table = new_table()
    table.add_column("site", overflow="fold")
    table.add_column("taken", overflow="fold")
    table.add_column("loss ≈", justify="right")
    table.add_column("because", overflow="fold")
    ranked = sorted(decisions, key=lambda d: -float(d["loss"]))
    for decision in ranked[:_DECISIONS]:
        table.add_row(
            escape(decision["site"]),
            escape(decision["taken"]),
            f"{decision['loss']:.1e}",
            escape(decision["because"]),
        )
    counts = Counter(str(decision["taken"]) for decision in decisions)
    listed = ", ".join(f"{label} x{count}" for label, count in counts.most_common())
    rest = len(decisions) - _DECISIONS
    table.caption = escape(f"{f'{rest} more in report.json; ' if rest > 0 else ''}taken: {listed}")
    return titled("Plan, the dearest decisions first", table)


def _trials(trials: Sequence[Mapping[str, Any]]) -> Group:
    table = new_table()
    table.add_column("plan")
    for name in ("bytes", "ms", "loss predicted", "measured", "drop", "front"):
        table.add_column(name, justify="right")
    for number, trial in list(enumerate(trials, 1))[-_TRIALS:]:
        seen, drop = trial["measured"], trial["drop"]
        table.add_row(
            f"{number} {trial['why']}",
            f"{seen['bytes']:,}",
            "-" if seen["ms"] is None else f"{seen['ms']:.3g}",
            f"{trial['predicted']['loss']:.2e}",
            f"{seen['loss']:.2e}",
            "-" if drop is None else f"{drop:.4f} ± {trial['standard_error']:.4f}",
            "yes" if trial["on_front"] else "",
        )
    return titled("Measured on data that the search may see", table)
