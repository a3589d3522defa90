"""ONNX Runtime's own operators that join an embedding with a norm and a convolution with an activation."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from whet.errors import UnsupportedModel
from whet.ir.twin.ops.convolution import conv
from whet.ir.twin.ops.normalization import layer_normalization
from whet.ir.twin.registry import op


def _leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return torch.where(x < 0, alpha * x, x)


def _hard_sigmoid(x: Tensor, alpha: float, beta: float) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


_ACTIVATIONS: dict[str, Callable[..., Tensor]] = {
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "LeakyRelu": _leaky_relu,
    "Clip": torch.clamp,
    "HardSigmoid": _hard_sigmoid,
}


@op("FusedConv", domain="com.microsoft")
def fused_conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    skip: Tensor | None = None,
    *,
    activation: str,
    activation_params: Sequence[float] = (),
    auto_pad: str = "NOTSET",
    group: int = 1,
    kernel_shape: Sequence[int] | None = None,
    dilations: Sequence[int] | None = None,
    pads: Sequence[int] | None = None,
    strides: Sequence[int] | None = None,
) -> Tensor:
    """Compute ``activation(conv(x) + skip)``."""
    if activation not in _ACTIVATIONS:
        raise UnsupportedModel(f"FusedConv with {activation} has no twin")
    y: Tensor = conv(
        x,
        weight,
        bias,
        auto_pad=auto_pad,
        group=group,
        kernel_shape=kernel_shape,
        dilations=dilations,
        pads=pads,
        strides=strides,
    )
    return _ACTIVATIONS[activation](y if skip is None else y + skip, *activation_params)


@op("EmbedLayerNormalization", domain="com.microsoft", returns_tuple=True)
def embed_layer_normalization(
    ids: Tensor,
    kinds: Tensor | None,
    words: Tensor,
    positions: Tensor,
    types: Tensor | None,
    scale: Tensor,
    shift: Tensor,
    mask: Tensor | None = None,
    places: Tensor | None = None,
    *,
    epsilon: float = 1e-12,
    mask_index_type: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Normalize the sum of word, position and token type embeddings; also count the words of each mask, and the sum."""
    where = torch.arange(ids.shape[1]).unsqueeze(0) if places is None else places.long()
    total = words[ids.long()] + positions[where]
    if kinds is not None and types is not None:
        total = total + types[kinds.long()]
    y, _, _ = layer_normalization(total, scale, shift, axis=-1, epsilon=epsilon)
    lengths = torch.zeros(len(ids)) if mask is None else mask.sum(dim=1)
    return y, lengths.to(torch.int32), total
