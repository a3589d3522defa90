"""Look at values inside a model while it runs on calibration data, a few values at a time."""

import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx_ir

from whet.analysis.dataset import batch_size
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun, Executor
from whet.ir.files import save_model
from whet.ir.values import Array, dimensions, is_op, weight_bytes

__all__ = [
    "Sampler",
    "first_samples",
    "is_rectified",
    "observe",
    "observe_together",
    "observed_shapes",
    "open_at",
]

Feeds = Mapping[str, Array]
_INLINE = 1 << 26
"""Models of fewer bytes are opened from memory."""
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
        for found in observe_together(model, inner[start : start + chunk], batches, threads):
            yield from found.items()


def observe_together(
    model: onnx_ir.Model, names: Sequence[str], batches: Iterable[Feeds], threads: int = 0
) -> Iterator[dict[str, Array]]:
    """Yield all named values of one batch after the other, from one session; raises CannotRun."""
    inputs = {v.name for v in model.graph.inputs}
    inner = list(dict.fromkeys(name for name in names if name not in inputs))
    executor = open_at(model, inner, threads, optimization="basic") if inner else None
    for batch in batches:
        found = {name: batch[name] for name in names if name in inputs and name in batch}
        if executor is not None:
            used = {name: array for name, array in batch.items() if name in executor.inputs}
            found.update(zip(inner, executor.run(used, inner), strict=True))
        yield found


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
    reduced: Collection[str] = (),
    summed: Collection[str] = (),
    spin: bool = False,
) -> Executor:
    """Open a copy of the model that hands out the named values, or only their shapes; raises CannotRun.

    Of those in ``reduced`` it hands out minima and maxima (two outputs each; one, the maxima, of what is rectified), of
    those that are in ``summed`` too all three, sums behind them.
    """
    copy = model.clone()
    made = {v.name: v for node in copy.graph for v in node.outputs}
    values: list[onnx_ir.Value] = []
    for name in names:
        if shapes:
            values.append(_shape_of(copy, made[name]))
        else:
            with_sum = name in summed
            values += _reductions(copy, made[name], with_sum) if name in reduced else [made[name]]
    copy.graph.outputs.clear()
    copy.graph.outputs.extend(values)
    if weight_bytes(model) <= _INLINE:
        proto = onnx_ir.to_proto(copy)
        return Executor(proto, optimization=optimization, threads=threads, spin=spin)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "probe.onnx"
        save_model(copy, path)
        return Executor(path, optimization=optimization, threads=threads, spin=spin)


def _shape_of(model: onnx_ir.Model, value: onnx_ir.Value) -> onnx_ir.Value:
    node = onnx_ir.Node("", "Shape", [value], num_outputs=1)
    model.graph.append(node)
    found = node.outputs[0]
    found.name = f"{value.name}.whet.shape"
    found.type = onnx_ir.TensorType(onnx_ir.DataType.INT64)
    return found


def _reductions(model: onnx_ir.Model, value: onnx_ir.Value, with_sum: bool) -> list[onnx_ir.Value]:
    """Append ReduceMin, ReduceMax and perhaps ReduceSum; of what a Relu makes only the largest, by channel.

    Along all axes but the first where that one counts samples, which are then shared out to threads; otherwise along
    those behind the second, or the last one.
    """
    if is_rectified(value) and not with_sum:
        return [_largest(model, value)]
    sizes = dimensions(value) or ()
    kept = 1 if isinstance(next(iter(sizes), None), str) else 2
    axes = list(range(min(kept, len(sizes) - 1), len(sizes)))
    opset = model.graph.opset_imports.get("", 1)
    found: list[onnx_ir.Value] = []
    kinds = (("ReduceMin", 18), ("ReduceMax", 18), ("ReduceSum", 13))
    for kind, since in kinds[: 2 + with_sum]:
        name = f"{value.name}.whet.{kind}"
        attributes = [onnx_ir.AttrInt64("keepdims", 0)]
        inputs = [value]
        if opset >= since:
            tensor = onnx_ir.tensor(np.asarray(axes, np.int64), name=f"{name}.axes")
            given = onnx_ir.Value(name=tensor.name, const_value=tensor)
            model.graph.register_initializer(given)
            inputs.append(given)
        else:
            attributes.append(onnx_ir.AttrInt64s("axes", axes))
        node = onnx_ir.Node("", kind, inputs, attributes=attributes, num_outputs=1)
        model.graph.append(node)
        node.outputs[0].name = name
        node.outputs[0].type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
        found.append(node.outputs[0])
    return found


def is_rectified(value: onnx_ir.Value) -> bool:
    """Tell whether a value is a picture that begins at 0, since a Relu made it."""
    return is_op(value.producer(), "Relu") and len(dimensions(value) or ()) > 2


def _largest(model: onnx_ir.Model, value: onnx_ir.Value) -> onnx_ir.Value:
    """Append a pool: runtimes pool in whatever layout convolutions have left the value."""
    node = onnx_ir.Node("", "GlobalMaxPool", [value], num_outputs=1)
    model.graph.append(node)
    found = node.outputs[0]
    found.name = f"{value.name}.whet.GlobalMaxPool"
    found.type = onnx_ir.TensorType(onnx_ir.DataType.FLOAT)
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
