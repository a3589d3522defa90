"""What a search has found out so far, on disk: a search that was interrupted goes on where it was.

A folder for each model, data, seed and machine holds the variants as models, directions, and measurements of plans. It
lies in the cache of measurements; the latest are kept.
"""

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir

from whet.ir.array import Array
from whet.ir.files import load_model
from whet.ir.saving import save_model
from whet.passes.base import Damage, Pass
from whet.solve.allocation import Doubles
from whet.solve.measuring import Measurement, Scores
from whet.solve.variants import Parts, Variant, take_apart

__all__ = ["Store", "fingerprint"]


def fingerprint(model: onnx_ir.Model, batches: Iterable[Mapping[str, Array]], *more: object) -> str:
    """Return what stands for a model, its data, and everything else that results depend on."""
    found = hashlib.sha256(onnx_ir.to_proto(model).SerializeToString(deterministic=True))
    for batch in batches:
        for name, array in sorted(batch.items()):
            found.update(f"{name}{array.shape}{array.dtype}".encode())
            found.update(np.ascontiguousarray(array).tobytes())
    found.update(repr(more).encode())
    return found.hexdigest()[:24]


class Store:
    """One folder; nothing is stored, and nothing found, where it cannot be written to."""

    def __init__(self, parent: Path, key: str, kept: int) -> None:
        """Open the folder of one search, and let go of those that were opened longest ago, all but ``kept``."""
        self._folder = parent / key
        with contextlib.suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            os.utime(self._folder)
            known = sorted(parent.iterdir(), key=lambda path: -path.stat().st_mtime)
            for old in known[kept:]:
                shutil.rmtree(old, ignore_errors=True)

    def variant(self, original: onnx_ir.Model, step: Pass) -> Variant | None:
        """Return what a pass made of the model, if it is known."""
        path = self._path("variant", str(step))
        record = _read(path.with_suffix(".json"))
        if record is None:
            return None
        try:
            model = load_model(path.with_suffix(".onnx"))
        except OSError:
            return None
        damage = {name: Damage(**row) for name, row in record["damage"].items()}
        parts = Parts(model, record["roots"], record["origin"], damage, record["nothing"])
        return take_apart(original, step, parts)

    def keep_variant(self, step: Pass, parts: Parts) -> None:
        """Store what a pass made of the model."""
        path = self._path("variant", str(step))
        with contextlib.suppress(OSError):
            save_model(parts.model, path.with_suffix(".onnx"))
            record = {
                "roots": parts.roots,
                "origin": parts.origin,
                "damage": {name: dataclasses.asdict(row) for name, row in parts.damage.items()},
                "nothing": parts.nothing,
            }
            _write(path.with_suffix(".json"), record)

    def directions(self, key: object) -> Doubles | None:
        """Return directions ``[pieces, draws]``, if they are known."""
        try:
            found: Doubles = np.load(self._path("directions", key).with_suffix(".npy"))
        except (OSError, ValueError):
            return None
        return found

    def keep_directions(self, key: object, found: Doubles) -> None:
        """Store directions."""
        path = self._path("directions", key).with_suffix(".npy")
        with (
            contextlib.suppress(OSError),
            tempfile.NamedTemporaryFile(dir=self._folder, delete=False) as file,
        ):
            np.save(file, found)
            os.replace(file.name, path)

    def measurement(self, key: object) -> Measurement | None:
        """Return what was seen of a plan, if it was measured."""
        record = _read(self._path("plan", key).with_suffix(".json"))
        if record is None:
            return None
        scores = record["scores"]
        if scores is not None:
            samples = scores["samples"]
            scores = Scores(scores["metric"], None if samples is None else np.asarray(samples))
        return Measurement(record["bytes"], record["loss"], record["ms"], scores)

    def keep_measurement(self, key: object, found: Measurement) -> None:
        """Store what was seen of a plan."""
        record = dataclasses.asdict(found)
        if found.scores is not None and found.scores.samples is not None:
            record["scores"]["samples"] = found.scores.samples.tolist()
        with contextlib.suppress(OSError):
            _write(self._path("plan", key).with_suffix(".json"), record)

    def _path(self, kind: str, key: object) -> Path:
        return self._folder / f"{kind}-{hashlib.sha256(repr(key).encode()).hexdigest()[:16]}"


def _read(path: Path) -> dict[str, Any] | None:
    """Return a record; anything that is not one counts as unknown."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _write(path: Path, record: Mapping[str, Any]) -> None:
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(record, file)
    os.replace(file.name, path)
