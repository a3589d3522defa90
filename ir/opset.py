"""Raise a model's opset without changing what it computes."""

from collections.abc import Iterator

import onnx
import onnx_ir
from onnx import defs, helper

from whet.errors import Mismatch
from whet.ir.opset_adapters import ADAPTERS, Edit
from whet.ir.order import copy_model
from whet.ir.prepare import free_initializers
from whet.ir.shapes import infer_shapes

OLDEST = 7
"""Below this opset broadcasting was spelled out by attributes; such models keep their opset."""

LAST_WITH_ALL_KERNELS = 21
"""The newest opset that has no operator whose older version ONNX Runtime runs but whose own not."""

EARLY = frozenset({"LayerNormalization"})
"""Operators that ONNX Runtime had in the default domain, with the same meaning, before ONNX did."""

OPSET_KEPT = "whet.opset_kept"
"""Key in ``model.meta`` of the reason why a model did not get the opset that was asked for."""


def raise_opset(model: onnx_ir.Model, to: int = 23) -> onnx_ir.Model:
    """Return ``model`` with the default domain at opset ``to``.

    A model that is there already, or beyond, is returned as it is. Otherwise the result is a copy
    that shares the weights. When an operator's meaning cannot be kept, or ONNX Runtime would not
    run it any more, the copy is at opset 21 or, failing that, ``model`` itself is returned; the
    reason is in ``meta[OPSET_KEPT]`` of what is returned.
    """
    reason = ""
    for target in sorted({to, min(to, LAST_WITH_ALL_KERNELS)}, reverse=True):
        if all(version >= target for version in _opsets(model)):
            break
        raised = copy_model(model)
        try:
            _raise(raised, target)
        except Mismatch as mismatch:
            reason = reason or str(mismatch)
            continue
        if reason:
            raised.meta[OPSET_KEPT] = reason
        return raised
    if reason:
        model.meta[OPSET_KEPT] = reason
    return model


def _opsets(model: onnx_ir.Model) -> Iterator[int]:
    for imports in (model.opset_imports, *(f.opset_imports for f in model.functions.values())):
        version = _opset(imports)
        if version is not None:
            yield version


def _opset(imports: dict[str, int]) -> int | None:
    return imports.get("", imports.get("ai.onnx"))


def _raise(model: onnx_ir.Model, to: int) -> None:
    free_initializers(model)
    infer_shapes(model, trust=False)
    edit = Edit(model)
    for body in (model.graph, *(f.graph for f in model.functions.values())):
        version = _opset(body.opset_imports)
        if version is not None and version < to:
            _raise_body(body, version, to, edit)
            body.opset_imports.pop("ai.onnx", None)
            body.opset_imports[""] = to
    known = onnx.helper.find_min_ir_version_for([helper.make_opsetid("", to)], ignore_unknown=True)
    model.ir_version = max(model.ir_version, known)


def _raise_body(body: onnx_ir.Graph, version: int, to: int, edit: Edit) -> None:
    if version < OLDEST:
        raise Mismatch(f"opset {version} is older than {OLDEST}")
    nodes = [n for n in _nodes(body) if n.domain in ("", "ai.onnx")]
    for node in nodes:
        _check_known(node, version, to)
    for step in range(version + 1, to + 1):
        for node in nodes:
            adapter = ADAPTERS.get((node.op_type, step))
            if adapter is not None:
                adapter(node, edit)
    for node in nodes:
        _check_schema(node, to)


def _nodes(body: onnx_ir.Graph) -> Iterator[onnx_ir.Node]:
    return iter(onnx_ir.traversal.RecursiveGraphIterator(body))


def _schema(op_type: str, version: int) -> defs.OpSchema | None:
    try:
        return defs.get_schema(op_type, version, "")
    except defs.SchemaError:
        return None


def _check_known(node: onnx_ir.Node, version: int, to: int) -> None:
    """Decline an operator that the old opset did not have but the new one does."""
    if node.op_type in EARLY:
        return
    if _schema(node.op_type, version) is None and _schema(node.op_type, to) is not None:
        raise Mismatch(
            f"{node.op_type} '{node.name}' is no operator of opset {version} but one of {to}"
        )


def _check_schema(node: onnx_ir.Node, to: int) -> None:
    """Decline what the new opset's schema does not allow."""
    schema = _schema(node.op_type, to)
    if schema is None:
        return
    place = f"{node.op_type} '{node.name}'"
    if schema.deprecated:
        raise Mismatch(f"{place} is deprecated in opset {to}")
    unknown = sorted(set(node.attributes) - set(schema.attributes))
    if unknown:
        raise Mismatch(f"{place} has attribute '{unknown[0]}', unknown in opset {to}")
    if not schema.min_input <= len(node.inputs) <= schema.max_input:
        raise Mismatch(
            f"{place} has {len(node.inputs)} inputs, opset {to} takes "
            f"{schema.min_input} to {schema.max_input}"
        )
    if len(node.outputs) > schema.max_output:
        raise Mismatch(f"{place} has {len(node.outputs)} outputs, opset {to} gives fewer")
