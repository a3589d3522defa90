"""Decide how large blocks are and how each reader of a weight is executed, by measured milliseconds."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Literal

from whet.passes.quantization.block_forms import (
    DECODED,
    INTEGERS,
    PACKED,
    PACKED_INT8,
    Form,
)
from whet.passes.quantization.choice import FLOAT, cheapest

__all__ = ["Offer", "Plan", "choose"]

Prefer = Literal["speed", "size"]
_WORTH = 0.85
"""Less exact blocks, and kernels that the codes stay packed for, must take less than this share of the time."""
_ALLOWED = 0.01
"""With ``size``, packed tables may cost this share of the milliseconds of all products in float32: they save memory."""


@dataclasses.dataclass(frozen=True)
class Offer:
    """A reader of a weight and what its forms cost."""

    is_lookup: bool
    times: Mapping[str, float]
    """Milliseconds by :meth:`Form.key`, and of float32; empty where nothing was measured."""
    sizes: tuple[int, ...]
    """Blocks that its packed kernel takes."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """The blocks of a weight, and the forms of its readers in their order."""

    size: int
    forms: tuple[Form, ...]
    ms: float


def choose(
    offers: Sequence[Offer],
    sizes: Sequence[int],
    prefer: Prefer,
    *,
    exact: bool = False,
    slack: float = 0.0,
) -> Plan:
    """Return the plan for one weight; ``sizes`` go up, ``exact`` keeps activations in float.

    ``slack`` is the time of all products of the model in float32. For ``speed``, the smallest blocks that are not
    clearly slower; for ``size``, the largest. Readers are either all executed on packed codes or none is, because the
    two are stored in different orders.
    """
    plans = [_at(offers, size, prefer, exact, slack) for size in sizes]
    if prefer == "size":
        return plans[-1]
    best = plans[0]
    for plan in plans[1:]:
        if plan.ms < best.ms * _WORTH:
            best = plan
    return best


def _at(offers: Sequence[Offer], size: int, prefer: Prefer, exact: bool, slack: float) -> Plan:
    """Return the better of packed and decoded."""
    decoded = _plan(offers, size, packed=False, exact=exact)
    packed = _plan(offers, size, packed=True, exact=exact)
    assert decoded is not None
    if packed is None:
        return decoded
    limit = decoded.ms * _WORTH if prefer == "speed" else decoded.ms + slack * _ALLOWED
    return packed if packed.ms < limit else decoded


def _plan(offers: Sequence[Offer], size: int, *, packed: bool, exact: bool) -> Plan | None:
    chosen: list[tuple[Form, float]] = []
    for offer in offers:
        forms = _forms(offer, size, packed, exact)
        if not forms:
            return None
        name = cheapest([form.key(size) for form in forms], offer.times, must_gain=False)
        form = next(form for form in forms if form.key(size) == name)
        chosen.append((form, _time(offer, form, size)))
    return Plan(size, tuple(form for form, _ in chosen), sum(ms for _, ms in chosen))


def _forms(offer: Offer, size: int, packed: bool, exact: bool) -> list[Form]:
    """Return the forms that run, from the most to the least exact."""
    if not packed:
        return [DECODED] if offer.is_lookup or exact else [DECODED, INTEGERS]
    possible = [PACKED] if offer.is_lookup or exact else [PACKED, PACKED_INT8]
    return [f for f in possible if size in offer.sizes and f.key(size) in offer.times]


def _time(offer: Offer, form: Form, size: int) -> float:
    """Return milliseconds; a table that is decoded when the model is loaded is looked up as before."""
    key = FLOAT if form == DECODED and offer.is_lookup else form.key(size)
    return offer.times.get(key, 0.0)
