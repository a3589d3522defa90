"""What is known about a model of fixed sizes: shapes, types, constants, and what it computes on one set of inputs."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir

from whet.analysis.activations import open_at
from whet.errors import UnsupportedTarget
from whet.ir.bindings import Bindings
from whet.ir.execute import CannotRun, newest_ir_version
from whet.ir.values import Array, constant, is_constant, is_op

__all__ = ["Facts", "observe"]

_RANDOM = {
    "RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Multinomial", "Bernoulli",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Facts:
    """The model, seen once while it ran on ``feeds`` in ONNX Runtime with all optimizations off."""

    model: onnx_ir.Model
    feeds: Mapping[str, Array]
    seen: Mapping[onnx_ir.Value, Array]
    """Every value that is computed."""
    fixed: frozenset[onnx_ir.Value]
    """Values that do not depend on the inputs."""
    expected: Sequence[Array]
    """What the model computes. With Q and DQ in it, by the runtime's integer kernels, which round where integers are
    rounded; sums of floats, one of which falls on the other side of a tie, drift apart from there on."""

    def array(self, value: onnx_ir.Value) -> Array:
        """Return what a value was, or its constant."""
        if value in self.seen:
            return self.seen[value]
        if value.is_graph_input() and value.name in self.feeds:
            return self.feeds[value.name or ""]
        found = constant(value)
        assert found is not None
        return found

    def known(self, value: onnx_ir.Value | None) -> Array | None:
        """Return the elements of a value that does not depend on the inputs; None for all others."""
        if value is None or not (is_constant(value) or value in self.fixed):
            return None
        return self.array(value)


def observe(
    model: onnx_ir.Model, examples: Mapping[str, Array], seed: int, target: str = "c"
) -> Facts:
    """Run the model once with every value handed out; inputs are the examples, or drawn.

    Raises:
        UnsupportedTarget: ONNX Runtime, the reference here, does not run it.
    """
    feeds = Bindings(({},), examples).feeds(model, 0, seed)
    values = [v for node in model.graph for v in node.outputs if v.name]
    if not values:
        return Facts(
            model, feeds, {}, frozenset(), [feeds[v.name or ""] for v in model.graph.outputs]
        )
    readable = model.clone()
    readable.ir_version = min(model.ir_version, newest_ir_version())
    try:
        arrays = open_at(readable, [v.name or "" for v in values], 1, optimization="none").run(
            feeds
        )
    except CannotRun as error:
        raise UnsupportedTarget(
            f"target '{target}' takes shapes and expected outputs from ONNX Runtime, which refuses the model: {error}"
        ) from error
    seen = {v: np.asarray(a) for v, a in zip(values, arrays, strict=True)}
    found = Facts(model, feeds, seen, _fixed(model), ())
    expected = [found.array(v) for v in model.graph.outputs]
    if any(is_op(node, "QuantizeLinear") for node in model.graph):
        expected = _in_integers(readable, feeds) or expected
    return dataclasses.replace(found, expected=expected)


def _in_integers(model: onnx_ir.Model, feeds: Mapping[str, Array]) -> list[Array]:
    """Return the outputs of the runtime's integer kernels, or nothing."""
    names = [v.name or "" for v in model.graph.outputs]
    if len({*names, *(v.name for v in model.graph.inputs)}) < len(names) + len(model.graph.inputs):
        return []
    try:
        return open_at(model, names, 1).run(feeds)
    except (CannotRun, KeyError):
        return []


def _fixed(model: onnx_ir.Model) -> frozenset[onnx_ir.Value]:
    found: set[onnx_ir.Value] = set()
    for node in model.graph:
        inputs = [v for v in node.inputs if v is not None]
        known = all(is_constant(v) or v in found for v in inputs)
        if known and node.op_type not in _RANDOM and not _has_body(node):
            found.update(node.outputs)
    return frozenset(found)


def _has_body(node: onnx_ir.Node) -> bool:
    kinds = (onnx_ir.AttributeType.GRAPH, onnx_ir.AttributeType.GRAPHS)
    return any(attribute.type in kinds for attribute in node.attributes.values())
