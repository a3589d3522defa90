"""Recognize root-mean-square normalization however it is spelled."""

import dataclasses
from typing import ClassVar

from whet.passes.base import Change, Fidelity, Pass
from whet.passes.fusion.normalization import lift_normalizations
from whet.passes.workbench import Workbench


@dataclasses.dataclass(frozen=True)
class LiftRmsNormalization(Pass):
    """Write ``g x / sqrt(mean(x**2) + epsilon)`` as one ``RMSNormalization``.

    The product is recognized by its meaning, in any order and with casts in between; constants along the normalized
    axes become the scale. The axes must be the last ones. Zhang and Sennrich, Root Mean Square Layer Normalization,
    2019.
    """

    changes: ClassVar[Change] = Change.OPS | Change.WEIGHTS
    fidelity: ClassVar[Fidelity] = Fidelity.ROUNDING
    explains: ClassVar[bool] = True

    def apply(self, work: Workbench) -> None:
        """Lift from every root of a mean of squares."""
        lift_normalizations(work, "RMSNormalization")
