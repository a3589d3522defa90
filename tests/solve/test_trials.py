from pathlib import Path

import numpy as np
from mixing import context, market, network

from whet.backends.base import RuntimeOptions
from whet.backends.onnxruntime import OnnxRuntime
from whet.passes.pipeline import Pipeline
from whet.solve.allocation import Plan
from whet.solve.measuring import Yardstick
from whet.solve.store import Store
from whet.solve.trials import Trials

MARKET = market()
PROBLEM = MARKET.problem(np.random.default_rng(0).standard_normal((6, 20)) * 0.1)
PLANS = [Plan((1, 0, 2)), Plan((2, 2, 2)), Plan((1, 0, 2))]


def begin(messages: list[str], store: Store | None = None) -> Trials:
    yardstick = Yardstick(
        OnnxRuntime(), RuntimeOptions(1), context(), categorical=False, score=None, timed=False
    )
    tail = Pipeline(())
    return Trials(network(), MARKET, yardstick, tail, store=store, progress=messages.append)


def test_a_plan_is_measured_once() -> None:
    messages: list[str] = []
    trials = begin(messages)
    first = trials.losses(PROBLEM, PLANS, "random", "mixture")
    assert first[0] is first[2]
    assert trials.losses(PROBLEM, PLANS[:1], "near") == first[:1]
    assert PLANS[1] in trials
    assert Plan((0, 0, 0)) not in trials
    whole = trials.whole(PROBLEM, PLANS[0], "solved")
    assert trials.whole(PROBLEM, PLANS[0], "solved") is whole
    assert whole.measured.loss == first[0].measured.loss > 0
    assert messages == [
        "search: measure the source",
        "search: mixture 1 of 2",
        "search: mixture 2 of 2",
        "search: measure plan 1",
    ]
    assert list(trials) == [*first[:2], whole]


def test_what_a_store_knows_is_not_measured_again(tmp_path: Path) -> None:
    first = begin([], Store(tmp_path, "a", 2)).losses(PROBLEM, PLANS, "random", "mixture")
    messages: list[str] = []
    again = begin(messages, Store(tmp_path, "a", 2)).losses(PROBLEM, PLANS, "random", "mixture")
    assert [t.measured for t in again] == [t.measured for t in first]
    assert messages == ["search: measure the source"]
