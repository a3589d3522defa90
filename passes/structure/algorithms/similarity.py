"""How little a block changes what goes into it: cosines of inputs and outputs, and the error of leaving it out."""

import numpy as np

from whet.ir.values import Array

__all__ = ["Closeness"]


class Closeness:
    """Sums over vectors x that a block reads and y that come out in their place.

    The mean cosine is the similarity of ShortGPT (Men et al., 2024) and LLM-Drop (He et al., 2024); one minus it is
    their importance.
    """

    def __init__(self, axis: int = -1) -> None:
        """Begin with nothing; vectors lie along ``axis``."""
        self._axis = axis
        self._cosines, self._count = 0.0, 0
        self._lost, self._whole = 0.0, 0.0

    def add(self, x: Array, y: Array) -> None:
        """Count all vectors of a batch; raises ValueError where the shapes differ."""
        if x.shape != y.shape:
            raise ValueError(f"shapes {list(x.shape)} and {list(y.shape)} differ")
        rows, others = (np.moveaxis(a, self._axis, -1).astype(np.float64) for a in (x, y))
        products = np.einsum("...i,...i->...", rows, others)
        lengths = np.linalg.norm(rows, axis=-1) * np.linalg.norm(others, axis=-1)
        self._cosines += float(np.sum(products / np.maximum(lengths, 1e-30)))
        self._count += products.size
        self._lost += float(np.sum((rows - others) ** 2))
        self._whole += float(np.sum(others**2))

    @property
    def cosine(self) -> float:
        """Return the mean cosine."""
        return self._cosines / max(self._count, 1)

    @property
    def error(self) -> float:
        """Return ||y - x|| / ||y||."""
        return float(np.sqrt(self._lost / self._whole)) if self._whole > 0 else float("inf")
