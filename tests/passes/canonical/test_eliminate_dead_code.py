from rewriting import declines, op_types, run_pass

from whet.passes.canonical.eliminate_dead_code import EliminateDeadCode


def test_chains_and_weights_that_nobody_reads_go() -> None:
    model, coverage = run_pass(
        """(float[N] x, float[N] unused) => (float[N] y) <float[2] w = {1, 2}, float v = {3}> {
            a = Exp(x) b = Add(a, v) y = Relu(x) }""",
        EliminateDeadCode(),
    )
    assert op_types(model) == ["Relu"]
    assert not model.graph.initializers
    assert [v.name for v in model.graph.inputs] == ["x", "unused"]
    assert coverage.changed == 4


def test_a_subgraph_that_nobody_reads_lets_go_of_its_captures() -> None:
    model, _ = run_pass(
        """(bool c, float[N] x) => (float[N] y) {
            a = Exp(x)
            b = If (c) <
                then_branch = t () => (float[N] u) { u = Relu(a) },
                else_branch = e () => (float[N] v) { v = Neg(a) }>
            y = Relu(x)
        }""",
        EliminateDeadCode(),
    )
    assert op_types(model) == ["Relu"]


def test_optional_outputs_that_nobody_reads_go() -> None:
    model, coverage = run_pass(
        """(float[1, 1, N, 8] x) => (float[1, 1, A, B] y) {
            y, i = MaxPool<kernel_shape = [2, 2]>(x) }""",
        EliminateDeadCode(),
    )
    assert len(next(iter(model.graph)).outputs) == 1
    assert coverage.changed == 1


def test_an_optional_output_before_a_read_one_loses_its_name() -> None:
    model, _ = run_pass(
        """(float[S, 1, 2] x) => (float[1, 1, 3] h) <float[1, 3, 2] w = {1, 2, 3, 4, 5, 6},
            float[1, 3, 3] r = {1, 2, 3, 4, 5, 6, 7, 8, 9}> {
            y, h = RNN<hidden_size = 3>(x, w, r) }""",
        EliminateDeadCode(),
    )
    assert [v.name for v in next(iter(model.graph)).outputs] == ["", "h"]


def test_what_is_captured_or_an_output_or_an_input_stays() -> None:
    declines(
        """(bool c, float[N] x, float[2] d) => (float[N] y, float[2] w)
            <float[2] w = {1, 2}, float[2] d = {1, 2}, float k = {2}> {
            a = Exp(x)
            y = If (c) <
                then_branch = t () => (float[N] u) { u = Mul(a, k) },
                else_branch = e () => (float[N] v) { v = Neg(a) }>
        }""",
        EliminateDeadCode(),
    )


def test_required_outputs_stay() -> None:
    declines(
        """(float[N, 4] x) => (float[N, 2] y) {
            y, z = Split<axis = 1, num_outputs = 2>(x) }""",
        EliminateDeadCode(),
    )
