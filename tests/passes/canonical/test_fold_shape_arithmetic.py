import onnx_ir
import pytest
from rewriting import declines, model_of, op_types, run_pass

from whet.ir.values import constant_ints
from whet.passes.canonical.eliminate_dead_code import EliminateDeadCode
from whet.passes.canonical.fold_shape_arithmetic import FoldShapeArithmetic

CONSTANTS = (
    "<int64 zero = {0}, int64 one = {1}, int64[1] axis = {0}, "
    "int64[1] four = {4}, int64[1] two = {2}, int64[1] open = {-1}>"
)


def folded(text: str, opset: int = 21) -> onnx_ir.Model:
    model, coverage = run_pass(text, FoldShapeArithmetic(), opset)
    assert coverage.changed >= 1
    run_pass(model, EliminateDeadCode())
    return model


def target(model: onnx_ir.Model) -> tuple[int, ...] | None:
    reshape = next(node for node in model.graph if node.op_type == "Reshape")
    return constant_ints(reshape.inputs[1])


def test_a_fixed_shape_is_a_constant() -> None:
    model = folded("(float[2, 3] x) => (int64[2] y) { s = Shape(x) y = Neg(s) }")
    assert op_types(model) == ["Neg"]


def test_a_fixed_size_beside_a_dynamic_one_is_a_constant() -> None:
    model = folded(
        f"(float[N, 3] x) => (int64 y) {CONSTANTS} {{ s = Shape(x) g = Gather(s, one) y = Neg(g) }}"
    )
    assert op_types(model) == ["Neg"]


def test_the_middle_of_a_shape() -> None:
    model = folded(
        "(float[N, 3, 4, M] x) => (int64[2] y) { s = Shape<start = 1, end = -1>(x) y = Neg(s) }"
    )
    assert op_types(model) == ["Neg"]


def test_heads_are_split_with_the_batch_copied() -> None:
    model = folded(
        f"""(float[N, M, 8] x) => (float[N, M, 4, 2] y) {CONSTANTS} {{
            s = Shape(x) n = Gather(s, zero) m = Gather(s, one)
            a = Unsqueeze(n, axis) b = Unsqueeze(m, axis)
            t = Concat<axis = 0>(a, b, four, two) y = Reshape(x, t) }}"""
    )
    assert op_types(model) == ["Reshape"]
    assert target(model) == (0, 0, 4, 2)


def test_one_size_that_moves_becomes_the_open_one() -> None:
    model = folded(
        f"""(float[N, 4, 2] x) => (float[4, N, 2] y) {CONSTANTS} {{
            n = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>(four, n, two) y = Reshape(x, t) }}"""
    )
    assert target(model) == (4, -1, 2)


def test_products_quotients_and_slices_of_sizes() -> None:
    model = folded(
        """(float[N, M, 8] x) => (float[A, B] y)
            <int64[1] eight = {8}, int64[1] s0 = {0}, int64[1] s1 = {1}, int64[1] s2 = {2}> {
            s = Shape(x) n = Slice(s, s0, s1) m = Slice(s, s1, s2) nm = Mul(n, m)
            a = Mul(m, eight) b = Div(a, m) t = Concat<axis = 0>(nm, b) y = Reshape(x, t) }"""
    )
    assert op_types(model) == ["Reshape"]
    assert target(model) == (-1, 8)


def test_where_and_equal_as_exporters_write_expand() -> None:
    model = folded(
        """(float[2, 3] x) => (float[A, B] y) <int64[2] s = {-1, 3}, int64[2] m = {-1, -1}, int64[1] two = {2}> {
            c = Equal(s, m) o = ConstantOfShape<value = int64[1] {1}>(two) t = Where(c, o, s) y = Expand(x, t) }"""
    )
    assert op_types(model) == ["Expand"]


