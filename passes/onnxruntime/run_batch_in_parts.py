"""Run a large batch in parts, so that what one operator writes is still in the cache when the next one reads it."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import ClassVar

import onnx_ir

from whet.analysis.prices import KernelModel
from whet.errors import Mismatch
from whet.ir.values import weight_bytes
from whet.passes.base import Change, Fidelity, Pass
from whet.passes.onnxruntime.batch_parts import Batch, batch_of, in_parts
from whet.passes.proposal import Builder, FreshNames
from whet.passes.spelling_prices import PLAIN
from whet.passes.workbench import Workbench

__all__ = ["RunBatchInParts"]

_WORTH = 0.95
"""Parts must take less than this share of the time of the whole batch."""
_SMALLEST = 8
"""Batches of fewer samples are not tried."""
_SHARES = (16, 8, 4)
_LIMIT = 1 << 28
"""Models with weights of more bytes are not raced: several copies would be held."""


@dataclasses.dataclass(frozen=True)
class RunBatchInParts(Pass):
    """Replace ``y = f(x)`` by ``y = join(f(x_1), …, f(x_n))`` where f treats every sample by itself.

    The nodes become the body of one Scan over equal parts of the batch. The activations of a whole batch are larger
    than the caches; those of a few samples are not. Whole models race with parts of several sizes at the first
    binding's batch; any other batch still runs, in parts of at most the size that won. What looks at all samples
    together, such as scales that are computed in each run, stands in the way; so does a result that differs from the
    one in one piece.
    """

    changes: ClassVar[Change] = Change.OPS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Try the model as a whole."""
        nodes = work.nodes()
        if not nodes:
            return
        work.coverage.matched += 1
        try:
            batch = batch_of(work.graph)
            size = _fastest(work, batch)
        except Mismatch as reason:
            work.decline(nodes[-1], str(reason))
            return
        work.propose(in_parts(work.graph, batch, size, work.builder(nodes[-1])))


def _fastest(work: Workbench, batch: Batch) -> int:
    """Return how many samples a part should have; raises Mismatch where the whole is as fast."""
    context = work.context
    if context.prices is None:
        raise Mismatch("nothing may be measured here, so the batch stays whole")
    count = context.bindings.choices[0].get(batch.symbol, 0)
    if count < _SMALLEST:
        raise Mismatch(f"{count} samples are measured, parts are tried from {_SMALLEST} on")
    if weight_bytes(work.model) > _LIMIT:
        raise Mismatch(f"its weights take more than {_LIMIT:,} bytes, too many to race")
    sizes = {f"parts of {count // share}": count // share for share in _SHARES if count >= share}
    feeds = context.bindings.feeds(work.model, 0)
    proto = onnx_ir.to_proto(work.model)
    digest = hashlib.sha256(proto.SerializeToString(deterministic=True)).hexdigest()[:16]
    shapes = " ".join(f"{name}{list(array.shape)}" for name, array in feeds.items())

    def trial(size: int) -> KernelModel:
        return lambda: (_copy_in_parts(work.model, size), feeds)

    models: dict[str, KernelModel] = {PLAIN: lambda: (proto.SerializeToString(), feeds)}
    models |= {name: trial(size) for name, size in sizes.items()}
    times = context.prices.lookup(f"model {digest} {shapes} in parts", models)
    return sizes[_winner(times)]


def _winner(times: Mapping[str, float]) -> str:
    others = {name: ms for name, ms in times.items() if name != PLAIN}
    if PLAIN not in times or not others:
        raise Mismatch("the runtime does not run it in parts")
    best = min(others, key=lambda name: others[name])
    if others[best] >= times[PLAIN] * _WORTH:
        raise Mismatch(f"in {best} it takes {others[best]:.3g} ms, whole {times[PLAIN]:.3g} ms")
    return best


def _copy_in_parts(model: onnx_ir.Model, size: int) -> bytes:
    """Return a copy of the model in parts, serialized."""
    copy = model.clone()
    build = Builder(FreshNames(copy), next(iter(copy.graph)))
    in_parts(copy.graph, batch_of(copy.graph), size, build).commit("run-batch-in-parts")
    serialized: bytes = onnx_ir.to_proto(copy).SerializeToString()
    return serialized
