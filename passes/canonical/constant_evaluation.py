"""Evaluate nodes that depend on constants only, all in one session, and check them against ONNX's reference."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, cast

import numpy as np
import onnx
import onnx_ir
from onnx import helper
from onnx.reference import ReferenceEvaluator

from whet.ir.execute import CannotRun, Executor
from whet.ir.values import Array, constant
from whet.passes.base import Fidelity
from whet.passes.proof import compare

__all__ = ["Evaluation", "evaluate"]

_EMBED = 256
"""Constants of up to this many elements become part of the model; larger ones are fed, which copies nothing."""
_COARSE = {"float16": 4e-3, "bfloat16": 3e-2}
"""Rounding of types in which the two executors accumulate differently."""

_Values = dict[onnx_ir.Value, Array]
_Engine = Callable[[onnx.ModelProto, dict[str, Array], list[str]], list[Array]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A result, or why there is none; an empty ``oracle`` says that nothing has confirmed the result yet."""

    array: Array | None = None
    reason: str = ""
    oracle: str = ""


def evaluate(
    model: onnx_ir.Model,
    nodes: Sequence[onnx_ir.Node],
    results: Sequence[onnx_ir.Value],
    *,
    prove: bool,
) -> dict[onnx_ir.Value, Evaluation]:
    """Return ``results``, computed by ``nodes`` (in topological order) from constants.

    ONNX Runtime computes; with ``prove`` the reference implementation computes again and must agree: bit by bit for
    integers, up to rounding for floats.
    """
    found = _run(model, nodes, results, _by_runtime)
    again = _run(model, nodes, results, _by_reference) if prove else found
    oracle = "reference" if prove else "not proven"
    return {value: _judge(found.get(value), again.get(value), oracle) for value in results}


def _judge(found: Array | None, again: Array | None, oracle: str) -> Evaluation:
    if found is None:
        return Evaluation(reason="ONNX Runtime cannot compute it")
    if again is None:
        return Evaluation(found)
    error = compare(found, again)
    if error > _COARSE.get(found.dtype.name, Fidelity.ROUNDING.tolerance):
        return Evaluation(reason=f"ONNX Runtime and the reference differ by {error:.3g}")
    return Evaluation(found, oracle=oracle)


def _run(
    model: onnx_ir.Model,
    nodes: Sequence[onnx_ir.Node],
    results: Sequence[onnx_ir.Value],
    engine: _Engine,
) -> _Values:
    """Run all nodes at once, or one by one where that fails; a node that fails alone has no results."""
    try:
        return _batch(model, nodes, results, engine, {})
    except CannotRun:
        pass
    known: _Values = {}
    for node in nodes:
        outputs = [value for value in node.outputs if value.name]
        try:
            known.update(_batch(model, [node], outputs, engine, known))
        except CannotRun:
            continue
    return known


def _batch(
    model: onnx_ir.Model,
    nodes: Sequence[onnx_ir.Node],
    results: Sequence[onnx_ir.Value],
    engine: _Engine,
    known: _Values,
) -> _Values:
    made = {value for node in nodes for value in node.outputs}
    graph = onnx.GraphProto(name="constants")
    feeds: dict[str, Array] = {}
    for value in dict.fromkeys(v for node in nodes for v in node.inputs if v is not None):
        if value not in made:
            _provide(value, known.get(value), graph, feeds)
    graph.node.extend([onnx_ir.serde.serialize_node(node) for node in nodes])
    names = [value.name or "" for value in results]
    graph.output.extend([onnx.ValueInfoProto(name=name) for name in names])
    opsets = [helper.make_opsetid(d, v) for d, v in sorted(model.graph.opset_imports.items())]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version)
    return dict(zip(results, engine(proto, feeds, names), strict=True))


def _provide(
    value: onnx_ir.Value, array: Array | None, graph: onnx.GraphProto, feeds: dict[str, Array]
) -> None:
    """Make a value from outside the batch an initializer or an input."""
    found = constant(value) if array is None else array
    tensor, name = value.const_value, value.name or ""
    if found is None:
        raise CannotRun(f"'{name}' could not be computed")
    if tensor is not None and tensor.size <= _EMBED:
        weight = onnx_ir.serde.serialize_tensor(tensor)
        weight.name = name
        graph.initializer.append(weight)
        return
    kind = helper.np_dtype_to_tensor_dtype(found.dtype) if tensor is None else int(tensor.dtype)
    graph.input.append(helper.make_tensor_value_info(name, kind, list(found.shape)))
    feeds[name] = found


def _by_runtime(proto: onnx.ModelProto, feeds: dict[str, Array], names: list[str]) -> list[Array]:
    return Executor(proto).run(feeds, names)


def _by_reference(proto: onnx.ModelProto, feeds: dict[str, Array], names: list[str]) -> list[Array]:
    try:
        with np.errstate(all="ignore"):
            found = cast("list[Any]", ReferenceEvaluator(proto).run(names, feeds))
    except Exception as error:
        raise CannotRun(str(error)) from error
    return [np.asarray(item) for item in found]
