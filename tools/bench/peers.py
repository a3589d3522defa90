"""Compress a three-layer network with whet, ONNX Runtime's tools and onnxsim: bytes, error, how many layers changed.

``python -m whet.tools.bench.peers``. The network is MatMul-Add-Relu twice and MatMul, 64-256-256-16, in float32, with
types on its inputs and outputs only, as many exporters leave it; at opset 17 and 21. onnxsim is no dependency of whet:
``pip install --no-deps --target FOLDER onnxsim==0.8.1`` and ``PYTHONPATH=FOLDER`` bring its rows.
"""

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

from whet.backends.base import RuntimeOptions
from whet.backends.worker import Worker
from whet.errors import WhetError
from whet.ir.values import Array
from whet.passes.quantization.algorithms.approximation import Doubles
from whet.tools.bench.peer_methods import (
    Method,
    onnxruntime_methods,
    onnxsim_methods,
    whet_methods,
)

__all__ = ["main", "network", "outcome"]

_WIDTHS = (64, 256, 256, 16)
_SOURCES: dict[str, Callable[[], Iterator[tuple[str, Method]]]] = {
    "whet": whet_methods,
    "onnxruntime": onnxruntime_methods,
    "onnxsim": onnxsim_methods,
}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one method made of the network."""

    size: float
    """Bytes on disk, as a share of the source's."""
    bits: float
    """Bits on disk for each weight, everything else in the file included."""
    error: float
    """||new - old|| / ||old|| of the outputs on rows that no method has seen."""
    layers: int
    """Products that do not read their weight as it was."""


def network(opset: int, seed: int = 0) -> onnx.ModelProto:
    """Return the network; the types of the values between its nodes are not written down."""
    rng = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []
    value = "x"
    for k, (inputs, outputs) in enumerate(itertools.pairwise(_WIDTHS)):
        matrix = rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)
        weights.append(numpy_helper.from_array(matrix.astype(np.float32), f"w{k}"))
        last = k == len(_WIDTHS) - 2
        nodes.append(
            helper.make_node("MatMul", [value, f"w{k}"], ["y" if last else f"m{k}"], f"matmul{k}")
        )
        if not last:
            bias = rng.standard_normal(outputs).astype(np.float32) * np.float32(0.1)
            weights.append(numpy_helper.from_array(bias, f"b{k}"))
            nodes.append(helper.make_node("Add", [f"m{k}", f"b{k}"], [f"a{k}"], f"add{k}"))
            nodes.append(helper.make_node("Relu", [f"a{k}"], [f"r{k}"], f"relu{k}"))
            value = f"r{k}"
    ends = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width])
        for name, width in (("x", _WIDTHS[0]), ("y", _WIDTHS[-1]))
    ]
    graph = helper.make_graph(nodes, "network", ends[:1], ends[1:], weights)
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8 if opset < 19 else 10
    )


def outcome(source: onnx.ModelProto, path: Path, rows: Array) -> Outcome:
    """Return what a file is worth; raises where ONNX Runtime does not run it."""
    before = len(source.SerializeToString())
    after = path.stat().st_size + sum(
        p.stat().st_size for p in path.parent.glob(f"{path.name}.data")
    )
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "source.onnx"
        onnx.save_model(source, plain)
        old, new = _run(plain, rows), _run(path, rows)
    error = float(np.linalg.norm(new - old) / np.linalg.norm(old))
    weights = [w for w in source.graph.initializer if len(w.dims) == 2]
    kept = _read_weights(onnx.load_model(path))
    count = sum(int(np.prod(w.dims)) for w in weights)
    return Outcome(
        after / before, 8 * after / count, error, sum(_numbers(w) not in kept for w in weights)
    )


def _run(path: Path, rows: Array) -> Doubles:
    with Worker(path, RuntimeOptions(1)) as worker:
        return worker.run({"x": rows})[0].astype(np.float64)


def _read_weights(model: onnx.ModelProto) -> set[bytes]:
    """Return the float matrices that products read, those behind a Transpose too."""
    stored = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            stored.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
        elif node.op_type == "Transpose" and node.input[0] in stored:
            stored[node.output[0]] = stored[node.input[0]]
    products = [n for n in model.graph.node if n.op_type in {"MatMul", "Gemm", "FusedMatMul"}]
    return {_numbers(stored[n.input[1]]) for n in products if n.input[1] in stored}


def _numbers(tensor: onnx.TensorProto) -> bytes:
    """Return a weight's numbers in an order that its transpose has, too."""
    return np.sort(numpy_helper.to_array(tensor), axis=None).tobytes()


def main(argv: Sequence[str] | None = None) -> int:
    """Print one line per tool and method, with both opsets side by side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(_SOURCES))
    parser.add_argument("--networks", type=int, default=3, help="random weights to average over")
    parser.add_argument("--json", type=Path, help="store the numbers in this file")
    options = parser.parse_args(argv)
    logging.disable(logging.WARNING)
    rng = np.random.default_rng(1)
    seen: list[dict[str, Array]] = [
        {"x": rng.standard_normal((32, _WIDTHS[0])).astype(np.float32)} for _ in range(4)
    ]
    fresh: Array = rng.standard_normal((32, _WIDTHS[0])).astype(np.float32)
    found: dict[str, dict[str, object]] = {}
    print(
        f"{'':46}{'opset 17: size  bits  error  layers':>38}{'opset 21: size  bits  error  layers':>42}"
    )
    for tool, methods in _SOURCES.items():
        if options.only not in (None, tool):
            continue
        try:
            listed = list(methods())
        except ImportError as error:
            print(f"{tool}: skipped: {error}; pip install --no-deps --target FOLDER onnxsim==0.8.1")
            continue
        for name, method in listed:
            results = {
                opset: _average(
                    [_try(network(opset, k), method, seen, fresh) for k in range(options.networks)]
                )
                for opset in (17, 21)
            }
            print(
                f"{tool + ': ' + name:46}"
                + "    ".join(f"{_words(r):>38}" for r in results.values()),
                flush=True,
            )
            found[f"{tool}: {name}"] = {
                str(opset): dataclasses.asdict(r) if isinstance(r, Outcome) else r
                for opset, r in results.items()
            }
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _try(
    model: onnx.ModelProto, method: Method, seen: Sequence[dict[str, Array]], fresh: Array
) -> Outcome | str:
    """Return the outcome, or what was said instead of one."""
    with tempfile.TemporaryDirectory() as folder, _silence():
        try:
            path = method(model, seen, Path(folder))
            return outcome(model, path, fresh)
        except WhetError as error:
            return f"error: {error}"
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def _average(found: Sequence[Outcome | str]) -> Outcome | str:
    """Return the mean, for layers the least; or the first thing that was said instead."""
    done = [f for f in found if isinstance(f, Outcome)]
    if len(done) < len(found):
        return next(f for f in found if isinstance(f, str))
    mean = {k: float(np.mean([getattr(f, k) for f in done])) for k in ("size", "bits", "error")}
    return Outcome(mean["size"], mean["bits"], mean["error"], min(f.layers for f in done))


@contextlib.contextmanager
def _silence() -> Generator[None]:
    """Swallow what tools print and warn of."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with Path(os.devnull).open("w") as nothing, contextlib.redirect_stderr(nothing):
            yield


def _words(result: Outcome | str) -> str:
    if isinstance(result, str):
        return result.splitlines()[0][:38]
    mark = "" if result.layers or result.error else " no-op"
    return f"{result.size:.3f}x {result.bits:5.2f} {result.error:.4f} {result.layers} of 3{mark}"


if __name__ == "__main__":
    main()
