"""Make ``import torchvision`` work beside a torch for which its compiled operators do not load.

At import torchvision attaches shape functions to ``nms`` and ``qnms`` even when the library that
defines them was built for another torch and did not load; the import then fails. (Everything about
the roi and deformable operators is skipped in that case.) No model of the zoo calls an operator of
torchvision, so a schema is enough.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, cast

import torch

_NAMESPACE = "torchvision"
_SCHEMAS = {
    "nms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# A definition lives as long as the library object that made it.
_LIBRARIES: list[Any] = []


def declare() -> None:
    """Declare what torchvision's import needs, unless its own library provides it; idempotent."""
    spec = importlib.util.find_spec(_NAMESPACE)
    if spec is None or spec.origin is None or _loads(Path(spec.origin).parent):
        return
    missing = {name: schema for name, schema in _SCHEMAS.items() if not _exists(name)}
    if not missing:
        return
    # Any: torch leaves these methods without annotations.
    library = cast("Any", torch.library).Library(_NAMESPACE, "FRAGMENT")
    for name, schema in missing.items():
        library.define(name + schema)
    _LIBRARIES.append(library)


def _loads(package: Path) -> bool:
    """Try to load torchvision's own operators."""
    if _LIBRARIES:
        return False
    try:
        for compiled in sorted(package.glob("_C*")):
            cast("Any", torch.ops).load_library(str(compiled))
    except OSError:
        return False
    return all(_exists(name) for name in _SCHEMAS)


def _exists(name: str) -> bool:
    return hasattr(getattr(torch.ops, _NAMESPACE), name)
