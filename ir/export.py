"""Export torch modules and programs to the IR, leaving them as they were."""

import contextlib
import importlib
import inspect
import io
import logging
import warnings
from collections import defaultdict
from collections.abc import Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir
import torch
import torch.fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind
from torch.utils import _pytree as pytree

from whet.errors import UnsupportedModel, UsageError
from whet.ir.dimensions import DimensionNames, torch_shapes
from whet.ir.prepare import inline_functions

EXPORT_OPSET = 23
"""The opset torch exports to: the first at which attention is one node."""

_CHATTY = ("torch.onnx", "torch.export", "torch._export", "torch.fx", "onnxscript", "onnx_ir")


@dataclass(frozen=True)
class Exported:
    """Is an exported model with its example inputs and the names of its tied weights."""

    model: onnx_ir.Model
    feeds: dict[str, np.ndarray]
    origin: str
    aliases: dict[str, str]


def export(source: Any, inputs: Any, dynamic_shapes: Any) -> Exported:
    """Export a module with example inputs, or a program, at opset 23 without any optimization.

    Weights keep the names of the module's parameters and share their memory.
    """
    if isinstance(source, ExportedProgram):
        if inputs is not None or dynamic_shapes is not None:
            raise UsageError("an exported program has its own inputs and dynamic shapes")
        return _export_program(source, "torch program", DimensionNames())
    if not isinstance(source, torch.nn.Module):
        raise UsageError(f"cannot export a {type(source).__qualname__}: not a torch module")
    args, kwargs = _arguments(source, inputs)
    shapes, names = torch_shapes(source, args, kwargs, dynamic_shapes)
    with _quiet(), _inference_mode(source), _recurrent_loops(shapes):
        try:
            program = torch.export.export(source, args, kwargs, dynamic_shapes=shapes, strict=False)
        except Exception as error:
            raise _failure("torch.export", _describe(source), error) from error
        return _export_program(program, _describe(source), names)


@contextlib.contextmanager
def _recurrent_loops(shapes: Any) -> Generator[None]:
    """Decompose LSTM and GRU over a free length into loops, as torch's own ONNX exporter does.

    Without it they are unrolled over the example's length, which is then no longer free.
    """
    names = ("register_lstm_while_loop_decomposition", "register_gru_while_loop_decomposition")
    try:
        patches: Any = importlib.import_module("torch.export._patches")
    except ImportError:
        patches = None
    with contextlib.ExitStack() as stack:
        for name in names if shapes else ():
            if hasattr(patches, name):
                stack.enter_context(getattr(patches, name)())
        yield


def _describe(module: torch.nn.Module) -> str:
    kind = "torch.fx graph" if isinstance(module, torch.fx.GraphModule) else "torch module"
    return f"{kind} {type(module).__module__}.{type(module).__qualname__}"


def _arguments(module: torch.nn.Module, inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if inputs is None:
        raise UsageError(
            f"{_describe(module)} needs example inputs: a tuple of arguments or a dict of keywords"
        )
    inputs = pytree.tree_map_only(np.ndarray, torch.from_numpy, inputs)
    if isinstance(inputs, Mapping):
        args, kwargs = (), {str(key): value for key, value in inputs.items()}
    else:
        args, kwargs = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,), {}
    try:
        inspect.signature(module.forward).bind(*args, **kwargs)
    except TypeError as error:
        raise UsageError(f"the inputs do not fit {_describe(module)}: {error}") from error
    return args, kwargs


def _export_program(program: ExportedProgram, origin: str, names: DimensionNames) -> Exported:
    with _quiet(), _gradients_off(program.parameters()), torch.no_grad():
        try:
            exported = torch.onnx.export(
                program, dynamo=True, optimize=False, opset_version=EXPORT_OPSET, verbose=False
            )
        except Exception as error:
            raise _failure("torch.onnx", origin, error) from error
    assert exported is not None
    model = exported.model
    inline_functions(model)
    leaves = _input_leaves(program)
    names.apply(model, {name: place for name, place, _ in leaves})
    _name_outputs(model, program)
    feeds = {name: leaf.detach().cpu().numpy() for name, _, leaf in leaves}
    inputs = [value.name for value in model.graph.inputs]
    return Exported(
        model,
        {name: feeds[name] for name in inputs if name in feeds},
        origin,
        _aliases(program.state_dict, model),
    )


