import dataclasses

import onnx_ir
import pytest
from folding import build, ops, run

from whet.errors import BrokenPass, Mismatch
from whet.passes.pattern import Match, op, var
from whet.passes.proposal import Builder
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Workbench

CHAIN = "(float[N,4] x) => (float[N,4] y) { a = Relu(x) b = Neg(a) c = Neg(b) y = Relu(c) }"


@dataclasses.dataclass(frozen=True)
class Twice(Rewrite):
    """Replace a Relu by two, for ever."""

    patterns = (op("Relu", var("x")),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        return build.op("Relu", build.op("Relu", found["x"]))


@dataclasses.dataclass(frozen=True)
class DropDoubleNegation(Rewrite):
    """Replace ``-(-x)`` by ``x``."""

    patterns = (op("Neg", op("Neg", var("x"))),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        return found["x"]


@dataclasses.dataclass(frozen=True)
class ChangeItsMind(Rewrite):
    """Make nodes, then decline."""

    patterns = (op("Relu", var("x")),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        build.op("Relu", found["x"])
        raise Mismatch("not today")


@dataclasses.dataclass(frozen=True)
class RefuseEarly(Rewrite):
    """Decline in the check."""

    patterns = (op("Neg", op("Exp", var("x"))), op("Neg", var("x")))

    def check(self, found: Match, work: Workbench) -> None:
        raise Mismatch(f"opset {work.opset}")

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        raise AssertionError("check has declined")


def test_a_rewrite_that_matches_its_own_output_is_stopped() -> None:
    with pytest.raises(BrokenPass, match=r"'twice' made .* its budget is 9: it matches its own"):
        run(build(CHAIN), Twice())


def test_chains_collapse_in_one_run() -> None:
    negations = " ".join(f"a{k + 1} = Neg(a{k})" for k in range(6))
    model = build(f"(float[N,4] x) => (float[N,4] y) {{ a0 = Relu(x) {negations} y = Exp(a6) }}")
    coverage = run(model, DropDoubleNegation())
    assert ops(model) == ["Relu", "Exp"]
    assert (coverage.matched, coverage.eligible, coverage.changed) == (3, 3, 3)
    assert coverage.proofs == {"as is": 3}


def test_new_nodes_record_where_they_come_from() -> None:
    model = build("(float[N,4] x) => (float[N,4] y) { b = Neg(x) c = Neg(b) y = Relu(c) }")
    run(model, DropDoubleNegation())
    assert ops(model) == ["Relu"]
    assert model.graph[0].inputs[0] is model.graph.inputs[0]


def test_declining_leaves_no_reader_behind() -> None:
    model = build(CHAIN)
    coverage = run(model, ChangeItsMind())
    assert coverage.declined == {"Relu_0": "not today", "Relu_3": "not today"}
    assert (coverage.matched, coverage.eligible, coverage.changed) == (2, 0, 0)
    assert len(model.graph.inputs[0].uses()) == 1


def test_check_comes_before_replace_and_a_later_pattern_silences_the_near_miss() -> None:
    coverage = run(build(CHAIN), RefuseEarly())
    assert coverage.declined == {"Neg_1": "opset 18", "Neg_2": "opset 18"}
    assert coverage.near_misses == {}


def test_near_misses_are_reported() -> None:
    text = "(float[N,4] x) => (float[N,4] y) { a = Exp(x) b = Abs(a) y = Neg(b) }"

    @dataclasses.dataclass(frozen=True)
    class Deep(DropDoubleNegation):
        """Look for three nodes."""

        patterns = (op("Neg", op("Abs", op("Relu", var("x")))),)

    coverage = run(build(text), Deep())
    assert coverage.near_misses == {"Neg_2": "Exp 'Exp_0' where Relu was expected"}
    assert coverage.nearest_miss == "Neg_2: Exp 'Exp_0' where Relu was expected"
