"""What a model's outputs are worth: how far they move where its weights do by as little as a float can.

Scales that are chosen while a model runs, sorts and thresholds turn a difference in the last bit into one that shows.
Another runtime sums in another order; nobody can ask for more agreement than the model has with itself.
"""

import numpy as np
import onnx_ir

from whet.ir.values import initializers

__all__ = ["shake"]


def shake(model: onnx_ir.Model, seed: int) -> None:
    """Move every float32 weight to the next number above or below, at random, in place; zeros stay."""
    draw = np.random.default_rng(seed)
    for value in initializers(model):
        if value.const_value is None or value.dtype != onnx_ir.DataType.FLOAT:
            continue
        array = value.const_value.numpy()
        towards = np.where(draw.random(array.shape) < 0.5, np.float32(-np.inf), np.float32(np.inf))
        moved = np.where(array == 0, array, np.nextafter(array, towards))
        value.const_value = onnx_ir.tensor(moved.astype(np.float32), name=value.name)
