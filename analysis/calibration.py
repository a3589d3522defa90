"""Calibration and evaluation data: read, checked against the model, handed out in batches.

Nothing is held in memory that came from a file or a generator: an ``.npz`` is mapped, and what an iterable yields is
written to a temporary file while it is checked.
"""

import dataclasses
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import onnx_ir

from whet.analysis.dataset import Batches, Dataset, Feeds, batch_size, leading
from whet.analysis.npz import Spool, forget, map_npz
from whet.errors import CalibrationError
from whet.ir.values import Array, dimensions, rank

__all__ = ["Batches", "Dataset", "Feeds", "batch_size", "read_dataset"]

_PORTION = 1 << 22
Progress = Callable[[str], None]


def read_dataset(
    source: str | Path | Mapping[str, Array] | Iterable[Feeds],
    model: onnx_ir.Model,
    what: str = "calibration data",
    progress: Progress = lambda _message: None,
) -> Dataset:
    """Read an ``.npz`` path, a dict of stacked arrays or an iterable of feeds; check it against the model.

    The leading axis of stacked arrays counts samples. Where no axis of the inputs does (states, scalars), every array
    may have an axis more than its input, which counts calls of the model.
    Feeds may differ in the sizes of dynamic dimensions. Lists of feeds are used where they are; any other iterable is
    gone through once.

    Raises:
        CalibrationError: a name, a type, a shape or a value that does not fit, with both sides named.
    """
    reader = _Reader(model, what, progress)
    if isinstance(source, str | Path):
        return reader.stacked(_read_npz(Path(source), what))
    if isinstance(source, Mapping):
        arrays = cast("Mapping[str, Array]", source)
        return reader.stacked({name: np.asarray(a) for name, a in arrays.items()})
    return reader.pieces(source)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """Checks data against one model."""

    model: onnx_ir.Model
    what: str
    progress: Progress

    def stacked(self, arrays: dict[str, Array]) -> Dataset:
        labels = self._take_labels(arrays)
        self._check_names(arrays)
        if labels is None and self._are_calls(arrays):
            return self._calls(arrays)
        self._check_lengths({**arrays, **({} if labels is None else {"labels": labels})})
        for value in _inputs(self.model):
            self._check_array(arrays[value.name or ""], value)
        return Dataset((arrays,), labels, unit=self._unit)

    def _are_calls(self, arrays: Mapping[str, Array]) -> bool:
        """Tell whether every array has one axis more than the input, which then counts whole calls."""
        ranks = {v.name: rank(v) for v in _inputs(self.model)}
        return all(
            known is not None and arrays[n or ""].ndim == known + 1 for n, known in ranks.items()
        )

    def _calls(self, arrays: Mapping[str, Array]) -> Dataset:
        self._check_lengths(arrays)
        count = len(next(iter(arrays.values())))
        found = self.pieces([{n: a[k] for n, a in arrays.items()} for k in range(count)])
        return dataclasses.replace(found, whole=True)

    def pieces(self, source: Iterable[Feeds]) -> Dataset:
        """Read feeds one after the other."""
        checked = self._checked(source)
        labels: list[Array] = []
        feeds: list[dict[str, Array]]
        if isinstance(source, Sequence):
            feeds = list(checked)
        else:
            try:
                feeds = Spool(checked).feeds
            except ValueError as error:
                if isinstance(error, CalibrationError):
                    raise
                raise CalibrationError(f"{self.what}: {error}") from error
        if not feeds:
            raise CalibrationError(f"{self.what}: the iterable is empty")
        for feed in feeds:
            found = self._take_labels(feed)
            labels += [] if found is None else [np.atleast_1d(np.asarray(found))]
        whole = any(leading(feed) is None for feed in feeds)
        if labels and (whole or len(labels) != len(feeds)):
            raise CalibrationError(f"{self.what}: labels need one for each sample of every feed")
        joined = np.concatenate(labels) if labels else None
        return Dataset(tuple(feeds), joined, unit=self._unit, whole=whole)

    def _checked(self, source: Iterable[object]) -> Iterator[dict[str, Array]]:
        for number, given in enumerate(source):
            self.progress(f"read {self.what}: feed {number + 1:,}")
            if not isinstance(given, Mapping):
                raise CalibrationError(
                    f"{self.what}: feed {number} is a {type(given).__name__}, expected a dict of arrays by name"
                )
            known = cast("Feeds", given)
            feed = {name: np.asarray(array) for name, array in known.items()}
            arrays = dict(feed)
            self._take_labels(arrays)
            try:
                self._check_names(arrays)
                for value in _inputs(self.model):
                    self._check_array(arrays[value.name or ""], value)
                if any(a.size == 0 for a in arrays.values()):
                    self._check_lengths(arrays)
            except CalibrationError as error:
                error.add_note(f"in feed {number}")
                raise
            yield feed

    @property
    def _unit(self) -> int:
        return batch_size(self.model, default=1)

    def _take_labels(self, arrays: dict[str, Array]) -> Array | None:
        return arrays.pop("labels", None) if "labels" not in _names(self.model) else None

    def _check_names(self, arrays: Mapping[str, Array]) -> None:
        wanted = _names(self.model)
        missing = [name for name in wanted if name not in arrays]
        unknown = [name for name in arrays if name not in wanted]
        if missing or unknown:
            raise CalibrationError(
                f"{self.what}: arrays {sorted(arrays)} do not match the model's inputs {wanted}"
                + (f"; missing {missing}" if missing else "")
                + (f"; unknown {unknown}" if unknown else "")
            )

    def _check_lengths(self, arrays: Mapping[str, Array]) -> None:
        lengths = {name: len(a) if a.ndim else 0 for name, a in arrays.items()}
        if min(lengths.values(), default=0) == 0:
            empty = min(lengths, key=lambda name: lengths[name], default="")
            raise CalibrationError(f"{self.what}: '{empty}' holds no samples")
        if len(set(lengths.values())) > 1:
            raise CalibrationError(f"{self.what}: numbers of samples disagree: {lengths}")

    def _check_array(self, array: Array, value: onnx_ir.Value) -> None:
        if value.dtype is not None and array.dtype != value.dtype.numpy():
            raise CalibrationError(
                f"{self.what}: dtype {array.dtype} of '{value.name}' does not match "
                f"{value.dtype.numpy()} of the model"
            )
        sizes = dimensions(value)
        if sizes is not None:
            self._check_shape(array.shape, sizes, value.name or "")
        if array.dtype.kind == "f":
            self._check_finite(array, value.name or "")

    def _check_shape(
        self, shape: tuple[int, ...], sizes: tuple[int | str | None, ...], name: str
    ) -> None:
        fits = len(sizes) == len(shape) and all(
            not isinstance(size, int) or size == shape[axis]
            for axis, size in enumerate(sizes)
            if axis > 0
        )
        if not fits:
            raise CalibrationError(
                f"{self.what}: shape {shape} of '{name}' does not match {list(sizes)} of the model"
                " (the leading axis counts samples)"
            )
        if sizes and isinstance(sizes[0], int) and shape[0] % max(sizes[0], 1):
            raise CalibrationError(
                f"{self.what}: {shape[0]} samples of '{name}' are no multiple of the model's batch {sizes[0]}"
            )

    def _check_finite(self, array: Array, name: str) -> None:
        """Look at a portion at a time, so that mapped data are never in memory as a whole."""
        rows = max(1, _PORTION // max(1, array[:1].size)) if array.ndim else 1
        for start in range(0, len(array) if array.ndim else 1, rows):
            part = array[start : start + rows] if array.ndim else array
            if not np.isfinite(part).all():
                at = [int(i) for i in np.argwhere(~np.isfinite(part))[0]]
                number = part[tuple(at)]
                if at:
                    at[0] += start
                raise CalibrationError(
                    f"{self.what}: '{name}' is {number} at {at}; it must be finite"
                )
            if start:
                self.progress(f"read {self.what}: '{name}', {start:,} of {len(array):,} samples")
        forget(array)


def _read_npz(path: Path, what: str) -> dict[str, Array]:
    if not path.is_file():
        raise CalibrationError(f"{what}: no file '{path}'")
    with path.open("rb") as file:
        if file.read(6) == b"\x93NUMPY":
            raise CalibrationError(f"{what}: '{path}' holds one array; expected an .npz by name")
    try:
        return map_npz(path)
    except (
        ValueError,
        OSError,
        EOFError,
        NotImplementedError,
        RuntimeError,
        zipfile.BadZipFile,
    ) as error:
        raise CalibrationError(f"{what}: '{path}' cannot be read as .npz: {error}") from error


def _inputs(model: onnx_ir.Model) -> list[onnx_ir.Value]:
    return [v for v in model.graph.inputs if v.const_value is None]


def _names(model: onnx_ir.Model) -> list[str]:
    return [v.name or "" for v in _inputs(model)]
