from whet.solve.allocation import Decision, Option, Plan, Problem
from whet.solve.explain import explain


def test_a_decision_is_held_against_its_neighbours() -> None:
    options = (
        Option("8 bits", 0.001, 24_000, 2.0),
        Option("4 bits", 0.002, 12_000, 1.5),
        Option("2 bits", 0.1, 6_000, 1.5),
    )
    problem = Problem((Decision("conv", options), Decision("only", options[:1])))
    reason, alone = explain(problem, Plan((1, 0)))
    assert reason.taken == "4 bits"
    assert reason.because == (
        "8 bits would cost 12,000 bytes and 0.5 ms for 1.0e-03 less loss; "
        "2 bits would save 6,000 bytes and add 9.8e-02"
    )
    assert alone.because == "nothing else is closer to the original, and nothing smaller"


def test_an_option_that_is_better_by_itself_was_not_among_the_rest() -> None:
    options = (Option("a", 0.002, 12_000, 1.5), Option("b", 0.001, 11_000, 1.5))
    (reason,) = explain(Problem((Decision("conv", options),)), Plan((0,)))
    assert reason.because == (
        "b has 1.0e-03 less loss by itself and costs nothing, but together with the rest it was not better"
    )
