"""Show what one rewrite breaks: its nodes alone, on the values that the model itself computes there.

The proof draws random numbers. A rewrite that fails only on larger ones, on ties, or on one sign passes it and breaks
the model all the same; the values that reach it there show the fault.
"""

import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import onnx_ir

from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun, Executor
from whet.ir.saving import save_model
from whet.ir.values import Array, constant
from whet.passes.base import Fidelity, Pass
from whet.passes.cut import Cut, name_of
from whet.passes.proof import Verdict, VerdictKind, compare, relative_error
from whet.passes.proposal import Proposal

__all__ = ["refute"]


def refute(
    model: onnx_ir.Model, proposal: Proposal, step: Pass, bindings: Bindings, seed: int
) -> Verdict | None:
    """Return the verdict that shows the fault, on the inputs that belong to ``seed``; None where both sides agree."""
    for choice, binding in enumerate(bindings.choices):
        try:
            verdict = _at(model, proposal, step, bindings, choice, seed)
        except CannotRun:
            continue
        if verdict.error > step.tolerance:
            reason = f"outputs differ by {verdict.error:.3g} on the model's own values, at {dict(binding)}"
            return Verdict(
                VerdictKind.REFUTED, reason, verdict.error, "as is", verdict.cut, verdict.feeds
            )
    return None


def _at(
    model: onnx_ir.Model,
    proposal: Proposal,
    step: Pass,
    bindings: Bindings,
    choice: int,
    seed: int,
) -> Verdict:
    """Execute both sides at one binding. Nothing upstream is cut out, since its results are known."""
    inputs = bindings.feeds(model, choice, seed)
    values = _values(model, _boundary(proposal), inputs)
    cut = Cut(proposal, bindings, values)
    cut.close()
    feeds = {name_of(v): values[name_of(v)] for v in cut.drawn}
    for value in cut.fed:
        array = constant(value)
        assert array is not None
        feeds[name_of(value)] = array
    proto = cut.proto(dict(model.graph.opset_imports), model.ir_version, wide=False)
    names = [f"{side}_{k}" for side in ("old", "new") for k in range(cut.pairs)]
    found = Executor(proto).run(feeds, names)
    measure = relative_error if step.fidelity is Fidelity.LOSSY else compare
    pairs = zip(found[: cut.pairs], found[cut.pairs :], strict=True)
    error = max((measure(old, new) for old, new in pairs), default=0.0)
    return Verdict(VerdictKind.PROVEN, "", error, "as is", proto, feeds)


def _boundary(proposal: Proposal) -> list[onnx_ir.Value]:
    """Return the tensors that the nodes of both sides read and do not make themselves."""
    nodes = [*proposal.old, *proposal.new]
    made = {v for node in nodes for v in node.outputs}
    read = [v for node in nodes for v in node.inputs if v is not None]
    read += [new for _, new in proposal.outputs]
    return [
        v
        for v in dict.fromkeys(read)
        if v not in made
        and isinstance(v.type, onnx_ir.TensorType)
        and (v.const_value is None or v.is_graph_input())
    ]


def _values(
    model: onnx_ir.Model, wanted: Iterable[onnx_ir.Value], feeds: Mapping[str, Array]
) -> dict[str, Array]:
    """Run the model and return values inside it."""
    given = {v.name for v in model.graph.inputs}
    inner = [v for v in wanted if v.name not in given]
    found = {name_of(v): feeds[name_of(v)] for v in wanted if v.name in feeds}
    if inner:
        shown = model.clone()
        by_name = {v.name: v for node in shown.graph for v in node.outputs}
        shown.graph.outputs[:] = [by_name[v.name] for v in inner]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            save_model(shown, path)
            arrays = Executor(path).run(feeds, [name_of(v) for v in inner])
        found.update((name_of(v), array) for v, array in zip(inner, arrays, strict=True))
    return found
