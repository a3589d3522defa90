"""The diagonal of the Fisher information, as an analysis: how much the loss rises when a weight moves.

For small moves δ of the weights, KL(p_w || p_{w+δ}) ~ ½ δᵀ F δ with F the mean of g gᵀ over gradients g of the log
likelihood (Amari 1998; for rounding weights: Kim et al., SqueezeLLM, 2023). Its diagonal is the mean of g².
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import onnx_ir

from whet.analysis.base import Analysis
from whet.errors import CalibrationError
from whet.ir.values import Array
from whet.passes.base import Change

if TYPE_CHECKING:
    from whet.analysis.curvature.losses import Loss
    from whet.passes.workbench import Context

__all__ = ["Fisher", "Likelihood"]

Likelihood = Literal["categorical", "gaussian", "next"]


@dataclasses.dataclass(frozen=True)
class Fisher(Analysis[Mapping[str, Array]]):
    """Measure the mean squared gradient of weights, by name, through the twin; needs torch.

    ``categorical`` takes the last axis of the first output for logits of the model's own distribution, ``gaussian``
    takes the outputs for means, with their squared norm for a variance (both the true Fisher matrix, by draws),
    ``next`` is a language model's: the label of a position is the token at the next one (the empirical one).
    """

    names: tuple[str, ...]
    likelihood: Likelihood = "categorical"
    samples: int = 64
    """Samples used, the first ones."""
    depends: ClassVar[Change] = Change.ALL

    def measure(self, model: onnx_ir.Model, context: "Context") -> Mapping[str, Array]:
        """Return arrays of the weights' shapes, float32; raises CalibrationError without data."""
        from whet.analysis.curvature.fisher import fisher_diagonal
        from whet.analysis.curvature.problem import Problem

        batches = list(_first(context.calibration, self.samples))
        if not batches:
            raise CalibrationError("the Fisher information needs calibration data, there are none")
        is_next = self.likelihood == "next"
        labels = [batch[model.graph.inputs[0].name or ""] for batch in batches] if is_next else None
        problem = Problem(model, self.names, batches, self._loss(), labels)
        found = fisher_diagonal(problem, "empirical" if is_next else "true", seed=context.seed)
        for name, array in found.mean.items():
            if not np.isfinite(array).all():
                raise CalibrationError(f"calibration data: the gradient of '{name}' is not finite")
        return {name: array.astype(np.float32) for name, array in found.mean.items()}

    def _loss(self) -> "Loss":
        from whet.analysis.curvature.losses import NextToken, OwnDistribution, OwnValues

        losses: dict[Likelihood, Callable[[], Loss]] = {
            "categorical": OwnDistribution,
            "gaussian": OwnValues,
            "next": NextToken,
        }
        return losses[self.likelihood]()


def _first(batches: Iterable[Mapping[str, Array]], count: int) -> Iterator[dict[str, Array]]:
    """Yield batches that hold the first ``count`` samples together."""
    for batch in batches:
        size = min((len(a) for a in batch.values() if np.ndim(a)), default=0)
        if count <= 0:
            return
        yield {name: a[:count] if np.ndim(a) else a for name, a in batch.items()}
        count -= size
