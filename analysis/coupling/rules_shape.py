"""Operators that move indices about: reshapes, transposes, concatenations, cuts."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from whet.analysis.coupling.rules_linear import factored
from whet.analysis.coupling.terms import Vector
from whet.analysis.coupling.trace import Axes, Rule, Use
from whet.analysis.size_arithmetic import Size
from whet.ir.values import attribute_ints, attribute_string

__all__ = ["SHAPE", "blocks"]

Sizes = Sequence[Size | None]
Block = tuple[range, range]


def blocks(old: Sizes, new: Sizes) -> tuple[list[Block], list[int]]:
    """Match axes before and after a reshape that hold the same elements; also return the old axes left over.

    Equal sizes match from the front, then equal products of as few axes as possible from the end.
    """
    found: list[Block] = []
    start = 0
    while start < min(len(old), len(new)) and old[start] == new[start] is not None:
        found.append((range(start, start + 1), range(start, start + 1)))
        start += 1
    p, q = len(old), len(new)
    while (last := _last(old[start:p], new[start:q])) is not None:
        a, b = start + last[0], start + last[1]
        found.append((range(a, p), range(b, q)))
        p, q = a, b
    return found, list(range(start, p))


def _last(old: Sizes, new: Sizes) -> tuple[int, int] | None:
    a, b = len(old) - 1, len(new) - 1
    while a >= 0 and b >= 0:
        if a == len(old) - 1 and b == len(new) - 1 and old[a] == new[b] is not None:
            return a, b
        left, right = _product(old[a:]), _product(new[b:])
        if left is None or right is None:
            return None
        if left == right:
            return a, b
        a, b = (a - 1, b) if left < right else (a, b - 1)
    return None


def _product(sizes: Sizes) -> int | None:
    numbers = [size for size in sizes if isinstance(size, int)]
    return math.prod(numbers) if len(numbers) == len(sizes) else None


def _reshape(use: Use) -> list[Axes | None]:
    known = use.trace.sizes
    old, new = known.shape(use.node.inputs[0]), known.shape(use.node.outputs[0])
    axes = use.axes(0)
    if axes is None or old is None or new is None:
        return use.give_up("has a shape that is not known")
    if all(vector is None for vector in axes):
        return [None]
    pairs, rest = blocks(old, new)
    use.fix([axes[k] for k in rest], "mixes them with axes of unknown size")
    found: list[Vector | None] = [None] * len(new)
    for before, after in pairs:
        parts = _regrouped(use, axes, (old, before), (new, after))
        for axis, vector in zip(after, parts, strict=True):
            found[axis] = vector
    return [tuple(found)]


def _regrouped(
    use: Use, axes: Axes, source: tuple[Sizes, range], target: tuple[Sizes, range]
) -> list[Vector | None]:
    (old, before), (new, after) = source, target
    if all(axes[k] is None for k in before):
        return [None] * len(after)
    if len(before) == len(after) == 1:
        return [axes[before[0]]]
    flat: Vector = np.zeros(1, np.int64)
    for k in before:
        vector = axes[k]
        part = np.zeros(int(str(old[k])), np.int64) if vector is None else vector
        flat = use.trace.terms.outer(flat, part)
    return factored(use, flat, [int(str(new[k])) for k in after])


def _transpose(use: Use) -> list[Axes | None]:
    axes = use.axes(0)
    if axes is None:
        return [None]
    order = attribute_ints(use.node, "perm") or tuple(reversed(range(len(axes))))
    return [tuple(axes[k] for k in order)]


def _expand(use: Use) -> list[Axes | None]:
    """Return the axes with new ones: copies can be left out one by one as long as nobody minds."""
    axes, before, after = use.axes(0), use.sizes(0), use.out_sizes()
    if axes is None or after is None:
        return use.give_up("has a shape that is not known")
    lead = len(after) - len(axes)
    found: list[Vector | None] = []
    for k, size in enumerate(after):
        old = before[k - lead] if k >= lead else 1
        if old != 1:
            found.append(axes[k - lead])
        else:
            grown = isinstance(size, int) and size > 1
            found.append(use.trace.terms.fresh(int(str(size))) if grown else None)
    return [tuple(found)]


def _concat(use: Use) -> list[Axes | None]:
    known = [use.axes(k) for k in range(len(use.operands))]
    if any(axes is None for axes in known):
        return use.give_up("joins a value of unknown rank")
    parts = [axes for axes in known if axes is not None]
    axis = use.number("axis", 0) % len(parts[0])
    found: list[Vector | None] = []
    for k in range(len(parts[0])):
        vectors = [axes[k] for axes in parts]
        if k == axis:
            found.append(_chained(use, vectors, axis))
            continue
        whole = vectors[0]
        for vector in vectors[1:]:
            whole = use.join(whole, vector)
        found.append(whole)
    return [tuple(found)]


def _chained(use: Use, vectors: Sequence[Vector | None], axis: int) -> Vector | None:
    if all(vector is None for vector in vectors):
        return None
    sizes = [use.sizes(k)[axis] for k in range(len(vectors))]
    if not all(isinstance(size, int) for size in sizes):
        use.fix(vectors, "joins them with an axis of unknown size")
        return None
    pairs = zip(vectors, sizes, strict=True)
    return np.concatenate(
        [np.zeros(int(str(size)), np.int64) if v is None else v for v, size in pairs]
    )


def _split(use: Use) -> list[Axes | None]:
    axes = use.axes(0)
    if axes is None:
        return use.give_up("cuts a value of unknown rank")
    axis, count = use.number("axis", 0) % len(axes), len(use.node.outputs)
    labels = axes[axis]
    if labels is None:
        return [axes] * count
    sizes = use.ints(1)
    if sizes is None and len(use.node.inputs) > 1:
        use.fix((labels,), "cuts at computed places")
        return [tuple(None if k == axis else v for k, v in enumerate(axes))] * count
    if sizes is None:
        whole = -(-labels.size // count)
        sizes = (*[whole] * (count - 1), labels.size - whole * (count - 1))
    parts = np.split(labels, np.cumsum(sizes)[:-1])
    return [tuple(part if k == axis else v for k, v in enumerate(axes)) for part in parts]


def _slice(use: Use) -> list[Axes | None]:
    axes = use.axes(0)
    if axes is None:
        return use.give_up("cuts a value of unknown rank")
    given = [use.ints(k) for k in range(1, len(use.node.inputs))]
    starts, ends, places, steps = (*given, *[None] * 4)[:4]
    if len(given) < 3 and starts is not None:
        places = tuple(range(len(starts)))
    if places is None:
        return use.give_up("cuts axes that are not known")
    found = list(axes)
    for k, place in enumerate(places):
        labels = axes[place]
        if labels is None:
            continue
        step = steps[k] if steps is not None else 1 if len(given) < 4 else None
        if starts is None or ends is None or step is None:
            use.fix((labels,), "cuts at computed places")
            found[place] = None
        else:
            stop = None if step < 0 and ends[k] < -labels.size else ends[k]
            found[place] = labels[starts[k] : stop : step]
    return [tuple(found)]


def _gather(use: Use) -> list[Axes | None]:
    axes, picked = use.axes(0), use.axes(1)
    if axes is None or picked is None:
        return use.give_up("takes from a value of unknown rank")
    use.fix(picked, "reads places")
    axis = use.number("axis", 0) % len(axes)
    labels, index = axes[axis], use.ints(1)
    taken: Axes = (None,) * len(picked)
    if labels is not None and (index is None or len(picked) > 1):
        use.fix((labels,), "takes computed places")
    elif labels is not None and not picked:
        use.fix((labels[np.asarray(index)],), "takes one of them")
    elif labels is not None:
        taken = (labels[np.asarray(index)],)
    return [(*axes[:axis], *taken, *axes[axis + 1 :])]


def _pad(use: Use) -> list[Axes | None]:
    """Return the axes with room on both sides, which can be taken back as long as nobody minds."""
    axes, pads = use.axes(0), use.ints(1)
    mode = attribute_string(use.node, "mode", "constant")
    places = use.ints(3) if len(use.node.inputs) > 3 else None
    if axes is None or pads is None or (len(use.node.inputs) > 3 and places is None):
        return use.give_up("pads by computed numbers")
    places = tuple(range(len(axes))) if places is None else places
    found = list(axes)
    for k, place in enumerate(places):
        labels, room = axes[place], (pads[k], pads[k + len(places)])
        if labels is None or room == (0, 0):
            continue
        if mode != "constant" or min(room) < 0:
            use.fix((labels,), "pads with their neighbours")
            found[place] = None
        else:
            fresh = [use.trace.terms.fresh(n) if n else np.zeros(0, np.int64) for n in room]
            found[place] = np.concatenate([fresh[0], labels, fresh[1]]).astype(np.int64)
    return [tuple(found)]


def _tile(use: Use) -> list[Axes | None]:
    axes, counts = use.axes(0), use.trace.sizes.content(use.node.inputs[1])
    if axes is None or counts is None or len(counts.items) != len(axes):
        return use.give_up("repeats by computed numbers")
    moved = [k for k, count in enumerate(counts.items) if count != 1]
    use.fix([axes[k] for k in moved], "repeats them")
    return [tuple(None if k in moved else v for k, v in enumerate(axes))]


def _depth_to_space(use: Use) -> list[Axes | None]:
    axes, sizes, side = use.axes(0), use.sizes(0), use.number("blocksize", 1)
    if axes is None or not isinstance(sizes[1], int):
        return use.give_up("is not understood in this form")
    count = sizes[1] // side**2
    last = attribute_string(use.node, "mode", "DCR") == "DCR"
    parts = factored(use, axes[1], (side, side, count) if last else (count, side, side))
    channels = parts.pop(2 if last else 0)
    use.fix((*parts, *axes[2:]), "turns them into places")
    return [(axes[0], channels, None, None)]


def _space_to_depth(use: Use) -> list[Axes | None]:
    axes, side = use.axes(0), use.number("blocksize", 1)
    if axes is None:
        return use.give_up("works on a value of unknown rank")
    use.fix(axes[2:], "turns them into channels")
    channels = None if axes[1] is None else np.tile(axes[1], side**2)
    return [(axes[0], channels, None, None)]


SHAPE: Mapping[str, Rule] = {
    **dict.fromkeys(("Reshape", "Flatten", "Squeeze", "Unsqueeze"), _reshape),
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Gather": _gather,
    "Pad": _pad,
    "Slice": _slice,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Tile": _tile,
    "Transpose": _transpose,
}
