"""Normalizations and pooling: what is averaged over never changes, unless the average can be put right."""

from collections.abc import Mapping

from whet.analysis.coupling.rules_linear import factored
from whet.analysis.coupling.trace import Axes, Rule, Use

__all__ = ["NORMALIZATION"]


def _layer_norm(use: Use) -> list[Axes | None]:
    """Fix the axes that mean and variance are taken over: without some channels both would be others."""
    axes = use.axes(0)
    if axes is None:
        return use.give_up("works on a value of unknown rank")
    first = use.number("axis", -1) % len(axes)
    use.fix(axes[first:], "takes mean and variance over them")
    for k in range(1, len(use.operands)):
        use.fix(use.axes(k) or (), "takes mean and variance over them")
    return [axes] * len(use.node.outputs)


def _rms_norm(use: Use) -> list[Axes | None]:
    """Join channels with their scales: zeros add nothing to the mean of squares, only to what it is divided by."""
    axes, scale = use.axes(0), use.axes(1)
    if axes is None or scale is None:
        return use.give_up("works on a value of unknown rank")
    if use.number("axis", -1) % len(axes) != len(axes) - 1 or len(scale) != 1:
        return _layer_norm(use)
    if use.sizes(1) != use.sizes(0)[-1:]:
        use.fix((axes[-1], scale[0]), "has a single scale for them")
        return [axes]
    use.join(axes[-1], scale[0])
    use.tag(axes[-1], "normalized")
    return [axes]


def _instance_norm(use: Use) -> list[Axes | None]:
    axes = use.axes(0)
    if axes is None:
        return use.give_up("works on a value of unknown rank")
    use.fix(axes[2:], "takes mean and variance over them")
    for k in (1, 2):
        vector = use.axes(k)
        if use.sizes(k) != (1,):
            use.join(axes[1], vector[0] if vector else None)
    return [(*axes[:2], *(None,) * (len(axes) - 2))]


def _group_norm(use: Use) -> list[Axes | None]:
    """Let whole groups go: the mean is taken over the channels of one group."""
    axes = use.axes(0)
    channels = use.sizes(0)[1] if axes is not None else None
    groups = use.number("num_groups", 0)
    if axes is None or not isinstance(channels, int) or not groups or channels % groups:
        return use.give_up("is not understood in this form")
    use.fix(axes[2:], "takes mean and variance over them")
    group, inner = factored(use, axes[1], (groups, channels // groups))
    use.fix((inner,), "takes mean and variance over a group of them")
    for k in (1, 2):
        vector, count = use.axes(k), use.sizes(k)
        if vector and count != (1,):
            use.join(axes[1] if count == (channels,) else group, vector[0])
    return [(*axes[:2], *(None,) * (len(axes) - 2))]


def _pool(use: Use) -> list[Axes | None]:
    axes = use.axes(0)
    if axes is None:
        return use.give_up("works on a value of unknown rank")
    use.leave(axes[2:])
    found = (*axes[:2], *(None,) * (len(axes) - 2))
    return [found] * len(use.node.outputs)


def _resize(use: Use) -> list[Axes | None]:
    """Return the axes whose size stays; scales and sizes must be constants where channels are concerned."""
    axes, before, after = use.axes(0), use.sizes(0), use.out_sizes()
    if axes is None or after is None or len(after) != len(axes):
        return use.give_up("works on a value of unknown rank")
    moved = [k for k in range(len(axes)) if before[k] != after[k]]
    use.fix([axes[k] for k in moved], "interpolates between them")
    for k in range(1, len(use.operands)):
        use.fix(use.axes(k) or (), "reads it as a number")
    return [tuple(None if k in moved else axes[k] for k in range(len(axes)))]


_POOLS = ("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool", "GlobalLpPool")
NORMALIZATION: Mapping[str, Rule] = {
    **dict.fromkeys(_POOLS, _pool),
    "GroupNormalization": _group_norm,
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "Resize": _resize,
}
