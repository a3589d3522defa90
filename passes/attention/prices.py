"""What an attention costs in each of the runtime's kernels: measured, once per shape."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import onnx_ir

from whet.analysis.prices import KernelModel, Prices
from whet.errors import Mismatch
from whet.ir.values import Array
from whet.passes.attention.call import AttentionSizes
from whet.passes.kernels import Body, kernel, noise
from whet.passes.onnxruntime.attention_kernels import KERNELS, Kernel
from whet.passes.onnxruntime.attention_operands import (
    LOWEST,
    AttentionTask,
    MaskOperand,
    Operand,
)
from whet.passes.proposal import Builder

__all__ = ["AttentionWork", "attention_times", "fastest", "mask_time"]

_OPSET = 23


@dataclasses.dataclass(frozen=True)
class AttentionWork:
    """An attention to be priced."""

    sizes: AttentionSizes
    causal: bool = False
    mask: Literal["", "float", "bool"] = ""
    """Element type of the mask, whose shape is ``sizes.mask``; "" without one."""
    softcap: float = 0.0
    rank: int = 0
    """Columns from two further inputs ``[1, heads, length, rank]`` that are appended to q and k, and priced with it."""
    merged: str = ""
    """Which of q, k, v and the result y have their heads beside each other: ``[batch, length, heads * size]``.

    The others are ``[batch, heads, length, size]``. The price includes the movement of data that a kernel needs.
    """
    mask_causal: bool = False
    """The mask hides keys after the query, and others."""
    hides_rows: bool | None = None
    """The mask may hide all keys of a query; by default, one of booleans may and one of numbers may not."""

    @property
    def hides(self) -> bool:
        """Tell whether the mask may hide all keys of a query."""
        return self.mask == "bool" if self.hides_rows is None else self.hides_rows

    def __str__(self) -> str:
        """Return the key under which prices are kept."""
        s = self.sizes
        heads = f"{s.heads}" if s.heads == s.key_heads else f"{s.heads}/{s.key_heads}"
        head = f"{s.head}" if s.head == s.value_head else f"{s.head}/{s.value_head}"
        parts = [f"Attention [{s.batch},{heads},{s.queries}x{s.keys},{head}]"]
        parts += ["causal"] if self.causal else []
        if self.mask:
            parts.append(f"open {self.mask} mask [{','.join(map(str, _mask_shape(self)))}]")
        parts += ["that is causal"] if self.mask_causal else []
        parts += ["that hides no row" if self.mask == "bool" else "that hides rows"] * (
            bool(self.mask) and self.hides != (self.mask == "bool")
        )
        parts += [f"softcap {self.softcap:g}"] if self.softcap else []
        parts += [f"rank {self.rank}"] if self.rank else []
        parts += [f"merged {self.merged}"] if self.merged else []
        return " ".join(parts)


def attention_times(prices: Prices, work: AttentionWork) -> Mapping[str, float]:
    """Return kernel -> milliseconds, of the kernels that take the work and run."""
    inputs = _inputs(work)
    plain = _task(work, {name: onnx_ir.Value(name=name) for name in inputs})
    task = _widened(plain, work.rank) if work.rank else plain
    candidates = [choice for choice in KERNELS if not choice.refuses(task)]
    models: dict[str, KernelModel] = {
        choice.name: kernel(inputs, _body(work, choice, list(inputs)), _OPSET)
        for choice in candidates
    }
    return prices.lookup(str(work), models)


def fastest(prices: Prices, work: AttentionWork) -> tuple[str, float]:
    """Return the kernel that takes the least time, and its milliseconds; raises Mismatch if none runs."""
    times = attention_times(prices, work)
    if not times:
        raise Mismatch(f"the runtime has no kernel for {work}")
    name = min(times, key=lambda one: times[one])
    return name, times[name]


def mask_time(prices: Prices, work: AttentionWork) -> float:
    """Return milliseconds to compute a mask of that shape once, from one number per query and one per key."""
    if not work.mask:
        return 0.0
    batch, heads, queries, keys = _mask_shape(work)
    inputs = {"rows": noise((batch, heads, queries, 1)), "columns": noise((1, 1, 1, keys), 1)}

    def body(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        return build.op("Greater" if work.mask == "bool" else "Add", *values)

    name = f"{work.mask} mask [{batch},{heads},{queries},{keys}]"
    return prices.lookup(name, {"computed": kernel(inputs, body, _OPSET)}).get("computed", 0.0)


def _mask_shape(work: AttentionWork) -> tuple[int, int, int, int]:
    shape = work.sizes.mask
    if shape is None or len(shape) != 4:
        raise Mismatch(f"the mask has the shape {shape}, expected four sizes")
    batch, heads, queries, keys = shape
    return batch, heads, queries, keys


def _inputs(work: AttentionWork) -> dict[str, Array]:
    s = work.sizes
    shapes = {
        "q": (s.batch, s.heads, s.queries, s.head),
        "k": (s.batch, s.key_heads, s.keys, s.head),
        "v": (s.batch, s.key_heads, s.keys, s.value_head),
    }
    found: dict[str, Array] = {}
    for seed, (name, (batch, heads, length, size)) in enumerate(shapes.items()):
        together = name in work.merged
        shape = (batch, length, heads * size) if together else (batch, heads, length, size)
        found[name] = noise(shape, seed)
    if work.mask:
        found["mask"] = _mask(work)
    if work.rank:
        found["left"] = noise((1, s.heads, s.queries, work.rank), 4)
        found["right"] = noise((1, s.key_heads, s.keys, work.rank), 5)
    return found


def _mask(work: AttentionWork) -> Array:
    """Draw a mask that hides nothing, or just what comes after the query.

    The weight of a hidden key is a denormal number in the runtime's softmax, and sums over such numbers take several
    times as long. How many there are is up to the data, and is the same with factors in place of the mask.
    """
    shape = _mask_shape(work)
    seen = np.tri(*shape[2:], dtype=np.bool_) if work.mask_causal else np.ones((), np.bool_)
    if work.mask == "bool":
        return np.array(np.broadcast_to(seen, shape))
    drawn = -np.random.default_rng(3).random(shape, dtype=np.float32)
    return np.where(seen, drawn, np.float32(LOWEST))


def _body(work: AttentionWork, choice: Kernel, names: Sequence[str]) -> Body:
    def body(build: Builder, values: Sequence[onnx_ir.Value]) -> onnx_ir.Value:
        named = dict(zip(names, values, strict=True))
        task = _task(work, named)
        if work.rank:
            q = _appended(build, task.q, named["left"], work.sizes.batch)
            k = _appended(build, task.k, named["right"], work.sizes.batch)
            task = dataclasses.replace(task, q=q, k=k)
        return choice.spell(build, task)

    return body


def _appended(build: Builder, operand: Operand, columns: onnx_ir.Value, batch: int) -> Operand:
    """Return ``[columns, operand]``, with the columns repeated over the batch."""
    heads = operand.as_heads(build)
    assert columns.shape is not None
    _, count, length, rank = columns.shape.numpy()
    if batch > 1:
        columns = build.op("Expand", columns, build.ints(batch, count, length, rank))
    whole = build.op("Concat", columns, heads, attributes={"axis": -1})
    return Operand(operand.count, operand.size + rank, by_head=whole)


def _widened(task: AttentionTask, rank: int) -> AttentionTask:
    """Return the task that :func:`_appended` makes, for kernels to look at."""
    q, k = (
        Operand(x.count, x.size + rank, by_head=x.by_head or x.merged) for x in (task.q, task.k)
    )
    return dataclasses.replace(task, q=q, k=k)


def _task(work: AttentionWork, values: Mapping[str, onnx_ir.Value]) -> AttentionTask:
    s = work.sizes
    return AttentionTask(
        q=_operand(work, "q", values, s.heads, s.head),
        k=_operand(work, "k", values, s.key_heads, s.head),
        v=_operand(work, "v", values, s.key_heads, s.value_head),
        scale=1 / math.sqrt(s.head),
        merged="y" in work.merged,
        mask=_mask_operand(work, values),
        causal=work.causal,
        softcap=work.softcap,
        square=s.queries == s.keys,
    )


def _operand(
    work: AttentionWork, name: str, values: Mapping[str, onnx_ir.Value], count: int, size: int
) -> Operand:
    if name in work.merged:
        return Operand(count, size, merged=values[name])
    return Operand(count, size, by_head=values[name])


def _mask_operand(work: AttentionWork, values: Mapping[str, onnx_ir.Value]) -> MaskOperand | None:
    if not work.mask:
        return None
    s, shape = work.sizes, _mask_shape(work)
    return MaskOperand(
        values["mask"],
        rank=4,
        boolean=work.mask == "bool",
        rows=shape[2] == s.queries,
        columns=shape[3] == s.keys,
        heads=shape[1] != 1,
        padding=shape[1] == 1 and shape[2] == 1,
        causal=work.mask_causal,
        hides_rows=work.hides,
    )
