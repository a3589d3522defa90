"""Equations between what goes, and their solutions."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from whet.analysis.coupling.terms import FIXED, Terms


def test_a_split_axis_goes_by_rows_and_by_columns() -> None:
    """Six channels become two heads of three."""
    terms = Terms()
    flat = terms.fresh(6)
    rows, columns = terms.factor(flat, (2, 3), "split")
    expected = [r | c for r in terms.resolve(rows) for c in terms.resolve(columns)]
    assert terms.resolve(flat) == expected
    assert len(set(expected)) == 6
    assert [v.tolist() for v in terms.factor(flat, (2, 3), "again")] == [
        rows.tolist(),
        columns.tolist(),
    ]


def test_what_varies_by_row_only_keeps_its_columns() -> None:
    """Heads that are one piece elsewhere: no dimension of them can go."""
    terms = Terms()
    heads = terms.fresh(2)
    rows, columns = terms.factor(np.repeat(heads, 3), (2, 3), "split")
    assert terms.resolve(rows) == terms.resolve(heads)
    assert terms.resolve(columns) == [frozenset()] * 3


def test_products_of_axes_are_matched_by_place() -> None:
    """(key head, copy) equals (another key head, another copy): both pairs become one."""
    terms = Terms()
    first = terms.outer(terms.fresh(2), terms.fresh(4))
    second = terms.outer(terms.fresh(2), terms.fresh(4))
    terms.join(first, second, "meet")
    assert terms.resolve(first) == terms.resolve(second)
    assert len(frozenset().union(*terms.resolve(first))) == 6


def test_swapped_atoms_end() -> None:
    """Two products of the same atoms with their places exchanged do not run in circles."""
    terms = Terms()
    a, b = terms.fresh(2), terms.fresh(2)
    one, other = terms.outer(a, b), terms.outer(b, a)
    terms.join(one, other, "meet")
    assert terms.resolve(one) == terms.resolve(other)


def test_two_splits_of_one_axis_join_what_they_must() -> None:
    """Twelve as 3 x 4 and as 4 x 3 have nothing smaller than everything in common."""
    terms = Terms()
    flat = terms.fresh(12)
    terms.factor(flat, (3, 4), "one")
    rows, columns = terms.factor(flat, (4, 3), "other")
    expected = [r | c for r in terms.resolve(rows) for c in terms.resolve(columns)]
    assert terms.resolve(flat) == expected


def test_reasons_follow_what_was_joined() -> None:
    """The reason is that of the axis that stays."""
    terms = Terms()
    first, second = terms.fresh(2), terms.fresh(2)
    terms.fix(first, "an output")
    terms.join(first, second, "meet")
    assert terms.resolve(second) == [frozenset()] * 2
    assert terms.reasons(int(second[0])) == ["an output"]
    assert terms.reasons(FIXED) == []


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=8))
def test_every_equation_holds_afterwards(pairs: list[tuple[int, int]]) -> None:
    """Whatever is joined, in whatever order: both sides lose the same."""
    terms = Terms()
    vectors = [terms.fresh(6) for _ in range(4)]
    vectors += [terms.outer(terms.fresh(2), terms.fresh(3)) for _ in range(2)]
    for one, other in pairs:
        terms.join(vectors[one], vectors[other], "meet")
    for one, other in pairs:
        assert terms.resolve(vectors[one]) == terms.resolve(vectors[other])
