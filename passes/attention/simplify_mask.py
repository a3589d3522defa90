"""Say what an attention mask means: a causal mask becomes an attribute, a padding mask stays a row of keys."""

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

import onnx_ir

from whet.errors import Mismatch
from whet.ir.values import dimensions, is_op
from whet.passes.attention.call import AttentionCall, read_masked
from whet.passes.attention.emission import Emitter
from whet.passes.attention.expression import QUERY, Expression, axes_of
from whet.passes.attention.masks import Mask, read_mask, write_mask
from whet.passes.attention.reading import Reader
from whet.passes.base import Fidelity, Pass
from whet.passes.proposal import Attribute, Builder, Proposal
from whet.passes.workbench import Workbench

__all__ = ["SimplifyMask"]


@dataclasses.dataclass(frozen=True)
class SimplifyMask(Pass):
    """Bring the mask of an attention into its smallest form, whatever the graph computes it with.

    - "key <= query", compared in the graph, becomes ``is_causal``;
    - conditions that always hold go;
    - what does not depend on the batch, the head or the query is computed without them: a padding mask is made as
      ``[batch, 1, 1, keys]``. It is repeated over queries at the very end, because ONNX Runtime's kernel wants that.

    A query whose keys are all hidden has no defined result; runtimes give it the mean of all values. With a causal
    *and* another mask that mean is over other keys once the causal mask is an attribute, so that both together stay as
    they are unless ``padded_rows`` is ``any``.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    padded_rows: Literal["keep", "any"] = "keep"
    """``any``: nobody reads the results of queries all of whose keys are hidden (left padding)."""

    def apply(self, work: Workbench) -> None:
        """Visit every Attention."""
        for node in work.nodes("Attention"):
            call = read_masked(node)
            if call is None:
                continue
            self._visit(work, call)

    def _visit(self, work: Workbench, call: AttentionCall) -> None:
        work.coverage.matched += 1
        reader = Reader()
        build = work.builder(call.node)
        try:
            new = self._rewritten(call, reader, build)
        except Mismatch as reason:
            work.decline(call.node, str(reason))
            return
        looked = tuple(reversed(reader.nodes))
        old = (call.node, *looked)
        proposal = Proposal(
            old, ((call.node.outputs[0], new),), tuple(build.nodes), tuple(build.initializers)
        )
        work.propose(proposal)

    def _rewritten(self, call: AttentionCall, reader: Reader, build: Builder) -> onnx_ir.Value:
        assert call.mask is not None
        mask = read_mask(reader, call.mask)
        causal = self._becomes_causal(call, mask)
        conditions = mask.others if causal else mask.conditions
        rest: list[Expression] = [*conditions, *mask.added]
        if not causal and not _reducible(rest, call.mask):
            raise Mismatch(_what_it_is(mask))
        emitter = Emitter(build, call, call.q.dtype or onnx_ir.DataType.FLOAT)
        new = None
        if rest:
            new = emitter.mask(write_mask(mask.dtype, conditions, mask.added, mask.fill))
        attributes: dict[str, Attribute] = dict(call.node.attributes)
        if causal:
            attributes["is_causal"] = 1
        return build.op("Attention", call.q, call.k, call.v, new, attributes=attributes)

    def _becomes_causal(self, call: AttentionCall, mask: Mask) -> bool:
        if not mask.causal or call.past_key is not None:
            return False
        if mask.others and self.padded_rows == "keep":
            raise Mismatch(
                "it is causal and also hides other keys: a query that sees none would change "
                "(padded_rows=any allows that)"
            )
        return True


def _reducible(rest: Sequence[Expression], mask: onnx_ir.Value) -> bool:
    """Tell whether what the mask means has fewer dimensions than the mask, or other ones are not yet repeated."""
    needed = frozenset[int]().union(*(axes_of(part) for part in rest))
    repeat = mask.producer()
    if is_op(repeat, "Expand") and repeat is not None and repeat.inputs[0] is not None:
        repeated = _axes_with_size(mask) - {QUERY}
        return bool((_axes_with_size(repeat.inputs[0]) | repeated) - needed)
    return bool(_axes_with_size(mask) - needed) or QUERY not in _axes_with_size(mask)


def _axes_with_size(mask: onnx_ir.Value) -> frozenset[int]:
    sizes = dimensions(mask) or ()
    return frozenset(4 - len(sizes) + k for k, size in enumerate(sizes) if size != 1)


def _what_it_is(mask: Mask) -> str:
    kinds = [f"{len(mask.conditions)} conditions"] if mask.conditions else []
    kinds += [f"{len(mask.added)} addends"] if mask.added else []
    return f"the mask is in its smallest form: {', '.join(kinds) or 'nothing'}"
