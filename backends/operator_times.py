"""What each operator of a model takes inside the runtime, in a fresh process, beside what its shapes ask for.

ONNX Runtime's own profiler tells time, shapes and bytes of every operator that runs, after its fusions. The least work
follows from the shapes: 2 n k m operations for a product of ``[n, k]`` and ``[k, m]``, and every operand and result
moved once (Williams, Waterman and Patterson, Roofline, CACM 52, 2009).
"""

import dataclasses
import json
import math
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Child, serve
from whet.ir.array import Array
from whet.ir.execute import Executor

__all__ = ["OperatorTime", "operator_times"]

_WARM = 3
_FUSED = 4
"""Operators at most that the runtime puts behind a layer and names it after."""
_PRODUCTS = {
    "MatMul", "FusedMatMul", "Gemm", "FusedGemm", "MatMulNBits", "MatMulInteger", "DynamicQuantizeMatMul",
    "MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "TransposeMatMul",
}  # fmt: skip
_CONVOLUTIONS = {"Conv", "FusedConv", "NhwcFusedConv", "ConvInteger", "QLinearConv"}
_ATTENTIONS = {"Attention", "MultiHeadAttention", "GroupQueryAttention", "QAttention"}
_INTEGER = {
    "MatMulInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "ConvInteger",
    "QLinearConv",
}  # fmt: skip

_DECODERS = {"DequantizeLinear", "Cast", "Mul", "Add", "Sub", "Identity"}
_ADDED = re.compile(r"(_nchwc|_token_\d+|_quant|_fused)+$")
"""What the runtime puts behind the names of operators that it makes."""

Shapes = Sequence[tuple[str, Sequence[int]]]


@dataclasses.dataclass(frozen=True)
class OperatorTime:
    """One operator of the runtime's own form of the model."""

    name: str
    op: str
    layer: str
    """The node of the model file that it computes, as far as its name tells."""
    ms: float
    """The median over runs."""
    flops: float
    """Multiplications and additions; 0 where only bytes are moved."""
    bytes: int
    """Operands, weights and results, each moved once."""
    integer: bool
    """Whether it multiplies integers."""


def operator_times(
    path: Path, options: RuntimeOptions, feeds: Mapping[str, Array], runs: int = 10
) -> list[OperatorTime]:
    """Profile a model file in a process of its own, operators in the order in which they run; raises CannotRun."""
    with _Profiler() as child:
        message = {"path": str(path), "options": options.to_json(), "runs": runs}
        answer, _ = child.ask(message, feeds)
    return [OperatorTime(**row) for row in answer["operators"]]


class _Profiler(Child):
    module: ClassVar[str] = "whet.backends.operator_times"


def _profile(
    message: dict[str, Any], feeds: dict[str, Array]
) -> tuple[dict[str, Any], dict[str, Array]]:
    """Answer the parent: run, and read what the runtime wrote."""
    options = RuntimeOptions.from_json(message["options"])
    path = Path(message["path"])
    with tempfile.TemporaryDirectory(prefix="whet-profile-") as folder:
        runner = Executor(
            path,
            optimization=options.optimization,
            threads=options.threads,
            spin=True,
            config=dict(options.config),
            profile=Path(folder) / "profile",
        )
        for _ in range(_WARM + message["runs"]):
            runner.run(feeds)
        events: list[dict[str, Any]] = json.loads(Path(runner.end_profiling()).read_text())
    rows = _rows(events, _File(path))
    return {"operators": [dataclasses.asdict(row) for row in rows]}, {}


