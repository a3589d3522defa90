"""Kernel truth: what an operator costs at a shape and in a format, measured in the target runtime.

Alternatives for one place are timed in one child process, in alternating blocks, on tiny models of one operator each.
The medians are kept on disk, so that the same machine makes the same decisions again.
"""

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from whet.analysis.prices import KernelModel
from whet.backends.base import RuntimeOptions
from whet.backends.device import host
from whet.backends.race import race
from whet.backends.worker import Child
from whet.ir.execute import CannotRun

__all__ = ["KernelPrices", "cache_folder"]


def cache_folder() -> Path:
    """Return the folder for measurements: ``$WHET_CACHE``, ``$XDG_CACHE_HOME/whet`` or ``~/.cache/whet``."""
    chosen = os.environ.get("WHET_CACHE")
    if chosen:
        return Path(chosen)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "whet"


class KernelPrices:
    """Measure in the target runtime, or read what an earlier run measured on the same kind of machine.

    A context manager: the process that measures, started when there is something to measure, ends with it.
    """

    def __init__(
        self,
        options: RuntimeOptions,
        version: str,
        path: Path | None = None,
        target: str = "onnxruntime",
    ) -> None:
        """Use the cache at ``path``, ``prices.json`` in :func:`cache_folder` by default."""
        self._options = options
        self._target = target
        self._path = cache_folder() / "prices.json" if path is None else path
        threads = options.threads or f"all {os.cpu_count()}"
        config = "".join(f" {k}={v}" for k, v in options.config)
        self._machine = (
            f"{target} {version} | {' '.join(host().isa)} | threads {threads}"
            f" | optimization {options.optimization}{config}"
        )
        self._known = _read(self._path)
        self._child = Child()
        self.used: dict[str, dict[str, float]] = {}
        """Work -> format -> milliseconds: everything that decisions of this object's users rest on."""

    def lookup(
        self, work: str, formats: Mapping[str, KernelModel], rounds: int = 5
    ) -> Mapping[str, float]:
        """Return milliseconds by format, all of them from one measurement."""
        key = f"{self._machine} | {work}"
        found = self._known.get(key, {})
        if not formats.keys() <= found.keys():
            found = self._measure(formats, rounds)
            self._known[key] = found
            _write(self._path, {key: found})
        answer = {name: found[name] for name in formats if found[name] > 0}
        self.used[work] = {**self.used.get(work, {}), **answer}
        return answer

    def __enter__(self) -> Self:
        """Return the prices."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the process that measures."""
        self._child.close()

    def _measure(self, formats: Mapping[str, KernelModel], rounds: int) -> dict[str, float]:
        """Return milliseconds; -1 marks what the runtime does not run."""
        models = {name: make() for name, make in formats.items()}
        try:
            return race(self._child, models, self._options, self._target, rounds=rounds)
        except CannotRun:
            return dict.fromkeys(formats, -1.0)


def _read(path: Path) -> dict[str, dict[str, float]]:
    """Return the cache; anything that is not one counts as empty."""
    try:
        data = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    if not isinstance(data, dict) or data.get("schema") != 1:
        return {}
    entries = data.get("entries")
    if not isinstance(entries, dict):
        return {}
    return {k: v for k, v in cast("dict[str, Any]", entries).items() if _is_entry(v)}


def _is_entry(entry: object) -> bool:
    if not isinstance(entry, dict):
        return False
    values = cast("dict[object, object]", entry)
    return all(isinstance(k, str) and isinstance(v, float) for k, v in values.items())


def _write(path: Path, new: Mapping[str, Mapping[str, float]]) -> None:
    """Add entries to what is on disk now; a folder that cannot be written to keeps no measurements."""
    data = {"schema": 1, "entries": {**_read(path), **new}}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
            json.dump(data, file, indent=1, sort_keys=True)
        os.replace(file.name, path)
    except OSError:
        return
