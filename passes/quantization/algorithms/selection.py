"""Try several approximations of a layer and keep the one with the smallest error."""

import functools
import math
from collections.abc import Callable, Mapping

from whet.passes.quantization.algorithms.approximation import Approximation, Blocks, Layer
from whet.passes.quantization.algorithms.gptq import gptq
from whet.passes.quantization.algorithms.refinement import refine_codes
from whet.passes.quantization.algorithms.rounding import round_to_nearest

__all__ = ["best", "integer_candidates"]

_GAIN = 1e-6
"""A candidate replaces a simpler one if its error is smaller by more than this share."""


def best(
    layer: Layer, candidates: Mapping[str, Callable[[], Approximation]]
) -> tuple[str, Approximation, Mapping[str, float]]:
    """Run all candidates; return the best one's name, the best one, and the errors of all by name.

    Candidates go from the simplest to the most elaborate: the first one, rounding to the nearest, is what none may be
    worse than, and of equals the first is kept. Errors are ``layer.error``; one that is no number loses. Raises
    ValueError without candidates.
    """
    if not candidates:
        raise ValueError("no candidate to choose from")
    chosen: tuple[str, Approximation] | None = None
    errors: dict[str, float] = {}
    for name, run in candidates.items():
        found = run()
        error = layer.error(found)
        errors[name] = math.inf if math.isnan(error) else error
        if chosen is None or errors[name] < errors[chosen[0]] * (1 - _GAIN):
            chosen = name, found
    assert chosen is not None
    return *chosen, errors


def integer_candidates(
    layer: Layer, bits: int, size: int | None = None, *, symmetric: bool = True, full: bool = False
) -> dict[str, Callable[[], Blocks]]:
    """Return the ways to round a layer to integers for :func:`best`; only the first works without a Gram matrix."""
    nearest = functools.partial(round_to_nearest, layer, bits, size, symmetric=symmetric, full=full)
    if layer.gram is None:
        return {"nearest": nearest}
    fed_back = functools.cache(
        functools.partial(gptq, layer, bits, size, symmetric=symmetric, full=full)
    )
    return {
        "nearest": nearest,
        "gptq": fed_back,
        "gptq refined": lambda: refine_codes(layer, fed_back()),
    }