class _File:
    """The model file, where operators of the runtime are looked up by name."""

    def __init__(self, path: Path) -> None:
        import onnx

        graph = onnx.load(str(path), load_external_data=False).graph
        sizes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self._weights: dict[str, tuple[int, ...]] = {}
        self._reads: dict[str, list[str]] = {}
        self._makers: dict[str, str] = {}
        values = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            shape = _decoded(node, sizes, values)
            if shape is not None:
                sizes[node.output[0]] = shape
                continue
            self._reads[node.name] = list(node.input)
            self._makers.update((name, node.name) for name in node.output)
            weights = [sizes[name] for name in node.input if name in sizes]
            if weights:
                self._weights[node.name] = max(weights, key=math.prod)

    def layer(self, name: str) -> str:
        """Return the node that an operator computes: fused ones are called like a node, or like what they return."""
        name = _ADDED.sub("", name)
        if name in self._reads:
            return name
        node = self._makers.get(name)
        for _ in range(_FUSED):
            if node is None or node in self._weights:
                break
            behind = (self._makers[read] for read in self._reads[node] if read in self._makers)
            node = next(behind, None)
        return node or name

    def weight(self, layer: str) -> tuple[int, ...] | None:
        """Return the shape of a node's largest constant operand: the runtime forgets weights that it has repacked."""
        return self._weights.get(layer)


def _decoded(
    node: Any, sizes: Mapping[str, tuple[int, ...]], values: Mapping[str, Any]
) -> tuple[int, ...] | None:
    """Return the shape of a weight that the node decodes: the runtime computes it once, when it loads."""
    if not node.input or node.input[0] not in sizes:
        return None
    if node.op_type == "Reshape" and node.input[1] in values:
        from onnx import numpy_helper

        return tuple(int(d) for d in numpy_helper.to_array(values[node.input[1]]))
    return sizes[node.input[0]] if node.op_type in _DECODERS else None


def _rows(events: Sequence[Mapping[str, Any]], file: _File) -> list[OperatorTime]:
    kernels = [e for e in events if e.get("cat") == "Node" and e["name"].endswith("_kernel_time")]
    seen: dict[str, list[Mapping[str, Any]]] = {}
    for event in kernels:
        seen.setdefault(f"{event['args'].get('node_index')} {event['name']}", []).append(event)
    rows: list[OperatorTime] = []
    for found in seen.values():
        name, args = found[-1]["name"].removesuffix("_kernel_time"), found[-1]["args"]
        kept = found[_WARM:] or found
        ms = float(np.median([e["dur"] for e in kept])) / 1e3
        rows.append(_row(name, args, ms, file))
    return rows


def _row(name: str, args: Mapping[str, Any], ms: float, file: _File) -> OperatorTime:
    op, layer = str(args["op_name"]), file.layer(name)
    weight = file.weight(layer)
    reads, writes = _shapes(args.get("input_type_shape")), _shapes(args.get("output_type_shape"))
    moved = sum(int(args.get(k) or 0) for k in ("output_size", "activation_size"))
    fixed = int(args.get("parameter_size") or 0)
    integer = op in _INTEGER
    if weight is not None and op in _PRODUCTS | _CONVOLUTIONS:
        fixed = max(fixed, math.prod(weight) * (1 if integer or op == "MatMulNBits" else 4))
    return OperatorTime(
        name, op, layer, ms, _flops(op, reads, writes, weight), moved + fixed, integer
    )


def _shapes(found: object) -> Shapes:
    if not isinstance(found, list):
        return []
    return [(str(k), [int(d) for d in v]) for entry in found for k, v in dict(entry).items()]


def _flops(op: str, reads: Shapes, writes: Shapes, weight: tuple[int, ...] | None) -> float:
    """Return the operations of products, convolutions and attentions; others only move bytes."""
    if not reads or not writes:
        return 0.0
    out, first = math.prod(writes[0][1]), reads[0][1]
    if op in _PRODUCTS and first:
        return 2.0 * out * first[-1]
    if op in _CONVOLUTIONS:
        kernel = [shape for _, shape in reads[1:] if len(shape) == len(first) >= 3]
        taken = weight if weight is not None else (kernel[0] if kernel else None)
        return 0.0 if taken is None else 2.0 * out * math.prod(taken[1:])
    if op in _ATTENTIONS and len(reads) > 1 and len(first) >= 3:
        keys = reads[1][1]
        if len(keys) == len(first):
            return 4.0 * out * keys[-2]
    return 0.0


if __name__ == "__main__":
    serve(_profile)
