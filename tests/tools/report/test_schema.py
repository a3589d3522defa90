"""docs/report_schema.md names every key that is written, and none that is not."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from report_maker import make_report

ROOT = Path(__file__).resolve().parents[3]
FREE = {
    "versions", "fusions", "kernels", "kernels.*", "agreements[].binding", "provenance.files", "profile.binding",
    "contest.refused",
    "steps[].coverage.declined", "steps[].coverage.near_misses", "steps[].coverage.proofs",
    "steps[].coverage.break_even", "steps[].coverage.spectra", "search.idle_candidates",
}  # fmt: skip
"""Objects whose keys are names of something."""


def keys(data: Any, path: str = "") -> Iterator[str]:
    """Yield the path of everything inside."""
    if isinstance(data, dict) and set(data) == {"columns", "rows"}:
        yield from (f"{path}.{part}{end}" for part in ("columns", "rows") for end in ("", "[]"))
        yield from (f"{path}.rows[].{name}" for name in data["columns"])
    elif isinstance(data, dict):
        for key, value in data.items():
            inner = f"{path}.*" if path in FREE else f"{path}.{key}".lstrip(".")
            yield inner
            yield from keys(value, inner)
    elif isinstance(data, list):
        for item in data:
            yield f"{path}[]"
            yield from keys(item, f"{path}[]")


def documented() -> set[str]:
    text = (ROOT / "docs" / "report_schema.md").read_text()
    cells = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def parents(names: set[str]) -> set[str]:
    """Add what a documented key lies in: ``a.b[].c`` says that there are ``a``, ``a.b`` and ``a.b[]``."""
    found = set(names)
    for name in names:
        pieces = re.split(r"(\[\]|\.)", name)
        found |= {"".join(pieces[:k]).rstrip(".") for k in range(1, len(pieces))}
    return found - {""}


def test_documented_keys_are_the_written_ones() -> None:
    written = set(keys(make_report(4).to_json()))
    described = parents(documented())
    assert sorted(written - described) == []
    assert sorted(described - written) == []


def test_the_number_of_the_schema_is_documented() -> None:
    text = (ROOT / "docs" / "report_schema.md").read_text()
    assert f"| `schema` | {make_report(1).to_json()['schema']} |" in text
