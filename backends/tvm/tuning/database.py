"""What was measured about kernels, kept on disk: a later compile uses it, or goes on where an earlier one stopped."""

import dataclasses
import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from whet.analysis.kernel_prices import cache_folder
from whet.backends.device import host
from whet.backends.tvm.machine import Machine

__all__ = ["Database", "Record", "stamp"]

_SCHEMA = 1
_CODE = ("kernels", "works", "scheduling.py", "epilogue.py", "activations.py", "mathematics.py")
"""What kernels are written by: when one of these changes, what was measured is not about them any more."""


@dataclasses.dataclass
class Record:
    """What was measured about one kernel."""

    usual_ms: float
    """Of the schedule that is taken without measuring."""
    trials: dict[str, float | str] = dataclasses.field(default_factory=dict[str, "float | str"])
    """Schedule -> its time over the usual one's in the same run, or why it is out."""
    best: str = ""
    """The schedule that won beyond noise; empty where none did."""
    best_ms: float = 0.0
    done: bool = False
    """Whether everything was tried."""


class Database:
    """The records of one machine, at one number of threads, for the kernels as they are written now."""

    def __init__(self, machine: Machine, path: Path | None = None) -> None:
        """Open ``tvm_schedules.json`` in the folder for measurements, or another file."""
        self._path = cache_folder() / "tvm_schedules.json" if path is None else path
        self._stamp = stamp(machine)
        self._entries = _read(self._path)

    def find(self, key: str) -> Record | None:
        """Return what is known about a kernel."""
        found = self._entries.get(f"{self._stamp} | {key}")
        return None if found is None else _record(found)

    def best(self, key: str) -> tuple[str, float, float]:
        """Return the schedule that won, or nothing, with the milliseconds of the usual one and of it."""
        found = self.find(key)
        return ("", 0.0, 0.0) if found is None else (found.best, found.usual_ms, found.best_ms)

    def drop(self, key: str, reason: str) -> None:
        """Take the usual schedule again, and note why beside the one that had won."""
        record = self.find(key)
        if record is not None and record.best:
            record.trials[record.best] = reason
            self.keep(key, dataclasses.replace(record, best="", best_ms=0.0))

    def keep(self, key: str, record: Record) -> None:
        """Add a record to what is on disk now; a folder that cannot be written to keeps none."""
        entry = dataclasses.asdict(record)
        self._entries = {**_read(self._path), f"{self._stamp} | {key}": entry}
        data = {"schema": _SCHEMA, "entries": self._entries}
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=self._path.parent, delete=False) as file:
                json.dump(data, file, indent=1, sort_keys=True)
            os.replace(file.name, self._path)
        except OSError:
            return


def stamp(machine: Machine) -> str:
    """Return all that a time depends on beside the kernel: TVM, the kernels' source, processor, threads."""
    code = hashlib.sha256()
    folder = Path(__file__).parents[1]
    for name in _CODE:
        path = folder / name
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            code.update(file.read_bytes())
    isa = " ".join(host().isa)
    processor = f"{_model()} {machine.cpu}{machine.features} {isa}"
    return f"tvm {version('apache-tvm')} {code.hexdigest()[:12]} | {processor} | threads {machine.threads}"


def _model() -> str:
    """Return what the processor calls itself."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    wanted = ("model name", "model", "stepping", "CPU part")
    pairs = (line.partition(":") for line in lines)
    found = {key.strip(): value.strip() for key, _, value in pairs if key.strip() in wanted}
    return " ".join(found[key] for key in wanted if key in found)


def _read(path: Path) -> dict[str, Mapping[str, Any]]:
    """Return the entries; a file that is not a database counts as empty."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict):
        return {}
    whole = cast("dict[str, Any]", data)
    entries = whole.get("entries")
    if whole.get("schema") != _SCHEMA or not isinstance(entries, dict):
        return {}
    rows = cast("dict[str, Any]", entries)
    return {key: row for key, row in rows.items() if _record(row) is not None}


def _record(row: object) -> Record | None:
    """Return a row as a record; None for anything else."""
    if not isinstance(row, dict):
        return None
    values = cast("dict[str, Any]", row)
    kinds = {"usual_ms": float, "trials": dict, "best": str, "best_ms": float, "done": bool}
    if values.keys() != kinds.keys():
        return None
    if not all(isinstance(values[key], kind) for key, kind in kinds.items()):
        return None
    trials = cast("dict[object, object]", values["trials"])
    if not all(isinstance(k, str) and isinstance(v, float | str) for k, v in trials.items()):
        return None
    return Record(
        values["usual_ms"],
        cast("dict[str, float | str]", dict(trials)),
        values["best"],
        values["best_ms"],
        values["done"],
    )
