"""Take apart a mask that is computed from the input: what is to be fitted, what has exact factors, what stays."""

import dataclasses
from functools import reduce
from typing import Literal

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import is_constant
from whet.passes.attention.call import AttentionCall, AttentionSizes
from whet.passes.attention.expression import (
    KEY,
    QUERY,
    Apply,
    Expression,
    Leaf,
    Number,
    apply,
    axes_of,
    walk,
)
from whet.passes.attention.masks import Mask, hiding, kept_finite, read_mask, write_mask
from whet.passes.attention.pair_features import PairFeatures, find_features
from whet.passes.attention.reading import Coordinates, Reader
from whet.passes.attention.separation import Product, rank_of, separate

__all__ = ["InputBias", "read_input_bias"]

_FLOAT = onnx_ir.DataType.FLOAT
_HIDES = -1e4
_SUMS = {"Gemm", "MatMul", "ReduceSum", "ReduceSumSquare"}


@dataclasses.dataclass(frozen=True)
class InputBias:
    """``mask = fitted + sum of terms + added`` where all ``conditions`` hold, and ``fill`` elsewhere."""

    fitted: Expression
    """What is computed from queries and keys together and has no closed form."""
    features: PairFeatures
    terms: tuple[Product, ...]
    """What has exact factors."""
    conditions: tuple[Expression, ...]
    added: tuple[Expression, ...]
    """What does not depend on the input."""
    causal: bool
    fill: float
    dtype: onnx_ir.DataType
    nodes: tuple[onnx_ir.Node, ...]
    """All that the mask is computed by, up to the features; readers first."""

    @property
    def extra(self) -> int:
        """Return how many columns the exact factors have."""
        return rank_of(self.terms)

    def rest(self) -> Expression | None:
        """Return what stays a mask."""
        if not self.conditions and not self.added:
            return None
        return write_mask(self.dtype, self.conditions, self.added, self.fill)

    @property
    def kind(self) -> Literal["", "float"]:
        """Return the type of what stays a mask."""
        return "" if self.rest() is None else "float"

    def rest_shape(self, sizes: AttentionSizes) -> tuple[int, ...] | None:
        """Return the shape of what stays a mask."""
        body = self.rest()
        if body is None:
            return None
        full = (sizes.batch, sizes.heads, sizes.queries, sizes.keys)
        found = axes_of(body)
        return tuple(size if axis in found else 1 for axis, size in enumerate(full))


class _Shallow(Reader):
    """Reads sums over features as they are: what they sum over is nobody's position."""

    def _through(
        self, node: onnx_ir.Node, at: Coordinates, dtype: onnx_ir.DataType
    ) -> Expression | None:
        return None if node.op_type in _SUMS else super()._through(node, at, dtype)


def read_input_bias(call: AttentionCall) -> InputBias | None:
    """Take the mask of an attention apart; None if no part of it is computed from queries and keys of the input.

    Raises Mismatch if it is, but not from features of single positions.
    """
    assert call.mask is not None
    if call.mask.dtype != _FLOAT:
        return None
    reader = _Shallow()
    mask = read_mask(reader, call.mask)
    parts = [inner for part in mask.added for inner in _shown(part, mask)]
    fitted = [part for part in parts if _of_pairs(part)]
    causal = call.causal or (mask.causal and not mask.others)
    terms: list[Product] = []
    added: list[Expression] = []
    unknown: list[Expression] = []
    for part in parts:
        try:
            terms += [_bounded(t) for t in separate(part, causal=causal) if _seen(t)]
        except Mismatch:
            (unknown if part in fitted else added).append(part)
    if not unknown:
        return None
    body = reduce(lambda a, b: apply("Add", (a, b), _FLOAT), unknown)
    features = find_features(body)
    conditions = mask.others if causal else mask.conditions
    hidden = [] if causal or any(QUERY in axes_of(c) for c in conditions) else conditions
    return InputBias(
        fitted=body,
        features=features,
        terms=(*terms, *map(hiding, hidden)),
        conditions=tuple(c for c in conditions if c not in hidden),
        added=tuple(added),
        causal=causal,
        fill=mask.fill,
        dtype=_FLOAT,
        nodes=tuple(dict.fromkeys((*reversed(reader.nodes), *features.nodes))),
    )


def _shown(part: Expression, mask: Mask) -> list[Expression]:
    """Look inside a choice between a bias and a large negative number, and note the condition."""
    match part:
        case Apply("Add", (a, b)):
            return [*_shown(a, mask), *_shown(b, mask)]
        case Apply("Where", (condition, a, Number(fill))) if fill <= _HIDES:
            mask.conditions.append(condition)
        case Apply("Where", (condition, Number(fill), a)) if fill <= _HIDES:
            mask.conditions.append(apply("Not", (condition,), condition.dtype))
        case _:
            return [part]
    mask.fill = max(mask.fill, fill)
    return _shown(a, mask)


def _of_pairs(part: Expression) -> bool:
    """Tell whether a part depends on query and key together and on the input."""
    leaves = [p for p in walk(part) if isinstance(p, Leaf) and not is_constant(p.tensor)]
    return bool(leaves) and {QUERY, KEY} <= axes_of(part)


def _seen(term: Product) -> bool:
    """Tell whether a term differs between keys; softmax does not see what is the same for all."""
    return KEY in axes_of(term.right) or KEY in axes_of(term.left)


def _bounded(term: Product) -> Product:
    """Keep a term that hides keys finite."""
    if term.axis is not None or term.left != Number(1.0, term.left.dtype):
        return term
    return kept_finite(term)
