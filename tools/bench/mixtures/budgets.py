"""Compile a model under budgets, and hold what comes out against them: ``python -m whet.tools.bench.mixtures.budgets``.

The metric of the table is that of samples which the search has not seen; milliseconds are measured once more by
``whet bench`` in another process. ``--only resnet20`` and ``--only minilm``; needs a folder with models and data
(``--assets``), and torch.
"""

import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

import whet
from whet.errors import BudgetMissed
from whet.tools.bench.arguments import argument_parser
from whet.tools.bench.mixtures.subjects import SUBJECTS, Subject

__all__ = ["main"]

_SIZES: Mapping[str, Mapping[str, int]] = {
    "resnet20": {"batch": 1},
    "minilm": {"batch": 1, "seq": 128},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a row for each budget."""
    parser = argument_parser(__doc__)
    parser.add_argument("--only", choices=list(SUBJECTS), default="resnet20")
    parser.add_argument(
        "--budget", action="append", metavar="NAME=VALUE[,…]", help="such as drop=0.5%%,size=25%%"
    )
    parser.add_argument(
        "--start", action="append", default=[], metavar="RECIPE", help="where to begin as well"
    )
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    if not options.assets.is_dir():
        print(f"budgets: skipped: no folder '{options.assets}'")
        return 0
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as name:
        subject = SUBJECTS[options.only](options.assets, Path(name), options.threads)
        for text in options.budget or ["size=15%", "drop=0.5%"]:
            rows.append(
                _row(
                    text,
                    subject,
                    Path(name) / "out",
                    _SIZES[options.only],
                    threads=options.threads,
                    start=tuple(options.start),
                )
            )
            print(json.dumps(rows[-1]), flush=True)
    _show(options.only, rows)
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    return 0


def _row(
    text: str,
    subject: Subject,
    folder: Path,
    sizes: Mapping[str, int],
    *,
    threads: int,
    start: tuple[str, ...],
) -> dict[str, Any]:
    begun = time.monotonic()
    missed = ""
    try:
        artifact = whet.compile(
            subject.source,
            calibration=subject.calibration,
            evaluate=subject.evaluate,
            budget=whet.Budget(**dict(part.split("=") for part in text.split(","))),
            sizes=sizes,
            threads=threads,
            start=start,
            output=folder,
        )
    except BudgetMissed as error:
        artifact, missed = error.artifact, str(error)
    seconds = time.monotonic() - begun
    report = artifact.report
    assert report is not None
    assert report.metric is not None
    assert report.search is not None
    before, after = report.before.time, report.after.time
    assert before is not None
    assert after is not None
    return {
        "budget": text,
        "missed": missed,
        "seconds": seconds,
        "share": report.after.bytes / report.before.bytes,
        "ms": [before.median, after.median],
        "ms_again": _again(folder, threads, sizes),
        "metric": report.metric,
        "interval": None
        if report.interval is None
        else [report.interval.low, report.interval.high],
        "plans": len(report.search["trials"]),
        "rank_correlation": report.search["rank_correlation"],
        "start": report.search["start"],
        "starts": report.search["starts"],
    }


def _again(folder: Path, threads: int, sizes: Mapping[str, int]) -> float:
    """Return the milliseconds that ``whet bench`` measures."""
    bindings = [part for name, size in sizes.items() for part in ("--bind", f"{name}={size}")]
    command = [sys.executable, "-m", "whet", "bench", str(folder), "--json"]
    done = subprocess.run(
        [*command, "--threads", str(threads), *bindings], check=True, capture_output=True, text=True
    )
    return float(json.loads(done.stdout)["models"][0]["time"]["median"])


def _show(name: str, rows: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title=f"{name}: budgets, judged on samples that the search has not seen")
    for column in (
        "budget",
        "bytes",
        "ms before",
        "after",
        "again",
        "metric",
        "drop",
        "start",
        "plans",
        "s",
    ):
        table.add_column(column, justify="left" if column == "budget" else "right")
    for row in rows:
        old, new = row["metric"]
        spread = row["interval"]
        table.add_row(
            row["budget"] + (" missed" if row["missed"] else ""),
            f"{row['share']:.3f}x",
            *(f"{ms:.3g}" for ms in (*row["ms"], row["ms_again"])),
            f"{old:.4f} → {new:.4f}",
            f"{old - new:.4f}" + (f" ({spread[0]:.3f} to {spread[1]:.3f})" if spread else ""),
            row["start"].partition("{")[0] or "source",
            str(row["plans"]),
            f"{row['seconds']:.0f}",
        )
    Console(width=120).print(table)


if __name__ == "__main__":
    raise SystemExit(main())
