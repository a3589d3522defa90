"""The order of steps: what is needed comes first, the peak is no higher than the model's own, memory is reused."""

from hypothesis import given, settings
from hypothesis import strategies as st

from whet.backends.c.program import Buffer, Step
from whet.backends.c.schedule import lifetimes, schedule


def step(
    label: str, reads: list[Buffer], writes: list[Buffer], in_place: tuple[Buffer, ...] = ()
) -> Step:
    return Step(label, [], reads, writes, in_place=in_place)


@st.composite
def graphs(draw: st.DrawFn) -> list[Step]:
    made: list[Buffer] = [Buffer("x", 100, "input", 0)]
    steps: list[Step] = []
    for k in range(draw(st.integers(1, 12))):
        count = draw(st.integers(1, min(3, len(made))))
        reads = [made[draw(st.integers(0, len(made) - 1))] for _ in range(count)]
        reads = list(dict.fromkeys(reads))
        buffer = Buffer(f"b{k}", draw(st.sampled_from([16, 64, 64, 256])))
        kept = tuple(reads) if draw(st.booleans()) else ()
        steps.append(step(f"s{k}", reads, [buffer], kept))
        made.append(buffer)
    return steps


@settings(max_examples=40)
@given(graphs())
def test_everything_is_made_before_it_is_read(steps: list[Step]) -> None:
    order = schedule(steps)
    assert sorted(s.label for s in order) == sorted(s.label for s in steps)
    made: set[Buffer] = {b for s in steps for b in s.reads} - {b for s in steps for b in s.writes}
    for s in order:
        assert set(s.reads) <= made
        made |= set(s.writes)


@settings(max_examples=40)
@given(graphs())
def test_the_peak_is_no_higher_than_in_the_models_own_order(steps: list[Step]) -> None:
    assert lifetimes(schedule(steps)).peak <= lifetimes(steps).peak


@settings(max_examples=40)
@given(graphs())
def test_buffers_of_one_piece_are_never_needed_at_once(steps: list[Step]) -> None:
    order = schedule(steps)
    found = lifetimes(order)
    spans: dict[Buffer, tuple[int, int]] = {}
    for number, s in enumerate(order):
        for b in (*s.reads, *s.writes):
            spans[b] = (spans.get(b, (number, 0))[0], number)
    for a, piece in found.piece.items():
        for b, other in found.piece.items():
            if a is not b and piece == other:
                first, second = sorted((spans[a], spans[b]))
                assert first[1] <= second[0]  # the last reader of one is the maker of the next


def test_a_result_takes_the_memory_of_its_operand() -> None:
    a, b, c = Buffer("a", 64), Buffer("b", 64), Buffer("c", 64)
    steps = [step("1", [], [a]), step("2", [a], [b], (a,)), step("3", [b], [c])]
    assert lifetimes(steps).peak == 128
    assert lifetimes(steps).piece[a] == lifetimes(steps).piece[b]


def test_an_operand_that_is_read_again_keeps_its_memory() -> None:
    a, b, c = Buffer("a", 64), Buffer("b", 64), Buffer("c", 64)
    steps = [step("1", [], [a]), step("2", [a], [b], (a,)), step("3", [a, b], [c])]
    assert lifetimes(steps).piece[a] != lifetimes(steps).piece[b]


def test_branches_are_finished_one_after_the_other() -> None:
    x, small, large = Buffer("x", 8, "input", 0), [], []
    steps: list[Step] = []
    for k in range(3):
        wide = Buffer(f"wide{k}", 1000)
        large.append(wide)
        steps.append(step(f"widen {k}", [x], [wide]))
    for k, wide in enumerate(large):
        narrow = Buffer(f"narrow{k}", 10)
        small.append(narrow)
        steps.append(step(f"narrow {k}", [wide], [narrow]))
    steps.append(step("join", small, [Buffer("y", 30)]))
    assert lifetimes(steps).peak == 3010
    assert lifetimes(schedule(steps)).peak <= 1030
