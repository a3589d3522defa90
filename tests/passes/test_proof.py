"""The proof refuses deliberately broken rewrites, and only those."""

import dataclasses
from pathlib import Path
from typing import ClassVar

import ml_dtypes
import numpy as np
import onnx
import onnx_ir
import pytest
from folding import BINDINGS, build, ops, run, weights, worst_error
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from whet.errors import Mismatch
from whet.ir.bindings import Bindings
from whet.ir.execute import Executor
from whet.ir.values import Array, attribute_ints, constant_ints
from whet.passes.base import Fidelity, Pass
from whet.passes.pattern import Match, op, var, weight
from whet.passes.proof import Prover, VerdictKind, compare
from whet.passes.proposal import Builder, Proposal
from whet.passes.rewrite import Rewrite
from whet.passes.workbench import Context, Workbench


@dataclasses.dataclass(frozen=True)
class ForgetEpsilon(Rewrite):
    """Fold a batch norm into a Conv and forget that epsilon is added to the variance."""

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (
        op(
            "BatchNormalization",
            op("Conv", var("x"), weight("w"), name="conv", sole=True),
            *(weight(name) for name in "ghmv"),
        ),
    )

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        g, h, m, v, w = (found.array(name).astype(np.float64) for name in "ghmvw")
        scale = g / np.sqrt(v)
        folded = build.constant((w * scale[:, None, None, None]).astype(np.float32))
        bias = build.constant((h - m * scale).astype(np.float32))
        return build.op(
            "Conv", found["x"], folded, bias, attributes=dict(found.node("conv").attributes)
        )


