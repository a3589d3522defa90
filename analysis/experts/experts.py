"""What is known of one mixture of experts."""

import dataclasses

import onnx_ir

from whet.ir.values import Array, constant

__all__ = ["Experts", "Stack"]


@dataclasses.dataclass(frozen=True, eq=False)
class Stack:
    """Weights of all experts in one constant, ``[experts, …]``."""

    value: onnx_ir.Value
    readers: tuple[tuple[onnx_ir.Node, int], ...]
    """Node and operand: lookups by the chosen expert, or the operator itself."""

    @property
    def array(self) -> Array:
        """Return the numbers."""
        found = constant(self.value)
        assert found is not None
        return found


@dataclasses.dataclass(frozen=True, eq=False)
class Experts:
    """One layer in which a router picks, for every token, ``k`` of ``count`` experts.

    In a graph of plain operators the experts are found by following what TopK picks to the lookups of weights
    ``[experts, …]``; ORT's ``com.microsoft.MoE`` is one node.
    """

    node: onnx_ir.Node
    """TopK, or the operator; it names the place."""
    k: int
    count: int
    """How many the router knows."""
    logits: onnx_ir.Value
    """What the router says of every expert, ``[…, experts]``, before any softmax."""
    router: tuple[onnx_ir.Node, ...]
    """From the product that makes the logits to TopK, in graph order: what has an axis of experts."""
    stacks: tuple[Stack, ...]
    result: onnx_ir.Value
    """What the experts make, before it is weighted and added; the output of the operator."""
    index: onnx_ir.Value | None = None
    """What the lookups read; None in the operator."""
    table: Array | None = None
    """Which weights the experts of the router have, where several have the same."""
    chosen: tuple[onnx_ir.Node, ...] = ()
    """From TopK to the lookups, in graph order; empty for the operator."""

    @property
    def name(self) -> str:
        """Return the name of the place."""
        return self.node.name or self.node.op_type

    @property
    def is_operator(self) -> bool:
        """Tell whether it is ORT's operator."""
        return self.index is None

    @property
    def stored(self) -> int:
        """Return how many experts have weights of their own."""
        return int(self.stacks[0].array.shape[0])

    @property
    def bytes(self) -> int:
        """Return what the experts' weights take."""
        return sum(stack.array.nbytes for stack in self.stacks)
