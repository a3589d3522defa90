"""Time small models against each other in a child process."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Child
from whet.ir.values import Array

__all__ = ["race"]


def race(
    child: Child,
    models: Mapping[str, tuple[bytes, Mapping[str, Array]]],
    options: RuntimeOptions,
    target: str = "onnxruntime",
    *,
    rounds: int = 5,
    block_seconds: float = 0.015,
) -> dict[str, float]:
    """Return the median milliseconds of each model (serialized, with its feeds), or -1 where it does not run.

    They take turns in ``child``, each loaded anew for every block of its own. Raises CannotRun when
    the runtime crashes.
    """
    arrays: dict[str, Array] = {}
    for name, (data, feeds) in models.items():
        arrays[f"{name}\n"] = np.frombuffer(data, np.uint8)
        arrays.update({f"{name}\n{key}": array for key, array in feeds.items()})
    message: dict[str, Any] = {
        "do": "race",
        "options": options.to_json(),
        "target": target,
        "rounds": rounds,
        "seconds": block_seconds,
    }
    answer, _ = child.ask(message, arrays)
    return {name: float(answer["ms"][name]) for name in models}
