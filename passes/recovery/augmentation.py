"""Pictures made of pictures: mirrored, and moved by a few pixels. No labels are needed, the original is asked anew."""

from typing import Literal

import numpy as np

from whet.ir.values import Array
from whet.passes.recovery.samples import Batch

__all__ = ["Augment", "augmented"]

Augment = Literal["none", "flip", "shift"]
_SHARE = 8
"""Pictures are moved by up to one of so many parts of their size."""


def augmented(batch: Batch, how: Augment, rng: np.random.Generator) -> Batch:
    """Return a batch in which half of the pictures are mirrored; with ``shift`` they are moved too, edges repeated.

    Pictures are inputs ``[samples, channels, height, width]`` of floats. The batch has no numbers any more: nothing is
    remembered of it.
    """
    if how == "none":
        return batch
    feeds = {name: _changed(array, how, rng) for name, array in batch.feeds.items()}
    return Batch((), feeds)


def _changed(array: Array, how: Augment, rng: np.random.Generator) -> Array:
    if array.ndim != 4 or array.dtype.kind != "f":
        return array
    mirrored = rng.random(len(array)) < 0.5
    found = np.where(mirrored[:, None, None, None], array[..., ::-1], array)
    return _moved(found, rng) if how == "shift" else np.ascontiguousarray(found)


def _moved(array: Array, rng: np.random.Generator) -> Array:
    height, width = array.shape[2:]
    down, right = max(1, height // _SHARE), max(1, width // _SHARE)
    wide = np.pad(array, ((0, 0), (0, 0), (down, down), (right, right)), mode="edge")
    rows = rng.integers(0, 2 * down + 1, len(array))
    columns = rng.integers(0, 2 * right + 1, len(array))
    parts = [
        picture[:, row : row + height, column : column + width]
        for picture, row, column in zip(wide, rows, columns, strict=True)
    ]
    return np.stack(parts)
