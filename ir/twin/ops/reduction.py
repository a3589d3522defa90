"""Reductions, cumulative sums, and the positions of extremes."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from whet.ir.twin.registry import op

Reduce = Callable[[Tensor, list[int], bool], Tensor]


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keep, dtype=x.dtype)


def _mean(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        return torch.mean(x, axes, keep)
    count = torch.Size(x.shape[axis] for axis in axes).numel()
    return torch.div(_sum(x, axes, keep), count, rounding_mode="trunc").to(x.dtype)


def _product(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    for axis in axes:
        x = torch.prod(x, axis, True, dtype=x.dtype)
    return x if keep else _drop(x, axes)


def _drop(x: Tensor, axes: list[int]) -> Tensor:
    return x.reshape([size for axis, size in enumerate(x.shape) if axis not in axes])


def _extreme(x: Tensor, axes: list[int], keep: bool, *, largest: bool) -> Tensor:
    if x.dtype is torch.bool:
        return _extreme(x.to(torch.uint8), axes, keep, largest=largest).to(torch.bool)
    if any(x.shape[axis] == 0 for axis in axes):
        shape = [1 if axis in axes else size for axis, size in enumerate(x.shape)]
        full = x.new_full(shape, _neutral(x.dtype, largest=largest))
        return full if keep else _drop(full, axes)
    return torch.amax(x, axes, keep) if largest else torch.amin(x, axes, keep)


def _neutral(dtype: torch.dtype, *, largest: bool) -> float:
    if dtype.is_floating_point:
        return float("-inf") if largest else float("inf")
    return torch.iinfo(dtype).min if largest else torch.iinfo(dtype).max


def _maximum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _extreme(x, axes, keep, largest=True)


def _minimum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _extreme(x, axes, keep, largest=False)


def _l1(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(torch.abs(x), axes, keep)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    if x.is_floating_point():
        norm: Tensor = torch.linalg.vector_norm(x, 2, axes, keep)
        return norm
    return torch.sqrt(_sum(x * x, axes, keep).double()).to(x.dtype)


def _sum_of_squares(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return _sum(x * x, axes, keep)


def _log_of_sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.log(_sum(x, axes, keep)).to(x.dtype)


def _log_of_sum_of_exp(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    wide = x if x.is_floating_point() else x.double()
    return torch.logsumexp(wide, axes, keep).to(x.dtype)


def _reduce(
    function: Reduce, x: Tensor, axes: Sequence[int] | None, keepdims: int, noop: int
) -> Tensor:
    if not axes and noop:
        return function(x.unsqueeze(0), [0], False)
    wanted = sorted(axis % x.ndim for axis in axes) if axes else list(range(x.ndim))
    if not wanted:
        return function(x.unsqueeze(0), [0], False)
    return function(x, wanted, bool(keepdims))


def _by_attribute(function: Reduce, name: str) -> Callable[..., Tensor]:
    def reduce(x: Tensor, *, axes: list[int] | None = None, keepdims: int = 1) -> Tensor:
        return _reduce(function, x, axes, keepdims, 0)

    reduce.__name__ = reduce.__qualname__ = f"{name}_1"
    return reduce


def _by_input(function: Reduce, name: str) -> Callable[..., Tensor]:
    def reduce(
        x: Tensor,
        axes: Tensor | None = None,
        *,
        keepdims: int = 1,
        noop_with_empty_axes: int = 0,
    ) -> Tensor:
        chosen = None if axes is None else [int(axis) for axis in axes.tolist()]
        return _reduce(function, x, chosen, keepdims, noop_with_empty_axes)

    reduce.__name__ = reduce.__qualname__ = name
    return reduce


for _op_type, _name, _function, _axes_as_input in (
    ("ReduceSum", "reduce_sum", _sum, 13),
    ("ReduceMean", "reduce_mean", _mean, 18),
    ("ReduceProd", "reduce_prod", _product, 18),
    ("ReduceMax", "reduce_max", _maximum, 18),
    ("ReduceMin", "reduce_min", _minimum, 18),
    ("ReduceL1", "reduce_l1", _l1, 18),
    ("ReduceL2", "reduce_l2", _l2, 18),
    ("ReduceSumSquare", "reduce_sum_square", _sum_of_squares, 18),
    ("ReduceLogSum", "reduce_log_sum", _log_of_sum, 18),
    ("ReduceLogSumExp", "reduce_log_sum_exp", _log_of_sum_of_exp, 18),
):
    globals()[f"{_name}_1"] = op(_op_type, since=1)(_by_attribute(_function, _name))
    globals()[_name] = op(_op_type, since=_axes_as_input)(_by_input(_function, _name))


def _position(x: Tensor, axis: int, keepdims: int, last: int, *, largest: bool) -> Tensor:
    find = torch.argmax if largest else torch.argmin
    if not last:
        return find(x, dim=axis, keepdim=bool(keepdims))
    return x.shape[axis] - 1 - find(torch.flip(x, [axis]), dim=axis, keepdim=bool(keepdims))


@op("ArgMax", since=1)
def arg_max(x: Tensor, *, axis: int, keepdims: int, select_last_index: int = 0) -> Tensor:
    """Find the first (or last) maximum along an axis."""
    return _position(x, axis, keepdims, select_last_index, largest=True)


@op("ArgMin", since=1)
def arg_min(x: Tensor, *, axis: int, keepdims: int, select_last_index: int = 0) -> Tensor:
    """Find the first (or last) minimum along an axis."""
    return _position(x, axis, keepdims, select_last_index, largest=False)


def _cumulative(
    scan: Callable[..., Tensor], x: Tensor, axis: int, neutral: int, exclusive: int, reverse: int
) -> Tensor:
    x = torch.flip(x, [axis]) if reverse else x
    if exclusive:
        first = torch.full_like(x.narrow(axis, 0, 1), neutral)
        x = torch.cat([first, x.narrow(axis, 0, x.shape[axis] - 1)], dim=axis)
    total = scan(x, axis, dtype=x.dtype)
    return torch.flip(total, [axis]) if reverse else total


@op("CumSum", since=11)
def cum_sum(x: Tensor, axis: Tensor, *, exclusive: int, reverse: int) -> Tensor:
    """Add up along an axis."""
    return _cumulative(torch.cumsum, x, int(axis), 0, exclusive, reverse)


@op("CumProd", since=26)
def cum_prod(x: Tensor, axis: Tensor, *, exclusive: int, reverse: int) -> Tensor:
    """Multiply up along an axis."""
    return _cumulative(torch.cumprod, x, int(axis), 1, exclusive, reverse)


def _top(x: Tensor, k: int, axis: int, largest: int) -> tuple[Tensor, Tensor]:
    values, indices = torch.sort(x, dim=axis, descending=bool(largest), stable=True)
    return values.narrow(axis, 0, k), indices.narrow(axis, 0, k)


@op("TopK", since=1)
def top_k_1(x: Tensor, *, k: int, axis: int) -> tuple[Tensor, Tensor]:
    """Take the ``k`` largest along an axis."""
    return _top(x, k, axis, 1)


@op("TopK", since=10)
def top_k(
    x: Tensor, k: Tensor, *, axis: int, largest: int = 1, sorted: int = 1
) -> tuple[Tensor, Tensor]:
    """Take the ``k`` largest or smallest along an axis, in order; of equals, the first."""
    return _top(x, int(k), axis, largest)
