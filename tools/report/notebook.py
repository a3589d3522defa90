"""The page inside a notebook: in a frame of its own, so that neither disturbs the other."""

from collections.abc import Mapping
from html import escape
from typing import Any

from whet.tools.report.render import MISSING, available, render

__all__ = ["in_frame"]


def in_frame(record: Mapping[str, Any]) -> str:
    """Return HTML that shows the page of a report; a line of text without the libraries."""
    if not available():
        return f"<p>{escape(MISSING)}</p>"
    page = escape(render(record), quote=True)
    style = "width:100%;height:46rem;border:1px solid #8888"
    return f'<iframe sandbox="allow-scripts" style="{style}" srcdoc="{page}"></iframe>'
