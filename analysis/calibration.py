"""Calibration and evaluation data: read, checked against the model, handed out in batches."""

import dataclasses
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir

from whet.errors import CalibrationError
from whet.ir.values import Array, dimensions

__all__ = ["Dataset", "Feeds", "read_dataset"]

Feeds = Mapping[str, Array]


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Samples for every input of a model, stacked along a leading axis, and labels if there are any."""

    arrays: Mapping[str, Array]
    labels: Array | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return min((len(a) for a in self.arrays.values()), default=0)

    def batches(self, size: int) -> Iterator[dict[str, Array]]:
        """Yield feeds of ``size`` samples; a shorter remainder comes last."""
        for start in range(0, len(self), size):
            yield {name: array[start : start + size] for name, array in self.arrays.items()}

    def split(self, first: int) -> tuple["Dataset", "Dataset"]:
        """Return the first samples and the rest."""
        return (self._part(slice(None, first)), self._part(slice(first, None)))

    def _part(self, part: slice) -> "Dataset":
        labels = None if self.labels is None else self.labels[part]
        return Dataset({name: array[part] for name, array in self.arrays.items()}, labels)


def batch_size(model: onnx_ir.Model, default: int = 32) -> int:
    """Return the batch that the model's inputs fix, or ``default`` where the leading dimension is free."""
    sizes = {(dimensions(v) or (None,))[0] for v in _inputs(model) if dimensions(v) != ()}
    fixed = [size for size in sizes if isinstance(size, int)]
    return fixed[0] if fixed else default


def read_dataset(
    source: str | Path | Mapping[str, Array] | Iterable[Feeds],
    model: onnx_ir.Model,
    what: str = "calibration data",
) -> Dataset:
    """Read an ``.npz`` path, a dict of stacked arrays or an iterable of feeds; check it against the model.

    Raises:
        CalibrationError: a name, a type, a shape or a value that does not fit, with both sides named.
    """
    if isinstance(source, str | Path):
        arrays = _read_npz(Path(source), what)
    elif isinstance(source, Mapping):
        arrays = {name: np.asarray(a) for name, a in cast("Mapping[str, Array]", source).items()}
    else:
        arrays = _stack(source, what)
    labels = arrays.pop("labels", None) if "labels" not in _names(model) else None
    _check_names(arrays, model, what)
    _check_lengths({**arrays, **({} if labels is None else {"labels": labels})}, what)
    for value in _inputs(model):
        _check_array(arrays[value.name or ""], value, what)
    return Dataset(arrays, labels)


def _read_npz(path: Path, what: str) -> dict[str, Array]:
    if not path.is_file():
        raise CalibrationError(f"{what}: no file '{path}'")
    try:
        with np.load(path, allow_pickle=False) as data:
            if not hasattr(data, "files"):
                raise CalibrationError(
                    f"{what}: '{path}' holds one array; expected an .npz by name"
                )
            return {name: data[name] for name in data.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise CalibrationError(f"{what}: '{path}' cannot be read as .npz: {error}") from error


def _stack(source: Iterable[Feeds], what: str) -> dict[str, Array]:
    feeds = [dict(feed) for feed in source]
    if not feeds:
        raise CalibrationError(f"{what}: the iterable is empty")
    if any(feed.keys() != feeds[0].keys() for feed in feeds):
        raise CalibrationError(f"{what}: not every feed names {sorted(feeds[0])}")
    try:
        return {name: np.concatenate([np.asarray(f[name]) for f in feeds]) for name in feeds[0]}
    except ValueError as error:
        raise CalibrationError(f"{what}: feeds differ in shape: {error}") from error


def _inputs(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    return [v for v in model.graph.inputs if v.const_value is None]


def _names(model: onnx_ir.Model) -> list[str]:
    return [v.name or "" for v in _inputs(model)]


def _check_names(arrays: Mapping[str, Array], model: onnx_ir.Model, what: str) -> None:
    wanted = _names(model)
    missing = [name for name in wanted if name not in arrays]
    unknown = [name for name in arrays if name not in wanted]
    if missing or unknown:
        raise CalibrationError(
            f"{what}: arrays {sorted(arrays)} do not match the model's inputs {wanted}"
            + (f"; missing {missing}" if missing else "")
            + (f"; unknown {unknown}" if unknown else "")
        )


def _check_lengths(arrays: Mapping[str, Array], what: str) -> None:
    lengths = {name: len(a) if a.ndim else 0 for name, a in arrays.items()}
    if min(lengths.values(), default=0) == 0:
        empty = min(lengths, key=lambda name: lengths[name], default="")
        raise CalibrationError(f"{what}: '{empty}' holds no samples")
    if len(set(lengths.values())) > 1:
        raise CalibrationError(f"{what}: numbers of samples disagree: {lengths}")


def _check_array(array: Array, value: onnx_ir.Value, what: str) -> None:
    if value.dtype is not None and array.dtype != value.dtype.numpy():
        raise CalibrationError(
            f"{what}: dtype {array.dtype} of '{value.name}' does not match {value.dtype.numpy()} of the model"
        )
    sizes = dimensions(value)
    if sizes is not None:
        fits = len(sizes) == array.ndim and all(
            not isinstance(size, int) or size == array.shape[axis]
            for axis, size in enumerate(sizes)
            if axis > 0
        )
        if not fits:
            raise CalibrationError(
                f"{what}: shape {array.shape} of '{value.name}' does not match {list(sizes)} of the model"
                " (the leading axis counts samples)"
            )
        if sizes and isinstance(sizes[0], int) and len(array) % sizes[0]:
            raise CalibrationError(
                f"{what}: {len(array)} samples of '{value.name}' are no multiple of the model's batch {sizes[0]}"
            )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        at = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise CalibrationError(
            f"{what}: '{value.name}' is {array[at]} at {list(at)}; it must be finite"
        )
