"""Let every tool make its file, then judge all of them in one run; print Markdown."""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from whet.errors import CannotRun
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
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("../shared/assets"))
    parser.add_argument("--tools", type=Path, help="a folder with a folder for each other tool")
    parser.add_argument("--only", choices=list(JOBS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="where files go, and are found again")
    parser.add_argument(
        "--make", nargs="+", choices=list(MAKERS), help="make the files of these, time nothing"
    )
    parser.add_argument("--json", type=Path)
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
            made = dict(_made(job, folder, options.tools, options.make or list(MAKERS)))
            if options.make is None:
                found[name] = _judged(job, folder, made, options.threads)
                print("\n".join(_table(job, found[name], options.tools)), flush=True)
    if options.json is not None:
        plain = {name: [dataclasses.asdict(row) for row in rows] for name, rows in found.items()}
        options.json.write_text(json.dumps(plain, indent=1) + "\n")
    return 0


def _made(
    job: Job, folder: Path, tools: Path | None, wanted: Sequence[str]
) -> Iterator[tuple[str, tuple[float, str]]]:
    """Yield for each tool the seconds that it took, and what it said when it failed."""
    data = folder / "calibration.npz"
    np.savez(data, allow_pickle=False, **job.calibration)
    for tool in wanted:
        out = folder / f"{tool.replace(', ', '-')}.onnx"
        record = out.with_suffix(".json")
        if not record.is_file():
            record.write_text(json.dumps(_make(tool, job, data, out, tools)))
        seconds, failure = json.loads(record.read_text())
        yield tool, (seconds, failure)


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


def _judged(
    job: Job, folder: Path, made: Mapping[str, tuple[float, str]], threads: int
) -> list[Row]:
    """Judge and time everything that was made, all of it together."""
    paths = {"float32": job.source}
    rows: dict[str, Row] = {}
    for tool, (seconds, failure) in made.items():
        path = folder / f"{tool.replace(', ', '-')}.onnx"
        if failure:
            rows[tool] = Row(tool, seconds=seconds, failure=failure)
            continue
        try:
            rows[tool] = Row(tool, metric=job.judge(path), seconds=seconds)
            paths[tool] = path
        except CannotRun as error:
            rows[tool] = Row(
                tool, seconds=seconds, failure=f"ONNX Runtime does not run it: {error}"
            )
    times = contest(paths, job.timed, threads)
    whole = job.source.stat().st_size
    done = [Row("float32", 1.0, job.judge(job.source), 1.0, 0.0)]
    for tool, row in rows.items():
        if tool not in paths:
            done.append(row)
            continue
        ratio = times[tool].median / times["float32"].median
        size = paths[tool].stat().st_size / whole
        done.append(dataclasses.replace(row, size=size, time=ratio))
    return done


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
