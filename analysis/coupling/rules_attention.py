"""Attention and rotation: heads go as a whole, or with one dimension of every head."""

from collections.abc import Mapping

from whet.analysis.coupling.rules_linear import factored
from whet.analysis.coupling.terms import Vector
from whet.analysis.coupling.trace import Axes, Rule, Use

__all__ = ["ATTENTION"]


def _attention(use: Use) -> list[Axes | None]:
    packed = "q_num_heads" in use.node.attributes
    read = _read_packed(use) if packed else _read_apart(use)
    if read is None:
        return use.give_up("is not understood in this form")
    (heads, size), (key_heads, key_size), (value_heads, value_size) = read
    use.join(size, key_size)
    key_heads = use.join(key_heads, value_heads)
    _share(use, heads, key_heads)
    _mask(use, heads)
    past = _past(use, key_heads, key_size, value_size)
    use.tag(heads, "heads")
    use.tag(size, "head dimensions")
    use.tag(value_size, "head dimensions")
    whole: Axes = (None, heads, None, value_size)
    if packed:
        whole = (None, None, _flat(use, heads, value_size))
    return [whole, *past, (None, heads, None, None)][: len(use.node.outputs)]


def _flat(use: Use, heads: Vector | None, size: Vector | None) -> Vector | None:
    """Return heads and their dimensions along one axis."""
    if heads is None or size is None:
        use.fix((heads, size), "keeps heads or dimensions")
        return None
    return use.trace.terms.outer(heads, size)


Operand = tuple[Vector | None, Vector | None]


def _read_apart(use: Use) -> tuple[Operand, Operand, Operand] | None:
    """Return heads and dimensions of operands of rank 4."""
    q, k, v = (use.axes(n) for n in range(3))
    if q is None or k is None or v is None or {len(q), len(k), len(v)} != {4}:
        return None
    use.fix((q[2], k[2], v[2], q[0], k[0], v[0]), "attends over them")
    return (q[1], q[3]), (k[1], k[3]), (v[1], v[3])


def _read_packed(use: Use) -> tuple[Operand, Operand, Operand] | None:
    """Return heads and dimensions of operands whose last axis holds both."""
    found: list[Operand] = []
    counts = (
        use.number("q_num_heads", 0),
        use.number("kv_num_heads", 0),
        use.number("kv_num_heads", 0),
    )
    for operand, count in enumerate(counts):
        axes, sizes = use.axes(operand), use.sizes(operand)
        if axes is None or len(axes) != 3 or not count or not isinstance(sizes[2], int):
            return None
        heads, size = factored(use, axes[2], (count, sizes[2] // count))
        found.append((heads, size))
    return found[0], found[1], found[2]


def _heads(use: Use, operand: int, name: str) -> int:
    return use.number(name, 0) or int(str(use.sizes(operand)[1]))


def _share(use: Use, heads: Vector | None, key_heads: Vector | None) -> None:
    """Let a key head go with all query heads that look at it."""
    count = _heads(use, 0, "q_num_heads")
    shared = _heads(use, 1, "kv_num_heads")
    if count == shared:
        use.join(heads, key_heads)
        return
    group, _ = factored(use, heads, (shared, count // shared))
    if shared == 1:
        return
    use.join(group, key_heads)


def _mask(use: Use, heads: Vector | None) -> None:
    axes, sizes = use.axes(3), use.sizes(3)
    if axes is None:
        return
    use.fix([v for k, v in enumerate(axes) if k != len(axes) - 3], "reads a mask")
    if len(axes) > 2 and sizes[-3] != 1:
        use.join(axes[-3], heads)


def _past(
    use: Use, heads: Vector | None, size: Vector | None, value_size: Vector | None
) -> list[Axes | None]:
    """Join past keys and values; return the axes of the present ones."""
    for operand, width in ((4, size), (5, value_size)):
        axes = use.axes(operand)
        if axes is not None:
            use.join(axes[1], heads)
            use.join(axes[3], width)
    use.fix(use.axes(6) or (), "reads lengths")
    return [(None, heads, None, size), (None, heads, None, value_size)]


def _rotary(use: Use) -> list[Axes | None]:
    """Join the two numbers of every pair that is rotated."""
    axes, cosines, sines = (use.axes(k) for k in range(3))
    if axes is None or cosines is None or sines is None:
        return use.give_up("works on a value of unknown rank")
    size, width = use.sizes(0)[-1], axes[-1]
    heads = use.number("num_heads", 0)
    if len(axes) == 3 and isinstance(size, int) and heads:
        parts = factored(use, axes[-1], (heads, size // heads))
        width, size = parts[1], size // heads
    elif len(axes) == 3:
        return use.give_up("is not understood in this form")
    tables = (cosines[-1], sines[-1])
    use.fix((*cosines[:-1], *sines[:-1]), "takes computed places")
    if width is None or use.number("rotary_embedding_dim", 0) not in (0, size):
        use.fix((width, *tables), "rotates a part of them")
        return [axes]
    pairs = width[::2], width[1::2]
    if not use.number("interleaved", 0):
        pairs = width[: width.size // 2], width[width.size // 2 :]
    for other in (pairs[1], *tables):
        use.join(pairs[0], other)
    return [axes]


ATTENTION: Mapping[str, Rule] = {"Attention": _attention, "RotaryEmbedding": _rotary}
