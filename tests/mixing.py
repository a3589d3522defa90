"""A small network with real candidates, for tests of the search."""

import functools

import numpy as np
import onnx_ir
from folding import BINDINGS, build

from whet.passes.base import Pass
from whet.passes.registry import parse_passes
from whet.passes.workbench import Context
from whet.solve.offers import Market, make_market
from whet.solve.variants import Variant, change, take_apart

NETWORK = """
(float[N,64] x) => (float[N,8] y) {
    a = MatMul (x, w1) b = Relu (a) c = MatMul (b, w2) d = Relu (c) y = MatMul (d, w3)
}
"""
STEPS = "quantize-codebooks{bits=4,minimum=64},quantize-codebooks{bits=2,minimum=64}"


def network() -> onnx_ir.Model:
    """Return three products with two Relus between them; nodes have names."""
    rng = np.random.default_rng(0)
    shapes = {"w1": (64, 48), "w2": (48, 32), "w3": (32, 8)}
    weights = {
        k: (rng.standard_normal(s) / np.sqrt(s[0])).astype(np.float32) for k, s in shapes.items()
    }
    model = build(NETWORK, weights, opset=21)
    for number, node in enumerate(model.graph):
        node.name = f"{node.op_type}_{number}"
    return model


def context() -> Context:
    """Return data to fit on, and others to judge by."""
    rng = np.random.default_rng(1)
    batches = [{"x": rng.standard_normal((32, 64)).astype(np.float32)} for _ in range(3)]
    return Context(bindings=BINDINGS, calibration=tuple(batches[:2]), held_out=(batches[2],))


def make_variant(model: onnx_ir.Model, step: Pass, given: Context) -> Variant:
    """Apply a pass to a copy of the model, with proof, and take apart what it made."""
    return take_apart(model, step, change(model, step, given))


@functools.cache
def variants(steps: str = STEPS) -> tuple[Variant, ...]:
    """Return what passes make of the network."""
    return tuple(make_variant(network(), step, context()) for step in parse_passes(steps))


def market(steps: str = STEPS) -> Market:
    """Return what passes offer."""
    return make_market(network(), parse_passes(steps), context())[0]
