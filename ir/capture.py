"""Bring a model from wherever it is into the IR."""

import importlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_ir

from whet.errors import UsageError
from whet.importing import import_object, working_folder_importable
from whet.ir.files import from_proto, load_model, parse_model
from whet.ir.opset import raise_opset
from whet.ir.order import copy_model
from whet.ir.program import is_program

OPSET = 23
"""The opset of the default domain that passes are written for."""

_FACTORY = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_][\w.]*\Z")


@dataclass(frozen=True)
class Captured:
    """Is a model in the IR together with where it came from.

    ``feeds`` are the example inputs under the model's input names, empty when there were none.
    ``aliases`` maps the names of tied weights to the one name under which the weight is kept.
    """

    model: onnx_ir.Model
    feeds: dict[str, np.ndarray] = field(default_factory=dict)
    origin: str = ""
    aliases: dict[str, str] = field(default_factory=dict)


def capture(
    source: Any,
    inputs: Any = None,
    *,
    dynamic_shapes: Any = None,
    opset: int = OPSET,
    trust: bool = False,
) -> Captured:
    """Bring ``source`` into the IR; neither it nor ``inputs`` are changed.

    ``source`` is one of: a ``torch.nn.Module`` or ``torch.fx.GraphModule`` with example inputs; a
    ``torch.export.ExportedProgram``; the path of an ONNX file or of a ``.pt2`` program; an
    ``onnx.ModelProto`` or its bytes; an ``onnx_ir.Model``; or ``"pkg.mod:factory"``, a callable
    that returns a module, ``(module, inputs)`` or ``(module, inputs, dynamic_shapes)``.

    ``inputs`` is a tuple of positional arguments, a dict of keyword arguments or one tensor.

    ``dynamic_shapes`` says which dimensions stay free, as ``torch.export`` has it; a string names a
    dimension: ``{"input_ids": {0: "batch", 1: "seq"}}``. Inputs left out are static. None makes
    every shape static; ``"auto"`` keeps free whatever the program allows.

    The default domain is raised to ``opset`` where that keeps the results. ``trust`` allows
    ``.pt2`` files whose loading could run code that they bring along.
    """
    if isinstance(source, str) and _FACTORY.match(source) and not os.path.exists(source):
        return _from_factory(source, inputs, dynamic_shapes, opset)
    if isinstance(source, (str, os.PathLike)):
        path = os.fspath(source)
        if is_program(path):
            return _from_program_file(path, inputs, dynamic_shapes, opset, trust)
        _refuse_arguments(f"the ONNX file '{path}'", inputs, dynamic_shapes)
        return Captured(raise_opset(load_model(path), opset), origin=f"ONNX file {path}")
    if isinstance(source, (onnx.ModelProto, bytes, onnx_ir.Model)):
        _refuse_arguments("an ONNX model", inputs, dynamic_shapes)
        return Captured(raise_opset(_in_memory(source), opset), origin="ONNX model in memory")
    return _from_torch(source, inputs, dynamic_shapes, opset)


def _in_memory(source: onnx.ModelProto | bytes | onnx_ir.Model) -> onnx_ir.Model:
    if isinstance(source, onnx_ir.Model):
        return copy_model(source)
    return parse_model(source) if isinstance(source, bytes) else from_proto(source)


def _refuse_arguments(what: str, inputs: Any, dynamic_shapes: Any) -> None:
    if inputs is not None or dynamic_shapes is not None:
        name = "inputs" if inputs is not None else "dynamic_shapes"
        raise UsageError(f"{name} belong to a torch module; {what} has its own")


def _from_factory(source: str, inputs: Any, dynamic_shapes: Any, opset: int) -> Captured:
    made = _call_factory(source)
    if isinstance(made, tuple):
        if len(made) not in (2, 3):
            raise UsageError(
                f"'{source}' returned a tuple of {len(made)}: "
                "return module, (module, inputs) or (module, inputs, dynamic_shapes)"
            )
        made, *rest = made
        inputs = rest[0] if inputs is None else inputs
        dynamic_shapes = rest[1] if dynamic_shapes is None and len(rest) == 2 else dynamic_shapes
    captured = capture(made, inputs, dynamic_shapes=dynamic_shapes, opset=opset)
    return Captured(captured.model, captured.feeds, f"factory {source}", captured.aliases)


def _call_factory(source: str) -> Any:
    factory = import_object(source, "model")
    if not callable(factory):
        raise UsageError(f"model '{source}' is {factory!r}, expected a callable")
    with working_folder_importable():
        return factory()


def _from_program_file(
    path: str, inputs: Any, dynamic_shapes: Any, opset: int, trust: bool
) -> Captured:
    _require_torch(f"the program '{path}'")
    from whet.ir.program import load_program

    captured = _from_torch(load_program(path, trust=trust), inputs, dynamic_shapes, opset)
    return Captured(captured.model, captured.feeds, f"torch program {path}", captured.aliases)


def _from_torch(source: Any, inputs: Any, dynamic_shapes: Any, opset: int) -> Captured:
    if not type(source).__module__.startswith("torch") and not _has_forward(source):
        raise UsageError(
            f"cannot capture a {type(source).__module__}.{type(source).__qualname__}: give a torch "
            "module, an exported program, an ONNX model or file, or 'pkg.mod:factory'"
        )
    _require_torch("a torch module")
    from whet.ir.export import export

    exported = export(source, inputs, dynamic_shapes)
    model = raise_opset(exported.model, opset)
    feeds: Mapping[str, np.ndarray] = exported.feeds
    return Captured(model, dict(feeds), exported.origin, exported.aliases)


def _has_forward(source: Any) -> bool:
    return callable(getattr(source, "forward", None)) and hasattr(source, "named_parameters")


def _require_torch(what: str) -> None:
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise UsageError(f"{what} needs PyTorch: pip install whet[torch]") from error
