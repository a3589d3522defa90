"""The diagonal of the Fisher information: how much the loss rises when a weight moves.

For small moves δ of the weights, KL(p_w || p_{w+δ}) ~ ½ δᵀ F δ with F the mean of g gᵀ over gradients g of the log
likelihood (Amari 1998; for rounding weights: Kim et al., SqueezeLLM, 2023). Its diagonal is the mean of g².
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.base import Analysis
from whet.errors import CalibrationError
from whet.ir.values import Array
from whet.passes.base import Change

if TYPE_CHECKING:
    import torch

    from whet.passes.workbench import Context

__all__ = ["Fisher", "Likelihood"]

Likelihood = Literal["categorical", "gaussian", "next"]


@dataclasses.dataclass(frozen=True)
class Fisher(Analysis[Mapping[str, Array]]):
    """Measure the mean squared gradient of weights, by name, through the twin; needs torch.

    The loss of one sample is the mean over the positions of the first output: ``categorical`` takes the last axis for
    logits and draws labels from the model's own distribution, ``gaussian`` takes the output for a mean and draws around
    it with variance 1, ``next`` is a language model's: the label of a position is the token at the next one.
    """

    names: tuple[str, ...]
    likelihood: Likelihood = "categorical"
    samples: int = 64
    """Samples used, the first ones."""
    depends: ClassVar[Change] = Change.ALL

    def measure(self, model: onnx_ir.Model, context: "Context") -> Mapping[str, Array]:
        """Return arrays of the weights' shapes, float32; raises CalibrationError without data."""
        import torch

        from whet.ir.twin import from_numpy, parameter_paths, to_fx

        twin = to_fx(model)
        paths = parameter_paths(model)
        parameters: dict[str, torch.Tensor] = dict(twin.named_parameters())
        weights = [parameters[paths[name]] for name in self.names]
        totals = [torch.zeros_like(w) for w in weights]
        inputs = [v.name or "" for v in model.graph.inputs if v.const_value is None]
        draw = torch.Generator().manual_seed(context.seed)
        count = 0
        for sample in _samples(context.calibration, self.samples):
            tensors = [from_numpy(sample[name]) for name in inputs]
            output = twin(*tensors)[0]
            loss = self._loss(output, tensors[0], draw)
            gradients: Any = torch.autograd.grad(loss, weights, allow_unused=True)
            for total, gradient in zip(totals, gradients, strict=True):
                if gradient is not None:
                    total += gradient.detach() ** 2
            count += 1
        if not count:
            raise CalibrationError("the Fisher information needs calibration data, there are none")
        found = {n: np.asarray(t / count) for n, t in zip(self.names, totals, strict=True)}
        for name, array in found.items():
            if not np.isfinite(array).all():
                raise CalibrationError(f"calibration data: the gradient of '{name}' is not finite")
        return found

    def _loss(
        self, output: "torch.Tensor", read: "torch.Tensor", draw: "torch.Generator"
    ) -> "torch.Tensor":
        import torch

        if self.likelihood == "gaussian":
            noise = torch.randn(output.shape, generator=draw, dtype=output.dtype)
            return ((output - (output.detach() + noise)) ** 2).mean() / 2
        logits = output.reshape(-1, output.shape[-1])
        if self.likelihood == "next":
            logits = output[:, :-1].reshape(-1, output.shape[-1])
            return torch.nn.functional.cross_entropy(logits, read[:, 1:].reshape(-1))
        shares = torch.softmax(logits.detach(), -1)
        labels = torch.multinomial(shares, 1, generator=draw)[:, 0]
        return torch.nn.functional.cross_entropy(logits, labels)


def _samples(batches: "Any", limit: int) -> Iterator[dict[str, Array]]:
    """Yield single samples."""
    left = limit
    for batch in batches:
        size = min((len(a) for a in batch.values() if np.ndim(a)), default=0)
        for k in range(min(size, left)):
            yield {name: a[k : k + 1] if np.ndim(a) else a for name, a in batch.items()}
        left -= size
        if left <= 0:
            return
