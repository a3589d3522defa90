"""The attention kernel of ONNX Runtime that is the fastest for each shape."""

import dataclasses
from collections.abc import Hashable, Mapping
from functools import partial
from typing import ClassVar

import onnx_ir

from whet.analysis.activations import observed_shapes
from whet.analysis.prices import Prices
from whet.errors import Mismatch
from whet.ir.values import dimensions
from whet.passes.attention.call import AttentionCall, read_attention
from whet.passes.attention.prices import AttentionWork, attention_times
from whet.passes.base import Fidelity, Pass
from whet.passes.onnxruntime.attention_kernels import (
    KERNELS,
    STANDARD,
    Kernel,
    refuses_standard,
    spell_attention,
)
from whet.passes.onnxruntime.attention_operands import AttentionTask
from whet.passes.onnxruntime.attention_reading import (
    Sizes,
    Surroundings,
    plain_task,
    read_task,
    repeating_nodes,
)
from whet.passes.proposal import Builder, Proposal
from whet.passes.workbench import Workbench

__all__ = ["ChooseAttentionKernel"]

_GAIN = 0.95
"""Another kernel must take less than this share of the time of the standard operator."""
_MOVES = frozenset({"Expand", "Reshape", "Transpose"})


@dataclasses.dataclass(frozen=True)
class ChooseAttentionKernel(Pass):
    """Compute each ``Attention`` with the one of ONNX Runtime's operators that was measured to be the fastest.

    The candidates are the operator itself with operands of rank 4 or 3, MultiHeadAttention, GroupQueryAttention and
    plain products with a softmax, each with the movement of data that it needs and without the one that it saves.
    What ONNX Runtime's kernel of the standard operator refuses, such as a mask that is the same for all queries, is
    spelled so that it runs, with or without measurements.
    """

    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING

    def apply(self, work: Workbench) -> None:
        """Make every attention run, then choose among kernels."""
        nodes = work.nodes("Attention")
        if not nodes:
            return
        sizes, repeated = _sizes(work, nodes), _Repeated()
        for node in nodes:
            _make_runnable(work, node, sizes, repeated)
        prices = work.context.prices
        nodes = work.nodes("Attention")
        if prices is None:
            return
        sizes = _sizes(work, nodes)
        for node in nodes:
            _choose(work, node, sizes, prices)


def _sizes(work: Workbench, nodes: list[onnx_ir.Node]) -> Sizes:
    """Return the sizes of operands and of what surrounds them; the model is run where it does not say them."""
    values = [v for node in nodes for v in (*node.inputs, node.outputs[0]) if v is not None]
    around = [near for value in values for near in _around(value)]
    context = work.context
    shapes = observed_shapes(work.model, [*values, *around], context.bindings, context.threads)
    return Sizes(context.bindings, shapes)


def _around(value: onnx_ir.Value) -> list[onnx_ir.Value]:
    """Return what is one or two movements of data before and behind a value."""
    found: list[onnx_ir.Value] = []
    before, behind = value, value
    for _ in range(2):
        producer = before.producer()
        if producer is not None and producer.op_type in _MOVES and producer.inputs[0] is not None:
            before = producer.inputs[0]
        readers = [use.node for use in behind.uses()]
        if len(readers) == 1 and readers[0].op_type in _MOVES:
            behind = readers[0].outputs[0]
        found += [before, behind]
    return found


@dataclasses.dataclass
class _Repeated:
    """Masks repeated over queries, which the attentions of one model have in common."""

    known: dict[Hashable, onnx_ir.Value] = dataclasses.field(
        default_factory=dict[Hashable, onnx_ir.Value]
    )

    def use(self, task: AttentionTask) -> AttentionTask:
        """Return the task with a mask that an earlier one has repeated."""
        key = _repetition(task)
        if key is None or task.mask is None or key not in self.known:
            return task
        mask = dataclasses.replace(
            task.mask, value=self.known[key], rank=4, rows=True, columns=True
        )
        return dataclasses.replace(task, mask=mask)

    def keep(self, task: AttentionTask, result: onnx_ir.Value) -> None:
        """Remember what the attention that makes ``result`` reads."""
        node, key = result.producer(), _repetition(task)
        mask = node.inputs[3] if node is not None and len(node.inputs) > 3 else None
        if key is not None and mask is not None and task.mask is not None:
            self.known[key] = mask


def _repetition(task: AttentionTask) -> Hashable | None:
    """Return which mask is repeated and how often, or None where that is not known."""
    q, k = (dimensions(x.by_head) or (None,) * 3 for x in (task.q, task.k))
    if task.mask is None or q[2] is None or k[2] is None or task.past is not None:
        return None
    return (task.mask.value, q[2], k[2])


