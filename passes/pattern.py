"""Patterns over the graph, matched from a root node upstream.

``op("Relu", op("Conv", var("x"), weight("w"), name="conv", sole=True))`` matches a Relu whose input is a Conv that
nobody else reads. A failed match says where it stopped, so that a pass can name its nearest miss.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import Array, constant, is_constant

__all__ = [
    "Match",
    "OneOf",
    "Op",
    "Pattern",
    "Var",
    "match",
    "maybe",
    "one_of",
    "op",
    "var",
    "weight",
]


@dataclasses.dataclass(frozen=True)
class Var:
    """Match any value (or only a fixed one) and bind it; the same name twice means the same value."""

    name: str
    fixed: bool = False
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Op:
    """Match the node that produces a value."""

    op_types: tuple[str, ...]
    operands: tuple["Pattern", ...]
    name: str = ""
    sole: bool = False
    """The value must have no other reader and must not be an output of the graph."""
    commutative: bool = False
    open: bool = False
    """Further inputs beyond ``operands`` are allowed."""
    domain: str = ""
    output: int = 0


@dataclasses.dataclass(frozen=True)
class OneOf:
    """Match the first alternative that fits."""

    choices: tuple["Pattern", ...]


Pattern = Var | Op | OneOf


def var(name: str) -> Var:
    """Match any value."""
    return Var(name)


def weight(name: str) -> Var:
    """Match a fixed value: an initializer that no caller can override."""
    return Var(name, fixed=True)


def maybe(name: str) -> Var:
    """Match an input that may be missing."""
    return Var(name, optional=True)


def one_of(*choices: Pattern) -> OneOf:
    """Match the first of several alternatives."""
    return OneOf(choices)


def op(
    op_types: str | Sequence[str],
    *operands: Pattern,
    name: str = "",
    sole: bool = False,
    commutative: bool = False,
    open: bool = False,
    domain: str = "",
) -> Op:
    """Match a node of one of ``op_types`` whose inputs match ``operands``."""
    kinds = (op_types,) if isinstance(op_types, str) else tuple(op_types)
    return Op(kinds, operands, name, sole, commutative, open, domain)


@dataclasses.dataclass
class Match:
    """What a pattern found: nodes (root first) and bound values."""

    root: onnx_ir.Node
    nodes: list[onnx_ir.Node] = dataclasses.field(default_factory=list[onnx_ir.Node])
    named: dict[str, onnx_ir.Node] = dataclasses.field(default_factory=dict[str, onnx_ir.Node])
    values: dict[str, onnx_ir.Value | None] = dataclasses.field(
        default_factory=dict[str, "onnx_ir.Value | None"]
    )

    def __getitem__(self, name: str) -> onnx_ir.Value:
        """Return a bound value that must be there."""
        value = self.values[name]
        if value is None:
            raise Mismatch(f"input '{name}' is missing")
        return value

    def get(self, name: str) -> onnx_ir.Value | None:
        """Return a bound value, or None for a missing optional input."""
        return self.values.get(name)

    def node(self, name: str) -> onnx_ir.Node:
        """Return a matched node by its pattern name."""
        return self.named[name]

    def array(self, name: str) -> Array:
        """Return a bound fixed value as an array, or decline."""
        array = constant(self.values[name])
        if array is None:
            raise Mismatch(f"'{name}' is not a constant")
        return array

    def copy(self) -> "Match":
        """Return an independent copy, for trying an alternative."""
        return Match(self.root, list(self.nodes), dict(self.named), dict(self.values))


@dataclasses.dataclass
class _Miss:
    """The deepest point that any attempt reached."""

    depth: int = 0
    reason: str = ""

    def note(self, found: Match, reason: str, beyond: int = 0) -> None:
        depth = len(found.nodes) + beyond
        if depth > self.depth:
            self.depth, self.reason = depth, reason


def match(pattern: Op, root: onnx_ir.Node) -> Match | str:
    """Match ``pattern`` with ``root`` as its outermost node.

    Returns the match, or a sentence on where the deepest attempt stopped: empty when not even one node beyond the
    root fitted.
    """
    miss = _Miss()
    for found in _match_node(pattern, root, Match(root), miss):
        return found
    return miss.reason if miss.depth > 1 else ""


def _match_node(pattern: Op, node: onnx_ir.Node, found: Match, miss: _Miss) -> Iterator[Match]:
    if node.op_type not in pattern.op_types:
        miss.note(found, f"{node.op_type} '{node.name}' where {_names(pattern)} was expected")
        return
    if (node.domain or "ai.onnx") != (pattern.domain or "ai.onnx"):
        return
    found = found.copy()
    found.nodes.append(node)
    if pattern.name:
        found.named[pattern.name] = node
    if len(node.inputs) > len(pattern.operands) and not pattern.open:
        miss.note(found, f"{node.op_type} '{node.name}' has {len(node.inputs)} inputs")
        return
    for operands in _orders(pattern):
        yield from _match_inputs(operands, node, 0, found, miss)


def _orders(pattern: Op) -> Iterator[tuple[Pattern, ...]]:
    yield pattern.operands
    if pattern.commutative and len(pattern.operands) == 2:
        yield pattern.operands[::-1]


def _match_inputs(
    operands: tuple[Pattern, ...], node: onnx_ir.Node, at: int, found: Match, miss: _Miss
) -> Iterator[Match]:
    if at == len(operands):
        yield found
        return
    value = node.inputs[at] if at < len(node.inputs) else None
    for bound in _match_value(operands[at], value, node, found, miss):
        yield from _match_inputs(operands, node, at + 1, bound, miss)


def _match_value(
    pattern: Pattern, value: onnx_ir.Value | None, user: onnx_ir.Node, found: Match, miss: _Miss
) -> Iterator[Match]:
    if isinstance(pattern, Var):
        yield from _match_var(pattern, value, user, found, miss)
    elif isinstance(pattern, OneOf):
        for choice in pattern.choices:
            yield from _match_value(choice, value, user, found, miss)
    else:
        yield from _match_producer(pattern, value, user, found, miss)


def _match_var(
    pattern: Var, value: onnx_ir.Value | None, user: onnx_ir.Node, found: Match, miss: _Miss
) -> Iterator[Match]:
    if value is None and not pattern.optional:
        miss.note(found, f"{user.op_type} '{user.name}' lacks its input '{pattern.name}'")
        return
    if pattern.fixed and not is_constant(value):
        miss.note(
            found, f"input '{pattern.name}' of {user.op_type} '{user.name}' is not a constant"
        )
        return
    if pattern.name in found.values and found.values[pattern.name] is not value:
        miss.note(found, f"'{pattern.name}' of {user.op_type} '{user.name}' is another value")
        return
    found = found.copy()
    found.values[pattern.name] = value
    yield found


def _match_producer(
    pattern: Op, value: onnx_ir.Value | None, user: onnx_ir.Node, found: Match, miss: _Miss
) -> Iterator[Match]:
    node = None if value is None else value.producer()
    if value is None or node is None:
        miss.note(found, f"{_names(pattern)} does not feed {user.op_type} '{user.name}'")
        return
    if node.graph is not user.graph or value.index() != pattern.output:
        return
    if pattern.sole and (len(value.uses()) > 1 or value.is_graph_output()):
        if node.op_type in pattern.op_types:
            miss.note(found, f"{node.op_type} '{node.name}' is read elsewhere too", beyond=1)
        return
    yield from _match_node(pattern, node, found, miss)


def _names(pattern: Op) -> str:
    return " or ".join(pattern.op_types)
