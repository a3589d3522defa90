import onnx_ir
import pytest
from folding import build, weights

from whet.errors import Mismatch
from whet.passes.pattern import Match, Op, match, maybe, one_of, op, var, weight

X = "(float[N,4] x, float[N,4] z) => (float[N,4] y)"


def find(text: str, pattern: Op, /, root: int = -1, **shapes: tuple[int, ...]) -> Match | str:
    model = build(text, weights(**shapes))
    return match(pattern, model.graph[root])


def matched(text: str, pattern: Op, /, root: int = -1, **shapes: tuple[int, ...]) -> Match:
    found = find(text, pattern, root, **shapes)
    assert isinstance(found, Match), found
    return found


def names(nodes: list[onnx_ir.Node]) -> list[str | None]:
    return [node.name for node in nodes]


def test_chain_binds_nodes_root_first_and_values() -> None:
    pattern = op("Relu", op("MatMul", var("x"), weight("w"), name="product"), name="last")
    found = matched(f"{X} {{ a = MatMul(x, w) y = Relu(a) }}", pattern, w=(4, 4))
    assert names(found.nodes) == ["Relu_1", "MatMul_0"]
    assert found.node("product") is found.nodes[1]
    assert found.node("last") is found.root
    assert found["x"].name == "x"
    assert found.array("w").shape == (4, 4)
    with pytest.raises(Mismatch, match="'x' is not a constant"):
        found.array("x")


@pytest.mark.parametrize("call", ["Add(a, w)", "Add(w, a)"])
def test_commutative_matches_either_order(call: str) -> None:
    pattern = op("Add", op("Relu", var("x")), weight("w"), commutative=True)
    found = matched(f"{X} {{ a = Relu(x) y = {call} }}", pattern, w=(4,))
    assert found["w"].name == "w"


def test_order_matters_without_commutative() -> None:
    pattern = op("Sub", op("Relu", var("x")), weight("w"))
    assert isinstance(find(f"{X} {{ a = Relu(x) y = Sub(w, a) }}", pattern, w=(4,)), str)


def test_commutative_looks_for_another_order_when_a_later_operand_fails() -> None:
    pattern = op("Add", op("Relu", var("x"), name="relu"), op("Relu", var("x")), commutative=True)
    found = matched(f"{X} {{ a = Relu(x) b = Relu(x) y = Add(a, b) }}", pattern)
    assert found.node("relu").name == "Relu_0"
    deep = op("Add", op("Relu", op("Neg", var("x"))), op("Relu", var("q")), commutative=True)
    found = matched(f"{X} {{ a = Relu(x) n = Neg(z) b = Relu(n) y = Add(a, b) }}", deep)
    assert found["q"].name == "x"


def test_one_of_takes_the_first_that_fits() -> None:
    pattern = op("Relu", one_of(op("Neg", var("n")), op("Abs", var("a")), var("v")))
    assert matched(f"{X} {{ a = Abs(x) y = Relu(a) }}", pattern).values.keys() == {"a"}
    assert matched(f"{X} {{ a = Exp(x) y = Relu(a) }}", pattern).values.keys() == {"v"}


def test_several_operators_of_one_place() -> None:
    pattern = op(("Add", "Sub"), var("x"), var("z"))
    assert matched(f"{X} {{ y = Sub(x, z) }}", pattern).root.op_type == "Sub"
    assert find(f"{X} {{ y = Mul(x, z) }}", pattern) == ""


def test_the_same_name_is_the_same_value() -> None:
    pattern = op("Mul", op("Sigmoid", var("x")), var("x"), commutative=True)
    assert matched(f"{X} {{ a = Sigmoid(x) y = Mul(x, a) }}", pattern)["x"].name == "x"
    found = find(f"{X} {{ a = Sigmoid(x) y = Mul(z, a) }}", pattern)
    assert found == "'x' of Sigmoid 'Sigmoid_0' is another value"