def _make_runnable(work: Workbench, node: onnx_ir.Node, sizes: Sizes, repeated: _Repeated) -> None:
    """Spell what the kernel of the standard operator refuses so that it runs."""
    work.coverage.matched += 1
    try:
        task = plain_task(read_attention(node), sizes)
    except Mismatch as reason:
        work.decline(node, str(reason))
        return
    outputs = [value for value in node.outputs[:3] if value.name]
    if not refuses_standard(task) and (task.past is None or len(outputs) == 3):
        return
    for commit in (work.propose, partial(_accept, work)):
        build = work.builder(node)
        shared = repeated.use(task)
        results = spell_attention(build, shared)
        old = (node, *repeating_nodes(None if shared.mask is None else shared.mask.value))
        if commit(_proposal(old, build, dict(zip(outputs, results, strict=False)))):
            repeated.keep(task, results[0])
            return


def _accept(work: Workbench, proposal: Proposal) -> bool:
    """Commit what cannot be executed before: it has no float64 form or the masks drawn for it hide too many rows."""
    if any(failure.site == proposal.site for failure in work.coverage.failures):
        proposal.discard()
        return False
    before = work.coverage.changed
    work.accept(proposal, "the definition of Attention")
    return work.coverage.changed > before


def _choose(work: Workbench, node: onnx_ir.Node, sizes: Sizes, prices: Prices) -> None:
    """Take the fastest kernel that the proof accepts."""
    try:
        call = read_attention(node)
        task, around = read_task(call, sizes)
        times = attention_times(prices, _work(call, task, around, sizes))
        choices = _faster(task, times)
    except Mismatch as reason:
        work.decline(node, str(reason))
        return
    for choice in choices:
        build = work.builder(node)
        new = _spell(build, choice, task, around)
        if work.propose(_proposal(around.nodes, build, {around.result: new})):
            return


def _work(
    call: AttentionCall, task: AttentionTask, around: Surroundings, sizes: Sizes
) -> AttentionWork:
    """Return what is priced; raises Mismatch where only the standard operator will do."""
    if task.past is not None:
        raise Mismatch("past keys and values are appended by Attention only")
    if any(value.uses() or value.is_graph_output() for value in call.node.outputs[1:]):
        raise Mismatch("the keys or the values are an output")
    if call.q.dtype != onnx_ir.DataType.FLOAT:
        raise Mismatch(f"the operands are of type {call.q.dtype}, expected float32")
    operands = {"q": task.q, "k": task.k, "v": task.v}
    merged = "".join(name for name, operand in operands.items() if operand.is_merged)
    mask = task.mask
    shape = None if mask is None else _shape_of(mask.value, sizes)
    return AttentionWork(
        dataclasses.replace(call.sizes(sizes.observed), mask=shape),
        causal=task.causal,
        mask="" if mask is None else ("bool" if mask.boolean else "float"),
        softcap=task.softcap,
        merged=merged + "y" * task.merged,
        mask_causal=mask is not None and mask.causal,
        hides_rows=None if mask is None else mask.hides_rows,
    )


def _shape_of(mask: onnx_ir.Value, sizes: Sizes) -> tuple[int, ...]:
    shape = sizes.observed.get(mask.name or "")
    if shape is None:
        raise Mismatch(f"the shape of the mask '{mask.name}' is not known")
    return (1,) * (4 - len(shape)) + shape


def _faster(task: AttentionTask, times: Mapping[str, float]) -> list[Kernel]:
    """Return the kernels that are worth it, the fastest first; raises Mismatch without one."""
    if not times:
        raise Mismatch("the runtime has no kernel for it")
    usable = [kernel for kernel in KERNELS if kernel.name in times and not kernel.refuses(task)]
    most = times.get(STANDARD, float("inf")) * _GAIN
    found = [kernel for kernel in usable if kernel.name != STANDARD and times[kernel.name] < most]
    if not found:
        raise Mismatch(", ".join(f"{kernel.name} {times[kernel.name]:.3g} ms" for kernel in usable))
    return sorted(found, key=lambda kernel: times[kernel.name])


def _spell(
    build: Builder, choice: Kernel, task: AttentionTask, around: Surroundings
) -> onnx_ir.Value:
    new = choice.spell(build, task)
    if not around.tokens:
        return new
    return build.op("Reshape", new, build.ints(0, 0, task.q.count, task.v.size))


def _proposal(
    old: tuple[onnx_ir.Node, ...], build: Builder, outputs: Mapping[onnx_ir.Value, onnx_ir.Value]
) -> Proposal:
    return Proposal(old, tuple(outputs.items()), tuple(build.nodes), tuple(build.initializers))
