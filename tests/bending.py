"""Small networks whose whole Hessian can be written down."""

import numpy as np
import onnx_ir
import torch
from onnx import numpy_helper, parser

from whet.analysis.curvature.losses import Loss
from whet.analysis.curvature.problem import Problem
from whet.ir.array import Array

CLASSES, SAMPLES = 3, 12
_DENSE = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,4] x) => (float[N,3] y)
{ a = MatMul (x, w1) b = Add (a, b1) c = Tanh (b) y = MatMul (c, w2) }
"""
_CONVOLUTION = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[N,2,5,5] x) => (float[N,3] y)
{ a = Conv (x, w1) b = Tanh (a) c = GlobalAveragePool (b) d = Flatten (c) y = MatMul (d, w2) }
"""
NETWORKS = {
    "dense": (_DENSE, {"w1": (4, 5), "b1": (5,), "w2": (5, 3)}),
    "convolution": (_CONVOLUTION, {"w1": (3, 2, 3, 3), "w2": (3, 3)}),
}


def model(name: str, seed: int = 0) -> onnx_ir.Model:
    """Return a network with random weights."""
    proto = parser.parse_model(NETWORKS[name][0])
    rng = np.random.default_rng(seed)
    for weight, shape in NETWORKS[name][1].items():
        array = rng.standard_normal(shape).astype(np.float32) * np.float32(0.7)
        proto.graph.initializer.append(numpy_helper.from_array(array, weight))
    return onnx_ir.from_proto(proto)


def problem(
    name: str,
    loss: Loss,
    *,
    labelled: bool = False,
    batch: int = 5,
    seed: int = 0,
    repeat: int = 1,
) -> Problem:
    """Return a problem in float64 over all weights of a network.

    With ``repeat`` the same samples come so often: the mean loss is the same, and there are more draws in a batch.
    """
    net = model(name, seed)
    weights = list(NETWORKS[name][1])
    rng = np.random.default_rng(seed + 1)
    shape = [SAMPLES, *(int(d) for d in net.graph.inputs[0].shape[1:])]
    x = rng.standard_normal(shape).astype(np.float32)
    labels = np.tile(rng.integers(0, CLASSES, SAMPLES), repeat)
    x = np.concatenate([x] * repeat)
    cuts = [slice(k, k + batch) for k in range(0, len(x), batch)]
    return Problem(
        net, weights, [{"x": x[c]} for c in cuts], loss,
        [labels[c] for c in cuts] if labelled else None, torch.float64,
    )  # fmt: skip


def flat(vectors: dict[str, Array] | dict[str, torch.Tensor]) -> Array:
    """Return all parts in one row."""
    return np.concatenate([np.asarray(v).reshape(-1) for v in vectors.values()])


def exact_hessian(of: Problem) -> Array:
    """Return the second derivative of the mean loss by all weights, by differentiating twice by brute force."""
    tensors = list(of.weights.values())
    rows: list[Array] = []
    total = torch.zeros((), dtype=torch.float64)
    for inputs, labels in of.batches():
        total = total + of.loss.values(of.twin(*inputs), labels).sum() / of.count
    slopes = torch.autograd.grad(total, tensors, create_graph=True)
    for part in slopes:
        for entry in part.reshape(-1):
            found = torch.autograd.grad(
                entry, tensors, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows.append(np.concatenate([f.reshape(-1).numpy() for f in found]))
    return np.stack(rows)
