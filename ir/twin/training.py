"""The way back: trained parameters into the initializers they came from."""

import numpy as np
import onnx_ir
import torch

from whet.errors import UsageError
from whet.ir.twin.element_types import DIFFERENTIABLE, to_numpy, torch_type
from whet.ir.twin.names import places


def parameter_paths(model: onnx_ir.Model) -> dict[str, str]:
    """Map each initializer's name to its path in the twin (equal, unless names cannot nest)."""
    paths: dict[str, str] = {}
    for place in places(model):
        paths.setdefault(place.value.name or "", place.path)
    return paths


def write_back(twin: torch.fx.GraphModule, model: onnx_ir.Model) -> list[str]:
    """Copy parameters into the model's initializers, in their types; return the changed names."""
    parameters = dict(twin.named_parameters())
    changed: list[str] = []
    for place in places(model):
        old = place.value.const_value
        if old is None or onnx_ir.DataType(old.dtype) not in DIFFERENTIABLE:
            continue
        name = place.value.name or ""
        if place.path not in parameters:
            raise UsageError(f"initializer {name!r} has no parameter {place.path!r} in the twin")
        new = _in_type_of(parameters[place.path], old, name)
        if not np.array_equal(_bits(new), _bits(old.numpy())):
            place.value.const_value = onnx_ir.Tensor(new, dtype=old.dtype, name=name)
            changed.append(name)
    return changed


def _in_type_of(parameter: torch.Tensor, old: onnx_ir.TensorProtocol, name: str) -> np.ndarray:
    if tuple(parameter.shape) != tuple(old.shape.numpy()):
        raise UsageError(
            f"parameter {name!r} has shape {tuple(parameter.shape)}, "
            f"its initializer {tuple(old.shape.numpy())}"
        )
    return to_numpy(parameter.detach().to(torch_type(onnx_ir.DataType(old.dtype))))


def _bits(array: np.ndarray) -> np.ndarray:
    return (
        np.ascontiguousarray(array).view(np.uint8)
        if array.ndim
        else array.reshape(1).view(np.uint8)
    )
