"""What a search tried: its front in bytes, milliseconds and metric, and how well losses were predicted."""

from collections.abc import Mapping, Sequence
from typing import Any

from whet.tools.report.figures import COLOURS, INK, MUTED, drawing, log_log, to_svg

__all__ = ["front_plot", "prediction_plot"]

Record = Mapping[str, Any]
Named = Sequence[tuple[str, Record]]


def front_plot(searches: Named) -> str:
    """Draw every plan that was measured whole, those that no other one beats marked; one colour for each search."""
    timed = any(t["measured"]["ms"] is not None for _, s in searches for t in _whole(s))
    scored = all(t["measured"]["metric"] is not None for _, s in searches for t in _whole(s))
    axes_of = [("bytes", "size, MB", 1e-6), *([("ms", "latency, ms", 1.0)] if timed else [])]
    with drawing("front", 4.6 * len(axes_of), 3.6) as figure:
        for place, (key, label, scale) in enumerate(axes_of, 1):
            axes = figure.add_subplot(1, len(axes_of), place)
            for colour, (name, search) in zip(COLOURS, searches, strict=False):
                _plans(axes, search, key, scale, scored, colour, name)
            axes.set_xlabel(label)
            axes.set_ylabel("metric" if scored else "loss, measured")
        figure.axes[0].legend(fontsize=8)
        return to_svg(figure, "plans that were measured, by size, latency and metric")


def _whole(search: Record) -> list[Record]:
    return [t for t in search["trials"] if t["why"] not in ("random", "near")]


def _plans(
    axes: Any, search: Record, key: str, scale: float, scored: bool, colour: str, name: str
) -> None:
    value = "metric" if scored else "loss"
    trials = [t for t in _whole(search) if t["measured"][key] is not None]
    points = [(t["measured"][key] * scale, t["measured"][value], t) for t in trials]
    axes.scatter([x for x, _, _ in points], [y for _, y, _ in points], s=18, color=colour, alpha=0.4,
                 label=f"{name}plans measured")  # fmt: skip
    front = [(x, y) for x, y, t in points if t["on_front"]]
    axes.plot([x for x, _ in front], [y for _, y in front], "D", color=colour, markersize=5,
              label=f"{name}beaten by none")  # fmt: skip
    source, best = search["source"], search["best"]
    if source[key] is not None and source[value] is not None:
        axes.plot(
            source[key] * scale,
            source[value],
            "*",
            color=MUTED,
            markersize=11,
            label=f"{name}source",
        )
    if best is not None and best["measured"][key] is not None:
        axes.plot(best["measured"][key] * scale, best["measured"][value], "o", markersize=12,
                  markerfacecolor="none", markeredgecolor=INK, label=f"{name}taken")  # fmt: skip


def prediction_plot(searches: Named) -> str:
    """Draw predicted against measured losses of random mixtures, the diagonal where they agree."""
    with drawing("prediction", 4.6, 3.6) as figure:
        axes = figure.add_subplot()
        for colour, (name, search) in zip(COLOURS, searches, strict=False):
            pairs = [
                (t["predicted"]["loss"], t["measured"]["loss"])
                for t in search["trials"]
                if t["why"] == "random" and t["predicted"]["loss"] > 0 and t["measured"]["loss"] > 0
            ]
            label = f"{name}rank correlation {search['rank_correlation']:.3f}"
            axes.scatter(
                [p for p, _ in pairs], [m for _, m in pairs], s=22, color=colour, label=label
            )
            if pairs:
                ends = [min(min(p) for p in pairs), max(max(p) for p in pairs)]
                axes.plot(ends, ends, "--", color=MUTED, linewidth=1)
        log_log(axes, "loss, predicted", "loss, measured")
        return to_svg(figure, "predicted and measured losses of random mixtures")
