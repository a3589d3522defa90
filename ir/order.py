"""Copy models, and put their nodes in an order in which they can run."""

from collections.abc import Iterator

import onnx_ir

from whet.errors import InvalidModel


def copy_model(model: onnx_ir.Model) -> onnx_ir.Model:
    """Copy the graph and share the weights; the nodes of the copy are sorted."""
    if is_sorted(model):
        try:
            return model.clone()
        except (RuntimeError, ValueError, KeyError) as error:
            raise InvalidModel(f"the graph is not valid: {root_cause(error)}") from error
    copy = onnx_ir.from_proto(onnx_ir.to_proto(model))
    for old, new in zip(model.graphs(), copy.graphs(), strict=True):
        for name, value in old.initializers.items():
            new.initializers[name].const_value = value.const_value
    sort_nodes(copy)
    return copy


def sort_nodes(model: onnx_ir.Model) -> None:
    """Put nodes after those they depend on: runtimes do not insist on it, the IR does."""
    for body in _bodies(model):
        if not _body_is_sorted(body):
            body.sort()


def is_sorted(model: onnx_ir.Model) -> bool:
    """Tell whether every node comes after those it depends on."""
    return all(_body_is_sorted(body) for body in _bodies(model))


def root_cause(error: BaseException) -> BaseException:
    """Return the first error of a chain."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _bodies(model: onnx_ir.Model) -> Iterator[onnx_ir.Graph]:
    yield model.graph
    yield from (function.graph for function in model.functions.values())


def _body_is_sorted(body: onnx_ir.Graph) -> bool:
    return all(_graph_is_sorted(graph) for graph in (body, *body.subgraphs()))


def _graph_is_sorted(graph: onnx_ir.Graph) -> bool:
    later = set(graph)
    for node in graph:
        if any(v is not None and v.producer() in later for v in _read_values(node)):
            return False
        later.remove(node)
    return True


def _read_values(node: onnx_ir.Node) -> Iterator[onnx_ir.Value | None]:
    yield from node.inputs
    for attribute in node.attributes.values():
        if attribute.type == onnx_ir.AttributeType.GRAPH and not attribute.is_ref():
            for inner in onnx_ir.traversal.RecursiveGraphIterator(attribute.as_graph()):
                yield from inner.inputs
