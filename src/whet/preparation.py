"""From whatever the user has to a model that passes can work on."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import onnx_ir

from whet.ir.capture import Captured, capture
from whet.ir.prepare import normalize
from whet.ir.saving import save_model
from whet.ir.storage import stored_bytes
from whet.ir.values import Array, weight_count
from whet.ir.verify import verify
from whet.report import Cost

__all__ = ["Prepared", "prepare"]


@dataclasses.dataclass
class Prepared:
    """A model ready for passes, and the source it is compared with."""

    model: onnx_ir.Model
    origin: str
    source: Path
    """The model file as it came in."""
    label: str
    """The name of the source without folders, which would differ from machine to machine."""
    examples: Mapping[str, Array]
    cost: Cost
    """Operators and parameters of the source, functions inlined and constants lifted; its bytes as they came."""
    spelled: str = "…"
    """The source as a command names it; an object of a program has no name."""


def prepare(
    source: object,
    inputs: object = None,
    *,
    dynamic_shapes: object = None,
    folder: Path,
    trust: bool = False,
) -> Prepared:
    """Capture a source and bring it to the form that passes expect; ``folder`` holds temporary files."""
    captured = capture(source, inputs, dynamic_shapes=dynamic_shapes, trust=trust)
    path = _source_file(source, captured, folder)
    model = normalize(captured.model)
    verify(model)
    cost = Cost(len(model.graph), weight_count(model), stored_bytes(path))
    label = Path(source).name if isinstance(source, str | Path) else captured.origin
    spelled = str(source) if isinstance(source, str | Path) else "…"
    return Prepared(model, captured.origin, path, label, captured.feeds, cost, spelled)


def _source_file(source: object, captured: Captured, folder: Path) -> Path:
    if isinstance(source, str | Path) and Path(source).suffix == ".onnx":
        return Path(source)
    path = folder / "source.onnx"
    save_model(captured.model, path)
    return path
