"""Functions of one element that turn into vector instructions.

TVM hands ``exp``, ``erf`` and ``tanh`` to the C library one element at a time. In 32 bits they are written here as
polynomials, which a vectorized loop computes for all its elements at once; other types keep TVM's functions.
"""

import math
from collections.abc import Callable, Sequence

from whet.backends.tvm.api import Expr, tirx

__all__ = ["erf", "exp", "gelu", "let", "sigmoid", "tanh"]

_LOW, _HIGH = -87.33654, 88.9
_LN2 = (0.693359375, -2.12194440e-4)
"""The logarithm of two in two parts: the first one is exact in few bits, so that n times it is too."""
_TAIL = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)
"""Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error| ≤ 1.5e-7."""


def let(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """Return ``body`` of a value that is computed once."""
    name = tirx.Var("t", value.ty)
    return tirx.Let(name, value, body(name))


def _single(x: Expr) -> bool:
    return str(x.ty).endswith("float32")


def _f(number: float) -> Expr:
    return tirx.FloatImm("float32", number)


def _horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    found = _f(coefficients[0])
    for number in coefficients[1:]:
        found = found * x + _f(number)
    return found


def exp(x: Expr) -> Expr:
    """Return eˣ = 2ⁿ eʳ with |r| ≤ ln 2 / 2, the latter by Taylor's series; relative error about 1e-7."""
    if not _single(x):
        return tirx.exp(x)

    def reduced(v: Expr) -> Expr:
        bounded = tirx.min(tirx.max(v, _f(_LOW)), _f(_HIGH))
        whole = tirx.min(tirx.nearbyint(bounded * _f(math.log2(math.e))), _f(127.0))
        return let(whole, lambda n: power(v, bounded, n))

    def power(v: Expr, bounded: Expr, n: Expr) -> Expr:
        r = bounded - n * _f(_LN2[0]) - n * _f(_LN2[1])
        series = [1 / math.factorial(k) for k in range(7, -1, -1)]
        scale = tirx.reinterpret("float32", (tirx.Cast("int32", n) + 127) << 23)
        value = let(r, lambda t: _horner(t, series)) * scale
        return tirx.Select(v < _f(_LOW), _f(0.0), value)

    return let(x, reduced)


def sigmoid(x: Expr) -> Expr:
    """Return 1 / (1 + e⁻ˣ)."""
    if not _single(x):
        return tirx.sigmoid(x)
    return _f(1.0) / (_f(1.0) + exp(_f(0.0) - x))


def tanh(x: Expr) -> Expr:
    """Return tanh x = 1 - 2 / (e²ˣ + 1); near zero, where that cancels, Taylor's series."""
    if not _single(x):
        return tirx.tanh(x)

    def both(v: Expr) -> Expr:
        far = _f(1.0) - _f(2.0) / (exp(v + v) + _f(1.0))
        near = v * let(v * v, lambda s: _horner(s, (62 / 2835, -17 / 315, 2 / 15, -1 / 3, 1.0)))
        return tirx.Select(tirx.abs(v) < _f(0.25), near, far)

    return let(x, both)


def _tail(z: Expr) -> Expr:
    """Return erfc z for z ≥ 0."""
    t = _f(1.0) / (_f(1.0) + _f(0.3275911) * z)
    return let(t, lambda v: _horner(v, (*reversed(_TAIL), 0.0))) * exp(_f(0.0) - z * z)


def erf(x: Expr) -> Expr:
    """Return the error function; near zero by its series, which keeps small numbers exact."""
    if not _single(x):
        return tirx.erf(x)

    def both(v: Expr) -> Expr:
        far = let(tirx.abs(v), lambda z: _f(1.0) - _tail(z))
        series = (1 / 216, -1 / 42, 1 / 10, -1 / 3, 1.0)
        near = let(v * v, lambda s: _horner(s, series)) * v * _f(2 / math.sqrt(math.pi))
        signed = let(far, lambda q: tirx.Select(v < _f(0.0), _f(0.0) - q, q))
        return tirx.Select(tirx.abs(v) < _f(0.35), near, signed)

    return let(x, both)


def gelu(x: Expr) -> Expr:
    """Return x Φ(x), from the tail of the distribution, so that nothing cancels for negative x."""
    if not _single(x):
        half = tirx.const(0.5, str(x.ty))
        return half * x * (half + half + tirx.erf(x * tirx.const(math.sqrt(0.5), str(x.ty))))

    def both(v: Expr) -> Expr:
        tail = _f(0.5) * let(tirx.abs(v) * _f(math.sqrt(0.5)), _tail)
        return let(tail, lambda q: v * tirx.Select(v < _f(0.0), q, _f(1.0) - q))

    return let(x, both)