def _input_leaves(program: ExportedProgram) -> list[tuple[str, str, torch.Tensor]]:
    """List the tensor inputs: name in the model, place among the arguments, example."""
    if program.example_inputs is None:
        return []
    leaves, _ = pytree.tree_flatten_with_path(program.example_inputs)
    specs = [s for s in program.graph_signature.input_specs if s.kind == InputKind.USER_INPUT]
    return [
        (spec.arg.name, pytree.keystr(path), leaf)
        for spec, (path, leaf) in zip(specs, leaves, strict=True)
        if isinstance(leaf, torch.Tensor)
    ]


def _name_outputs(model: onnx_ir.Model, program: ExportedProgram) -> None:
    """Call the outputs of a module that returns a dict (or ModelOutput) by their keys."""
    spec = program.call_spec.out_spec
    if spec is None or spec.num_leaves != len(model.graph.outputs):
        return
    leaves, _ = pytree.tree_flatten_with_path(spec.unflatten(range(spec.num_leaves)))
    taken = {v.name for v in (*model.graph.inputs, *model.graph.initializers.values())}
    taken |= {v.name for node in model.graph for v in node.outputs}
    for value, (path, _) in zip(model.graph.outputs, leaves, strict=True):
        name = _key_name(path)
        if name and name not in taken and value.producer() is not None:
            taken.add(name)
            value.name = name


def _key_name(path: tuple[Any, ...]) -> str:
    if not path or not isinstance(path[0], (pytree.MappingKey, pytree.GetAttrKey)):
        return ""
    parts = [getattr(key, "key", getattr(key, "name", getattr(key, "idx", None))) for key in path]
    return "_".join(str(part) for part in parts)


def _aliases(state: Mapping[str, Any], model: onnx_ir.Model) -> dict[str, str]:
    """Map every name of a tied weight that the model does not have to the one it has."""
    groups: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for name, tensor in state.items():
        if isinstance(tensor, torch.Tensor) and tensor.numel():
            shape, stride = tuple(tensor.shape), tensor.stride()
            groups[tensor.data_ptr(), shape, stride, tensor.dtype].append(name)
    aliases: dict[str, str] = {}
    for group in groups.values():
        kept = [name for name in group if name in model.graph.initializers]
        if kept:
            aliases |= {name: kept[0] for name in group if name not in kept}
    return aliases


@contextlib.contextmanager
def _inference_mode(module: torch.nn.Module) -> Generator[None]:
    """Switch dropout and the like off, and gradients; put every flag back afterwards.

    The flags are set directly: ``eval()`` may be overridden, or refused by exported modules.
    """
    training = [(part, part.training) for part in module.modules()]
    try:
        for part, _ in training:
            part.training = False
        with _gradients_off(module.parameters()), torch.no_grad():
            yield
    finally:
        for part, flag in training:
            part.training = flag


@contextlib.contextmanager
def _gradients_off(parameters: Iterable[torch.Tensor]) -> Generator[None]:
    """Clear ``requires_grad``: with it the exporter fails on some attention masks."""
    tracked = [p for p in parameters if p.requires_grad and p.is_leaf]
    try:
        for parameter in tracked:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in tracked:
            parameter.requires_grad_(True)


@contextlib.contextmanager
def _quiet() -> Generator[None]:
    loggers = [logging.getLogger(name) for name in _CHATTY]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def _silent() -> Generator[None]:
    """Drop what is printed: torch shows half-traced graphs when it fails, the error says it all."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _failure(stage: str, what: str, error: Exception) -> UnsupportedModel:
    text = str(error).strip()
    failure = UnsupportedModel(
        f"{stage} cannot export {what}: {text.splitlines()[0] if text else type(error).__name__}"
    )
    failure.add_note(_advice(text))
    return failure


def _advice(text: str) -> str:
    if "data-dependent" in text or "DataDependent" in text:
        return "Python control flow on tensor values cannot be exported: use torch.cond or a mask."
    if "dynamic" in text.lower() or "specializ" in text or "Constraint" in text:
        return (
            "Example sizes of 0 and 1 are taken as fixed: give free dimensions an example size of "
            "2 or more, and name only those that the program leaves free."
        )
    return "Check that torch.export.export and torch.onnx.export(dynamo=True) take the module."
