"""Attention with a bias that the graph computes: the model as text, the same in float64."""

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir
from rewriting import context_of, model_of

from whet.ir.execute import Executor
from whet.ir.shapes import infer_shapes
from whet.ir.values import Array, dimensions
from whet.passes.base import Coverage, Pass
from whet.passes.workbench import Workbench

__all__ = ["Biased", "apply_pass", "attend", "feeds_of", "relative", "square_values"]

HEADS, SIZE = 4, 8
Feeds = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Biased:
    """A bias as nodes that end in ``bias``, and its value for queries i [n, 1] and keys j [1, m]."""

    nodes: str
    value: Callable[[Feeds, Array, Array], Array]
    rank: int
    inputs: str = ""
    attributes: str = ""

    def model(self) -> onnx_ir.Model:
        return model_of(
            f"""(float[B,{HEADS},N,{SIZE}] q, float[B,{HEADS},M,{SIZE}] k, float[B,{HEADS},M,3] v {self.inputs})
            => (float[B,{HEADS},N,3] y)
            <float[4] slopes = {{0.5, 0.25, 0.125, 0.0625}}, float[4] odd = {{0.63, 0.397, 0.25, 0.157}},
             float[4] mixed = {{0.5, -0.3, 0.0, 1.5}}, int64 zero = {{0}}, int64 one = {{1}},
             int64[1] first = {{0}}, int64[1] last = {{-1}}, int64[2] ends = {{-2, -1}},
             int64[2] ax12 = {{1, 2}}, int64[1] ax1 = {{1}}, int64[1] ax2 = {{2}}, int64[1] four = {{4}},
             float two = {{2.0}}, float unit = {{1.0}}, float half = {{0.5}},
             float shift = {{0.0}}, float least = {{-3.4e38}}>
            {{
              n = Shape<start=2, end=3>(q)  m = Shape<start=2, end=3>(k)
              n0 = Squeeze(n)  m0 = Squeeze(m)
              i0 = Range(zero, n0, one)  j0 = Range(zero, m0, one)
              i = Unsqueeze(i0, last)  j = Unsqueeze(j0, first)
              {self.nodes}
              y = Attention{self.attributes}(q, k, v, bias)
            }}""",
            opset=23,
        )


def feeds_of(
    model: onnx_ir.Model, batch: int, queries: int, keys: int, seed: int = 0
) -> dict[str, Array]:
    """Draw inputs; integers are 0 or 1, and the first key of each sample is 1."""
    rng = np.random.default_rng(seed)
    sizes = {"B": batch, "N": queries, "M": keys}
    found: dict[str, Array] = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else sizes[str(d)] for d in dimensions(value) or ()]
        assert value.dtype is not None
        if value.dtype.is_floating_point():
            array = rng.standard_normal(shape).astype(np.float32)
        else:
            array = (rng.random(shape) < 0.7).astype(value.dtype.numpy())
            array[..., 0] = 1
        found[value.name or ""] = array
    return found


def attend(feeds: Feeds, bias: Array) -> Array:
    """Return softmax(q k' / sqrt(d) + bias) v in float64."""
    q, k, v = (feeds[name].astype(np.float64) for name in "qkv")
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(q.shape[-1]) + bias
    scores -= scores.max(-1, keepdims=True)
    weights = np.exp(scores)
    return (weights / weights.sum(-1, keepdims=True)) @ v


def relative(found: Array, wanted: Array) -> float:
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def apply_pass(model: onnx_ir.Model, step: Pass, **context: object) -> Coverage:
    work = Workbench(model, step, dataclasses.replace(context_of(model), **context))
    step.apply(work)
    assert not work.coverage.failures
    infer_shapes(model)
    return work.coverage


def run(model: onnx_ir.Model, feeds: Feeds) -> Array:
    return Executor(onnx_ir.serde.serialize_model(model)).run(feeds)[0]


def square_values(model: onnx_ir.Model) -> list[str]:
    """Return the values that have a size for every pair of query and key."""
    return [
        f"{node.op_type} {dimensions(value)}"
        for node in model.graph
        for value in node.outputs
        if {"N", "M"} <= set(map(str, dimensions(value) or ()))
    ]
