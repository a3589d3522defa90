"""A metric with its data: runs a model batch by batch, and says which samples a search may see."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from whet.backends.base import Runner
from whet.errors import CalibrationError, UsageError
from whet.ir.array import Array
from whet.ir.execute import CannotRun

__all__ = ["Data", "Evaluation", "Rows", "read_arrays"]

Data = str | Path | Mapping[str, Array]
"""A path to an ``.npz`` or arrays by name; the leading axis of each counts samples."""
Feeds = dict[str, Array]
Rows = Callable[[list[Array], list[Feeds], Array], Array]
"""(the output and the inputs of each group, the truth of these samples) -> one row for each sample."""
_PARTS = {"all": slice(None), "search": slice(0, None, 2), "unseen": slice(1, None, 2)}


@dataclasses.dataclass(frozen=True, eq=False)
class Evaluation:
    """A function of a loaded model that returns a metric where larger is better.

    It is what ``evaluate=`` of :func:`whet.compile` takes. During a search it is called with every other sample
    (``part="search"``), afterwards with those between (``"unseen"``).
    """

    spelling: str
    """As ``--evaluate`` takes it; empty where the data are no file."""
    groups: tuple[Feeds, ...]
    """Inputs of the model; two groups where each sample is a pair."""
    truth: Array
    rows: Rows
    finish: Callable[[Array, Array], float | Array] | None = None
    """(rows of all samples, truth) -> the metric, where it is no mean over samples."""
    output: str = ""
    """The output that is looked at, by name; the first one without."""
    batch: int = 32
    stamp: str = ""
    """Stands for the metric and its data."""

    def __call__(self, runner: Runner, part: str = "all") -> float | Array:
        """Return one number for each sample, whose mean is the metric, or the metric."""
        chosen = np.arange(len(self.truth))[_PARTS[part]]
        if not len(chosen):
            raise UsageError(f"evaluate: {len(self.truth)} samples leave none for '{part}'")
        found = np.concatenate(list(self._batches(runner, chosen)))
        return found if self.finish is None else self.finish(found, self.truth[chosen])

    def __str__(self) -> str:
        """Return how ``--evaluate`` spells it."""
        return self.spelling or "…"

    def _batches(self, runner: Runner, chosen: NDArray[np.intp]) -> Iterator[Array]:
        for start in range(0, len(chosen), self.batch):
            taken = chosen[start : start + self.batch]
            groups = [
                {n: np.ascontiguousarray(a[taken]) for n, a in g.items()} for g in self.groups
            ]
            outputs = [self._output(runner, feeds) for feeds in groups]
            yield np.asarray(self.rows(outputs, groups, self.truth[taken]))

    def _output(self, runner: Runner, feeds: Feeds) -> Array:
        try:
            found = runner.run(feeds)
        except CannotRun as error:
            raise UsageError(
                f"the model does not run on the data of evaluate, {self.batch} samples at a time (batch=…): {error}"
            ) from error
        if not self.output:
            return found[0]
        if self.output not in runner.outputs:
            raise UsageError(
                f"evaluate looks at output '{self.output}', the model has {list(runner.outputs)}"
            )
        return found[runner.outputs.index(self.output)]


def read_arrays(data: Data, *truths: str) -> tuple[Feeds, dict[str, Array], str]:
    """Return the inputs, the arrays named ``truths`` where they are there, and what stands for all of them.

    Raises:
        CalibrationError: no such file, arrays of different lengths, or nothing left to feed.
    """
    arrays = _read(data)
    lengths = {name: len(a) if a.ndim else 0 for name, a in arrays.items()}
    if not arrays or len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise CalibrationError(f"evaluate: numbers of samples differ or are zero: {lengths}")
    known = {name: arrays.pop(name) for name in truths if name in arrays}
    if not arrays:
        raise CalibrationError(f"evaluate: there are no inputs beside {list(known)}")
    found = hashlib.sha256()
    for name, array in sorted({**arrays, **known}.items()):
        found.update(f"{name}{array.shape}{array.dtype}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return arrays, known, found.hexdigest()


def _read(data: Data) -> Feeds:
    if not isinstance(data, str | Path):
        return {name: np.asarray(array) for name, array in data.items()}
    try:
        with np.load(data, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise CalibrationError(
            f"evaluate: cannot read '{data}': {error.strerror or error}"
        ) from error
    except ValueError as error:
        raise CalibrationError(f"evaluate: '{data}' is no .npz of plain arrays: {error}") from error
