"""docs/target_c.md lists the operators that have an emitter, with their limits, and no others."""

from pathlib import Path

from whet.backends.c.registry import limits

PAGE = Path(__file__).parents[3] / "docs" / "target_c.md"


def table() -> str:
    """Return the rows as the page has them; operators with the same limits are in one row."""
    rows: dict[str, list[str]] = {}
    for kind, note in limits().items():
        rows.setdefault(note, []).append(f"`{kind}`")
    lines = [f"| {', '.join(kinds)} | {note or 'any shape'} |" for note, kinds in rows.items()]
    return "\n".join(sorted(lines))


def test_the_page_lists_what_there_is() -> None:
    text = PAGE.read_text()
    start = text.index("| operators | limits |\n|---|---|\n") + len(
        "| operators | limits |\n|---|---|\n"
    )
    assert text[start : text.index("\n\n", start)] == table(), table()
