"""The genetic algorithm where losses do not add up."""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pytest
from allocating import all_plans, limits_of, random_problem
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import Impossible, UsageError
from whet.solve.allocation import Decision, Indices, Limits, Option, Plan, Problem
from whet.solve.genetic import Measured, genetic
from whet.solve.program import solve


def each(measure: Callable[[Plan], float]) -> Callable[[Sequence[Plan]], Iterable[float]]:
    """Return a function that measures plans one after the other."""
    return functools.partial(map, measure)


def rough(problem: Problem, seed: int) -> dict[Plan, float]:
    """Return losses that have nothing to do with the predicted ones but for a half."""
    rng = np.random.default_rng(seed)
    return {p: problem.loss(p) + 2 * rng.uniform() for p in all_plans(problem)}


@settings(max_examples=50)
@given(st.integers(0, 1000))
def test_with_enough_measurements_it_finds_the_optimum(seed: int) -> None:
    problem = random_problem(seed, 4, 3)
    limits = limits_of(problem, seed, "bytes", "ms")
    table = rough(problem, seed)
    fitting = [loss for plan, loss in table.items() if problem.fits(plan, limits)]
    if not fitting:
        with pytest.raises(Impossible):
            genetic(problem, limits, each(table.__getitem__))
        return
    found = genetic(problem, limits, each(table.__getitem__), evaluations=500)
    assert problem.fits(found.plan, limits)
    assert found.loss == table[found.plan] == min(fitting)
    assert found.evaluations == len(fitting)


@settings(max_examples=50)
@given(st.integers(0, 1000), st.integers(2, 12))
def test_it_uses_all_its_measurements_and_one_seed_gives_one_result(seed: int, count: int) -> None:
    problem = random_problem(seed, 4, 4)
    table = rough(problem, seed)
    runs = [
        genetic(
            problem, Limits(), each(table.__getitem__), evaluations=count, population=4, seed=seed
        )
        for _ in range(2)
    ]
    assert runs[0] == runs[1]
    assert runs[0].evaluations == min(count, len(table))


class Coupled:
    """Losses of pairs of decisions, which nothing that looks at one decision alone predicts."""

    def __init__(self, seed: int, decisions: int, options: int) -> None:
        self.size = decisions, options
        rng = np.random.default_rng(seed)
        self.pairs = rng.standard_normal((decisions, decisions, options, options)) ** 2
        self.calls: list[Plan] = []
        self.problem = Problem(
            tuple(
                Decision(
                    f"d{d}", tuple(Option(f"o{k}", k, 100 * (options - k)) for k in range(options))
                )
                for d in range(decisions)
            )
        )
        self.limits = Limits(bytes=60 * decisions * options)

    def __call__(self, plan: Plan) -> float:
        self.calls.append(plan)
        k, rows = np.array(plan.choices), np.arange(self.size[0])
        return float(self.pairs[rows[:, None], rows[None], k[:, None], k[None]].sum())

    def random_search(self, seed: int, count: int) -> float:
        """Return the least loss of so many random plans that keep the limit."""
        rng = np.random.default_rng(seed)
        drawn = (self.problem.table.plan(self.drawn(rng)) for _ in iter(int, 1))
        fitting = (plan for plan in drawn if self.problem.fits(plan, self.limits))
        return min(self(plan) for plan in itertools.islice(fitting, count))

    def drawn(self, rng: np.random.Generator) -> Indices:
        return self.problem.table.start[:-1] + rng.integers(0, self.size[1], self.size[0])


@pytest.mark.parametrize(("decisions", "options"), [(12, 4), (20, 6), (40, 8)])
@pytest.mark.parametrize("evaluations", [120, 300])
def test_it_beats_random_search_where_losses_do_not_add_up(
    decisions: int, options: int, evaluations: int
) -> None:
    gains: list[float] = []
    for seed in range(6):
        loss = Coupled(seed, decisions, options)
        found = genetic(loss.problem, loss.limits, each(loss), evaluations=evaluations, seed=seed)
        assert found.evaluations == evaluations
        gains.append(loss.random_search(seed, evaluations) - found.loss)
    assert np.mean(gains) > 2 * np.std(gains, ddof=1) / np.sqrt(len(gains))


def test_it_is_seeded_and_never_measures_twice() -> None:
    loss = Coupled(3, 12, 4)
    heard: list[Measured] = []
    found = genetic(loss.problem, loss.limits, each(loss), evaluations=300, better=heard.append)
    assert len(loss.calls) == len(set(loss.calls)) == found.evaluations == 300
    assert all(loss.problem.fits(plan, loss.limits) for plan in loss.calls)
    assert [m.loss for m in heard] == sorted((m.loss for m in heard), reverse=True)
    assert heard[-1].plan == found.plan
    assert heard[0].plan == solve(loss.problem, loss.limits).plan
    assert found.loss == min(loss(plan) for plan in set(loss.calls))
    assert genetic(loss.problem, loss.limits, each(loss), evaluations=300) == found
    others = {
        genetic(loss.problem, loss.limits, each(loss), seed=s, evaluations=99) for s in range(4)
    }
    assert len({other.plan for other in others}) > 1


@pytest.mark.parametrize("stop", [1, 5, 50])
def test_a_search_that_is_interrupted_has_given_the_best_so_far(stop: int) -> None:
    loss = Coupled(4, 12, 4)

    def until(plan: Plan) -> float:
        if len(loss.calls) == stop:
            raise KeyboardInterrupt
        return loss(plan)

    heard: list[Measured] = []
    with pytest.raises(KeyboardInterrupt):
        genetic(loss.problem, loss.limits, each(until), better=heard.append)
    assert len(loss.calls) == stop
    assert heard[-1].loss == min(map(loss, loss.calls[:stop]))
    whole = genetic(loss.problem, loss.limits, each(loss), evaluations=stop)
    assert (whole.plan, whole.loss) == (heard[-1].plan, heard[-1].loss)


def test_it_never_ends_worse_than_where_it_starts() -> None:
    problem = random_problem(5, 6, 4)
    table = rough(problem, 1)
    best = min(table, key=table.__getitem__)
    found = genetic(problem, Limits(), each(table.__getitem__), evaluations=5, start=[best])
    assert found.plan == best
    one = genetic(problem, Limits(), each(table.__getitem__), evaluations=1)
    assert one == Measured(solve(problem, Limits()).plan, one.loss, 1)


def test_a_loss_that_is_no_number_loses() -> None:
    problem = random_problem(5, 3, 3)
    good = list(all_plans(problem))[-1]
    found = genetic(
        problem, Limits(), each(lambda plan: 1.0 if plan == good else float("nan")), start=[good]
    )
    assert found.plan == good


def test_nonsense_is_refused() -> None:
    problem = random_problem(5, 3, 3)
    with pytest.raises(UsageError, match="0 evaluations of 8 plans"):
        genetic(problem, Limits(), each(lambda _plan: 0.0), evaluations=0)
