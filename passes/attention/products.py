"""Products of two computed matrices, however they are spelled: MatMul, FusedMatMul, Gemm, Einsum."""

import dataclasses

import onnx_ir

from whet.analysis.content_rules import Shape
from whet.analysis.sizes import KnownSizes
from whet.errors import Mismatch
from whet.ir.values import (
    attribute_float,
    attribute_int,
    attribute_ints,
    attribute_string,
    constant,
    is_constant,
    is_op,
)

__all__ = ["Operand", "Product", "flipped", "leading", "peel", "read_product", "scalar", "swapped"]

_STEPS = 8
"""How many nodes above an operand are looked through."""


@dataclasses.dataclass(frozen=True)
class Operand:
    """A value and what makes a stack of matrices ``[..., rows, columns]`` of it.

    Axes of size 1 are put in at ``missing``, the result is permuted by ``perm``, and the axes before the last two are
    grouped anew into ``lead``; each step only if it is given.
    """

    value: onnx_ir.Value
    perm: tuple[int, ...] | None = None
    missing: tuple[int, ...] = ()
    lead: Shape | None = None

    def shape(self, known: KnownSizes) -> Shape:
        """Return the shape of the stack, or decline."""
        found = known.shape(self.value)
        if found is None:
            raise Mismatch(f"the rank of '{self.value.name}' is not known")
        sizes = list(found)
        for axis in self.missing:
            sizes.insert(axis, 1)
        if self.perm is not None:
            sizes = [sizes[axis] for axis in self.perm]
        return tuple(sizes) if self.lead is None else (*self.lead, *sizes[-2:])


@dataclasses.dataclass(frozen=True)
class Product:
    """``factor * left right'`` with left ``[..., rows, inner]`` and right ``[..., columns, inner]``."""

    node: onnx_ir.Node
    left: Operand
    right: Operand
    factor: float = 1.0
    addend: onnx_ir.Value | None = None
    """What a Gemm adds."""
    addend_factor: float = 1.0
    order: tuple[int, ...] | None = None
    """How the axes of the result are permuted before it is handed out; only the product with the values may do so."""


def leading(shape: Shape) -> Shape:
    """Return the sizes before the last two."""
    return shape[:-2]


def scalar(value: onnx_ir.Value | None, rank: int | None = None) -> float | None:
    """Return the number if ``value`` is a constant of one element that does not raise a tensor of ``rank``."""
    if value is None or not is_constant(value) or value.const_value is None:
        return None
    if value.const_value.size != 1 or not value.const_value.dtype.is_floating_point():
        return None
    array = constant(value)
    if array is None or (rank is not None and array.ndim > rank):
        return None
    return float(array.reshape(-1)[0])


def swapped(rank: int) -> tuple[int, ...]:
    """Return the permutation that exchanges the last two axes."""
    return (*range(rank - 2), rank - 1, rank - 2)


def read_product(node: onnx_ir.Node | None, known: KnownSizes) -> Product | None:
    """Return the product that ``node`` computes; None if it is no product of two computed stacks of matrices."""
    if node is None or any(v is None for v in node.inputs[:2]) or len(node.inputs) < 2:
        return None
    if is_op(node, "MatMul"):
        return _of_matmul(node, known)
    if is_op(node, "FusedMatMul", domain="com.microsoft"):
        return _of_fused(node, known)
    if is_op(node, "Gemm"):
        return _of_gemm(node, known)
    return _of_einsum(node, known) if is_op(node, "Einsum") else None


def _ranks(node: onnx_ir.Node, known: KnownSizes) -> tuple[int, int] | None:
    """Return the ranks of both operands, unless the second is the weight of a linear layer."""
    left, right = known.shape(node.inputs[0]), known.shape(node.inputs[1])
    if left is None or right is None or len(left) < 2 or len(right) < 2:
        return None
    if is_constant(node.inputs[1]) and (is_constant(node.inputs[0]) or len(right) == 2):
        return None
    return None if len(right) == 2 < len(left) else (len(left), len(right))


def _operands(node: onnx_ir.Node) -> tuple[onnx_ir.Value, onnx_ir.Value]:
    left, right = node.inputs[:2]
    assert left is not None
    assert right is not None
    return left, right


def _of_matmul(node: onnx_ir.Node, known: KnownSizes) -> Product | None:
    ranks = _ranks(node, known)
    if ranks is None:
        return None
    left, right = _operands(node)
    return Product(node, Operand(left), Operand(right, swapped(ranks[1])))


def _of_fused(node: onnx_ir.Node, known: KnownSizes) -> Product | None:
    ranks = _ranks(node, known)
    batch = attribute_int(node, "transBatchA", 0) or attribute_int(node, "transBatchB", 0)
    if ranks is None or batch:
        return None
    left, right = _operands(node)
    first, second = attribute_int(node, "transA", 0), attribute_int(node, "transB", 0)
    return Product(
        node,
        Operand(left, swapped(ranks[0]) if first else None),
        Operand(right, None if second else swapped(ranks[1])),
        attribute_float(node, "alpha", 1.0),
    )


def _of_gemm(node: onnx_ir.Node, known: KnownSizes) -> Product | None:
    if _ranks(node, known) is None:
        return None
    left, right = _operands(node)
    first, second = attribute_int(node, "transA", 0), attribute_int(node, "transB", 0)
    return Product(
        node,
        Operand(left, (1, 0) if first else None),
        Operand(right, None if second else (1, 0)),
        attribute_float(node, "alpha", 1.0),
        node.inputs[2] if len(node.inputs) > 2 else None,
        attribute_float(node, "beta", 1.0),
    )


