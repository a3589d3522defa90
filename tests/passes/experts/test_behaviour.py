import numpy as np
import pytest
from moe import context
from operators import operator_model

from whet.analysis.activations import observe
from whet.analysis.experts import find_experts
from whet.passes.experts.behaviour import behaviour, inner_values
from whet.passes.experts.drop_experts import DropExperts
from whet.passes.workbench import Workbench
from whet.tools.bench.experts_model import moe_model, random_weights


@pytest.mark.parametrize("fused", [True, False])
def test_all_experts_are_asked_for_all_tokens(fused: bool) -> None:
    weights = random_weights(biases=fused)
    model = moe_model(weights, fused=fused)
    (experts,) = find_experts(model.graph).experts
    work = Workbench(model, DropExperts(), context())
    seen = behaviour(experts, work, outputs=True)
    tokens = np.concatenate([batch["x"] for batch in work.context.calibration])
    assert seen.logits.shape == (48, 4)
    assert seen.outputs.shape == (4, 96, 8)
    assert seen.counts.sum() == 96
    assert np.array_equal(np.bincount(seen.chosen, minlength=4), seen.counts)
    assert np.allclose(seen.weights.reshape(-1, 2).sum(1), 1)
    rows = np.repeat(tokens, 2, 0)
    for expert in range(4):
        inner = rows @ weights["gu"][expert].T + (weights["bg"][expert] if fused else 0)
        gate, up = np.split(inner, 2, 1)
        hidden = gate / (1 + np.exp(-gate)) * up
        answer = hidden @ weights["dn"][expert].T + (weights["bd"][expert] if fused else 0)
        assert np.allclose(seen.outputs[expert], answer, atol=1e-5)
        mine = seen.chosen == expert
        assert np.allclose(seen.hidden[mine], hidden[mine], atol=1e-5)


def test_the_hidden_units_are_what_the_last_product_reads() -> None:
    (experts,) = find_experts(moe_model(random_weights()).graph).experts
    nodes, hidden = inner_values(experts)
    assert hidden.name == "hu"
    assert nodes[0].op_type == "Gather"
    assert nodes[-1].outputs[0].name == "o"


@pytest.mark.parametrize("activation", ["relu", "silu", "gelu", "identity", "swiglu"])
@pytest.mark.parametrize("normalize", [0, 1])
def test_the_operator_is_computed_as_the_runtime_does(activation: str, normalize: int) -> None:
    model = operator_model(activation, normalize=normalize)
    (experts,) = find_experts(model.graph).experts
    work = Workbench(model, DropExperts(), context())
    seen = behaviour(experts, work, outputs=True)
    answers = seen.outputs[seen.chosen, np.arange(len(seen.chosen))]
    mixed = (answers * seen.weights[:, None]).reshape(-1, 2, 8).sum(1)
    real = np.concatenate([a for _, a in observe(model, ["m"], work.context.calibration)])
    assert np.allclose(mixed, real, atol=2e-3 if activation == "gelu" else 1e-5)
