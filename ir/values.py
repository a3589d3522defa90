"""Read constants, shapes and attributes of the IR without repeating the null checks."""

from collections.abc import Iterator, Sequence

import onnx_ir

from whet.ir.array import Array

__all__ = [
    "Array",
    "attribute_float",
    "attribute_int",
    "attribute_ints",
    "attribute_string",
    "captured",
    "constant",
    "constant_ints",
    "dimensions",
    "initializers",
    "is_constant",
    "is_op",
    "rank",
    "static_shape",
    "subgraphs",
    "weight_bytes",
    "weight_count",
]


def is_op(node: onnx_ir.Node | None, *op_types: str, domain: str = "") -> bool:
    """Tell whether ``node`` is one of ``op_types`` of ``domain`` (the standard one by default)."""
    if node is None or node.op_type not in op_types:
        return False
    return node.domain == domain or (domain == "" and node.domain == "ai.onnx")


def is_constant(value: onnx_ir.Value | None) -> bool:
    """Tell whether the value is fixed: an initializer that no caller can override."""
    return value is not None and value.const_value is not None and not value.is_graph_input()


def constant(value: onnx_ir.Value | None) -> Array | None:
    """Return the array of a fixed value, or None. Lazy external data are mapped, not copied."""
    if value is None or value.const_value is None or value.is_graph_input():
        return None
    if value.const_value.dtype == onnx_ir.DataType.STRING:
        return None
    return value.const_value.numpy()


def constant_ints(value: onnx_ir.Value | None) -> tuple[int, ...] | None:
    """Return a fixed integer tensor, flattened, or None."""
    array = constant(value)
    if array is None or array.dtype.kind not in "iu":
        return None
    return tuple(int(item) for item in array.reshape(-1))


def rank(value: onnx_ir.Value | None) -> int | None:
    """Return the number of dimensions, if known."""
    return None if value is None or value.shape is None else len(value.shape)


def dimensions(value: onnx_ir.Value | None) -> tuple[int | str | None, ...] | None:
    """Return sizes: an int, a symbol's name, or None where nothing is known."""
    if value is None or value.shape is None:
        return None
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def static_shape(value: onnx_ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape if every dimension is a known number."""
    sizes = dimensions(value)
    if sizes is None or not all(isinstance(d, int) for d in sizes):
        return None
    return tuple(d for d in sizes if isinstance(d, int))


def attribute_int(node: onnx_ir.Node, name: str, default: int) -> int:
    """Return an integer attribute or its default."""
    found = node.attributes.get(name)
    return default if found is None else found.as_int()


def attribute_float(node: onnx_ir.Node, name: str, default: float) -> float:
    """Return a float attribute or its default."""
    found = node.attributes.get(name)
    return default if found is None else found.as_float()


def attribute_ints(
    node: onnx_ir.Node, name: str, default: Sequence[int] | None = None
) -> tuple[int, ...] | None:
    """Return a list-of-integers attribute or its default."""
    found = node.attributes.get(name)
    if found is None:
        return None if default is None else tuple(default)
    return tuple(found.as_ints())


def attribute_string(node: onnx_ir.Node, name: str, default: str) -> str:
    """Return a string attribute or its default."""
    found = node.attributes.get(name)
    return default if found is None else found.as_string()


def subgraphs(node: onnx_ir.Node) -> Iterator[onnx_ir.Graph]:
    """Yield the graphs that a node holds in its attributes (If, Loop, Scan), without those inside them."""
    for attribute in node.attributes.values():
        if attribute.is_ref():
            continue
        if attribute.type == onnx_ir.AttributeType.GRAPH:
            yield attribute.as_graph()
        elif attribute.type == onnx_ir.AttributeType.GRAPHS:
            yield from attribute.as_graphs()


def captured(node: onnx_ir.Node) -> Iterator[onnx_ir.Value]:
    """Yield what the graphs that a node holds read from outside of them."""
    for graph in subgraphs(node):
        parts = [graph, *graph.subgraphs()]
        own: set[onnx_ir.Value] = set()
        for part in parts:
            own.update(part.inputs)
            own.update(part.initializers.values())
            own.update(v for inner in part for v in inner.outputs)
        for part in parts:
            for inner in part:
                yield from (v for v in inner.inputs if v is not None and v not in own)
            yield from (v for v in part.outputs if v not in own)


def initializers(model: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    """Yield every initializer of the model, those of subgraphs included."""
    yield from model.graph.initializers.values()
    for graph in model.graph.subgraphs():
        yield from graph.initializers.values()


def weight_bytes(model: onnx_ir.Model) -> int:
    """Return the bytes of all initializers as stored."""
    return sum(v.const_value.nbytes for v in initializers(model) if v.const_value is not None)


def weight_count(model: onnx_ir.Model) -> int:
    """Return the number of elements in all initializers."""
    return sum(int(v.const_value.size) for v in initializers(model) if v.const_value is not None)
