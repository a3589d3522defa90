import numpy as np
import pytest
from mixing import context, market, network

from whet.backends.base import RuntimeOptions
from whet.backends.onnxruntime import OnnxRuntime
from whet.passes.pipeline import Pipeline
from whet.solve.grafting import Grafter
from whet.solve.losses import divergence, output_loss
from whet.solve.measuring import Scores, Yardstick

RNG = np.random.default_rng(0)


def test_divergence_is_kullback_and_leiblers() -> None:
    old, new = RNG.standard_normal((2, 5, 3))
    p, q = (np.exp(z) / np.exp(z).sum(-1, keepdims=True) for z in (old, new))
    assert divergence(old, new) == pytest.approx((p * np.log(p / q)).sum(-1).mean())
    assert divergence(old, old + 100) == pytest.approx(0, abs=1e-12)


def test_output_loss_is_a_share_of_the_outputs_norm() -> None:
    old = RNG.standard_normal((4, 6)).astype(np.float32)
    assert output_loss([old], [old * 1.1]) == pytest.approx(0.5 * 0.01, rel=1e-3)
    labels = np.arange(4)
    assert output_loss([old, labels], [old * 1.1, labels]) == output_loss([old], [old * 1.1])


def test_a_plan_is_measured_on_the_target() -> None:
    found = market()
    yardstick = Yardstick(
        OnnxRuntime(),
        RuntimeOptions(1),
        context(),
        categorical=False,
        score=lambda worker: Scores(float(len(worker.outputs))),
        timed=True,
    )
    source = yardstick.source(network())
    assert source.loss == 0.0
    assert source.scores == Scores(1.0)
    assert source.ms is not None
    whole = yardstick.whole(network(), found.chosen((2, 2, 2)), Pipeline(()))
    assert whole.bytes < 0.5 * source.bytes
    assert whole.loss > 0.001
    (quick,) = yardstick.losses(network(), [found.chosen((2, 2, 2))])
    assert (quick.ms, quick.scores) == (None, None)
    assert quick.loss == whole.loss


def test_a_start_is_held_against_the_source() -> None:
    yardstick = Yardstick(
        OnnxRuntime(), RuntimeOptions(1), context(), categorical=False, score=None, timed=False
    )
    source, smaller = (
        network(),
        Grafter(network()).replace([c.piece for c in market().chosen((2, 2, 2))]),
    )
    first = yardstick.as_is(source)
    assert first.loss == 0.0
    assert yardstick.as_is(source) is first
    seen = yardstick.as_is(smaller)
    assert seen.loss > 0.001
    assert seen.bytes < first.bytes
    assert yardstick.source(smaller) is first
