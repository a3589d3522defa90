"""How far each residual block turns what passes through it: the coarse half of CFSP."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir

from whet.analysis.activations import observe
from whet.ir.values import Array, is_constant, is_op

__all__ = ["block_of", "turns"]

Feeds = Mapping[str, Array]
Block = tuple[str, str]
"""Names of what goes into a residual block and of the sum that comes out."""
_FEW = 4
"""Batches that are looked at."""


def block_of(node: onnx_ir.Node) -> Block | None:
    """Return the block that a node lies in: the nearest sum downstream, and the operand that does not come from it."""
    waiting, seen = list(node.outputs), set[onnx_ir.Value]()
    while waiting:
        value = waiting.pop(0)
        if value in seen:
            continue
        seen.add(value)
        for reader in value.consumers():
            others = [v for v in reader.inputs if v is not None and v is not value]
            if is_op(reader, "Add") and others and not is_constant(others[0]):
                return others[0].name or "", reader.outputs[0].name or ""
            waiting.extend(reader.outputs)
    return None


def turns(
    model: onnx_ir.Model, blocks: Sequence[Block], batches: Sequence[Feeds], threads: int
) -> dict[Block, float]:
    """Return arccos(cosine) / pi between input and output of each block, mean over samples; 0.5 where shapes differ."""
    found: dict[Block, float] = {}
    for block in dict.fromkeys(blocks):
        pairs = zip(
            *(observe(model, [name], batches[:_FEW], threads=threads) for name in block),
            strict=True,
        )
        angles = [_angles(before, after) for (_, before), (_, after) in pairs]
        found[block] = float(np.concatenate(angles).mean()) if angles else 0.5
    return found


def _angles(before: Array, after: Array) -> Array:
    if before.shape != after.shape or not before.ndim:
        return np.asarray([0.5])
    a, b = (x.reshape(len(x), -1).astype(np.float64) for x in (before, after))
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(1) / np.maximum(lengths, np.finfo(float).tiny)
    return np.asarray(np.arccos(np.clip(cosine, -1, 1)) / np.pi)