def test_size_reduce_prod_cast_squeeze_and_reshape() -> None:
    model = folded(
        """(float[2, 3] x) => (int32[1] y) <int64[1] open = {-1}, int64[1] axis = {0}> {
            a = Size(x) s = Shape(x) p = ReduceProd(s) q = Squeeze(p, axis) m = Add(a, q)
            r = Reshape(m, open) c = Cast<to = 6>(r) y = Neg(c) }"""
    )
    assert op_types(model) == ["Neg"]


def test_an_output_keeps_its_name() -> None:
    model, _ = run_pass("(float[2, 3] x) => (int64[2] s) { s = Shape(x) }", FoldShapeArithmetic())
    assert model.graph.outputs[0].name == "s"
    assert "Shape" not in op_types(model)


def test_a_capture_follows() -> None:
    model = folded(
        """(bool c, float[2, 3] x) => (int64[2] y) {
            s = Shape(x)
            y = If (c) <
                then_branch = t () => (int64[2] u) { u = Neg(s) },
                else_branch = e () => (int64[2] v) { v = Abs(s) }>
        }"""
    )
    assert op_types(model) == ["If"]


def test_declines_two_sizes_that_are_not_known() -> None:
    declines(
        f"""(float[N, M] x) => (float[M, N] y) {CONSTANTS} {{
            s = Shape(x) n = Gather(s, zero) m = Gather(s, one)
            a = Unsqueeze(n, axis) b = Unsqueeze(m, axis)
            t = Concat<axis = 0>(b, a) y = Reshape(x, t) }}""",
        FoldShapeArithmetic(),
        "more than one size",
    )


def test_declines_an_open_size_beside_one_that_is_not_known() -> None:
    declines(
        f"""(float[N, 4] x, float[N, M] z) => (float[A, B, C] y) {CONSTANTS} {{
            n = Shape<start = 0, end = 1>(x) t = Concat<axis = 0>(two, n, open) y = Reshape(x, t) }}""",
        FoldShapeArithmetic(),
        "more than one size",
    )


def test_allowzero_without_a_zero_means_nothing() -> None:
    model = folded(
        f"""(float[N, M, 8] x) => (float[N, M, 4, 2] y) {CONSTANTS} {{
            s = Shape<start = 0, end = 2>(x) t = Concat<axis = 0>(s, four, two)
            y = Reshape<allowzero = 1>(x, t) }}"""
    )
    assert target(model) == (0, 0, 4, 2)


def test_allowzero_with_a_zero_is_not_turned_into_a_guess() -> None:
    declines(
        """(float[N, 0, M] x) => (float[N, 0, M] y) <int64[1] zero = {0}> {
            n = Shape<start = 0, end = 1>(x) m = Shape<start = 2, end = 3>(x)
            t = Concat<axis = 0>(n, zero, m) y = Reshape<allowzero = 1>(x, t) }""",
        FoldShapeArithmetic(),
        "more than one size",
    )


@pytest.mark.parametrize(
    "text",
    [
        "(float[N, 3] x) => (int64[2] y) { y = Shape(x) }",
        f"(float[N, 3] x) => (int64 y) {CONSTANTS} {{ s = Shape(x) y = Gather(s, zero) }}",
        f"(float[N, 3] x, int64 k) => (int64 y) {CONSTANTS} {{ s = Shape(x) y = Gather(s, k) }}",
    ],
)
def test_leaves_what_is_dynamic(text: str) -> None:
    declines(text, FoldShapeArithmetic())


def test_anonymous_symbols_get_the_names_of_what_they_are() -> None:
    model = model_of(
        """(float[N, 8] x, float[N, 4] z) => (float[A, B] y)
            <int64[2] s = {-1, 4}, int64[1] a = {0}, int64[1] e = {9223372036854775807}> {
            u = Reshape(x, s) v = Relu(u) w = Slice(z, a, e) y = Add(w, z) }"""
    )
    run_pass(model, FoldShapeArithmetic())
    shapes = {v.name: str(v.shape) for node in model.graph for v in node.outputs}
    assert shapes["u"] == "[2*N,4]"
    assert shapes["v"] == "[2*N,4]"
    assert shapes["w"] == "[N,4]"
