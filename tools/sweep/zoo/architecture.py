"""What a member of the zoo is: a name, and a function that builds a module with its inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import nn
from torch.export import Dim
from torch.utils import _pytree as pytree

from whet.errors import UsageError
from whet.tools.sweep.zoo.weights import enliven

Source = Literal["transformers", "timm", "torch"]
Inputs: TypeAlias = tuple[torch.Tensor, ...] | dict[str, torch.Tensor]
DynamicShapes: TypeAlias = tuple[Any, ...] | dict[str, Any] | None

BATCH = Dim("batch", min=1, max=64)
SEQUENCE = Dim("sequence", min=2, max=64)

_SEED = 20


@dataclass(frozen=True)
class Axis:
    """A dynamic axis of one input: its position, its name and range, its size in the example."""

    index: int
    dim: Dim
    size: int


@dataclass
class Sample:
    """A module in eval mode, one example input, and the dimensions of that input that may vary.

    ``inputs`` are positional (tuple) or keyword arguments (dict). ``dynamic_shapes`` mirrors them
    in the form of :func:`torch.export.export`; None means that every dimension is fixed.
    """

    module: nn.Module
    inputs: Inputs
    dynamic_shapes: DynamicShapes

    @property
    def args(self) -> tuple[torch.Tensor, ...]:
        """The positional arguments."""
        return self.inputs if isinstance(self.inputs, tuple) else ()

    @property
    def kwargs(self) -> dict[str, torch.Tensor]:
        """The keyword arguments."""
        return self.inputs if isinstance(self.inputs, dict) else {}

    def run(self, inputs: Inputs | None = None) -> list[torch.Tensor]:
        """Call the module without gradients and return its output tensors in order."""
        given = self.inputs if inputs is None else inputs
        with torch.no_grad():
            raw = self.module(**given) if isinstance(given, dict) else self.module(*given)
        return [leaf for leaf in pytree.tree_leaves(raw) if isinstance(leaf, torch.Tensor)]

    def dimensions(self) -> dict[str, int]:
        """Name every dynamic dimension and its size in the example."""
        axes = [axis for _, named in self.axes() for axis in named]
        return {axis.dim.__name__: axis.size for axis in axes}

    def axes(self) -> list[tuple[torch.Tensor, list[Axis]]]:
        """Pair every input tensor with its dynamic axes."""
        if self.dynamic_shapes is None:
            return [(tensor, []) for tensor in self._tensors()]
        specs: list[Mapping[int, Dim]]
        if isinstance(self.inputs, dict):
            by_name = cast("dict[str, Mapping[int, Dim]]", self.dynamic_shapes)
            specs = [by_name[name] for name in self.inputs]
        else:
            specs = list(cast("tuple[Mapping[int, Dim], ...]", self.dynamic_shapes))
        return [
            (tensor, [Axis(index, dim, tensor.shape[index]) for index, dim in spec.items()])
            for tensor, spec in zip(self._tensors(), specs, strict=True)
        ]

    def _tensors(self) -> list[torch.Tensor]:
        return list(self.inputs.values() if isinstance(self.inputs, dict) else self.inputs)


@dataclass(frozen=True)
class Architecture:
    """One network design; ``build`` returns the same weights and inputs every time."""

    name: str
    source: Source
    build: Callable[[], Sample]


def seeded(make: Callable[[], Sample]) -> Callable[[], Sample]:
    """Make a build function deterministic, its weights alive, and the module ready for capture.

    Gradients are switched off because the exporter cannot trace a float attention mask with a
    dynamic batch while parameters require them. The caller's random state is left as it was.
    """

    def build() -> Sample:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            sample = make()
            enliven(sample.module)
        sample.module.eval().requires_grad_(False)
        return sample

    return build


def rebind(sample: Sample, sizes: Mapping[str, int]) -> Inputs:
    """Return the sample's inputs with dynamic dimensions at ``sizes``, content repeated cyclically.

    A dimension that ``sizes`` does not name keeps its size.
    """
    known = sample.dimensions()
    if unknown := sorted(set(sizes) - set(known)):
        raise UsageError(
            f"dimension {unknown[0]!r} is not dynamic here: dynamic are {sorted(known)}"
        )
    resized = [_resize(tensor, axes, sizes) for tensor, axes in sample.axes()]
    if isinstance(sample.inputs, dict):
        return dict(zip(sample.inputs, resized, strict=True))
    return tuple(resized)


def _resize(tensor: torch.Tensor, axes: list[Axis], sizes: Mapping[str, int]) -> torch.Tensor:
    for axis in axes:
        index = torch.arange(sizes.get(axis.dim.__name__, axis.size)) % axis.size
        tensor = tensor.index_select(axis.index, index)
    return tensor.contiguous()
