"""What the user says about dynamic dimensions, in torch.export's terms and back again."""

import difflib
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir
import torch
from torch.export import Dim
from torch.export.dynamic_shapes import _combine_args  # pyright: ignore[reportPrivateUsage]

from whet.errors import UnsupportedModel, UsageError

AUTO = "auto"
_SYMBOL = re.compile(r"\bs\d+\b")


@dataclass(frozen=True)
class DimensionNames:
    """Holds the names the user gave: for each example input, by its place, axis and name."""

    names: dict[str, dict[int, str]] = field(default_factory=dict)

    def apply(self, model: onnx_ir.Model, places: Mapping[str, str]) -> None:
        """Rename the model's symbols; ``places`` maps input names to places.

        Symbols nobody named are called after the input and the axis they first appear at.
        """
        renamed: dict[str, str] = {}
        for value in model.graph.inputs:
            wanted = self.names.get(places.get(value.name or "", ""), {})
            for axis, name in wanted.items():
                renamed.setdefault(_symbol(value, axis, name), name)
        for value in model.graph.inputs:
            for axis, dim in enumerate(value.shape or ()):
                if isinstance(dim, onnx_ir.SymbolicDim) and _SYMBOL.fullmatch(str(dim.value)):
                    renamed.setdefault(str(dim.value), f"{value.name}_{axis}")
        _rename(model, renamed)


def _symbol(value: onnx_ir.Value, axis: int, name: str) -> str:
    dim = value.shape[axis] if value.shape is not None else None
    if not isinstance(dim, onnx_ir.SymbolicDim) or dim.value is None:
        raise UnsupportedModel(
            f"dimension {axis} of input '{value.name}' was to be free ('{name}'), "
            f"but the program fixes it to {dim}"
        )
    return str(dim.value)


def _rename(model: onnx_ir.Model, renamed: Mapping[str, str]) -> None:
    for graph in model.graphs():
        for value in (*graph.inputs, *(v for node in graph for v in node.outputs)):
            if value.shape is not None and not value.shape.is_static():
                value.shape = onnx_ir.Shape([_renamed(dim, renamed) for dim in value.shape])


def _renamed(dim: int | onnx_ir.SymbolicDim, renamed: Mapping[str, str]) -> int | str | None:
    if isinstance(dim, int) or dim.value is None:
        return dim if isinstance(dim, int) else None
    text = str(dim.value)
    if text.isdecimal():  # torch's way to say that a dimension left to it turned out fixed
        return int(text)
    return _SYMBOL.sub(lambda match: renamed.get(match.group(), match.group()), text)


def torch_shapes(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], asked: Any
) -> tuple[Any, DimensionNames]:
    """Translate the user's dynamic shapes for these inputs; names become free dimensions."""
    names = DimensionNames()
    if asked is None:
        return None, names
    by_arg, by_key = _by_input(module, args, kwargs, asked)
    positional = [
        _walk(v, s, f"[0][{i}]", names) for i, (v, s) in enumerate(zip(args, by_arg, strict=True))
    ]
    keyword = {k: _walk(v, by_key.get(k), f"[1][{k!r}]", names) for k, v in kwargs.items()}
    return _combine_args(module, tuple(positional), keyword), names


def _by_input(
    module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], asked: Any
) -> tuple[list[Any], dict[str, Any]]:
    if isinstance(asked, str) and asked == AUTO:
        return [AUTO] * len(args), dict.fromkeys(kwargs, AUTO)
    if isinstance(asked, Mapping):
        left = dict(asked)
        by_arg = [left.pop(name, None) for name in _positional_names(module, len(args))]
        by_key = {key: left.pop(key, None) for key in kwargs}
        if left:
            known = [*_positional_names(module, len(args)), *kwargs]
            raise UsageError(_unknown("dynamic_shapes", next(iter(left)), known))
        return by_arg, by_key
    if not isinstance(asked, Sequence) or isinstance(asked, str) or len(asked) != len(args):
        raise UsageError(
            f"dynamic_shapes is {asked!r}; it must be 'auto', a dict by input name, or one entry "
            f"for each of the {len(args)} positional inputs"
        )
    return list(asked), {}


def _positional_names(module: torch.nn.Module, count: int) -> list[str]:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    forward: Callable[..., Any] = module.forward
    names = [p.name for p in inspect.signature(forward).parameters.values() if p.kind in kinds]
    return (names + [f"*{i}" for i in range(count)])[:count]


def _unknown(what: str, name: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name), known, 1)
    hint = f"; did you mean '{near[0]}'?" if near else ""
    return f"{what} names '{name}', which is not an input (inputs: {', '.join(known)}){hint}"


def _walk(value: Any, asked: Any, place: str, names: DimensionNames) -> Any:
    """Give ``value`` (a tensor or a container) the shapes asked for, in torch's form."""
    if isinstance(value, torch.Tensor):
        return _tensor_shape(value, asked, place, names)
    if isinstance(value, Mapping):
        return {
            k: _walk(v, _child(asked, k, place), f"{place}[{k!r}]", names) for k, v in value.items()
        }
    if isinstance(value, (list, tuple)):
        children = [
            _walk(v, _child(asked, i, place), f"{place}[{i}]", names) for i, v in enumerate(value)
        ]
        return children if isinstance(value, list) else tuple(children)
    return None if isinstance(asked, str) else asked


def _child(asked: Any, key: Any, place: str) -> Any:
    if asked is None or isinstance(asked, str):
        return asked
    if isinstance(asked, Mapping):
        return asked.get(key)
    if isinstance(asked, Sequence) and isinstance(key, int) and key < len(asked):
        return asked[key]
    raise UsageError(f"dynamic_shapes at {place} is {asked!r}, which does not fit the input there")


def _tensor_shape(value: torch.Tensor, asked: Any, place: str, names: DimensionNames) -> Any:
    if asked is None:
        return None
    if asked == AUTO:
        return dict.fromkeys(range(value.ndim), Dim.AUTO)
    entries = asked.items() if isinstance(asked, Mapping) else enumerate(asked)
    shape: dict[int, Any] = {}
    for axis, dim in entries:
        index = axis + value.ndim if isinstance(axis, int) and axis < 0 else axis
        if not isinstance(index, int) or not 0 <= index < value.ndim:
            raise UsageError(f"dynamic_shapes at {place}: no axis {axis!r} in rank {value.ndim}")
        name = dim if isinstance(dim, str) else getattr(dim, "__name__", "")
        if name.isidentifier():
            names.names.setdefault(place, {})[index] = name
        if dim is not None:
            shape[index] = Dim.DYNAMIC if isinstance(dim, str) else dim
    return shape
