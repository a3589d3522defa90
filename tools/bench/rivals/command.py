"""Let every tool make its file, then judge all of them in one run; print Markdown."""

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from whet.errors import CannotRun
from whet.tools.bench.arguments import argument_parser
from whet.tools.bench.quantization.contest import contest
from whet.tools.bench.rivals.makers import MAKERS
from whet.tools.bench.rivals.tasks import JOBS, Job

__all__ = ["main"]

_QUIET = {"OLIVE_DISABLE_TELEMETRY": "1", "CI": "true"}
"""What keeps tools that would from telling home."""
_PATIENCE = 1800


@dataclasses.dataclass(frozen=True)
class Row:
    """What one tool made of one model."""

    tool: str
    size: float | None = None
    """Bytes and time as shares of the source's."""
    metric: float | None = None
    time: float | None = None
    seconds: float | None = None
    """What making it took."""
    failure: str = ""


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table for each model."""
    parser = argument_parser(__doc__)
    parser.add_argument("--tools", type=Path, help="a folder with a folder for each other tool")
    parser.add_argument("--only", choices=list(JOBS))
    parser.add_argument("--keep", type=Path, help="where files go, and are found again")
    parser.add_argument(
        "--make", nargs="+", choices=list(MAKERS), help="make the files of these, time nothing"
    )
    options = parser.parse_args(argv)
    found: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, job_of in JOBS.items():
            if options.only not in (None, name):
                continue
            folder = (options.keep or Path(scratch)) / name
            folder.mkdir(parents=True, exist_ok=True)
            try:
                job = job_of(options.assets, folder, options.threads)
            except (FileNotFoundError, ImportError) as error:
                print(f"{name}: skipped: {error}")
                continue
            wanted = options.make or list(MAKERS)
            rows = [_row(tool, job, folder, options.tools) for tool in ["float32", *wanted]]
            if options.make is None:
                found[name] = _timed(job, folder, rows, options.threads)
                print("\n".join(_table(job, found[name], options.tools)), flush=True)
    if options.json is not None:
        plain = {name: [dataclasses.asdict(row) for row in rows] for name, rows in found.items()}
        options.json.write_text(json.dumps(plain, indent=1) + "\n")
    return 0


def _row(tool: str, job: Job, folder: Path, tools: Path | None) -> Row:
    """Let a tool make its file and judge it, or return what is known of it from an earlier run."""
    record = folder / f"{_stem(tool)}.json"
    if not record.is_file():
        row = _first_row(tool, job, folder, tools)
        record.write_text(json.dumps(dataclasses.asdict(row)))
    return Row(**json.loads(record.read_text()))


def _first_row(tool: str, job: Job, folder: Path, tools: Path | None) -> Row:
    if tool == "float32":
        return Row(tool, 1.0, job.judge(job.source))
    data, out = folder / "calibration.npz", folder / f"{_stem(tool)}.onnx"
    if not data.is_file():
        np.savez(data, allow_pickle=False, **job.calibration)
    seconds, failure = _make(tool, job, data, out, tools)
    if failure:
        return Row(tool, seconds=seconds, failure=failure)
    try:
        metric = job.judge(out)
    except CannotRun as error:
        return Row(tool, seconds=seconds, failure=f"ONNX Runtime does not run it: {error}")
    size = out.stat().st_size / job.source.stat().st_size
    return Row(tool, size, metric, seconds=seconds)


def _stem(tool: str) -> str:
    return tool.replace(", ", "-")


def _make(tool: str, job: Job, data: Path, out: Path, tools: Path | None) -> tuple[float, str]:
    place = [] if tools is None else [str((tools / tool.partition(",")[0]).absolute())]
    path = os.pathsep.join([*place, *(p for p in sys.path if p)])
    words = [tool, job.task, str(job.source), str(data), str(out)]
    start = time.perf_counter()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "whet.tools.bench.rivals.makers", *words],
            env={**os.environ, **_QUIET, "PYTHONPATH": path},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_PATIENCE,
        )
    except subprocess.TimeoutExpired:
        return _PATIENCE, f"not done in {_PATIENCE // 60} minutes"
    seconds = time.perf_counter() - start
    if done.returncode == 0:
        return seconds, "" if out.is_file() else "ended without a file and without an error"
    said = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith(" ")]
    return seconds, (said or [f"ended with {done.returncode}"])[-1][:160]


def _timed(job: Job, folder: Path, rows: Sequence[Row], threads: int) -> list[Row]:
    """Time everything that was made, all of it in one run."""
    paths = {row.tool: folder / f"{_stem(row.tool)}.onnx" for row in rows if not row.failure}
    times = contest({**paths, "float32": job.source}, job.timed, threads)
    whole = times["float32"].median
    return [
        row if row.failure else dataclasses.replace(row, time=times[row.tool].median / whole)
        for row in rows
    ]


def _table(job: Job, rows: Sequence[Row], tools: Path | None) -> Iterator[str]:
    yield f"\n**{job.title}**\n"
    yield f"| | bytes | {job.metric} | time | |"
    yield "|---|---|---|---|---|"
    for row in rows:
        name = row.tool + _version(row.tool, tools)
        if row.failure:
            yield f"| {name} | – | – | – | failed: {row.failure} |"
        else:
            yield f"| {name} | {row.size:.3f}x | {row.metric:.4f} | {row.time:.2f}x | |"


def _version(tool: str, tools: Path | None) -> str:
    package = {"olive": "olive-ai"}.get(tool, tool.partition(",")[0])
    first = [] if tools is None else [str(tools / tool)]
    for found in distributions(path=[*first, *sys.path]):
        if found.metadata["Name"].lower() == package:
            return f" {found.version}"
    return ""
