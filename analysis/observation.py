"""Run a model on calibration data and show values inside it, as many at a time as fit into memory."""

import math
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import onnx_ir

from whet.analysis.activations import is_rectified, open_at
from whet.analysis.dataset import Batches, batch_size, leading
from whet.analysis.running_extremes import RunningExtremes, are_huge, tame_values
from whet.errors import CalibrationError
from whet.ir.bindings import evaluate_dimension
from whet.ir.execute import CannotRun, Executor
from whet.ir.residency import resident_bytes
from whet.ir.values import Array, dimensions, weight_bytes

if TYPE_CHECKING:
    from whet.passes.workbench import Context

__all__ = ["Observation", "memory_left"]

Feeds = Mapping[str, Array]
ROOM = 1 << 30
"""Bytes for values of one run where the user sets no limit. A constant, so that batches are the same everywhere."""
_COPIES = 2
"""An output is in memory twice while it is handed over: in the runtime, and in the array."""
_CACHED = 1 << 20
"""Bytes of the largest value where extremes are all that is wanted: what a core's second-level cache holds."""
_PATIENCE = 0.5
"""Seconds between two messages."""


def memory_left(model: onnx_ir.Model, max_ram: int | None) -> int:
    """Return the bytes that values of one run may take; raises CalibrationError where nothing is left.

    What this process holds now, and the weights twice (in the file that the runtime reads, and in the runtime), come
    off the user's limit.
    """
    if max_ram is None:
        return ROOM
    held = resident_bytes() + 2 * weight_bytes(model)
    if held >= max_ram:
        raise CalibrationError(
            f"calibration needs {held / 1e6:,.0f} MB before a single sample is run, the limit (max_ram) is "
            f"{max_ram / 1e6:,.0f} MB"
        )
    return max_ram - held