def _of_einsum(node: onnx_ir.Node, known: KnownSizes) -> Product | None:
    """Read ``bqhd,bkhd->bhqk``: letters of both operands that stay are stacked, the one that goes is summed."""
    parts = attribute_string(node, "equation", "").replace(" ", "").split("->")
    operands = parts[0].split(",")
    if len(parts) != 2 or len(operands) != 2 or len(node.inputs) != 2:
        return None
    letters, out = (*operands, parts[1]), parts[1]
    if any(len(set(word)) < len(word) or not word.isalpha() for word in letters):
        return None
    one, other = set(operands[0]), set(operands[1])
    inner, rows, columns = (one & other) - set(out), one - other, other - one
    if len(inner) != 1 or (one | other) - set(out) != inner:
        return None
    return _stacked(node, operands, out, inner.pop(), rows, columns, known)


def _stacked(
    node: onnx_ir.Node,
    operands: list[str],
    out: str,
    inner: str,
    rows: set[str],
    columns: set[str],
    known: KnownSizes,
) -> Product | None:
    """Bring the letters of both operands into the order ``stack, row, inner``; a stack letter may be missing in one."""
    row, column = _last(rows, out), _last(columns, out)
    if not row or not column:
        return None
    stack = [letter for letter in out if letter not in (row, column)]
    shapes = [known.shape(value) for value in node.inputs]
    if any(
        shape is None or len(shape) != len(word)
        for shape, word in zip(shapes, operands, strict=True)
    ):
        return None
    left = _arranged(node.inputs[0], operands[0], [*stack, row, inner])
    right = _arranged(node.inputs[1], operands[1], [*stack, column, inner])
    made = [*stack, row, column]
    order = tuple(made.index(letter) for letter in out)
    return Product(node, left, right, order=None if order == tuple(range(len(out))) else order)


def _last(letters: set[str], out: str) -> str:
    return max(letters, key=out.index, default="")


def _arranged(value: onnx_ir.Value | None, word: str, wanted: list[str]) -> Operand:
    assert value is not None
    missing = [letter for letter in wanted if letter not in word]
    have = [*missing, *word]
    perm = tuple(have.index(letter) for letter in wanted)
    plain = perm == tuple(range(len(perm)))
    return Operand(value, None if plain else perm, tuple(range(len(missing))))


def peel(operand: Operand, known: KnownSizes) -> tuple[Operand, float, list[onnx_ir.Node]]:
    """Take constant scalars and transpositions off an operand; return it, the scalars' product and the nodes passed.

    A result that has neither a scalar nor a transposition taken off is the operand itself.
    """
    if operand.missing:
        return operand, 1.0, []
    found, factor = operand, 1.0
    passed: list[onnx_ir.Node] = []
    for _ in range(_STEPS):
        step = _above(found, known)
        if step is None:
            break
        found, scale, nodes = step
        factor *= scale
        passed += nodes
    if factor == 1.0 and operand.perm is None:
        return operand, 1.0, []
    return _without_identity(found), factor, passed


def _above(operand: Operand, known: KnownSizes) -> tuple[Operand, float, list[onnx_ir.Node]] | None:
    node, shape = operand.value.producer(), known.shape(operand.value)
    if node is None or shape is None or len(node.outputs) > 1:
        return None
    data = node.inputs[0] if node.inputs else None
    if is_op(node, "Transpose") and data is not None:
        inner = attribute_ints(node, "perm", tuple(reversed(range(len(shape))))) or ()
        outer = operand.perm or tuple(range(len(shape)))
        perm = tuple(inner[axis] for axis in outer)
        return dataclasses.replace(operand, value=data, perm=perm), 1.0, [node]
    if is_op(node, "Mul", "Div"):
        return _scaled(operand, node, len(shape))
    if is_op(node, "Reshape") and data is not None and operand.lead is None:
        return _regrouped(operand, node, data, known)
    return None


def _scaled(
    operand: Operand, node: onnx_ir.Node, rank: int
) -> tuple[Operand, float, list[onnx_ir.Node]] | None:
    first, second = node.inputs
    number, rest = scalar(second, rank), first
    if number is None and node.op_type == "Mul":
        number, rest = scalar(first, rank), second
    if not number or rest is None or rest.shape is None or len(rest.shape) != rank:
        return None
    factor = number if node.op_type == "Mul" else 1.0 / number
    return dataclasses.replace(operand, value=rest), factor, [node]


def _regrouped(
    operand: Operand, node: onnx_ir.Node, data: onnx_ir.Value, known: KnownSizes
) -> tuple[Operand, float, list[onnx_ir.Node]] | None:
    """Look through a Reshape that groups the axes before the last two anew, if a transposition lies behind it."""
    before, after = known.shape(data), known.shape(operand.value)
    maker = data.producer()
    if before is None or after is None or not is_op(maker, "Transpose"):
        return None
    if operand.perm != swapped(len(after)) or len(before) < 2:
        return None
    if before[-2:] != after[-2:] or None in after:
        return None
    outer = Operand(data, swapped(len(before)), (), leading(after))
    return outer, 1.0, [node]


def flipped(operand: Operand, rank: int) -> Operand:
    """Return the operand with the last two axes exchanged."""
    perm = operand.perm or tuple(range(rank))
    outer = tuple(perm[axis] for axis in swapped(rank))
    return _without_identity(dataclasses.replace(operand, perm=outer))


def _without_identity(operand: Operand) -> Operand:
    if operand.perm is not None and operand.perm == tuple(range(len(operand.perm))):
        return dataclasses.replace(operand, perm=None)
    return operand
