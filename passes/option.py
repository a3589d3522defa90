"""What the values of a pass's option may be: declared beside the default, checked when the pass is made."""

import dataclasses
import operator
import typing
from collections.abc import Callable, Iterable
from typing import TypeVar

from whet.errors import UsageError

__all__ = ["Allowed", "allowed_of", "check_options", "expected", "option"]

Value = TypeVar("Value")
_KEY = "whet.allowed"
_BOUNDS: tuple[tuple[str, Callable[[float, float], bool]], ...] = (
    ("at_least", operator.ge), ("above", operator.gt), ("at_most", operator.le), ("below", operator.lt),
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Allowed:
    """What one value, or each of several, must be."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None
    also: tuple[float, ...] = ()
    """Numbers outside the bounds."""
    some_of: tuple[str, ...] = ()
    reads: Callable[[str], object] | None = None
    """Raises ValueError for a text that means nothing; ``like`` says what means something."""
    like: str = ""

    def holds(self, value: object) -> bool:
        """Tell whether the value is inside; what is not a number is outside all bounds."""
        if isinstance(value, str):
            return self._reads(value) and (not self.some_of or value in self.some_of)
        if not isinstance(value, int | float):
            return True
        limits = [(holds, getattr(self, name)) for name, holds in _BOUNDS]
        inside = all(limit is None or holds(value, limit) for holds, limit in limits)
        return inside or value in self.also

    def _reads(self, text: str) -> bool:
        if self.reads is None:
            return True
        try:
            self.reads(text)
        except ValueError:
            return False
        return True

    def __str__(self) -> str:
        """Say what is expected: ``0 to less than 1``, ``2 to 8 or 32``, ``some of heads, channels``."""
        if self.like or self.some_of:
            return self.like or f"some of {', '.join(self.some_of)}"
        low = "" if self.at_least is None else f"{self.at_least:g}"
        low = low if self.above is None else f"more than {self.above:g}"
        high = "" if self.at_most is None else f"{self.at_most:g}"
        high = high if self.below is None else f"less than {self.below:g}"
        if low and not high:
            low = low if self.above is not None else f"at least {low}"
        if high and not low:
            high = high if self.below is not None else f"at most {high}"
        bounds = " to ".join(part for part in (low, high) if part)
        return " or ".join([bounds, *(f"{number:g}" for number in self.also)])


def option(
    default: Value,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    also: tuple[float, ...] = (),
    some_of: Iterable[str] = (),
    reads: Callable[[str], object] | None = None,
    like: str = "",
) -> Value:
    """Return a field of a pass with its default and its :class:`Allowed`."""
    allowed = Allowed(at_least, above, at_most, below, also, tuple(some_of), reads, like)
    return dataclasses.field(default=default, metadata={_KEY: allowed})


def allowed_of(field: "dataclasses.Field[object]") -> Allowed | None:
    """Return the range that a field was declared with."""
    return typing.cast("Allowed | None", field.metadata.get(_KEY))


def expected(field: "dataclasses.Field[object]") -> str:
    """Return what the values of a field may be, in words; empty where its type says it all."""
    if typing.get_origin(field.type) is typing.Literal:
        return f"one of {', '.join(map(str, typing.get_args(field.type)))}"
    allowed = allowed_of(field)
    return "" if allowed is None else str(allowed)


def check_options(name: str, options: object) -> None:
    """Raise UsageError for the first option of a pass that is outside its range, or none of its choices."""
    for field in dataclasses.fields(typing.cast("typing.Any", options)):  # any dataclass
        value: object = getattr(options, field.name)
        several = isinstance(value, tuple)
        for one in typing.cast("tuple[object, ...]", value) if several else (value,):
            if not _allowed(field, one):
                shown = f"'{one}'" if isinstance(one, str) else one
                raise UsageError(
                    f"option '{field.name}' of pass '{name}' {'has' if several else 'is'} {shown}, "
                    f"expected {expected(field)}"
                )


def _allowed(field: "dataclasses.Field[object]", value: object) -> bool:
    if typing.get_origin(field.type) is typing.Literal:
        return value in typing.get_args(field.type)
    allowed = allowed_of(field)
    return allowed is None or allowed.holds(value)
