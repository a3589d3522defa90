import numpy as np
import onnx_ir
from moe import context, rows

from whet.analysis.experts import find_experts
from whet.ir.execute import Executor
from whet.passes.experts.copying import compared, dropped, masked, replaced
from whet.passes.experts.drop_experts import DropExperts
from whet.passes.experts.trials import model_with, proven
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench
from whet.tools.bench.experts_model import moe_model, random_weights

KEPT = np.array([0, 2, 3])


def test_a_trial_is_what_a_commit_makes() -> None:
    model = moe_model(random_weights())
    (experts,) = find_experts(model.graph).experts
    work = Workbench(model, DropExperts(), context())
    before = onnx_ir.to_proto(model).SerializeToString()
    proposal = replaced(dropped(experts, KEPT, work.builder(experts.node)))
    trial = model_with(model, proposal)
    assert onnx_ir.to_proto(model).SerializeToString() == before
    proposal.commit("test")
    feeds = rows(9, 5)
    one, other = (Executor(m).run(feeds)[0] for m in (trial, onnx_ir.to_proto(model)))
    assert np.array_equal(one, other)


def test_a_wrong_layer_is_refused() -> None:
    model = moe_model(random_weights())
    (experts,) = find_experts(model.graph).experts
    work = Workbench(model, DropExperts(), context())
    small = dropped(experts, KEPT, work.builder(experts.node))
    other = masked(experts, np.array([0, 1, 3]), work.builder(experts.node))
    assert not proven(compared(other, small), experts.node, "as with zeros", work)
    (failure,) = work.coverage.failures
    assert failure.site == experts.name
    assert failure.reason.startswith("as with zeros: outputs differ by")
    for made in (other, small):
        Proposal((), (), tuple(made.build.nodes)).discard()
