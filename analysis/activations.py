"""Look at values inside a model while it runs on calibration data, a few values at a time."""

import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx_ir

from whet.analysis.dataset import batch_size
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun, Executor
from whet.ir.files import save_model
from whet.ir.values import Array

__all__ = ["Sampler", "first_samples", "observe", "observed_shapes", "open_at"]

Feeds = Mapping[str, Array]
_CHUNK = 24
"""Values that are outputs of one run; what is in memory is one batch of that many activations."""


def observe(
    model: onnx_ir.Model,
    names: Sequence[str],
    batches: Sequence[Feeds],
    *,
    threads: int = 0,
    chunk: int = _CHUNK,
) -> Iterator[tuple[str, Array]]:
    """Yield (name, value) for every named value and batch; the model itself is left as it is.

    Values of inputs come from the batch. Raises CannotRun.
    """
    inputs = {v.name for v in model.graph.inputs}
    for name in names:
        if name in inputs:
            yield from ((name, batch[name]) for batch in batches if name in batch)
    inner = [name for name in names if name not in inputs]
    for start in range(0, len(inner), chunk):
        part = inner[start : start + chunk]
        executor = open_at(model, part, threads, optimization="basic")
        for batch in batches:
            used = {name: array for name, array in batch.items() if name in executor.inputs}
            yield from zip(part, executor.run(used, part), strict=True)


def first_samples(model: onnx_ir.Model, feeds: Feeds, count: int = 8) -> dict[str, Array]:
    """Return the first few samples of a batch, or all of it where the model fixes the batch."""
    free = batch_size(model, default=0) == 0
    return {name: array[:count] if free else array for name, array in feeds.items()}


def open_at(
    model: onnx_ir.Model,
    names: Sequence[str],
    threads: int = 0,
    *,
    optimization: str = "all",
    shapes: bool = False,
) -> Executor:
    """Open a copy of the model that hands out the named values, or only their shapes; raises CannotRun."""
    copy = model.clone()
    made = {v.name: v for node in copy.graph for v in node.outputs}
    values = [made[name] for name in names]
    if shapes:
        values = [_shape_of(copy, value) for value in values]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        save_model(copy, path)
        return Executor(path, optimization=optimization, threads=threads)


def _shape_of(model: onnx_ir.Model, value: onnx_ir.Value) -> onnx_ir.Value:
    node = onnx_ir.Node("", "Shape", [value], num_outputs=1)
    model.graph.append(node)
    found = node.outputs[0]
    found.name = f"{value.name}.whet.shape"
    found.type = onnx_ir.TensorType(onnx_ir.DataType.INT64)
    return found


def observed_shapes(
    model: onnx_ir.Model, values: Iterable[onnx_ir.Value], bindings: Bindings, threads: int = 0
) -> dict[str, tuple[int, ...]]:
    """Return shapes under the first binding by name: computed where the model says enough, else seen in a run."""
    shapes: dict[str, tuple[int, ...]] = {}
    unknown: list[str] = []
    for value in dict.fromkeys(values):
        shape = bindings.shape(value, bindings.choices[0])
        if shape is not None:
            shapes[value.name or ""] = shape
        elif value.producer() is not None:
            unknown.append(value.name or "")
    if not unknown:
        return shapes
    try:
        for name, array in observe(model, unknown, [bindings.feeds(model, 0)], threads=threads):
            shapes[name] = array.shape
    except CannotRun:
        return shapes
    return shapes


class Sampler:
    """Hand out values of one small batch, asked for in the order of ``names``; a chunk of them is kept at a time."""

    def __init__(
        self, model: onnx_ir.Model, names: Sequence[str], feeds: Feeds, threads: int = 0
    ) -> None:
        """Sample the model as it is now, whatever becomes of it later."""
        self._model = model.clone()
        self._names = list(dict.fromkeys(names))
        self._feeds = feeds
        self._threads = threads
        self._held: dict[str, Array] = {}

    def __call__(self, name: str) -> Array | None:
        """Return the value, or None for a name that was not announced; raises CannotRun."""
        if name not in self._held:
            if name not in self._names:
                return None
            start = self._names.index(name)
            part = self._names[start : start + _CHUNK]
            self._held = dict(observe(self._model, part, [self._feeds], threads=self._threads))
        return self._held.get(name)
