"""Write a member of the zoo to an ONNX file the three ways people do."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from whet.tools.sweep.zoo.architecture import Sample

__all__ = ["EXPORTERS"]


def _dynamo(sample: Sample, path: Path, opset: int) -> None:
    program = torch.onnx.export(
        sample.module,
        sample.args,
        kwargs=sample.kwargs,
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=sample.dynamic_shapes,
        verbose=False,
    )
    assert program is not None
    program.save(path)


class _Positional(nn.Module):
    """A module whose named arguments are positional, as the tracer wants them, and whose outputs are tensors."""

    def __init__(self, module: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module
        self.names = names

    def forward(self, *values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Call the module."""
        named = dict(zip(self.names, values, strict=True))
        found = self.module(**named) if named else self.module(*values)
        return tuple(x for x in pytree.tree_leaves(found) if isinstance(x, torch.Tensor))


def _torchscript(sample: Sample, path: Path) -> None:
    module = _Positional(sample.module, list(sample.kwargs)) if sample.kwargs else sample.module
    values = tuple(tensor for tensor, _ in sample.axes())
    names = list(sample.kwargs) or [f"input_{k}" for k in range(len(values))]
    axes = {
        name: {axis.index: axis.dim.__name__ for axis in found}
        for name, (_, found) in zip(names, sample.axes(), strict=True)
    }
    torch.onnx.export(
        module,
        values,
        str(path),
        input_names=names,
        dynamic_axes=axes,
        opset_version=17,
        dynamo=False,
    )


EXPORTERS: Mapping[str, Callable[[Sample, Path], Any]] = {
    "dynamo-23": lambda sample, path: _dynamo(sample, path, 23),
    "dynamo-18": lambda sample, path: _dynamo(sample, path, 18),
    "torchscript-17": _torchscript,
}
"""Name, with the opset -> what writes the file; whatever it raises is the exporter's own failure."""
