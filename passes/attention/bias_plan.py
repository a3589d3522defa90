"""Sort the summands of a bias: the table to factor, the masks that have exact factors, and what stays a mask."""

import dataclasses

import numpy as np
import onnx_ir

from whet.errors import Mismatch
from whet.passes.attention.bias_terms import Bias, Term
from whet.passes.attention.call import AttentionSizes
from whet.passes.attention.length_table import LengthTable, read_length_table
from whet.passes.attention.low_rank import Real
from whet.passes.attention.mask_patterns import (
    blind,
    forms,
    is_causal,
    is_pattern,
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
    rest: list[Term] = dataclasses.field(default_factory=list[Term])
    """What stays a mask."""
    stored: list[Real] = dataclasses.field(default_factory=list[Real])
    """Masks of many forms that were part of a table; they stay masks."""
    causal: bool = False
    length: int | None = None
    """The greatest length, where the length is free."""
    nodes: tuple[onnx_ir.Node, ...] = ()

    @property
    def parts(self) -> list[Real]:
        """Return the tables that factors take the place of."""
        return [*self.patterns, *([] if self.table is None else [self.table])]


def plan_bias(model: onnx_ir.Model, bias: Bias, sizes: AttentionSizes, longest: int) -> BiasPlan:
    """Sort the summands; ``longest`` bounds a free length (0: not known). Raises Mismatch."""
    plan = BiasPlan(nodes=bias.nodes)
    computed = [term for term in bias.terms if term.table is None]
    tables = [term for term in bias.terms if term.table is not None]
    free = _length_tables(model, computed)
    if free:
        _add_length_tables(plan, free, longest)
    factored = {table.value for table in free}
    plan.rest += [term for term in computed if term.value not in factored]
    if free:
        plan.rest += tables
    else:
        for term in tables:
            _add_constant(plan, term, sizes)
    if plan.table is not None:
        _take_mask_out(plan, sizes)
    if plan.table is None and not plan.patterns:
        raise Mismatch("no part of the bias is a constant table")
    return plan


def _add_constant(plan: BiasPlan, term: Term, sizes: AttentionSizes) -> None:
    assert term.table is not None
    if term.table.shape[-1] == 1 and not is_pattern(term.table):
        return
    if not is_pattern(term.table):
        _add_table(plan, term.table)
    elif not _add_pattern(plan, term.table, sizes):
        plan.rest.append(term)


def _add_table(plan: BiasPlan, table: Real) -> None:
    try:
        plan.table = table if plan.table is None else plan.table.astype(np.float64) + table
    except ValueError as error:
        raise Mismatch(f"the tables do not fit together: {error}") from error


def _add_pattern(plan: BiasPlan, mask: Real, sizes: AttentionSizes) -> bool:
    """Put a mask among those with factors, or drop it for the causal flag; False if it must stay a mask."""
    if not mask.any():
        return True
    if mask.shape[-2:] == (sizes.queries, sizes.keys) and is_causal(mask):
        plan.causal = True
        return True
    rows = mask.shape[-2]
    if blind(mask) or mask.shape[-1] == 1 or forms(mask) > max(1, rows // _FEW):
        return False
    plan.patterns.append(mask)
    return True


def _take_mask_out(plan: BiasPlan, sizes: AttentionSizes) -> None:
    """Part the table into moderate values and the mask that was added to it when constants were folded."""
    assert plan.table is not None
    found = split_mask(plan.table)
    plan.table = found.finite
    if not np.isfinite(found.finite).all():
        raise Mismatch("the table holds values that are not numbers")
    if found.mask is not None and not _add_pattern(plan, found.mask, sizes):
        plan.stored.append(found.mask)


def _length_tables(model: onnx_ir.Model, computed: list[Term]) -> list[LengthTable]:
    """Return the summands that depend on the length only and are no mere masks."""
    plain = [term.value for term in computed if term.fill is None]
    found = [table for value in plain if (table := read_length_table(model, value))]
    return [table for table in found if not _is_mask(table.probe())]


def _is_mask(table: Real) -> bool:
    return not table.any() or is_pattern(table) or bool(np.isneginf(table).any())


def _add_length_tables(plan: BiasPlan, tables: list[LengthTable], longest: int) -> None:
    stored = [table.longest for table in tables if table.longest is not None]
    length = min([*stored, *([longest] if longest else [])], default=0)
    if not length:
        raise Mismatch(
            f"the length '{tables[0].symbol}' is free and the table is computed for any: factors need "
            "the greatest length (max_length)"
        )
    for table in tables:
        array = table.at(length)
        if not table.corner_of(array):
            raise Mismatch("entries of the table depend on the length, not on the positions only")
        _add_table(plan, array)
    plan.length = length
    plan.nodes += tuple(node for table in tables for node in table.nodes)
