import onnx_ir
from rewriting import context_of, model_of

from whet.passes.canonical.eliminate_common_subexpressions import EliminateCommonSubexpressions
from whet.passes.canonical.eliminate_identity import EliminateIdentity
from whet.passes.structural_key import attributes_key, nodes_key, tensor_key
from whet.passes.workbench import Workbench


def first(text: str) -> onnx_ir.Node:
    return next(iter(model_of(text).graph))


def test_attributes_are_compared_by_value() -> None:
    texts = ["<alpha = 0.5>", "<alpha = 0.5>", "<alpha = 0.25>"]
    one, two, three = (
        attributes_key(first(f"(float[N] x) => (float[N] y) {{ y = Elu{text}(x) }}"))
        for text in texts
    )
    assert one == two
    assert one != three


def test_subgraphs_have_no_key() -> None:
    node = first(
        """(bool c, float[N] x) => (float[N] y) { y = If (c) <
            then_branch = a () => (float[N] u) { u = Relu(x) },
            else_branch = b () => (float[N] v) { v = Neg(x) }> }"""
    )
    assert attributes_key(node) is None
    assert nodes_key([node], {}) is None


def test_tensors_are_compared_by_type_shape_and_bytes() -> None:
    same = [onnx_ir.tensor([1.0, 2.0], dtype=onnx_ir.DataType.FLOAT) for _ in range(2)]
    other = onnx_ir.tensor([[1.0, 2.0]], dtype=onnx_ir.DataType.FLOAT)
    assert tensor_key(same[0]) == tensor_key(same[1])
    assert tensor_key(same[0]) != tensor_key(other)
    assert tensor_key(onnx_ir.StringTensor([b"a"], shape=onnx_ir.Shape([1]))) is None


def test_names_do_not_count_and_connections_do() -> None:
    keys = [
        nodes_key(model_of(f"(float[N] p, float[N] q) => (float[N] y) {{ {body} }}").graph, {})
        for body in (
            "a = Sub(p, q) y = Neg(a)",
            "b = Sub(q, p) y = Neg(b)",
            "b = Sub(q, q) y = Neg(b)",
        )
    ]
    assert keys[0] == keys[1]
    assert keys[0] != keys[2]


def proofs(text: str) -> int:
    model = model_of(text)
    context = context_of(model)
    for step in (EliminateIdentity(), EliminateCommonSubexpressions()):
        work = Workbench(model, step, context)
        step.apply(work)
        assert work.coverage.changed == sum(work.coverage.proofs.values()) > 0
    return len(context.proven)


def test_equal_rewrites_are_executed_once() -> None:
    body = "b = Identity(a) c = Exp(b) d = Exp(b) e = Add(c, d)"
    once = proofs(f"(float[N, 3] x) => (float[N, 3] e) {{ a = Neg(x) {body} }}")
    again = body
    for old, new in zip("bcde", "fghi", strict=True):
        again = (
            again.replace(f"{old} =", f"{new} =")
            .replace(f"({old}", f"({new}")
            .replace(f" {old})", f" {new})")
        )
    again = again.replace("Identity(a)", "Identity(e)")
    twice = proofs(f"(float[N, 3] x) => (float[N, 3] i) {{ a = Neg(x) {body} {again} }}")
    assert once == twice == 2


def test_another_shape_is_executed_again() -> None:
    text = "(float[N, 3] x, float[3] z) => (float[N, 3] y, float[3] w) {{ {} }}"
    body = "a = Neg(x) b = Identity(a) y = Exp(b) c = Neg(z) d = Identity(c) w = Exp(d)"
    model = model_of(text.format(body))
    context = context_of(model)
    step = EliminateIdentity()
    step.apply(Workbench(model, step, context))
    assert len(context.proven) == 2
