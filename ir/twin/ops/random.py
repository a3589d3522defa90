"""Random numbers; a seed attribute makes them repeatable, else torch's global generator is used."""

from collections.abc import Sequence

import torch
from torch import Tensor

from whet.ir.twin.element_types import torch_type
from whet.ir.twin.registry import op


def _generator(seed: float | None) -> torch.Generator | None:
    if seed is None:
        return None
    return torch.Generator().manual_seed(hash(float(seed)) & 0x7FFFFFFF)


def _normal(
    shape: Sequence[int], dtype: torch.dtype, mean: float, scale: float, seed: float | None
) -> Tensor:
    return torch.randn(list(shape), generator=_generator(seed), dtype=dtype) * scale + mean


def _uniform(
    shape: Sequence[int], dtype: torch.dtype, low: float, high: float, seed: float | None
) -> Tensor:
    return torch.rand(list(shape), generator=_generator(seed), dtype=dtype) * (high - low) + low


@op("RandomNormal", since=1)
def random_normal(
    *, dtype: int, mean: float, scale: float, shape: Sequence[int], seed: float | None = None
) -> Tensor:
    """Draw from a normal distribution."""
    return _normal(shape, torch_type(dtype), mean, scale, seed)


@op("RandomNormalLike", since=1)
def random_normal_like(
    x: Tensor, *, mean: float, scale: float, dtype: int | None = None, seed: float | None = None
) -> Tensor:
    """Draw a tensor of the input's shape from a normal distribution."""
    return _normal(x.shape, torch_type(dtype) if dtype else x.dtype, mean, scale, seed)


@op("RandomUniform", since=1)
def random_uniform(
    *, dtype: int, high: float, low: float, shape: Sequence[int], seed: float | None = None
) -> Tensor:
    """Draw from a uniform distribution."""
    return _uniform(shape, torch_type(dtype), low, high, seed)


@op("RandomUniformLike", since=1)
def random_uniform_like(
    x: Tensor, *, high: float, low: float, dtype: int | None = None, seed: float | None = None
) -> Tensor:
    """Draw a tensor of the input's shape from a uniform distribution."""
    return _uniform(x.shape, torch_type(dtype) if dtype else x.dtype, low, high, seed)


@op("Bernoulli", since=15)
def bernoulli(x: Tensor, *, dtype: int | None = None, seed: float | None = None) -> Tensor:
    """Draw ones with the given probabilities."""
    drawn = torch.bernoulli(x, generator=_generator(seed))
    return drawn.to(torch_type(dtype) if dtype else x.dtype)


@op("Multinomial", since=7)
def multinomial(x: Tensor, *, dtype: int, sample_size: int, seed: float | None = None) -> Tensor:
    """Draw classes by unnormalized log-probabilities."""
    drawn = torch.multinomial(
        torch.softmax(x, dim=-1), sample_size, replacement=True, generator=_generator(seed)
    )
    return drawn.to(torch_type(dtype))


def _dropped(x: Tensor, ratio: float, training: bool, seed: float | None) -> tuple[Tensor, Tensor]:
    if not training or ratio == 0:
        return x, torch.ones_like(x, dtype=torch.bool)
    mask = torch.rand(x.shape, generator=_generator(seed)) >= ratio
    return torch.where(mask, x / (1 - ratio), torch.zeros_like(x)), mask


@op("Dropout", since=7)
def dropout_7(x: Tensor, *, ratio: float) -> tuple[Tensor, Tensor]:
    """Return the input; these versions only infer."""
    return _dropped(x, ratio, False, None)


@op("Dropout", since=12)
def dropout(
    x: Tensor,
    ratio: Tensor | None = None,
    training_mode: Tensor | None = None,
    *,
    seed: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Zero elements at random and scale the rest, if in training mode; also return the mask."""
    training = training_mode is not None and bool(training_mode)
    return _dropped(x, 0.5 if ratio is None else float(ratio), training, seed)
