"""Attention whose bias is a product of factors: TVM's one kernel against the best that ONNX Runtime has for it."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import onnx

from whet.comparison import relative_error
from whet.ir.values import Array
from whet.tools.bench.attention_models import (
    FUSED,
    Case,
    Means,
    attention_model,
    expected_rows,
    make_data,
    make_feeds,
)

__all__ = ["attention_error", "attention_feeds", "rivals", "write_attention"]

_ROWS = 64
_WITH_BIAS = ("Attention", "MultiHeadAttention")


def _case(sizes: Mapping[str, int]) -> Case:
    return Case(sizes["length"], sizes["head"], sizes["rank"], sizes["heads"])


def write_attention(sizes: Mapping[str, int], path: Path) -> Path:
    """Write the standard operator with factors appended to queries and keys: what TVM compiles."""
    model = attention_model(_case(sizes), "Attention", "factors")
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def attention_feeds(sizes: Mapping[str, int]) -> dict[str, Array]:
    """Return the inputs of that."""
    case = _case(sizes)
    return make_feeds(case, "Attention", "factors", make_data(case))


def rivals(
    sizes: Mapping[str, int], folder: Path
) -> Iterator[tuple[Means, Path, dict[str, Array]]]:
    """Write the others: each kernel with the factors appended, and with the bias, which is given ready-made."""
    case = _case(sizes)
    data = make_data(case)
    kernels: Mapping[Means, tuple[str, ...]] = {"factors": FUSED, "bias": _WITH_BIAS}
    for means, names in kernels.items():
        for kernel in names:
            path = folder / f"{kernel}-{means}.onnx"
            onnx.save(attention_model(case, kernel, means), path)
            yield means, path, make_feeds(case, kernel, means, data)


def attention_error(sizes: Mapping[str, int], found: Array) -> float:
    """Return the relative error of some rows against float64."""
    case = _case(sizes)
    rows = np.arange(0, case.length, max(1, case.length // _ROWS))
    expected = expected_rows(case, "factors", make_data(case), rows)
    return float(relative_error(expected, found[0][:, rows].astype(np.float64))[0])
