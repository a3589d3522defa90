"""Put the page of a report beside it."""

from pathlib import Path

from whet.report import Report

__all__ = ["add_page"]


def add_page(folder: Path, report: Report) -> None:
    """Write ``report.html`` beside ``report.json``; what has been compiled is not lost where that fails.

    The report gets a note without the libraries, and where the page could not be drawn.
    """
    from whet.tools.report.render import MISSING, available, render, write_page

    if not available():
        report.notes.append(MISSING)
        return
    try:
        write_page(render(report.to_json()), folder / "report.html")
    except Exception as error:  # whatever a drawing stumbles over
        report.notes.append(f"report.html could not be rendered: {error!r}")
