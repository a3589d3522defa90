"""AdaRound for the products of a model: which of them it can learn, on which data, and from where it starts."""

import importlib.util
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
import onnx_ir

from whet.errors import Mismatch, WhetError
from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Blocks, Floats
from whet.passes.quantization.algorithms.arrays import Affine
from whet.passes.quantization.reconstruction import read_layer, reconstruct
from whet.passes.workbench import Context

__all__ = ["learn"]

Feeds = Mapping[str, Array]
Start = Callable[[Floats], Blocks]
_SAMPLES = 1024
"""The first so many samples are learned from: the inputs and outputs of one layer are in memory at once."""


def learn(
    model: onnx_ir.Model,
    start: Mapping[str, Start],
    context: Context,
    activations: Mapping[str, Affine] | None = None,
) -> dict[str, Blocks]:
    """Return what AdaRound makes of the weights of the nodes in ``start``, by the name of the node.

    Nodes that are no layers with a weight of their own are left out. ``activations`` are the grids of values in the
    quantized model. Raises Mismatch where there are no data, no torch, or no twin of the model.
    """
    if not context.calibration:
        raise Mismatch("AdaRound needs calibration data")
    if importlib.util.find_spec("torch") is None:
        raise Mismatch("AdaRound needs torch, which is not installed")
    chosen = {name: start[name] for name in _learnable(model, start)}
    if not chosen:
        return {}
    batches = list(_first(context.calibration, _SAMPLES))
    try:
        return reconstruct(model, batches, chosen, activations=activations)
    except (ValueError, WhetError) as error:
        raise Mismatch(f"AdaRound cannot follow the model: {error}") from error


def _learnable(model: onnx_ir.Model, names: Iterable[str]) -> Iterator[str]:
    """Yield those whose weight nobody else reads."""
    wanted = set(names)
    for node in model.graph:
        if node.name not in wanted:
            continue
        try:
            weight = read_layer(node).node.inputs[1]
        except Mismatch:
            continue
        if weight is not None and len(weight.uses()) == 1:
            yield node.name or ""


def _first(batches: Iterable[Feeds], count: int) -> Iterator[Feeds]:
    """Yield batches that hold the first ``count`` samples together, the last one whole."""
    for batch in batches:
        if count <= 0:
            return
        yield batch
        count -= max((len(a) for a in batch.values() if np.ndim(a)), default=1)
