"""Models whose attention bias is computed from pairs of positions of the input, and calibration data for them."""

import dataclasses

import numpy as np
import onnx_ir
from rewriting import context_of, model_of

from whet.ir.execute import Executor
from whet.ir.values import Array
from whet.passes.workbench import Context, Workbench

__all__ = [
    "HEADS",
    "calibrated",
    "drawn",
    "of_pairs",
    "outputs",
    "workbench",
]

HEADS, SIZE, CHANNELS, HIDDEN = 2, 8, 6, 12
Feeds = dict[str, Array]

PERCEPTRON = """
    xi = Unsqueeze(x, two)  xj = Unsqueeze(x, one)
    p = Mul(xi, xj)
    ai = MatMul(xi, wi)  aj = MatMul(xj, wj)  ap = MatMul(p, wp)
    s = Add(ai, aj)  t = Add(s, ap)  g = Gelu(t)
    z = MatMul(g, wo)
    bias = Transpose<perm=[0, 3, 1, 2]>(z)
"""
"""``z_ij = gelu(W [x_i, x_j, x_i x_j]) C``, a value for each head."""


def of_pairs(nodes: str = PERCEPTRON, inputs: str = "", attributes: str = "") -> onnx_ir.Model:
    """Return an attention of ``x [B, N, CHANNELS]`` whose mask is ``bias``, at opset 23."""
    width = HEADS * SIZE
    model = model_of(
        f"""(float[B,N,{CHANNELS}] x {inputs}) => (float[B,{HEADS},N,{SIZE}] y)
        <int64[1] one = {{1}}, int64[1] two = {{2}}, int64[2] ends = {{1, 2}}, float low = {{-1e30}},
         float big = {{1000.0}}, int64[4] split = {{0, 0, {HEADS}, {SIZE}}}>
        {{
          q0 = MatMul(x, wq)  q1 = Reshape(q0, split)  q = Transpose<perm=[0, 2, 1, 3]>(q1)
          k0 = MatMul(x, wk)  k1 = Reshape(k0, split)  k = Transpose<perm=[0, 2, 1, 3]>(k1)
          v0 = MatMul(x, wv)  v1 = Reshape(v0, split)  v = Transpose<perm=[0, 2, 1, 3]>(v1)
          {nodes}
          y = Attention{attributes}(q, k, v, bias)
        }}""".replace(
            "<int64[1] one",
            f"<float[{CHANNELS},{width}] wq = {_numbers(1, CHANNELS, width)},"
            f" float[{CHANNELS},{width}] wk = {_numbers(2, CHANNELS, width)},"
            f" float[{CHANNELS},{width}] wv = {_numbers(3, CHANNELS, width)},"
            f" float[{CHANNELS},{HIDDEN}] wi = {_numbers(4, CHANNELS, HIDDEN)},"
            f" float[{CHANNELS},{HIDDEN}] wj = {_numbers(5, CHANNELS, HIDDEN)},"
            f" float[{CHANNELS},{HIDDEN}] wp = {_numbers(6, CHANNELS, HIDDEN)},"
            f" float[{HIDDEN},{HEADS}] wo = {_numbers(7, HIDDEN, HEADS)}, int64[1] one",
        ),
        opset=23,
    )
    return model


def _numbers(seed: int, rows: int, columns: int) -> str:
    array = np.random.default_rng(seed).standard_normal((rows, columns)) / np.sqrt(rows)
    return "{" + ", ".join(f"{float(item):.5f}" for item in array.reshape(-1)) + "}"


def drawn(samples: int, length: int, seed: int = 0) -> Feeds:
    """Draw features that lie near a surface of three dimensions, as learned ones do."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((3, CHANNELS))
    x = np.tanh(rng.standard_normal((samples, length, 3)) @ mixing)
    return {"x": x.astype(np.float32)}


def calibrated(model: onnx_ir.Model, *batches: Feeds, seed: int = 0) -> Context:
    return dataclasses.replace(context_of(model), calibration=batches, seed=seed)


def workbench(model: onnx_ir.Model, step: object, context: Context) -> Workbench:
    work = Workbench(model, step, context)  # type: ignore[arg-type]
    step.apply(work)  # type: ignore[attr-defined]
    assert not work.coverage.failures
    return work


def outputs(model: onnx_ir.Model, feeds: Feeds) -> list[Array]:
    return Executor(onnx_ir.serde.serialize_model(model)).run(feeds)
