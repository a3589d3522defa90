"""Compile a model of several gigabytes and measure the memory that takes against the model's size.

``python -m whet.tools.bench.memory [--gigabytes 3] [--json FILE]``
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from whet.ir.storage import stored_bytes
from whet.tools.bench.large_model import write_large_model
from whet.tools.bench.process_tree import Usage, watch

__all__ = ["LIMIT", "main", "measure"]

LIMIT = 1.5
"""Memory of a compile may be this many times the model."""
_ROOM = 5
"""Times the model that must be free on disk: source, spilled weights, artifact, and the runtime's own copy."""


@dataclasses.dataclass
class Row:
    """One compile."""

    name: str
    model_bytes: int
    usage: Usage

    @property
    def ratio(self) -> float:
        """Return the peak of all processes together over the size of the model."""
        return self.usage.tree / self.model_bytes


def measure(gigabytes: float, folder: Path) -> list[Row]:
    """Compile a model of about ``gigabytes``, with measuring off and on; ``folder`` holds everything."""
    source = write_large_model(folder, gigabytes)
    size = stored_bytes(source)
    rows: list[Row] = []
    for name, extra in (("measuring off", ["--no-measure"]), ("measuring on", [])):
        output = folder / "artifact"
        command = [sys.executable, "-m", "whet", "compile", str(source), "-o", str(output)]
        rows.append(Row(name, size, watch([*command, "--recipe", "exact", "--json", *extra])))
        shutil.rmtree(output, ignore_errors=True)
    return rows


def _table(rows: Sequence[Row]) -> Table:
    size = rows[0].model_bytes
    table = Table(title=f"Memory of a compile: {size / 1e9:.2f} GB of model, recipe exact")
    columns = ("compile", "seconds", "whole tree", "times model", "compiler", "largest process")
    for column in columns:
        table.add_column(column, justify="left" if column == "compile" else "right")
    for row in rows:
        usage = row.usage
        sizes = [f"{n / 1e9:.2f} GB" for n in (usage.tree, usage.own, usage.largest)]
        ratio = f"{row.ratio:.2f}" if usage.code == 0 else f"exit code {usage.code}"
        table.add_row(row.name, f"{usage.seconds:.0f}", sizes[0], ratio, *sizes[1:])
    table.caption = (
        "whole tree: largest sum of PSS over all processes at one moment, sampled every 50 ms; "
        "compiler and largest process: VmHWM"
    )
    return table


def to_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return plain data."""
    return [
        {
            "compile": row.name,
            "model_bytes": row.model_bytes,
            "ratio": row.ratio,
            "largest": row.usage.largest,
            **{k: v for k, v in dataclasses.asdict(row.usage).items() if k != "output"},
        }
        for row in rows
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark, print its table; return 1 if a compile failed or took more than the limit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the model (3)")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes")
    parser.add_argument("--json", type=Path, help="store the numbers in this file")
    options = parser.parse_args(argv)
    console = Console()
    reason = _no_room(options.gigabytes, options.folder)
    if reason:
        console.print(f"memory: skipped: {reason}")
        if options.json is not None:
            options.json.write_text(json.dumps({"skipped": reason}) + "\n")
        return 0
    with tempfile.TemporaryDirectory(prefix="whet-memory-", dir=options.folder) as folder:
        rows = measure(options.gigabytes, Path(folder))
    console.print(_table(rows))
    for row in rows:
        if row.usage.code:
            console.print(row.usage.errors, markup=False)
    if options.json is not None:
        options.json.write_text(json.dumps(to_json(rows), indent=1) + "\n")
    return int(any(row.usage.code or row.ratio > LIMIT for row in rows))


def _no_room(gigabytes: float, folder: Path | None) -> str:
    """Return why the benchmark cannot run here, or an empty string."""
    if not Path("/proc/self/smaps_rollup").exists():
        return "memory is read from /proc/PID/smaps_rollup, which this system does not have"
    free = shutil.disk_usage(folder or tempfile.gettempdir()).free
    if free < _ROOM * gigabytes * 1e9:
        return f"{free / 1e9:.1f} GB free on disk, {_ROOM * gigabytes:.1f} GB needed"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    if memory < LIMIT * gigabytes * 1e9:
        return f"{memory / 1e9:.1f} GB of memory free, {LIMIT * gigabytes:.1f} GB needed"
    return ""


if __name__ == "__main__":
    sys.exit(main())
