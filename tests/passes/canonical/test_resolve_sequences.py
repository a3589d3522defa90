import numpy as np
import onnx_ir
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rewriting import declines, model_of, op_types, run_pass

from whet.ir.values import constant_ints
from whet.passes.canonical.resolve_sequences import ResolveSequences
from whet.passes.workbench import Context, Workbench

STEP = ResolveSequences()
POSITIONS = ", ".join(f"int64 p{k} = {{{k}}}" for k in (0, 1, 2)) + ", int64 last = {-1}"


def cut(shape: str, call: str, outputs: str, reads: str, constants: str = "int64 c = {2}") -> str:
    return f"(float[{shape}] x) => ({outputs}) <{constants}, {POSITIONS}> {{ s = {call} {reads} }}"


def split_sizes(model: onnx_ir.Model) -> tuple[int, ...] | None:
    (node,) = [node for node in model.graph if node.op_type == "Split"]
    return constant_ints(node.inputs[1])


TWO = "float[A, B] y, float[C, D] z"
READ_TWO = "y = SequenceAt(s, p0) z = SequenceAt(s, last)"


@pytest.mark.parametrize(
    ("call", "constants", "sizes"),
    [
        ("SplitToSequence<axis = 1>(x, c)", "int64 c = {2}", (2, 2, 1)),
        ("SplitToSequence<axis = -1>(x, c)", "int64 c = {3}", (3, 2)),
        ("SplitToSequence<axis = 1>(x, c)", "int64[3] c = {1, 0, 4}", (1, 0, 4)),
        ("SplitToSequence<axis = 1>(x)", "int64 c = {2}", (1, 1, 1, 1, 1)),
    ],
)
def test_pieces_of_a_known_size_are_one_split(
    call: str, constants: str, sizes: tuple[int, ...]
) -> None:
    model, coverage = run_pass(cut("N, 5", call, TWO, READ_TWO, constants), STEP)
    assert op_types(model) == ["Split"]
    assert split_sizes(model) == sizes
    assert (coverage.matched, coverage.changed) == (1, 1)


def test_before_opset_13_the_sizes_are_an_attribute() -> None:
    model, _ = run_pass(cut("N, 5", "SplitToSequence<axis=1>(x, c)", TWO, READ_TWO), STEP, opset=11)
    assert list(model.graph[0].attributes["split"].as_ints()) == [2, 2, 1]


def test_one_piece_is_a_slice() -> None:
    text = cut("N, 5", "SplitToSequence<axis=1>(x, c)", "float[A, B] y", "y = SequenceAt(s, p1)")
    assert op_types(run_pass(text, STEP)[0]) == ["Slice"]


def test_one_piece_read_twice_is_one_slice() -> None:
    reads = "u = SequenceAt(s, p1) v = SequenceAt(s, p1) y = Add(u, v)"
    text = cut("N, 5", "SplitToSequence<axis=1>(x, c)", "float[A, B] y", reads)
    assert op_types(run_pass(text, STEP)[0]) == ["Slice", "Add"]


def test_an_axis_of_unknown_size_is_sliced() -> None:
    reads = "y = SequenceAt(s, p0) z = SequenceAt(s, p1)"
    text = cut("5, N", "SplitToSequence<axis=1>(x, c)", TWO, reads, "int64 c = {1}")
    assert op_types(run_pass(text, STEP)[0]) == ["Slice", "Slice"]


@pytest.mark.parametrize("shape", ["N, 5", "5, N"])
def test_single_pieces_without_the_axis_are_gathered(shape: str) -> None:
    reads = "y = SequenceAt(s, p0) z = SequenceAt(s, p1)"
    text = cut(shape, "SplitToSequence<axis=1, keepdims=0>(x)", "float[A] y, float[B] z", reads)
    assert op_types(run_pass(text, STEP)[0]) == ["Gather", "Gather"]


@pytest.mark.parametrize(
    ("shape", "call", "reads", "constants", "reason"),
    [
        (
            "5, N",
            "SplitToSequence<axis=1>(x, c)",
            READ_TWO,
            "int64 c = {1}",
            "counted from the end",
        ),
        (
            "N, 5",
            "SplitToSequence<axis=1>(x, c)",
            "y = SequenceAt(s, p0) n = SequenceLength(s) m = Unsqueeze(n, o) z = Expand(y, m)",
            "int64 c = {5}, int64[1] o = {0}",
            "SequenceLength 'SequenceLength_2' reads the sequence as well",
        ),
        (
            "N, 5",
            "SplitToSequence<axis=1>(x, c)",
            "y = SequenceAt(s, p0) n = Size(x) m = Sub(n, n) z = SequenceAt(s, m)",
            "int64 c = {5}",
            "the position that 'SequenceAt_4' reads is computed at run time",
        ),
        (
            "N, 5",
            "t = Shape(x) i = Gather(t, p1) s = SplitToSequence<axis=1>(x, i)",
            READ_TWO,
            "int64 c = {1}",
            "the sizes of the pieces are computed at run time",
        ),
    ],
)
def test_declines_pieces(shape: str, call: str, reads: str, constants: str, reason: str) -> None:
    text = cut(shape, call, TWO, reads, constants).replace("{ s = t =", "{ t =")
    declines(text, STEP, reason)


def test_declines_a_sequence_of_which_nothing_is_read() -> None:
    text = "(float[N, 4] x) => (float[N, 4] y) { s = SplitToSequence<axis=1>(x) y = Relu(x) }"
    declines(text, STEP, "nothing reads the sequence")


