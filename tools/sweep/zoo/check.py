"""Export every architecture with torch alone and hold ONNX Runtime to eager PyTorch.

Run as ``python -m whet.tools.sweep.zoo.check [NAME ...]``. Each is compared at the example's shapes
and, where dimensions are dynamic, with all of them one larger and with a batch of one.
"""

from __future__ import annotations

import io
import logging
import sys
import time
import warnings
from collections.abc import Generator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np
import onnxruntime
import torch

from whet.tools.sweep.zoo.architecture import Architecture, Inputs, Sample, rebind
from whet.tools.sweep.zoo.catalogue import architecture, architectures

TOLERANCE = 1e-4
"""Largest accepted ``|onnx - eager| / |eager|`` (Euclidean norms) of any output."""

_JOBS = 2


@dataclass(frozen=True)
class Row:
    """What was seen of one architecture; ``failure`` is empty when it passed.

    ``export_seconds`` is processor time, which other work on the machine does not change.
    """

    name: str
    nodes: int = 0
    parameters: int = 0
    dimensions: str = ""
    error: float = float("nan")
    export_seconds: float = 0.0
    eager_ms: float = float("nan")
    failure: str = ""


def check(name: str) -> Row:
    """Build, export and compare one architecture; whatever goes wrong becomes the row's failure."""
    try:
        return _check(architecture(name))
    except Exception as problem:
        first_line = next(iter(str(problem).splitlines()), "")
        return Row(name, failure=f"{type(problem).__name__}: {first_line}")


def bindings(sample: Sample) -> list[dict[str, int]]:
    """List the sizes to try: the example's, each dimension one larger, a batch of one."""
    example = sample.dimensions()
    if not example:
        return [{}]
    larger = {name: size + 1 for name, size in example.items()}
    return [example, larger, {**example, "batch": 1}] if "batch" in example else [example, larger]


def _check(subject: Architecture) -> Row:
    sample = subject.build()
    start = time.process_time()
    with _quiet():
        program = _export(sample)
    exported = time.process_time()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString(), options)
    error = max(_error(session, sample, rebind(sample, sizes)) for sizes in bindings(sample))
    return Row(
        subject.name,
        nodes=len(program.model.graph),
        parameters=sum(weight.numel() for weight in sample.module.parameters()),
        dimensions=",".join(sample.dimensions()) or "-",
        error=error,
        export_seconds=exported - start,
        eager_ms=_eager_ms(sample),
        failure="" if error <= TOLERANCE else f"error above {TOLERANCE:g}",
    )


def _export(sample: Sample) -> torch.onnx.ONNXProgram:
    program = torch.onnx.export(
        sample.module,
        sample.args,
        kwargs=sample.kwargs,
        dynamo=True,
        optimize=False,
        opset_version=23,
        dynamic_shapes=sample.dynamic_shapes,
        verbose=False,
    )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return program


@contextmanager
def _quiet() -> Generator[None]:
    """Silence what the exporter prints, logs and warns about."""
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _error(session: onnxruntime.InferenceSession, sample: Sample, inputs: Inputs) -> float:
    """Return the largest relative error of any output."""
    expected = [output.numpy() for output in sample.run(inputs)]
    got = session.run(None, _feeds(session, inputs))
    if len(got) != len(expected):
        raise RuntimeError(f"ONNX Runtime returned {len(got)} outputs, PyTorch {len(expected)}")
    return max(_distance(np.asarray(a), b) for a, b in zip(got, expected, strict=True))


def _feeds(session: onnxruntime.InferenceSession, inputs: Inputs) -> Mapping[str, Any]:
    if isinstance(inputs, dict):
        return {name: tensor.numpy() for name, tensor in inputs.items()}
    names = [declared.name for declared in session.get_inputs()]
    return {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)}


def _distance(got: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    if got.shape != expected.shape:
        raise RuntimeError(
            f"output shape {got.shape} of ONNX Runtime is not PyTorch's {expected.shape}"
        )
    if not np.isfinite(expected).all():
        raise RuntimeError("PyTorch's output is not finite")
    scale = float(np.linalg.norm(expected.astype(np.float64)))
    if scale == 0.0:
        raise RuntimeError("PyTorch's output is all zeros")
    return float(np.linalg.norm(got.astype(np.float64) - expected)) / scale


def _eager_ms(sample: Sample, repeats: int = 5) -> float:
    times: list[float] = []
    for _ in range(repeats):
        start = time.perf_counter()
        sample.run()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times)


def _print_row(row: Row) -> None:
    print(
        f"{row.name:24} {row.nodes:5} {row.parameters / 1e6:7.2f}M {row.dimensions:24} "
        f"{row.error:8.1e} {row.export_seconds:7.1f} {row.eager_ms:7.1f}  {row.failure or 'ok'}",
        flush=True,
    )


def main(names: Sequence[str]) -> int:
    """Check the named architectures, or all; print the table; return 1 if any failed."""
    chosen = [architecture(name).name for name in names] or [each.name for each in architectures()]
    print(f"{'name':24} {'nodes':>5} {'params':>8} {'dynamic':24} {'error':>8} export s eager ms")
    start = time.perf_counter()
    failures = 0
    with ProcessPoolExecutor(
        _JOBS, get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
    ) as pool:
        for row in pool.map(check, chosen):
            _print_row(row)
            failures += bool(row.failure)
    seconds = time.perf_counter() - start
    print(f"{len(chosen) - failures} of {len(chosen)} passed in {seconds:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
