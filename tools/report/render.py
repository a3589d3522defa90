"""Turn reports into pages: templates, style and script put into one file that asks nobody for anything."""

import base64
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from whet.errors import InvalidModel, UsageError
from whet.report import SCHEMA

__all__ = ["MISSING", "available", "read_report", "render", "render_comparison", "write_page"]

MISSING = "report.html needs jinja2 and matplotlib: pip install 'whet[report]', then whet report"
"""What to tell those who lack the libraries."""
_HERE = Path(__file__).parent
_LIGHT = "--paper: #fff; --ink: #1c2127; --muted: #68717c; --line: #d9dee4; --card: #f5f7f9;"
_DARK = (
    "--paper: #15181c; --ink: #e4e8ec; --muted: #98a2ad; --line: #343b43; --card: #1d2228; --good: #58b98a; "
    "--bad: #e2776f; --s1: #79aef0; --s2: #e8a061; --s3: #72c294; --s4: #b997dd; --s5: #e08aab; --lossy: #5a3d20; "
    "--changed: #253f60; --mark: #7a6410;"
)

Record = Mapping[str, Any]


def available() -> bool:
    """Tell whether the libraries of the extra ``report`` are installed."""
    return all(find_spec(name) is not None for name in ("jinja2", "matplotlib"))


def read_report(folder: Path) -> dict[str, Any]:
    """Read the report of an artifact, or the file itself; raises UsageError, and InvalidModel for another schema."""
    path = folder / "report.json" if folder.is_dir() else folder
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read '{path}': {error.strerror}") from error
    except ValueError as error:
        raise InvalidModel(f"'{path}' is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        number = found.get("schema") if isinstance(found, dict) else None
        raise InvalidModel(f"'{path}' has schema {number}, this version of whet reads {SCHEMA}")
    if found.get("interrupted"):
        raise UsageError(
            f"'{path}' is what an interrupted search left, without a report; compile again"
        )
    return found


def render(record: Record) -> str:
    """Return the page of one report; raises UsageError without the libraries."""
    _demand()
    from whet.tools.report.view import view

    names = ["Agreement", "Layers", *(["Search"] if record["search"] else []), "Passes"]
    shown = view(record)
    names += [*(["Break-even"] if shown.curves else []), "Speed", "Graph", "Reproduce"]
    binding = ", ".join(f"{k}={v}" for k, v in (record["profile"] or {}).get("binding", {}).items())
    return _fill("page.html.j2", view=shown, sections=names, binding=binding or "fixed sizes")


def render_comparison(named: Sequence[tuple[str, Record]]) -> str:
    """Return the page that holds two reports against each other; raises UsageError without the libraries."""
    _demand()
    from whet.tools.report.comparison import compare

    return _fill("compare.html.j2", **compare(named))


def write_page(text: str, path: Path) -> Path:
    """Put a page in place whole, or not at all."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", dir=path.parent, prefix=".whet-", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
        os.chmod(file.name, 0o644)
        os.replace(file.name, path)
    except OSError as error:
        raise UsageError(f"cannot write '{path}': {error.strerror}") from error
    return path


def _demand() -> None:
    if not available():
        raise UsageError(MISSING)


def _fill(template: str, **values: Any) -> str:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (_HERE / "page.js").read_text()
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    style = (_HERE / "style.css").read_text().replace("DARK", _DARK).replace("LIGHT", _LIGHT)
    return environment.get_template(template).render(
        **values, style=style, script=script, script_hash=f"sha256-{digest}"
    )
