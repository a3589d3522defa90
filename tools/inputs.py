"""Inputs to compare models on: the user's own, or drawn at random at every binding."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx_ir

from whet.analysis.calibration import batch_size, read_dataset
from whet.backends.probe import find_bindings
from whet.backends.worker import Worker
from whet.errors import CalibrationError, InvalidModel, UsageError
from whet.ir.values import Array, dimensions
from whet.tools.subjects import Subject

__all__ = ["Case", "make_cases", "rename_inputs"]

Case = tuple[str, Mapping[str, Array]]
"""What the inputs are, in words, and the inputs."""


def make_cases(
    subject: Subject,
    worker: Worker,
    feeds: Path | None = None,
    sizes: Mapping[str, int] | None = None,
    seed: int = 0,
) -> list[Case]:
    """Return inputs that ``subject`` runs on: those of the file ``feeds``, or one set for each binding.

    Arrays that fit the model as they are make one call; otherwise their leading axis counts samples, and each call
    gets the batch that the model is fixed to.

    Raises:
        InvalidModel: no size could be executed.
        CalibrationError: the arrays do not fit the model.
    """
    if feeds is not None:
        return _read_cases(feeds, subject.model, sizes or {})
    found = find_bindings(subject.model, worker, subject.examples, sizes)
    if not found.choices:
        raise InvalidModel(f"'{subject.label}' does not run: {found.note}")
    return [
        (_words(choice), found.feeds(subject.model, k, seed))
        for k, choice in enumerate(found.choices)
    ]


def _words(binding: Mapping[str, int]) -> str:
    return ", ".join(f"{name}={size}" for name, size in binding.items()) or "fixed shapes"


def _read_cases(path: Path, model: onnx_ir.Model, sizes: Mapping[str, int]) -> list[Case]:
    call = _as_one_call(path, model)
    if call is not None:
        return [(path.name, call)]
    batch = next((n for n in sizes.values()), batch_size(model))
    data = read_dataset(path, model, "feeds")
    return [
        (f"{path.name}, batch {k}", feeds)
        for k, feeds in enumerate(data.batches(batch))
        if all(len(a) == batch for a in feeds.values()) or k == 0
    ]


_ONE_CALL = 64
"""Free leading axes longer than this are cut into batches."""


def _as_one_call(path: Path, model: onnx_ir.Model) -> dict[str, Array] | None:
    """Return the arrays if each has exactly the shape and type of its input."""
    if not path.is_file():
        raise CalibrationError(f"feeds: no file '{path}'")
    wanted = {v.name or "": v for v in model.graph.inputs if v.const_value is None}
    try:
        with np.load(path, allow_pickle=False) as data:
            arrays: dict[str, Array] = {name: data[name] for name in data.files}
    except Exception:  # read_dataset says what is wrong with the file
        return None
    if arrays.keys() != wanted.keys():
        return None
    fits = all(_fits(array, wanted[name]) for name, array in arrays.items())
    return arrays if fits else None


def _fits(array: Array, value: onnx_ir.Value) -> bool:
    sizes = dimensions(value)
    if sizes is None or len(sizes) != array.ndim:
        return False
    if value.dtype is None or value.dtype.numpy() != array.dtype:
        return False
    if sizes and not isinstance(sizes[0], int) and len(array) > _ONE_CALL:
        return False
    return all(
        not isinstance(size, int) or size == n for size, n in zip(sizes, array.shape, strict=True)
    )


def rename_inputs(
    feeds: Mapping[str, Array], names: tuple[str, ...], label: str
) -> Mapping[str, Array]:
    """Return the feeds under another model's input names: the same ones, or by position.

    Raises:
        UsageError: the models do not take the same number of inputs.
    """
    if set(feeds) <= set(names):
        return feeds
    if len(feeds) != len(names):
        raise UsageError(
            f"'{label}' has the inputs {list(names)}, the first model {list(feeds)}: they cannot be compared"
        )
    return dict(zip(names, feeds.values(), strict=True))
