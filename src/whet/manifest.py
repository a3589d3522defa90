"""Describe an artifact: ``whet.json`` is a function of source, options, seed and versions, and carries no date."""

import dataclasses
import json
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir

from whet import __version__
from whet.artifact import digest
from whet.backends.base import Target
from whet.ir.values import dimensions
from whet.options import Options
from whet.passes.recipes import Recipe
from whet.preparation import Prepared

__all__ = ["versions", "write_manifest"]


def write_manifest(
    folder: Path,
    files: list[str],
    model: onnx_ir.Model,
    prepared: Prepared,
    options: Options,
    recipe: Recipe,
    target: Target,
) -> dict[str, Any]:
    """Write ``whet.json`` for the ``files`` in ``folder``, the model first; return it."""
    manifest: dict[str, Any] = {
        "schema": 1,
        "model": files[0],
        "target": target.spelled,
        "device": options.place.to_json(),
        "runtime": options.runtime.to_json(),
        "recipe": str(recipe),
        "budget": dataclasses.asdict(options.budget),
        "seed": options.seed,
        "versions": versions(target),
        "source": {"origin": prepared.label, "sha256": digest(prepared.source)},
        "inputs": _describe(model.graph.inputs),
        "outputs": _describe(model.graph.outputs),
        "files": {
            name: {
                "bytes": (folder / name).stat().st_size,
                "sha256": digest(folder / name),
            }
            for name in files
        },
    }
    if measured := target.measured(folder):
        manifest["schedules"] = measured
    (folder / "whet.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def versions(target: Target) -> dict[str, str]:
    """Return the versions of everything that decides about the result."""
    core = {name: version(name) for name in ("onnx", "onnx-ir", "onnxscript", "numpy")}
    return {"whet": __version__, **core, **target.versions()}


def _describe(values: Iterable[onnx_ir.Value]) -> list[dict[str, Any]]:
    return [
        {
            "name": v.name,
            "dtype": "unknown" if v.dtype is None else _dtype_name(v.dtype),
            "shape": list(dimensions(v) or ()),
            **({"optional": True} if v.const_value is not None else {}),
        }
        for v in values
    ]


def _dtype_name(dtype: onnx_ir.DataType) -> str:
    return "string" if dtype == onnx_ir.DataType.STRING else str(dtype.numpy())
