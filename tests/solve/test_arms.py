import pytest

from whet.errors import Impossible
from whet.solve.allocation import Decision, Limits, Option, Plan, Problem
from whet.solve.arms import make_arms
from whet.solve.measuring import Measurement


def problem() -> Problem:
    options = (
        Option("keep", 0.0, 100, 4.0),
        Option("static", 2.0, 25, 1.0),
        Option("packed", 1.0, 20, 4.0),
    )
    return Problem((Decision("a", options), Decision("b", options), Decision("c", options[:1])))


CHAINED = [[False, True, False], [False, True, False], [False]]


def test_a_chain_takes_every_site_that_can() -> None:
    arms = {arm.name: arm for arm in make_arms(problem(), CHAINED)}
    assert list(arms) == ["chained", "apart", "any"]
    assert arms["chained"].kept == [[1], [1], [0]]
    assert arms["apart"].kept == [[0, 2], [0, 2], [0]]
    plan, loss = arms["apart"].solve(Limits(bytes=150), "loss")
    assert plan == Plan((2, 2, 0))
    assert loss == 2.0


def test_without_chains_there_is_one_arm() -> None:
    assert [arm.name for arm in make_arms(problem(), [[False] * 3, [False] * 3, [False]])] == [
        "any"
    ]


def test_each_arm_learns_by_itself() -> None:
    chained, apart, _ = make_arms(problem(), CHAINED)
    chained.learn(Measurement(150, 4.0, 6.0), Measurement(170, 4.0, 12.0))
    assert (chained.heavier, chained.slower) == (20, 2.0)
    assert (apart.heavier, apart.slower) == (0, 1.0)
    with pytest.raises(Impossible):
        chained.solve(Limits(ms=11.9), "loss")
    assert chained.solve(Limits(ms=12.1), "loss")[0] == Plan((1, 1, 0))


def test_a_plan_fits_only_the_arm_that_it_is_in() -> None:
    problem = Problem(
        tuple(
            Decision(name, tuple(Option(str(k), 0.1 * k, 100 - 30 * k, None) for k in range(3)))
            for name in "ab"
        )
    )
    chained, apart, everything = make_arms(problem, [[False, True, False]] * 2)
    plan = Plan((1, 2))
    assert [a.fits(plan, Limits()) for a in (chained, apart, everything)] == [False, False, True]
    everything.heavier = 10
    assert everything.fits(plan, Limits(bytes=120))
    assert not everything.fits(plan, Limits(bytes=119))
