"""From what people have at hand (numpy, torch, lists, dicts) to arrays by input."""

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from whet.errors import UsageError
from whet.ir.array import Array

__all__ = ["read_array", "read_feeds"]


def read_feeds(
    given: Sequence[object], named: Mapping[str, object], names: Sequence[str]
) -> dict[str, Array]:
    """Return arrays by name from one dict, from arrays (or one list of them) in the order of ``names``, and keywords.

    Raises:
        UsageError: more arrays than inputs, or an input that is given twice.
    """
    if len(given) == 1 and isinstance(given[0], Mapping):
        first = cast("Mapping[str, object]", given[0])
    else:
        arrays = given[0] if len(given) == 1 and isinstance(given[0], list | tuple) else given
        found = list(cast("Sequence[object]", arrays))
        if len(found) > len(names):
            raise UsageError(f"{len(found)} arrays given, the model has inputs {list(names)}")
        first = dict(zip(names, found, strict=False))
    twice = sorted(first.keys() & named.keys())
    if twice:
        raise UsageError(f"inputs {twice} are given twice, by keyword and before")
    return {name: read_array(value) for name, value in {**first, **named}.items()}


def read_array(value: object) -> Array:
    """Return a numpy array of the same numbers: of a torch tensor on any device, with or without a gradient, too."""
    if not type(value).__module__.startswith("torch"):
        return np.asarray(value)
    tensor = cast("Any", value).detach().cpu()
    if str(tensor.dtype) != "torch.bfloat16":
        return cast("Array", tensor.numpy())
    import ml_dtypes
    import torch

    return cast("Array", tensor.contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16))
