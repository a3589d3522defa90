"""Choose among formats by measured milliseconds."""

from collections.abc import Mapping, Sequence

from whet.errors import Mismatch

__all__ = ["FLOAT", "cheapest"]

FLOAT = "float32"
_WORTH = 0.85
"""A less exact format must take less than this share of the time of a more exact one."""


def cheapest(names: Sequence[str], times: Mapping[str, float], *, must_gain: bool) -> str:
    """Return the format to use; ``names`` go from the most to the least exact.

    Without measurements the first one is taken. Raises Mismatch where ``must_gain`` and float32 is as fast.
    """
    known = [name for name in names if name in times]
    if not known:
        if times and must_gain:
            raise Mismatch(f"the runtime has no kernel for {' or '.join(names)} here")
        return names[0]
    best = known[0]
    for name in known[1:]:
        if times[name] < times[best] * _WORTH:
            best = name
    if must_gain and FLOAT in times and times[best] >= times[FLOAT]:
        raise Mismatch(f"{best} takes {times[best]:.3g} ms, float32 {times[FLOAT]:.3g} ms")
    return best
