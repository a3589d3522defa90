import dataclasses
from typing import ClassVar

import onnx_ir
import pytest
from folding import BINDINGS, build, ops

from whet.errors import BrokenPass, NothingChanged
from whet.passes.base import Change, Coverage, Failure, Fidelity, Pass
from whet.passes.canonical.eliminate_identity import EliminateIdentity
from whet.passes.canonical.fold_double_transpose import FoldDoubleTranspose
from whet.passes.pipeline import Fixpoint, Pipeline, flatten
from whet.passes.workbench import Context, Workbench

TEXT = """(float[N,3,4] x) => (float[N,3,4] y)
{ a = Transpose<perm=[0,2,1]>(x) b = Identity(a) c = Transpose<perm=[0,2,1]>(b) y = Relu(c) }"""


@dataclasses.dataclass(frozen=True)
class Vandal(Pass):
    """Leave a node that reads a value nobody makes."""

    def apply(self, work: Workbench) -> None:
        node = work.nodes("Relu")[0]
        node.replace_input_with(0, onnx_ir.Value(name="nowhere"))
        work.changed_by_hand(1, "none")


@dataclasses.dataclass(frozen=True)
class Crash(Pass):
    """Raise."""

    def apply(self, work: Workbench) -> None:
        raise ZeroDivisionError("by design")


@dataclasses.dataclass(frozen=True)
class Count(Pass):
    """Claim a change ``times`` times, then be content."""

    fidelity: ClassVar[Fidelity] = Fidelity.LOSSY
    changes: ClassVar[Change] = Change.WEIGHTS
    gated: ClassVar[bool] = True
    calls: ClassVar[list[str]] = []
    times: int = 0

    def apply(self, work: Workbench) -> None:
        self.calls.append(str(self))
        if self.calls.count(str(self)) <= self.times:
            work.changed_by_hand(1, "none")


@pytest.fixture(autouse=True)
def _no_calls() -> None:
    Count.calls.clear()


def context() -> Context:
    return Context(bindings=BINDINGS)


def test_fixpoint_repeats_until_nothing_changes() -> None:
    model = build(TEXT)
    stages = Fixpoint((FoldDoubleTranspose(), EliminateIdentity()))
    model, steps = Pipeline((stages,)).run(model, context())
    assert ops(model) == ["Relu"]
    record = {step.name: (step.coverage.changed, step.runs) for step in steps}
    assert record == {"fold-double-transpose": (1, 3), "eliminate-identity": (1, 2)}


def test_fixpoint_runs_a_pass_again_only_after_a_change() -> None:
    Pipeline((Fixpoint((Count(), Count(times=2))),)).run(build(TEXT), context())
    assert Count.calls.count("count") == 3
    assert Count.calls.count("count{times=2}") == 3


def test_fixpoint_gives_up_after_its_rounds() -> None:
    Pipeline((Fixpoint((Count(times=99),), rounds=4),)).run(build(TEXT), context())
    assert len(Count.calls) == 4


def test_ledger_counts_operators_and_bytes() -> None:
    _, steps = Pipeline((EliminateIdentity(), FoldDoubleTranspose())).run(build(TEXT), context())
    assert [(step.ops_before, step.ops_after) for step in steps] == [(4, 3), (3, 1)]
    assert all(step.bytes_before == step.bytes_after for step in steps)
    assert steps[0].summary.startswith("Replace ``Identity(x)`` by ``x``.")
    assert steps[0].seconds > 0


def test_a_pass_that_breaks_the_structure_is_named() -> None:
    with pytest.raises(BrokenPass, match=r"pass 'vandal' left an invalid model.*nowhere") as error:
        Pipeline((EliminateIdentity(), Vandal())).run(build(TEXT), context())
    assert error.value.__notes__ == ["in pass 'vandal', after ['eliminate-identity']"]


def test_an_exception_gets_the_pass_as_a_note() -> None:
    with pytest.raises(ZeroDivisionError, match="by design") as error:
        Pipeline((Crash(),)).run(build(TEXT), context())
    assert error.value.__notes__ == ["in pass 'crash', after []"]


def test_a_pass_that_was_asked_for_must_change_something() -> None:
    text = """(float[N,3] x) => (float[N,3] y, float[N,3] z) { z = Relu(x) y = Identity(z) }"""
    pipeline = Pipeline((EliminateIdentity(),), frozenset({"eliminate-identity"}))
    with pytest.raises(NothingChanged) as error:
        pipeline.run(build(text), context())
    message = str(error.value)
    assert "pass 'eliminate-identity' changed nothing; nearest miss: Identity_1: an out" in message
    assert "allow_noop" in message
    Pipeline((EliminateIdentity(),)).run(build(text), context())


def test_nothing_changed_without_any_match() -> None:
    pipeline = Pipeline((FoldDoubleTranspose(),), frozenset({"fold-double-transpose"}))
    with pytest.raises(NothingChanged, match="no place in the model has the pattern's outermost"):
        pipeline.run(build("(float[N,3] x) => (float[N,3] y) { y = Relu(x) }"), context())


def test_gate_takes_a_pass_back() -> None:
    model = build(TEXT)
    stages = (Count(times=1), EliminateIdentity())
    after, steps = Pipeline(stages).run(model, context(), lambda _old, _new: "slower by 3 ms")
    assert after is not model
    assert steps[0].reverted == "slower by 3 ms"
    assert steps[1].reverted == ""
    assert ops(after) == ["Transpose", "Transpose", "Relu"]


def test_gate_lets_a_pass_stay() -> None:
    model = build(TEXT)
    after, steps = Pipeline((Count(times=1),)).run(model, context(), lambda _old, _new: "")
    assert after is model
    assert steps[0].reverted == ""


def test_progress_names_every_pass() -> None:
    said: list[str] = []
    Pipeline((EliminateIdentity(), FoldDoubleTranspose())).run(
        build(TEXT), dataclasses.replace(context(), progress=said.append)
    )
    assert said == ["eliminate-identity", "fold-double-transpose"]


def test_flatten_lists_passes_in_order() -> None:
    stages = (Count(), Fixpoint((EliminateIdentity(), FoldDoubleTranspose())))
    assert [p.name for p in flatten(stages)] == [
        "count",
        "eliminate-identity",
        "fold-double-transpose",
    ]


def test_coverage_adds_up_and_records_a_failure_once() -> None:
    total, failure = Coverage(), Failure("here", "outputs differ", 1.0)
    for changed in (2, 0):
        total.add(Coverage(changed + 1, changed + 1, changed, {"there": "no"}, failures=[failure]))
    assert (total.matched, total.eligible, total.changed) == (3, 3, 2)
    assert total.failures == [failure]
    assert total.nearest_miss == "here: outputs differ"
    assert Coverage(declined={"there": "no"}).nearest_miss == "there: no"
    often = Coverage(declined={"a": "too small", "b": "not constant", "c": "not constant"})
    assert often.nearest_miss == "b: not constant"
