import numpy as np
import onnx_ir
import pytest
from folding import build
from operators import operator_model

from whet.analysis.experts import find_experts
from whet.tools.bench.experts_model import moe_model, random_weights


@pytest.mark.parametrize("router", ["softmax", "late", "sigmoid"])
@pytest.mark.parametrize("fused", [True, False])
def test_experts_are_found_by_what_is_chosen(router: str, fused: bool) -> None:
    weights = random_weights(biases=True) | {"cr": np.zeros(4, np.float32)}
    if not fused:
        weights.pop("bg")
        weights.pop("bd")
    found = find_experts(moe_model(weights, router=router, fused=fused).graph)
    (experts,) = found.experts
    assert not found.unread
    assert (experts.k, experts.count, experts.stored) == (2, 4, 4)
    assert experts.node.op_type == "TopK"
    assert experts.logits.name == "l"
    assert experts.index is not None
    assert experts.index.name == "j"
    assert experts.result.name == ("q" if fused else "o")
    stacks = {s.value.name for s in experts.stacks}
    assert stacks == ({"gu", "bg", "dn", "bd"} if fused else {"ga", "up", "dn"})
    assert experts.router[-1].op_type in ("TopK", "GatherElements")
    assert experts.bytes == sum(weights[n].nbytes for n in ("gu", "dn")) + (
        weights["bg"].nbytes + weights["bd"].nbytes if fused else 0
    )


def test_the_operator_is_read() -> None:
    (experts,) = find_experts(operator_model(k=1).graph).experts
    assert (experts.k, experts.count, experts.is_operator) == (1, 4, True)
    assert experts.logits.name == "r"
    assert [s.readers[0][1] for s in experts.stacks] == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"activation": "tanh"}, "activation 'tanh' is not known"),
        ({"activation": "swiglu", "swiglu_fusion": 0}, "separate weights"),
        ({"use_sparse_mixer": 1}, "sparse mixer"),
        ({"operator": "QMoE"}, "quantized already"),
    ],
)
def test_what_the_operator_may_be_that_is_not_read(change: dict[str, str], reason: str) -> None:
    found = find_experts(operator_model(**change).graph)
    assert not found.experts
    (said,) = found.unread.values()
    assert reason in said


def broken(edit: str) -> onnx_ir.Model:
    """Return a model in which something else reads, or makes, what routes."""
    model = moe_model(random_weights())
    values = {v.name: v for node in model.graph for v in node.outputs}
    if edit == "index":
        node = onnx_ir.node("Mul", [values["j"], values["j"]], name="extra")
        values["j"].producer().graph.insert_after(values["j"].producer(), node)
    elif edit == "scores":
        node = onnx_ir.node(
            "CumSum", [values["p"], model.graph.initializers["c_one"]], name="extra"
        )
        values["p"].producer().graph.insert_after(values["p"].producer(), node)
    elif edit == "shared":
        gathered = onnx_ir.node("Neg", [model.graph.initializers["dn"]], name="extra")
        model.graph.append(gathered)
    elif edit == "output":
        model.graph.outputs.append(values["p"])
    return model


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        ("index", "Mul 'extra' reads which experts were chosen"),
        ("scores", "CumSum 'extra' reads the router's scores"),
        ("shared", "'dn' is also read by others"),
        ("output", "'p' are an output of the model"),
    ],
)
def test_what_else_depends_on_the_router_is_said(edit: str, reason: str) -> None:
    found = find_experts(broken(edit).graph)
    assert not found.experts
    (said,) = found.unread.values()
    assert reason in said


def test_other_things_that_are_picked_are_no_experts() -> None:
    text = "(float[N,5] x) => (float[N,2] y) { v, e = TopK(x, k) y = Identity(v) }"
    found = find_experts(build(text, {"k": np.array([2])}).graph)
    assert not found.experts
    assert not found.unread


def test_experts_behind_masks_are_named() -> None:
    text = "(float[N,5] x) => (float[N,2,5] y) { v, e = TopK(x, k) y = OneHot(e, d, o) }"
    constants = {"k": np.array([2]), "d": np.array(5), "o": np.array([0, 1], np.float32)}
    (said,) = find_experts(build(text, constants).graph).unread.values()
    assert "turns the chosen into masks" in said
