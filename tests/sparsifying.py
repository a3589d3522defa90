"""A small network of two products as sparsity sees it."""

import dataclasses

import numpy as np
import onnx_ir
from folding import BINDINGS, build

from whet.ir.values import Array
from whet.passes.quantization.layers import find_weights, measure_grams
from whet.passes.sparsity.sparsify_weights import SparsifyWeights
from whet.passes.sparsity.targets import Target
from whet.passes.workbench import Context, Workbench

TEXT = """(float[N,12] x) => (float[N,6] y)
{ a = Gemm(x, u, b) h = Relu(a) y = MatMul(h, v) }"""


def network(seed: int = 0) -> onnx_ir.Model:
    rng = np.random.default_rng(seed)
    shapes = {"u": (12, 16), "b": (16,), "v": (16, 6)}
    return build(TEXT, {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()})


MIX = np.random.default_rng(9).standard_normal((12, 12))


def samples(count: int = 4, seed: int = 1) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    return [{"x": (rng.standard_normal((64, 12)) @ MIX).astype(np.float32)} for _ in range(count)]


def bench_of(model: onnx_ir.Model) -> Workbench:
    context = Context(bindings=BINDINGS, calibration=samples(), held_out=samples(2, seed=2))
    return Workbench(model, SparsifyWeights(minimum=1), context)


def targets_of(work: Workbench) -> list[Target]:
    weights, _ = find_weights(work.nodes())
    grams = measure_grams(work.model, weights, work.context, work.context.calibration)
    found = [Target(w, np.ascontiguousarray(w.matrix(), np.float32)) for w in weights]
    return [dataclasses.replace(t, grams=tuple(grams[t.weight.value])) for t in found]
