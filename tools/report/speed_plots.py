"""How well the runtime uses the machine: the roofline, and each operator's gap below what could be attained."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from whet.tools.report.figures import COLOURS, INK, MUTED, drawing, log_log, to_svg

__all__ = ["Attained", "attained", "roofline_plot", "waterline_plot"]

_TOP = 1.25
"""Where bars end: what lies in a cache moves faster than memory does."""
_MARKS = 300

Record = Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Attained:
    """One operator: what it attains of what the machine could."""

    name: str
    op: str
    ms: float
    least: float
    """Milliseconds at the attainable throughput: the larger of computing and moving."""
    intensity: float
    """Operations per byte."""
    rate: float
    """Operations a second."""

    @property
    def share(self) -> float:
        """Return attained over attainable."""
        return self.least / self.ms if self.ms else 0.0


def attained(rows: Sequence[Record], peak: Record) -> list[Attained]:
    """Hold each operator against the roof: ``min(flops, intensity x bytes)`` a second."""
    found: list[Attained] = []
    for row in rows:
        speed = peak["integer"] if row["integer"] else peak["flops"]
        compute = row["flops"] / speed if speed else 0.0
        move = row["bytes"] / peak["bytes"] if peak["bytes"] else 0.0
        intensity = row["flops"] / row["bytes"] if row["bytes"] else 0.0
        rate = row["flops"] / (row["ms"] / 1e3) if row["ms"] else 0.0
        least = 1e3 * max(compute, move)
        found.append(Attained(row["name"], row["op"], row["ms"], least, intensity, rate))
    return found


def roofline_plot(named: Sequence[tuple[str, Sequence[Attained]]], peak: Record) -> str:
    """Draw operations a second over operations per byte, the area of a mark proportional to its time."""
    with drawing("roofline", 5.6, 3.8) as figure:
        axes = figure.add_subplot()
        points = [r for _, rows in named for r in rows if r.rate > 0 and r.intensity > 0]
        low = min((r.intensity for r in points), default=0.1) / 2
        high = max((r.intensity for r in points), default=100.0) * 4
        longest = max((r.ms for r in points), default=0.0) or 1.0
        for label, speed, style in (
            ("int8", peak["integer"], ":"),
            ("float32", peak["flops"], "-"),
        ):
            xs = sorted({low, min(high, max(low, speed / peak["bytes"])), high})
            ys = [min(speed, x * peak["bytes"]) / 1e9 for x in xs]
            axes.plot(xs, ys, style, color=MUTED, label=f"attainable, {label}")
        for colour, (name, rows) in zip((INK, *COLOURS), named, strict=False):
            own = _longest([r for r in rows if r.rate > 0 and r.intensity > 0])
            axes.scatter([r.intensity for r in own], [r.rate / 1e9 for r in own],
                         s=[_area(r.ms / longest) for r in own], facecolors="none", edgecolors=colour,
                         label=name)  # fmt: skip
        log_log(axes, "operations per byte", "GFLOP/s")
        return to_svg(figure, "roofline: attained operations a second by operations per byte")


def _area(share: float) -> float:
    """Return one of five sizes: each size is a shape of its own in the page."""
    return 8.0 + 24.0 * round(4 * share)


def _longest(rows: Sequence[Attained]) -> list[Attained]:
    """Return the operators that take longest: marks that nobody could tell apart are not drawn."""
    return sorted(rows, key=lambda r: -r.ms)[:_MARKS]


def waterline_plot(named: Sequence[tuple[str, Sequence[Attained]]]) -> str:
    """Draw a bar for each operator, as wide as its time and as high as its share of the attainable.

    What is empty below the waterline is the time that better kernels could save.
    """
    longest = max((sum(r.ms for r in rows) for _, rows in named), default=0.0) or 1.0
    with drawing("waterline", 9.2, 1.9 * len(named)) as figure:
        for place, (name, rows) in enumerate(named, 1):
            axes = figure.add_subplot(len(named), 1, place)
            shown = sorted(_longest(rows), key=lambda r: r.least - r.ms)
            widths = [r.ms for r in shown]
            axes.bar(
                [sum(widths[:k]) for k in range(len(shown))],
                [min(r.share, _TOP) for r in shown],
                widths,
                align="edge",
                color=[COLOURS[0] if r.rate > 0 else COLOURS[1] for r in shown],
                linewidth=0,
            )
            axes.axhline(1.0, color=INK, linewidth=1)
            axes.set_ylim(0, _TOP)
            axes.set_xlim(0, longest)
            axes.set_yticks([0, 0.5, 1], ["0", "50 %", "100 %"])
            whole, gap = (
                sum(x) for x in zip(*((r.ms, max(0.0, r.ms - r.least)) for r in rows), strict=True)
            )
            axes.set_title(
                f"{name}: {whole:.3g} ms in operators, {gap / (whole or 1.0):.0%} of it above the least",
                fontsize=9,
            )
        figure.axes[-1].set_xlabel("ms, operators side by side, the largest gap first; "
                                   "the first colour computes, the second moves bytes only")  # fmt: skip
        return to_svg(figure, "share of the attainable throughput by operator")
