"""Sequences are lists of tensors; an optional is its value or None."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from whet.errors import InvalidModel
from whet.ir.twin.registry import op


@op("SequenceConstruct", since=11, widen=False)
def sequence_construct(*values: Tensor) -> list[Tensor]:
    """Make a sequence of tensors."""
    return list(values)


@op("SequenceEmpty", since=11, widen=False)
def sequence_empty(*, dtype: int | None = None) -> list[Tensor]:
    """Make an empty sequence."""
    return []


@op("SequenceAt", since=11, widen=False)
def sequence_at(sequence: Sequence[Tensor], position: Tensor) -> Tensor:
    """Take an element; negative positions count from the end."""
    return sequence[int(position)]


@op("SequenceLength", since=11, widen=False)
def sequence_length(sequence: Sequence[Tensor]) -> Tensor:
    """Count the elements."""
    return torch.tensor(len(sequence), dtype=torch.int64)


@op("SequenceInsert", since=11, widen=False)
def sequence_insert(
    sequence: Sequence[Tensor], value: Tensor, position: Tensor | None = None
) -> list[Tensor]:
    """Insert before a position, or append."""
    place = len(sequence) if position is None else int(position)
    place = place + len(sequence) if place < 0 else place
    return [*sequence[:place], value, *sequence[place:]]


@op("SequenceErase", since=11, widen=False)
def sequence_erase(sequence: Sequence[Tensor], position: Tensor | None = None) -> list[Tensor]:
    """Remove an element, the last if no position is given."""
    place = (-1 if position is None else int(position)) % len(sequence)
    return [*sequence[:place], *sequence[place + 1 :]]


@op("ConcatFromSequence", since=11, widen=False)
def concat_from_sequence(sequence: Sequence[Tensor], *, axis: int, new_axis: int) -> Tensor:
    """Join the elements along an axis, or a new one."""
    join = torch.stack if new_axis else torch.cat
    return join(list(sequence), dim=axis)


@op("SplitToSequence", since=11, widen=False)
def split_to_sequence(
    x: Tensor, split: Tensor | None = None, *, axis: int, keepdims: int
) -> list[Tensor]:
    """Cut along an axis into a sequence: single slices, equal chunks, or given sizes."""
    if split is None:
        return list(torch.split(x, 1, dim=axis) if keepdims else torch.unbind(x, dim=axis))
    sizes = int(split) if split.ndim == 0 else split.tolist()
    return list(torch.split(x, sizes, dim=axis))


@op("Optional", since=15, widen=False)
def optional(value: Any = None) -> Any:
    """Wrap a value, or nothing."""
    return value


@op("OptionalHasElement", since=15, widen=False)
def optional_has_element(value: Any = None) -> Tensor:
    """Say whether there is a value."""
    return torch.tensor(value is not None)


@op("OptionalGetElement", since=15, widen=False)
def optional_get_element(value: Any) -> Any:
    """Unwrap a value."""
    if value is None:
        raise InvalidModel("OptionalGetElement of an optional without a value")
    return value
