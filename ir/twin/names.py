"""Where in the twin an initializer lives: its own dotted name, if a module tree can express it."""

import keyword
from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir
import torch

_RESERVED = frozenset(
    {*dir(torch.fx.GraphModule(torch.nn.Module(), torch.fx.Graph())), "_constants", "_subgraphs"}
)


@dataclass(frozen=True, slots=True)
class Place:
    """An initializer of the model and its dotted path in the twin."""

    value: onnx_ir.Value
    path: str


def places(model: onnx_ir.Model) -> list[Place]:
    """Give every initializer of the model, subgraphs included, a path in the twin.

    The path is the initializer's name. Where a module tree cannot hold that name - an empty
    component (``a..b``), a quote, a Python keyword or an attribute that every module has
    (``forward``), ``a`` beside ``a.b``, the same name in two subgraphs - dots and quotes become
    ``__`` and a number is appended until the path is free.
    """
    named = [(value, value.name or "") for value in _initializers(model)]
    parents = {parent for _, name in named for parent in _parents(name)}
    taken: set[str] = {name for _, name in named}
    result: list[Place] = []
    used: set[str] = set()
    for value, name in named:
        expressible = _expressible(name) and name not in parents and name not in used
        path = name if expressible else _mangled(name, taken)
        used.add(path)
        taken.add(path)
        result.append(Place(value, path))
    return result


def _initializers(model: onnx_ir.Model) -> Iterator[onnx_ir.Value]:
    for graph in model.graphs():
        yield from graph.initializers.values()


def _parents(name: str) -> Iterator[str]:
    if not _expressible(name):
        return
    components = name.split(".")
    for length in range(1, len(components)):
        yield ".".join(components[:length])


def _expressible(name: str) -> bool:
    return all(_usable(component) for component in name.split("."))


def _usable(component: str) -> bool:
    if not component or not component.isprintable() or set(component) & set("\"'\\"):
        return False
    return not keyword.iskeyword(component) and component not in _RESERVED


def _mangled(name: str, taken: set[str]) -> str:
    base = "".join("__" if char in ".\"'\\" or not char.isprintable() else char for char in name)
    base = f"initializer__{base}" if not _usable(base) else base
    candidate, number = base, 2
    while candidate in taken:
        candidate, number = f"{base}__{number}", number + 1
    return candidate
