"""Whole channels, heads and hidden units are removed, proven, repaired and counted."""

from pathlib import Path

import numpy as np
import onnx_ir
import pytest
from pruning import feeds_of, graph

from whet.errors import UsageError
from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.ir.values import weight_count
from whet.ir.verify import verify
from whet.passes.registry import make_pass
from whet.passes.sparsity.prune_copying import Shrinking
from whet.passes.sparsity.prune_structure import PruneStructure
from whet.passes.workbench import Context, Workbench

BINDINGS = Bindings(({"N": 2, "T": 5}, {"N": 3, "T": 4}))


def work_on(model: onnx_ir.Model, step: PruneStructure, *, data: bool = True) -> Workbench:
    """Run the pass with eight batches to fit on and two to judge by."""
    batches = [feeds_of(model, seed) for seed in range(10)] if data else []
    context = Context(BINDINGS, calibration=batches[:8], held_out=batches[8:])
    work = Workbench(model, step, context)
    step.apply(work)
    verify(model)
    return work


def error(model: onnx_ir.Model, other: onnx_ir.Model) -> float:
    """Return the relative error of the first output on data that nothing was fitted to."""
    feeds = feeds_of(model, 99)
    one, two = (Executor(onnx_ir.to_proto(m)).run(feeds)[0] for m in (model, other))
    return float(np.linalg.norm(two - one) / np.linalg.norm(one))


@pytest.mark.parametrize("name", ["residual", "packed attention", "stream", "inverted residual"])
def test_prunes_and_proves(name: str) -> None:
    """A quarter of the parameters goes; a second run changes nothing."""
    model = graph(name)
    before = weight_count(model)
    work = work_on(model, PruneStructure(limit=5))
    assert work.coverage.changed
    assert not work.coverage.failures
    assert work.coverage.proofs["as with zeros"] == len(work.coverage.damage)
    after = weight_count(model)
    assert after < before
    assert "without" in work.coverage.damage[0].format
    again = work_on(model, PruneStructure(limit=5))
    assert not again.coverage.changed
    assert "pruned already" in next(iter(again.coverage.declined.values()))
    once_more = work_on(model, PruneStructure(limit=5, again=True))
    assert once_more.coverage.changed
    assert weight_count(model) < after


def test_repair_lowers_the_error() -> None:
    """Least squares beats leaving the weights as they were."""
    errors: list[float] = []
    for fit in (True, False):
        model = graph("residual")
        work = work_on(model, PruneStructure(limit=5, ratio=0.4, repair=fit))
        assert (work.coverage.proofs["error on data held out"] > 0) == fit
        errors.append(error(graph("residual"), model))
    assert errors[0] < 0.8 * errors[1]


@pytest.mark.parametrize("score", ["magnitude", "activation", "taylor", "random"])
@pytest.mark.parametrize("cost", ["parameters", "macs"])
def test_scores_and_costs(score: str, cost: str) -> None:
    """Every score goes with every cost."""
    step = make_pass("prune-structure", {"score": score, "cost": cost, "limit": 5})
    assert isinstance(step, PruneStructure)
    assert work_on(graph("inverted residual"), step).coverage.changed


def test_kinds_are_chosen() -> None:
    """Heads only; a wrong kind is an error with the right ones."""
    work = work_on(graph("packed attention"), PruneStructure(kinds=("heads",), limit=5))
    assert work.coverage.damage[0].format == "without 1 of 4 heads"
    with pytest.raises(UsageError, match="has 'layers', expected some of channels, heads"):
        PruneStructure(kinds=("layers",))


def test_skip_and_only() -> None:
    """What the user leaves alone stays, and what is chosen goes."""
    work = work_on(graph("experts"), PruneStructure(skip=("*",), limit=5))
    assert not work.coverage.changed
    assert "skip" in next(iter(work.coverage.declined.values()))
    assert not work_on(graph("experts"), PruneStructure(only=("none",))).coverage.changed
    step = PruneStructure(only=("Conv_0",), limit=5, cost="macs", ratio=0.1)
    work = work_on(graph("inverted residual"), step)
    assert [d.site for d in work.coverage.damage] == ["Conv_0"]


def test_declines_with_a_reason() -> None:
    """Without data, without prices, beyond the limit."""
    step = PruneStructure(score="activation")
    work = work_on(graph("residual"), step, data=False)
    assert "needs calibration data" in next(iter(work.coverage.declined.values()))
    work = work_on(graph("residual"), PruneStructure(cost="milliseconds"))
    assert "milliseconds are known" in next(iter(work.coverage.declined.values()))
    work = work_on(graph("residual"), PruneStructure(limit=1e-6))
    assert not work.coverage.changed
    assert "allowed 1e-06" in next(iter(work.coverage.declined.values()))


def test_a_wrong_copy_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """If what is left out were not what is masked, the proof would find it."""
    plain = Shrinking.weight

    def wrong(self: Shrinking, array, remaining, node, place):  # type: ignore[no-untyped-def]
        turned = tuple(None if kept is None else np.roll(kept, 1) for kept in remaining)
        return plain(self, array, turned if node.op_type == "Gemm" else remaining, node, place)

    monkeypatch.setattr(Shrinking, "weight", wrong)
    model = graph("residual")
    step = PruneStructure(limit=5, kinds=("stream-dimensions",))
    context = Context(BINDINGS, calibration=[feeds_of(model)], reproducers=tmp_path)
    work = Workbench(model, step, context)
    step.apply(work)
    assert not work.coverage.changed
    assert "with zeros and without: outputs differ" in work.coverage.failures[0].reason
    assert Path(work.coverage.failures[0].reproducer).exists()
