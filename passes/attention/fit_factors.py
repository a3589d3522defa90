"""Fit a bias computed from pairs of positions by products of a function of the query and a function of the key.

``B_h(i, j) = u_h(x_i) . v_h(y_j)`` with ``u_h(x) = phi(x) W_h`` and ``v_h(y) = psi(y) Z_h``, where phi and psi are
fixed functions of the features (FlashBias, 2025, for a bias that depends on the input). What depends on the query alone
is left out on both sides: softmax does not see it.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np
import scipy.special

from whet.passes.attention.feature_basis import BASES, Basis, BasisKind, Doubles, fit_basis

__all__ = [
    "FactorFunction",
    "Fit",
    "PairData",
    "Perceptron",
    "fit_factors",
    "least_squares_factors",
    "output_error",
]

_RIDGES: dict[BasisKind, tuple[float, ...]] = {
    "linear": (1e-10, 1e-2),
    "products": (1e-10, 1e-4, 1e-2),
    "waves": (1e-4, 1e-2),
}
_SWEEPS = 3
_STEPS = 80
_FINEST = 1e-13
_NOTHING = 1e-10
"""A direction of the factors with less than this share of the largest one's energy is no more than rounding."""
_SHARE = 1e-3
"""Conjugate gradients stop when the residual has shrunk to this share of the ridge, which blurs the rest."""


@dataclasses.dataclass(frozen=True)
class PairData:
    """What an attention saw on some samples: the features its bias was computed from, the bias, and the rest."""

    x: Doubles
    """Features of the queries, ``[samples, queries, c]``."""
    y: Doubles
    """Features of the keys, ``[samples, keys, c']``."""
    bias: Doubles
    """``[samples, heads or 1, queries, keys]``, finite."""
    scores: Doubles
    """Everything else below the softmax, ``[samples, heads, queries, keys]``; minus infinity hides a pair."""
    values: Doubles
    """``[samples, heads, keys, size]``."""

    def output(self, bias: Doubles) -> Doubles:
        """Return ``softmax(scores + bias) values``; a query that sees no key gets zeros."""
        logits = self.scores + bias
        highest = logits.max(-1, keepdims=True)
        weights = np.exp(logits - np.where(np.isfinite(highest), highest, 0.0))
        total = weights.sum(-1, keepdims=True)
        return (weights / np.where(total > 0, total, 1.0)) @ self.values


def output_error(data: PairData, bias: Doubles) -> float:
    """Return ``||new - old|| / ||old||`` of the attention's output under another bias."""
    old = data.output(data.bias)
    gap = float(np.linalg.norm(data.output(bias) - old))
    return gap / max(float(np.linalg.norm(old)), 1e-300)


@dataclasses.dataclass(frozen=True)
class Perceptron:
    """``gelu(z A + a) C``: what is added to the linear part."""

    inner: Doubles
    """A, ``[k, hidden]``."""
    shift: Doubles
    """a, ``[hidden]``."""
    outer: Doubles
    """C, ``[hidden, heads * rank]``."""

    def __call__(self, z: Doubles) -> Doubles:
        """Return ``[..., heads * rank]`` for projected features ``[..., k]``."""
        inner = z @ self.inner + self.shift
        normal: Doubles = scipy.special.ndtr(inner)
        return (inner * normal) @ self.outer


@dataclasses.dataclass(frozen=True)
class FactorFunction:
    """One factor of every head as a function of a position's features: ``phi(x) W``, plus a perceptron if refined."""

    basis: Basis
    weights: Doubles
    """W, ``[heads, width of the basis, rank]``."""
    perceptron: Perceptron | None = None

    @property
    def heads(self) -> int:
        """Return the number of heads, 1 if all share the factor."""
        return int(self.weights.shape[0])

    @property
    def rank(self) -> int:
        """Return the number of columns of a head."""
        return int(self.weights.shape[2])

    @property
    def flat(self) -> Doubles:
        """Return W as ``[width, heads * rank]``."""
        return self.weights.transpose(1, 0, 2).reshape(self.weights.shape[1], -1)

    def __call__(self, x: Doubles) -> Doubles:
        """Return ``[samples, heads, positions, rank]`` for features ``[samples, positions, c]``."""
        z = self.basis.project(x)
        columns = self.basis.expand(z) @ self.flat
        if self.perceptron is not None:
            columns = columns + self.perceptron(z)
        return columns.reshape(*x.shape[:2], self.heads, self.rank).transpose(0, 2, 1, 3)


