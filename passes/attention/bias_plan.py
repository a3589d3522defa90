"""Sort the summands of a bias: the table to factor, the masks that have exact factors, and what stays a mask."""

import dataclasses
import functools
import operator

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import dimensions
from whet.passes.attention.bias_terms import Summand, read_bias
from whet.passes.attention.call import AttentionCall, AttentionSizes
from whet.passes.attention.length_table import LengthTable, read_length_table
from whet.passes.attention.low_rank import Real
from whet.passes.attention.mask_patterns import (
    blind,
    forms,
    hides,
    is_causal,
    is_pattern,
    narrow,
    split_mask,
)

__all__ = ["BiasPlan", "plan_bias"]

_FEW = 8
"""Masks whose rows take at most one form in this many queries become factors."""


@dataclasses.dataclass
class BiasPlan:
    """``bias = table + sum of patterns + rest``, with the causal mask apart."""

    table: Real | None = None
    """``[period, heads or 1, n or 1, m]``, finite; at the greatest length if that is free."""
    patterns: list[Real] = dataclasses.field(default_factory=list[Real])
    """Masks of few forms, ``[period, heads or 1, n or 1, m]``."""
    rest: list[Summand] = dataclasses.field(default_factory=list[Summand])
    """What stays a mask."""
    columns: list[Summand] = dataclasses.field(default_factory=list[Summand])
    """Computed summands ``[batch or 1, 1, 1, m]``: padding. They become one column of the factors."""
    stored: list[Real] = dataclasses.field(default_factory=list[Real])
    """Constant masks that stay masks."""
    causal: bool = False
    """Query i sees keys 0 to i only."""
    length: int | None = None
    """The greatest length, where the length is free."""
    nodes: tuple[onnx_ir.Node, ...] = ()

    @property
    def parts(self) -> list[Real]:
        """Return the tables that factors take the place of."""
        return [*self.patterns, *([] if self.table is None else [self.table])]


def plan_bias(
    model: onnx_ir.Model, call: AttentionCall, sizes: AttentionSizes, longest: int
) -> BiasPlan:
    """Sort the summands; ``longest`` bounds a free length (0: not known). Raises Mismatch."""
    assert call.mask is not None
    bias = read_bias(model, call.mask)
    plan = BiasPlan(causal=call.causal, nodes=bias.nodes)
    computed = [term for term in bias.terms if term.table is None]
    tables = [term for term in bias.terms if term.table is not None]
    free = _length_tables(model, computed, _free_length(call))
    if free:
        _add_length_tables(plan, free, longest)
    factored = {table.value for table in free}
    for term in computed:
        if term.value not in factored:
            (plan.columns if _is_column(term, sizes) else plan.rest).append(term)
    if free:
        plan.rest += tables
    else:
        for term in tables:
            assert term.table is not None
            _add_constant(plan, term.table)
    if plan.table is not None:
        _take_mask_out(plan)
    _settle_masks(plan, sizes)
    if plan.table is None and not plan.patterns:
        raise Mismatch("no part of the bias is a constant table")
    return plan


def _free_length(call: AttentionCall) -> str | None:
    """Return the symbol of the length if queries and keys have the same free one."""
    queries, keys = (dimensions(value) for value in (call.q, call.k))
    if queries is None or keys is None or queries[2] != keys[2]:
        return None
    return queries[2] if isinstance(queries[2], str) else None


def _is_column(term: Summand, sizes: AttentionSizes) -> bool:
    """Tell whether a computed summand is the same for all queries and heads: one more column of the factors."""
    shape = dimensions(term.value)
    return shape is not None and len(shape) == 4 and shape[1:3] == (1, 1) and sizes.keys > 1


def _add_constant(plan: BiasPlan, table: Real) -> None:
    """Sort in a constant; what is the same for all keys goes, unless it hides them all."""
    if is_pattern(table):
        plan.patterns.append(table)
    elif table.shape[-1] > 1:
        _add_table(plan, table)


def _add_table(plan: BiasPlan, table: Real) -> None:
    try:
        plan.table = table if plan.table is None else plan.table.astype(np.float64) + table
    except ValueError as error:
        raise Mismatch(f"the tables do not fit together: {error}") from error


def _take_mask_out(plan: BiasPlan) -> None:
    """Part the table into moderate values and the mask that was added to it when constants were folded."""
    assert plan.table is not None
    found = split_mask(plan.table)
    plan.table = narrow(found.finite)
    if not np.isfinite(found.finite).all():
        raise Mismatch("the table holds values that are not numbers")
    if found.mask is not None:
        plan.patterns.append(narrow(found.mask))


def _settle_masks(plan: BiasPlan, sizes: AttentionSizes) -> None:
    """Decide which masks get factors or become causal, and which stay masks.

    What a query that sees no key gets depends on how its keys were hidden. Masks that hide keys together with
    computed ones, or that leave such queries together, are therefore left as they are.
    """
    full = (1, 1, plan.length or sizes.queries, plan.length or sizes.keys)
    masks = [np.broadcast_to(m, np.broadcast_shapes(m.shape, full)) for m in plan.patterns]
    hard = [mask for mask in masks if hides(mask)]
    apart = not (plan.rest or plan.columns)
    if hard and apart:
        apart = not blind(functools.reduce(operator.add, hard), plan.causal)
    patterns, plan.patterns = plan.patterns, []
    for mask, whole in zip(patterns, masks, strict=True):
        if not hides(mask):
            kind = plan.patterns if _is_low_rank(mask) else plan.stored
            kind.append(mask)
        elif apart and is_causal(whole):
            plan.causal = True
        else:
            kind = plan.patterns if apart and _is_low_rank(mask) else plan.stored
            kind.append(mask)
    if plan.stored and plan.length is not None:
        raise Mismatch("the table of a free length hides keys in many ways")
    if plan.causal or plan.rest or plan.stored:
        plan.rest, plan.columns = [*plan.rest, *plan.columns], []


def _is_low_rank(mask: Real) -> bool:
    return bool(mask.shape[-1] > 1 and forms(mask) <= max(1, mask.shape[-2] // _FEW))


def _length_tables(
    model: onnx_ir.Model, computed: list[Summand], symbol: str | None
) -> list[LengthTable]:
    """Return the summands that depend on the length only and are no mere masks."""
    plain = [term.value for term in computed if term.fill is None]
    found = [table for value in plain if (table := read_length_table(model, value, symbol))]
    return [table for table in found if not _is_mask(table.probe())]


def _is_mask(table: Real) -> bool:
    return not table.any() or is_pattern(table) or bool(np.isneginf(table).any())


def _add_length_tables(plan: BiasPlan, tables: list[LengthTable], longest: int) -> None:
    bounds = [table.longest for table in tables if table.longest is not None]
    if longest:
        bounds.append(longest)
    if not bounds:
        raise Mismatch(
            f"the length '{tables[0].symbol}' is free and the table is computed for any: factors need "
            "the greatest length (max_length)"
        )
    length = min(bounds)
    for table in tables:
        array = table.at(length)
        if not table.corner_of(array):
            raise Mismatch("entries of the table depend on the length, not on the positions only")
        _add_table(plan, array)
    plan.length = length
    plan.nodes += tuple(node for table in tables for node in table.nodes)
