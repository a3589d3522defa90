import dataclasses
from collections.abc import Iterator

import numpy as np
import onnx_ir
import pytest
from mixing import context, market, network

from whet.passes.pipeline import Pipeline
from whet.solve.allocation import Plan, Problem
from whet.solve.apply_plan import Chosen
from whet.solve.grafting import Grafter
from whet.solve.judging import Budgets, objective_of
from whet.solve.measuring import Measurement, Scores
from whet.solve.offers import Market
from whet.solve.search import Found, Search
from whet.solve.trials import Trial, Trials

MARKET = market()


class Pretend:
    """A yardstick whose losses are those of the prices, with a bias and a metric that falls with the loss."""

    def __init__(self, problem: Problem, *, heavier: int = 0, noise: float = 0.0) -> None:
        self.problem, self.heavier, self.noise = problem, heavier, noise
        self.asked: list[tuple[int, ...]] = []

    def source(self, model: onnx_ir.Model) -> Measurement:
        return Measurement(self.problem.bytes(Plan((0, 0, 0))), 0.0, 10.0, Scores(0.9))

    def losses(self, model: onnx_ir.Model, plans) -> Iterator[Measurement]:
        for chosen in plans:
            found = self.whole(model, chosen, Pipeline(()))
            yield Measurement(found.bytes, found.loss)

    def whole(
        self, model: onnx_ir.Model, chosen: tuple[Chosen, ...], tail: Pipeline
    ) -> Measurement:
        plan = self.plan_of(chosen)
        self.asked.append(plan.choices)
        number = sum(c * 3**k for k, c in enumerate(plan.choices))
        chance = np.random.default_rng(number).random()
        loss = (1 - self.noise) * self.problem.loss(plan) + self.noise * float(chance)
        size = self.problem.bytes(plan) + self.heavier
        ms = 10.0 - sum(k > 0 for k in plan.choices)
        return Measurement(size, loss, ms, Scores(0.9 - loss))

    @staticmethod
    def plan_of(chosen: tuple[Chosen, ...]) -> Plan:
        pieces = {id(c.piece) for c in chosen}
        return Plan(
            tuple(
                next(
                    (k for k, o in enumerate(g.offers) if o.pieces and id(o.pieces[0]) in pieces), 0
                )
                for g in MARKET.groups
            )
        )


def problem() -> Problem:
    found = MARKET.problem(np.random.default_rng(0).standard_normal((6, 50)) * 0.1)
    return dataclasses.replace(found, fixed_bytes=1000, fixed_ms=5.0)


def find(budgets: Budgets, yardstick: Pretend | None = None, **options) -> tuple[Found, list]:
    better: list[Trial] = []
    trials = Trials(network(), MARKET, yardstick or Pretend(problem()), Pipeline(()))
    return Search(problem(), trials, budgets, better=better.append, **options).run(), better


@pytest.mark.parametrize(
    ("budgets", "objective"),
    [
        (Budgets(), "loss"),
        (Budgets(bytes=1), "loss"),
        (Budgets(drop=0.1), "ms"),
        (Budgets(drop=0.1, ms=1.0), "bytes"),
        (Budgets(drop=0.1, bytes=1, ms=1.0), "loss"),
    ],
)
def test_what_is_minimized_follows_from_the_budget(budgets, objective) -> None:
    assert objective_of(budgets) == objective


def test_the_least_loss_that_fits_is_found() -> None:
    limit = problem().bytes(Plan((1, 1, 0)))
    found, better = find(Budgets(bytes=limit))
    assert found.best is not None
    assert not found.reason
    assert found.best.measured.bytes <= limit
    fitting = [
        problem().loss(Plan((a, b, c)))
        for a in range(3) for b in range(3) for c in range(3)
        if problem().bytes(Plan((a, b, c))) <= limit
    ]  # fmt: skip
    assert problem().loss(found.best.plan) == pytest.approx(min(fitting), rel=0.2)
    assert better[-1] is found.best


def test_files_that_are_larger_than_predicted_are_corrected_for() -> None:
    limit = problem().bytes(Plan((1, 1, 1))) + 900
    found, _ = find(Budgets(bytes=limit), Pretend(problem(), heavier=800))
    assert found.best is not None
    assert found.best.measured.bytes <= limit


def test_the_drop_is_bisected() -> None:
    found, better = find(Budgets(drop=0.02), objective="bytes")
    assert found.best is not None
    assert found.best.drop is not None
    assert 0 < found.best.drop <= 0.02
    sizes = [trial.measured.bytes for trial in better]
    assert sizes == sorted(sizes, reverse=True)


def test_an_impossible_budget_names_what_comes_closest() -> None:
    found, _ = find(Budgets(bytes=10))
    assert found.best is not None
    smallest = min(problem().bytes(Plan((a, b, c))) for a in (1, 2) for b in (1, 2) for c in (1, 2))
    assert found.best.measured.bytes == smallest
    assert "bytes" in found.reason


def test_prices_that_predict_nothing_give_way_to_breeding() -> None:
    yardstick = Pretend(problem(), noise=1.0)
    found, _ = find(Budgets(bytes=problem().bytes(Plan((1, 1, 0)))), yardstick)
    assert any(trial.why == "bred" for trial in found.trials)


def test_two_searches_are_equal() -> None:
    first, _ = find(Budgets(drop=0.02), objective="bytes")
    second, _ = find(Budgets(drop=0.02), objective="bytes")
    assert [t.plan for t in first.trials] == [t.plan for t in second.trials]


def test_the_plan_is_put_in_place_with_proof() -> None:
    from whet.passes.workbench import Workbench
    from whet.solve.apply_plan import ApplyPlan

    model, given = network(), context()
    chosen = MARKET.chosen([1, 0, 2], [0.1, 0.0, 0.3])
    work = Workbench(model, ApplyPlan(chosen=chosen), given)
    ApplyPlan(chosen=chosen).apply(work)
    assert work.coverage.changed == 2
    assert sum(work.coverage.proofs.values()) == 2
    assert [row.predicted_loss for row in work.coverage.damage] == [0.1, 0.3]
    from whet.ir.execute import Executor

    grafted = Grafter(network()).replace([c.piece for c in chosen])
    one, other = (Executor(onnx_ir.to_proto(m)).run(given.held_out[0])[0] for m in (model, grafted))
    np.testing.assert_array_equal(one, other)


def test_markets_are_data() -> None:
    assert isinstance(MARKET, Market)
    assert dataclasses.is_dataclass(MARKET.groups[0])
