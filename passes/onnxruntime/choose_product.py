"""Choose FusedMatMul."""

import dataclasses

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import attribute_ints, is_op
from whet.passes.onnxruntime.choice import MICROSOFT, Choice, Spelled, demand_float32
from whet.passes.pattern import Match, op, var, weight
from whet.passes.proposal import Attribute, Builder
from whet.passes.spelling_prices import SeenShapes

_PRODUCT = op("MatMul", var("a"), var("b"), name="product", sole=True)


@dataclasses.dataclass(frozen=True)
class ChooseProduct(Choice):
    """Spell ``alpha A B`` as FusedMatMul, where A or B are transposes of their last two axes or alpha is one number.

    The runtime does most of it by itself.
    """

    patterns = (
        op("Mul", _PRODUCT, weight("alpha"), name="scaled", commutative=True),
        op("Div", _PRODUCT, weight("alpha"), name="scaled"),
        op("MatMul", var("a"), var("b"), name="product"),
    )

    def applies(self, found: Match) -> bool:
        """Tell whether there is anything to fuse with the product."""
        product = found.node("product")
        return "scaled" in found.named or any(_turned(v) for v in product.inputs)

    def spell(self, found: Match, build: Builder, shapes: SeenShapes) -> Spelled:
        """Return the fused operator."""
        operands: list[onnx_ir.Value] = []
        attributes: dict[str, Attribute] = {"alpha": _alpha(found)}
        for value, flag in ((found["a"], "transA"), (found["b"], "transB")):
            demand_float32(value)
            if len(shapes.first(value)) < 2:
                raise Mismatch(f"'{value.name}' is a vector")
            source = _turned(value)
            attributes[flag] = int(source is not None)
            if source is not None:
                producer = value.producer()
                assert producer is not None
                found.nodes.append(producer)
            operands.append(value if source is None else source)
        y = build.op("FusedMatMul", *operands, domain=MICROSOFT, attributes=attributes)
        return Spelled("FusedMatMul", ((found.root.outputs[0], y),))


def _turned(value: onnx_ir.Value | None) -> onnx_ir.Value | None:
    """Return what ``value`` is the transpose of, if only the last two axes are exchanged."""
    node = None if value is None else value.producer()
    if node is None or value is None or not is_op(node, "Transpose"):
        return None
    order = attribute_ints(node, "perm")
    if order is None or len(order) < 2:
        return None
    last = len(order) - 1
    return node.inputs[0] if order == (*range(last - 1), last, last - 1) else None


def _alpha(found: Match) -> float:
    if "scaled" not in found.named:
        return 1.0
    array = found.array("alpha")
    if array.size != 1 or array.ndim > 2:
        raise Mismatch(f"the product is scaled by a constant of shape {array.shape}, not a number")
    number = float(array.reshape(-1)[0])
    if found.root.op_type == "Mul":
        return number
    if number == 0:
        raise Mismatch("the product is divided by zero")
    return 1 / number
