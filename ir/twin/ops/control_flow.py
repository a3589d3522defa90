"""Branches and loops; subgraphs are modules, run in Python, so gradients flow through them.

A subgraph takes its own inputs first, then the outer values it uses (``..._captures``).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from whet.ir.twin.registry import op

Subgraph = Callable[..., tuple[Any, ...]]


@op("If", since=1, widen=False)
def if_else(
    condition: Tensor,
    *,
    then_branch: Subgraph,
    then_branch_captures: Sequence[Any],
    else_branch: Subgraph,
    else_branch_captures: Sequence[Any],
) -> tuple[Any, ...]:
    """Run one of two subgraphs."""
    if bool(condition):
        return then_branch(*then_branch_captures)
    return else_branch(*else_branch_captures)


def _stacked(steps: Sequence[Sequence[Tensor]], number: int) -> Tensor:
    return torch.stack([step[number] for step in steps]) if steps else torch.empty(0)


@op("Loop", since=1, widen=False)
def loop(
    trip_count: Tensor | None = None,
    condition: Tensor | None = None,
    *carried: Any,
    outputs: int,
    body: Subgraph,
    body_captures: Sequence[Any],
) -> tuple[Any, ...]:
    """Run the body until the count is reached or the condition fails; stack what it scans out.

    A loop without iterations scans out an empty tensor of shape (0,).
    """
    limit = None if trip_count is None else int(trip_count)
    going = condition is None or bool(condition)
    state: tuple[Any, ...] = carried
    scanned: list[tuple[Tensor, ...]] = []
    while going and (limit is None or len(scanned) < limit):
        iteration = torch.tensor(len(scanned), dtype=torch.int64)
        still, *results = body(iteration, torch.tensor(True), *state, *body_captures)
        state = tuple(results[: len(carried)])
        scanned.append(tuple(results[len(carried) :]))
        going = bool(still)
    stacks = outputs - len(carried)
    return (*state, *(_stacked(scanned, number) for number in range(stacks)))


@op("Scan", since=8, widen=False)
def scan_8(
    sequence_lens: Tensor | None,
    *values: Tensor,
    body: Subgraph,
    body_captures: Sequence[Any],
    num_scan_inputs: int,
    directions: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """Scan each sample of a batch over its own length, padding what it scans out with zeros."""
    split = len(values) - num_scan_inputs
    longest = values[split].shape[1]
    rows: list[list[Tensor]] = []
    for sample in range(values[0].shape[0]):
        length = longest if sequence_lens is None else int(sequence_lens[sample])
        sequences = [value[sample, :length] for value in values[split:]]
        results = scan(
            *(value[sample] for value in values[:split]),
            *sequences,
            body=body,
            body_captures=body_captures,
            num_scan_inputs=num_scan_inputs,
            scan_input_directions=directions,
        )
        padded = [_lengthened(result, longest) for result in results[split:]]
        rows.append([*results[:split], *padded])
    return tuple(torch.stack(parts) for parts in zip(*rows, strict=True))


def _lengthened(x: Tensor, length: int) -> Tensor:
    return torch.cat([x, x.new_zeros([length - x.shape[0], *x.shape[1:]])])


@op("Scan", since=9, widen=False)
def scan(
    *values: Tensor,
    body: Subgraph,
    body_captures: Sequence[Any],
    num_scan_inputs: int,
    scan_input_axes: Sequence[int] | None = None,
    scan_input_directions: Sequence[int] | None = None,
    scan_output_axes: Sequence[int] | None = None,
    scan_output_directions: Sequence[int] | None = None,
) -> tuple[Tensor, ...]:
    """Run the body over slices of the last inputs, carrying state; stack what it scans out."""
    split = len(values) - num_scan_inputs
    state, sequences = tuple(values[:split]), values[split:]
    axes = scan_input_axes or [0] * num_scan_inputs
    directions = scan_input_directions or [0] * num_scan_inputs
    slices = [
        _slices(sequence, axis, backwards)
        for sequence, axis, backwards in zip(sequences, axes, directions, strict=True)
    ]
    scanned: list[tuple[Tensor, ...]] = []
    for elements in zip(*slices, strict=True):
        results = body(*state, *elements, *body_captures)
        state = tuple(results[:split])
        scanned.append(tuple(results[split:]))
    count = len(scanned[0]) if scanned else 0
    out_axes = scan_output_axes or [0] * count
    out_directions = scan_output_directions or [0] * count
    stacks = [
        torch.stack([step[number] for step in _ordered(scanned, backwards)], dim=axis)
        for number, (axis, backwards) in enumerate(zip(out_axes, out_directions, strict=True))
    ]
    return (*state, *stacks)


def _slices(sequence: Tensor, axis: int, backwards: int) -> list[Tensor]:
    parts = list(torch.unbind(sequence, dim=axis))
    return parts[::-1] if backwards else parts


def _ordered(scanned: Sequence[tuple[Tensor, ...]], backwards: int) -> Sequence[tuple[Tensor, ...]]:
    return scanned[::-1] if backwards else scanned


@op("SequenceMap", since=17, widen=False)
def sequence_map(
    sequence: Sequence[Any], *others: Any, body: Subgraph, body_captures: Sequence[Any]
) -> tuple[list[Any], ...]:
    """Run the body for every element; other sequences advance too, tensors stay."""
    results = [
        body(
            element,
            *(other[place] if isinstance(other, (list, tuple)) else other for other in others),
            *body_captures,
        )
        for place, element in enumerate(sequence)
    ]
    return tuple([list(parts) for parts in zip(*results, strict=True)])