@dataclasses.dataclass(frozen=True)
class Fit:
    """Two functions whose product stands for a bias, and how far the attention's output is off with them."""

    query: FactorFunction
    key: FactorFunction
    train_error: float
    check_error: float

    @property
    def rank(self) -> int:
        """Return the number of columns that are appended to each head."""
        return self.query.rank

    def bias(self, data: PairData) -> Doubles:
        """Return the bias that the factors stand for."""
        return self.query(data.x) @ self.key(data.y).swapaxes(-1, -2)

    def error(self, data: PairData) -> float:
        """Return :func:`output_error` on other data."""
        return output_error(data, self.bias(data))

    def measured(self, train: PairData, check: PairData) -> "Fit":
        """Return the same functions with their errors."""
        return Fit(self.query, self.key, self.error(train), self.error(check))


def fit_factors(
    train: PairData,
    check: PairData,
    ranks: Sequence[int],
    goal: float,
    *,
    hidden: int = 64,
    steps: int = 400,
    seed: int = 0,
) -> Fit:
    """Return the fit of the lowest rank whose error on ``check`` is within ``goal``, or else the best one found.

    The functions are chosen by ``check``, and so is when to stop: its error flatters, so a third set should judge.
    Least squares come first; only if they miss the goal are perceptrons trained on top of them, with torch if it is
    installed and ``steps`` is not zero.
    """
    start = _best_start(train, check, max(ranks), goal, seed)
    for rank in sorted(ranks):
        found = start.fit(rank)
        if found.check_error <= goal:
            return found
    best = start.fit(max(ranks))
    if not steps:
        return best
    from whet.passes.attention.refine_factors import can_refine, refine

    return (
        refine(best, train, check, hidden=hidden, steps=steps, seed=seed) if can_refine() else best
    )


def _best_start(train: PairData, check: PairData, rank: int, goal: float, seed: int) -> "_Start":
    """Return the functions and the ridge that do best; those that cost more are tried where others miss the goal."""
    starts: list[_Start] = []
    for kind in BASES:
        bases = fit_basis(train.x, kind, seed), fit_basis(train.y, kind, seed)
        starts += [_Start(train, check, *bases, ridge) for ridge in _RIDGES[kind]]
        if min(start.fit(rank).check_error for start in starts) <= goal:
            break
    return min(starts, key=lambda start: start.fit(rank).check_error)


class _Start:
    """Least squares on given functions, for any rank."""

    def __init__(
        self, train: PairData, check: PairData, query: Basis, key: Basis, ridge: float
    ) -> None:
        self._train, self._check = train, check
        self._query, self._key = query, key
        left = query.expand(query.project(train.x))
        right = key.expand(key.project(train.y))
        self._moments = _moments(left, right, train.bias, ridge)
        self._whole = _solve(self._moments)
        self._fits: dict[int, Fit] = {}

    def fit(self, rank: int) -> Fit:
        """Return the fit of one rank."""
        if rank not in self._fits:
            w, z = _factors(self._moments, self._whole, rank)
            query, key = FactorFunction(self._query, w), FactorFunction(self._key, z)
            self._fits[rank] = Fit(query, key, math.inf, math.inf).measured(
                self._train, self._check
            )
        return self._fits[rank]


@dataclasses.dataclass(frozen=True)
class _Moments:
    """All that least squares need to know of the data."""

    left: Doubles
    """``X'X``, ``[samples, p, p]``."""
    right: Doubles
    """``Y'Y``, ``[samples, q, q]``."""
    cross: Doubles
    """``X'BY``, ``[samples, heads, p, q]``."""
    limit: float
    """How exactly equations are solved."""

    @property
    def swapped(self) -> "_Moments":
        """Return the same with the roles of queries and keys exchanged."""
        return _Moments(self.right, self.left, self.cross.swapaxes(-1, -2), self.limit)


def least_squares_factors(
    left: Doubles, right: Doubles, bias: Doubles, rank: int, ridge: float = 1e-10
) -> tuple[Doubles, Doubles]:
    """Return ``W [heads, p, rank]`` and ``Z [heads, q, rank]`` that minimize ``sum ||B_h - X W_h (Y Z_h)'||^2``.

    ``left`` X is ``[samples, n, p]``, ``right`` Y ``[samples, m, q]`` and ``bias`` B ``[samples, heads, n, m]``; the
    mean over the keys of Y and B is not seen. First the best product of any rank is found, then it is cut to ``rank``
    in the metric of the data, then both sides take turns. ``ridge`` is relative to the mean square of the functions.
    """
    moments = _moments(left, right, bias, ridge)
    return _factors(moments, _solve(moments), rank)


def _factors(moments: _Moments, whole: Doubles, rank: int) -> tuple[Doubles, Doubles]:
    w, z = _cut(whole, moments, rank)
    for _ in range(_SWEEPS):
        w = _turn(moments, w, z)
        z = _turn(moments.swapped, z, w)
    return w, z


def _moments(left: Doubles, right: Doubles, bias: Doubles, ridge: float) -> _Moments:
    left, right, bias = (part.astype(np.float64) for part in (left, right, bias))
    right = right - right.mean(1, keepdims=True)
    bias = bias - bias.mean(-1, keepdims=True)
    cross = left.swapaxes(1, 2)[:, None] @ bias @ right[:, None]
    limit = max(_FINEST, _SHARE * ridge)
    return _Moments(_gram(left, ridge), _gram(right, ridge), cross, limit)


