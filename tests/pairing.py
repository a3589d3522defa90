"""Models whose attention bias is computed from pairs of positions of the input, and calibration data for them."""

import dataclasses

import numpy as np
import onnx_ir
from rewriting import context_of, model_of

from whet.ir.execute import Executor
from whet.ir.values import Array
from whet.passes.base import Pass
from whet.passes.workbench import Context, Workbench

__all__ = [
    "HEADS",
    "calibrated",
    "drawn",
    "of_pairs",
    "outputs",
    "workbench",
]

HEADS, SIZE, CHANNELS, HIDDEN, LENGTH = 2, 8, 6, 12, 24
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


MATRICES = {
    "wq": (CHANNELS, HEADS * SIZE),
    "wk": (CHANNELS, HEADS * SIZE),
    "wv": (CHANNELS, HEADS * SIZE),
    "wi": (CHANNELS, HIDDEN),
    "wj": (CHANNELS, HIDDEN),
    "wp": (CHANNELS, HIDDEN),
    "wo": (HIDDEN, HEADS),
    "wc": (2 * CHANNELS, HIDDEN),
    "wn": (CHANNELS, 2),
    "wm": (2, CHANNELS),
    "table": (LENGTH, LENGTH),
}
NUMBERS = (
    "float zero = {0}, float unit = {1}, float big = {1000}, float c0 = {-1e30}, float c1 = {-1e9}"
)
AXES = (
    "int64[1] first = {0}, int64[1] one = {1}, int64[1] two = {2}, int64[1] three = {3},"
    " int64[2] ends = {1, 2}, int64 axis = {1}"
)


def of_pairs(nodes: str = PERCEPTRON, inputs: str = "", attributes: str = "") -> onnx_ir.Model:
    """Return an attention of ``x [B, N, CHANNELS]`` whose mask is ``bias``, at opset 23."""
    matrices = (_matrix(k, name, *shape) for k, (name, shape) in enumerate(MATRICES.items(), 1))
    heads = "\n".join(
        f"{n}0 = MatMul(x, w{n}) {n}1 = Reshape({n}0, split) {n} = Transpose<perm=[0, 2, 1, 3]>({n}1)"
        for n in "qkv"
    )
    return model_of(
        f"""(float[B,N,{CHANNELS}] x {inputs}) => (float[B,{HEADS},N,{SIZE}] y)
        <{", ".join(matrices)}, {NUMBERS}, {AXES}, int64[4] split = {{0, 0, {HEADS}, {SIZE}}}>
        {{ {heads} {nodes} y = Attention{attributes}(q, k, v, bias) }}""",
        opset=23,
    )


def _matrix(seed: int, name: str, rows: int, columns: int) -> str:
    array = np.random.default_rng(seed).standard_normal((rows, columns)) / np.sqrt(rows)
    numbers = ", ".join(f"{float(item):.5f}" for item in array.reshape(-1))
    return f"float[{rows},{columns}] {name} = {{{numbers}}}"


def drawn(samples: int, length: int, seed: int = 0) -> Feeds:
    """Draw features that lie near a surface of three dimensions, as learned ones do."""
    rng = np.random.default_rng(seed)
    mixing = np.random.default_rng(99).standard_normal((3, CHANNELS))
    x = np.tanh(rng.standard_normal((samples, length, 3)) @ mixing)
    return {"x": x.astype(np.float32)}


def calibrated(model: onnx_ir.Model, *batches: Feeds, seed: int = 0) -> Context:
    return dataclasses.replace(context_of(model), calibration=batches, seed=seed)


def workbench(model: onnx_ir.Model, step: Pass, context: Context) -> Workbench:
    work = Workbench(model, step, context)
    step.apply(work)
    assert not work.coverage.failures
    return work


def outputs(model: onnx_ir.Model, feeds: Feeds) -> list[Array]:
    return Executor(onnx_ir.serde.serialize_model(model)).run(feeds)
