"""Two reports held against each other: figures and tables side by side, plots in one."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from whet.tools.report.layer_plots import layers_plot
from whet.tools.report.layer_table import compared_layers, layer_bars, operators
from whet.tools.report.search_plots import front_plot, prediction_plot
from whet.tools.report.speed_plots import attained, roofline_plot, waterline_plot
from whet.tools.report.tables import Cell, Column, Table, big, number, text
from whet.tools.report.view import Headline, headlines

__all__ = ["compare"]

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Side:
    name: str
    record: Record
    headlines: Sequence[Headline]


def compare(named: Sequence[tuple[str, Record]]) -> dict[str, Any]:
    """Return what the comparison's template asks for."""
    names, records = [name for name, _ in named], [record for _, record in named]
    return {
        "names": names,
        "sides": [_Side(name, record, headlines(record)) for name, record in named],
        "warning": _warning(records),
        "layers": compared_layers(records, names),
        "passes": _passes(records, names),
        "plots": _plots(named, names, records),
    }


def _plots(
    named: Sequence[tuple[str, Record]], names: Sequence[str], records: Sequence[Record]
) -> dict[str, str]:
    plots: dict[str, str] = {}
    for unit, key in (("MB", "bytes"), ("ms", "times")):
        bars = layer_bars(records, unit)
        if bars:
            plots[key] = layers_plot(bars, names, unit)
    searches = [(f"{n}: ", r["search"]) for n, r in named if r["search"] and r["search"]["trials"]]
    if searches:
        plots["front"], plots["prediction"] = front_plot(searches), prediction_plot(searches)
    timed = [(n, r["profile"]) for n, r in named if r["profile"]]
    if timed:
        peak = timed[0][1]["peak"]
        sides = [
            (name, attained(operators(found, "after"), found["peak"])) for name, found in timed
        ]
        plots["roofline"], plots["waterline"] = roofline_plot(sides, peak), waterline_plot(sides)
    return plots


def _warning(records: Sequence[Record]) -> str:
    """Say what makes figures hard to compare."""
    sources = {r["provenance"]["sha256"] for r in records if r["provenance"]}
    versions = [{k: v for k, v in r["versions"].items() if k != "whet"} for r in records]
    words = ["the sources are not the same file"] if len(sources) > 1 else []
    words += ["they were made with different versions"] if versions[0] != versions[1] else []
    return f"Mind that {' and '.join(words)}." if words else ""


def _passes(records: Sequence[Record], names: Sequence[str]) -> Table:
    """Return what every pass changed in the two."""
    sides = [{step["spelling"] or step["name"]: step for step in r["steps"]} for r in records]
    columns = [Column("pass")]
    for title in ("changed", "Δ bytes", "error ≤"):
        columns += [Column(f"{title}, {name}") for name in names]
    rows: list[list[Cell]] = []
    for key in dict.fromkeys(k for side in sides for k in side):
        pair = [side.get(key) for side in sides]
        if not any(step and step["coverage"]["matched"] for step in pair):
            continue
        done = [None if s is None or s["reverted"] else s["coverage"] for s in pair]
        grown = [None if s is None else s["bytes_after"] - s["bytes_before"] for s in pair]
        rows.append([
            text(key, "name"),
            *(big(None if c is None else c["changed"]) for c in done),
            *(number(g, "+,.0f") for g in grown),
            *(number(None if c is None else c["max_error"], ".1e") for c in done),
        ])  # fmt: skip
    return Table("passes", columns, rows)
