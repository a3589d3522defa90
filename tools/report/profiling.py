"""Profile an artifact that was compiled without: what is seen goes into its ``report.json``."""

import tempfile
from pathlib import Path

from whet.backends.base import RuntimeOptions
from whet.errors import UsageError
from whet.printing import row_by_row, to_plain
from whet.profiling import profile
from whet.tools.inputs import make_cases, rename_inputs
from whet.tools.report.render import read_report, write_page
from whet.tools.subjects import Subject, read_subject

__all__ = ["add_profile"]


def add_profile(folder: Path, source: str | None, *, trust: bool = False) -> None:
    """Profile the artifact, and what it was compiled from if that is given, on random inputs of the first binding.

    Raises:
        UsageError: not an artifact, or one of another runtime.
        CannotRun: a model does not run.
    """
    record = read_report(folder)
    with tempfile.TemporaryDirectory(prefix="whet-report-") as scratch:
        subject = read_subject(str(folder), Path(scratch))
        if subject.target != "onnxruntime":
            raise UsageError(f"'{folder}' is for {subject.target}, only onnxruntime has a profiler")
        before = None if source is None else read_subject(source, Path(scratch), trust=trust)
        with subject.open() as worker:
            seed = record["provenance"]["seed"]
            _, feeds = make_cases(subject, worker, None, _binding(record), seed)[0]
        if before is not None:
            feeds = rename_inputs(feeds, _inputs(before), before.label)
        runtime = subject.runtime or RuntimeOptions()
        paths = (None if before is None else before.file, subject.file)
        found = profile(paths, feeds, runtime, _binding(record))
    old = record["profile"]
    record["profile"] = found.to_json()
    if before is None and old is not None:
        record["profile"]["before"] = old["before"]
    write_page(row_by_row(to_plain(record)), folder / "report.json")


def _inputs(subject: Subject) -> tuple[str, ...]:
    return tuple(v.name or "" for v in subject.model.graph.inputs if v.const_value is None)


def _binding(record: dict[str, object]) -> dict[str, int]:
    """Return the sizes at which outputs were compared first: those that random inputs have again."""
    agreements = record["agreements"]
    assert isinstance(agreements, list)
    return dict(agreements[0]["binding"]) if agreements else {}
