"""Which Python function computes which ONNX operator, from which opset version on.

The functions take the node's inputs by position (``None`` for an input that is left out) and its
attributes by name, with the schema's defaults filled in. An operator whose schema has several
outputs returns a tuple.
"""

import functools
import importlib
import inspect
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import onnx.defs
import torch

_WIDE_UNSIGNED = frozenset({torch.uint16, torch.uint32, torch.uint64})

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class Operator:
    """One ONNX operator as a Python function; ``context`` names what else the function asks for."""

    domain: str
    op_type: str
    since: int
    run: Callable[..., Any]
    returns_tuple: bool
    context: frozenset[str]


CONTEXT = frozenset({"outputs", "straight_through", "implicit_type", "input_types"})
"""Keyword arguments that come from the conversion, not from the node's attributes."""

_operators: dict[tuple[str, str], dict[int, Operator]] = {}


def op(
    op_type: str,
    *,
    since: int = 1,
    domain: str = "",
    returns_tuple: bool | None = None,
    widen: bool = True,
) -> Callable[[F], F]:
    """Register a function for ``op_type`` from opset ``since`` on.

    torch has few kernels for uint16, uint32 and uint64. With ``widen`` such inputs are computed as
    int64 and an output of the same type variable is cast back. Above 2**63-1 uint64 values then
    order and divide as negative numbers.
    """

    def register(function: F) -> F:
        schema = schema_of(op_type, since, domain)
        run = _widened(function, schema) if widen and schema is not None else function
        many = schema is not None and schema.max_output > 1
        add_operator(
            Operator(
                domain=domain,
                op_type=op_type,
                since=since,
                run=run,
                returns_tuple=many if returns_tuple is None else returns_tuple,
                context=CONTEXT & _parameters(function),
            )
        )
        return run

    return register


def add_operator(operator: Operator) -> None:
    """Add an operator; the same version of the same operator twice is a mistake of ours."""
    versions = _operators.setdefault((operator.domain, operator.op_type), {})
    assert operator.since not in versions, f"{operator.op_type}-{operator.since} twice"
    versions[operator.since] = operator


def find(domain: str, op_type: str, version: int) -> Operator | None:
    """Find the operator that an opset version of a domain means, if it is supported."""
    versions = _loaded().get((domain, op_type), {})
    usable = [since for since in versions if since <= version]
    return versions[max(usable)] if usable else None


def supported() -> frozenset[tuple[str, str]]:
    """List the supported operators as (domain, op_type)."""
    return frozenset(_loaded())


@functools.cache
def _loaded() -> dict[tuple[str, str], dict[int, Operator]]:
    package = importlib.import_module("whet.ir.twin.ops")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return _operators


def schema_of(op_type: str, version: int, domain: str) -> onnx.defs.OpSchema | None:
    """Find an operator's schema; before its first version, the latest (runtimes use some early)."""
    if not onnx.defs.has(op_type, domain):
        return None
    try:
        return onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return onnx.defs.get_schema(op_type, domain)


def _parameters(function: Callable[..., Any]) -> frozenset[str]:
    if inspect.isbuiltin(function):  # torch's own: inputs only
        return frozenset()
    return frozenset(inspect.signature(function).parameters)


def _widened(function: F, schema: onnx.defs.OpSchema) -> F:
    inputs = [formal.type_str for formal in schema.inputs]
    outputs = [formal.type_str for formal in schema.outputs]

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        narrow: dict[str, torch.dtype] = {}
        for position, arg in enumerate(args):
            if isinstance(arg, torch.Tensor) and arg.dtype in _WIDE_UNSIGNED:
                narrow[inputs[min(position, len(inputs) - 1)]] = arg.dtype
        if not narrow:
            return function(*args, **kwargs)
        return _narrowed(function(*map(_wide, args), **kwargs), outputs, narrow)

    return run  # type: ignore[return-value]  # functools.wraps keeps the signature


def _wide(arg: Any) -> Any:
    if isinstance(arg, torch.Tensor) and arg.dtype in _WIDE_UNSIGNED:
        return arg.to(torch.int64)
    return arg


def _narrowed(result: Any, outputs: Sequence[str], narrow: dict[str, torch.dtype]) -> Any:
    if isinstance(result, torch.Tensor):
        return result.to(narrow[outputs[0]]) if outputs[0] in narrow else result
    if not isinstance(result, tuple):
        return result
    return tuple(
        value.to(narrow[name]) if isinstance(value, torch.Tensor) and name in narrow else value
        for value, name in zip(result, _repeat_last(outputs, len(result)), strict=True)
    )


def _repeat_last(names: Sequence[str], count: int) -> list[str]:
    return [*names, *[names[-1]] * (count - len(names))][:count]
