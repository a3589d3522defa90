"""Bring a model into the one form that passes expect."""

from collections.abc import Iterable, Iterator

import numpy as np
import onnx_ir
from onnx_ir.passes.common import InlinePass

from whet.errors import UnsupportedModel
from whet.ir.shapes import infer_shapes

__all__ = ["infer_shapes", "inline_functions", "lift_constants", "name_everything", "normalize"]

INITIALIZERS_ARE_INPUTS_BELOW = 4
"""Below this IR version every initializer had to be listed as an input as well."""


def normalize(model: onnx_ir.Model) -> onnx_ir.Model:
    """Bring ``model`` into the form that passes expect, in place.

    Afterwards there are no model-local functions; constants are initializers (but for those that
    are graph outputs); every node has a name of its own and every value a name that no other value
    in any graph has; absent trailing inputs are gone; every extension domain in use is imported;
    shapes and types are inferred. Names of inputs, outputs and weights of the main graph stay.
    """
    inline_functions(model)
    import_domains(model)
    free_initializers(model)
    name_everything(model)
    lift_constants(model)
    _trim_inputs(model)
    return infer_shapes(model, trust=False)


def inline_functions(model: onnx_ir.Model) -> None:
    """Replace every call of a model-local function by its body, then drop the functions."""
    if not model.functions:
        return
    try:
        InlinePass()(model)
    except (ValueError, onnx_ir.passes.PassError) as error:
        cause = error.__cause__ or error
        raise UnsupportedModel(f"a model-local function cannot be inlined: {cause}") from error
    model.functions.clear()


def import_domains(model: onnx_ir.Model) -> None:
    """Import, in version 1, the extension domains that nodes use without an import, as ONNX Runtime does."""
    for node in _nodes(model):
        if node.domain not in ("", "ai.onnx"):
            model.graph.opset_imports.setdefault(node.domain, 1)


def free_initializers(model: onnx_ir.Model) -> None:
    """Take initializers out of the inputs where the IR version had forced them to be there.

    From IR version 4 on such an input is a default value that a caller may override: it stays.
    """
    if model.ir_version >= INITIALIZERS_ARE_INPUTS_BELOW:
        return
    for graph in model.graphs():
        fed = [value for value in graph.inputs if not value.is_initializer()]
        graph.inputs.clear()
        graph.inputs.extend(fed)
    model.ir_version = INITIALIZERS_ARE_INPUTS_BELOW


def name_everything(model: onnx_ir.Model) -> None:
    """Give every node and every value a unique, non-empty name; the order of the graph decides."""
    _name_values(model)
    taken: set[str] = set()
    for node in _nodes(model):
        node.name = _fresh(node.name or f"{node.op_type}_{_first_output(node)}", taken)


def lift_constants(model: onnx_ir.Model) -> int:
    """Turn Constant nodes into initializers of the graph they are in; return how many.

    A constant that is a graph output stays: an initializer may not be one everywhere.
    """
    lifted = 0
    for node in list(_nodes(model)):
        if node.op_type != "Constant" or node.domain not in ("", "ai.onnx"):
            continue
        tensor = None if node.outputs[0].is_graph_output() else _constant(node)
        if tensor is not None:
            _lift(node, tensor)
            lifted += 1
    return lifted


def _lift(node: onnx_ir.Node, tensor: onnx_ir.TensorProtocol) -> None:
    graph, output = node.graph, node.outputs[0]
    assert isinstance(graph, onnx_ir.Graph)
    weight = onnx_ir.Value(
        name=output.name,
        shape=onnx_ir.Shape(tensor.shape.numpy()),
        type=onnx_ir.TensorType(tensor.dtype),
        const_value=tensor,
        metadata_props=dict(output.metadata_props),
    )
    weight.meta.update(output.meta)
    output.replace_all_uses_with(weight)
    graph.remove(node, safe=True)
    graph.register_initializer(weight)


def _constant(node: onnx_ir.Node) -> onnx_ir.TensorProtocol | None:
    """Return the value of a Constant node, or None when only a call of its function fixes it."""
    if len(node.attributes) != 1:
        return None
    (attribute,) = node.attributes.values()
    if attribute.is_ref():
        return None
    match attribute.name:
        case "value":
            return attribute.as_tensor()
        case "value_int" | "value_ints":
            return onnx_ir.tensor(np.asarray(attribute.value, dtype=np.int64))
        case "value_float" | "value_floats":
            return onnx_ir.tensor(np.asarray(attribute.value, dtype=np.float32))
        case "value_string":
            return _strings([attribute.as_string()], ())
        case "value_strings":
            return _strings(list(attribute.as_strings()), (len(attribute.as_strings()),))
        case _:
            return None


def _strings(texts: list[str], shape: tuple[int, ...]) -> onnx_ir.StringTensor:
    return onnx_ir.StringTensor([t.encode() for t in texts], shape=onnx_ir.Shape(shape))


def _trim_inputs(model: onnx_ir.Model) -> None:
    for node in _nodes(model):
        count = len(node.inputs)
        while count and node.inputs[count - 1] is None:
            count -= 1
        if count < len(node.inputs):
            node.resize_inputs(count)


def _nodes(model: onnx_ir.Model) -> Iterator[onnx_ir.Node]:
    return iter(onnx_ir.traversal.RecursiveGraphIterator(model.graph))


def _name_values(model: onnx_ir.Model) -> None:
    kept = [*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()]
    taken: set[str] = set()
    done: set[onnx_ir.Value] = set()
    _name_each(kept, done, taken)
    fixed = {value for value in _named_by_operator(model) if value.name} - done
    taken |= {value.name or "" for value in fixed}
    _name_each(_inner_values(model), done | fixed, taken)


def _name_each(values: Iterable[onnx_ir.Value], done: set[onnx_ir.Value], taken: set[str]) -> None:
    for value in values:
        if value in done:
            continue
        done.add(value)
        name = _fresh(value.name or "value", taken)
        if name != value.name:
            value.name = name


def _named_by_operator(model: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    """Yield inputs and outputs of subgraphs whose names an operator of another domain may read."""
    for node in _nodes(model):
        if node.domain not in ("", "ai.onnx"):
            for attribute in node.attributes.values():
                if attribute.type == onnx_ir.AttributeType.GRAPH and not attribute.is_ref():
                    yield from attribute.as_graph().inputs
                    yield from attribute.as_graph().outputs


def _inner_values(model: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    for graph in model.graphs():
        yield from graph.inputs
        yield from graph.initializers.values()
        for node in graph:
            # An output without a name and without uses is an optional output left out.
            yield from (v for v in node.outputs if v.name or v.uses() or v.is_graph_output())


def _first_output(node: onnx_ir.Node) -> str:
    return next((v.name for v in node.outputs if v.name), "")


def _fresh(name: str, taken: set[str]) -> str:
    """Return ``name``, or the first of ``name_1``, ``name_2``, … that is not taken; take it."""
    candidate, number = name, 0
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    taken.add(candidate)
    return candidate
