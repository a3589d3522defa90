"""What a layer of experts does on calibration data: what goes where, and what all experts make of the same tokens."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx
import onnx_ir
from onnx import helper
from scipy.special import erf, expit, softmax

from whet.analysis.activations import first_samples, observe
from whet.analysis.experts import Experts
from whet.errors import Mismatch
from whet.ir.execute import CannotRun, Executor
from whet.ir.values import (
    Array,
    attribute_float,
    attribute_int,
    attribute_string,
    is_constant,
    is_op,
)
from whet.passes.workbench import Workbench

__all__ = ["Behaviour", "behaviour", "inner_values"]

_MOST_NUMBERS = 1 << 24
"""Outputs of all experts that are kept."""
_TOGETHER = 64
"""Samples that are watched in one run."""
_MOST_ROWS = 1 << 12
"""So many rows are enough."""
_MOVES = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Cast", "Identity")
_PRODUCTS = ("MatMul", "Gemm", "Einsum")
_ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "relu": lambda v: np.maximum(v, 0),
    "gelu": lambda v: np.asarray(v * (1 + erf(v / np.sqrt(2))) / 2),
    "silu": lambda v: np.asarray(v * expit(v)),
    "identity": lambda v: v,
}


@dataclasses.dataclass(frozen=True)
class Behaviour:
    """Rows are tokens that were routed to one expert, one row for each of the k."""

    logits: Array
    """``[tokens, experts]``"""
    counts: Array
    """How many tokens chose each of the router's experts."""
    chosen: Array
    """The stored expert of each row."""
    weights: Array
    """What each row counts in the sum; ones where that is not known."""
    hidden: Array
    """What the hidden units of the chosen expert are, ``[rows, units]``."""
    outputs: Array
    """``[stored experts, rows, channels]``: what every expert would make of each row; empty where not asked for."""


def behaviour(experts: Experts, work: Workbench, *, outputs: bool = False) -> Behaviour:
    """Watch a layer on some calibration samples; raises Mismatch, CannotRun."""
    parts: list[Behaviour] = []
    count, numbers = 0, 0
    watch = _operator if experts.is_operator else _plain
    for batch in work.context.calibration:
        feeds = first_samples(work.model, batch, _TOGETHER)
        parts.append(watch(experts, work, feeds, outputs))
        count += len(parts[-1].chosen)
        numbers += parts[-1].outputs.size
        if count >= _MOST_ROWS or numbers > _MOST_NUMBERS:
            break
    return Behaviour(
        logits=np.concatenate([p.logits for p in parts]),
        counts=np.sum([p.counts for p in parts], 0),
        chosen=np.concatenate([p.chosen for p in parts]),
        weights=np.concatenate([p.weights for p in parts]),
        hidden=np.concatenate([p.hidden for p in parts]),
        outputs=np.concatenate([p.outputs for p in parts], 1),
    )


def inner_values(experts: Experts) -> tuple[list[onnx_ir.Node], onnx_ir.Value]:
    """Return the nodes from the lookups to the result, and the value of the hidden units.

    That is what the last product reads apart from a weight.
    """
    graph = experts.node.graph
    lookups = {node for stack in experts.stacks for node, _ in stack.readers}
    below = set(lookups)
    for node in graph or ():
        if any(v is not None and v.producer() in below for v in node.inputs):
            below.add(node)
    above: set[onnx_ir.Node] = set()
    waiting = [experts.result.producer()]
    while waiting:
        maker = waiting.pop()
        if maker is not None and maker in below and maker not in above:
            above.add(maker)
            waiting.extend(v.producer() for v in maker.inputs if v is not None)
    nodes = [node for node in graph or () if node in above]
    return nodes, _hidden(nodes, lookups)


def _hidden(nodes: Sequence[onnx_ir.Node], lookups: set[onnx_ir.Node]) -> onnx_ir.Value:
    """Return the operand of the last product that depends on data."""
    weights = {v for node in nodes if node in lookups for v in node.outputs}
    for node in nodes:
        read = [v for v in node.inputs if v is not None and not is_constant(v)]
        if node not in lookups and all(v in weights for v in read):
            weights.update(node.outputs)
    for node in reversed(nodes):
        if is_op(node, *_PRODUCTS):
            data = [v for v in node.inputs if v is not None and v not in weights]
            if len(data) == 1 and data[0].producer() in nodes:
                return data[0]
    raise Mismatch("the experts' last product is not understood")


def _row_weights(experts: Experts) -> onnx_ir.Value | None:
    """Return what the experts' results are multiplied with."""
    value = experts.result
    while True:
        readers = list(value.consumers())
        if len(readers) != 1:
            return None
        if is_op(readers[0], "Mul"):
            return next((v for v in readers[0].inputs if v is not value), None)
        if not is_op(readers[0], *_MOVES):
            return None
        value = readers[0].outputs[0]