@dataclasses.dataclass(frozen=True)
class MergeTransposesBackwards(Rewrite):
    """Compose two permutations in the wrong order, which cubic shapes hide from shape checks."""

    patterns = (op("Transpose", op("Transpose", var("x"), name="inner"), name="outer"),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        inner = attribute_ints(found.node("inner"), "perm", ()) or ()
        outer = attribute_ints(found.node("outer"), "perm", ()) or ()
        return build.op(
            "Transpose", found["x"], attributes={"perm": [outer[axis] for axis in inner]}
        )


@dataclasses.dataclass(frozen=True)
class PadIntoMaxPool(Rewrite):
    """Fold zero padding into a MaxPool, which pads with minus infinity."""

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    patterns = (op("MaxPool", op("Pad", var("x"), weight("pads"), sole=True)),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        pads = constant_ints(found["pads"]) or ()
        attributes = {**found.root.attributes, "pads": [*pads[2:4], *pads[6:8]]}
        return build.op("MaxPool", found["x"], attributes=attributes)


@dataclasses.dataclass(frozen=True)
class FreezeBatch(Rewrite):
    """Write the batch size seen in the first example into a Reshape."""

    patterns = (op("Reshape", var("x"), weight("shape")),)

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        batch, *rest = constant_ints(found["shape"]) or ()
        if batch != 0:
            raise Mismatch("the batch size is frozen already")
        return build.op("Reshape", found["x"], build.ints(2, *rest))


@dataclasses.dataclass(frozen=True)
class WidenSlice(Rewrite):
    """Merge two slices and take one element too many."""

    patterns = (
        op(
            "Slice",
            op("Slice", var("x"), weight("i"), weight("j"), weight("axis")),
            weight("k"),
            weight("l"),
            weight("axis"),
        ),
    )

    def replace(self, found: Match, build: Builder) -> onnx_ir.Value:
        start, first, last = ((constant_ints(found[name]) or (0,))[0] for name in "ikl")
        ends = build.ints(start + last + 1)
        return build.op("Slice", found["x"], build.ints(start + first), ends, found["axis"])


@dataclasses.dataclass(frozen=True)
class MergeAllTwins(Pass):
    """Replace a node by an earlier one of the same type and inputs, random generators included."""

    def apply(self, work: Workbench) -> None:
        seen: dict[tuple[object, ...], onnx_ir.Node] = {}
        for node in work.nodes():
            first = seen.setdefault((node.op_type, *node.inputs), node)
            if first is not node:
                outputs = tuple(zip(node.outputs, first.outputs, strict=True))
                work.propose(Proposal((node, first), outputs))


@dataclasses.dataclass(frozen=True)
class Broken:
    """A broken pass on a graph with one place where it is wrong and one where it happens to be right."""

    step: Pass
    text: str
    constants: dict[str, Array]
    site: str
    after: list[str]
    opset: int = 18
    random: bool = False


def ints(**values: list[int]) -> dict[str, Array]:
    return {name: np.asarray(value, np.int64) for name, value in values.items()}


BROKEN = {
    "epsilon": Broken(
        ForgetEpsilon(),
        """(float[N,3,8,8] x) => (float[N,4,4,4] y)
        { a = Conv(x, w) b = BatchNormalization<epsilon=0.1>(a, g, h, m, v)
          c = Conv(b, u) y = BatchNormalization<epsilon=0.000000000001>(c, g, h, m, v) }""",
        weights(w=(4, 3, 3, 3), u=(4, 4, 3, 3), g=(4,), h=(4,), m=(4,), v=(4,)),
        "BatchNormalization_1",
        ["Conv", "BatchNormalization", "Conv"],
    ),
    "transposes": Broken(
        MergeTransposesBackwards(),
        """(float[4,4,4] x) => (float[4,4,4] y, float[4,4,4] z)
        { a = Transpose<perm=[1,2,0]>(x) y = Transpose<perm=[0,2,1]>(a)
          b = Transpose<perm=[1,2,0]>(x) z = Transpose<perm=[1,2,0]>(b) }""",
        {},
        "Transpose_1",
        ["Transpose", "Transpose", "Transpose"],
    ),
    "pad": Broken(
        PadIntoMaxPool(),
        """(float[N,3,8,8] x) => (float[N,3,8,8] y, float[N,3,6,6] z)
        { a = Pad(x, p) y = MaxPool<kernel_shape=[3,3]>(a)
          b = Pad(x, q) z = MaxPool<kernel_shape=[3,3]>(b) }""",
        ints(p=[0, 0, 1, 1, 0, 0, 1, 1], q=[0] * 8),
        "MaxPool_1",
        ["Pad", "MaxPool", "MaxPool"],
    ),
    "batch": Broken(
        FreezeBatch(),
        """(float[N,3,4] x, float[2,6] z) => (float[N,12] y, float[2,2,3] r)
        { y = Reshape(x, s) r = Reshape(z, t) }""",
        ints(s=[0, -1], t=[0, 2, 3]),
        "Reshape_0",
        ["Reshape", "Reshape"],
    ),
    "slice": Broken(
        WidenSlice(),
        """(float[N,12] x) => (float[N,3] y, float[N,9] z)
        { a = Slice(x, i, j, c) y = Slice(a, k, l, c) b = Slice(x, i, n, c) z = Slice(b, k, o, c) }""",
        ints(i=[2], j=[9], c=[1], k=[1], l=[4], n=[12], o=[10]),
        "Slice_1",
        ["Slice", "Slice", "Slice"],
    ),
    "random": Broken(
        MergeAllTwins(),
        """(float[N,3] x) => (float[5,7] y, float[5,7] z, float[N,3] r)
        { y = RandomNormal<shape=[5,7]>() z = RandomNormal<shape=[5,7]>()
          a = Relu(x) b = Relu(x) r = Add(a, b) }""",
        {},
        "RandomNormal_1",
        ["RandomNormal", "RandomNormal", "Relu", "Add"],
        random=True,
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_rewrite_alone_is_refused(name: str, tmp_path: Path) -> None:
    case = BROKEN[name]
    model = build(case.text, case.constants, case.opset)
    before = onnx_ir.to_proto(model)
    coverage = run(model, case.step, tmp_path)
    assert coverage.changed == 1
    assert [failure.site for failure in coverage.failures] == [case.site]
    assert ops(model) == case.after
    if not case.random:
        assert worst_error(before, model) <= 1e-5


@pytest.mark.parametrize("name", BROKEN)
def test_the_reproducer_shows_the_difference(name: str, tmp_path: Path) -> None:
    case = BROKEN[name]
    coverage = run(build(case.text, case.constants, case.opset), case.step, tmp_path)
    path = Path(coverage.failures[0].reproducer)
    assert path.name == f"{case.step.name}.{case.site}.onnx"
    onnx.checker.check_model(path)
    with np.load(path.with_suffix(".npz")) as data:
        feeds = {key: data[key] for key in data}
    executor = Executor(path)
    assert set(executor.inputs) == set(feeds)
    difference = _difference(executor, feeds)
    assert difference > case.step.tolerance
    assert coverage.failures[0].error > case.step.tolerance


def _difference(executor: Executor, feeds: dict[str, Array]) -> float:
    old, new = executor.run(feeds, ["old_0", "new_0"])
    return compare(old, new)


@pytest.mark.parametrize("name", BROKEN)
def test_refused_rewrites_leave_no_trace(name: str) -> None:
    case = BROKEN[name]
    model = build(case.text, case.constants, case.opset)
    run(model, case.step)
    text = onnx_ir.to_proto(model).SerializeToString(deterministic=True)
    again = run(model, case.step)
    assert again.changed == 0
    assert len(again.failures) == 1
    assert onnx_ir.to_proto(model).SerializeToString(deterministic=True) == text


def test_without_proof_a_broken_rewrite_gets_through() -> None:
    case = BROKEN["pad"]
    model = build(case.text, case.constants)
    before = onnx_ir.to_proto(model)
    work = Workbench(model, case.step, Context(bindings=BINDINGS, prove=False))
    case.step.apply(work)
    assert work.coverage.changed == 2
    assert worst_error(before, model) > 0.1


def test_a_replacement_that_does_not_run_is_refuted(tmp_path: Path) -> None:
    text = "(float[N,3,4] x) => (float[N,12] y) { y = Reshape(x, s) }"
    model = build(text, ints(s=[0, 12]))
    coverage = run(model, FreezeBatch(), tmp_path)
    assert coverage.changed == 0
    assert "the replacement does not run" in coverage.failures[0].reason
    assert "{'N': 3, 'M': 5}" in coverage.failures[0].reason
    assert Path(coverage.failures[0].reproducer).exists()


def test_one_batch_size_is_not_enough() -> None:
    case = BROKEN["batch"]
    model = build(case.text, case.constants)
    work = Workbench(model, case.step, Context(bindings=Bindings(({"N": 2},))))
    case.step.apply(work)
    assert work.coverage.changed == 2


def test_convolutions_are_proven_in_float64() -> None:
    text = """(float[N,3,8,8] x) => (float[N,4,6,6] y)
    { a = Conv(x, w) y = BatchNormalization<epsilon=0.0>(a, g, h, m, v) }"""
    constants = weights(w=(4, 3, 3, 3), g=(4,), h=(4,), m=(4,), v=(4,))
    coverage = run(build(text, constants), ForgetEpsilon())
    assert coverage.proofs == {"float64": 1}
    assert coverage.max_error < 1e-6


def test_what_cannot_be_executed_is_declined() -> None:
    text = "(float[N,3] x) => (float[N,3] y) { a = Relu(x) y = Relu(a) }"
    model = build(text)
    node = model.graph[1]
    node.domain, node.op_type = "nowhere", "Unknown"
    inner = node.inputs[0]
    assert inner is not None
    prover = Prover(model, BINDINGS)
    verdict = prover.check(
        Proposal((node,), ((node.outputs[0], inner),)), Fidelity.EXACT, tolerance=0.0
    )
    assert verdict.kind is VerdictKind.OPEN
    assert "Unknown" in verdict.reason


NUMBERS = hnp.arrays(
    st.sampled_from([np.float32, np.float64, np.float16, np.int64, np.bool_]),
    hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4),
)
FINITE = hnp.arrays(
    np.float64,
    hnp.array_shapes(max_dims=2, max_side=5),
    elements=st.floats(-1e6, 1e6, width=32, allow_subnormal=False),
)


@given(NUMBERS)
def test_an_array_equals_itself(array: Array) -> None:
    assert compare(array, array.copy()) == 0.0


@given(NUMBERS)
def test_another_shape_or_type_is_infinitely_far(array: Array) -> None:
    assert compare(array, array[None]) == np.inf
    assert compare(array, array.astype(np.complex128)) == np.inf


@given(FINITE, st.floats(1e-9, 1e3))
def test_error_is_relative_to_the_root_mean_square(array: Array, delta: float) -> None:
    moved = np.array(array, np.float64)
    moved.reshape(-1)[0] += delta
    difference = float(np.abs(moved - array).max())
    scale = float(np.sqrt(np.mean(np.square(array))))
    wanted = 0.0 if difference == 0.0 else (difference / scale if scale else np.inf)
    assert compare(array, moved) == pytest.approx(wanted)


@given(FINITE, st.integers(-20, 20))
def test_error_does_not_depend_on_the_scale(array: Array, exponent: int) -> None:
    moved = np.asarray(array) * 1.001
    factor = 2.0**exponent
    assert compare(array * factor, moved * factor) == pytest.approx(compare(array, moved))


@pytest.mark.parametrize(
    ("old", "new", "error"),
    [
        ([1.0, np.nan], [1.0, np.nan], 0.0),
        ([1.0, np.nan], [np.nan, 1.0], np.inf),
        ([1.0, np.nan], [1.0, 2.0], np.inf),
        ([1.0, np.inf], [1.0, np.inf], 0.0),
        ([1.0, np.inf], [1.0, -np.inf], np.inf),
        ([np.inf, np.nan], [np.nan, np.inf], np.inf),
        ([0.0, 1.0], [-0.0, 1.0], 0.0),
        ([0.0, 0.0], [0.0, 1e-30], np.inf),
        ([3.0, np.inf], [3.3, np.inf], 0.1),
        ([], [], 0.0),
    ],
)
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_special_values(old: list[float], new: list[float], error: float, dtype: type) -> None:
    found = compare(np.asarray(old, dtype), np.asarray(new, dtype))
    assert found == pytest.approx(error, rel=2e-2)


def test_complex_numbers_keep_their_imaginary_part() -> None:
    old = np.asarray([1 + 1j, 2 - 1j], np.complex64)
    assert compare(old, old.copy()) == 0.0
    assert compare(old, old.conj()) > 1.0


def test_integers_and_strings_are_equal_or_not() -> None:
    assert compare(np.asarray([1, 2]), np.asarray([1, 3])) == np.inf
    words = np.asarray(["a", "b"], np.object_)
    assert compare(words, words.copy()) == 0.0
    assert compare(words, words[::-1].copy()) == np.inf
