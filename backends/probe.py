"""Find sizes for the symbolic dimensions at which a model really runs."""

import difflib
import math
from collections.abc import Mapping

import onnx_ir

from whet.backends.base import Runner
from whet.errors import UsageError
from whet.ir.bindings import Binding, Bindings, candidates, symbols
from whet.ir.execute import CannotRun
from whet.ir.values import Array, dimensions

__all__ = ["check_sizes", "find_bindings"]

_WANTED = 2
_LARGEST = 1 << 22
"""Sizes that make the inputs larger than this many elements together are not tried unasked."""


def find_bindings(
    model: onnx_ir.Model,
    runner: Runner,
    examples: Mapping[str, Array] | None = None,
    fixed: Binding | None = None,
) -> Bindings:
    """Return two bindings that the model was seen to run at, those of the examples and ``fixed`` first.

    With fewer than two, ``note`` of the result says why.
    """
    names = symbols(model)
    check_sizes(fixed or {}, names)
    examples = dict(examples or {})
    known = {**_sizes_of(model, examples), **(fixed or {})}
    found: list[Binding] = []
    reason = ""
    start = {n: known[n] for n in names if n in known}
    tries: list[dict[str, int]] = [start] if len(start) == len(names) else []
    tries += [{**c, **(fixed or {})} for c in candidates(names)]
    if fixed:
        tries += candidates(names)  # a second size is wanted even where the first is the user's
    for choice in tries:
        if choice in found or (not names and found):
            continue
        trial = Bindings((choice,), examples)
        if choice is not start and _elements(model, trial) > _LARGEST:
            continue
        feeds = trial.feeds(model, 0)
        try:
            runner.run(feeds)
        except CannotRun as error:
            reason = str(error)
            continue
        found.append(choice)
        if len(found) == (_WANTED if names else 1):
            break
    note = "" if len(found) >= (_WANTED if names else 1) else reason or "no size could be executed"
    return Bindings(tuple(found), examples, note)


def check_sizes(sizes: Binding, names: tuple[str, ...]) -> None:
    """Raise UsageError for a size of a dimension that is not one of ``names``, or that is no size."""
    for name, size in sizes.items():
        if name not in names:
            known = ", ".join(names) or "none"
            close = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else f"; known: {known}"
            raise UsageError(f"the model's inputs have no dynamic dimension '{name}'{hint}")
        if size < 1:
            raise UsageError(f"the size of dimension '{name}' is {size}, expected 1 or more")


def _sizes_of(model: onnx_ir.Model, examples: Mapping[str, Array]) -> dict[str, int]:
    sizes: dict[str, int] = {}
    for value in model.graph.inputs:
        example = examples.get(value.name or "")
        if example is None:
            continue
        for axis, size in enumerate(dimensions(value) or ()):
            if not isinstance(size, int) and axis < example.ndim:
                sizes[size or f"{value.name}.{axis}"] = example.shape[axis]
    return sizes


def _elements(model: onnx_ir.Model, trial: Bindings) -> int:
    shapes = [trial.shape(value, trial.choices[0]) for value in model.graph.inputs]
    return sum(math.prod(shape) for shape in shapes if shape is not None)