def test_sole_refuses_other_readers_and_graph_outputs() -> None:
    pattern = op("Relu", op("Neg", var("x"), sole=True))
    assert matched(f"{X} {{ a = Neg(x) y = Relu(a) }}", pattern)
    shared = "(float[N,4] x) => (float[N,4] y, float[N,4] r) { a = Neg(x) y = Relu(a) r = Exp(a) }"
    assert find(shared, pattern, 1) == "Neg 'Neg_0' is read elsewhere too"
    seen = "(float[N,4] x) => (float[N,4] y, float[N,4] a) { a = Neg(x) y = Relu(a) }"
    assert find(seen, pattern) == "Neg 'Neg_0' is read elsewhere too"
    twice = op("Add", op("Neg", var("x"), sole=True), var("q"))
    assert isinstance(find(f"{X} {{ a = Neg(x) y = Add(a, a) }}", twice), str)


def test_optional_input_may_be_missing() -> None:
    pattern = op("Clip", var("x"), maybe("low"), maybe("high"))
    found = matched("(float[N,4] x, float h) => (float[N,4] y) { y = Clip(x, , h) }", pattern)
    assert found.get("low") is None
    assert found["high"].name == "h"
    with pytest.raises(Mismatch, match="input 'low' is missing"):
        found["low"]
    assert matched("(float[N,4] x) => (float[N,4] y) { y = Clip(x) }", pattern).get("high") is None


def test_required_input_that_is_missing() -> None:
    text = "(float[N,4] x, float h) => (float[N,4] y) { a = Clip(x, , h) y = Relu(a) }"
    pattern = op("Relu", op("Clip", var("x"), var("low"), var("high")))
    assert find(text, pattern) == "Clip 'Clip_0' lacks its input 'low'"


def test_more_inputs_than_operands_need_an_open_pattern() -> None:
    text = "(float[N,4] x) => (float[N,12] y) { a = Concat<axis=1>(x, x, x) y = Relu(a) }"
    assert find(text, op("Relu", op("Concat", var("x")))) == "Concat 'Concat_0' has 3 inputs"
    assert matched(text, op("Relu", op("Concat", var("x"), open=True)))


def test_weight_is_fixed() -> None:
    pattern = op("Relu", op("MatMul", var("x"), weight("w")))
    text = "(float[N,4] x, float[4,4] w) => (float[N,4] y) { a = MatMul(x, w) y = Relu(a) }"
    assert find(text, pattern) == "input 'w' of MatMul 'MatMul_0' is not a constant"


def test_near_miss_names_the_deepest_stop() -> None:
    pattern = op("Relu", op("Neg", op("Abs", op("Exp", var("x")))))
    text = f"{X} {{ a = Log(x) b = Abs(a) c = Neg(b) y = Relu(c) }}"
    assert find(text, pattern) == "Log 'Log_0' where Exp was expected"
    text = f"{X} {{ b = Abs(x) c = Neg(b) y = Relu(c) }}"
    assert find(text, pattern) == "Exp does not feed Abs 'Abs_0'"
    assert find(f"{X} {{ y = Relu(x) }}", pattern) == ""


def test_other_domains_do_not_match() -> None:
    model = build(f"{X} {{ a = Neg(x) y = Relu(a) }}")
    model.graph[0].domain = "com.example"
    assert isinstance(match(op("Relu", op("Neg", var("x"))), model.graph[1]), str)
    assert isinstance(
        match(op("Relu", op("Neg", var("x"), domain="com.example")), model.graph[1]), Match
    )
    model.graph[0].domain = "ai.onnx"
    assert isinstance(match(op("Relu", op("Neg", var("x"))), model.graph[1]), Match)


def test_only_the_first_output_of_a_producer_matches() -> None:
    text = """(float[N,4] x) => (float[N,2] y, float[N,2] z)
    { a, b = Split<num_outputs=2, axis=1>(x) y = Relu(a) z = Relu(b) }"""
    pattern = op("Relu", op("Split", var("x")))
    assert matched(text, pattern, 1)
    assert isinstance(find(text, pattern, 2), str)


def test_a_copy_is_independent() -> None:
    found = matched(f"{X} {{ y = Relu(x) }}", op("Relu", var("x")))
    other = found.copy()
    other.values["x"] = None
    other.nodes.clear()
    assert found["x"].name == "x"
    assert len(found.nodes) == 1
