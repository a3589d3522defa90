"""Prove and try a proposal before it is made."""

import onnx
import onnx_ir

from whet.passes.base import Failure, Fidelity
from whet.passes.proof import Prover, VerdictKind, save_reproducer
from whet.passes.proposal import Proposal
from whet.passes.workbench import Workbench

__all__ = ["model_with", "proven"]


def model_with(model: onnx_ir.Model, proposal: Proposal) -> onnx.ModelProto:
    """Return the model as it would be with a proposal made; the model itself is left as it is."""
    proto = onnx_ir.to_proto(model)
    graph = proto.graph
    turned = {old.name or "": new.name or "" for old, new in proposal.outputs}
    outputs = {value.name for value in graph.output}
    for node in graph.node:
        for k, name in enumerate(node.input):
            node.input[k] = turned.get(name, name)
    for node in graph.node:
        for k, name in enumerate(node.output):
            if name in turned and name in outputs:
                node.output[k] = f"{name}.replaced"
    graph.initializer.extend(_tensor(value) for value in proposal.initializers)
    graph.node.extend(onnx_ir.serde.serialize_node(node) for node in proposal.new)
    graph.node.extend(
        onnx.helper.make_node("Identity", [new], [old])
        for old, new in turned.items()
        if old in outputs
    )
    sorted_model = onnx_ir.from_proto(proto)
    sorted_model.graph.sort()
    return onnx_ir.to_proto(sorted_model)


def _tensor(value: onnx_ir.Value) -> onnx.TensorProto:
    assert value.const_value is not None
    proto = onnx_ir.serde.serialize_tensor(value.const_value)
    proto.name = value.name or ""
    return proto


def proven(comparison: Proposal, node: onnx_ir.Node, what: str, work: Workbench) -> bool:
    """Tell whether both sides of a comparison are the same but for rounding; record why not, or that they are."""
    exact = Fidelity.ROUNDING
    prover = Prover(work.model, work.context.bindings, work.context.seed)
    verdict = prover.check(comparison, exact, exact.tolerance)
    if verdict.kind is VerdictKind.PROVEN:
        work.coverage.proofs[what] += 1
        return True
    if verdict.kind is VerdictKind.OPEN:
        work.decline(node, f"cannot be proven: {verdict.reason}")
        return False
    place, site = "", node.name or node.op_type
    if work.context.reproducers is not None:
        name = f"{work.running.name}.{site}"
        place = str(save_reproducer(verdict, work.context.reproducers, name))
    reason = f"{what}: {verdict.reason}"
    work.coverage.failures.append(Failure(site, reason, verdict.error, place))
    return False
