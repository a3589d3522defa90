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
        self.full = False
        """Whether an answer was not kept because there was no room."""
        self._kept: dict[int, list[Array]] = {}
        self._together: dict[tuple[int, ...], list[Array]] = {}

    def together(self, batch: Batch) -> list[Array]:
        """Return the values on a batch that is asked for again as it is: nothing is taken apart and joined again."""
        if batch.numbers not in self._together:
            found = self.run(batch.feeds)
            if not self._fits(found):
                return found
            self._together[batch.numbers] = found
        return self._together[batch.numbers]

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
        count = len(batch.numbers)
        rows = all(array.ndim and len(array) == count for array in found)
        if not (count == 1 or rows) or not self._fits(found):
            return
        if count == 1:
            self._kept[batch.numbers[0]] = list(found)
            return
        for row, number in enumerate(batch.numbers):
            self._kept[number] = [array[row : row + 1] for array in found]

    def _fits(self, found: Sequence[Array]) -> bool:
        """Tell whether answers may be kept, and count them."""
        size = sum(array.nbytes for array in found)
        if size > self._left:
            self.full = True
            return False
        self._left -= size
        return True

    def _recalled(self, batch: Batch) -> list[Array]:
        if len(batch.numbers) == 1:
            return self._kept[batch.numbers[0]]
        parts = [self._kept[number] for number in batch.numbers]
        return [np.concatenate(column) for column in zip(*parts, strict=True)]
