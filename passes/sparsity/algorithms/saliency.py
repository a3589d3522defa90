"""What each weight seems to be worth, from the weights alone or with the size of what they are multiplied with."""

import numpy as np

from whet.ir.array import Array
from whet.passes.quantization.algorithms.approximation import Doubles

__all__ = ["magnitude", "wanda"]


def magnitude(weights: Array) -> Doubles:
    """Return w², ``[outputs, inputs]``."""
    return np.square(weights, dtype=np.float64)


def wanda(weights: Array, gram: Doubles) -> Doubles:
    """Return (|w| ||x||)² (Sun et al., A Simple and Effective Pruning Approach for Large Language Models, 2023).

    ``gram`` is the mean of x xᵀ, whose diagonal is the mean of x².
    """
    return magnitude(weights) * np.maximum(np.diagonal(gram), 0.0)
