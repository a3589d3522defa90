"""Places in the arena: nothing that lives together overlaps, and the block is close to what cannot be avoided."""

from hypothesis import given, settings
from hypothesis import strategies as st

from whet.backends.c.arena import Interval, lower_bound, place

intervals = st.lists(
    st.builds(
        lambda size, first, length: Interval(size, first, first + length),
        st.integers(1, 5000),
        st.integers(0, 30),
        st.integers(0, 12),
    ),
    min_size=1,
    max_size=24,
)


@settings(max_examples=50)
@given(intervals, st.sampled_from([1, 4, 8, 16]))
def test_nothing_that_lives_together_overlaps(items: list[Interval], align: int) -> None:
    found = place(items, align=align)
    spans = list(zip(items, found.offsets, strict=True))
    for k, (a, at) in enumerate(spans):
        assert at % align == 0
        assert at + a.size <= found.size
        for b, other in spans[k + 1 :]:
            if a.meets(b):
                assert at + a.size <= other or other + b.size <= at


@settings(max_examples=50)
@given(intervals)
def test_the_block_is_between_the_bound_and_the_sum(items: list[Interval]) -> None:
    found = place(items)
    assert lower_bound(items) <= found.size <= sum(-(-i.size // 8) * 8 for i in items)
    assert found == place(items)


def test_the_bound_is_the_fullest_step() -> None:
    items = [Interval(10, 0, 1), Interval(20, 1, 2), Interval(5, 2, 3), Interval(30, 4, 4)]
    assert lower_bound(items) == 30
    assert lower_bound(items[:3]) == 30
    assert lower_bound([]) == 0


def test_a_chain_takes_its_two_largest_neighbours() -> None:
    sizes = [64, 256, 128, 512, 32]
    items = [Interval(size, k, k + 1) for k, size in enumerate(sizes)]
    assert place(items).size == lower_bound(items) == 512 + 128


def test_a_sequence_that_defeats_the_largest_first_is_changed_until_it_fits() -> None:
    # The largest first leaves a hole; the bound is reached only after other sequences are tried.
    items = [
        Interval(3, 0, 1),
        Interval(3, 2, 4),
        Interval(4, 1, 2),
        Interval(2, 0, 0),
        Interval(2, 4, 5),
    ]
    items = [Interval(8 * i.size, i.first, i.last) for i in items]
    assert place(items).size == lower_bound(items)


@settings(max_examples=30)
@given(st.lists(st.integers(1, 4000), min_size=2, max_size=40), st.integers(1, 6))
def test_networks_with_skips_are_within_a_tenth(sizes: list[int], reach: int) -> None:
    last = len(sizes)
    items = [
        Interval(s, k, min(last, k + 1 + (reach if k % 5 == 0 else 0))) for k, s in enumerate(sizes)
    ]
    rounded = [Interval(-(-i.size // 8) * 8, i.first, i.last) for i in items]
    assert place(items).size <= 1.1 * lower_bound(rounded)