def test_declines_sizes_that_drop_the_axis() -> None:
    call = "SplitToSequence<axis=1, keepdims=0>(x, c)"
    work = visit(model_of(cut("N, 5", call, "float[A, B] y", "y = SequenceAt(s, p0)")))
    assert list(work.coverage.declined.values()) == ["keepdims is 0 though sizes are given"]


def visit(model: onnx_ir.Model) -> Workbench:
    """Run the pass on a model that ONNX Runtime refuses."""
    work = Workbench(model, STEP, Context())
    STEP.apply(work)
    assert work.coverage.changed == 0
    return work


def test_declines_a_sequence_that_is_an_output() -> None:
    model = model_of(
        cut("N, 4", "SplitToSequence<axis=1>(x, c)", "float[A, B] y", "y = SequenceAt(s, p0)")
    )
    sequence = model.graph[0].outputs[0]
    model.graph.outputs.append(sequence)
    work = visit(model)
    assert list(work.coverage.declined.values()) == ["the sequence is an output of the model"]


def test_leaves_a_sequence_that_a_subgraph_reads() -> None:
    text = """(float[N, 4] x, bool b) => (float[N, 2] y) <int64 c = {2}, int64 p = {0}> {
        s = SplitToSequence<axis=1>(x, c)
        y = If(b) <
            then_branch = g1 () => (float[N, 2] u) { u = SequenceAt(s, p) },
            else_branch = g2 () => (float[N, 2] v) { w = SequenceAt(s, p) v = Relu(w) } > }"""
    declines(text, STEP, "reads the sequence as well")


CONSTRUCTED = "(float[N, 4] a, float[N, 4] b) => (float[{shape}] y) <{constants}> {{ {body} }}"


def constructed(body: str, shape: str = "A, B") -> str:
    return CONSTRUCTED.format(shape=shape, constants=POSITIONS, body=body)


@pytest.mark.parametrize(
    ("body", "shape", "kept"),
    [
        ("s = SequenceConstruct(a, b) u = SequenceAt(s, p1) y = Relu(u)", "A, B", ["Relu"]),
        ("s = SequenceConstruct(a, b) u = SequenceAt(s, last) y = Relu(u)", "A, B", ["Relu"]),
        ("s = SequenceConstruct(a, b, a) y = ConcatFromSequence<axis=1>(s)", "A, B", ["Concat"]),
        (
            "s = SequenceConstruct(a, b, a) y = ConcatFromSequence<axis=-1, new_axis=1>(s)",
            "A, B, C",
            ["Unsqueeze", "Unsqueeze", "Concat"],
        ),
        (
            "e = SequenceEmpty() s = SequenceInsert(e, a) t = SequenceInsert(s, b, p0) "
            "y = ConcatFromSequence<axis=0>(t)",
            "A, B",
            ["Concat"],
        ),
        (
            "e = SequenceConstruct(a, b) s = SequenceErase(e) t = SequenceInsert(s, b, last) "
            "i = Identity(t) u = SequenceErase(i, p1) v = SequenceAt(u, p0) y = Relu(v)",
            "A, B",
            ["Relu"],
        ),
    ],
)
def test_tensors_put_in_one_by_one(body: str, shape: str, kept: list[str]) -> None:
    assert op_types(run_pass(constructed(body, shape), STEP)[0]) == kept


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (
            "n = Size(a) m = Sub(n, n) s = SequenceConstruct(a, b) y = SequenceAt(s, m)",
            "computed at run time",
        ),
        (
            "n = Size(a) m = Sub(n, n) e = SequenceEmpty() s = SequenceInsert(e, a, m) "
            "y = SequenceAt(s, p0)",
            "the position of SequenceInsert 'SequenceInsert_3' is computed at run time",
        ),
        (
            "s = SplitToSequence<axis=1>(a) t = SequenceInsert(s, b) y = SequenceAt(t, p0)",
            "the sequence comes from SplitToSequence",
        ),
    ],
)
def test_declines_readers(body: str, reason: str) -> None:
    declines(constructed(body), STEP, reason)


def test_says_that_an_element_is_not_there() -> None:
    model = model_of(constructed("s = SequenceConstruct(a, b) y = SequenceAt(s, p2)"))
    work = visit(model)
    assert list(work.coverage.declined.values()) == ["element 2 is read, there are 2"]


@given(data=st.data(), total=st.integers(2, 9), step=st.integers(1, 9))
def test_every_read_agrees_with_numpy(data: st.DataObject, total: int, step: int) -> None:
    axis = data.draw(st.integers(-3, 2))
    pieces = -(-total // step)
    reads = data.draw(st.lists(st.integers(-pieces, pieces - 1), min_size=1, max_size=3))
    shape = [2, 3, 4]
    shape[axis] = total
    constants = ", ".join(f"int64 q{k} = {{{p}}}" for k, p in enumerate(reads))
    outputs = ", ".join(f"float[A{k}, B{k}, C{k}] y{k}" for k in range(len(reads)))
    body = " ".join(f"y{k} = SequenceAt(s, q{k})" for k in range(len(reads)))
    text = (
        f"(float[{', '.join(map(str, shape))}] x) => ({outputs}) <int64 c = {{{step}}}, {constants}> "
        f"{{ s = SplitToSequence<axis = {axis}>(x, c) {body} }}"
    )
    model, coverage = run_pass(text, STEP)
    assert coverage.changed == 1
    found = set(op_types(model)) - {"Identity"}
    assert found == ({"Split"} if len(set(np.mod(reads, pieces))) > 1 else {"Slice"})
