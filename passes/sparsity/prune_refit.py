"""Fit what reads a pruned layer to what is left: least squares from second moments."""

import dataclasses

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

__all__ = ["Moments", "refit"]

Doubles = NDArray[np.float64]


@dataclasses.dataclass
class Moments:
    """Sums of x xᵀ, e xᵀ and ||e||² over samples, x the present inputs and e what the present output lacks."""

    gram: Doubles
    cross: Doubles
    energy: float = 0.0
    wanted: float = 0.0
    """||y||² of the outputs that are wanted."""
    rows: int = 0

    @classmethod
    def start(cls, inputs: int, outputs: int) -> "Moments":
        """Begin with nothing."""
        return cls(np.zeros((inputs, inputs)), np.zeros((outputs, inputs)))

    def add(self, x: Doubles, lacking: Doubles, wanted: Doubles) -> None:
        """Count rows ``[samples, inputs]`` and ``[samples, outputs]``."""
        self.gram += x.T @ x
        self.cross += lacking.T @ x
        self.energy += float(np.vdot(lacking, lacking))
        self.wanted += float(np.vdot(wanted, wanted))
        self.rows += len(x)

    def error(self, change: Doubles | None = None) -> float:
        """Return Σ ||e - Δ x||² / Σ ||y||²."""
        lost = self.energy
        if change is not None:
            lost += float(np.vdot(change @ self.gram - 2 * self.cross, change))
        return max(lost, 0.0) / max(self.wanted, 1e-30)


def refit(moments: Moments, damping: float = 1e-3) -> Doubles:
    """Return Δ = E xᵀ (X Xᵀ + λ I)⁻¹, the change of weights that makes up for what is lacking.

    With x the inputs that are left and e = y - ŵ x the error of the weights as they are; λ is ``damping`` times the
    mean of the diagonal, and draws the weights to what they are now.
    """
    size = len(moments.gram)
    ridge = damping * max(float(np.trace(moments.gram)) / max(size, 1), 1e-30)
    solved = scipy.linalg.solve(
        moments.gram + ridge * np.eye(size), moments.cross.T, assume_a="pos"
    )
    return np.asarray(solved.T, np.float64)