def _plain(
    experts: Experts, work: Workbench, feeds: Mapping[str, Array], outputs: bool
) -> Behaviour:
    """Watch a layer of plain operators; other experts are asked by handing the lookups other numbers."""
    nodes, hidden = inner_values(experts)
    made = {v for node in nodes for v in node.outputs}
    read = dict.fromkeys(v for n in nodes for v in n.inputs if v is not None and v not in made)
    border = [v for v in read if not is_constant(v)]
    indices = {n.inputs[1] for stack in experts.stacks for n, _ in stack.readers}
    weights, picked = _row_weights(experts), experts.node.outputs[1]
    wanted = [*border, experts.logits, picked, hidden, *([weights] if weights else [])]
    names = list(dict.fromkeys(v.name or "" for v in wanted))
    seen = dict(observe(work.model, names, [feeds], threads=work.context.threads, chunk=len(names)))
    assert experts.index is not None
    chosen = seen[experts.index.name or ""].reshape(-1)
    rows = len(chosen)
    held = seen[hidden.name or ""]
    if held.size % max(rows, 1):
        raise Mismatch(f"'{hidden.name}' has no row for each chosen expert")
    answers = np.zeros((experts.stored, rows, 0), np.float32)
    if outputs:
        run = _Apart(experts, nodes, border, work)
        found: list[Array] = []
        for expert in range(experts.stored):
            given = {v.name or "": seen[v.name or ""] for v in border}
            for value in indices:
                name = "" if value is None else value.name or ""
                given[name] = np.full_like(given[name], expert)
            found.append(run(given).reshape(rows, -1))
        answers = np.stack(found)
    factors = seen[weights.name or ""].reshape(-1) if weights is not None else np.ones(rows)
    return Behaviour(
        seen[experts.logits.name or ""].reshape(-1, experts.count),
        np.bincount(seen[picked.name or ""].reshape(-1), minlength=experts.count),
        chosen,
        factors if factors.size == rows else np.ones(rows),
        held.reshape(rows, -1),
        answers,
    )


class _Apart:
    """Run the nodes from the lookups to the result on their own."""

    def __init__(
        self,
        experts: Experts,
        nodes: Sequence[onnx_ir.Node],
        border: Sequence[onnx_ir.Value],
        work: Workbench,
    ) -> None:
        constants = dict.fromkeys(
            v for node in nodes for v in node.inputs if v is not None and is_constant(v)
        )
        weights: list[onnx.TensorProto] = []
        for value in constants:
            assert value.const_value is not None
            tensor = onnx_ir.serde.serialize_tensor(value.const_value)
            tensor.name = value.name or ""
            weights.append(tensor)
        self._name = experts.result.name or ""
        graph = helper.make_graph(
            [onnx_ir.serde.serialize_node(node) for node in nodes],
            "experts",
            [_declared(value) for value in border],
            [_declared(experts.result)],
            weights,
        )
        imports = work.graph.opset_imports.items()
        proto = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(d, v) for d, v in imports],
            ir_version=work.model.ir_version,
        )
        self._executor = Executor(proto, threads=work.context.threads)

    def __call__(self, feeds: Mapping[str, Array]) -> Array:
        return self._executor.run(dict(feeds), [self._name])[0]


def _declared(value: onnx_ir.Value) -> onnx.ValueInfoProto:
    if value.dtype is None:
        raise CannotRun(f"the type of '{value.name}' is not known")
    return helper.make_tensor_value_info(value.name or "", int(value.dtype), None)


def _operator(
    experts: Experts, work: Workbench, feeds: Mapping[str, Array], outputs: bool
) -> Behaviour:
    """Watch ORT's operator; what it does is computed here."""
    node = experts.node
    data, scores = node.inputs[0], node.inputs[1]
    assert data is not None
    assert scores is not None
    names = list(dict.fromkeys(v.name or "" for v in (data, scores, experts.logits)))
    seen = dict(observe(work.model, names, [feeds], threads=work.context.threads))
    rows = seen[data.name or ""].astype(np.float32)
    rows = np.repeat(rows.reshape(-1, rows.shape[-1]), experts.k, 0)
    said = seen[scores.name or ""].reshape(-1, experts.count).astype(np.float32)
    picked = np.argsort(-said, 1, kind="stable")[:, : experts.k]
    weights = np.take_along_axis(softmax(said, 1), picked, 1)
    if attribute_int(node, "normalize_routing_weights", 0):
        weights = weights / weights.sum(1, keepdims=True)
    chosen = picked.reshape(-1)
    hidden = np.zeros((len(rows), 0), np.float32)
    answers: list[Array] = []
    for expert in range(experts.count):
        inner, answer = _compute(experts, expert, rows)
        if not hidden.size:
            hidden = np.zeros_like(inner)
        hidden[chosen == expert] = inner[chosen == expert]
        answers.append(answer if outputs else answer[:, :0])
    return Behaviour(
        seen[experts.logits.name or ""].reshape(-1, experts.count),
        np.bincount(chosen, minlength=experts.count),
        chosen,
        weights.reshape(-1),
        hidden,
        np.stack(answers),
    )


def _compute(experts: Experts, expert: int, rows: Array) -> tuple[Array, Array]:
    """Return the hidden units and the output of one expert of ORT's operator."""
    weights = {s.readers[0][1]: s.array[expert].astype(np.float32) for s in experts.stacks}
    node = experts.node
    inner = rows @ weights[2].T + weights.get(3, np.float32(0))
    kind = attribute_string(node, "activation_type", "relu")
    if kind == "swiglu":
        hidden = _swiglu(node, inner)
    else:
        hidden = _ACTIVATIONS[kind](inner)
    if 6 in weights:
        hidden = hidden * (rows @ weights[6].T + weights.get(7, np.float32(0)))
    return hidden, hidden @ weights[4].T + weights.get(5, np.float32(0))


def _swiglu(node: onnx_ir.Node, inner: Array) -> Array:
    fused = attribute_int(node, "swiglu_fusion", 0) == 1
    gate, up = (inner[:, ::2], inner[:, 1::2]) if fused else np.split(inner, 2, 1)
    most = attribute_float(node, "swiglu_limit", np.inf)
    low = np.minimum(gate, most).astype(np.float32)
    high = np.clip(up, -most, most).astype(np.float32)
    slope = np.float32(attribute_float(node, "activation_alpha", 1.0))
    shift = np.float32(attribute_float(node, "activation_beta", 0.0))
    return np.asarray(low * expit(slope * low) * (high + shift))
