"""How others choose: the same bits everywhere, by the error of weights per byte, by Hessian traces."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import onnx_ir

from whet.analysis.curvature.hutchinson import hessian_traces
from whet.analysis.curvature.losses import OwnValues
from whet.analysis.curvature.problem import Problem as Curved
from whet.ir.values import Array, constant
from whet.passes.quantization.algorithms.approximation import Layer
from whet.passes.quantization.algorithms.rounding import round_to_nearest
from whet.solve.allocation import Doubles, Limits, Plan, Problem
from whet.solve.offers import Group, Market
from whet.solve.strategies import hawq_v2, ratio_greedy, uniform

__all__ = ["bits_of", "rivals"]

_PROBES = 64
_IMAGES = 32


def rivals(
    model: onnx_ir.Model, market: Market, problem: Problem, samples: Sequence[Mapping[str, Array]]
) -> Mapping[str, Callable[[Limits], Plan]]:
    """Return name -> a function from limits to a plan."""
    errors = [_weight_errors(model, group) for group in market.groups]
    names = [group.sites[0].weights[0] for group in market.groups]
    curved = Curved(model, names, list(samples)[:_IMAGES], OwnValues())
    traces = hessian_traces(curved, _PROBES)
    means = [max(traces[name].value, 0.0) / traces[name].size for name in names]
    return {
        "uniform": lambda limits: uniform(problem, limits),
        "weight error per byte": lambda limits: ratio_greedy(problem, limits, errors),
        "HAWQ-V2": lambda limits: hawq_v2(problem, limits, means, errors),
    }


def bits_of(label: str) -> int:
    """Return the bits that a candidate stores weights in; 32 for those that stay."""
    for bits in (2, 3, 4):
        if f"bits={bits}" in label:
            return bits
    if label == "keep":
        return 32
    return 4 if label.startswith("quantize-weights") and "bits=8" not in label else 8


def _weight_errors(model: onnx_ir.Model, group: Group) -> Doubles:
    """Return ||Q(W) - W||² of each option, rounding to the nearest with a scale for each row."""
    array = constant(model.graph.initializers[group.sites[0].weights[0]])
    assert array is not None
    wide = array.astype(np.float64)
    rows = wide.reshape(len(wide), -1) if wide.ndim > 2 else np.ascontiguousarray(wide.T)
    found: list[float] = []
    for offer in group.offers:
        bits = bits_of(offer.label)
        if bits == 32:
            found.append(0.0)
            continue
        near = round_to_nearest(Layer(rows.astype(np.float32)), bits, clip="extremes").values()
        found.append(float(np.square(near - rows).sum()))
    return np.asarray(found)
