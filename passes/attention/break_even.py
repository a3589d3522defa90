"""Whether factors in place of a bias pay, and from which length on: by measurement, beside what theory says.

The I/O complexity of attention on n queries and m keys with head size d and a fast memory of M elements is
``n m d^2 / M`` for ``M >= d^2`` (Saha and Ye, 2024); a bias adds the ``n m`` elements that have to be read, whatever
the order of the computation (FlashBias, 2025). Factors of rank r turn d into d + r instead.
"""

import dataclasses
from typing import Literal

import onnx_ir

from whet.analysis.prices import Prices
from whet.errors import Mismatch
from whet.ir.values import is_constant
from whet.passes.attention.call import AttentionCall, AttentionSizes
from whet.passes.attention.prices import AttentionWork, fastest, mask_time
from whet.passes.onnxruntime.attention_reading import Sizes, read_task
from whet.passes.workbench import Workbench

__all__ = ["Payoff", "check_pays", "io_elements"]

_GAIN = 0.95
"""Factors must take less than this share of the time."""
_LENGTHS = (512, 1024, 2048)
"""Tried out where factors do not pay; the next one would take half a minute."""
_LARGEST = 1 << 29
"""Longer attentions, whose bias has more bytes, are not tried out."""


@dataclasses.dataclass(frozen=True)
class Payoff:
    """What factors were measured to gain at one length."""

    length: int
    rank: int
    ms_before: float
    ms_after: float
    kernel_before: str
    kernel_after: str
    bias_bytes: int
    """The bias in memory, which is never made any more."""

    @property
    def pays(self) -> bool:
        """Tell whether the gain is beyond noise."""
        return self.ms_after < self.ms_before * _GAIN

    def __str__(self) -> str:
        """Say it in one line."""
        return (
            f"length {self.length}: {self.ms_before:.3g} ms with the bias ({self.kernel_before}), "
            f"{self.ms_after:.3g} ms with factors of rank {self.rank} ({self.kernel_after})"
        )


@dataclasses.dataclass(frozen=True)
class _Change:
    """The attention before and after, up to its length."""

    before: AttentionWork
    after: AttentionWork
    computed: bool
    """The bias is computed while the model runs, not stored."""

    def at(self, prices: Prices, length: int | None = None) -> Payoff:
        """Measure, at another length if one is given."""
        before, after = (_of_length(work, length) for work in (self.before, self.after))
        kernel_before, ms_before = fastest(prices, before)
        kernel_after, ms_after = fastest(prices, after)
        if self.computed:
            ms_before += mask_time(prices, before)
        return Payoff(
            before.sizes.queries,
            after.rank,
            ms_before,
            ms_after,
            kernel_before,
            kernel_after,
            _bias_bytes(before.sizes),
        )


def check_pays(
    work: Workbench,
    call: AttentionCall,
    sizes: AttentionSizes,
    rank: int,
    *,
    mask_kind: Literal["", "float", "bool"] = "",
    mask_shape: tuple[int, ...] | None = None,
    causal: bool = False,
    advise: bool = True,
) -> Payoff:
    """Return what factors of ``rank`` gain; raise Mismatch with the length at which they would, if there is one.

    ``sizes`` are those of ``call`` with its bias; a mask of ``mask_kind`` and ``mask_shape``, and ``causal``, are what
    is left beside the factors. Without ``advise`` no other length is tried.
    """
    prices = work.context.prices
    if prices is None:
        raise Mismatch("nothing may be measured, so it is not known whether factors pay")
    merged = _merged(work, call)
    kind = _kind(call.mask)
    before = AttentionWork(
        sizes, causal=call.causal, mask=kind, softcap=call.softcap, merged=merged
    )
    rest = dataclasses.replace(sizes, mask=mask_shape)
    after = AttentionWork(rest, causal=causal, mask=mask_kind, rank=rank, merged=merged)
    change = _Change(before, after, computed=not is_constant(call.mask))
    found = change.at(prices)
    _note(work, call, found)
    if found.pays:
        return found
    raise Mismatch(f"{found}; {_advice(work, call, change)}" if advise else str(found))


def _merged(work: Workbench, call: AttentionCall) -> str:
    """Return which of q, k, v and y have their heads beside each other: without factors a kernel may read them so."""
    try:
        task, _ = read_task(call, Sizes(work.context.bindings, {}))
    except Mismatch:
        return ""
    operands = {"q": task.q, "k": task.k, "v": task.v}
    return "".join(n for n, x in operands.items() if x.is_merged) + "y" * task.merged


def _advice(work: Workbench, call: AttentionCall, change: _Change) -> str:
    prices = work.context.prices
    assert prices is not None
    tried = 0
    for length in _LENGTHS:
        if length <= change.before.sizes.queries or _too_large(change.before, length):
            continue
        work.context.progress(f"look for the length at which factors of {call.node.name} pay")
        found, tried = change.at(prices, length), length
        _note(work, call, found)
        if found.pays:
            return f"they would pay from length {length} on ({found})"
    return f"they do not pay up to length {tried} either" if tried else "no longer one was tried"


def _note(work: Workbench, call: AttentionCall, found: Payoff) -> None:
    curve = work.coverage.break_even.setdefault(call.node.name or "Attention", [])
    if found not in curve:
        curve.append(found)


def _too_large(work: AttentionWork, length: int) -> bool:
    return _bias_bytes(_of_length(work, length).sizes) > _LARGEST


def _bias_bytes(sizes: AttentionSizes) -> int:
    bias = sizes.mask or (1, 1, 1, 1)
    return 4 * bias[0] * bias[1] * bias[2] * bias[3]


def _of_length(work: AttentionWork, length: int | None) -> AttentionWork:
    """Return the same attention with other numbers of queries and keys, their ratio kept, for one sample."""
    if length is None:
        return work
    old = work.sizes
    keys = max(1, round(length * old.keys / old.queries))
    mask = old.mask
    if mask is not None:
        rows, columns = (1 if mask[2] == 1 else length), (1 if mask[3] == 1 else keys)
        mask = (1, mask[1], rows, columns)
    sizes = dataclasses.replace(old, batch=1, queries=length, keys=keys, mask=mask)
    return dataclasses.replace(work, sizes=sizes)


def _kind(mask: onnx_ir.Value | None) -> Literal["", "float", "bool"]:
    if mask is None:
        return ""
    return "bool" if mask.dtype == onnx_ir.DataType.BOOL else "float"


def io_elements(sizes: AttentionSizes, *, rank: int, bias: bool, cache: int) -> float:
    """Return how many elements must pass between slow and fast memory: ``n m (d + r)^2 / M``, and ``n m`` for a bias.

    ``cache`` is M in elements; the bound holds for all heads and samples together.
    """
    pairs = sizes.batch * sizes.heads * sizes.queries * sizes.keys
    width = sizes.head + rank
    return pairs * (max(1.0, width * width / cache) if bias else width * width / cache)
