"""What the twin does to the arguments of a call before the first node."""

import torch

from whet.errors import UsageError


def input_or_default(value: torch.Tensor | None, default: torch.Tensor) -> torch.Tensor:
    """Take the initializer of an input that was left out."""
    return default if value is None else value


def required_input(value: torch.Tensor | None, name: str) -> torch.Tensor:
    """Refuse a missing input that stands behind one that may be left out."""
    if value is None:
        raise UsageError(f"input {name!r} of the model has no initializer, and no value was given")
    return value


def matched_type(value: torch.Tensor | None, dtype: torch.dtype) -> torch.Tensor | None:
    """Cast a floating input to the twin's type."""
    if isinstance(value, torch.Tensor) and value.is_floating_point():
        return value.to(dtype)
    return value