def _gram(columns: Doubles, ridge: float) -> Doubles:
    gram = columns.swapaxes(1, 2) @ columns
    size = max(float(np.trace(gram.mean(0))) / gram.shape[-1], 1e-300)
    blurred: Doubles = gram + ridge * size * np.eye(gram.shape[-1])
    return blurred


def _solve(moments: _Moments) -> Doubles:
    """Return M ``[heads, p, q]`` with ``sum_s G_s M H_s = sum_s C_s``."""
    inverse_left, inverse_right = (_inverse(g.mean(0)) for g in (moments.left, moments.right))
    count = len(moments.left)

    def operator(m: Doubles) -> Doubles:
        parts = (g @ m @ h for g, h in zip(moments.left, moments.right, strict=True))
        return sum(parts, start=np.zeros_like(m))

    def precondition(residual: Doubles) -> Doubles:
        return inverse_left @ residual @ inverse_right / count

    target = moments.cross.sum(0)
    return _conjugate_gradients(
        operator, precondition, target, np.zeros_like(target), moments.limit
    )


def _turn(moments: _Moments, w: Doubles, z: Doubles) -> Doubles:
    """Return the best W for a given Z, searched from ``w`` on.

    The columns of Z are made orthonormal first: those beyond the rank that there is are next to nothing, and equations
    with them as they are would be anything but well posed.
    """
    inner = z.swapaxes(-1, -2) @ moments.right[:, None] @ z
    values, vectors = np.linalg.eigh(inner.mean(0))
    kept = values > _NOTHING * np.maximum(values[:, -1:], 1e-300)
    sizes = np.sqrt(np.where(kept, values, 1.0))[:, None]
    whiten, back = (np.where(kept[:, None], vectors * f, 0.0) for f in (1 / sizes, sizes))
    inner = whiten.swapaxes(-1, -2) @ inner @ whiten
    inverse_own, count = _inverse(moments.left.mean(0)), len(inner)

    def operator(w: Doubles) -> Doubles:
        parts = (g @ w @ k for g, k in zip(moments.left, inner, strict=True))
        return sum(parts, start=np.zeros_like(w))

    def precondition(residual: Doubles) -> Doubles:
        return inverse_own @ residual / count

    target = (moments.cross @ (z @ whiten)).sum(0)
    found = _conjugate_gradients(operator, precondition, target, w @ back, moments.limit)
    return found @ whiten.swapaxes(-1, -2)


def _inverse(matrix: Doubles) -> Doubles:
    """Return the inverse of a positive matrix, in the directions that are there."""
    return np.linalg.pinv(matrix, rcond=1e-14, hermitian=True).astype(np.float64)


def _cut(whole: Doubles, moments: _Moments, rank: int) -> tuple[Doubles, Doubles]:
    """Cut ``[heads, p, q]`` to a rank: the best cut where all samples have the mean moments."""
    root_left, root_right = (_root(g.mean(0)) for g in (moments.left, moments.right))
    u, s, v = np.linalg.svd(root_left @ whole @ root_right)
    count = min(rank, s.shape[-1])
    size = np.sqrt(s[:, None, :count])
    w = _inverse(root_left) @ (u[..., :count] * size)
    z = _inverse(root_right) @ (v.swapaxes(-1, -2)[..., :count] * size)
    missing = ((0, 0), (0, 0), (0, rank - count))
    return np.pad(w, missing), np.pad(z, missing)


def _root(matrix: Doubles) -> Doubles:
    values, vectors = np.linalg.eigh(matrix)
    root: Doubles = (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T
    return root


def _conjugate_gradients(
    operator: Callable[[Doubles], Doubles],
    precondition: Callable[[Doubles], Doubles],
    target: Doubles,
    start: Doubles,
    limit: float,
) -> Doubles:
    """Solve ``operator(m) = target`` for every head at once."""
    found = start
    residual = target - operator(found)
    direction = precondition(residual)
    energy = _dot(residual, direction)
    small = limit**2 * _dot(target, precondition(target))
    for _ in range(_STEPS):
        if (energy <= small).all():
            break
        image = operator(direction)
        step = _ratio(energy, _dot(direction, image))
        found = found + step * direction
        residual = residual - step * image
        better = precondition(residual)
        previous, energy = energy, _dot(residual, better)
        direction = better + _ratio(energy, previous) * direction
    return found


def _dot(a: Doubles, b: Doubles) -> Doubles:
    product: Doubles = a * b
    total: Doubles = product.sum((-2, -1), keepdims=True)
    return total


def _ratio(a: Doubles, b: Doubles) -> Doubles:
    return np.where(b > 0, a / np.where(b > 0, b, 1.0), 0.0)
