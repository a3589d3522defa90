"""Layers in pictures: bytes and milliseconds before and after, how weights are spread, when factors pay."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.ticker import NullFormatter

from whet.tools.report.figures import COLOURS, INK, MUTED, drawing, log_scale, to_svg

__all__ = ["break_even_plot", "histogram_plot", "layers_plot", "spectrum_plot"]

_BARS = 30
_LONG = 38
_NOTHING = 1e-12
"""Smaller shares are rounding."""

Record = Mapping[str, Any]
Bars = Sequence[tuple[str, float, Sequence[float]]]
"""Layer, before, and after in each of the results."""


def layers_plot(bars: Bars, names: Sequence[str], unit: str) -> str:
    """Draw the largest layers before and after, one colour for each result."""
    shown = sorted(bars, key=lambda bar: -bar[1])[:_BARS]
    with drawing(f"layers {unit}", 6.3, 0.8 + 0.21 * len(shown)) as figure:
        axes = figure.add_subplot()
        rows = range(len(shown))
        axes.barh(
            rows, [b for _, b, _ in shown], 0.8, color="none", edgecolor=MUTED, label="before"
        )
        height = 0.62 / max(1, len(names))
        for k, (name, colour) in enumerate(zip(names, COLOURS, strict=False)):
            shift = (k - (len(names) - 1) / 2) * height
            axes.barh([r + shift for r in rows], [a[k] for _, _, a in shown], height * 0.92,
                      color=colour, label=name)  # fmt: skip
        axes.set_yticks(list(rows), [_short(name) for name, _, _ in shown], fontsize=7)
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(unit)
        axes.legend(fontsize=8, loc="lower right")
        return to_svg(figure, f"{unit} of the {len(shown)} largest layers, before and after")


def _short(name: str) -> str:
    return name if len(name) <= _LONG else f"…{name[1 - _LONG :]}"


def histogram_plot(histograms: Sequence[Record]) -> str:
    """Draw the weights of some layers, before as an outline and after as bars, in the same bins."""
    columns = 4
    lines = -(-len(histograms) // columns)
    with drawing("weights", 9.2, 1.75 * lines) as figure:
        for place, record in enumerate(histograms, 1):
            axes = figure.add_subplot(lines, columns, place)
            count = len(record["before"])
            width = (record["high"] - record["low"]) / count
            edges = [record["low"] + width * k for k in range(count + 1)]
            if record["after"] is not None:
                axes.stairs(record["after"], edges, fill=True, color=COLOURS[0], alpha=0.7)
            axes.stairs(record["before"], edges, color=INK, linewidth=0.8)
            axes.set_yscale("symlog", linthresh=1)
            axes.yaxis.set_major_formatter(NullFormatter())
            kept = record["distinct"]
            title = _short(record["site"])[-26:] + (
                "" if kept is None else f"\n{kept:,} values after"
            )
            axes.set_title(title, fontsize=7)
            axes.tick_params(labelsize=6)
        return to_svg(figure, "weights of the layers with most damage, before and after")


def break_even_plot(site: str, curve: Sequence[Record]) -> str:
    """Draw milliseconds with a bias and with factors by length: factors pay where their line is the lower one."""
    with drawing(f"break-even {site}", 4.6, 3.2) as figure:
        axes = figure.add_subplot()
        points = sorted(curve, key=lambda p: (p["length"], p["rank"]))
        bias = dict.fromkeys((p["length"], p["ms_before"]) for p in points)
        axes.plot(
            [n for n, _ in bias], [ms for _, ms in bias], "o-", color=MUTED, label="with the bias"
        )
        for colour, rank in zip(COLOURS, sorted({p["rank"] for p in points}), strict=False):
            own = [p for p in points if p["rank"] == rank]
            axes.plot([p["length"] for p in own], [p["ms_after"] for p in own], "s-", color=colour,
                      label=f"factors of rank {rank}")  # fmt: skip
        log_scale(axes.xaxis, 2)
        log_scale(axes.yaxis)
        axes.set_xlabel("length")
        axes.set_ylabel("ms")
        axes.set_title(_short(site), fontsize=8)
        axes.legend(fontsize=8)
        return to_svg(figure, "milliseconds with the bias and with factors, by length")


def spectrum_plot(site: str, lost: Sequence[float]) -> str:
    """Draw the share of a bias's energy that is lost at each rank."""
    with drawing(f"spectrum {site}", 4.6, 3.2) as figure:
        axes = figure.add_subplot()
        shown = [(rank, share) for rank, share in enumerate(lost) if share > _NOTHING]
        axes.plot(
            [r for r, _ in shown], [s for _, s in shown], "o-", color=COLOURS[0], markersize=3
        )
        log_scale(axes.yaxis)
        axes.set_xlabel("rank")
        axes.set_ylabel("share of the energy that is lost")
        axes.set_title(_short(site), fontsize=8)
        return to_svg(figure, "share of the energy of a bias that is lost at each rank")
