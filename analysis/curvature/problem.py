"""What is differentiated: the twin of a model, some of its weights, data, a loss."""

import functools
from collections.abc import Iterator, Mapping, Sequence

import onnx_ir
import torch

from whet.analysis.curvature.losses import Loss
from whet.errors import UsageError
from whet.ir.array import Array
from whet.ir.twin import from_numpy, parameter_paths, to_fx

__all__ = ["Problem", "Vectors"]

Feeds = Mapping[str, Array]
Vectors = dict[str, torch.Tensor]
"""One tensor for each weight, by name and shaped like it."""


class Problem:
    """Mean loss over samples as a function of the named weights; batches are gone through anew each time."""

    def __init__(
        self,
        model: onnx_ir.Model,
        weights: Sequence[str],
        batches: Sequence[Feeds],
        loss: Loss,
        labels: Sequence[Array] | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        """Make the twin, in ``dtype`` if given (float64 for exact references).

        Raises UsageError for a name that is no floating-point weight of the model.
        """
        self.twin = to_fx(model, dtype=dtype)
        paths, parameters = parameter_paths(model), dict(self.twin.named_parameters())
        for parameter in parameters.values():
            parameter.requires_grad_(False)
        unknown = [name for name in weights if paths.get(name) not in parameters]
        if unknown:
            raise UsageError(f"the model has no floating-point weight named '{unknown[0]}'")
        self.weights: Vectors = {
            name: parameters[paths[name]].requires_grad_(True) for name in weights
        }
        self.loss = loss
        self._inputs = [v.name or "" for v in model.graph.inputs if v.const_value is None]
        self._batches, self._labels = batches, labels
        self._dtype = dtype

    @functools.cached_property
    def count(self) -> int:
        """Return the number of samples."""
        return sum(_samples(inputs) for inputs, _ in self.batches())

    def batches(self) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor | None]]:
        """Yield the twin's arguments and labels, batch by batch."""
        for number, batch in enumerate(self._batches):
            labels = None if self._labels is None else from_numpy(self._labels[number])
            yield tuple(self._tensor(batch[name]) for name in self._inputs), labels

    def samples(self) -> Iterator[tuple[tuple[torch.Tensor, ...], torch.Tensor | None]]:
        """Yield arguments and labels of one sample at a time."""
        for inputs, labels in self.batches():
            for k in range(_samples(inputs)):
                one = slice(k, k + 1)
                part = tuple(x[one] if x.ndim else x for x in inputs)
                yield part, None if labels is None else labels[one]

    def gradient(self, value: torch.Tensor, *, differentiable: bool = False) -> Vectors:
        """Return the gradient of a number; zeros for weights that it does not depend on."""
        tensors = list(self.weights.values())
        found = torch.autograd.grad(
            value, tensors, create_graph=differentiable, allow_unused=True, materialize_grads=True
        )
        return dict(zip(self.weights, found, strict=True))

    def hessian_times(self, vectors: Sequence[Vectors]) -> list[Vectors]:
        """Return H v for each v, with H the second derivative of the mean loss over all samples.

        One backward pass for each batch, and one more for each vector through it.
        """
        totals = [{name: torch.zeros_like(w) for name, w in self.weights.items()} for _ in vectors]
        for inputs, labels in self.batches():
            losses = self.loss.values(self.twin(*inputs), labels)
            slopes = self.gradient(losses.sum() / self.count, differentiable=True)
            for vector, total in zip(vectors, totals, strict=True):
                along = torch.stack([(slopes[name] * vector[name]).sum() for name in vector]).sum()
                if along.requires_grad:
                    self._add(total, along)
        return totals

    def _add(self, total: Vectors, along: torch.Tensor) -> None:
        tensors = list(self.weights.values())
        found = torch.autograd.grad(
            along, tensors, retain_graph=True, allow_unused=True, materialize_grads=True
        )
        for name, part in zip(self.weights, found, strict=True):
            total[name] += part

    def _tensor(self, array: Array) -> torch.Tensor:
        tensor = from_numpy(array)
        is_real = tensor.is_floating_point() and self._dtype is not None
        return tensor.to(self._dtype) if is_real else tensor


def _samples(inputs: Sequence[torch.Tensor]) -> int:
    """Return the length of the leading axis, which counts samples."""
    return min((len(x) for x in inputs if x.ndim), default=0)
