"""What the original makes of samples: computed by ONNX Runtime, kept where it is asked for again."""

from collections.abc import Sequence

import numpy as np
import onnx_ir

from whet.analysis.activations import open_at
from whet.ir.values import Array
from whet.passes.recovery.samples import Batch, Feeds

__all__ = ["Teacher"]


class Teacher:
    """The values ``names`` of a model."""

    def __init__(
        self, model: onnx_ir.Model, names: Sequence[str], threads: int, most_bytes: int
    ) -> None:
        """Open the model; up to ``most_bytes`` of answers are kept. Raises CannotRun."""
        self._executor = open_at(model, names, threads)
        self._names = list(names)
        self._left = most_bytes
        self._kept: dict[int, list[Array]] = {}

    def of(self, batch: Batch) -> list[Array]:
        """Return the values on a batch; each sample is computed once where answers may be kept."""
        if all(number in self._kept for number in batch.numbers):
            return self._recalled(batch)
        found = self.run(batch.feeds)
        self._keep(batch, found)
        return found

    def run(self, feeds: Feeds) -> list[Array]:
        """Return the values on feeds that are nowhere kept."""
        used = {n: a for n, a in feeds.items() if n in self._executor.inputs}
        return self._executor.run(used, self._names)

    def _keep(self, batch: Batch, found: Sequence[Array]) -> None:
        size = sum(array.nbytes for array in found)
        if size > self._left:
            return
        count = len(batch.numbers)
        if count == 1:
            self._kept[batch.numbers[0]] = list(found)
        elif all(array.ndim and len(array) == count for array in found):
            for row, number in enumerate(batch.numbers):
                self._kept[number] = [array[row : row + 1] for array in found]
        else:
            return
        self._left -= size

    def _recalled(self, batch: Batch) -> list[Array]:
        if len(batch.numbers) == 1:
            return self._kept[batch.numbers[0]]
        parts = [self._kept[number] for number in batch.numbers]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]
