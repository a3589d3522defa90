"""Bind every dynamic dimension: memory can only be planned, and loops cut to tiles, for sizes that are known."""

from collections.abc import Mapping

import onnx_ir

from whet.backends.probe import check_sizes
from whet.errors import UsageError
from whet.ir.bindings import Binding, evaluate_dimension, symbols
from whet.ir.shapes import infer_shapes
from whet.ir.values import Array, dimensions

__all__ = ["fix_sizes"]


def fix_sizes(
    model: onnx_ir.Model, examples: Mapping[str, Array], sizes: Binding, target: str = "c"
) -> onnx_ir.Model:
    """Return a copy whose sizes are those the user gave, or those of the examples.

    Raises:
        UsageError: a dimension that neither knows, or a size of one that is not there.
    """
    names = symbols(model)
    check_sizes(sizes, names)
    if not names:
        return model
    known = {**_seen(model, examples), **sizes}
    missing = [n for n in names if n not in known]
    if missing:
        given = " ".join(f"--bind {n}=1" for n in missing)
        raise UsageError(
            f"target '{target}' plans all memory when it compiles, so every size must be known; the model leaves "
            f"{', '.join(repr(n) for n in missing)} open: bind it, such as {given}"
        )
    copy = model.clone()
    for graph in (copy.graph, *copy.graph.subgraphs()):
        for value in (*graph.inputs, *graph.outputs, *(v for n in graph for v in n.outputs)):
            _bind(value, known)
    return infer_shapes(copy)


def _bind(value: onnx_ir.Value, known: Binding) -> None:
    found = dimensions(value)
    if found is None:
        return
    sizes: list[int | str | None] = []
    for axis, size in enumerate(found):
        key = f"{value.name}.{axis}"
        sizes.append(known.get(key) if size is None else (evaluate_dimension(size, known) or size))
    value.shape = onnx_ir.Shape(sizes)


def _seen(model: onnx_ir.Model, examples: Mapping[str, Array]) -> dict[str, int]:
    """Return the sizes of the examples."""
    found: dict[str, int] = {}
    for value in model.graph.inputs:
        example = examples.get(value.name or "")
        for axis, size in enumerate(dimensions(value) or ()):
            if example is not None and not isinstance(size, int) and axis < example.ndim:
                found[size or f"{value.name}.{axis}"] = int(example.shape[axis])
    return found