class Observation:
    """One look at the named values on all calibration batches of a context."""

    def __init__(
        self,
        model: onnx_ir.Model,
        names: Sequence[str],
        context: "Context",
        reduced: Collection[str] = (),
    ) -> None:
        """Prepare to watch values by name; those of inputs come from the data.

        Of the values in ``reduced`` only the extremes matter: where possible, the runtime finds them itself, and they
        are handed out once, when all batches have been seen (with NaN where something is not finite). What a Relu makes
        counts as beginning at 0.
        """
        self._model = model
        self._context = context
        inputs = {v.name for v in model.graph.inputs}
        self._given = [name for name in names if name in inputs]
        self._inner = [name for name in names if name not in inputs]
        sizes = _Sizes(model, self._inner, context.threads)
        self._reduced = {n for n in reduced if n in self._inner and sizes.reducible(n)}
        # What is only reduced never leaves the runtime: it counts where the user sets a limit.
        free = self._reduced if context.max_ram is None else ()
        self._counted = [name for name in self._inner if name not in free]
        self._sizes = _Sizes(model, self._counted, context.threads) if free else sizes
        self._stated = sizes.stated
        self._free = batch_size(model, default=0) == 0
        self._last = time.monotonic()

    def runs(self) -> Iterator[dict[str, Array]]:
        """Yield the values of one run by name, run by run, and extremes at the end.

        Raises CalibrationError if a sample does not fit.
        """
        try:
            yield from self._runs()
        except CannotRun as error:
            raise CalibrationError(
                f"the model does not run on the calibration data: {error}"
            ) from error

    def _runs(self) -> Iterator[dict[str, Array]]:
        batches = self._context.calibration
        room = memory_left(self._model, self._context.max_ram)
        groups = self._groups(room)
        for number, group in enumerate(groups):
            first = number == 0
            reader = _Reader(self._model, group, self._context.threads, self._reduced)
            for done, feeds in enumerate(batches):
                where = f"batch {done + 1:,} of {len(batches):,}"
                self._say(
                    where + (f", part {number + 1} of {len(groups)}" if len(groups) > 1 else "")
                )
                for part in self._cut(feeds, group, room):
                    given = {n: part[n] for n in self._given if n in part} if first else {}
                    yield {**given, **(reader.read(part) if group else {})}
            if extremes := reader.extremes.found():
                yield extremes

    def _groups(self, room: int) -> list[list[str]]:
        """Divide the values so that those of a single sample fit into memory together; one group if they all do."""
        sizes = self._largest()
        groups: list[list[str]] = [[]]
        filled = 0
        for name in self._inner:
            size = _COPIES * sizes.get(name, 0)
            if size > room:
                raise CalibrationError(
                    f"calibration: '{name}' takes {size / 1e6:,.1f} MB for one sample, {room / 1e6:,.1f} MB are left "
                    "of the limit (max_ram)"
                )
            if filled + size > room:
                groups.append([])
                filled = 0
            groups[-1].append(name)
            filled += size
        return groups

    def _largest(self) -> dict[str, int]:
        """Return the most bytes that each value takes for one sample of any batch."""
        found = dict.fromkeys(self._counted, 0)
        if not self._counted:
            return found
        for feeds in _kinds(self._context.calibration):
            for name, size in self._sizes.of(self._single(feeds)).items():
                found[name] = max(found[name], size)
        return found

    def _single(self, feeds: Feeds) -> Feeds:
        if not self._free or leading(feeds) is None:
            return feeds
        return {name: array[:1] for name, array in feeds.items()}

    def _cut(self, feeds: Feeds, group: Sequence[str], room: int) -> Iterator[Feeds]:
        count = leading(feeds)
        if not self._free or count is None or not group:
            yield feeds
            return
        single = self._single(feeds)
        sizes = self._sizes.of(single) if self._counted else {}
        each = max(1, _COPIES * sum(sizes.get(name, 0) for name in group))
        step = max(1, room // each)
        if self._reduced.issuperset(group):
            # What was just computed is still in the cache when the runtime looks for its extremes.
            largest = max(self._stated(single).values(), default=1)
            step = min(step, max(1, _CACHED // max(1, largest)))
        peak = each * min(step, count)
        self._context.observed_bytes = max(self._context.observed_bytes, peak)
        for start in range(0, count, step):
            yield {name: array[start : start + step] for name, array in feeds.items()}

    def _say(self, where: str) -> None:
        now = time.monotonic()
        if now - self._last > _PATIENCE:
            self._context.progress(f"calibrate: {where}")
            self._last = now


class _Reader:
    """Reads some values; of those in ``reduced``, where the runtime can reduce them, only the extremes."""

    def __init__(
        self, model: onnx_ir.Model, names: Sequence[str], threads: int, reduced: Collection[str]
    ) -> None:
        self._model = model
        self._names = names
        self._threads = threads
        self._reduced = [name for name in names if name in reduced]
        self._whole = [name for name in names if name not in reduced]
        tame = tame_values(model) if self._reduced else frozenset[str]()
        self._summed = [name for name in self._reduced if name not in tame]
        made = {v.name: v for node in model.graph for v in node.outputs}
        self._rectified = {name for name in self._reduced if is_rectified(made[name])}
        self._executor: Executor | None = None
        self.extremes = RunningExtremes(self._reduced)

    def read(self, feeds: Feeds) -> dict[str, Array]:
        try:
            return self._run(feeds)
        except CannotRun:
            if not self._reduced:
                raise
        # Where the runtime cannot reduce, whole values have to do from here on.
        self._whole, self._reduced, self._summed = [*self._names], [], []
        self._executor = None
        return self._run(feeds)

    def _run(self, feeds: Feeds) -> dict[str, Array]:
        if self._executor is None:
            names = [*self._whole, *self._reduced]
            self._executor = open_at(
                self._model,
                names,
                self._threads,
                reduced=self._reduced,
                summed=self._summed,
                spin=not self._whole,
            )
        executor = self._executor
        outputs = executor.run({n: feeds[n] for n in executor.inputs if n in feeds})
        whole, rest = outputs[: len(self._whole)], iter(outputs[len(self._whole) :])
        pairs: list[tuple[Array, Array]] = []
        sums: dict[str, Array] = {}
        for name in self._reduced:
            first = next(rest)
            if name in self._rectified and name not in self._summed:
                pairs.append((np.zeros_like(first), first))
                continue
            pairs.append((first, next(rest)))
            if name in self._summed:
                sums[name] = next(rest)
        if len(self._summed) < len(self._reduced) and are_huge(pairs):
            # Sums of such numbers may overflow, and extremes do not show what is not a number.
            self._summed, self._executor = [*self._reduced], None
            return self._run(feeds)
        self.extremes.add(pairs, sums)
        return dict(zip(self._whole, whole, strict=True))


def _kinds(batches: Sequence[Feeds]) -> Iterator[Feeds]:
    """Yield one batch of each combination of shapes."""
    seen: set[object] = set()
    for feeds in batches.kinds() if isinstance(batches, Batches) else batches:
        kind = _shapes(feeds)
        if kind not in seen:
            seen.add(kind)
            yield feeds


def _shapes(feeds: Feeds) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple((name, array.shape) for name, array in sorted(feeds.items()))


class _Sizes:
    """Knows how many bytes values take: from their shapes where the model says enough, else from a run.

    That run hands out shapes only, so that it takes no more memory than the model itself.
    """

    def __init__(self, model: onnx_ir.Model, names: Sequence[str], threads: int) -> None:
        self._model = model
        self._names = names
        self._threads = threads
        made = {v.name: v for node in model.graph for v in node.outputs}
        unknown = [name for name in names if name not in made]
        if unknown:
            raise CalibrationError(f"no value of the model is called '{unknown[0]}'")
        self._values = {name: made[name] for name in names}
        self._known: dict[object, dict[str, int]] = {}

    def reducible(self, name: str) -> bool:
        """Tell whether the runtime can find the extremes of a value."""
        value = self._values[name]
        return value.dtype == onnx_ir.DataType.FLOAT and bool(dimensions(value))

    def of(self, feeds: Feeds) -> dict[str, int]:
        """Return bytes by name for one run on these feeds."""
        key = _shapes(feeds)
        if key not in self._known:
            found = self.stated(feeds)
            self._known[key] = found if len(found) == len(self._names) else self._seen(feeds)
        return self._known[key]

    def stated(self, feeds: Feeds) -> dict[str, int]:
        """Return bytes by name as far as the model says them."""
        binding: dict[str, int] = {}
        for value in self._model.graph.inputs:
            array = feeds.get(value.name or "")
            sizes = dimensions(value)
            if array is None or sizes is None:
                continue
            for size, number in zip(sizes, array.shape, strict=True):
                if isinstance(size, str):
                    binding[size] = number
        found: dict[str, int] = {}
        for name, value in self._values.items():
            dims = dimensions(value)
            numbers = None if dims is None else [evaluate_dimension(s, binding) for s in dims]
            if numbers is not None and all(n is not None for n in numbers):
                found[name] = self._bytes(name, tuple(n for n in numbers if n is not None))
        return found

    def _bytes(self, name: str, shape: tuple[int, ...]) -> int:
        dtype = self._values[name].dtype
        width = 4 if dtype is None or dtype == onnx_ir.DataType.STRING else dtype.itemsize
        return math.ceil(math.prod(shape) * width)

    def _seen(self, feeds: Feeds) -> dict[str, int]:
        executor = open_at(self._model, self._names, self._threads, shapes=True)
        used = {name: feeds[name] for name in executor.inputs if name in feeds}
        found = executor.run(used)
        return {
            name: self._bytes(name, tuple(int(n) for n in np.asarray(shape)))
            for name, shape in zip(self._names, found, strict=True)
        }
