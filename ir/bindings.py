"""Numbers for the symbolic dimensions of a model, and random tensors that fit them."""

import ast
import dataclasses
import operator
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir

from whet.ir.values import Array, dimensions

__all__ = ["Binding", "Bindings", "candidates", "evaluate_dimension", "random_tensor", "symbols"]

Binding = Mapping[str, int]
"""Symbolic dimension -> size."""

_OPERATORS: dict[type, Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
    ast.Div: operator.floordiv,
    ast.Mod: operator.mod,
}


def symbols(model: onnx_ir.Model) -> tuple[str, ...]:
    """Return the names of the symbolic dimensions of the model's inputs, in order of appearance.

    A dimension without a name is called ``input.axis``.
    """
    found: dict[str, None] = {}
    for value in model.graph.inputs:
        for axis, size in enumerate(dimensions(value) or ()):
            if not isinstance(size, int):
                found[size or f"{value.name}.{axis}"] = None
    return tuple(found)


def candidates(names: tuple[str, ...]) -> list[dict[str, int]]:
    """Return bindings worth trying, smallest first; different symbols get different sizes where they can."""
    if not names:
        return [{}]
    ladders = [(2, 3, 5, 7, 11, 13), (3, 4, 6, 8, 10, 12), (4, 8, 12, 16, 20, 24)]
    found = [_spread(names, ladder) for ladder in ladders]
    for size in (1, 8, 16, 32, 64, 128, 224, 256, 512):
        found.append({name: 2 if _is_batch(name, k) else size for k, name in enumerate(names)})
        found.append(dict.fromkeys(names, size))
    return found


def _spread(names: tuple[str, ...], ladder: tuple[int, ...]) -> dict[str, int]:
    return {name: ladder[k % len(ladder)] for k, name in enumerate(names)}


def _is_batch(name: str, position: int) -> bool:
    return "batch" in name.lower() or (position == 0 and name.upper() in {"N", "B", "S0"})


def evaluate_dimension(size: int | str | None, binding: Binding) -> int | None:
    """Evaluate a dimension, such as ``2*seq + 1``, under a binding; None where a symbol is unknown."""
    if size is None or isinstance(size, int):
        return size
    if size in binding:
        return binding[size]
    try:
        tree = ast.parse(size, mode="eval")
    except (SyntaxError, ValueError):
        return None
    return _evaluate(tree.body, binding)


def _evaluate(node: ast.expr, binding: Binding) -> int | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, int):
        return node.value
    if isinstance(node, ast.Name):
        return binding.get(node.id)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        inner = _evaluate(node.operand, binding)
        return None if inner is None else -inner
    if isinstance(node, ast.BinOp) and type(node.op) in _OPERATORS:
        left, right = _evaluate(node.left, binding), _evaluate(node.right, binding)
        if left is None or right is None or (right == 0 and not isinstance(node.op, ast.Mult)):
            return left if right == 0 and isinstance(node.op, ast.Add | ast.Sub) else None
        return _OPERATORS[type(node.op)](left, right)
    return None


def random_tensor(
    dtype: onnx_ir.DataType,
    shape: tuple[int, ...],
    rng: np.random.Generator,
    *,
    positive: bool = False,
) -> Array:
    """Draw a tensor: standard normal floats (or uniform in [0.1, 2]), integers in {0, 1}, fair booleans."""
    if dtype == onnx_ir.DataType.BOOL:
        return rng.integers(0, 2, shape).astype(np.bool_)
    if dtype == onnx_ir.DataType.STRING:
        return rng.choice(np.asarray(["a", "b", "whet"], dtype=np.object_), shape)
    kind = dtype.numpy()
    if dtype.is_floating_point():
        drawn = rng.uniform(0.1, 2.0, shape) if positive else rng.standard_normal(shape)
        return drawn.astype(kind)
    return rng.integers(0, 2, shape).astype(kind)


@dataclasses.dataclass(frozen=True)
class Bindings:
    """The bindings under which rewrites are proven, and examples that integer inputs are drawn from."""

    choices: tuple[Binding, ...] = ({},)
    examples: Mapping[str, Array] = dataclasses.field(default_factory=dict[str, Array])
    """Input name -> real data. Integers (token ids, masks, positions) are drawn from its values."""
    note: str = ""
    """Why there are fewer bindings than wanted."""

    def shape(self, value: onnx_ir.Value, binding: Binding) -> tuple[int, ...] | None:
        """Return the value's shape under the binding, or None where a dimension stays unknown."""
        sizes = dimensions(value)
        if sizes is None:
            return None
        known: list[int] = []
        for axis, size in enumerate(sizes):
            key = f"{value.name}.{axis}"
            number = binding.get(key) if size is None else evaluate_dimension(size, binding)
            if number is None or number < 0:
                return None
            known.append(number)
        return tuple(known)

    def draw(
        self,
        value: onnx_ir.Value,
        binding: Binding,
        rng: np.random.Generator,
        *,
        positive: bool = False,
    ) -> Array | None:
        """Draw a tensor for a value, or None if its type or shape is not known well enough."""
        shape = self.shape(value, binding)
        if shape is None or value.dtype is None or not isinstance(value.type, onnx_ir.TensorType):
            return None
        example = self.examples.get(value.name or "")
        if example is not None and example.dtype.kind in "iub" and example.size:
            return rng.choice(example.reshape(-1), shape).astype(example.dtype)
        return random_tensor(value.dtype, shape, rng, positive=positive)

    def feeds(self, model: onnx_ir.Model, choice: int, seed: int = 0) -> dict[str, Array]:
        """Return inputs for the whole model under binding number ``choice``.

        An example whose shape is that of the binding is used as it is; everything else is drawn.
        """
        rng = np.random.default_rng((seed, choice))
        binding = self.choices[choice]
        found: dict[str, Array] = {}
        for value in model.graph.inputs:
            if value.const_value is not None:
                continue
            name = value.name or ""
            example = self.examples.get(name)
            fits = example is not None and example.shape == self.shape(value, binding)
            tensor = example if fits else self.draw(value, binding, rng)
            if tensor is not None:
                found[name] = tensor
        return found
