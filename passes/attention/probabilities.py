"""What becomes of a softmax: the product of the probabilities with the values."""

import dataclasses

import onnx_ir

from whet.analysis.sizes import KnownSizes
from whet.errors import Mismatch
from whet.ir.values import attribute_ints, is_op
from whet.passes.attention.products import (
    Operand,
    Product,
    flipped,
    peel,
    read_product,
    scalar,
    swapped,
)
from whet.passes.attention.scores import NoProduct

__all__ = ["Weighted", "read_weighted"]

_MOVES = ("Reshape", "Unsqueeze", "Squeeze", "Flatten")


@dataclasses.dataclass(frozen=True)
class Weighted:
    """``order(p v)``: the values, weighted by the probabilities."""

    node: onnx_ir.Node
    values: Operand
    """``[..., keys, value head]``."""
    order: tuple[int, ...] | None
    """How the axes of the result are permuted."""
    layouts: tuple[onnx_ir.Value, ...]
    """A value for every grouping of the axes that differs from that of the softmax."""
    nodes: tuple[onnx_ir.Node, ...]
    """From the product back to the softmax."""

    @property
    def output(self) -> onnx_ir.Value:
        """Return the result."""
        return self.node.outputs[0]


def read_weighted(softmax: onnx_ir.Node, known: KnownSizes) -> Weighted:
    """Follow the probabilities to their one reader, the product with the values; raises Mismatch."""
    value = softmax.outputs[0]
    nodes: list[onnx_ir.Node] = [softmax]
    layouts: list[onnx_ir.Value] = []
    transposed = False
    while True:
        value, guard = _past_guard(value)
        nodes += guard
        reader, at = _only_reader(value)
        if is_op(reader, *_MOVES) and at == 0 and not transposed:
            _keeps_matrices(reader, known)
            layouts.append(reader.outputs[0])
        elif is_op(reader, "Transpose") and not transposed:
            transposed = _is_swap(reader)
        elif is_op(reader, "Cast"):
            raise NoProduct(f"Cast '{reader.name}' changes the type of the probabilities")
        elif not is_op(reader, "Identity"):
            break
        nodes.append(reader)
        value = reader.outputs[0]
    product = read_product(reader, known)
    if product is None:
        raise NoProduct(f"the probabilities go to {reader.op_type} '{reader.name}', not to values")
    return _weighted(product, at, transposed, tuple(layouts), nodes, known)


def _past_guard(value: onnx_ir.Value) -> tuple[onnx_ir.Value, list[onnx_ir.Node]]:
    """Step over ``Where(IsNaN(p), 0, p)``, which makes a row zero that is masked whole, as Attention does."""
    readers = [use.node for use in value.uses()]
    test = next((node for node in readers if is_op(node, "IsNaN")), None)
    if test is None or len(readers) != 2 or value.is_graph_output():
        return value, []
    where = next(node for node in readers if node is not test)
    tested = [use.node for use in test.outputs[0].uses()]
    if not is_op(where, "Where") or tested != [where] or where.inputs[0] is not test.outputs[0]:
        return value, []
    if where.inputs[2] is not value or scalar(where.inputs[1]) != 0.0:
        return value, []
    return where.outputs[0], [test, where]


def _only_reader(value: onnx_ir.Value) -> tuple[onnx_ir.Node, int]:
    if value.is_graph_output():
        raise NoProduct("the probabilities are an output of the model")
    uses = list(value.uses())
    if len(uses) != 1:
        names = ", ".join(f"{use.node.op_type} '{use.node.name}'" for use in uses) or "nobody"
        raise NoProduct(f"the probabilities are read by {names}")
    return uses[0].node, uses[0].idx


def _keeps_matrices(node: onnx_ir.Node, known: KnownSizes) -> None:
    old, new = known.shape(node.inputs[0]), known.shape(node.outputs[0])
    if old is None or new is None or None in old[-2:] or old[-2:] != new[-2:]:
        raise NoProduct(f"{node.op_type} '{node.name}' may split queries or keys")


def _is_swap(node: onnx_ir.Node) -> bool:
    perm = attribute_ints(node, "perm") or ()
    if perm != swapped(len(perm)):
        raise NoProduct(
            f"Transpose '{node.name}' moves more than queries and keys of the probabilities"
        )
    return True


def _weighted(
    product: Product,
    at: int,
    transposed: bool,
    layouts: tuple[onnx_ir.Value, ...],
    nodes: list[onnx_ir.Node],
    known: KnownSizes,
) -> Weighted:
    """Check that the probabilities are summed over keys; ``p v`` or ``v' p'``."""
    own, values = product.left, product.right
    order = product.order
    rank = len(known.shape(product.node.outputs[0]) or ())
    if product.node.inputs[0] is product.node.inputs[1]:
        raise Mismatch("the probabilities are multiplied with themselves")
    if own.value is not product.node.inputs[at]:
        own, values = values, own
        order = _compose(order, swapped(rank))
    if own.missing or own.lead is not None or own.perm != (swapped(rank) if transposed else None):
        raise NoProduct(f"{product.node.op_type} '{product.node.name}' does not sum over keys")
    if product.addend is not None or product.factor != 1.0:
        raise Mismatch(f"{product.node.op_type} '{product.node.name}' scales or adds as well")
    found, factor, passed = peel(flipped(values, len(values.shape(known))), known)
    if factor != 1.0:
        found, passed = flipped(values, len(values.shape(known))), []
    return Weighted(product.node, found, order, layouts, (product.node, *reversed(nodes), *passed))


def _compose(order: tuple[int, ...] | None, inner: tuple[int, ...]) -> tuple[int, ...]:
    return inner if order is None else tuple(inner[axis] for axis in order)
