"""Every way to compress a small network that whet and its peers have, as functions from a model to a file."""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx

from whet.compiler import compile
from whet.ir.values import Array
from whet.passes.registry import all_passes

__all__ = ["Method", "onnxruntime_methods", "onnxsim_methods", "whet_methods"]

Rows = Sequence[Mapping[str, Array]]
Method = Callable[[onnx.ModelProto, Rows, Path], Path]
"""Compress a model with batches of calibration rows; the result and its files lie in the folder."""

_RECIPES = {
    "int8 weights, nearest": "quantize-weights{bits=8,method=nearest}",
    "int4 weights, nearest": "quantize-weights{bits=4,method=nearest}",
    "int4 weights, GPTQ": "quantize-weights{bits=4,method=gptq}",
    "int4 weights, GPTQ in sequence": "quantize-weights{bits=4,method=gptq,sequential=true}",
    "int4 weights, AdaRound": "quantize-weights{bits=4,method=adaround}",
    "int4 weights, smallest": "quantize-weights{bits=4,prefer=size}",
    "int2 weights, GPTQ": "quantize-weights{bits=2,method=gptq}",
    "int8 dynamic": "quantize-dynamic{prefer=size}",
    "int8 static": "quantize-static{prefer=size}",
    "int8 static, int4 weights, GPTQ": "quantize-static{prefer=size,weight_bits=4,ends=same,method=gptq}",
    "int8 static, int4 weights, AdaRound": "quantize-static{prefer=size,weight_bits=4,ends=same,method=adaround}",
    "codebooks, 4 bits": "quantize-codebooks{bits=4}",
    "codebooks, 3 bits": "quantize-codebooks{bits=3}",
    "codebooks, 2 bits": "quantize-codebooks{bits=2}",
    "int2 weights, GPTQ, rank 16": "quantize-weights{bits=2,method=gptq},repair-low-rank{worth=error}",
}


def whet_methods() -> Iterator[tuple[str, Method]]:
    """Yield the recipes."""
    for name, recipe in _RECIPES.items():
        if recipe.partition("{")[0] in all_passes():
            yield name, _compiled(recipe)


def _compiled(recipe: str) -> Method:
    def method(model: onnx.ModelProto, rows: Rows, folder: Path) -> Path:
        stacked = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
        compile(model, recipe=recipe, calibration=stacked, measure=False, output=folder / "whet")
        return folder / "whet" / "model.onnx"

    return method


def onnxruntime_methods() -> Iterator[tuple[str, Method]]:
    """Yield ONNX Runtime's own tools, with their defaults but for scales per channel."""
    from onnxruntime import quantization

    def dynamic(model: onnx.ModelProto, rows: Rows, folder: Path) -> Path:
        source, path = _saved(model, folder), folder / "dynamic.onnx"
        run = cast("Callable[..., None]", quantization.quantize_dynamic)
        run(source, path, per_channel=True)
        return path

    def static(model: onnx.ModelProto, rows: Rows, folder: Path) -> Path:
        source, path = _saved(model, folder), folder / "static.onnx"
        run = cast("Callable[..., None]", quantization.quantize_static)
        run(source, path, _Reader(rows), per_channel=True)
        return path

    yield "quantize_dynamic", dynamic
    yield "quantize_static", static
    for bits in (8, 4):
        yield f"MatMulNBitsQuantizer, {bits} bits", _blocks(bits)


def _blocks(bits: int) -> Method:
    def method(model: onnx.ModelProto, rows: Rows, folder: Path) -> Path:
        module = importlib.import_module("onnxruntime.quantization.matmul_nbits_quantizer")
        run = module.MatMulNBitsQuantizer(
            _copied(model), bits=bits, block_size=32, is_symmetric=True
        )
        run.process()
        path = folder / "blocks.onnx"
        run.model.save_model_to_file(str(path))
        return path

    return method


class _Reader:
    """Hand batches to ONNX Runtime's calibrator."""

    def __init__(self, rows: Rows) -> None:
        self._left = iter(rows)

    def get_next(self) -> Mapping[str, Array] | None:
        return next(self._left, None)


def onnxsim_methods() -> Iterator[tuple[str, Method]]:
    """Yield the functions of onnxsim 0.8.1 with their defaults; raises ImportError where it is not installed."""
    tool = importlib.import_module("onnxsim")

    def data(rows: Rows) -> list[dict[str, Array]]:
        return [dict(row) for row in rows]

    calls: dict[str, Callable[[onnx.ModelProto, Rows], onnx.ModelProto]] = {
        "int4 weights": lambda m, _: tool.quantize_weight_only_int4(m),
        "int4 weights, GPTQ": lambda m, rows: tool.apply_gptq(
            m, tool.quantize_weight_only_int4(m), data(rows)
        ),
        "int4 weights, AdaRound": lambda m, rows: tool.apply_adaround(
            m, tool.quantize_weight_only_int4(m), data(rows)
        ),
        "SpQR": lambda m, rows: tool.quantize_weight_only_spqr(m, calibration_data=data(rows)),
        "LQER": lambda m, rows: tool.apply_lqer(
            m, tool.quantize_weight_only_int4(m), calibration_data=data(rows)
        ),
        "mixed precision": lambda m, rows: tool.apply_mixed_precision_quantization(m, data(rows)),
        "SqueezeLLM": lambda m, rows: tool.quantize_weight_only_squeezellm(m, data(rows)),
        "k-means": lambda m, _: tool.quantize_weight_only_kmeans(m),
        "int8 dynamic": lambda m, _: tool.quantize_dynamic(m),
        "int8 static": lambda m, rows: tool.quantize_static(m, data(rows)),
    }
    for name, call in calls.items():
        yield name, _written(call)
        yield f"{name}, simplified first", _written(_simplified(tool, call))


def _simplified(
    tool: Any, call: Callable[[onnx.ModelProto, Rows], onnx.ModelProto]
) -> Callable[[onnx.ModelProto, Rows], onnx.ModelProto]:
    return lambda model, rows: call(tool.simplify(model)[0], rows)


def _written(call: Callable[..., Any]) -> Method:
    def method(model: onnx.ModelProto, rows: Rows, folder: Path) -> Path:
        path = folder / "result.onnx"
        onnx.save_model(call(_copied(model), rows), path)
        return path

    return method


def _saved(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "source.onnx"
    onnx.save_model(model, path)
    return path


def _copied(model: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    return copy
