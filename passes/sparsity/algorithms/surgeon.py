"""Optimal Brain Surgeon: which weights go next, by what their loss costs when all others make up for it.

With the second derivative H of the loss in the weights of a row, removing the weights q of a row w at least cost moves
it by -[H⁻¹]_:q ([H⁻¹]_qq)⁻¹ w_q, and costs ½ w_qᵀ ([H⁻¹]_qq)⁻¹ w_q; what is left has the inverse H⁻¹ - [H⁻¹]_:q
([H⁻¹]_qq)⁻¹ [H⁻¹]_q: (Hassibi & Stork 1993; q single weights: Frantar, Singh & Alistarh, Optimal Brain Compression,
2022; q blocks and H a Fisher matrix: Kurtic et al., The Optimal BERT Surgeon, 2022).
"""

import dataclasses

import numpy as np

from whet.passes.quantization.algorithms.approximation import Doubles
from whet.passes.sparsity.algorithms.pattern import Pattern

__all__ = ["Elimination", "eliminate"]

Indices = np.ndarray[tuple[int, ...], np.dtype[np.intp]]
_TOGETHER = 32
"""Units that are taken out of the inverse at once: one product of matrices, not many of vectors."""


@dataclasses.dataclass(frozen=True)
class Elimination:
    """The order in which units of a row go: the first ones of it are what any sparsity removes."""

    order: Indices
    """Numbers of units, ``[removed]``."""
    costs: Doubles
    """What each adds to ½ δᵀ H δ, ``[removed]``."""


def eliminate(
    weights: Doubles, inverse: Doubles, pattern: Pattern, share: float = 1.0
) -> Elimination:
    """Remove unit after unit of ``share`` of the weights ``[rows, inputs]``, whose rows lose the same inputs.

    ``inverse`` is that of the second derivative, ``[inputs, inputs]``, or one for each row, ``[rows, inputs, inputs]``.
    A unit is ``pattern.width`` inputs side by side. Of N:M patterns no group loses more than M - N.
    """
    state = _State(weights, inverse, pattern)
    count = round(share * weights.shape[1] / pattern.width)
    order: list[int] = []
    costs: list[float] = []
    while len(order) < count:
        found = state.remove()
        if found is None:
            break
        order.append(found[0])
        costs.append(found[1])
    return Elimination(np.asarray(order, np.intp), np.asarray(costs, np.float64))


class _State:
    """What is left of the rows and of the inverse.

    The inverse is ``stale - taken takenᵀ``: columns of ``taken`` are gathered and subtracted many at a time.
    """

    def __init__(self, weights: Doubles, inverse: Doubles, pattern: Pattern) -> None:
        self._width = pattern.width
        self._weights: Doubles = np.array(weights, np.float64)
        self._stale: Doubles = np.array(inverse, np.float64).reshape(-1, *inverse.shape[-2:])
        self._diagonal = self._blocks()
        self._open()
        units = weights.shape[1] // pattern.width
        self._units: Indices = np.arange(units)
        self._alive = np.ones(units, np.bool)
        self._members = pattern.members
        self._room = np.full(-(-units // pattern.members), pattern.removable)

    def _blocks(self) -> Doubles:
        """Return [H⁻¹]_qq of every unit, ``[matrices, units, width, width]``."""
        places = np.arange(self._stale.shape[1]).reshape(-1, self._width)
        return np.asarray(self._stale[:, places[:, :, None], places[:, None, :]])

    def _open(self) -> None:
        self._taken: Doubles = np.zeros((*self._stale.shape[:2], _TOGETHER * self._width))
        self._used = 0

    def remove(self) -> tuple[int, float] | None:
        """Remove the cheapest unit; return its number and cost, or None where no group may lose more."""
        costs = self._costs()
        costs[~self._alive | (self._room[self._units // self._members] == 0)] = np.inf
        place = int(np.argmin(costs))
        if not np.isfinite(costs[place]):
            return None
        unit = int(self._units[place])
        self._alive[place] = False
        self._room[unit // self._members] -= 1
        self._take(place)
        return unit, float(costs[place])

    def _costs(self) -> Doubles:
        if self._width == 1:
            safe = np.where(self._alive, self._diagonal[:, :, 0, 0], 1.0)
            return np.asarray(0.5 * (np.square(self._weights) / safe).sum(0))
        parts = self._weights.reshape(len(self._weights), -1, self._width)
        blocks = np.where(self._alive[:, None, None], self._diagonal, np.eye(self._width))
        blocks = np.broadcast_to(blocks, (len(parts), *blocks.shape[1:]))
        solved = np.linalg.solve(blocks, parts[..., None])[..., 0]
        return np.asarray(0.5 * (parts * solved).sum((0, 2)))

    def _take(self, place: int) -> None:
        """Move the rest, and take the unit out of the inverse."""
        span = slice(place * self._width, (place + 1) * self._width)
        taken = self._taken[:, :, : self._used]
        columns = self._stale[:, :, span] - taken @ taken[:, span].transpose(0, 2, 1)
        root = np.linalg.cholesky(self._diagonal[:, place])
        # C D⁻¹ Cᵀ = V Vᵀ with V = C L⁻ᵀ and D = L Lᵀ.
        fresh = np.linalg.solve(root, columns.transpose(0, 2, 1)).transpose(0, 2, 1)
        pulled = np.linalg.solve(root, self._weights[:, span, None])
        self._weights -= (fresh @ pulled)[..., 0]
        parts = fresh.reshape(len(fresh), -1, self._width, self._width)
        self._diagonal -= parts @ parts.transpose(0, 1, 3, 2)
        self._taken[:, :, self._used : self._used + self._width] = fresh
        self._used += self._width
        if self._used == self._taken.shape[2]:
            self._settle()

    def _settle(self) -> None:
        """Subtract what was taken, and cut the arrays to what is left."""
        self._stale -= self._taken @ self._taken.transpose(0, 2, 1)
        kept = np.repeat(self._alive, self._width)
        self._weights = np.ascontiguousarray(self._weights[:, kept])
        self._stale = np.ascontiguousarray(self._stale[:, kept][:, :, kept])
        self._diagonal = np.ascontiguousarray(self._diagonal[:, self._alive])
        self._units = self._units[self._alive]
        self._alive = np.ones(len(self._units), np.bool)
        self._open()
