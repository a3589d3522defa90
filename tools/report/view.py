"""From a ``report.json`` to what the page shows, section by section; everything is plain data and SVG."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from whet.tools.report.graph_drawing import Drawn, draw_graph
from whet.tools.report.layer_plots import (
    break_even_plot,
    histogram_plot,
    layers_plot,
    spectrum_plot,
)
from whet.tools.report.layer_table import layer_bars, layer_table, operators
from whet.tools.report.search_plots import front_plot, prediction_plot
from whet.tools.report.speed_plots import Attained, attained, roofline_plot, waterline_plot
from whet.tools.report.tables import Cell, Column, Table, big, ms, number, ratio, size, text

__all__ = ["Headline", "View", "headlines", "operator_table", "view"]

_OPERATORS = 400
"""Operators that are listed, those with the largest gap; a large model has thousands."""

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Headline:
    """One figure before and after."""

    name: str
    before: str
    after: str
    ratio: str
    spread: str = ""


@dataclasses.dataclass(frozen=True)
class View:
    """What the page shows of one report."""

    record: Record
    headlines: Sequence[Headline]
    verdict: tuple[str, Sequence[str]]
    """Whether the budget is kept, in a word that is also its style, and the reasons."""
    ledger: Table
    layers: Table
    plots: Mapping[str, str]
    curves: Sequence[str]
    operators: Table | None
    graph: Drawn | None


def view(record: Record) -> View:
    """Return everything that a page shows of a report."""
    plots: dict[str, str] = {}
    search, found = record["search"], record["profile"]
    if search is not None and search["trials"]:
        plots["front"] = front_plot([("", search)])
        plots["prediction"] = prediction_plot([("", search)])
    for unit, name in (("MB", "bytes"), ("ms", "times")):
        bars = layer_bars([record], unit)
        if bars:
            plots[name] = layers_plot(bars, ["after"], unit)
    if record["histograms"]:
        plots["weights"] = histogram_plot(record["histograms"])
    sides: list[tuple[str, list[Attained]]] = []
    if found is not None:
        timed = [(when, operators(found, when)) for when in ("before", "after")]
        sides = [(when, attained(rows, found["peak"])) for when, rows in timed if rows]
        plots["roofline"] = roofline_plot(sides, found["peak"])
        plots["waterline"] = waterline_plot(sides)
    return View(
        record,
        headlines(record),
        _verdict(record),
        _ledger(record["steps"]),
        layer_table(record),
        plots,
        _attention_plots(record["steps"]),
        operator_table(sides) if sides else None,
        None if record["graph"] is None else draw_graph(record["graph"], record["steps"]),
    )


def headlines(record: Record) -> list[Headline]:
    """Return the figures that matter, with their spread."""
    b, a = record["before"], record["after"]
    found = [
        Headline("size on disk", size(b["bytes"]), size(a["bytes"]), ratio(b["bytes"], a["bytes"]),
                 f"{b['bytes']:,} → {a['bytes']:,} bytes"),
    ]  # fmt: skip
    if b["time"] and a["time"]:
        old, new = b["time"], a["time"]
        spread = f"quartiles {_quartiles(old)} → {_quartiles(new)} ms, {new['runs']} blocks"
        found.append(Headline("latency", f"{old['median']:.3g} ms", f"{new['median']:.3g} ms",
                              ratio(old["median"], new["median"]), spread))  # fmt: skip
    if record["metric"]:
        old, new = record["metric"]
        found.append(
            Headline("metric", f"{old:.4f}", f"{new:.4f}", f"{new - old:+.4f}", _interval(record))
        )
    if b["peak_bytes"] and a["peak_bytes"]:
        old, new = b["peak_bytes"], a["peak_bytes"]
        found.append(
            Headline(
                "peak memory",
                size(old),
                size(new),
                ratio(old, new),
                "process that loads and runs it",
            )
        )
    found.append(Headline("operators", f"{b['ops']:,}", f"{a['ops']:,}", ratio(b["ops"], a["ops"])))
    parameters = b["parameters"], a["parameters"]
    old, new = parameters
    found.append(Headline("parameters", f"{old:,}", f"{new:,}", ratio(old, new)))
    return found


def _quartiles(time: Record) -> str:
    return f"{time['low']:.3g}–{time['high']:.3g}"


def _interval(record: Record) -> str:
    i = record["interval"]
    if i is None:
        return "no interval: the metric is one number, not a mean over samples"
    return f"drop {i['drop']:.4f}, with 95 % confidence {i['low']:.4f} to {i['high']:.4f} ({i['method']})"


def _verdict(record: Record) -> tuple[str, Sequence[str]]:
    """Say whether the budget is kept, limit by limit."""
    limits = record["limits"]
    device = [k for k in ("ram", "flash") if limits is not None and limits.get(k) is not None]
    if limits is None or not (
        device or any(limits[k] is not None for k in ("drop", "bytes", "ms"))
    ):
        return "none", ["no budget was given"]
    words: list[str] = []
    a = record["after"]
    if limits["bytes"] is not None:
        words.append(f"size {a['bytes']:,} bytes, limit {limits['bytes']:,}")
    if limits["ms"] is not None:
        taken = "was not measured" if a["time"] is None else f"{a['time']['median']:.3g} ms"
        words.append(f"latency {taken}, limit {limits['ms']:g} ms")
    if limits["drop"] is not None and record["metric"]:
        old, new = record["metric"]
        words.append(f"drop of the metric {old - new:.4f}, limit {limits['drop']:g}")
    words += [f"{'RAM' if k == 'ram' else k} of the device {limits[k]:,} bytes" for k in device]
    missed = list(limits["missed"])
    if record["search"] is not None and record["search"]["missed"]:
        missed.append(record["search"]["missed"])
    return ("missed", [*missed, *words]) if limits["missed"] else ("kept", words)


def _ledger(steps: Sequence[Record]) -> Table:
    """Return what every pass did; those that found nothing to look at are left out."""
    columns = [
        Column("pass"), Column("fidelity"), Column("matched", "places with its pattern"),
        Column("eligible", "where its conditions hold too"), Column("changed", "proven and committed"),
        Column("declined", "places left as they are"), Column("refused", "rewrites that the proof refused"),
        Column("error ≤"), Column("Δ ops"), Column("Δ bytes"), Column("s", "seconds"),
        Column("proven by"), Column("what became of it"),
    ]  # fmt: skip
    rows = [_step(s) for s in steps if s["coverage"]["matched"] or s["coverage"]["failures"]]
    return Table("passes", columns, rows, choices=1)


def _step(step: Record) -> list[Cell]:
    c = step["coverage"]
    declined = sum(len(sites) for sites in c["declined"].values())
    proofs = ", ".join(f"{count} {oracle}" for oracle, count in sorted(c["proofs"].items()))
    return [
        text(step["name"], "name"),
        text(step["fidelity"]),
        big(c["matched"]),
        big(c["eligible"]),
        big(0 if step["reverted"] else c["changed"]),
        big(declined),
        big(len(c["failures"])),
        number(c["max_error"], ".1e"),
        number(step["ops_after"] - step["ops_before"], "+,.0f"),
        number(step["bytes_after"] - step["bytes_before"], "+,.0f"),
        number(step["seconds"], ".2f"),
        text(proofs),
        text(_outcome(step), "why"),
    ]


def _outcome(step: Record) -> str:
    """Return why places were left, refused, or the whole pass taken back."""
    c, words = step["coverage"], []
    if step["reverted"]:
        words.append(f"taken back: {step['reverted']}")
    words += [f"refused at {f['site']}: {f['reason']}" for f in c["failures"]]
    if step["metric"]:
        words.append(f"metric {step['metric'][0]:.4f} → {step['metric'][1]:.4f}")
    ranked = sorted(c["declined"].items(), key=lambda item: -len(item[1]))
    words += [f"declined at {_places(sites)}: {reason}" for reason, sites in ranked[:6]]
    if len(ranked) > 6:
        words.append(f"{len(ranked) - 6} more reasons in report.json")
    if not c["changed"]:
        near = list(c["near_misses"].items())[:1]
        words += [f"nearest miss at {_places(sites)}: {reason}" for reason, sites in near]
    return "; ".join(words)


def _places(sites: Sequence[str]) -> str:
    more = len(sites) - 1
    return str(sites[0]) + (f" and {more} more" if more else "")


def _attention_plots(steps: Sequence[Record]) -> list[str]:
    """Draw the spectra of biases and when factors pay, equal ones once."""
    spectra = {
        repr(lost): (site, lost)
        for step in reversed(steps)
        for site, lost in reversed(step["coverage"]["spectra"].items())
    }
    return [
        *(spectrum_plot(site, lost) for site, lost in reversed(spectra.values())),
        *(break_even_plot(site, curve) for site, curve in _curves(steps).items()),
    ]


def _curves(steps: Sequence[Record]) -> dict[str, Sequence[Record]]:
    """Return what factors were measured to gain by length, equal curves once."""
    found: dict[str, tuple[str, Sequence[Record]]] = {}
    for step in steps:
        for site, curve in step["coverage"]["break_even"].items():
            found.setdefault(repr(curve), (site, curve))
    return dict(found.values())


def operator_table(sides: Sequence[tuple[str, Sequence[Attained]]]) -> Table:
    """Return the runtime's operators with what they attain, the largest gap first."""
    columns = [
        Column("model"), Column("operator of the runtime"), Column("kind"), Column("ms"),
        Column("least", "ms at the attainable throughput"), Column("attained", "of what is attainable"),
        Column("GFLOP/s"), Column("operations per byte"),
    ]  # fmt: skip
    rows = [
        (r.ms - r.least, [
            text(name), text(r.name, "name"), text(r.op), ms(r.ms), ms(r.least), number(r.share, ".0%"),
            number(r.rate / 1e9 or None, ".3g"), number(r.intensity or None, ".3g"),
        ])
        for name, found in sides for r in found
    ]  # fmt: skip
    rows.sort(key=lambda row: -row[0])
    shown = [cells for _, cells in rows[:_OPERATORS]]
    return Table("operators", columns, shown, choices=0, left_out=len(rows) - len(shown))
