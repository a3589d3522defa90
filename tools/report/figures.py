"""Matplotlib figures as inline SVG that follows the page's colours, light or dark, and is the same in every run."""

import contextlib
import io
import re
from collections.abc import Generator
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = ["COLOURS", "INK", "MUTED", "drawing", "log_log", "log_scale", "to_svg"]

INK, MUTED, GRID = "#010203", "#040506", "#070809"
COLOURS = ("#0a0b01", "#0a0b02", "#0a0b03", "#0a0b04", "#0a0b05")
"""Stand-ins, which become variables of the style sheet: ``--s1`` and so on."""
_VARIABLES = {
    INK: "--ink",
    MUTED: "--muted",
    GRID: "--line",
    **{colour: f"--s{k}" for k, colour in enumerate(COLOURS, 1)},
}
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 9,
    "text.color": INK,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "figure.constrained_layout.use": True,
}
_PARTS = re.compile(r' id="(?:figure|axes|text|patch|line2d|xtick|ytick|legend|PathCollection|matplotlib\.axis|'
                    r'LineCollection|FillBetweenPolyCollection|QuadMesh)_\d+"')  # fmt: skip
"""Names that nothing refers to and that other figures of the page have too."""


@contextlib.contextmanager
def drawing(name: str, width: float, height: float) -> Generator[Figure]:
    """Give a figure of so many inches in the page's style; ``name`` keeps its marks apart from other figures'."""
    style: dict[Any, Any] = {**_STYLE, "svg.hashsalt": name}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height))
        FigureCanvasSVG(figure)
        yield figure


def log_scale(axis: Any, base: int = 10) -> None:
    """Make an axis logarithmic, its numbers spelled out: the page's text has no formulas."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_locator(LogLocator(base, numticks=7))
    axis.set_major_formatter(FuncFormatter(_spelled))
    axis.set_minor_formatter(NullFormatter())


def log_log(axes: Any, across: str, up: str) -> None:
    """Make both axes logarithmic, name them, and say what the marks are."""
    for axis, label in ((axes.xaxis, across), (axes.yaxis, up)):
        log_scale(axis)
        axis.set_label_text(label)
    axes.legend(fontsize=8)


def _spelled(value: float, _place: int | None) -> str:
    return f"{value:g}"


def to_svg(figure: Figure, words: str) -> str:
    """Return the figure as an SVG element; ``words`` say what it shows to those who do not see it."""
    from markupsafe import escape

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = _PARTS.sub("", text)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{escape(words)}" ', 1).strip()
